"""Months of archives."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from ledger.domain.archives import month_bounds
from ledger.zones import settlement_zone

LIMA = settlement_zone("America/Lima")


@pytest.mark.parametrize(
    ("first", "before", "expected"),
    [
        (
            "2025-01-15T00:00",
            "2025-03-10T05:00",
            ["2025-01-01T05:00", "2025-02-01T05:00", "2025-03-01T05:00", "2025-03-10T05:00"],
        ),
        ("2025-12-31T23:00", "2026-01-01T05:00", ["2025-12-01T05:00", "2026-01-01T05:00"]),
        # In Lima it is still November.
        ("2025-12-01T04:59", "2025-12-01T05:00", ["2025-11-01T05:00", "2025-12-01T05:00"]),
        ("2025-12-01T05:00", "2025-12-01T05:01", ["2025-12-01T05:00", "2025-12-01T05:01"]),
    ],
)
def test_months_begin_in_the_settlement_zone(first: str, before: str, expected: list[str]) -> None:
    """The last month ends at `before`. Every month has a positive length."""
    first_at, before_at = (
        datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (first, before)
    )
    bounds = month_bounds(first_at, before_at, LIMA)
    assert [f"{bound.astimezone(UTC):%Y-%m-%dT%H:%M}" for bound in bounds] == expected
    assert all(later - earlier > timedelta(0) for earlier, later in pairwise(bounds))
