"""Events whose id is stored already: the same event, and other events with that id."""

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from grpc import aio
from support.bad_requests import (
    PAYOUT_PAID,
    assert_nothing_internal,
    checked_details_of,
    counts,
    ingest,
    refusal,
    send,
)
from support.events import event_message, unique
from support.running import RunningLedger

from ledger.v1 import ledger_pb2

pytestmark = pytest.mark.both_servers

# The stored values occur nowhere else, so that the tests can search responses for them.
STORED = {
    "type": ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
    "currency": "MRU",
    "amount_minor": 918_273_645,
    "fee_minor": 192_837,
    "occurred_at": datetime(2019, 3, 7, 11, 13, 17, 654_321, tzinfo=UTC),
    "reference": "stored-reference-q7",
    "metadata": {"stored-key-q8": "stored-value-q9"},
}

STORED_TEXTS = (
    "stored-",
    "DISPUTE",
    "dispute",
    "MRU",
    "918273645",
    "192837",
    "654321",
    "2019",
    "1551957197",
)

CHANGES: dict[str, Any] = {
    "type": ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
    "restaurant_id": "another",
    "currency": "PEN",
    "amount_minor": 918_273_644,
    "fee_minor": 0,
    "occurred_at": datetime(2019, 3, 7, 11, 13, 17, 654_322, tzinfo=UTC),
    "reference": "",
}


@pytest.mark.parametrize("changed", CHANGES)
async def test_error_about_a_reused_id_names_the_field_and_no_stored_value(
    shared_ledger: RunningLedger, changed: str
) -> None:
    """ALREADY_EXISTS names exactly the field that differs. The stored event stays as it was."""
    event_id, restaurant_id = unique("evt"), unique("stored-restaurant")
    original = event_message(
        event_id=event_id,
        restaurant_id=restaurant_id,
        **STORED,  # type: ignore[arg-type]
    )
    await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=original))
    stored = await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event_id))
    before = await counts(shared_ledger)
    altered = {"restaurant_id": restaurant_id, **STORED, changed: CHANGES[changed]} | {
        "metadata": {"a": "b"}
    }
    with pytest.raises(aio.AioRpcError) as caught:
        await send(
            shared_ledger, "IngestEvent", ingest(event_message(event_id=event_id, **altered))
        )
    got = refusal(caught.value)
    assert (got.code, got.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EVENT_ID_REUSED")
    assert got.metadata == {"event_id": event_id, "differing_fields": changed}
    assert [text for text in STORED_TEXTS if text in got.everything] == []
    assert_nothing_internal(got.everything)
    assert await counts(shared_ledger) == before, (
        "not even the restaurant that the altered event names"
    )
    assert (
        await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event_id)) == stored
    )


async def test_id_reused_by_a_payout_event_is_a_conflict(shared_ledger: RunningLedger) -> None:
    """ALREADY_EXISTS, not NOT_FOUND, even though its payout does not exist."""
    event = event_message()
    await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    before = await counts(shared_ledger)
    event.type = PAYOUT_PAID
    event.payout_id = "po_none"
    with pytest.raises(aio.AioRpcError) as caught:
        await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    got = refusal(caught.value)
    assert (got.code, got.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EVENT_ID_REUSED")
    assert got.metadata == {"event_id": event.event_id, "differing_fields": "type,payout_id"}
    assert await counts(shared_ledger) == before


async def test_every_field_that_differs_is_named(shared_ledger: RunningLedger) -> None:
    """Each field once, when several fields differ."""
    event_id = unique("evt")
    first = event_message(
        event_id=event_id,
        restaurant_id=unique("res"),
        **STORED,  # type: ignore[arg-type]
    )
    await shared_ledger.ingest(first)
    (result,) = await shared_ledger.ingest(event_message(event_id=event_id, **CHANGES))
    reason, metadata, _ = checked_details_of(result.error)
    assert reason == "EVENT_ID_REUSED"
    assert sorted(metadata["differing_fields"].split(",")) == sorted(CHANGES)


async def test_repeat_with_other_metadata_is_a_duplicate(shared_ledger: RunningLedger) -> None:
    """The first metadata stays."""
    event = event_message(metadata={"try": "1"})
    first = await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    before = await counts(shared_ledger)
    for metadata in ({}, {"try": "2"}, {"try": "1", "more": "x" * 8000}):
        repeat = event_message(event_id=event.event_id, metadata=metadata)
        second = await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=repeat))
        assert second.status == ledger_pb2.INGEST_STATUS_DUPLICATE
        assert second.transaction_id == first.transaction_id
    kept = await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event.event_id))
    assert kept.event == event
    assert await counts(shared_ledger) == before
