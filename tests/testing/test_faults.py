"""Failures that a test asks for."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status
from support.bad_requests import checked_details_of
from support.events import event_message, unique

from ledger.testing import Fault, LedgerServer
from ledger.v1 import ledger_pb2, ledger_pb2_grpc


@pytest.fixture(scope="module")
def server() -> Iterator[LedgerServer]:
    with LedgerServer() as server:
        yield server


@pytest.fixture
def stub(server: LedgerServer) -> Iterator[ledger_pb2_grpc.LedgerServiceStub]:
    """A client that repeats nothing by itself."""
    options = (("grpc.enable_retries", 0),)
    with grpc.insecure_channel(server.address, options=options) as channel:
        yield ledger_pb2_grpc.LedgerServiceStub(channel)


def ingest(stub: ledger_pb2_grpc.LedgerServiceStub, event: ledger_pb2.ProcessorEvent) -> str:
    """OK with the status of the event, or the status and the reason of the refusal."""
    try:
        response = stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    except grpc.RpcError as error:
        call: Any = error
        status = rpc_status.from_call(call)
        assert status is not None
        return f"{error.code().name} {checked_details_of(status)[0]}"
    return ledger_pb2.IngestStatus.Name(response.status).removeprefix("INGEST_STATUS_")


@pytest.mark.parametrize(
    ("fault", "refused", "repeated"),
    [
        (Fault.AWAY, "UNAVAILABLE DATABASE_UNAVAILABLE", "CREATED"),
        (Fault.ANSWER_LOST, "UNAVAILABLE DATABASE_UNAVAILABLE", "DUPLICATE"),
        (Fault.OVERLOADED, "RESOURCE_EXHAUSTED QUEUE_FULL", "CREATED"),
    ],
)
def test_fault_has_its_status_and_effect(
    server: LedgerServer,
    stub: ledger_pb2_grpc.LedgerServiceStub,
    fault: Fault,
    refused: str,
    repeated: str,
) -> None:
    """A repeat after the block shows what was done."""
    event = event_message(event_id=unique("faulty"))
    with server.calls_failing(fault):
        assert ingest(stub, event) == refused
    assert ingest(stub, event) == repeated


def test_only_named_methods_fail_and_only_so_many_calls(
    server: LedgerServer, stub: ledger_pb2_grpc.LedgerServiceStub
) -> None:
    """Others are answered meanwhile; the latest fault counts."""
    with server.calls_failing(Fault.AWAY, "IngestEvent", calls=2):
        assert not stub.ListPayouts(ledger_pb2.ListPayoutsRequest()).payouts
        with server.calls_failing(Fault.OVERLOADED, "IngestEvent", calls=1):
            statuses = [ingest(stub, event_message()).partition(" ")[0] for _ in range(4)]
    assert statuses == ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNAVAILABLE", "CREATED"]


def test_stream_whose_answers_are_lost_has_booked_them(
    server: LedgerServer, stub: ledger_pb2_grpc.LedgerServiceStub
) -> None:
    """As when its connection breaks."""
    event = event_message(event_id=unique("streamed"))
    with server.calls_failing(Fault.ANSWER_LOST, "StreamEvents"):
        stream = stub.StreamEvents(iter([ledger_pb2.StreamEventsRequest(event=event)]))
        with pytest.raises(grpc.RpcError) as lost:
            next(stream)
    assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
    assert ingest(stub, event) == "DUPLICATE"
    with server.calls_failing(Fault.OVERLOADED), pytest.raises(grpc.RpcError) as full:
        next(stub.StreamEvents(iter([ledger_pb2.StreamEventsRequest(event=event)])))
    assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_unknown_methods_are_refused(server: LedgerServer) -> None:
    """A misspelt name would make a test pass for nothing."""
    with (
        pytest.raises(ValueError, match="no method Ingest"),
        server.calls_failing(Fault.AWAY, "Ingest"),
    ):
        pass
