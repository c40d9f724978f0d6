"""The books of a server, as a reconciliation reads them: over the contract, never the database."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from ledger.cli.words import word_of
from ledger.client.sync_pages import pages_of
from ledger.domain.fields import CLOCK_SKEW_MAX
from ledger.reconciliation.books import SIGNS, BookEvent
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.client import Ledger

# Calls under way at once: enough to keep a server busy, far fewer than it takes.
CALLS_AT_ONCE = 64


class ServerBooks:
    """Implements `ledger.reconciliation.books.Books`. Its methods raise LedgerError."""

    def __init__(self, ledger: "Ledger") -> None:
        self._ledger = ledger

    def find(self, event_ids: Sequence[str]) -> Iterable[BookEvent]:
        """The events with these ids, a bounded number of calls at a time."""
        calls: deque[_Call] = deque()
        for event_id in event_ids:
            if len(calls) == CALLS_AT_ONCE:
                yield from _event_in(calls.popleft())
            request = ledger_pb2.GetEventRequest(event_id=event_id)
            calls.append(self._ledger.service.GetEvent.future(request))
        while calls:
            yield from _event_in(calls.popleft())

    def find_by_reference(self, reference: str) -> Iterable[BookEvent]:
        """The events with this reference; none if the server cannot list them."""
        return self._listed(ledger_pb2.ListEventsRequest(reference=reference)) or ()

    def in_period(
        self, start_at: datetime, end_at: datetime, currencies: Sequence[str], prefix: str
    ) -> Iterator[BookEvent] | None:
        """The events that occurred in [start_at, end_at), page by page.

        The server lists them by when they were recorded: an event may be recorded at any time after
        it occurred, and before that only by the skew of clocks.
        """
        recorded_from = start_at - CLOCK_SKEW_MAX
        if recorded_from >= datetime.now(UTC):
            return iter(())
        request = ledger_pb2.ListEventsRequest(
            types=[
                ledger_pb2.EventType.Value(f"EVENT_TYPE_{event_type.upper()}")
                for event_type in SIGNS
            ],
            currency=currencies[0] if len(currencies) == 1 else "",
        )
        request.start_at.FromDatetime(recorded_from)
        events = self._listed(request)
        if events is None:
            return None
        return (
            event
            for event in events
            if start_at <= event.occurred_at < end_at
            and event.currency in currencies
            and event.event_id.startswith(prefix)
        )

    def _listed(self, request: ledger_pb2.ListEventsRequest) -> Iterator[BookEvent] | None:
        """The events of a list, page by page; None if the server is too old to list any."""
        from ledger.client import NotOffered

        pages = pages_of(self._ledger.service.ListEvents, request)
        try:
            first = next(pages)
        except NotOffered:
            return None
        return (
            book_event(listed.event) for page in chain([first], pages) for listed in page.events
        )


class _Call(Protocol):
    """A call under way."""

    def result(self) -> ledger_pb2.GetEventResponse: ...


def _event_in(call: _Call) -> Iterator[BookEvent]:
    from ledger.client import NotFound

    try:
        response = call.result()
    except NotFound:
        return
    yield book_event(response.event)


def book_event(event: ledger_pb2.ProcessorEvent) -> BookEvent:
    """The event as a reconciliation has it."""
    return BookEvent(
        event_id=event.event_id,
        type=word_of(ledger_pb2.EventType, event.type),
        restaurant_id=event.restaurant_id,
        currency=event.currency,
        amount_minor=event.amount_minor,
        fee_minor=event.fee_minor,
        processor_fee_minor=event.processor_fee_minor,
        occurred_at=event.occurred_at.ToDatetime(UTC),
        reference=event.reference,
    )
