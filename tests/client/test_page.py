"""docs/client.md: its programs run as they stand, and print what the page shows."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from support.running import RunningLedger

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


async def test_programs_print_what_the_page_shows(ledger: RunningLedger) -> None:
    """All of them, in their order, against one server with empty books."""
    programs = PROGRAM.findall(PAGE)
    assert len(programs) == PAGE.count("```python")
    for program, shown in programs:
        text = program.replace("127.0.0.1:50051", ledger.address)
        # A process of its own: the server of the test writes its log to standard output.
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", text], capture_output=True, text=True, timeout=60
        )
        assert (done.stdout, done.returncode) == (shown, 0), f"{program}\n{done.stderr}"


def test_first_program_has_at_most_eight_lines() -> None:
    """Book, then read the balance, with retries and good errors: imports included."""
    first, _ = PROGRAM.findall(PAGE)[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 8
