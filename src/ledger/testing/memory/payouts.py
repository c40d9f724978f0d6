"""Payouts in memory: reading them, and moving them as the bank's answers come in."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from ledger.application.ports.events import Posting, StoredEntry, StoredEvent
from ledger.application.ports.pages import CreationPlace, Page
from ledger.application.ports.payout_entries import PayoutEntryPlace
from ledger.application.ports.payouts import PayoutQuery, StoredSubmission
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import UNIX_EPOCH, EventType, ProcessorEvent, microseconds
from ledger.domain.payout_states import UNANSWERED_STATES, PayoutState
from ledger.domain.payouts import (
    Payout,
    PayoutAnswer,
    PayoutDetails,
    PayoutEvent,
    moves_of,
)
from ledger.domain.posting_rules import EntryType, PostingRule
from ledger.testing.memory.books import BookedEntry, BookedPayout, Books
from ledger.testing.memory.event_ledger import entries_of_event, store_event

_MICROSECOND = timedelta(microseconds=1)
_ANSWERS = (EventType.PAYOUT_PAID, EventType.PAYOUT_FAILED)


class MemoryPayouts:
    """Implements `ledger.application.ports.payouts.Payouts`."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def get(self, payout_id: UUID) -> PayoutDetails | None:
        booked = self._books.payouts.get(payout_id)
        if booked is None:
            return None
        payout = payout_with_events(self._books, booked)
        events = [
            PayoutEvent(
                stored.event.type,
                stored.event.event_id,
                UUID(stored.transaction_id),
                stored.recorded_at,
                next((entry.entry_type for entry in entries_of_event(self._books, stored)), None),
                stored.event.bank_reference,
                stored.event.failure_code,
                stored.event.failure_text,
            )
            for stored in _events_of(self._books, str(payout_id))
        ]
        return PayoutDetails(payout, booked.items, moves_of(payout, events))

    async def with_answers(self, event: ProcessorEvent) -> tuple[Payout, list[PayoutAnswer]] | None:
        payout = _payout(self._books, event.payout_id)
        return None if payout is None else (payout, _answers(self._books, event))

    async def page(
        self, query: PayoutQuery, before: CreationPlace | None, limit: int
    ) -> list[Payout]:
        found = [
            payout_with_events(self._books, booked)
            for booked in self._books.payouts.values()
            if _is_wanted(self._books, query, booked.payout)
        ]
        found.sort(key=_creation, reverse=True)
        return [each for each in found if before is None or _creation(each) < before][:limit]

    async def submission(self, submission_id: str) -> StoredSubmission | None:
        return self._books.submissions.get(submission_id)


class MemoryPayoutSettlement:
    """Implements `ledger.application.ports.payouts.PayoutSettlement` in a unit of work."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def record(self, posting: Posting, batch_id: UUID) -> bool:
        if posting.event.event_id in self._books.events:
            return False
        store_event(self._books, posting, batch_id)
        return True

    async def lock(self, payout_id: str) -> Payout | None:
        return _payout(self._books, payout_id)

    async def answers(self, event: ProcessorEvent) -> list[PayoutAnswer]:
        return _answers(self._books, event)

    async def move(
        self, payout: Payout, state: PayoutState, rule: PostingRule | None, posting: Posting
    ) -> None:
        booked = self._books.payouts[payout.payout_id]
        moved = replace(booked, payout=replace(booked.payout, state=state))
        self._books.payouts[payout.payout_id] = moved
        if rule is not None:
            self._books.post(
                booked.balance_account_id,
                posting.transaction_id,
                1,
                rule,
                payout.amount_minor,
                occurred_at=posting.event.occurred_at,
                event_id=posting.event.event_id,
                payout_id=payout.payout_id,
            )


class MemoryPayoutEntries:
    """Implements `ledger.application.ports.payout_entries.PayoutEntries`."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def page(
        self,
        payout_id: UUID,
        entry_types: frozenset[EntryType],
        after: PayoutEntryPlace | None,
        page_size: int,
    ) -> Page[StoredEntry, PayoutEntryPlace] | None:
        payout = self._books.payouts.get(payout_id)
        if payout is None:
            return None
        before = next(
            (
                each
                for each in self._books.payouts.values()
                if each.balance_account_id == payout.balance_account_id
                and each.sequence == payout.sequence - 1
            ),
            None,
        )
        new = [
            (_place(booked, before), booked.entry)
            for booked in self._books.entries_of(payout.balance_account_id)
            if booked.is_on(LedgerAccount.RESTAURANT_PAYABLE)
            and booked.entry.entry_type is not EntryType.PAYOUT_RESERVE
            and _counts(payout, booked.entry, booked.txid)
            and not (before and _counts(before, booked.entry, booked.txid))
            and (not entry_types or booked.entry.entry_type in entry_types)
        ]
        new.sort(key=lambda each: _order(each[0]))
        if after is not None:
            new = [each for each in new if _order(each[0]) > _order(after)]
        page = Page.cut(new, page_size, lambda each: each[0])
        return Page([entry for _, entry in page.items], page.next_place)


def payout_with_events(books: Books, booked: BookedPayout) -> Payout:
    """The payout, with what its events and its submission say."""
    payout = booked.payout
    events = _events_of(books, str(payout.payout_id))
    submitted = [each for each in events if each.event.type is EventType.PAYOUT_SUBMITTED]
    answered = [each for each in events if each.event.type in _ANSWERS]
    referenced = [each for each in events if each.event.bank_reference]
    latest = max(referenced, key=lambda each: (each.recorded_at, each.event.event_id), default=None)
    return replace(
        payout,
        submission_id=books.submission_ids.get(payout.payout_id),
        submitted_at=max((each.recorded_at for each in submitted), default=None),
        answered_at=max((each.recorded_at for each in answered), default=None),
        bank_reference="" if latest is None else latest.event.bank_reference,
        failure_code=max((each.event.failure_code for each in events), default=""),
        failure_text=max((each.event.failure_text for each in events), default=""),
    )


def first_payout_that_counted(
    books: Books, balance_account_id: int, entry: StoredEntry, txid: int
) -> BookedPayout | None:
    """The first payout of the balance account that counted the entry of a transaction."""
    return min(
        (
            booked
            for booked in books.payouts.values()
            if booked.balance_account_id == balance_account_id and _counts(booked, entry, txid)
        ),
        key=lambda booked: booked.sequence,
        default=None,
    )


def _counts(payout: BookedPayout, entry: StoredEntry, txid: int) -> bool:
    """Whether the entry was there when the payout was created, and had matured by its cut-off."""
    cutoff = microseconds(payout.payout.cutoff_at)
    return txid < payout.txid and BookedEntry(entry, txid).has_matured(cutoff)


def _place(booked: BookedEntry, before: BookedPayout | None) -> PayoutEntryPlace:
    """The place of an entry of a payout, by the payout before it."""
    entry = booked.entry
    matured_at: datetime | None = None
    available_at = entry.available_at_microseconds
    if available_at is not None and (
        before is None or available_at > microseconds(before.payout.cutoff_at)
    ):
        matured_at = UNIX_EPOCH + (available_at * _MICROSECOND)
    return PayoutEntryPlace(matured_at, booked.txid, entry.transaction_id, entry.position)


def _order(place: PayoutEntryPlace) -> tuple[bool, datetime, int, UUID, int]:
    """Those that matured between the two cut-offs come first."""
    matured_at, txid, transaction_id, position = place
    return matured_at is None, matured_at or UNIX_EPOCH, txid, transaction_id, position


def _creation(payout: Payout) -> CreationPlace:
    return CreationPlace(payout.created_at, payout.payout_id)


def _is_wanted(books: Books, query: PayoutQuery, payout: Payout) -> bool:
    since = query.unanswered_since
    return (
        query.restaurant_id in (None, payout.restaurant_id)
        and (not query.states or payout.state in query.states)
        and query.payout_run_id in (None, payout.payout_run_id)
        and query.currency in (None, payout.currency)
        and (query.start_at is None or payout.created_at >= query.start_at)
        and (query.end_at is None or payout.created_at < query.end_at)
        and (since is None or (payout.state in UNANSWERED_STATES and payout.created_at < since))
        and query.submission_id in (None, books.submission_ids.get(payout.payout_id))
    )


def _payout(books: Books, payout_id: str) -> Payout | None:
    """The payout of an id; None for what cannot be one, such as another spelling of the id."""
    try:
        parsed = UUID(payout_id)
    except ValueError:
        return None
    booked = books.payouts.get(parsed)
    return None if booked is None or str(parsed) != payout_id else booked.payout


def _events_of(books: Books, payout_id: str) -> Sequence[StoredEvent]:
    return [
        booked.stored
        for booked in books.events.values()
        if booked.stored.event.payout_id == payout_id
    ]


def _answers(books: Books, event: ProcessorEvent) -> list[PayoutAnswer]:
    """The bank's other answers for the payout of `event`."""
    found = [
        PayoutAnswer(each.event.event_id, each.event.type, each.event.occurred_at)
        for each in _events_of(books, event.payout_id)
        if each.event.type in _ANSWERS and each.event.event_id != event.event_id
    ]
    return sorted(found, key=lambda answer: answer.event_id)
