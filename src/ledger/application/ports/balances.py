"""Balances, and the snapshots that they go on from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ledger.domain.balances import Balance, BalanceAccount


@dataclass(frozen=True, slots=True)
class BalanceQuery:
    """Which balance: now if `as_of` is None, or at that instant."""

    account: BalanceAccount
    as_of: datetime | None


class BalanceReader(Protocol):
    """Balances, any number of them read in one statement."""

    async def read(self, queries: Sequence[BalanceQuery]) -> list[Balance | None]:
        """The balances, in the order of the queries: None for an unknown restaurant, zeros for an
        unknown balance account.

        All are of one moment. When an `as_of` is not past, by the database's clock, the balance of
        now is returned; its `as_of` is then the instant of reading. All or none: raises
        DatabaseUnavailable, DatabaseTimeout, DataRejected, QueryRefused.
        """
        ...


class BalanceSnapshots(Protocol):
    """Sums of final entries, on which balances build. Without one, answers are only slower."""

    async def take(self, balance_account_id: int, entries_min: int) -> bool:
        """Makes a snapshot of an account if it would spare reads at least `entries_min` entries
        more than the one before; returns whether it did. One transaction. Raises
        DatabaseUnavailable, DatabaseContention, DatabaseTimeout.
        """
        ...


class LongTails(Protocol):
    """Receives reports of how many entries a read added up beyond the snapshot of their account."""

    @property
    def entries_max(self) -> int:
        """Above this number of entries a report is worthwhile."""
        ...

    def report(self, tails: Iterable[tuple[int | None, int]]) -> None:
        """Takes pairs of account id and entries read; ignores an id of None. Never waits."""
        ...

    async def shortened(self, balance_account_id: int) -> None:
        """Returns when a snapshot of the account was taken, or could not be, or after some seconds.

        Raises nothing.
        """
        ...
