"""Instants as people and files write them: ISO 8601 with a zone."""

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp

INSTANT_RULE = (
    "must be an ISO 8601 instant with Z or an offset, such as 2025-12-01T10:00:00Z or"
    " 2025-12-01T05:00:00.5-05:00"
)

_INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2}))"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


def parse_instant(text: str) -> Timestamp:
    """Parses an instant with a fraction of up to nine digits.

    Raises ValueError, with a rule for people, for anything else: no zone, more digits, a day or
    second that does not exist, a leap second.
    """
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise ValueError(INSTANT_RULE)
    *date_and_time, fraction, sign, hours, minutes = match.groups()
    try:
        zone = UTC
        if sign is not None:
            if int(minutes) > 59:
                raise ValueError("minute of the offset")
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            zone = timezone(offset if sign == "+" else -offset)
        year, month, day, hour, minute, second = map(int, date_and_time)
        instant = datetime(year, month, day, hour, minute, second, tzinfo=zone)
        # Raises OverflowError if the instant in UTC is outside the years 1 to 9999.
        seconds = (instant.astimezone(UTC) - _EPOCH) // _SECOND
    except (ValueError, OverflowError):
        raise ValueError(f"{INSTANT_RULE}; there is no such date, time or offset") from None
    return Timestamp(seconds=seconds, nanos=int((fraction or "").ljust(9, "0")))


def format_instant(timestamp: Timestamp) -> str:
    """The instant in UTC, with 0, 3, 6 or 9 digits of the fraction, as many as it needs."""
    return _formatted(timestamp.seconds, timestamp.nanos)


# Cached: the entries of an event share their instants, the entries of a batch the recording time.
@lru_cache(maxsize=1024)
def _formatted(seconds: int, nanos: int) -> str:
    timestamp = Timestamp(seconds=seconds, nanos=nanos)
    try:
        return timestamp.ToJsonString()
    except ValueError:
        # Outside the years 1 to 9999; our servers never send such an instant.
        return f"{timestamp.seconds} s"
