"""Logs an outage of the database: its beginning, its end, and a rare line in between."""

import asyncio
import time
from collections.abc import Callable

import structlog

from ledger.errors import DatabaseTimeout, DatabaseUnavailable

# When the log repeats that the database is away; the wait doubles each time.
REMIND_SECONDS_MIN = 60.0
REMIND_SECONDS_MAX = 3600.0
# How long the log line of a failed database call is delayed, until the watch of the hosts knows
# whether the database is away.
LINE_DELAY_SECONDS = 2.0
# The time of the last log line is kept for this many kinds of failures.
LOGGED_KINDS_MAX = 1000

_log = structlog.get_logger("ledger")


class Outages:
    """Whether the database is away, for the log."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_at: float | None = None
        self._last_began_at = float("-inf")
        self._remind_at = 0.0
        self._remind_seconds = REMIND_SECONDS_MIN
        self._logged_at: dict[str, float] = {}
        self._delayed: dict[str, asyncio.TimerHandle] = {}

    def began(self, cause: str) -> None:
        """Reports that no host can be used; `cause` names them. Call it again while that lasts."""
        now = self._clock()
        if self._began_at is None:
            self._began_at = self._last_began_at = now
            self._remind_seconds = REMIND_SECONDS_MIN
            _log.warning("the database is away", cause=cause)
        elif now < self._remind_at:
            return
        else:
            _log.warning(
                "the database is still away", cause=cause, seconds=round(now - self._began_at, 1)
            )
            self._remind_seconds = min(2 * self._remind_seconds, REMIND_SECONDS_MAX)
        self._remind_at = now + self._remind_seconds

    def ended(self, host: str) -> None:
        """Reports that a host can be used. Does nothing if that was so before."""
        if self._began_at is None:
            return
        _log.warning(
            "the database is back", host=host, seconds=round(self._clock() - self._began_at, 1)
        )
        self._began_at = None

    def worker_failed(self, what: str, error: BaseException) -> None:
        """Logs that a worker failed: the same failure rarely, and not during an outage.

        `what` is the sentence to log, and stands for the kind of failure. An outage has a separate
        line. So if the database may be the cause, this line is delayed by LINE_DELAY_SECONDS, and
        dropped if an outage is found by then.
        """
        line = {"error": type(error).__name__, "cause": repr(error.__cause__ or error)}
        if not isinstance(error, (DatabaseUnavailable, DatabaseTimeout)):
            _log.warning(what, **line)
            return
        failed_at = self._clock()
        # Reads of balances can fail a thousand times a second: one delayed line covers all of them.
        if (
            what in self._delayed
            or self._logged_at.get(what, float("-inf")) > failed_at - REMIND_SECONDS_MIN
        ):
            return

        def decide() -> None:
            del self._delayed[what]
            if self._began_at is None and self._last_began_at < failed_at - LINE_DELAY_SECONDS:
                if len(self._logged_at) >= LOGGED_KINDS_MAX:
                    self._logged_at.clear()
                self._logged_at[what] = failed_at
                _log.warning(what, **line)

        self._delayed[what] = asyncio.get_running_loop().call_later(LINE_DELAY_SECONDS, decide)

    @property
    def delayed_lines(self) -> int:
        """How many log lines are delayed, at most one for each kind of failure."""
        return len(self._delayed)

    def drop_delayed_lines(self) -> None:
        """Drops the lines that are delayed now."""
        for line in self._delayed.values():
            line.cancel()
        self._delayed.clear()
