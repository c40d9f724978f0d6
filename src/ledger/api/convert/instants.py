"""Instants, between the contract's timestamps and aware datetimes."""

from datetime import datetime, timedelta

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.domain.events import UNIX_EPOCH
from ledger.errors import FieldViolation

_SECONDS_A_DAY = 86_400
_NANOS_A_SECOND = 1_000_000_000
# 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, the range of google.protobuf.Timestamp.
_SECONDS_MIN = -62_135_596_800
_SECONDS_MAX = 253_402_300_799


def decode_instant(timestamp: Timestamp) -> datetime | None:
    """The instant in microseconds, finer digits cut off; None for what google.protobuf.Timestamp
    does not allow.
    """
    seconds, nanos = timestamp.seconds, timestamp.nanos
    if not (_SECONDS_MIN <= seconds <= _SECONDS_MAX and 0 <= nanos < _NANOS_A_SECOND):
        return None
    return UNIX_EPOCH + timedelta(0, seconds, nanos // 1000)


def decode_instant_of(
    request: Message, field: str, violations: list[FieldViolation]
) -> datetime | None:
    """The instant in a field that may be unset. Adds a violation if it is not a valid one."""
    if not request.HasField(field):
        return None
    instant = decode_instant(getattr(request, field))
    if instant is None:
        violations.append(FieldViolation(field, "must be a valid timestamp"))
    return instant


def encode_instant(instant: datetime) -> Timestamp:
    since = instant - UNIX_EPOCH
    message = Timestamp()
    message.seconds = since.days * _SECONDS_A_DAY + since.seconds
    message.nanos = since.microseconds * 1000
    return message


def encode_optional_instant(instant: datetime | None) -> Timestamp | None:
    return None if instant is None else encode_instant(instant)


def write_microseconds(message: Timestamp, microseconds: int) -> None:
    message.seconds, rest = divmod(microseconds, 1_000_000)
    message.nanos = rest * 1000
