"""Periods of the journal and the trial balance."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from ledger.domain.journals import Days, Finality, Period, period_of
from ledger.errors import InvalidRequest

LIMA = ZoneInfo("America/Lima")
NOW_AT = datetime(2025, 12, 1, 3, 0, tzinfo=UTC)


def test_period_begins_and_ends_by_dates_of_the_zone() -> None:
    """At 03:00 UTC it is still November in Lima, and today is in the period by default."""
    period = period_of(date(2025, 11, 1), None, LIMA, NOW_AT)
    assert period.end_day == date(2025, 12, 1)
    assert period.start_at == datetime(2025, 11, 1, 5, tzinfo=UTC)
    assert period.end_at == datetime(2025, 12, 1, 5, tzinfo=UTC)
    assert period_of(None, None, UTC, NOW_AT).end_day == date(2025, 12, 2)


def test_period_without_a_first_date_begins_before_all_entries() -> None:
    assert period_of(None, date(2025, 12, 1), LIMA, NOW_AT).start_at.year == 2000


@pytest.mark.parametrize(
    ("first_day", "end_day", "complaint"),
    [
        (date(2025, 12, 1), None, "since must not be in the future; today is 2025-11-30"),
        (date(2025, 11, 2), date(2025, 11, 2), "since must be earlier than --before"),
        (date(2025, 11, 2), date(2025, 11, 1), "since must be earlier than --before"),
        (date(1999, 12, 31), None, "since must not be before 2000-01-01"),
        (None, date(1999, 12, 31), "before must not be before 2000-01-01"),
        (None, date.max, "before is too far in the future"),
    ],
    ids=str,
)
def test_wrong_periods_are_refused(
    first_day: date | None, end_day: date | None, complaint: str
) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        period_of(first_day, end_day, LIMA, NOW_AT)


def test_period_is_final_a_minute_after_its_end() -> None:
    """Until then a transaction that began before the end may commit."""
    period = Period(None, date(2025, 12, 1), UTC)
    end_at = datetime(2025, 12, 1, tzinfo=UTC)
    moment = timedelta(microseconds=1)
    assert period.finality(end_at - moment) is Finality.OPEN
    assert period.finality(end_at) is Finality.JUST_ENDED
    assert period.finality(end_at + timedelta(minutes=1) - moment) is Finality.JUST_ENDED
    assert period.finality(end_at + timedelta(minutes=1)) is Finality.FINAL


@pytest.mark.parametrize("name", ["America/Lima", "America/Sao_Paulo", "Asia/Kathmandu", "UTC"])
def test_days_are_the_dates_of_the_zone(name: str) -> None:
    """In any order, over years in which clocks are set forward over midnight and back at it."""
    zone = ZoneInfo(name)
    days = Days(zone)
    instants = [datetime(2017, 1, 1, tzinfo=UTC) + timedelta(minutes=30) * n for n in range(40_000)]
    for instant in [*instants, *instants[:100]]:
        assert days.of(instant) == instant.astimezone(zone).date()
