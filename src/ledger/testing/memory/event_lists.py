"""Lists of events in memory."""

from collections.abc import Callable, Mapping, Sequence

from ledger.application.ports.event_lists import (
    CountedEntry,
    EventPlace,
    EventQuery,
    ListedEvent,
)
from ledger.application.ports.events import StoredEntry
from ledger.application.ports.pages import Page
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import microseconds
from ledger.domain.payouts import Payout
from ledger.testing.memory.books import BookedEvent, Books
from ledger.testing.memory.event_ledger import entries_of_event
from ledger.testing.memory.payouts import first_payout_that_counted, payout_with_events


class MemoryEventLists:
    """Implements `ledger.application.ports.event_lists.EventLists`."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def page(
        self, query: EventQuery, after: EventPlace | None, page_size: int
    ) -> Page[ListedEvent, EventPlace]:
        number_of = _number_of(query)
        is_by_id = query.event_id_prefix is not None
        listed = [
            ListedEvent(booked.stored, EventPlace(number_of(booked), event_id))
            for event_id, booked in self._books.events.items()
            if _is_wanted(query, booked)
        ]
        # By id from the first on; all others begin with the latest.
        listed.sort(key=lambda each: each.place, reverse=not is_by_id)
        if after is not None:
            listed = [
                each for each in listed if (each.place > after if is_by_id else each.place < after)
            ]
        return Page.cut(listed, page_size, lambda each: each.place)

    async def entries(
        self, event_ids: Sequence[str]
    ) -> tuple[Mapping[str, list[CountedEntry]], list[Payout]]:
        found: dict[str, list[CountedEntry]] = {}
        payouts: dict[object, Payout] = {}
        for event_id in event_ids:
            booked = self._books.events[event_id]
            found[event_id] = []
            for entry in entries_of_event(self._books, booked.stored):
                counted_by = self._first_payout(booked, entry)
                payout_id = None if counted_by is None else counted_by.payout_id
                found[event_id].append(CountedEntry(entry, payout_id, is_unknown=False))
                if counted_by is not None:
                    payouts[payout_id] = counted_by
        return found, sorted(payouts.values(), key=lambda payout: payout.payout_id)

    def _first_payout(self, event: BookedEvent, entry: StoredEntry) -> Payout | None:
        if LedgerAccount.RESTAURANT_PAYABLE not in (entry.debit, entry.credit):
            return None
        account = self._books.balance_accounts[event.stored.event.account]
        booked = first_payout_that_counted(self._books, account, entry, event.txid)
        return None if booked is None else payout_with_events(self._books, booked)


def _number_of(query: EventQuery) -> Callable[[BookedEvent], int]:
    if query.event_id_prefix is not None:
        return lambda _booked: 0
    if query.is_of_a_restaurant:
        return lambda booked: booked.txid
    return lambda booked: microseconds(booked.stored.recorded_at)


def _is_wanted(query: EventQuery, booked: BookedEvent) -> bool:
    event, recorded_at = booked.stored.event, booked.stored.recorded_at
    return (
        query.restaurant_id in (None, event.restaurant_id)
        and query.reference in (None, event.reference)
        and (not query.types or event.type in query.types)
        and query.currency in (None, event.currency)
        and (query.start_at is None or recorded_at >= query.start_at)
        and (query.end_at is None or recorded_at < query.end_at)
        and event.event_id.startswith(query.event_id_prefix or "")
    )
