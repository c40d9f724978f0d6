"""Batches with good and bad events."""

from datetime import UTC, datetime

import grpc
import pytest
from support.bad_requests import PAYOUT_PAID, assert_nothing_internal, checked_details_of, counts
from support.events import event_message, unique
from support.running import RunningLedger

from ledger.v1 import ledger_pb2

pytestmark = pytest.mark.both_servers


async def test_batch_returns_a_result_for_each_event_in_order(shared_ledger: RunningLedger) -> None:
    """Good and bad events are mixed. The results of the bad ones have a code and a reason."""
    restaurant_id = unique("res")
    stored = event_message(restaurant_id=restaurant_id)
    await shared_ledger.ingest(stored)
    altered = event_message(event_id=stored.event_id, restaurant_id=restaurant_id, amount_minor=1)
    new = event_message(restaurant_id=restaurant_id)
    other = event_message(restaurant_id=restaurant_id, amount_minor=5)
    before = await counts(shared_ledger)
    results = await shared_ledger.ingest(
        event_message(restaurant_id="", amount_minor=0),
        new,
        altered,
        stored,
        event_message(PAYOUT_PAID, payout_id="po_none"),
        ledger_pb2.ProcessorEvent(),
        other,
        event_message(currency="ZZZ", occurred_at=datetime(1999, 1, 1, tzinfo=UTC)),
    )
    got = [
        (
            result.status,
            result.error.code,
            *(checked_details_of(result.error) if result.HasField("error") else ()),
        )
        for result in results
    ]
    invalid, exists, missing = (
        grpc.StatusCode[name].value[0]
        for name in ("INVALID_ARGUMENT", "ALREADY_EXISTS", "NOT_FOUND")
    )
    assert got[0][1:4] == (invalid, "INVALID_REQUEST", {"field": "events[0].restaurant_id"})
    assert got[0][4] == ("events[0].restaurant_id", "events[0].amount_minor")
    assert got[1] == (ledger_pb2.INGEST_STATUS_CREATED, 0)
    assert got[2][1:4] == (
        exists,
        "EVENT_ID_REUSED",
        {"event_id": stored.event_id, "differing_fields": "amount_minor"},
    )
    assert got[3] == (ledger_pb2.INGEST_STATUS_DUPLICATE, 0)
    assert got[4][1:4] == (missing, "PAYOUT_NOT_FOUND", {"payout_id": "po_none"})
    assert got[5][1:3] == (invalid, "INVALID_REQUEST")
    assert "events[5].event_id" in got[5][4]
    assert got[6] == (ledger_pb2.INGEST_STATUS_CREATED, 0)
    assert set(got[7][4]) == {"events[7].currency", "events[7].occurred_at"}
    for result in results:
        assert bool(result.transaction_id) == (not result.HasField("error"))
        assert (result.status == ledger_pb2.INGEST_STATUS_UNSPECIFIED) == result.HasField("error")
        assert_nothing_internal(str(result.error))
    after = await counts(shared_ledger)
    assert (after[0] - before[0], after[1] - before[1]) == (2, 2)
    for event in (new, other):
        kept = await shared_ledger.stub.GetEvent(
            ledger_pb2.GetEventRequest(event_id=event.event_id)
        )
        assert kept.event == event


async def test_same_id_twice_in_one_batch_is_booked_once(shared_ledger: RunningLedger) -> None:
    """The first is CREATED, a repeat is a DUPLICATE with the same transaction id.

    An altered event with that id is ALREADY_EXISTS.
    """
    restaurant_id = unique("res")
    event = event_message(restaurant_id=restaurant_id)
    altered = event_message(event_id=event.event_id, restaurant_id=restaurant_id, fee_minor=1)
    results = await shared_ledger.ingest(event, event, altered, event)
    assert [result.status for result in results] == [
        ledger_pb2.INGEST_STATUS_CREATED,
        ledger_pb2.INGEST_STATUS_DUPLICATE,
        ledger_pb2.INGEST_STATUS_UNSPECIFIED,
        ledger_pb2.INGEST_STATUS_DUPLICATE,
    ]
    assert len({result.transaction_id for result in results if result.transaction_id}) == 1
    reason, metadata, _ = checked_details_of(results[2].error)
    assert (results[2].error.code, reason) == (
        grpc.StatusCode.ALREADY_EXISTS.value[0],
        "EVENT_ID_REUSED",
    )
    assert metadata == {"event_id": event.event_id, "differing_fields": "fee_minor"}
    assert (await shared_ledger.balance(restaurant_id)).available_minor == event.amount_minor


async def test_id_of_a_refused_event_is_free_for_the_next_in_the_batch(
    shared_ledger: RunningLedger,
) -> None:
    """A payout event of no payout is NOT_FOUND. A charge with its id is then CREATED, and a repeat
    of the charge is a DUPLICATE.
    """
    restaurant_id = unique("res")
    charge = event_message(restaurant_id=restaurant_id)
    payout = event_message(
        PAYOUT_PAID, event_id=charge.event_id, restaurant_id=restaurant_id, payout_id="po_none"
    )
    results = await shared_ledger.ingest(payout, charge, charge)
    assert checked_details_of(results[0].error)[0] == "PAYOUT_NOT_FOUND"
    assert [result.status for result in results[1:]] == [
        ledger_pb2.INGEST_STATUS_CREATED,
        ledger_pb2.INGEST_STATUS_DUPLICATE,
    ]
    assert (await shared_ledger.balance(restaurant_id)).available_minor == charge.amount_minor


async def test_id_of_an_invalid_event_is_free_for_the_next_in_the_batch(
    shared_ledger: RunningLedger,
) -> None:
    """An invalid event is INVALID_ARGUMENT, and a valid one with its id is then CREATED."""
    charge = event_message(restaurant_id=unique("res"))
    results = await shared_ledger.ingest(
        event_message(event_id=charge.event_id, amount_minor=0), charge
    )
    assert checked_details_of(results[0].error)[0] == "INVALID_REQUEST"
    assert results[1].status == ledger_pb2.INGEST_STATUS_CREATED


async def test_errors_of_a_thousand_events_fit_a_response(shared_ledger: RunningLedger) -> None:
    """The largest batch, and as many wrong fields in each event as there can be."""
    wrong = event_message(
        event_id="",
        restaurant_id="",
        currency="",
        amount_minor=-1,
        fee_minor=-1,
        reference="\n",
        metadata={"": "\0"},
    )
    wrong.type = -1  # type: ignore[assignment]
    wrong.occurred_at.nanos = -1
    before = await counts(shared_ledger)
    results = await shared_ledger.ingest(*[wrong] * 1000)
    assert len(results) == 1000
    assert {checked_details_of(result.error)[0] for result in results} == {"EVENT_TYPE_UNKNOWN"}
    assert await counts(shared_ledger) == before
