"""Reads a file of lines into batches that fit a message, however large the file is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Generic, Self, TypeVar

from google.protobuf.message import Message

from ledger.cli.ingest.fields import InvalidLine
from ledger.errors import FieldViolation
from ledger.limits import MESSAGE_BYTES_MAX

MessageT = TypeVar("MessageT", bound=Message)

# Far more than the largest line takes, however it is escaped, and far less than a message holds.
LINE_BYTES_MAX = 1024 * 1024
# Inside a request a message takes up to five bytes more than alone, for its tag and its length.
_OVERHEAD_BYTES = 5
# Leaves room for the other bytes of the message.
_BATCH_BYTES_MAX = MESSAGE_BYTES_MAX - 1024

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line(Generic[MessageT]):
    """A line of the file, numbered from 1, with its message or the reason why it has none."""

    number: int
    content: MessageT | InvalidLine


@dataclass(frozen=True, slots=True)
class Batch(Generic[MessageT]):
    """Lines in their order, their messages, and `end_bytes`, the position after the last line."""

    lines: tuple[Line[MessageT], ...]
    messages: tuple[MessageT, ...]
    end_bytes: int

    @classmethod
    def of(cls, lines: Sequence[Line[MessageT]], end_bytes: int) -> Self:
        """The batch of these lines."""
        messages = tuple(
            line.content for line in lines if not isinstance(line.content, InvalidLine)
        )
        return cls(tuple(lines), messages, end_bytes)


def read_batches(
    source: BinaryIO, parse: Callable[[str], MessageT | None], *, batch_size: int
) -> Iterator[Batch[MessageT]]:
    """The lines of `source` except blank ones, in batches that fit a message. Raises OSError.

    `parse` turns a line into a message, or raises InvalidLine; a line of which it makes None is
    left out.
    """
    lines: list[Line[MessageT]] = []
    size_bytes = 0
    end_bytes = 0
    for number, raw, next_bytes in _read_lines(source):
        if raw is not None and not raw.strip():
            continue
        content = _parse(raw, parse)
        if content is None:
            continue
        line_bytes = 0
        if not isinstance(content, InvalidLine):
            line_bytes = content.ByteSize() + _OVERHEAD_BYTES
        if len(lines) == batch_size or (lines and size_bytes + line_bytes > _BATCH_BYTES_MAX):
            yield Batch.of(lines, end_bytes)
            lines, size_bytes = [], 0
        lines.append(Line(number, content))
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
    raw: bytes | None, parse: Callable[[str], MessageT | None]
) -> MessageT | InvalidLine | None:
    if raw is None:
        return InvalidLine([FieldViolation("", f"is longer than {LINE_BYTES_MAX} bytes")])
    try:
        return parse(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return InvalidLine([FieldViolation("", f"is not UTF-8: byte {error.start + 1}")])
    except InvalidLine as error:
        return error
