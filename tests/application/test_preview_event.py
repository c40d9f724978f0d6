"""PreviewEvent shows what IngestEvent then does, and writes nothing."""

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from grpc import aio
from support.bad_requests import UUID_TEXT, refusal
from support.dates import days_ago
from support.events import event_message, request_of, timestamp, unique
from support.payout_runs import finished_run, payout_event, payout_of
from support.running import COUNT_EVERYTHING, RunningLedger, running_ledger

from ledger.bootstrap.database import Database
from ledger.domain.events import FEE_EVENT_TYPES, PAYOUT_EVENT_TYPES, EventType
from ledger.domain.posting_rules import EVENT_POSTING_RULES
from ledger.v1 import ledger_pb2

NOW = datetime.now(UTC)


async def preview(
    ledger: RunningLedger, event: ledger_pb2.ProcessorEvent
) -> ledger_pb2.PreviewEventResponse:
    return await ledger.stub.PreviewEvent(ledger_pb2.PreviewEventRequest(event=event))


def shown(entries: Any) -> list[ledger_pb2.LedgerEntry]:
    """The entries without what only booking gives them."""
    plain = []
    for entry in entries:
        copy = ledger_pb2.LedgerEntry()
        copy.CopyFrom(entry)
        copy.ClearField("transaction_id")
        copy.ClearField("recorded_at")
        plain.append(copy)
    return plain


def number_of(event_type: EventType) -> int:
    return ledger_pb2.EventType.Value(f"EVENT_TYPE_{event_type.name}")


@pytest.mark.parametrize("event_type", EVENT_POSTING_RULES, ids=str)
async def test_preview_is_what_booking_posts(
    shared_ledger: RunningLedger, event_type: EventType
) -> None:
    """For every type, with a fee and without, and by the restaurant's maturity."""
    restaurant_id = unique("res")
    is_of_platform = event_type.name.startswith("PROCESSOR_SETTLE")
    await shared_ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id, maturity_days=3)
    )
    for fee_minor in (0, 7) if event_type in FEE_EVENT_TYPES else (0,):
        event = event_message(
            number_of(event_type),
            restaurant_id="" if is_of_platform else restaurant_id,
            amount_minor=100,
            fee_minor=fee_minor,
            occurred_at=NOW - timedelta(days=1),
        )
        before = await shared_ledger.query(COUNT_EVERYTHING)
        response = await preview(shared_ledger, event)
        assert await shared_ledger.query(COUNT_EVERYTHING) == before
        assert response.status == ledger_pb2.INGEST_STATUS_CREATED
        assert not response.registers_restaurant
        await shared_ledger.stub.IngestEvent(request_of(event))
        booked = await shared_ledger.stub.GetEvent(
            ledger_pb2.GetEventRequest(event_id=event.event_id)
        )
        assert list(response.entries) == shown(booked.entries)
        again = await preview(shared_ledger, event)
        assert again.status == ledger_pb2.INGEST_STATUS_DUPLICATE
        assert (again.transaction_id, list(again.entries)) == (
            booked.transaction_id,
            list(booked.entries),
        )


async def test_terms_of_an_event_are_previewed(shared_ledger: RunningLedger) -> None:
    """The processor's own word on availability, and its fee."""
    event = event_message(restaurant_id=unique("res"), amount_minor=100, fee_minor=5)
    event.occurred_at.CopyFrom(timestamp(NOW))
    event.available_at.CopyFrom(timestamp(NOW + timedelta(days=2)))
    event.processor_fee_minor = 3
    response = await preview(shared_ledger, event)
    assert response.registers_restaurant
    await shared_ledger.stub.IngestEvent(request_of(event))
    booked = await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event.event_id))
    assert list(response.entries) == shown(booked.entries)
    assert len(response.entries) == 3


async def test_move_of_a_payout_is_previewed(ledger: RunningLedger) -> None:
    """The state that it would have, and the entry; and what would be refused."""
    await ledger.ingest(event_message(restaurant_id="res_1"))
    await finished_run(ledger, as_of=days_ago(1))
    payout = await payout_of(ledger, "res_1")
    paid = payout_event(payout, ledger_pb2.EVENT_TYPE_PAYOUT_PAID)
    response = await preview(ledger, paid)
    assert response.payout_state == ledger_pb2.PAYOUT_STATE_PAID
    assert (await payout_of(ledger, "res_1")).state == ledger_pb2.PAYOUT_STATE_CREATED
    await ledger.stub.IngestEvent(request_of(paid))
    booked = await ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=paid.event_id))
    assert list(response.entries) == shown(booked.entries)
    for event, reason in (
        (payout_event(payout, ledger_pb2.EVENT_TYPE_PAYOUT_PAID), "PAYOUT_MOVE_NOT_ALLOWED"),
        (
            payout_event(payout, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED, amount_minor=1),
            "PAYOUT_MISMATCH",
        ),
        (
            payout_event(payout, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED, payout_id=UUID_TEXT),
            "PAYOUT_NOT_FOUND",
        ),
    ):
        assert event.type in {number_of(event_type) for event_type in PAYOUT_EVENT_TYPES}
        refusals = []
        for call in (preview(ledger, event), ledger.stub.IngestEvent(request_of(event))):
            with pytest.raises(aio.AioRpcError) as caught:
                await call
            refusals.append(refusal(caught.value))
        assert refusals[0].reason == reason
        assert (refusals[0].code, refusals[0].metadata) == (refusals[1].code, refusals[1].metadata)


async def test_refusals_are_those_of_booking(database: Database) -> None:
    """Other contents under a stored id; an unknown restaurant where these are rejected."""
    async with running_ledger(database, unknown_restaurants="reject") as ledger:
        await ledger.stub.PutRestaurant(ledger_pb2.PutRestaurantRequest(restaurant_id="res_known"))
        event = event_message(restaurant_id="res_known")
        await ledger.stub.IngestEvent(request_of(event))
        other = event_message(event_id=event.event_id, restaurant_id="res_known", amount_minor=1)
        with pytest.raises(aio.AioRpcError) as caught:
            await preview(ledger, other)
        assert refusal(caught.value).reason == "EVENT_ID_REUSED"
        with pytest.raises(aio.AioRpcError) as caught:
            await preview(ledger, event_message(restaurant_id="res_unknown"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
