"""Statements of balance accounts in memory."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Generic, TypeVar
from uuid import UUID

from ledger.application.ports.events import StoredEntry
from ledger.application.ports.statements import (
    AccountStatementQuery,
    AsksForStatement,
    StatementMoment,
    StatementPage,
    StatementPlace,
    StatementQuery,
)
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import UNIX_EPOCH, microseconds
from ledger.testing.memory.balances import sum_on
from ledger.testing.memory.books import BookedEntry, Books

Query = TypeVar("Query", bound=AsksForStatement)

_BEGINNING = datetime.min.replace(tzinfo=UTC)


class _Statements(ABC, Generic[Query]):
    """Implements `ledger.application.ports.statements.Statements` for one kind of holder."""

    ledger_account: ClassVar[LedgerAccount]

    def __init__(self, books: Books) -> None:
        self._books = books

    @abstractmethod
    def _entries(self, query: Query) -> list[BookedEntry] | None:
        """All entries of the holder; None for an unknown one."""

    @abstractmethod
    def _is_wanted(self, query: Query, entry: StoredEntry) -> bool:
        """Whether the entry passes the filters of the query that are not about its type."""

    async def first_page(self, query: Query, limit: int) -> StatementPage | None:
        entries = self._entries(query)
        if entries is None:
            return None
        read_at = self._books.clock()

        def sum_before(instant: datetime) -> int:
            end = microseconds(instant)
            return sum_on(
                (each for each in entries if each.entry.recorded_at_microseconds < end),
                self.ledger_account,
            )

        moment = StatementMoment(
            read_at,
            transactions_end=self._books.txid + 1,
            transactions_open=(),
            opening_minor=0 if query.start_at is None else sum_before(query.start_at),
            closing_minor=sum_before(query.end_at or read_at),
        )
        return self._page(query, moment, entries, None, limit)

    async def page(self, query: Query, after: StatementPlace, limit: int) -> StatementPage:
        return self._page(query, after.moment, self._entries(query) or (), after, limit)

    def _page(
        self,
        query: Query,
        moment: StatementMoment,
        entries: Iterable[BookedEntry],
        after: StatementPlace | None,
        limit: int,
    ) -> StatementPage:
        begin = microseconds(query.start_at or _BEGINNING)
        end = microseconds(query.end_at or moment.read_at)
        found = sorted(
            (
                booked
                for booked in entries
                if booked.is_on(self.ledger_account)
                and begin <= booked.entry.recorded_at_microseconds < end
                and booked.txid < moment.transactions_end
                and (not query.entry_types or booked.entry.entry_type in query.entry_types)
                and self._is_wanted(query, booked.entry)
            ),
            key=_order,
        )
        if after is not None:
            place = (
                microseconds(after.recorded_at),
                after.recorded_txid,
                after.transaction_id,
                after.position,
            )
            found = [booked for booked in found if _order(booked) > place]
        next_place = None
        if len(found) > limit:
            recorded_at, txid, transaction_id, position = _order(found[limit - 1])
            instant = UNIX_EPOCH + timedelta(microseconds=recorded_at)
            next_place = StatementPlace(moment, instant, txid, transaction_id, position)
        return StatementPage([booked.entry for booked in found[:limit]], next_place, moment)


class MemoryStatements(_Statements[StatementQuery]):
    """The statements of restaurants."""

    ledger_account = LedgerAccount.RESTAURANT_PAYABLE

    def _entries(self, query: StatementQuery) -> list[BookedEntry] | None:
        if query.account.holder_id not in self._books.restaurants:
            return None
        return self._books.entries_of(self._books.balance_accounts.get(query.account))

    def _is_wanted(self, query: StatementQuery, entry: StoredEntry) -> bool:
        return query.event_id in (None, entry.event_id) and query.payout_id in (
            None,
            entry.payout_id,
        )


class MemoryAccountStatements(_Statements[AccountStatementQuery]):
    """The statements of accounts."""

    ledger_account = LedgerAccount.ACCOUNT_FUNDS

    def _entries(self, query: AccountStatementQuery) -> list[BookedEntry] | None:
        number = self._books.account_ids.get(query.account_id)
        return None if number is None else self._books.entries_of(number)

    def _is_wanted(self, query: AccountStatementQuery, entry: StoredEntry) -> bool:
        return query.payment_id in (None, entry.payment_id)


def _order(booked: BookedEntry) -> tuple[int, int, UUID, int]:
    """By the instant, then by the transaction, then by what is unique in one."""
    entry = booked.entry
    return entry.recorded_at_microseconds, booked.txid, entry.transaction_id, entry.position
