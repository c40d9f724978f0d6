"""Account statements, page by page."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar
from uuid import UUID

from ledger.application.ports.events import StoredEntry
from ledger.application.ports.pages import Page
from ledger.domain.balances import BalanceAccount
from ledger.domain.posting_rules import EntryType


class AsksForStatement(Protocol):
    """A query for a statement: the entries of a period, and of some types or, without any, all."""

    @property
    def start_at(self) -> datetime | None: ...

    @property
    def end_at(self) -> datetime | None: ...

    @property
    def entry_types(self) -> frozenset[EntryType]: ...


Asked = TypeVar("Asked", bound=AsksForStatement, contravariant=True)


@dataclass(frozen=True, slots=True)
class StatementQuery:
    """Which entries the statement of a restaurant has: those recorded in [start_at, end_at), and
    only those that pass the filters.

    `start_at` None: from the first entry on; `end_at` None: until now. No `entry_types`: all types.
    `event_id` and `payout_id` None: any.
    """

    account: BalanceAccount
    start_at: datetime | None
    end_at: datetime | None
    entry_types: frozenset[EntryType]
    event_id: str | None
    payout_id: UUID | None


@dataclass(frozen=True, slots=True)
class AccountStatementQuery:
    """As StatementQuery, for the statement of an account."""

    account_id: str
    start_at: datetime | None
    end_at: datetime | None
    entry_types: frozenset[EntryType]
    payment_id: str | None

    @property
    def is_filtered(self) -> bool:
        """Whether entries are left out."""
        return bool(self.entry_types) or self.payment_id is not None


@dataclass(frozen=True, slots=True)
class StatementMoment:
    """The moment that all pages of a statement show, with the balances, in minor units, before its
    period and at its end.

    It saw the database transactions with txids below `transactions_end`, but for those in
    `transactions_open`, which were under way.
    """

    read_at: datetime
    transactions_end: int
    transactions_open: tuple[int, ...]
    opening_minor: int
    closing_minor: int


@dataclass(frozen=True, slots=True)
class StatementPlace:
    """An entry of a statement, after which its next page begins."""

    moment: StatementMoment
    recorded_at: datetime
    recorded_txid: int
    transaction_id: UUID
    position: int


@dataclass(frozen=True, slots=True)
class StatementPage(Page[StoredEntry, StatementPlace]):
    """Some entries of a statement, oldest first, as they were at a moment."""

    moment: StatementMoment


class Statements(Protocol[Asked]):
    """Reads statements of restaurants or of accounts.

    All methods raise DatabaseUnavailable and DatabaseTimeout.
    """

    async def first_page(self, query: Asked, limit: int) -> StatementPage | None:
        """The first entries of a statement, at most `limit`; None for an unknown restaurant or
        account, no entries for an unknown balance account of a restaurant.

        A period that is not past by the database's clock ends at the moment of the page.
        """
        ...

    async def page(self, query: Asked, after: StatementPlace, limit: int) -> StatementPage:
        """At most `limit` entries after a place, as they were at the moment of the first page."""
        ...
