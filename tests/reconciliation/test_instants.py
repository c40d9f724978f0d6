"""Instants of reports, in the zones that processors write."""

from datetime import UTC, datetime, timedelta

import pytest

from ledger.reconciliation.instants import DAY, MINUTE, SECOND, read_instant, zone_of


@pytest.mark.parametrize(
    ("text", "zone", "instant", "exact_to"),
    [
        ("2026-09-15 10:22:31", "UTC", "2026-09-15T10:22:31", SECOND),
        ("2026-09-15 10:22", "UTC", "2026-09-15T10:22:00", MINUTE),
        ("2026-09-15", "UTC", "2026-09-15T00:00:00", DAY),
        ("2026-02-10T21:30:00.000-03:00", "UTC", "2026-02-11T00:30:00", SECOND),
        ("2026-02-10T21:30:00Z", "", "2026-02-10T21:30:00", SECOND),
        ("2020-02-23 12:14:04", "PST", "2020-02-23T20:14:04", SECOND),
        ("2020-02-23 12:14:04 PST", "", "2020-02-23T20:14:04", SECOND),
        ("2026-07-01 12:00:00", "CEST", "2026-07-01T10:00:00", SECOND),
        ("2026-07-01 12:00:00", "America/Lima", "2026-07-01T17:00:00", SECOND),
        ("2026-07-01 12:00:00", "-04:00", "2026-07-01T16:00:00", SECOND),
        ("2026-07-01 12:00:00", "GMT-04", "2026-07-01T16:00:00", SECOND),
    ],
)
def test_instants_are_read_in_their_zone(
    text: str, zone: str, instant: str, exact_to: timedelta
) -> None:
    read = read_instant(text, zone_of(zone) if zone else None)
    assert read == (datetime.fromisoformat(instant).replace(tzinfo=UTC), exact_to)


def test_other_dates_are_read_by_a_pattern() -> None:
    zone = zone_of("America/Lima")
    assert read_instant("31/12/2025 23:00", zone, "%d/%m/%Y %H:%M")[0] == datetime(
        2026, 1, 1, 4, tzinfo=UTC
    )
    assert read_instant("31/12/2025", zone, "%d/%m/%Y")[1] == DAY
    with pytest.raises(ValueError, match="as %d/%m/%Y has it"):
        read_instant("12/31/2025", zone, "%d/%m/%Y")


@pytest.mark.parametrize(
    "text",
    [
        "", "2026", "15/09/2026", "2026-02-30", "2026-09-15 25:00:00", "45917.4", "=NOW()",
        "0000-00-00 00:00:00", "0001-01-01T00:00:00+14:00",
    ],
)  # fmt: skip
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be an instant"):
        read_instant(text, UTC)


def test_an_instant_without_a_zone_needs_one() -> None:
    with pytest.raises(ValueError, match="--timezone"):
        read_instant("2026-09-15 10:22:31", None)


@pytest.mark.parametrize("name", ["IST", "localtime", "Mars/Base", "+25:00", "", "UTC+1:75"])
def test_unknown_zones_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"zone|offset"):
        zone_of(name)
