"""What is told of the service's work, for whoever counts it."""

from collections.abc import Mapping
from typing import Literal, Protocol

GroupKind = Literal["ingest", "balance"]


class LedgerMetrics(Protocol):
    """Is told what has been done. The methods are called on the path of every call: they are fast, and do not raise."""

    def group(self, kind: GroupKind, size: int, seconds: float) -> None:
        """Calls that shared one trip to the database: how many, and how long the trip took."""

    def queue(self, events: int, size_bytes: int) -> None:
        """What is waiting to be booked now."""

    def snapshots_made(self, count: int) -> None:
        """Balance snapshots were stored."""

    def payouts_made(self, count: int) -> None:
        """Payouts were created."""

    def payouts_unanswered(self, by_currency: Mapping[str, tuple[int, float]]) -> None:
        """How many payouts the bank has not answered, and the age in seconds of the oldest, by currency."""

    def facts_repeated(self, count: int) -> None:
        """Events were booked that say what other events have said lately."""

    def payout_accounts_waiting(self, count: int) -> None:
        """For so many balance accounts, locked or refused by the database, this process's payout runs wait."""

    def seal_lag(self, rows: int, seconds: float) -> None:
        """About how many rows are not sealed, and for how long the oldest has been there."""

    def clocks(self, skew_seconds: float, behind_seconds: float) -> None:
        """How far the host's clock is ahead of the database's, and the database's behind the books."""

    def database_clock_jumped(self, seconds: float) -> None:
        """The database's clock was set ahead by so much, or back if negative."""


class UncountedWork:
    """Nobody wants to know."""

    def group(self, kind: GroupKind, size: int, seconds: float) -> None:
        pass

    def queue(self, events: int, size_bytes: int) -> None:
        pass

    def snapshots_made(self, count: int) -> None:
        pass

    def payouts_made(self, count: int) -> None:
        pass

    def payouts_unanswered(self, by_currency: Mapping[str, tuple[int, float]]) -> None:
        pass

    def facts_repeated(self, count: int) -> None:
        pass

    def payout_accounts_waiting(self, count: int) -> None:
        pass

    def seal_lag(self, rows: int, seconds: float) -> None:
        pass

    def clocks(self, skew_seconds: float, behind_seconds: float) -> None:
        pass

    def database_clock_jumped(self, seconds: float) -> None:
        pass
