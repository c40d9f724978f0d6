"""The append-only books: events and their entries."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from ledger.domain.balances import BalanceAccount
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import ProcessorEvent
from ledger.domain.posting_rules import EntryType


class Posting(NamedTuple):
    """An event ready to be booked, with its fingerprint and the transaction id of its entries.

    The posting rules say which entries those are. The id is the text of a UUID: to make a UUID and
    then its text takes eight times as long.
    """

    event: ProcessorEvent
    fingerprint: bytes
    transaction_id: str


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A booked event. `batch_id` names the attempt that booked it: a repeated attempt recognizes
    its events by it.
    """

    event: ProcessorEvent
    fingerprint: bytes
    transaction_id: str
    batch_id: UUID
    recorded_at: datetime


class StoredEntry(NamedTuple):
    """A ledger entry of the books. The amount is in minor units, instants are in microseconds since
    1970; absent values are None. It stands in the books of a restaurant, of an account, or, if both
    are None, of the platform.

    A tuple of plain values, since a statement has millions of them: a frozen dataclass takes four
    times as long to make, and a datetime as long to read from the database as all the rest.
    """

    transaction_id: UUID
    position: int
    entry_type: EntryType
    debit: LedgerAccount
    credit: LedgerAccount
    amount_minor: int
    restaurant_id: str | None
    currency: str
    available_at_microseconds: int | None
    occurred_at_microseconds: int | None
    recorded_at_microseconds: int
    event_id: str | None
    payout_id: UUID | None
    payment_id: str | None = None
    account_id: str | None = None


class EventLedger(Protocol):
    """The append-only books. Every method is one transaction. Nothing can be changed or removed.

    All methods raise DatabaseUnavailable, DatabaseContention, DatabaseTimeout and QueryRefused.
    """

    async def insert(
        self, postings: Sequence[Posting], batch_id: UUID, *, lock_wait_seconds: float | None = None
    ) -> set[str]:
        """Stores those of `postings` whose event id is new and whose balance account exists, with
        their entries, durably.

        `postings` are sorted by event id, byte by byte, and no id occurs twice. Returns the ids
        that this call stored. All or none: raises DataRejected, with nothing stored, when the
        database refuses one as data; QueryRefused when it refuses for another reason;
        DatabaseContention after waiting for a lock for `lock_wait_seconds`, if given, which takes
        more round trips.
        """
        ...

    async def stored(
        self, event_ids: Collection[str], *, once_safe: bool = False
    ) -> dict[str, StoredEvent]:
        """The stored ones among `event_ids`, by id. Sees every event whose `insert` ended before
        this call.

        Use `once_safe` before acknowledging them: it waits until they are as durable as the
        database makes any commit.
        """
        ...

    async def entries(self, event: StoredEvent) -> list[StoredEntry]:
        """The entries that `event` posted, by position."""
        ...

    async def open_accounts(
        self,
        accounts: Collection[BalanceAccount],
        *,
        register: bool,
        lock_wait_seconds: float | None = None,
    ) -> set[str]:
        """Opens the balance accounts that do not exist yet; one without a holder is the platform's.

        Registers unknown restaurants first if `register`; else opens no account for them and
        returns their ids. Waits for locks as `insert` does.
        """
        ...
