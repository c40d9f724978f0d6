"""`ledger statement` against a server."""

import csv
import io
import json
from typing import Any

import pytest
from support.commands import run_command, table_cells
from support.events import event_message, unique
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus
from ledger.client import sync_pages
from ledger.v1 import ledger_pb2

REFUND = ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED


async def booked(ledger: RunningLedger) -> tuple[str, str, str]:
    """A restaurant with a charge, its fee, and a refund; its id and those of the events."""
    restaurant_id = unique("res")
    charge = event_message(restaurant_id=restaurant_id, amount_minor=10_000, fee_minor=250)
    refund = event_message(REFUND, restaurant_id=restaurant_id, amount_minor=12_000)
    await ledger.ingest(charge)
    await ledger.ingest(refund)
    return restaurant_id, charge.event_id, refund.event_id


async def test_statement_runs_from_balance_to_balance(shared_ledger: RunningLedger) -> None:
    """Signed amounts in the currency's units, and the balance after each."""
    restaurant_id, charge_id, refund_id = await booked(shared_ledger)
    outcome = await run_command(
        "statement", restaurant_id, "PEN", "--address", shared_ledger.address
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    lines = outcome.stdout.splitlines()
    assert lines[:2] == [
        f"{restaurant_id}, PEN, from the first entry to now",
        "opening balance 0.00",
    ]
    assert lines[-2:] == ["closing balance -22.50", "3 entries"]
    assert [row[1:] for row in table_cells(outcome.stdout)] == [
        ["charge", "100.00", "100.00", charge_id],
        ["fee", "-2.50", "97.50", charge_id],
        ["refund", "-120.00", "-22.50", refund_id],
    ]


async def test_filtered_statement_has_no_running_balance(shared_ledger: RunningLedger) -> None:
    """It would not add up; the balances before and after are those of all entries."""
    restaurant_id, charge_id, refund_id = await booked(shared_ledger)
    arguments = (
        "statement",
        restaurant_id,
        "PEN",
        "--type",
        "refund",
        "--type",
        "FEE",
        "--address",
        shared_ledger.address,
    )
    outcome = await run_command(*arguments)
    assert [row[1:] for row in table_cells(outcome.stdout)] == [
        ["fee", "-2.50", charge_id],
        ["refund", "-120.00", refund_id],
    ]
    lines = outcome.stdout.splitlines()
    assert lines[1] == "opening balance of the restaurant 0.00"
    assert lines[-2:] == ["closing balance of the restaurant -22.50", "2 entries"]


async def test_statement_of_a_period(shared_ledger: RunningLedger) -> None:
    """An instant with its digits, or a date, which is its beginning in UTC."""
    restaurant_id, _, _ = await booked(shared_ledger)
    response = await shared_ledger.stub.ListEntries(
        ledger_pb2.ListEntriesRequest(restaurant_id=restaurant_id, currency="PEN", page_size=3)
    )
    refunded_at = response.entries[2].recorded_at.ToJsonString()
    for bounds, expected in {
        ("--from", "2025-12-01"): (3, "0.00", "-22.50"),
        ("--to", "2025-12-01"): (0, "0.00", "0.00"),
        ("--from", refunded_at): (1, "97.50", "-22.50"),
        ("--to", refunded_at): (2, "0.00", "97.50"),
        ("--from", refunded_at, "--to", refunded_at): (0, "97.50", "97.50"),
    }.items():
        outcome = await run_command(
            "statement", restaurant_id, "PEN", *bounds, "--address", shared_ledger.address
        )
        lines = outcome.stdout.splitlines()
        count, opening, closing = expected
        assert lines[1] == f"opening balance {opening}", bounds
        assert lines[-2:] == [f"closing balance {closing}", f"{count} entries"], bounds


async def test_csv_is_for_spreadsheets(shared_ledger: RunningLedger) -> None:
    """One row for each entry, between the balances."""
    restaurant_id, charge_id, _ = await booked(shared_ledger)
    outcome = await run_command(
        "statement", restaurant_id, "PEN", "--csv", "--address", shared_ledger.address
    )
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    assert [
        (row["type"], row["amount_minor"], row["balance_minor"], row["balance"]) for row in rows
    ] == [
        ("opening_balance", "", "0", "0.00"),
        ("charge", "10000", "10000", "100.00"),
        ("fee", "-250", "9750", "97.50"),
        ("refund", "-12000", "-2250", "-22.50"),
        ("closing_balance", "", "-2250", "-22.50"),
    ]
    assert (rows[1]["event_id"], rows[1]["payout_id"], rows[1]["occurred_at"]) == (
        charge_id,
        "",
        "2025-12-01T10:00:00Z",
    )


async def test_json_is_lines(shared_ledger: RunningLedger) -> None:
    """The statement with its balances, then each entry with all fields of the contract."""
    restaurant_id, charge_id, _ = await booked(shared_ledger)
    arguments = (
        "statement",
        restaurant_id,
        "PEN",
        "--json",
        "--from",
        "2025-12-01",
        "--address",
        shared_ledger.address,
    )
    head, *entries = [
        json.loads(line) for line in (await run_command(*arguments)).stdout.splitlines()
    ]
    assert head == {
        "restaurant_id": restaurant_id,
        "currency": "PEN",
        "start_at": "2025-12-01T00:00:00Z",
        "end_at": None,
        "opening_balance_minor": "0",
        "opening_balance": "0.00",
        "closing_balance_minor": "-2250",
        "closing_balance": "-22.50",
    }
    assert [
        (entry["type"], entry["amount_minor"], entry["balance_minor"]) for entry in entries
    ] == [
        ("charge", "10000", "10000"),
        ("fee", "-250", "9750"),
        ("refund", "-12000", "-2250"),
    ]
    assert (entries[0]["event_id"], entries[0]["available_at"]) == (
        charge_id,
        "2025-12-08T10:00:00Z",
    )
    assert (entries[2]["available_at"], entries[2]["payout_id"]) == (None, None)


async def test_statement_of_many_pages(
    shared_ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running balance continues from page to page."""
    monkeypatch.setattr(sync_pages, "PAGE_SIZE_MAX", 2)
    restaurant_id, _, _ = await booked(shared_ledger)
    for kind in ("--csv", "--json"):
        outcome = await run_command(
            "statement", restaurant_id, "PEN", kind, "--address", shared_ledger.address
        )
        assert len(outcome.stdout.splitlines()) == (6 if kind == "--csv" else 4)
        assert "-2250" in outcome.stdout.splitlines()[-1]
    outcome = await run_command(
        "statement", restaurant_id, "PEN", "--address", shared_ledger.address
    )
    assert [row[3] for row in table_cells(outcome.stdout)] == ["100.00", "97.50", "-22.50"]


async def test_refusals_are_reported_with_their_reason(shared_ledger: RunningLedger) -> None:
    """Status 1 with the reason; nothing on standard output."""
    outcome = await run_command(
        "statement", "res_9", "PEN", "--csv", "--address", shared_ledger.address
    )
    assert (outcome.status, outcome.stdout) == (ExitStatus.REFUSED, "")
    assert (
        outcome.stderr
        == "error: NOT_FOUND RESTAURANT_NOT_FOUND: restaurant res_9 is not registered\n"
    )
    restaurant_id, _, _ = await booked(shared_ledger)
    outcome = await run_command(
        "statement", restaurant_id, "PEN", "--to", "9999-01-01", "--address", shared_ledger.address
    )
    assert outcome.status == ExitStatus.REFUSED
    assert outcome.stderr.splitlines()[1:] == ["  end_at must not be in the future"]


BAD_USAGE: list[tuple[Any, ...]] = [
    ("res_1",),
    ("res_1", "PEN", "--from", "yesterday"),
    ("res_1", "PEN", "--to", "2025-02-30"),
    ("res_1", "PEN", "--from", "2025-12-01T10:00:00"),
    ("res_1", "PEN", "--type", "tip"),
    ("res_1", "PEN", "--json", "--csv"),
]


@pytest.mark.parametrize("arguments", BAD_USAGE)
async def test_bad_usage_is_reported_before_any_call(arguments: tuple[str, ...]) -> None:
    """Status 2."""
    assert (await run_command("statement", *arguments)).status == ExitStatus.USAGE
