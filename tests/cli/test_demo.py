"""`ledger demo`, as a new user runs it."""

import asyncio
import signal
from pathlib import Path

import pytest
from support.commands import TIMEOUT_SECONDS, run_command, run_process, start_process

from ledger.cli.demo import owed_by_account
from ledger.cli.demo_file import read_demo_lines
from ledger.cli.failures import ExitStatus


def left_in(folder: Path) -> list[Path]:
    """What is in a folder."""
    return list(folder.iterdir())


async def test_demonstration_shows_that_everything_is_right(enterable_folder: Path) -> None:
    """Status 0, the sentences, the totals of the file, and nothing left behind; whatever the user's settings are."""
    env = {"TMPDIR": str(enterable_folder), "LEDGER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/production"}
    outcome = await run_process("demo", env=env)
    assert outcome.stderr == ""
    assert outcome.status == 0
    for sentence in (
        "Sent the 70 events of demo_events.jsonl: 70 were created.",
        "Sent them again, as processors do: 70 were duplicates, 0 were created.",
        "ALREADY_EXISTS EVENT_ID_REUSED",
        "checks, no errors, no warnings.",
        "Everything was as it must be",
    ):
        assert sentence in outcome.stdout
    assert outcome.stdout.count("│ res_") == len(owed_by_account(read_demo_lines()))
    assert left_in(enterable_folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_demonstration_cleans_up(enterable_folder: Path, number: int) -> None:
    """Its server is gone, and its data with it."""
    process = await start_process("demo", env={"TMPDIR": str(enterable_folder)})
    assert process.stdout is not None
    address = ""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not address:
            line = (await process.stdout.readline()).decode()
            assert line, "the demonstration ended"
            if line.startswith("It listens on "):
                address = line.removeprefix("It listens on ").strip().removesuffix(".")
        process.send_signal(number)
        await process.communicate()
    assert process.returncode == ExitStatus.INTERRUPTED
    assert left_in(enterable_folder) == []
    assert (await run_command("restaurants", "list", "--address", address)).status == ExitStatus.UNREACHABLE
