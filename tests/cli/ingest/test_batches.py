"""A file of events, read into batches."""

import io
import json

from ledger.cli.ingest.batches import LINE_BYTES_MAX, read_batches
from ledger.cli.ingest.fields import InvalidLine
from ledger.cli.ingest.lines import parse_event_line
from ledger.cli.ingest.sender import EventBatch
from ledger.limits import MESSAGE_BYTES_MAX
from ledger.v1 import ledger_pb2


def line_of(event_id: str, event_type: str = "charge_succeeded", **metadata: str) -> bytes:
    """A valid line."""
    fields = {
        "event_id": event_id,
        "event_type": event_type,
        "occurred_at": "2025-12-01T10:00:00Z",
        "restaurant_id": "res_1",
        "currency": "PEN",
        "amount": 100,
        "metadata": metadata,
    }
    return json.dumps(fields).encode() + b"\n"


def batches_of(*lines: bytes, batch_size: int = 1000) -> list[EventBatch]:
    """The batches of a file of these lines."""
    return list(read_batches(io.BytesIO(b"".join(lines)), parse_event_line, batch_size=batch_size))


def test_batches_have_the_given_size() -> None:
    """In the order of the file, the last one shorter."""
    batches = batches_of(*(line_of(f"evt_{number}") for number in range(5)), batch_size=2)
    assert [[event.event_id for event in batch.messages] for batch in batches] == [
        ["evt_0", "evt_1"],
        ["evt_2", "evt_3"],
        ["evt_4"],
    ]
    assert batches_of() == []


def test_blank_lines_are_skipped_and_counted() -> None:
    """So that line numbers are those an editor shows."""
    (batch,) = batches_of(b"\n", line_of("evt_1"), b" \t\r\n", line_of("evt_2").rstrip())
    assert [line.number for line in batch.lines] == [2, 4]


def test_windows_files_are_read() -> None:
    """A byte order mark at the start, and both characters at the end of a line."""
    (batch,) = batches_of(
        b"\xef\xbb\xbf" + line_of("evt_1").replace(b"\n", b"\r\n"), line_of("evt_2")
    )
    assert [event.event_id for event in batch.messages] == ["evt_1", "evt_2"]


def test_bad_lines_keep_their_place() -> None:
    """Lines that are no UTF-8, no JSON or too long are reported, and the next lines are read."""
    too_long = b'{"event_id": "' + b"x" * (3 * LINE_BYTES_MAX) + b'"}\n'
    (batch,) = batches_of(b'{"event_id": "\xff"}\n', b"{\n", too_long, line_of("evt_4"))
    assert [line.number for line in batch.lines] == [1, 2, 3, 4]
    reasons = [str(line.content) for line in batch.lines if isinstance(line.content, InvalidLine)]
    assert reasons[0] == "is not UTF-8: byte 15"
    assert reasons[1].startswith("is not JSON")
    assert reasons[2] == f"is longer than {LINE_BYTES_MAX} bytes"
    assert [event.event_id for event in batch.messages] == ["evt_4"]


def test_batch_fits_a_message() -> None:
    """Even if the batch size allows more lines."""
    batches = batches_of(*(line_of(f"evt_{number}", note="x" * 900_000) for number in range(9)))
    sizes = [
        ledger_pb2.BatchIngestEventsRequest(events=batch.messages).ByteSize() for batch in batches
    ]
    assert max(sizes) <= MESSAGE_BYTES_MAX
    assert [len(batch.lines) for batch in batches] == [4, 4, 1]


def test_batch_has_its_place_in_the_file() -> None:
    """In bytes up to its end; the last one ends where the file ends."""
    lines = [line_of(f"evt_{number}") for number in range(3)]
    first, last = batches_of(*lines, batch_size=2)
    assert first.end_bytes == len(lines[0]) + len(lines[1])
    assert last.end_bytes == sum(map(len, lines))
