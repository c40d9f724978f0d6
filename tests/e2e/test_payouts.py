"""Payouts, end to end: run, reserve, pay, fail, return."""

from datetime import UTC, datetime, timedelta

import pytest
from support.audit import assert_books_in_order
from support.events import event_message, unique
from support.payout_runs import finished_run, payout_event
from support.running import RunningLedger

from ledger.v1 import ledger_pb2

pytestmark = pytest.mark.both_servers


async def payouts_with_history(ledger: RunningLedger, **fields: object) -> list[ledger_pb2.Payout]:
    request = ledger_pb2.ListPayoutsRequest(**fields)  # type: ignore[arg-type]
    listed = await ledger.stub.ListPayouts(request)
    found = []
    for payout in listed.payouts:
        response = await ledger.stub.GetPayout(
            ledger_pb2.GetPayoutRequest(payout_id=payout.payout_id)
        )
        found.append(response.payout)
    return found


async def test_run_pays_the_available_balance(ledger: RunningLedger) -> None:
    """A payout reserves the available amount, shows it as items, and releases it when paid."""
    await ledger.ingest(
        event_message(restaurant_id="res_1", amount_minor=10_000, fee_minor=500),
        event_message(
            ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, restaurant_id="res_1", amount_minor=2_000
        ),
        event_message(
            restaurant_id="res_1",
            amount_minor=7_000,
            occurred_at=datetime.now(UTC) - timedelta(days=1),
        ),
        event_message(
            ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, restaurant_id="res_red", amount_minor=1
        ),
        event_message(restaurant_id="res_usd", currency="USD"),
    )
    run = await finished_run(ledger)
    assert (run.payouts_created, run.total_amount_minor, run.restaurants_considered) == (
        1,
        7_500,
        2,
    )
    assert [(skipped.reason, skipped.count) for skipped in run.skipped] == [
        (ledger_pb2.SKIP_REASON_NOTHING_AVAILABLE, 1)
    ]
    (payout,) = await payouts_with_history(ledger)
    assert (payout.restaurant_id, payout.amount_minor, payout.state) == (
        "res_1",
        7_500,
        ledger_pb2.PAYOUT_STATE_CREATED,
    )
    assert {ledger_pb2.EntryType.Name(item.type): item.amount_minor for item in payout.items} == {
        "ENTRY_TYPE_CHARGE": 10_000,
        "ENTRY_TYPE_FEE": -500,
        "ENTRY_TYPE_REFUND": -2_000,
    }
    balance = await ledger.balance("res_1")
    assert (balance.available_minor, balance.pending_minor, balance.reserved_minor) == (
        0,
        7_000,
        7_500,
    )
    (result,) = await ledger.ingest(payout_event(payout, ledger_pb2.EVENT_TYPE_PAYOUT_PAID))
    assert result.status == ledger_pb2.INGEST_STATUS_CREATED
    balance = await ledger.balance("res_1")
    assert (balance.available_minor, balance.pending_minor, balance.reserved_minor) == (0, 7_000, 0)
    await assert_books_in_order(ledger.database)


@pytest.mark.parametrize("paid_before", [False, True])
async def test_failed_payout_can_be_paid_again_the_same_day(
    ledger: RunningLedger, paid_before: bool
) -> None:
    """The money of a refused or returned payout is available at once.

    The next run of the day pays it, and its items name it as money that came back.
    """
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=10_000))
    await finished_run(ledger)
    (first,) = await payouts_with_history(ledger)
    if paid_before:
        await ledger.ingest(payout_event(first, ledger_pb2.EVENT_TYPE_PAYOUT_PAID))
    failed = payout_event(first, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED)
    assert [result.status for result in await ledger.ingest(failed, failed)] == [1, 2]
    assert (await ledger.balance("res_1")).available_minor == 10_000
    await finished_run(ledger, request_id=unique("again"))
    second, again = await payouts_with_history(ledger)
    assert again.state == (
        ledger_pb2.PAYOUT_STATE_RETURNED if paid_before else ledger_pb2.PAYOUT_STATE_FAILED
    )
    assert [move.state for move in again.history] == ([1, 2, 4] if paid_before else [1, 3])
    kind = (
        ledger_pb2.ENTRY_TYPE_PAYOUT_RETURN
        if paid_before
        else ledger_pb2.ENTRY_TYPE_PAYOUT_REVERSAL
    )
    assert [(item.type, item.amount_minor) for item in second.items] == [(kind, 10_000)]
    await assert_books_in_order(ledger.database)


@pytest.mark.parametrize("pays_again", [False, True])
async def test_payment_reported_after_its_failure_ends_as_returned(
    ledger: RunningLedger, pays_again: bool
) -> None:
    """As if the two had come in order. The balance does not change, paid again or not."""
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=10_000))
    await finished_run(ledger)
    (first,) = await payouts_with_history(ledger)
    failed = payout_event(first, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED)
    paid = payout_event(first, ledger_pb2.EVENT_TYPE_PAYOUT_PAID)
    await ledger.ingest(failed)
    if pays_again:
        await finished_run(ledger, request_id=unique("again"))
    before = await ledger.balance("res_1")
    assert [result.status for result in await ledger.ingest(paid, paid)] == [1, 2]
    after = await ledger.balance("res_1")
    assert (after.available_minor, after.reserved_minor) == (
        (0, 10_000) if pays_again else (10_000, 0)
    )
    assert (after.available_minor, after.reserved_minor) == (
        before.available_minor,
        before.reserved_minor,
    )
    payouts = {payout.payout_id: payout for payout in await payouts_with_history(ledger)}
    returned = payouts.pop(first.payout_id)
    assert returned.state == ledger_pb2.PAYOUT_STATE_RETURNED
    assert [(move.state, move.event_id) for move in returned.history] == [
        (1, ""),
        (3, failed.event_id),
        (4, paid.event_id),
    ]
    stored = await ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=paid.event_id))
    assert list(stored.entries) == []
    # Later payouts count its amount as reversed.
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=500))
    for payout in payouts.values():
        await ledger.ingest(payout_event(payout, ledger_pb2.EVENT_TYPE_PAYOUT_PAID))
    run = await finished_run(ledger, request_id=unique("later"))
    assert (run.payouts_created, run.total_amount_minor) == ((0, 0) if pays_again else (1, 10_500))
    await assert_books_in_order(ledger.database)
