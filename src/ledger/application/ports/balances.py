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
        """The balances, in the order of the queries: None for an unknown restaurant, zeros for an unknown balance account.

        All are of one moment. When an `as_of` is not past, by the database's clock, the balance of now is returned; its `as_of`
        tells. All or none: raises DatabaseUnavailable, DatabaseTimeout, DataRejected, StatementRefused.
        """
        ...


class BalanceSnapshots(Protocol):
    """Sums of final entries, from which balances go on. No answer depends on whether one was made."""

    async def take(self, balance_account_id: int, entries_min: int) -> bool:
        """Makes a snapshot of an account if it would spare reads at least `entries_min` entries more than the one before; whether
        it did. A transaction of its own. Raises DatabaseUnavailable, DatabaseContention, DatabaseTimeout.
        """
        ...


class LongTails(Protocol):
    """Where whoever adds up entries tells how many it had to read beyond the snapshot of their account."""

    @property
    def entries_max(self) -> int:
        """More entries than these are worth telling."""
        ...

    def report(self, tails: Iterable[tuple[int | None, int]]) -> None:
        """Takes (balance account, entries read) as they come; no account is no tail. Never waits."""
        ...

    async def shortened(self, balance_account_id: int) -> None:
        """Returns when a snapshot of the account was taken, or could not be, or after some seconds. Raises nothing."""
        ...
