"""Instants as people and files write them."""

import pytest

from ledger.cli.instants import format_instant, parse_instant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-12-01T10:00:00Z", "2025-12-01T10:00:00Z"),
        ("2025-12-01t10:00:00z", "2025-12-01T10:00:00Z"),
        ("2025-12-01T05:00:00-05:00", "2025-12-01T10:00:00Z"),
        ("2025-12-01T15:30:00+0530", "2025-12-01T10:00:00Z"),
        ("2025-12-01T10:00:00-00:00", "2025-12-01T10:00:00Z"),
        ("2025-12-01T10:00:00.5Z", "2025-12-01T10:00:00.500Z"),
        ("2025-12-01T10:00:00.123456789Z", "2025-12-01T10:00:00.123456789Z"),
        ("2025-12-01T10:00:00.000001+00:00", "2025-12-01T10:00:00.000001Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
        ("2025-12-31T23:59:59.999999999-01:00", "2026-01-01T00:59:59.999999999Z"),
        ("1969-12-31T23:59:59.25Z", "1969-12-31T23:59:59.250Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
    ],
)
def test_instant_with_a_zone_is_read_to_the_nanosecond(text: str, expected: str) -> None:
    """For any offset, the instant is shown in UTC with all its digits."""
    assert format_instant(parse_instant(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2025-12-01",
        "2025-12-01T10:00:00",  # no zone
        "2025-12-01T10:00Z",
        "2025-12-01 10:00:00Z",
        "2025-12-01T10:00:00.Z",
        "2025-12-01T10:00:00.1234567890Z",
        "2025-12-01T10:00:00,5Z",
        "2025-12-01T10:00:60Z",  # a leap second
        "2016-12-31T23:59:60Z",  # one that there was
        "2023-02-29T10:00:00Z",
        "2025-13-01T10:00:00Z",
        "2025-12-00T10:00:00Z",
        "2025-12-01T24:00:00Z",
        "2025-12-01T10:00:00+24:00",
        "2025-12-01T10:00:00+01:60",
        "2025-12-01T10:00:00+01",
        "2025-12-01T10:00:00 UTC",
        "2025-12-01T10:00:00Z\n",
        " 2025-12-01T10:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",  # before the year 1
        "9999-12-31T23:59:59-01:00",  # after the year 9999
        "٢٠٢٥-12-01T10:00:00Z",
        "1764583200",
    ],
)
def test_anything_else_is_no_instant(text: str) -> None:
    """No zone, no such day or second, other spellings: an error, never a guess."""
    with pytest.raises(ValueError, match="must be an ISO 8601 instant"):
        parse_instant(text)
