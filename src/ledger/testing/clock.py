"""The clock of a server in memory, which tests can move."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock

_MICROSECOND = timedelta(microseconds=1)


def _host_now() -> datetime:
    return datetime.now(UTC)


class MovableClock:
    """Runs as the host's clock does, from any instant on, and jumps ahead when a test says so.

    It never shows an instant twice, so what was recorded later has a later instant. Every thread
    may use it.
    """

    def __init__(
        self, start_at: datetime | None = None, *, host_clock: Callable[[], datetime] = _host_now
    ) -> None:
        """`start_at` is aware; None: the host's present instant. Raises ValueError otherwise."""
        self._host_clock = host_clock
        self._lock = Lock()
        self._ahead = timedelta(0)
        if start_at is not None:
            self._ahead = _aware(start_at) - host_clock()
        self._latest = host_clock() + self._ahead

    def now(self) -> datetime:
        """The instant of the server, in UTC, later than every one before."""
        with self._lock:
            self._latest = max(self._host_clock() + self._ahead, self._latest + _MICROSECOND)
            return self._latest

    def advance(self, duration: timedelta = timedelta(0), **parts: float) -> datetime:
        """Jumps ahead by `duration` and by parts that `timedelta` takes, such as `days=7`.

        Returns the instant then. Raises ValueError for less than nothing, as the books of a ledger
        never go back; OverflowError for an instant that Python does not have.
        """
        step = duration + timedelta(**parts)
        if step < timedelta(0):
            raise ValueError("the clock of the books never goes back")
        with self._lock:
            # Raises OverflowError before anything changes.
            self._latest += step
            self._ahead += step
        return self.now()

    def advance_to(self, instant: datetime) -> datetime:
        """Jumps ahead to `instant`, which is aware. Returns it, or what is a little later.

        Raises ValueError when it is past.
        """
        return self.advance(_aware(instant) - self.now())


def _aware(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError("an instant needs its time zone: datetime(2026, 1, 2, tzinfo=UTC)")
    return instant.astimezone(UTC)
