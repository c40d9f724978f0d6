"""`ledger events` against a server."""

import json

from support.commands import run_command
from support.dates import days_ago
from support.events import event_message, unique
from support.payout_runs import finished_run, payout_of
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus
from ledger.v1 import ledger_pb2


async def test_one_command_tells_what_happened_to_a_payment(ledger: RunningLedger) -> None:
    """Its events, what they posted, and the payout that took them with its state."""
    charge = event_message(
        restaurant_id="res_1", amount_minor=1250, fee_minor=50, reference="pay_123"
    )
    await ledger.ingest(charge)
    await finished_run(ledger, as_of=days_ago(1))
    payout = await payout_of(ledger, "res_1")
    refund = event_message(
        ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
        restaurant_id="res_1",
        amount_minor=250,
        reference="pay_123",
    )
    await ledger.ingest(refund)
    outcome = await run_command("events", "find", "pay_123", "--address", ledger.address)
    assert (outcome.status, outcome.stderr) == (0, "")
    lines = outcome.stdout.splitlines()
    for words in (
        (charge.event_id, "charge_succeeded", "12.50", "0.50"),
        (refund.event_id, "refund_succeeded", "2.50"),
        (
            charge.event_id,
            "fee",
            "restaurant_payable",
            "platform_fees",
            payout.payout_id,
            "created",
        ),
        (refund.event_id, "refund", "restaurant_payable", "processor_clearing", "at once"),
    ):
        assert any(all(word in line for word in words) for line in lines), words
    assert lines[-1] == "2 events"
    outcome = await run_command("events", "find", "pay_123", "--json", "--address", ledger.address)
    newest, oldest = map(json.loads, outcome.stdout.splitlines())
    assert (newest["event_id"], oldest["event_id"]) == (refund.event_id, charge.event_id)
    assert [
        (entry["type"], entry["amount"], entry["counted_by_payout_id"], entry["payout_state"])
        for entry in oldest["entries"]
    ] == [
        ("charge", "12.50", payout.payout_id, "created"),
        ("fee", "0.50", payout.payout_id, "created"),
    ]
    assert newest["entries"][0]["counted_by_payout_id"] is None


async def test_lists_take_all_filters(shared_ledger: RunningLedger) -> None:
    """Restaurant, type, currency, beginning of the id, and time."""
    restaurant_id = unique("res")
    wanted = event_message(restaurant_id=restaurant_id, event_id="listed:1")
    await shared_ledger.ingest(
        wanted,
        event_message(
            ledger_pb2.EVENT_TYPE_FEE_ASSESSED, restaurant_id=restaurant_id, event_id="listed:2"
        ),
    )
    for options in (
        ("--restaurant", restaurant_id, "--type", "charge_succeeded"),
        ("--prefix", "listed:", "--type", "CHARGE_SUCCEEDED", "--currency", "PEN"),
        ("--type", "charge-succeeded", "--from", "2025-01-01", "--to", "2099-01-01T00:00:00Z"),
    ):
        outcome = await run_command(
            "events", "list", *options, "--json", "--address", shared_ledger.address
        )
        assert [json.loads(line)["event_id"] for line in outcome.stdout.splitlines()] == [
            wanted.event_id
        ], options
    outcome = await run_command(
        "events", "list", "--restaurant", restaurant_id, "--address", shared_ledger.address
    )
    assert outcome.stdout.splitlines()[-1] == "2 events"
    outcome = await run_command(
        "events", "list", "--to", "2001-01-01", "--address", shared_ledger.address
    )
    assert outcome.stdout.splitlines() == ["no events"]


async def test_event_is_shown_with_its_entries(shared_ledger: RunningLedger) -> None:
    """As a table, and as one object of JSON."""
    event = event_message(
        restaurant_id=unique("res"), amount_minor=1000, fee_minor=50, metadata={"order": "17"}
    )
    await shared_ledger.ingest(event)
    outcome = await run_command(
        "events", "show", event.event_id, "--address", shared_ledger.address
    )
    assert outcome.status == 0
    assert '"order": "17"' in outcome.stdout
    assert "platform_fees" in outcome.stdout
    outcome = await run_command(
        "events", "show", event.event_id, "--json", "--address", shared_ledger.address
    )
    shown = json.loads(outcome.stdout)
    assert (shown["amount"], shown["fee"], len(shown["entries"])) == ("10.00", "0.50", 2)
    outcome = await run_command("events", "show", "absent", "--address", shared_ledger.address)
    assert outcome.status == ExitStatus.REFUSED
