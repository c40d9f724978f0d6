"""The books of a server, as `ledger reconcile` reads them."""

from typing import Any, cast

import grpc
import pytest
from google.rpc import status_pb2
from support.events import event_message
from support.reports import at

from ledger.cli.reconcile.books import CALLS_AT_ONCE, ServerBooks, book_event
from ledger.client import Ledger, LedgerError, NotAllowed, error_of_status
from ledger.v1 import ledger_pb2


class Call:
    """A call under way that ends in an event, or with a status."""

    def __init__(self, event: ledger_pb2.ProcessorEvent | grpc.StatusCode) -> None:
        self._event = event

    def result(self) -> ledger_pb2.GetEventResponse:
        if isinstance(self._event, ledger_pb2.ProcessorEvent):
            return ledger_pb2.GetEventResponse(event=self._event)
        raise failed(self._event)


def failed(code: grpc.StatusCode) -> LedgerError:
    """The error of a call that ended with this status."""
    return error_of_status(status_pb2.Status(code=code.value[0]))


class OldServer:
    """A server that cannot list events. Ids that begin with "no" are unknown to it."""

    def __init__(self, code: grpc.StatusCode = grpc.StatusCode.NOT_FOUND) -> None:
        self._code = code
        self.service = self.GetEvent = self

    def future(self, request: ledger_pb2.GetEventRequest) -> Call:
        is_unknown = request.event_id.startswith("no")
        return Call(self._code if is_unknown else event_message(event_id=request.event_id))

    def ListEvents(self, request: ledger_pb2.ListEventsRequest, timeout: None) -> Any:
        raise failed(grpc.StatusCode.UNIMPLEMENTED)


def books_of(server: OldServer) -> ServerBooks:
    return ServerBooks(cast(Ledger, server))


def test_events_are_found_by_id_however_many() -> None:
    """Unknown ids are left out."""
    ids = [f"evt-{number}" for number in range(3 * CALLS_AT_ONCE)]
    found = books_of(OldServer()).find(["no-1", *ids, "no-2"])
    assert [event.event_id for event in found] == ids


def test_other_failures_end_the_search() -> None:
    books = books_of(OldServer(grpc.StatusCode.PERMISSION_DENIED))
    with pytest.raises(NotAllowed):
        list(books.find(["evt-1", "no-1"]))


def test_an_older_server_is_asked_by_id_alone() -> None:
    books = books_of(OldServer())
    assert list(books.find_by_reference("pi_1")) == []
    start_at, end_at = at("2026-03-01T00:00:00"), at("2026-03-02T00:00:00")
    assert books.in_period(start_at, end_at, ["EUR"], "stripe:") is None


def test_a_period_in_the_future_has_no_events() -> None:
    books = books_of(OldServer())
    start_at, end_at = at("2999-03-01T00:00:00"), at("2999-03-02T00:00:00")
    events = books.in_period(start_at, end_at, ["EUR"], "stripe:")
    assert events is not None
    assert list(events) == []


def test_events_have_the_words_of_the_contract() -> None:
    message = event_message(ledger_pb2.EVENT_TYPE_DISPUTE_OPENED, amount_minor=500, fee_minor=1500)
    message.processor_fee_minor = 20
    event = book_event(message)
    assert (event.type, event.gross_minor, event.cost_minor) == ("dispute_opened", -500, 1520)
