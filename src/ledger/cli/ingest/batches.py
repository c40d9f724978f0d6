"""Reads a file of events into batches that fit a message, however large the file is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Self

from ledger.cli.ingest.lines import InvalidLine, parse_event_line
from ledger.errors import FieldViolation
from ledger.limits import MESSAGE_BYTES_MAX
from ledger.v1 import ledger_pb2

# Far more than the largest event takes, however it is escaped, and far less than a message holds.
LINE_BYTES_MAX = 1024 * 1024
# In a message an event takes up to five bytes more than alone, for its tag and its length.
_EVENT_OVERHEAD_BYTES = 5
# Leaves room for the other bytes of the message.
_BATCH_BYTES_MAX = MESSAGE_BYTES_MAX - 1024

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the file, numbered from 1, with its event or the reason why it has none."""

    number: int
    content: ledger_pb2.ProcessorEvent | InvalidLine


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines in their order, their events, and `end_bytes`, the position after the last line."""

    lines: tuple[Line, ...]
    events: tuple[ledger_pb2.ProcessorEvent, ...]
    end_bytes: int

    @classmethod
    def of(cls, lines: Sequence[Line], end_bytes: int) -> Self:
        """The batch of these lines."""
        events = tuple(
            line.content for line in lines if isinstance(line.content, ledger_pb2.ProcessorEvent)
        )
        return cls(tuple(lines), events, end_bytes)


def read_batches(
    source: BinaryIO, *, batch_size: int, ignore_unknown_fields: bool
) -> Iterator[Batch]:
    """The lines of `source` except blank ones, in batches that fit a message. Raises OSError."""
    lines: list[Line] = []
    size_bytes = 0
    end_bytes = 0
    for number, raw, next_bytes in _read_lines(source):
        if raw is not None and not raw.strip():
            continue
        line = Line(number, _parse(raw, ignore_unknown_fields))
        line_bytes = 0
        if isinstance(line.content, ledger_pb2.ProcessorEvent):
            line_bytes = line.content.ByteSize() + _EVENT_OVERHEAD_BYTES
        if len(lines) == batch_size or (lines and size_bytes + line_bytes > _BATCH_BYTES_MAX):
            yield Batch.of(lines, end_bytes)
            lines, size_bytes = [], 0
        lines.append(line)
        size_bytes += line_bytes
        end_bytes = next_bytes
    if lines:
        yield Batch.of(lines, end_bytes)


def _read_lines(source: BinaryIO) -> Iterator[tuple[int, bytes | None, int]]:
    """Each line's number, its bytes (None if the line is too long), and the position after it."""
    number, end_bytes = 0, 0
    while raw := source.readline(LINE_BYTES_MAX + 1):
        number += 1
        end_bytes += len(raw)
        if len(raw) <= LINE_BYTES_MAX:
            yield number, raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw, end_bytes
            continue
        while not raw.endswith(b"\n") and (raw := source.readline(LINE_BYTES_MAX)):
            end_bytes += len(raw)
        yield number, None, end_bytes


def _parse(
    raw: bytes | None, ignore_unknown_fields: bool
) -> ledger_pb2.ProcessorEvent | InvalidLine:
    if raw is None:
        return InvalidLine([FieldViolation("", f"is longer than {LINE_BYTES_MAX} bytes")])
    try:
        return parse_event_line(raw.decode("utf-8"), ignore_unknown_fields=ignore_unknown_fields)
    except UnicodeDecodeError as error:
        return InvalidLine([FieldViolation("", f"is not UTF-8: byte {error.start + 1}")])
    except InvalidLine as error:
        return error
