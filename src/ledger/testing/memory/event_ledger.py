"""The append-only books in memory: events and their entries."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from ledger.application.ports.events import Posting, StoredEntry, StoredEvent
from ledger.domain.balances import BalanceAccount
from ledger.domain.events import ProcessorEvent
from ledger.domain.posting_rules import Amount, PostingRule, rules_of
from ledger.domain.restaurants import Restaurant, RestaurantProfile
from ledger.testing.memory.books import BookedEvent, Books

_DAY = timedelta(hours=24)


class MemoryEventLedger:
    """Implements `ledger.application.ports.events.EventLedger`."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def insert(
        self, postings: Sequence[Posting], batch_id: UUID, *, lock_wait_seconds: float | None = None
    ) -> set[str]:
        books = self._books
        with books.transaction():
            new = [
                posting
                for posting in postings
                if posting.event.event_id not in books.events
                and posting.event.account in books.balance_accounts
            ]
            for posting in new:
                store_event(books, posting, batch_id)
                self._post(posting)
        return {posting.event.event_id for posting in new}

    async def stored(
        self, event_ids: Collection[str], *, once_safe: bool = False
    ) -> dict[str, StoredEvent]:
        events = self._books.events
        return {event_id: events[event_id].stored for event_id in event_ids if event_id in events}

    async def entries(self, event: StoredEvent) -> list[StoredEntry]:
        return entries_of_event(self._books, event)

    async def open_accounts(
        self,
        accounts: Collection[BalanceAccount],
        *,
        register: bool,
        lock_wait_seconds: float | None = None,
    ) -> set[str]:
        books = self._books
        wanted = {account.holder_id for account in accounts if account.holder_id}
        unknown = {holder_id for holder_id in wanted if holder_id not in books.restaurants}
        with books.transaction():
            if register:
                for holder_id in sorted(unknown):
                    register_restaurant(books, holder_id)
                unknown = set()
            for account in accounts:
                if account.holder_id not in unknown:
                    books.open_books(account.currency, restaurant_id=account.holder_id or None)
        return unknown

    def _post(self, posting: Posting) -> None:
        event = posting.event
        days = 0
        if event.restaurant_id:
            days = maturity_days_of(self._books, event.restaurant_id)
        amounts = {
            Amount.AMOUNT: event.amount_minor,
            Amount.FEE: event.fee_minor,
            Amount.PROCESSOR_FEE: event.processor_fee_minor,
        }
        rules = rules_of(
            event.type,
            has_fee=event.fee_minor > 0,
            has_processor_fee=event.processor_fee_minor > 0,
        )
        for position, rule in enumerate(rules, start=1):
            self._books.post(
                self._books.balance_accounts[event.account],
                posting.transaction_id,
                position,
                rule,
                amounts[rule.amount],
                available_at=_available_at(event, rule, days),
                occurred_at=event.occurred_at,
                event_id=event.event_id,
            )


def store_event(books: Books, posting: Posting, batch_id: UUID) -> None:
    """Stores an event whose id is new, in the transaction under way."""
    event_id = posting.event.event_id
    stored = StoredEvent(
        posting.event, posting.fingerprint, posting.transaction_id, batch_id, books.recorded_at
    )
    books.events[event_id] = BookedEvent(stored, books.txid)


def entries_of_event(books: Books, event: StoredEvent) -> list[StoredEntry]:
    """The entries that an event posted, by position."""
    account = books.balance_accounts.get(event.event.account)
    transaction_id = UUID(event.transaction_id)
    return [
        booked.entry
        for booked in books.entries_of(account)
        if booked.entry.transaction_id == transaction_id
    ]


def register_restaurant(books: Books, restaurant_id: str) -> None:
    """Registers a restaurant with a profile of defaults, in the transaction under way."""
    books.restaurants[restaurant_id] = Restaurant(
        RestaurantProfile(restaurant_id), books.recorded_at, books.recorded_at
    )


def maturity_days_of(books: Books, restaurant_id: str) -> int:
    """After how many days of 24 hours the restaurant's charges are available."""
    days = books.restaurants[restaurant_id].profile.maturity_days
    return books.maturity_days if days is None else days


def _available_at(event: ProcessorEvent, rule: PostingRule, days: int) -> datetime | None:
    if event.available_at is not None:
        return event.available_at if rule.takes_available_at else None
    return event.occurred_at + days * _DAY if rule.matures and days else None
