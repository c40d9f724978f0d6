"""Instants are encoded and decoded to the microsecond."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.api.convert.instants import (
    decode_instant,
    encode_instant,
    encode_optional_instant,
    write_microseconds,
)
from ledger.domain.events import UNIX_EPOCH, microseconds

FIRST = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
INSTANTS = (
    FIRST,
    UNIX_EPOCH - timedelta(microseconds=1),
    UNIX_EPOCH,
    UNIX_EPOCH + timedelta(microseconds=1),
    UNIX_EPOCH + timedelta(days=1),
    LAST,
)
SECONDS_MIN, SECONDS_MAX = -62_135_596_800, 253_402_300_799


@pytest.mark.parametrize("instant", INSTANTS)
def test_instant_is_encoded_as_protobuf_does(instant: datetime) -> None:
    plain, written = Timestamp(), Timestamp()
    plain.FromDatetime(instant)
    write_microseconds(written, microseconds(instant))
    assert encode_instant(instant) == encode_optional_instant(instant) == written == plain
    assert decode_instant(plain) == instant


def test_no_instant_is_no_message() -> None:
    assert encode_optional_instant(None) is None


def test_finer_digits_are_cut_off() -> None:
    """Toward the past, also before 1970, so the order of instants stays the same."""
    cut = decode_instant(Timestamp(seconds=-1, nanos=999_999_999))
    assert cut == UNIX_EPOCH - timedelta(microseconds=1)
    assert decode_instant(Timestamp(nanos=999)) == UNIX_EPOCH


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        (SECONDS_MIN - 1, 0),
        (SECONDS_MAX + 1, 0),
        (-(2**63), 0),
        (2**63 - 1, 0),
        (0, -1),
        (0, 1_000_000_000),
        (0, 2**31 - 1),
    ],
)
def test_timestamp_outside_its_range_is_no_instant(seconds: int, nanos: int) -> None:
    assert decode_instant(Timestamp(seconds=seconds, nanos=nanos)) is None


def test_timestamp_at_the_ends_of_its_range_is_an_instant() -> None:
    assert decode_instant(Timestamp(seconds=SECONDS_MIN)) == FIRST
    assert decode_instant(Timestamp(seconds=SECONDS_MAX, nanos=999_999_999)) == LAST
