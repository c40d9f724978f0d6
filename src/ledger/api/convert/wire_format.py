"""Parses requests. Checks large ones first: as messages they may take far more memory, and time,
than as bytes.
"""

from collections.abc import Callable, Iterator

from google.protobuf.message import DecodeError, Message

from ledger.api.convert.batches import EVENTS, BatchItems
from ledger.errors import MalformedMessage
from ledger.limits import BATCH_METADATA_ENTRIES_MAX

# A smaller request is parsed without a check: it takes at most 15 MiB, and has at most 45,000
# different entries of metadata.
COUNTED_BYTES_MIN = 256 * 1024
# How many fields a request may have beside its items, in a contract newer than ours.
FIELDS_SPARE = 16
# How many fields all its items may have beside their metadata: 32 each if there are 1,000. In our
# contract an event has 9, and a payment 10.
OTHER_FIELDS_MAX = 32_000

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


def parse_request(
    parse: Callable[[bytes], Message], raw: bytes, items: BatchItems = EVENTS
) -> Message:
    """The message in `raw`. Raises MalformedMessage; InvalidRequest if it has too many `items` or
    too much metadata.
    """
    if len(raw) > COUNTED_BYTES_MIN:
        if has_more_fields(raw, items.items_max + FIELDS_SPARE):
            raise items.wrong_number()
        if has_more_metadata(raw, BATCH_METADATA_ENTRIES_MAX, items):
            raise items.too_much_metadata()
    try:
        return parse(raw)
    except DecodeError:
        # The parser's error has no particulars.
        raise MalformedMessage from None


def has_more_fields(raw: bytes, fields_max: int) -> bool:
    """Whether a message has more than `fields_max` fields, without those of the messages in it.

    A message of 4 MiB may have two million empty events, which take 270 MiB and most of a second to
    parse. False for malformed bytes: the parser rejects them.
    """
    return any(number > fields_max for number, _ in enumerate(_fields(raw, 0, len(raw)), start=1))


def has_more_metadata(raw: bytes, entries_max: int, items: BatchItems = EVENTS) -> bool:
    """Whether the items of a request have more than `entries_max` entries of metadata together.

    A message of 4 MiB may have 600,000 different ones, which stop all other calls for a second
    while they are parsed. True also for more than OTHER_FIELDS_MAX other fields: there may be two
    million, and a look at all of them takes three seconds. False for malformed bytes.
    """
    # There are at most as many entries as tags. This count is fast; a look at each field takes as
    # long as parsing it.
    metadata_tag = items.metadata_number << 3 | _LENGTH
    # A parser takes a longer form of the same number, too.
    tags = (bytes([metadata_tag]), bytes([metadata_tag | 0x80]))
    if sum(raw.count(tag) for tag in tags) <= entries_max:
        return False
    entries = others = 0
    # The fields of a request, whatever their tags, are taken for items.
    for _, place in _fields(raw, 0, len(raw)):
        for tag, _ in _fields(raw, *place):
            if tag == metadata_tag:
                entries += 1
            else:
                others += 1
            if entries > entries_max or others > OTHER_FIELDS_MAX:
                return True
    return False


def _fields(raw: bytes, place: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yields the tag of each field of a message, and where its contents are if they have a length.

    Ends where the message is malformed.
    """
    try:
        while place < end:
            tag, place = _varint(raw, place)
            kind = tag & 7
            contents = (place, place)
            if kind == _LENGTH:
                length, place = _varint(raw, place)
                contents = (place, min(place + length, end))
                place += length
            elif kind == _VARINT:
                _, place = _varint(raw, place)
            elif kind in _FIXED_BYTES:
                place += _FIXED_BYTES[kind]
            # Else the start or end of a group, whose fields are counted as if they were our own.
            yield tag, contents
    except IndexError:
        return


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """The number that begins at `place`, and where it ends.

    Raises IndexError if the bytes end within it, or if it is too long.
    """
    value = 0
    for shift in range(0, 70, 7):
        byte = raw[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise IndexError
