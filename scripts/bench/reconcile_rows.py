"""The row of reconciliation: a large report against books as large, in a process by itself."""

import asyncio
import json
import sys

from scripts.bench.bench import Bench
from scripts.bench.measured import MIB
from scripts.bench.report import row
from scripts.bench.rows import Rows


async def reconciliation(bench: Bench) -> Rows:
    """Lines a second of CPU time, and the memory at its peak; the books answer from memory."""
    lines = bench.sizes.long_account_entries
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "scripts.bench.large_report",
        str(lines),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        yield f"reconcile: left out, as its process ended with {process.returncode}"
        return
    found = json.loads(output)
    yield row(
        "reconcile",
        lines / found["cpu_seconds"],
        "lines/CPU s",
        note=f"{lines:,} lines, {found['peak_bytes'] / MIB:.0f} MiB at the peak",
    )
