"""`ledger demo`, as a new user runs it."""

import asyncio
import signal
from pathlib import Path

import pytest
from support.commands import TIMEOUT_SECONDS, run_command, run_process, start_process

from ledger.cli.demo.demonstration import owed_by_account
from ledger.cli.demo_file import read_demo_lines
from ledger.cli.failures import ExitStatus


def left_in(folder: Path) -> list[Path]:
    """The files in a folder."""
    return list(folder.iterdir())


async def test_demonstration_shows_that_everything_is_right(enterable_folder: Path) -> None:
    """Status 0, all sentences and totals, and no files left. The user's settings do not matter."""
    owed = owed_by_account(read_demo_lines())
    env = {
        "TMPDIR": str(enterable_folder),
        "LEDGER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/production",
    }
    outcome = await run_process("demo", env=env)
    assert outcome.stderr == ""
    assert outcome.status == 0
    for sentence in (
        "Sent the 70 events of demo_events.jsonl: 70 were created.",
        "Sent them again, as processors do: 70 were duplicates, 0 were created.",
        "ALREADY_EXISTS EVENT_ID_REUSED",
        "Planned a payout run in PEN, which writes nothing: 5 payouts, 12872.80 PEN in all.",
        "These payouts go to the bank",
        "The bank reports twice that it was paid; that is booked once:",
        "The payout to res_callao failed; 1969.65 PEN of it are available again at once:",
        "A second run of the same day: 1 payout, 1969.65 PEN in all;"
        " 4 restaurants have their payout already.",
        "payout_reversal",
        "checks, no errors, no warnings.",
        "Everything was right",
    ):
        assert sentence in outcome.stdout
    # The balances before, the payouts, the balances after.
    assert outcome.stdout.count("│ res_") == 3 * len(owed)
    assert left_in(enterable_folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_interrupted_demonstration_cleans_up(enterable_folder: Path, number: int) -> None:
    """Its server has ended, and its data is removed."""
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
        try:
            await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    assert process.returncode == ExitStatus.INTERRUPTED
    assert left_in(enterable_folder) == []
    assert (
        await run_command("restaurants", "list", "--address", address)
    ).status == ExitStatus.UNREACHABLE
