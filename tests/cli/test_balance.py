"""`ledger balance` against a server."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from support.commands import run_command
from support.events import event_message, unique
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus
from ledger.v1 import ledger_pb2


async def test_balance_is_shown_in_both_units(shared_ledger: RunningLedger) -> None:
    """As people write it, and in minor units, which differ by currency."""
    restaurant_id = unique("res")
    now = datetime.now(UTC)
    await shared_ledger.ingest(
        event_message(restaurant_id=restaurant_id, amount_minor=123_456),
        event_message(
            restaurant_id=restaurant_id, amount_minor=500, occurred_at=now - timedelta(days=1)
        ),
        event_message(
            ledger_pb2.EVENT_TYPE_DISPUTE_OPENED, restaurant_id=restaurant_id, amount_minor=5
        ),
        event_message(
            ledger_pb2.EVENT_TYPE_FEE_ASSESSED,
            restaurant_id=restaurant_id,
            currency="JPY",
            amount_minor=7,
        ),
    )
    outcome = await run_command("balance", restaurant_id, "PEN", "--address", shared_ledger.address)
    assert (outcome.status, outcome.stderr) == (0, "")
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in outcome.stdout.splitlines()
        if "│" in line
    ]
    assert rows == [
        ["available", "1234.51", "123451"],
        ["pending", "5.00", "500"],
        ["reserved", "0.00", "0"],
        ["disputed", "0.05", "5"],
        ["reserve_held", "0.00", "0"],
    ]
    outcome = await run_command(
        "balance", restaurant_id, "JPY", "--json", "--address", shared_ledger.address
    )
    assert (
        json.loads(outcome.stdout).items()
        >= {
            "restaurant_id": restaurant_id,
            "currency": "JPY",
            "available_minor": "-7",
            "available": "-7",
            "last_event_at": "2025-12-01T10:00:00Z",
        }.items()
    )


async def test_balance_of_a_past_instant(shared_ledger: RunningLedger) -> None:
    """It counts what was recorded before the instant."""
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    arguments = ("balance", restaurant_id, "PEN", "--json", "--at", "2026-01-01T00:00:00-05:00")
    outcome = await run_command(*arguments, "--address", shared_ledger.address)
    shown = json.loads(outcome.stdout)
    assert (shown["as_of"], shown["available_minor"], shown["last_event_at"]) == (
        "2026-01-01T05:00:00Z",
        "0",
        None,
    )


async def test_unknown_restaurant_is_reported_with_its_reason(
    shared_ledger: RunningLedger,
) -> None:
    """Status, reason and a sentence; status 1."""
    outcome = await run_command("balance", "res_9", "PEN", "--address", shared_ledger.address)
    assert outcome.status == ExitStatus.REFUSED
    assert (
        outcome.stderr
        == "error: NOT_FOUND RESTAURANT_NOT_FOUND: restaurant res_9 is not registered\n"
    )


async def test_field_violations_are_listed(shared_ledger: RunningLedger) -> None:
    """One a line, below the status."""
    outcome = await run_command("balance", "res 9", "pen", "--address", shared_ledger.address)
    assert outcome.status == ExitStatus.REFUSED
    first, *violations = outcome.stderr.splitlines()
    assert first.startswith("error: INVALID_ARGUMENT INVALID_REQUEST: ")
    assert [violation.split()[0] for violation in violations] == ["restaurant_id", "currency"]


async def test_no_server_is_reported_with_what_to_do() -> None:
    """Status 3, for scripts that try again."""
    outcome = await run_command("balance", "res_1", "PEN", "--address", "127.0.0.1:1")
    assert outcome.status == ExitStatus.UNREACHABLE
    assert outcome.stderr.startswith(
        "error: no server responds at 127.0.0.1:1; start one with `ledger serve`"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("res_1",),
        ("res_1", "PEN", "--at", "yesterday"),
        ("res_1", "PEN", "--as-of", "2026-01-01"),
        ("res_1", "PEN", "--address", "x"),
    ],
)
async def test_bad_usage_is_reported_before_any_call(arguments: tuple[str, ...]) -> None:
    """Status 2."""
    assert (await run_command("balance", *arguments)).status == ExitStatus.USAGE
