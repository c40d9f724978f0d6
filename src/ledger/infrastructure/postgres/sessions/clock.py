"""The clock of the books: the database's, but never behind what was recorded before."""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.sessions.engine import autocommit

# Moves the clock of the books past the latest record. For books that moved without their sequences,
# as with logical replication, and for those of earlier revisions.
CATCH_UP_CLOCK = "SELECT catch_up_ledger_clock()"

SELECT_CLOCKS = "SELECT clock_timestamp() AS database_at, ledger_now() AS ledger_at"

# A larger difference is logged: between the clocks of host and database, and between the database's
# clock and the latest record.
SKEW_SECONDS_MAX = 1.0

_log = structlog.get_logger("ledger")


def host_now() -> datetime:
    """The time of the host's clock, in UTC."""
    return datetime.now(UTC)


def steady_seconds() -> float:
    """Seconds of a clock that is never set.

    Where the system has such a clock, it continues while the host is suspended.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


class LedgerClock:
    """Compares the clocks of books, database and host, and knows the latest of them.

    It asks the database in `measure` only, and continues from there by the host's monotonic clock.
    """

    def __init__(
        self,
        *,
        host_clock: Callable[[], datetime] = host_now,
        steady_clock: Callable[[], float] = steady_seconds,
        on_measured: Callable[[float, float], None] = lambda _skew_seconds, _behind_seconds: None,
        on_jump: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """The callbacks get seconds.

        `on_measured` gets how far the host's clock is ahead of the database's, and how far the
        database's is behind the latest record. `on_jump` gets how far the database's clock jumped,
        negative if it jumped back.
        """
        self._host_clock = host_clock
        self._steady_clock = steady_clock
        self._on_measured = on_measured
        self._on_jump = on_jump
        self._ledger_at: datetime | None = None
        self._measured_at = 0.0
        # The previous reading: the database's clock, the steady clock, and by how much they may be
        # off.
        self._before: tuple[datetime, float, float] | None = None
        self._skewed = False
        self._behind = False

    def latest(self) -> datetime:
        """The later of the books' time and the host's: `occurred_at` is compared with it.

        While one of the two is right, the other may be behind: the server still accepts events that
        happen now.

            database 2 hours back, host right    the host's time
            host 10 minutes back, books right    the time of the books
        """
        host_at = self._host_clock()
        if self._ledger_at is None:
            return host_at
        return max(
            host_at, self._ledger_at + timedelta(seconds=time.monotonic() - self._measured_at)
        )

    async def measure(self, engine: AsyncEngine) -> None:
        """Reads the database's clock, and logs when a clock goes wrong and when it is right again.

        Raises DatabaseUnavailable.
        """
        async with autocommit(engine) as connection:
            began, steady_at = time.monotonic(), self._steady_clock()
            ((database_at, ledger_at),) = await connection.fetch(SELECT_CLOCKS)
            ended = time.monotonic()
        self._ledger_at, self._measured_at = ledger_at, (began + ended) / 2
        host_at = self._host_clock() - timedelta(seconds=time.monotonic() - self._measured_at)
        uncertain_seconds = (ended - began) / 2
        skew_seconds = (host_at - database_at).total_seconds()
        skewed = abs(skew_seconds) > SKEW_SECONDS_MAX + uncertain_seconds
        jumped_seconds = self._jumped(database_at, steady_at + uncertain_seconds, uncertain_seconds)
        if jumped_seconds:
            self._log_jump(jumped_seconds, skew_seconds, is_set_right=self._skewed and not skewed)
        self._compare(database_at, skew_seconds, skewed=skewed)

    def _jumped(self, database_at: datetime, steady_at: float, uncertain_seconds: float) -> float:
        """The seconds by which the database's clock moved more than time did.

        0 if the readings are too inexact to say.
        """
        before, self._before = self._before, (database_at, steady_at, uncertain_seconds)
        if before is None:
            return 0.0
        seconds = (database_at - before[0]).total_seconds() - (steady_at - before[1])
        return seconds if abs(seconds) > SKEW_SECONDS_MAX + uncertain_seconds + before[2] else 0.0

    def _log_jump(self, seconds: float, skew_seconds: float, *, is_set_right: bool) -> None:
        if is_set_right:
            _log.info("the database's clock jumped to the host's time", seconds=round(seconds, 3))
            return
        self._on_jump(seconds)
        fields = {"seconds": round(seconds, 3), "host_ahead_seconds": round(skew_seconds, 3)}
        if seconds > 0:
            _log.error(
                "the database's clock jumped ahead: what is recorded now is dated too late",
                **fields,
            )
        else:
            _log.error("the database's clock jumped back", **fields)

    def _compare(self, database_at: datetime, skew_seconds: float, *, skewed: bool) -> None:
        if skewed and not self._skewed:
            _log.warning(
                "the host's clock differs from the database's, by which everything is judged",
                ahead_seconds=round(skew_seconds, 3),
            )
        elif self._skewed and not skewed:
            _log.info("the host's clock agrees with the database's again")
        self._skewed = skewed
        ledger_at = self._ledger_at or database_at
        behind_seconds = max(0.0, (ledger_at - database_at).total_seconds())
        self._on_measured(skew_seconds, behind_seconds)
        behind = behind_seconds > SKEW_SECONDS_MAX
        if behind and not self._behind:
            _log.warning(
                "the database's clock is behind the latest record:"
                " the time of the books stands still until it has caught up",
                behind_seconds=round(behind_seconds, 3),
            )
        elif self._behind and not behind:
            _log.info("the database's clock is past what was recorded again")
        self._behind = behind
