"""What the use cases need of the outside, as protocols. `ledger.infrastructure.postgres` implements them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self
from uuid import UUID

from ledger.domain.balances import Balance
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import ProcessorEvent
from ledger.domain.posting_rules import Entry, EntryType
from ledger.domain.restaurants import Restaurant, RestaurantProfile


@dataclass(frozen=True, slots=True)
class Posting:
    """An event ready to be booked, with its fingerprint and the entries it posts under `transaction_id`."""

    event: ProcessorEvent
    fingerprint: bytes
    transaction_id: UUID
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A booked event. `batch_id` names the attempt that booked it: an attempt that is repeated knows its own events by it."""

    event: ProcessorEvent
    fingerprint: bytes
    transaction_id: UUID
    batch_id: UUID
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """A ledger entry as it stands in the books. Amount in minor units; the absent is None."""

    transaction_id: UUID
    position: int
    entry_type: EntryType
    debit: LedgerAccount
    credit: LedgerAccount
    amount_minor: int
    restaurant_id: str
    currency: str
    available_at: datetime | None
    occurred_at: datetime | None
    recorded_at: datetime
    event_id: str | None
    payout_id: UUID | None


class EventLedger(Protocol):
    """The append-only books. Every method is a transaction of its own; there is no way to change or remove anything.

    All methods raise DatabaseUnavailable, DatabaseContention and DatabaseTimeout.
    """

    async def insert(self, postings: Sequence[Posting], batch_id: UUID) -> set[str]:
        """Stores those of `postings` whose event id is new and whose balance account exists, with their entries, durably.

        `postings` are sorted by event id, byte by byte, and no id occurs twice. Returns the ids stored by this very call.
        All of them or none: raises DataRejected, with nothing stored, when the database refuses one as data.
        """
        ...

    async def stored(self, event_ids: Collection[str]) -> dict[str, StoredEvent]:
        """The stored ones among `event_ids`, by id. Sees every event whose `insert` ended before this call."""
        ...

    async def entries(self, event: StoredEvent) -> list[StoredEntry]:
        """The entries that `event` posted, by position."""
        ...

    async def open_accounts(self, accounts: Collection[tuple[str, str]], *, register: bool) -> set[str]:
        """Opens the (restaurant id, currency) balance accounts that do not exist yet.

        Unknown restaurants are registered first if `register`; else they are left alone and returned.
        """
        ...


class BalanceReader(Protocol):
    """Balances, each read in one statement."""

    async def read(self, restaurant_id: str, currency: str, as_of: datetime | None) -> Balance | None:
        """The balance now or at a past instant; None for an unknown restaurant; zeros for an unknown balance account.

        When `as_of` is not past, by the database's clock, the balance of now is returned; its `as_of` tells.
        Raises DatabaseUnavailable, DatabaseTimeout.
        """
        ...


class Restaurants(Protocol):
    """The restaurants, inside a unit of work."""

    async def put(self, profile: RestaurantProfile) -> Restaurant:
        """Registers a restaurant or replaces its profile."""
        ...

    async def get(self, restaurant_id: str) -> Restaurant | None:
        """The restaurant, or None."""
        ...

    async def page(self, after: str, limit: int) -> list[Restaurant]:
        """At most `limit` restaurants whose id is greater than `after`, byte by byte, in that order."""
        ...


class UnitOfWork(Protocol):
    """One database transaction: what was not committed when the block is left is rolled back."""

    @property
    def restaurants(self) -> Restaurants: ...

    async def commit(self) -> None:
        """Makes all that was done since the block was entered durable, at once."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class UnitOfWorkFactory(Protocol):
    """Begins a unit of work: `async with begin() as uow:`."""

    def __call__(self) -> UnitOfWork: ...
