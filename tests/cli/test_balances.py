"""`ledger balances`, `ledger maturities`, `ledger payouts explain` and `ledger events preview`."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from support.commands import run_command
from support.dates import days_ago
from support.events import event_message
from support.payout_runs import finished_run, payout_of
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus
from ledger.v1 import ledger_pb2


async def test_balances_are_listed_with_their_totals(ledger: RunningLedger) -> None:
    """All, those in the red, and as JSON lines."""
    await ledger.ingest(
        event_message(restaurant_id="res_1", amount_minor=1250),
        event_message(
            ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, restaurant_id="res_2", amount_minor=200
        ),
    )
    outcome = await run_command("balances", "PEN", "--address", ledger.address)
    assert (outcome.status, outcome.stderr) == (0, "")
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in outcome.stdout.splitlines()
        if "│" in line
    ]
    assert rows == [
        ["res_1", "12.50", "0.00", "0.00", "0.00", "0.00"],
        ["res_2", "-2.00", "0.00", "0.00", "0.00", "0.00"],
        ["2 restaurants", "10.50", "0.00", "0.00", "0.00", "0.00"],
    ]
    outcome = await run_command("balances", "PEN", "--red", "--json", "--address", ledger.address)
    (line,) = map(json.loads, outcome.stdout.splitlines())
    assert (line["restaurant_id"], line["available_minor"]) == ("res_2", "-200")
    outcome = await run_command(
        "balances",
        "PEN",
        "--min-amount",
        "12.50",
        "--prefix",
        "res",
        "--json",
        "--address",
        ledger.address,
    )
    assert [json.loads(line)["restaurant_id"] for line in outcome.stdout.splitlines()] == ["res_1"]


async def test_maturities_are_listed_by_day(ledger: RunningLedger) -> None:
    """What is pending adds up."""
    now = datetime.now(UTC)
    await ledger.ingest(
        event_message(
            restaurant_id="res_1", amount_minor=1000, occurred_at=now - timedelta(days=5)
        ),
        event_message(restaurant_id="res_1", amount_minor=500, occurred_at=now - timedelta(days=1)),
    )
    outcome = await run_command("maturities", "PEN", "--days", "3", "--address", ledger.address)
    assert outcome.status == 0
    day = (now + timedelta(days=2)).date()
    assert any(str(day) in line and "10.00" in line for line in outcome.stdout.splitlines()), (
        outcome.stdout
    )
    assert any("later" in line and "5.00" in line for line in outcome.stdout.splitlines())
    assert any("pending" in line and "15.00" in line for line in outcome.stdout.splitlines())
    outcome = await run_command(
        "maturities", "PEN", "--restaurant", "res_1", "--json", "--address", ledger.address
    )
    assert [json.loads(line)["amount"] for line in outcome.stdout.splitlines()] == ["10.00", "5.00"]


async def test_payout_is_explained_by_its_entries(ledger: RunningLedger) -> None:
    """Each item with the entries that add up to it."""
    charge = event_message(restaurant_id="res_1", amount_minor=1250, fee_minor=50)
    refund = event_message(
        ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, restaurant_id="res_1", amount_minor=200
    )
    await ledger.ingest(charge, refund)
    await finished_run(ledger, as_of=days_ago(1))
    payout = await payout_of(ledger, "res_1")
    outcome = await run_command("payouts", "explain", payout.payout_id, "--address", ledger.address)
    assert (outcome.status, outcome.stderr) == (0, "")
    lines = outcome.stdout.splitlines()
    for words in (("charge 12.50",), (charge.event_id, "-0.50"), (refund.event_id, "-2.00")):
        assert any(all(word in line for word in words) for line in lines), words
    assert lines[-1] == "items of 10.00 add up"
    outcome = await run_command(
        "payouts", "explain", payout.payout_id, "--json", "--address", ledger.address
    )
    head, *entries = map(json.loads, outcome.stdout.splitlines())
    assert head["payout_id"] == payout.payout_id
    assert sum(int(entry["amount_minor"]) for entry in entries) == 1000


async def test_explained_payout_shows_what_was_left(ledger: RunningLedger) -> None:
    """The items and what the restaurant's minimum kept are the amount."""
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=1250))
    await run_command(
        "restaurants", "update", "res_1", "--min-balance", "PEN=5.00", "--address", ledger.address
    )
    await finished_run(ledger, as_of=days_ago(1))
    payout = await payout_of(ledger, "res_1")
    outcome = await run_command("payouts", "explain", payout.payout_id, "--address", ledger.address)
    assert outcome.stdout.splitlines()[-2:] == [
        "items of 12.50 add up",
        "left in the account -5.00, so the payout is 7.50",
    ]


async def test_events_of_a_file_are_previewed(ledger: RunningLedger, tmp_path: Path) -> None:
    """What each would post, or why it would be refused; nothing is booked."""
    file = tmp_path / "events.jsonl"
    event = {
        "event_id": "evt_1",
        "type": "charge_succeeded",
        "restaurant_id": "res_new",
        "currency": "PEN",
        "amount_minor": 1250,
        "fee_minor": 50,
        "occurred_at": "2025-12-01T10:00:00Z",
    }
    file.write_text("\n".join(json.dumps(each) for each in (event, event | {"currency": "pen"})))
    outcome = await run_command("events", "preview", str(file), "--address", ledger.address)
    assert outcome.status == ExitStatus.REFUSED
    assert "line 1: evt_1 charge_succeeded: created, registers res_new" in outcome.stdout
    assert "platform_fees" in outcome.stdout
    assert "line 2: evt_1 refused: INVALID_ARGUMENT INVALID_REQUEST" in outcome.stdout
    assert "1 event would be refused" in outcome.stderr
    ((count,),) = await ledger.query("SELECT count(*) FROM restaurants")
    assert count == 0
    outcome = await run_command(
        "events", "preview", str(file), "--json", "--address", ledger.address
    )
    first, second = map(json.loads, outcome.stdout.splitlines())
    assert (first["status"], len(first["entries"]), second["status"]) == ("created", 2, "refused")
