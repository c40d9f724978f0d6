"""`ledger demo`, as a new user runs it."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import TIMEOUT_SECONDS, run_command, run_process, start_process, table_cells

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
        "The bank transfers 200.00 PEN to ana.",
        "Held 80.00 PEN of ana's for bruno, captured 50.00 of them",
        "Ana pays 40.00 PEN to res_barranco; less the fee of 2.00, 38.00 are pending there",
        "A payment of 100.00 PEN from ana is declined: insufficient_funds.",
        "checks, no errors, no warnings.",
        "Everything was right",
    ):
        assert sentence in outcome.stdout
    balances = [row for row in table_cells(outcome.stdout) if row[0] in ("ana", "bruno", "bank")]
    assert [row for row in balances if len(row) == 5] == [
        ["ana", "PEN", "80.00", "30.00", "110.00"],
        ["bruno", "PEN", "50.00", "0.00", "50.00"],
        ["bank", "PEN", "-200.00", "0.00", "-200.00"],
    ]
    # The balances before, the payouts, the balances after.
    assert outcome.stdout.count("│ res_") == 3 * len(owed)
    assert left_in(enterable_folder) == []


@pytest.mark.parametrize(
    ("send", "number", "after"),
    [
        # Ctrl-C in a terminal, to the whole process group, while calls are under way.
        (os.killpg, signal.SIGINT, "Sent them again"),
        (os.kill, signal.SIGINT, "It listens on "),
        (os.kill, signal.SIGTERM, "It listens on "),
        (os.kill, signal.SIGHUP, "It listens on "),
    ],
)
async def test_interrupted_demonstration_cleans_up(
    enterable_folder: Path, send: Callable[[int, int], None], number: int, after: str
) -> None:
    """Its server has ended, and its data is removed."""
    process = await start_process("demo", env={"TMPDIR": str(enterable_folder)})
    assert process.stdout is not None
    address = ""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        line = ""
        while not line.startswith(after):
            line = (await process.stdout.readline()).decode()
            assert line, "the demonstration ended"
            if line.startswith("It listens on "):
                address = line.removeprefix("It listens on ").strip().removesuffix(".")
        send(process.pid, number)
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
