"""`ledger accounts statement` against a server."""

import csv
import io
import json
from typing import Any

import pytest
from support.commands import Outcome, run_command, table_cells
from support.events import unique
from support.paying import MANUAL, opened_account, order
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus
from ledger.client import sync_pages
from ledger.v1 import account_pb2, payment_pb2


async def booked(ledger: RunningLedger) -> tuple[str, list[str]]:
    """An account that got 100.00, holds 30.00 of it and paid 25.00; its id and its payments'."""
    bank = await opened_account(ledger, limit_minor=None)
    account_id, payee = await opened_account(ledger), await opened_account(ledger)
    ids = [unique("pay") for _ in range(3)]
    await ledger.payments.AuthorizePayment(order(ids[0], bank, account_id, 10_000))
    await ledger.payments.AuthorizePayment(order(ids[1], account_id, payee, 3_000, capture=MANUAL))
    # Moves what is held, and nothing of what is available.
    await ledger.payments.CapturePayment(
        payment_pb2.CapturePaymentRequest(
            operation_id=unique("op"), payment_id=ids[1], amount_minor=1_000
        )
    )
    await ledger.payments.AuthorizePayment(order(ids[2], account_id, payee, 2_500))
    return account_id, ids


async def stated(ledger: RunningLedger, account_id: str, *options: str) -> Outcome:
    outcome = await run_command(
        "accounts", "statement", account_id, *options, "--address", ledger.address
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    return outcome


async def test_statement_runs_from_balance_to_balance(shared_ledger: RunningLedger) -> None:
    """The totals tie out: opening balance, what came in and what went out, closing balance."""
    account_id, (funding, hold, transfer) = await booked(shared_ledger)
    outcome = await stated(shared_ledger, account_id)
    lines = outcome.stdout.splitlines()
    assert lines[:2] == [
        f"{account_id}, PEN, from the first entry to now",
        "opening balance 0.00",
    ]
    assert lines[-3:] == ["in 100.00, out 55.00", "closing balance 45.00", "3 entries"]
    assert [row[1:] for row in table_cells(outcome.stdout)] == [
        ["transfer_in", "100.00", "100.00", funding],
        ["payment_hold", "-30.00", "70.00", hold],
        ["transfer_out", "-25.00", "45.00", transfer],
    ]


async def test_statement_has_the_same_totals_in_every_format(
    shared_ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In CSV between the balances, in JSON after them; through all pages."""
    monkeypatch.setattr(sync_pages, "PAGE_SIZE_MAX", 2)
    account_id, ids = await booked(shared_ledger)
    rows = list(
        csv.DictReader(io.StringIO((await stated(shared_ledger, account_id, "--csv")).stdout))
    )
    expected = [
        ("transfer_in", "10000", "10000", ids[0]),
        ("payment_hold", "-3000", "7000", ids[1]),
        ("transfer_out", "-2500", "4500", ids[2]),
    ]
    fields = ("type", "amount_minor", "balance_minor", "payment_id")
    assert [tuple(row[field] for field in fields) for row in rows] == [
        ("opening_balance", "", "0", ""),
        *expected,
        ("closing_balance", "", "4500", ""),
    ]
    head, *lines = [
        json.loads(line)
        for line in (await stated(shared_ledger, account_id, "--json")).stdout.splitlines()
    ]
    assert [tuple(line[field] for field in fields) for line in lines] == expected
    assert head == {
        "account_id": account_id,
        "currency": "PEN",
        "start_at": None,
        "end_at": None,
        "opening_balance_minor": "0",
        "opening_balance": "0.00",
        "closing_balance_minor": "4500",
        "closing_balance": "45.00",
    }


async def test_filtered_statement_has_no_running_balance(shared_ledger: RunningLedger) -> None:
    """By type and by payment; the balances before and after are those of all entries."""
    account_id, (_, hold, transfer) = await booked(shared_ledger)
    for options, expected in {
        ("--type", "transfer-out"): ["transfer_out", "-25.00", transfer],
        ("--payment", hold): ["payment_hold", "-30.00", hold],
    }.items():
        outcome = await stated(shared_ledger, account_id, *options)
        assert [row[1:] for row in table_cells(outcome.stdout)] == [expected]
        lines = outcome.stdout.splitlines()
        assert lines[1] == "opening balance of the account 0.00"
        assert lines[-2:] == ["closing balance of the account 45.00", "1 entries"]


async def test_statement_of_a_period(shared_ledger: RunningLedger) -> None:
    """Each period's totals tie out, and its closing balance is the next one's opening balance."""
    account_id, _ = await booked(shared_ledger)
    response = await shared_ledger.accounts.ListAccountEntries(
        account_pb2.ListAccountEntriesRequest(account_id=account_id)
    )
    held_at = response.entries[1].entry.recorded_at.ToJsonString()
    for bounds, expected in {
        ("--to", held_at): ("0.00", "in 100.00, out 0.00", "100.00", 1),
        ("--from", held_at): ("100.00", "in 0.00, out 55.00", "45.00", 2),
        ("--from", held_at, "--to", held_at): ("100.00", "in 0.00, out 0.00", "100.00", 0),
    }.items():
        lines = (await stated(shared_ledger, account_id, *bounds)).stdout.splitlines()
        opening, totals, closing, count = expected
        assert lines[1] == f"opening balance {opening}", bounds
        assert lines[-3:] == [totals, f"closing balance {closing}", f"{count} entries"], bounds


async def test_refusals_are_reported_with_their_reason(shared_ledger: RunningLedger) -> None:
    """Status 1 with the reason; nothing on standard output."""
    outcome = await run_command(
        "accounts", "statement", "none", "--csv", "--address", shared_ledger.address
    )
    assert (outcome.status, outcome.stdout) == (ExitStatus.REFUSED, "")
    assert "NOT_FOUND ACCOUNT_NOT_FOUND" in outcome.stderr


BAD_USAGE: list[tuple[Any, ...]] = [
    (),
    ("acc_1", "--from", "yesterday"),
    ("acc_1", "--type", "tip"),
    ("acc_1", "--json", "--csv"),
]


@pytest.mark.parametrize("arguments", BAD_USAGE)
async def test_bad_usage_is_reported_before_any_call(arguments: tuple[str, ...]) -> None:
    """Status 2."""
    assert (await run_command("accounts", "statement", *arguments)).status == ExitStatus.USAGE
