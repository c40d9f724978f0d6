"""The clock that tests move."""

from datetime import UTC, datetime, timedelta

import pytest

from ledger.testing.clock import MovableClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_no_instant_comes_twice() -> None:
    """Even if the host's clock stands still, or goes back."""
    host = iter([NOON, NOON, NOON, NOON, NOON - timedelta(hours=1)])
    clock = MovableClock(host_clock=lambda: next(host))
    instants = [clock.now() for _ in range(3)]
    assert instants == sorted(set(instants))
    assert instants[-1] - NOON < timedelta(seconds=1)


def test_it_begins_at_an_instant_and_goes_on_from_there() -> None:
    """In whatever zone the instant is given."""
    lima = NOON.astimezone()
    clock = MovableClock(lima)
    first = clock.now()
    assert NOON <= first < NOON + timedelta(minutes=1)
    assert first.tzinfo is UTC
    assert clock.now() > first


def test_it_jumps_ahead() -> None:
    """By a duration, by parts of one, or to an instant."""
    clock = MovableClock(NOON)
    assert clock.advance(timedelta(hours=1), days=7) - NOON >= timedelta(days=7, hours=1)
    assert clock.advance_to(NOON + timedelta(days=30)) - NOON >= timedelta(days=30)
    assert clock.now() - NOON < timedelta(days=30, minutes=1)


def test_it_never_goes_back() -> None:
    """Neither by less than nothing nor to what is past."""
    clock = MovableClock(NOON)
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(days=-1)
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance_to(NOON - timedelta(days=1))


def test_an_instant_that_python_lacks_is_refused() -> None:
    """The clock goes on as it was."""
    clock = MovableClock(NOON)
    with pytest.raises(OverflowError):
        clock.advance(days=10**7)
    assert clock.now() - NOON < timedelta(minutes=1)


def test_instants_need_a_zone() -> None:
    """A naive instant would be read in the zone of one host."""
    with pytest.raises(ValueError, match="time zone"):
        MovableClock(NOON.replace(tzinfo=None))
    with pytest.raises(ValueError, match="time zone"):
        MovableClock(NOON).advance_to(NOON.replace(tzinfo=None))
