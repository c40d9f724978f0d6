"""`ledger accounts balance` against a server."""

import json

import pytest
from support.commands import run_command, table_cells
from support.events import unique
from support.paying import MANUAL, funded_account, opened_account, order
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus


async def test_balance_shows_what_is_available_and_held(shared_ledger: RunningLedger) -> None:
    """In both units, now and at a past instant, to people and to programs."""
    payer, payee = await funded_account(shared_ledger, 10_000), await opened_account(shared_ledger)
    command = ("accounts", "balance", payer, "--address", shared_ledger.address)
    before = json.loads((await run_command(*command, "--json")).stdout)
    assert (before["account_id"], before["currency"]) == (payer, "PEN")
    await shared_ledger.payments.AuthorizePayment(
        order(unique("pay"), payer, payee, 3_050, capture=MANUAL)
    )
    outcome = await run_command(*command)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith(f"{payer} as of 2")
    assert table_cells(outcome.stdout) == [
        ["available", "69.50", "6950"],
        ["held", "30.50", "3050"],
        ["posted", "100.00", "10000"],
    ]
    shown = json.loads((await run_command(*command, "--json")).stdout)
    names = ("available", "available_minor", "held", "held_minor", "posted", "posted_minor")
    assert [shown[name] for name in names] == ["69.50", "6950", "30.50", "3050", "100.00", "10000"]
    past = json.loads((await run_command(*command, "--json", "--at", before["as_of"])).stdout)
    assert [past[name] for name in names] == ["100.00", "10000", "0.00", "0", "100.00", "10000"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("none",), ExitStatus.REFUSED),
        (("none", "--at", "9999-01-01"), ExitStatus.REFUSED),
        (("acc_1", "--at", "yesterday"), ExitStatus.USAGE),
    ],
)
async def test_refusals_are_reported(
    shared_ledger: RunningLedger, arguments: tuple[str, ...], status: ExitStatus
) -> None:
    """With nothing on standard output."""
    outcome = await run_command(
        "accounts", "balance", *arguments, "--address", shared_ledger.address
    )
    assert (outcome.status, outcome.stdout) == (status, "")
