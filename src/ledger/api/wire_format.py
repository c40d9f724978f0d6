"""Parses requests, after a look at those that may take far more memory as a message than as bytes."""

from collections.abc import Callable

from google.protobuf.message import DecodeError, Message

from ledger.api.convert import wrong_number_of_events
from ledger.application.ingest_events import BATCH_EVENTS_MAX
from ledger.errors import MalformedMessage

# A smaller request is parsed as it is: it takes 15 MiB at the most.
COUNTED_BYTES_MIN = 256 * 1024
# Fields beside its events that a request may have, by a contract newer than ours.
FIELDS_SPARE = 16

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


def parse_request(parse: Callable[[bytes], Message], raw: bytes) -> Message:
    """The message in `raw`. Raises MalformedMessage, and InvalidRequest if it has too many events."""
    if len(raw) > COUNTED_BYTES_MIN and has_more_fields(raw, BATCH_EVENTS_MAX + FIELDS_SPARE):
        raise wrong_number_of_events()
    try:
        return parse(raw)
    except DecodeError as error:
        raise MalformedMessage from error


def has_more_fields(raw: bytes, fields_max: int) -> bool:
    """Whether a message has more than `fields_max` fields, not counting those of the messages in it.

    A message of 4 MiB may have two million empty events, which take 270 MiB and most of a second to
    parse. False for what is malformed: the parser says so.
    """
    place = fields = 0
    end = len(raw)
    try:
        while place < end:
            fields += 1
            if fields > fields_max:
                return True
            tag, place = _varint(raw, place)
            kind = tag & 7
            if kind == _LENGTH:
                length, place = _varint(raw, place)
                place += length
            elif kind == _VARINT:
                _, place = _varint(raw, place)
            elif kind in _FIXED_BYTES:
                place += _FIXED_BYTES[kind]
            # Else the start or end of a group, whose fields are counted as if they were our own.
    except IndexError:
        return False
    return False


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """The number that begins at `place`, and where it ends. Raises IndexError if it does not end as it must."""
    value = 0
    for shift in range(0, 70, 7):
        byte = raw[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise IndexError
