"""Balances, and the snapshots that they start from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Literal, Protocol, TypeVar

from ledger.domain.balances import BalanceAccount


class AsksForBalance(Protocol):
    """A query for a balance: now if `as_of` is None, or at that instant."""

    @property
    def as_of(self) -> datetime | None: ...


class HasInstant(Protocol):
    """A balance, and the instant at which it was that."""

    @property
    def as_of(self) -> datetime: ...


Asked = TypeVar("Asked", bound=AsksForBalance, contravariant=True)
# Not covariant: it is in a list.
Found = TypeVar("Found", bound=HasInstant)


@dataclass(frozen=True, slots=True)
class BalanceQuery:
    """Which balance of a restaurant."""

    account: BalanceAccount
    as_of: datetime | None


@dataclass(frozen=True, slots=True)
class AccountBalanceQuery:
    """Which balance of an account."""

    account_id: str
    as_of: datetime | None


class BalanceReader(Protocol[Asked, Found]):
    """Reads balances of restaurants or of accounts, any number in one query."""

    async def read(self, queries: Sequence[Asked]) -> list[Found | None]:
        """The balances, in the order of the queries: None for an unknown restaurant or account,
        zeros for an unknown balance account of a restaurant.

        All are of one moment. If an `as_of` is not past by the database's clock, the balance is the
        present one, and its `as_of` is the instant of reading. All or none: raises
        DatabaseUnavailable, DatabaseTimeout, DataRejected, QueryRefused.
        """
        ...


class TailLength(Enum):
    """How many entries a balance takes."""

    LONG = "more than a group of balance queries may read for one of them"


class PastBalanceReader(BalanceReader[Asked, Found], Protocol[Asked, Found]):
    """Reads balances as of past instants."""

    async def read_short(
        self, queries: Sequence[Asked]
    ) -> list[Found | Literal[TailLength.LONG] | None]:
        """As `read`, but reads only a few thousand entries for each balance.

        `LONG` takes the place of a balance that takes more: `read` returns it.
        """
        ...


class BalanceSnapshots(Protocol):
    """Sums of final entries, from which balances start. Without one, reads are only slower."""

    async def take(self, balance_account_id: int, entries_min: int) -> bool:
        """Takes a snapshot of an account if it saves reads at least `entries_min` entries more than
        the one before, or several along its history. Returns whether it did. Raises
        DatabaseUnavailable, DatabaseContention, DatabaseTimeout; what it took by then stays.
        """
        ...


class LongTails(Protocol):
    """Receives reports of how many entries a read added up beyond the snapshot of their account."""

    @property
    def entries_max(self) -> int:
        """The longest tail that needs no report."""
        ...

    def report(self, tails: Iterable[tuple[int | None, int]]) -> None:
        """Takes pairs of account id and entries read; ignores an id of None. Never waits."""
        ...

    async def shortened(self, balance_account_id: int) -> None:
        """Returns when a snapshot of the account was taken or could not be, or after some seconds.

        Raises nothing.
        """
        ...


@dataclass(frozen=True, slots=True)
class DrawnAccounts:
    """What a draw found: accounts with long tails, as pairs of account id and entries.

    `has_grown`: whether entries were added since the draw before, or in the first draw whether
    there are any.
    """

    long: Sequence[tuple[int, int]]
    has_grown: bool


class LongAccounts(Protocol):
    """Finds accounts with many entries beyond their newest statement mark."""

    async def draw(self, entries_max: int) -> DrawnAccounts:
        """Looks for tails of more than `entries_max`, at the accounts of entries drawn at random.

        Its cost does not grow with the books. Raises DatabaseUnavailable, DatabaseTimeout.
        """
        ...
