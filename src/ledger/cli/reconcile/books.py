"""The books of a server, as a reconciliation reads them: over the contract, never the database."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from ledger.cli.words import word_of
from ledger.reconciliation.books import BookEvent
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.v1 import ledger_pb2_grpc

# Calls under way at once: enough to keep a server busy, far fewer than it takes.
CALLS_AT_ONCE = 64


class ServerBooks:
    """Implements `ledger.reconciliation.books.Books`. Its methods raise grpc.RpcError."""

    def __init__(self, stub: "ledger_pb2_grpc.LedgerServiceStub") -> None:
        self._stub = stub

    def find(self, event_ids: Sequence[str]) -> Iterable[BookEvent]:
        """The events with these ids, a bounded number of calls at a time."""
        calls: deque[_Call] = deque()
        for event_id in event_ids:
            if len(calls) == CALLS_AT_ONCE:
                yield from _event_in(calls.popleft())
            request = ledger_pb2.GetEventRequest(event_id=event_id)
            calls.append(self._stub.GetEvent.future(request))
        while calls:
            yield from _event_in(calls.popleft())

    def find_by_reference(self, reference: str) -> Iterable[BookEvent]:  # noqa: ARG002
        return ()

    def in_period(
        self,
        start_at: datetime,  # noqa: ARG002
        end_at: datetime,  # noqa: ARG002
        currencies: Sequence[str],  # noqa: ARG002
        prefix: str,  # noqa: ARG002
    ) -> Iterator[BookEvent] | None:
        return None


class _Call(Protocol):
    """A call under way."""

    def result(self) -> ledger_pb2.GetEventResponse: ...


def _event_in(call: _Call) -> Iterator[BookEvent]:
    import grpc

    try:
        response = call.result()
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return
        raise
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
