"""Events are decoded and encoded, and violations are reported field by field."""

import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.events import OCCURRED_AT, event_message, processor_event, unique
from support.violations import violations_of

from ledger.api.access.authorization import REFUSED_EVENT_TYPES
from ledger.api.convert.events import (
    decode_batch,
    decode_event,
    decode_event_id,
    decode_ingest_event,
    decode_stream_request,
    encode_event,
    encode_ingest_event,
    encode_results,
    encode_stream_response,
    memory_bytes,
    stream_response_bytes,
)
from ledger.application.ingest.event_batch import Booked, IngestStatus
from ledger.application.ports.events import StoredEvent
from ledger.domain.events import (
    AVAILABLE_AT_EVENT_TYPES,
    PAYOUT_EVENT_TYPES,
    PLATFORM_EVENT_TYPES,
    PROCESSOR_FEE_EVENT_TYPES,
    UNIX_EPOCH,
    EventType,
)
from ledger.domain.fields import ID_RULE, METADATA_RULE, REFERENCE_RULE
from ledger.domain.money import AMOUNT_RULE, CURRENCY_RULE
from ledger.errors import EventTypeUnknown, InvalidRequest, RestaurantNotFound, ScopeMissing
from ledger.v1 import ledger_pb2

NOW = datetime.now(UTC)
UUID_TEXT = "0190a1b2-0000-7000-8000-00000000000a"
ID = UUID(UUID_TEXT)


@pytest.mark.parametrize("type", EventType)
def test_stored_event_is_encoded_as_it_was_sent(type: EventType) -> None:
    event = processor_event(
        type,
        restaurant_id="" if type in PLATFORM_EVENT_TYPES else "res_1",
        payout_id=UUID_TEXT if type in PAYOUT_EVENT_TYPES else "",
        available_at=OCCURRED_AT if type in AVAILABLE_AT_EVENT_TYPES else None,
        processor_fee_minor=3 if type in PROCESSOR_FEE_EVENT_TYPES else 0,
        bank_reference="trace ~" if type in PAYOUT_EVENT_TYPES else "",
        failure_code="AC04" if type is EventType.PAYOUT_FAILED else "",
        failure_text="cerrada \U0001f600" if type is EventType.PAYOUT_FAILED else "",
        reference="ref ~",
        metadata={"k": "\U0001f600"},
    )
    response = encode_event(StoredEvent(event, b"", UUID_TEXT, ID, UNIX_EPOCH), [])
    assert decode_event(response.event, NOW) == event
    assert (response.transaction_id, response.recorded_at) == (UUID_TEXT, Timestamp())


def test_every_wrong_field_of_an_event_is_reported_in_the_order_of_the_contract() -> None:
    wrong = event_message(
        0,
        event_id="",
        restaurant_id="a b",
        currency="pen",
        amount_minor=0,
        fee_minor=-1,
        reference="\n",
        metadata={"a": "\0"},
    )
    wrong.ClearField("occurred_at")
    expected = {
        "event_id": ID_RULE,
        "type": "must be one of the event types",
        "restaurant_id": ID_RULE,
        "currency": CURRENCY_RULE,
        # The limit depends on the type, which is missing.
        "amount_minor": "must be at least 1 minor unit",
        "fee_minor": "must be 0 to amount_minor",
        "occurred_at": "must be set",
        "reference": REFERENCE_RULE,
        "metadata": METADATA_RULE,
    }
    numbers = {field.name: field.number for field in ledger_pb2.ProcessorEvent.DESCRIPTOR.fields}
    found = violations_of(decode_event, wrong, NOW, 3)
    assert found == [
        (f"events[3].{field}", expected[field])
        for field in sorted(expected, key=numbers.__getitem__)
    ]


@pytest.mark.parametrize(
    ("fields", "violation"),
    [
        ({"amount_minor": 10**12 + 1}, ("event.amount_minor", AMOUNT_RULE)),
        ({"amount_minor": -(2**63)}, ("event.amount_minor", AMOUNT_RULE)),
        ({"fee_minor": 10_001}, ("event.fee_minor", "must be 0 to amount_minor")),
        ({"payout_id": "x"}, ("event.payout_id", "must be empty on this type of event")),
        ({"reference": "r" * 256}, ("event.reference", REFERENCE_RULE)),
        (
            {"occurred_at": datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)},
            (
                "event.occurred_at",
                "must be 2000-01-01 or later, and at most 5 minutes in the future",
            ),
        ),
        (
            {"occurred_at": NOW + timedelta(minutes=5, microseconds=1)},
            (
                "event.occurred_at",
                "must be 2000-01-01 or later, and at most 5 minutes in the future",
            ),
        ),
    ],
)
def test_value_just_outside_its_range_is_refused(
    fields: dict[str, Any], violation: tuple[str, str]
) -> None:
    assert violations_of(decode_event, event_message(**fields), NOW) == [violation]


def test_timestamp_that_is_no_instant_is_reported() -> None:
    event = event_message()
    event.occurred_at.nanos = -1
    assert violations_of(decode_event, event, NOW) == [
        ("event.occurred_at", "must be a valid timestamp")
    ]


def test_unknown_type_is_the_only_violation() -> None:
    with pytest.raises(EventTypeUnknown) as unknown:
        decode_event(event_message(99, event_id=""), NOW)
    assert (unknown.value.field, unknown.value.number) == ("event.type", 99)


def test_type_that_the_caller_may_not_send_is_refused_first() -> None:
    token = REFUSED_EVENT_TYPES.set({99: "payouts"})  # type: ignore[dict-item]
    try:
        with pytest.raises(ScopeMissing) as missing:
            decode_event(event_message(99, event_id=""), NOW)
    finally:
        REFUSED_EVENT_TYPES.reset(token)
    assert missing.value.scope == "payouts"


def test_request_without_an_event_is_refused() -> None:
    assert violations_of(decode_ingest_event, ledger_pb2.IngestEventRequest(), NOW) == [
        ("event", "must be set")
    ]


@pytest.mark.parametrize("number", [0, 1001])
def test_batch_has_1_to_1000_events(number: int) -> None:
    events = [ledger_pb2.ProcessorEvent()] * number
    rule = [("events", "must be 1 to 1000 events")]
    batch = ledger_pb2.BatchIngestEventsRequest(events=events)
    assert violations_of(decode_batch, batch, NOW) == rule
    stream = ledger_pb2.StreamEventsRequest(events=events)
    assert violations_of(decode_stream_request, stream, NOW) == rule


def test_wrong_event_of_a_batch_leaves_the_others() -> None:
    """In its place is the error, with the place in its path."""
    good = event_message()
    request = ledger_pb2.BatchIngestEventsRequest(
        events=[good, event_message(event_id=""), event_message(99)]
    )
    first, invalid, unknown = decode_batch(request, NOW)
    assert first == decode_event(good, NOW)
    assert isinstance(invalid, InvalidRequest)
    assert [found.field for found in invalid.violations] == ["events[1].event_id"]
    assert isinstance(unknown, EventTypeUnknown)
    assert unknown.field == "events[2].type"


def test_stream_request_has_event_or_events() -> None:
    good = event_message()
    one = ledger_pb2.StreamEventsRequest(event=good)
    assert decode_stream_request(one, NOW) == [decode_event(good, NOW)]
    (refused,) = decode_stream_request(
        ledger_pb2.StreamEventsRequest(event=event_message(event_id="")), NOW
    )
    assert isinstance(refused, InvalidRequest)
    assert [found.field for found in refused.violations] == ["event.event_id"]
    one.events.append(good)
    assert violations_of(decode_stream_request, one, NOW) == [
        ("events", "must be empty if event is set")
    ]


def test_outcomes_are_encoded() -> None:
    """A single event's error is raised; an event of several has it in its result."""
    for status, number in (
        (IngestStatus.CREATED, ledger_pb2.INGEST_STATUS_CREATED),
        (IngestStatus.DUPLICATE, ledger_pb2.INGEST_STATUS_DUPLICATE),
    ):
        booked = Booked(status, UUID_TEXT)
        fields: dict[str, Any] = {"status": number, "transaction_id": UUID_TEXT}
        assert encode_ingest_event(booked) == ledger_pb2.IngestEventResponse(**fields)
        result = ledger_pb2.IngestResult(**fields)
        assert list(encode_results([booked, booked]).results) == [result, result]
        single = encode_stream_response([booked], is_single=True)
        assert single == ledger_pb2.StreamEventsResponse(result=result)
        assert stream_response_bytes([booked], is_single=True) == single.SerializeToString()
        several = encode_stream_response([booked, booked], is_single=False)
        assert several == ledger_pb2.StreamEventsResponse(results=[result, result])
        assert (
            stream_response_bytes([booked, booked], is_single=False) == several.SerializeToString()
        )
    refused = RestaurantNotFound("res_1")
    with pytest.raises(RestaurantNotFound):
        encode_ingest_event(refused)
    (result,) = encode_results([refused]).results
    single = ledger_pb2.StreamEventsResponse(result=result)
    assert stream_response_bytes([refused], is_single=True) == single.SerializeToString()
    assert result.error.details
    assert not result.transaction_id


def test_event_id_is_decoded() -> None:
    assert decode_event_id(ledger_pb2.GetEventRequest(event_id="evt")) == "evt"
    assert violations_of(decode_event_id, ledger_pb2.GetEventRequest(event_id="e v")) == [
        ("event_id", ID_RULE)
    ]


@pytest.mark.parametrize(
    "contents",
    [
        {},
        {"reference": "r" * 255, "restaurant_id": "r" * 128},
        {"metadata": {"text": "x" * 8000}},
        {"metadata": {"text": "x" * 8000 + "\U0001f600"}},
        # Just after a dictionary has grown, when it takes the most for each entry.
        {"metadata": {str(entry): "" for entry in range(350)}},
        {"metadata": {str(entry): "\U0001f600" for entry in range(350)}},
        {"metadata": {str(entry): "" for entry in range(30)}},
        {"event_id": "!" * 8000},
        {
            "event_id": "!",
            "restaurant_id": "!",
            "currency": "!",
            "amount_minor": -1,
            "fee_minor": -1,
            "reference": "\n",
        },
    ],
)
def test_memory_that_decoded_events_take_is_counted(contents: Any) -> None:
    """The estimate is never too low: valid events and others, in large and in small requests."""
    event = event_message(**{"event_id": unique("evt"), **contents})
    for events in (10, 100):
        raw = ledger_pb2.BatchIngestEventsRequest(events=[event] * events).SerializeToString()
        request = ledger_pb2.BatchIngestEventsRequest.FromString(raw)
        # The first call also allocates what later calls share.
        decode_batch(request, NOW)
        tracemalloc.start()
        try:
            decoded = decode_batch(request, NOW)
            taken_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken_bytes <= memory_bytes(decoded, len(raw))


def test_refused_event_keeps_nothing_of_its_request() -> None:
    """It has no traceback, whose frames would keep the request in memory."""
    (refused,) = decode_batch(
        ledger_pb2.BatchIngestEventsRequest(events=[ledger_pb2.ProcessorEvent()]), NOW
    )
    assert isinstance(refused, InvalidRequest)
    assert refused.__traceback__ is None
