"""The clock of the books: the database's, but never behind what was recorded before."""

import time
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.engine import connect
from ledger.infrastructure.postgres.errors import database_errors

# For books whose sequences did not come with them, as with logical replication, and for those of before.
CATCH_UP_CLOCK = "SELECT catch_up_ledger_clock()"

SELECT_CLOCKS = "SELECT clock_timestamp() AS database_at, ledger_now() AS ledger_at"

# Between the clocks of host and database, and between the database's clock and the latest record.
SKEW_SECONDS_MAX = 1.0

_log = structlog.get_logger("ledger")


def host_now() -> datetime:
    """The time by the host's clock."""
    return datetime.now(UTC)


class LedgerClock:
    """Tells the time of the books without asking the database each time: every rule is judged by one clock.

    Goes on from the last `measure` by the host's monotonic clock; the host's own time is only compared.
    """

    def __init__(
        self,
        *,
        host_clock: Callable[[], datetime] = host_now,
        on_measured: Callable[[float, float], None] = lambda _skew_seconds, _behind_seconds: None,
    ) -> None:
        """`on_measured` is told how far the host's clock is ahead of the database's, and the database's
        behind the latest record."""
        self._host_clock = host_clock
        self._on_measured = on_measured
        self._ledger_at: datetime | None = None
        self._measured_at = 0.0
        self._skewed = False
        self._behind = False

    def now(self) -> datetime:
        """The time of the books; the host's before the first `measure`."""
        if self._ledger_at is None:
            return self._host_clock()
        return self._ledger_at + timedelta(seconds=time.monotonic() - self._measured_at)

    async def measure(self, engine: AsyncEngine) -> None:
        """Asks the database, and logs when a clock goes wrong and when it is right again.

        Raises DatabaseUnavailable.
        """
        with database_errors():
            async with aclosing(await connect(engine)) as connection:
                began = time.monotonic()
                row = (await connection.execute(text(SELECT_CLOCKS))).one()
                ended = time.monotonic()
        self._ledger_at, self._measured_at = row.ledger_at, (began + ended) / 2
        host_at = self._host_clock() - timedelta(seconds=time.monotonic() - self._measured_at)
        self._compare(row.database_at, host_at, uncertain_seconds=(ended - began) / 2)

    def _compare(self, database_at: datetime, host_at: datetime, *, uncertain_seconds: float) -> None:
        skew_seconds = (host_at - database_at).total_seconds()
        skewed = abs(skew_seconds) > SKEW_SECONDS_MAX + uncertain_seconds
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
                "the database's clock is behind what was recorded: the time of the books stands still until it is past",
                behind_seconds=round(behind_seconds, 3),
            )
        elif self._behind and not behind:
            _log.info("the database's clock is past what was recorded again")
        self._behind = behind
