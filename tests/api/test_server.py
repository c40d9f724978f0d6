"""The server around the service: reflection, request ids, and what must not reach a caller."""

import re
from typing import Any

import grpc
import pytest
import structlog
from grpc import aio
from support.events import request_of
from support.health import SERVICE, SERVICES, listed_services, until_serving
from support.raising import ping_well, raising_server, raising_service
from support.running import RunningLedger, running_ledger
from support.statuses import details_of, reason_of

from ledger.api.methods import METHODS
from ledger.api.server import Server
from ledger.api.transport.listening import AddressUnavailable
from ledger.bootstrap.database import Database
from ledger.errors import DataRejected, LedgerError
from ledger.observability import add_call_ids
from ledger.v1 import ledger_pb2

REQUEST_ID = "x-request-id"


async def test_reflection_lists_the_services(shared_ledger: RunningLedger) -> None:
    """A tool such as grpcurl finds the services without their proto files."""
    assert set(SERVICES) <= set(await listed_services(shared_ledger.address))


async def test_reflection_can_be_turned_off(shared_database: Database) -> None:
    """By setting, the server does not describe itself: UNIMPLEMENTED."""
    async with running_ledger(shared_database, reflection=False) as ledger:
        with pytest.raises(aio.AioRpcError) as caught:
            await listed_services(ledger.address)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        await until_serving(ledger)


# Request ids


async def returned_request_id(call: Any) -> str:
    """The request id in the trailing metadata, which is there once."""
    ids = [value for key, value in await call.trailing_metadata() if key == REQUEST_ID]
    assert len(ids) == 1
    return str(ids[0])


@pytest.mark.parametrize("fails", [False, True])
async def test_request_id_given_comes_back(shared_ledger: RunningLedger, fails: bool) -> None:
    """It is in the trailing metadata of responses and refusals, and in the log."""
    request = ledger_pb2.IngestEventRequest() if fails else request_of()
    with structlog.testing.capture_logs([add_call_ids]) as lines:
        call = shared_ledger.stub.IngestEvent(request, metadata=((REQUEST_ID, "req-1.a:b_C"),))
        if fails:
            with pytest.raises(aio.AioRpcError):
                await call
        else:
            await call
        assert await returned_request_id(call) == "req-1.a:b_C"
    assert "req-1.a:b_C" in {line.get("request_id") for line in lines}


@pytest.mark.parametrize(
    "given", [None, "", " ", "a b", "a" * 129, "'; DROP TABLE x;--", "${jndi:x}"]
)
async def test_request_id_missing_or_bad_is_replaced(
    shared_ledger: RunningLedger, given: str | None
) -> None:
    """Without a usable id the server makes one, a new one for each call."""
    made = []
    for _ in range(2):
        metadata = () if given is None else ((REQUEST_ID, given),)
        call = shared_ledger.stub.IngestEvent(request_of(), metadata=metadata)
        await call
        made.append(await returned_request_id(call))
    assert given not in made
    assert all(re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", request_id) for request_id in made)
    assert made[0] != made[1]


# What must not reach a caller


class _Unheard(LedgerError):
    """An error of the ledger that has no row in the table of statuses."""


DEFECTS = [
    ValueError("secret dsn"),
    RuntimeError("secret dsn"),
    KeyError("secret dsn"),
    TimeoutError("secret dsn"),
    NotImplementedError("secret dsn"),
    ExceptionGroup("secret dsn", [ValueError("secret dsn")]),
    DataRejected("secret dsn"),
    _Unheard("secret dsn"),
]


@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "streaming"])
@pytest.mark.parametrize("error", DEFECTS, ids=lambda error: type(error).__name__)
async def test_unexpected_exception_is_internal_and_reveals_nothing(
    error: Exception, streaming: bool
) -> None:
    """INTERNAL with a constant text and an error id that the log line has.

    Nothing of the exception reaches the caller.
    """
    with structlog.testing.capture_logs() as lines:
        async with raising_server(error) as stub:
            with pytest.raises(aio.AioRpcError) as caught:
                if streaming:
                    async for _ in stub.StreamEvents(iter([ledger_pb2.StreamEventsRequest()])):
                        pass
                else:
                    await stub.GetEvent(ledger_pb2.GetEventRequest(event_id="evt_1"))
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert caught.value.details() == "internal error"
    info = details_of(caught.value)["ErrorInfo"]
    assert info.reason == "INTERNAL"
    assert set(info.metadata) == {"error_id"}
    got = f"{caught.value} {caught.value.debug_error_string()} {caught.value.trailing_metadata()}"
    assert "secret" not in got
    assert type(error).__name__ not in got
    (line,) = [line for line in lines if line.get("error_id") == info.metadata["error_id"]]
    assert line["log_level"] == "error"
    assert line["exc_info"] is error


async def test_malformed_bytes_are_refused_by_every_method(shared_ledger: RunningLedger) -> None:
    """INVALID_ARGUMENT with MALFORMED_MESSAGE, from unary and streaming methods, also of health."""
    paths = [method.path for method in METHODS.values()]
    for path in [*paths, "/grpc.health.v1.Health/Check"]:
        if path.endswith("StreamEvents"):
            continue
        call: Any = shared_ledger.channel.unary_unary(
            path, request_serializer=None, response_deserializer=None
        )
        with pytest.raises(aio.AioRpcError) as caught:
            await call(b"\xff\xff")
        assert (caught.value.code(), reason_of(caught.value)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "MALFORMED_MESSAGE",
        ), path
    for path in [f"/{SERVICE}/StreamEvents", "/grpc.health.v1.Health/Watch"]:
        stream: Any = shared_ledger.channel.stream_stream(
            path, request_serializer=None, response_deserializer=None
        )
        with pytest.raises(aio.AioRpcError) as caught:
            async for _ in stream(iter([b"\xff\xff"])):
                pass
        assert (caught.value.code(), reason_of(caught.value)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "MALFORMED_MESSAGE",
        ), path


async def test_unknown_method_is_unimplemented(shared_ledger: RunningLedger) -> None:
    """A method that is in no contract: UNIMPLEMENTED."""
    nothing: Any = shared_ledger.channel.unary_unary(
        f"/{SERVICE}/Nothing", request_serializer=None, response_deserializer=None
    )
    with pytest.raises(aio.AioRpcError) as caught:
        await nothing(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", ["GetAccount", "AuthorizePayment", "BatchTransfers"])
async def test_method_of_a_service_that_is_not_offered_is_unimplemented(method: str) -> None:
    """With METHOD_NOT_IMPLEMENTED, which names the method."""
    path = METHODS[method].path
    server = Server(
        raising_service(ValueError()), address="127.0.0.1:0", reflect=False, ping=ping_well
    )
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call: Any = channel.unary_unary(
                path, request_serializer=None, response_deserializer=None
            )
            with pytest.raises(aio.AioRpcError) as caught:
                await call(b"")
    finally:
        await server.stop(0)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    info = details_of(caught.value)["ErrorInfo"]
    assert (info.reason, dict(info.metadata)) == ("METHOD_NOT_IMPLEMENTED", {"method": path})


async def test_second_server_on_the_same_port_is_refused(shared_ledger: RunningLedger) -> None:
    """It does not start, and takes no calls away from the first server."""
    with pytest.raises(AddressUnavailable, match=re.escape(shared_ledger.address)):
        Server(
            raising_service(ValueError()),
            address=shared_ledger.address,
            reflect=False,
            ping=ping_well,
        )
    for _ in range(20):
        assert (
            await shared_ledger.stub.IngestEvent(request_of())
        ).status == ledger_pb2.INGEST_STATUS_CREATED
