"""Checks of the bytes of a message before the server parses them."""

from typing import Any

import pytest
from google.protobuf.message import Message
from support.violations import violations_of

from ledger.api.convert import wire_format
from ledger.api.convert.batches import EVENTS, PAYMENTS, TRANSFERS, BatchItems
from ledger.api.convert.wire_format import (
    COUNTED_BYTES_MIN,
    has_more_fields,
    has_more_metadata,
    parse_request,
)
from ledger.errors import MalformedMessage
from ledger.v1 import ledger_pb2, payment_pb2

EVENT = ledger_pb2.ProcessorEvent(event_id="evt", metadata={"a": "b" * 300})
BATCHES = pytest.mark.parametrize(
    ("message", "items"),
    [
        (ledger_pb2.BatchIngestEventsRequest, EVENTS),
        (ledger_pb2.StreamEventsRequest, EVENTS),
        (payment_pb2.BatchAuthorizePaymentsRequest, PAYMENTS),
        (payment_pb2.BatchTransfersRequest, TRANSFERS),
    ],
    ids=["batch", "stream", "payments", "transfers"],
)


@pytest.mark.parametrize("events", [0, 1, 3, 4])
def test_fields_are_counted_up_to_the_bound(events: int) -> None:
    """Fields of nested messages are not counted."""
    raw = ledger_pb2.BatchIngestEventsRequest(events=[EVENT] * events).SerializeToString()
    assert has_more_fields(raw, 3) is (events > 3)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    "kind", [b"\x08\x01", b"\x0d1234", b"\x0912345678", b"\x0a\x0212", b"\x0b\x0c"]
)
def test_fields_of_every_kind_are_counted(kind: bytes, number: int) -> None:
    """Varints, fixed-size numbers and texts; a group counts as two."""
    fields = number * (2 if kind == b"\x0b\x0c" else 1)
    assert has_more_fields(kind * number, fields - 1)
    assert not has_more_fields(kind * number, fields)


@pytest.mark.parametrize(
    "raw", [b"\x80", b"\x0a\x80", b"\x80" * 4096, b"\x0a\xff\xff\xff\xff\x0f", b"\x08"]
)
def test_malformed_message_is_left_to_the_parser(raw: bytes) -> None:
    """The error of the parser names the fault."""
    assert not has_more_fields(raw, 3)


@BATCHES
def test_request_with_far_too_many_items_is_not_parsed(message: Any, items: BatchItems) -> None:
    """Two million empty events would take 270 MiB; a thousand large ones are parsed."""

    def parse(_: bytes) -> Message:
        raise ZeroDivisionError

    field = message.DESCRIPTOR.fields_by_name[items.field]
    empty = bytes([field.number << 3 | 2, 0])
    assert violations_of(parse_request, parse, empty * 2_000_000, items) == [
        (items.field, f"must be 1 to 1000 {items.field}")
    ]
    large = message(**{items.field: [{"metadata": {"a": "b" * 300}}] * 1000})
    assert parse_request(message.FromString, large.SerializeToString(), items) == large


def with_metadata(message: Any, items: BatchItems, sizes: list[int]) -> bytes:
    """A request whose items have that many entries of metadata each.

    They also have a text that looks like many more entries.
    """
    tag = chr(items.metadata_number << 3 | 2)
    made = [
        {
            "reference": tag * COUNTED_BYTES_MIN,
            "metadata": {f"{entry}": "" for entry in range(size)},
        }
        for size in sizes
    ]
    raw: bytes = message(**{items.field: made}).SerializeToString()
    return raw


@BATCHES
def test_request_with_far_too_much_metadata_is_not_parsed(
    message: Any, items: BatchItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    """600,000 entries in 4 MiB would stop the server for a second.

    The entries of all items count together.
    """
    monkeypatch.setattr(wire_format, "BATCH_METADATA_ENTRIES_MAX", 300)

    def parse(_: bytes) -> Message:
        raise ZeroDivisionError

    for sizes in ([301], [200, 101]):
        raw = with_metadata(message, items, sizes)
        assert violations_of(parse_request, parse, raw, items) == [
            (items.field, "must have at most 64000 entries of metadata together")
        ]
    raw = with_metadata(message, items, [200, 100])
    assert parse_request(message.FromString, raw, items) == message.FromString(raw)


def test_metadata_of_the_single_event_of_a_stream_is_counted() -> None:
    """It counts like the metadata of events in a list."""
    event = ledger_pb2.ProcessorEvent(metadata={"a": "", "b": "", "c": ""})
    raw = ledger_pb2.StreamEventsRequest(event=event).SerializeToString()
    assert (has_more_metadata(raw, 2), has_more_metadata(raw, 3)) == (True, False)


@pytest.mark.parametrize("spare", [0, 1])
def test_other_fields_of_events_are_read_up_to_a_bound(spare: int) -> None:
    """Counting two million fields in 4 MiB would stop the server for three seconds.

    Parsing them is fast.
    """
    # An amount of 0x52, which is also the tag of metadata: only reading each field shows which.
    amount = b"\x28\x52"
    of_64_fields = b"\x0a\x80\x01" + amount * 64
    raw = of_64_fields * (wire_format.OTHER_FIELDS_MAX // 64) + (b"\x0a\x02" + amount) * spare
    assert has_more_metadata(raw, 3) == bool(spare)


def test_metadata_with_a_tag_longer_than_it_must_be_is_counted() -> None:
    """The parser accepts such a tag, too."""
    entry = b"\xd2\x80\x00\x03\x0a\x01a"
    raw = b"\x0a" + bytes([3 * len(entry)]) + 3 * entry
    assert ledger_pb2.BatchIngestEventsRequest.FromString(raw).events[0].metadata == {"a": ""}
    assert (has_more_metadata(raw, 2), has_more_metadata(raw, 3)) == (True, False)


def test_message_that_cannot_be_parsed_is_malformed() -> None:
    """Small messages and large ones."""
    for size_bytes in (1, 1_000_000):
        with pytest.raises(MalformedMessage):
            parse_request(ledger_pb2.BatchIngestEventsRequest.FromString, b"\x80" * size_bytes)
