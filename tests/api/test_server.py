"""The server around the service.

Health, reflection, request ids, unexpected failures, stops, and calls that clients give up.
"""

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from support.certificates import HERE, Authority
from support.events import event_message, unique
from support.running import RunningLedger, execute_alone, running_ledger
from support.statuses import details_of, reason_of, response_or_error
from support.waiting import until

from ledger.api.ledger_service import LedgerService
from ledger.api.metrics import NoCallMetrics
from ledger.api.server import LAST_CALLS_SECONDS, Server
from ledger.api.transport.listening import AddressUnavailable
from ledger.bootstrap.database import Database
from ledger.errors import DataRejected, LedgerError
from ledger.infrastructure.postgres.sessions import engine
from ledger.metrics import Metrics
from ledger.observability import add_call_ids
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

SERVICE = "ledger.v1.LedgerService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
REQUEST_ID = "x-request-id"
DEADLINE_SECONDS = 60.0
# The codes of refusals by an overloaded server or database; clients may retry all of them.
RETRYABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


def health_stub(channel: aio.Channel) -> Any:
    """A client of the health service."""
    return health_pb2_grpc.HealthStub(channel)


async def health_of(ledger: RunningLedger, service: str = SERVICE) -> int:
    """The status that the health service returns."""
    answer = await health_stub(ledger.channel).Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


def request_of(event: ledger_pb2.ProcessorEvent | None = None) -> ledger_pb2.IngestEventRequest:
    """A request to book an event."""
    return ledger_pb2.IngestEventRequest(event=event_message() if event is None else event)


async def until_serving(ledger: RunningLedger) -> None:
    """Returns when the service is SERVING, which it is once its database has answered in time."""

    async def serving() -> bool:
        return await health_of(ledger) == SERVING

    await until(serving, what="SERVING")


async def is_stored(ledger: RunningLedger, event_id: str) -> bool:
    """Whether the event is in the books."""
    return bool(
        await ledger.query(
            "SELECT 1 FROM processor_events WHERE event_id = :event_id", event_id=event_id
        )
    )


@pytest.fixture
async def ledger(database: Database, _patience: None) -> AsyncIterator[RunningLedger]:
    """A server for one test alone.

    It seals nothing: a sealer reads events, and would wait for their lock as well.
    """
    async with running_ledger(database, seal_interval_seconds=0) as running:
        yield running


@pytest.fixture
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for locks and connections last as long as the test needs, on any machine.

    Groups that wait for a lock are booked in parts.
    """
    monkeypatch.setattr("ledger.application.ingest.contended_groups.CONTENTION_SECONDS", 3600.0)
    monkeypatch.setattr(
        "ledger.bootstrap.database.create_engine",
        partial(engine.create_engine, lock_timeout_seconds=120),
    )
    for name in ("POOL_WAIT_SECONDS", "STATEMENT_TIMEOUT_SECONDS", "COMMAND_TIMEOUT_SECONDS"):
        monkeypatch.setattr(engine, name, 120)


@asynccontextmanager
async def locked_tables(
    ledger: RunningLedger, tables: str
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Locks the tables in another session, so that every reader and writer of them waits.

    Yields a function that releases them.
    """
    engine = create_async_engine(ledger.database.migration_url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.execute(text(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"))
            yield connection.rollback
            await connection.rollback()
    finally:
        await engine.dispose()


def locked_events(
    ledger: RunningLedger,
) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
    """Locks the table of events, so that every booking waits; see `locked_tables`."""
    return locked_tables(ledger, "processor_events")


async def blocked_since(ledger: RunningLedger) -> list[datetime]:
    """When each session of the server that waits for a lock began its SQL statement."""
    rows = await ledger.query(
        "SELECT query_start FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return [query_start for (query_start,) in rows]


async def until_blocked(ledger: RunningLedger, sessions: int = 1) -> None:
    """Returns when that many of the server's sessions wait for a lock."""

    async def blocked() -> bool:
        return len(await blocked_since(ledger)) >= sessions

    await until(blocked, what="the booking waits for the lock")


# Health


async def test_health_covers_process_and_service(shared_ledger: RunningLedger) -> None:
    """`""` and the service's name are SERVING; an unknown service is NOT_FOUND."""
    assert await health_of(shared_ledger, "") == SERVING
    await until_serving(shared_ledger)
    with pytest.raises(aio.AioRpcError) as caught:
        await health_of(shared_ledger, "ledger.v1.Nothing")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_watch_gets_not_serving_when_the_server_stops(database: Database) -> None:
    """Every open health watch gets NOT_SERVING before it ends, and none delays the stop."""
    async with running_ledger(database) as ledger:
        await until_serving(ledger)
        watches = [
            health_stub(ledger.channel).Watch(health_pb2.HealthCheckRequest(service=service))
            for service in ("", *[SERVICE] * 10)
        ]
        for watch in watches:
            assert (await watch.read()).status == SERVING
        async with asyncio.timeout(DEADLINE_SECONDS):
            await ledger.server.stop(2 * DEADLINE_SECONDS)
        for watch in watches:
            heard = []
            with pytest.raises(aio.AioRpcError) as caught:
                while True:
                    heard.append((await watch.read()).status)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert heard == [NOT_SERVING]


async def test_cancelled_watch_leaves_the_server_well(
    shared_ledger: RunningLedger,
) -> None:
    """The server drops cancelled watches and serves on; the next watch works."""
    await until_serving(shared_ledger)
    for _ in range(5):
        watch = health_stub(shared_ledger.channel).Watch(
            health_pb2.HealthCheckRequest(service=SERVICE)
        )
        assert (await watch.read()).status == SERVING
        watch.cancel()
    await until_serving(shared_ledger)


async def test_readiness_follows_the_database(database: Database, server_url: str) -> None:
    """In an outage: NOT_SERVING and UNAVAILABLE, soon.

    After it: SERVING, and calls succeed, without a restart.
    """
    name = make_url(database.migration_url).database
    assert name
    async with running_ledger(database) as ledger:
        event = event_message(restaurant_id=unique("res"))
        await ledger.stub.IngestEvent(request_of(event))
        await execute_alone(server_url, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        try:
            await execute_alone(
                server_url,
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
            )
            calls: list[Callable[[], Any]] = [
                lambda: ledger.stub.IngestEvent(request_of(), timeout=30),
                lambda: ledger.stub.BatchIngestEvents(
                    ledger_pb2.BatchIngestEventsRequest(events=[event_message()]), timeout=30
                ),
                lambda: ledger.stub.GetEvent(
                    ledger_pb2.GetEventRequest(event_id=event.event_id), timeout=30
                ),
                lambda: ledger.stub.GetBalance(
                    ledger_pb2.GetBalanceRequest(restaurant_id=event.restaurant_id, currency="PEN"),
                    timeout=30,
                ),
                lambda: ledger.stub.PutRestaurant(
                    ledger_pb2.PutRestaurantRequest(restaurant_id="res"), timeout=30
                ),
                lambda: ledger.stub.GetRestaurant(
                    ledger_pb2.GetRestaurantRequest(restaurant_id="res"), timeout=30
                ),
                lambda: ledger.stub.ListRestaurants(
                    ledger_pb2.ListRestaurantsRequest(), timeout=30
                ),
                lambda: ledger.stub.ListEntries(
                    ledger_pb2.ListEntriesRequest(
                        restaurant_id=event.restaurant_id, currency="PEN"
                    ),
                    timeout=30,
                ),
                lambda: ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest(), timeout=30),
            ]
            for call in calls:
                started_at = asyncio.get_running_loop().time()
                with pytest.raises(aio.AioRpcError) as caught:
                    await call()
                assert asyncio.get_running_loop().time() - started_at < 15
                assert (caught.value.code(), reason_of(caught.value)) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "DATABASE_UNAVAILABLE",
                )
                assert details_of(caught.value)["RetryInfo"].retry_delay.ToTimedelta() > timedelta(
                    0
                )
                assert name not in f"{caught.value.details()} {caught.value.debug_error_string()}"

            async def not_ready() -> bool:
                return await health_of(ledger) == NOT_SERVING

            await until(not_ready, what="NOT_SERVING without a database")
            assert await health_of(ledger, "") == SERVING, "the process is alive"
        finally:
            await execute_alone(server_url, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")

        await until_serving(ledger)
        repeated = await ledger.stub.IngestEvent(request_of(event))
        assert repeated.status == ledger_pb2.INGEST_STATUS_DUPLICATE


@pytest.mark.parametrize(
    "failure",
    [LedgerError("away"), RuntimeError("secret dsn"), OSError("away"), KeyError("defect")],
    ids=lambda error: type(error).__name__,
)
async def test_readiness_outlives_any_failure_of_the_ping(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is NOT_SERVING while the ping raises anything, and SERVING again afterwards."""
    monkeypatch.setattr("ledger.api.server.PING_INTERVAL_SECONDS", 0.01)
    failing = False

    async def ping() -> None:
        if failing:
            raise failure

    server = Server(raising_service(failure), address="127.0.0.1:0", reflect=False, ping=ping)
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = health_stub(channel)
            request = health_pb2.HealthCheckRequest(service=SERVICE)

            async def got(status: int) -> bool:
                return int((await stub.Check(request)).status) == status

            await until(lambda: got(SERVING), what="SERVING at first")
            failing = True
            await until(
                lambda: got(NOT_SERVING), what=f"NOT_SERVING while the ping raises {failure!r}"
            )
            failing = False
            await until(lambda: got(SERVING), what="SERVING afterwards")
    finally:
        await server.stop(0)


# Reflection


async def listed_services(address: str) -> list[str]:
    """The services that a server describes."""
    async with aio.insecure_channel(address) as channel:
        untyped: Any = channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(untyped)
        call = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        async for answer in call:
            return [service.name for service in answer.list_services_response.service]
    return []


async def test_reflection_lists_the_service(shared_ledger: RunningLedger) -> None:
    """A tool such as grpcurl finds the service without its proto file."""
    assert SERVICE in await listed_services(shared_ledger.address)


async def test_reflection_can_be_turned_off(shared_database: Database) -> None:
    """By setting, the server does not describe itself: UNIMPLEMENTED."""
    async with running_ledger(shared_database, reflection=False) as ledger:
        with pytest.raises(aio.AioRpcError) as caught:
            await listed_services(ledger.address)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        await until_serving(ledger)


# Health at a separate address


async def test_health_can_have_a_separate_address(database: Database, tmp_path: Path) -> None:
    """Beside a server with TLS: the health of the service in plaintext, until it stops.

    The address serves nothing else.
    """
    authority = Authority()
    authority.issue(*HERE).write(tmp_path / "server.pem", tmp_path / "server.key")
    settings: dict[str, Any] = {
        "tls_certificate_file": tmp_path / "server.pem",
        "tls_key_file": tmp_path / "server.key",
    }
    async with running_ledger(database, health_address="127.0.0.1:0", **settings) as ledger:
        address = f"127.0.0.1:{ledger.server.health_port}"
        async with aio.insecure_channel(address) as channel:
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            watch = health_stub(channel).Watch(request)
            assert (await watch.read()).status == SERVING
            assert (
                await health_stub(channel).Check(health_pb2.HealthCheckRequest())
            ).status == SERVING
            with pytest.raises(aio.AioRpcError) as caught:
                await ledger_pb2_grpc.LedgerServiceStub(channel).IngestEvent(request_of())
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            with pytest.raises(aio.AioRpcError) as caught:
                await listed_services(address)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            stopping = asyncio.create_task(ledger.server.stop(10))
            assert (await watch.read()).status == NOT_SERVING
            await asyncio.wait_for(stopping, DEADLINE_SECONDS)


async def test_health_address_that_is_taken_is_refused(
    shared_ledger: RunningLedger, tmp_path: Path
) -> None:
    """Also if the server itself has taken it: calls and health checks cannot share an address.

    After the refusal the other address is free again.
    """
    service = raising_service(ValueError())
    with pytest.raises(AddressUnavailable, match=re.escape(shared_ledger.address)):
        Server(
            service,
            address="127.0.0.1:0",
            health_address=shared_ledger.address,
            reflect=False,
            ping=_ping_well,
        )
    path = f"unix:{tmp_path}/l.sock"
    with pytest.raises(AddressUnavailable, match=re.escape(path)):
        Server(service, address=path, health_address=path, reflect=False, ping=_ping_well)
    with pytest.raises(AddressUnavailable, match=re.escape(shared_ledger.address)):
        Server(
            service,
            address=shared_ledger.address,
            health_address=path,
            reflect=False,
            ping=_ping_well,
        )
    server = Server(service, address=path, reflect=False, ping=_ping_well)
    await server.start()
    await server.stop(0)


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


class _Raising(LedgerService):
    """A service with a defect in one method and without its other parts."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def GetEvent(self, request: Any, context: Any) -> ledger_pb2.GetEventResponse:
        raise self._error

    async def StreamEvents(
        self, requests: Any, context: Any
    ) -> AsyncIterator[ledger_pb2.StreamEventsResponse]:
        async for _ in requests:
            yield ledger_pb2.StreamEventsResponse()
            raise self._error


def raising_service(error: BaseException) -> LedgerService:
    """A service that raises `error`."""
    return _Raising(error)


class _Unheard(LedgerError):
    """An error of the ledger that has no row in the table of statuses."""


async def _ping_well() -> None:
    """A database that answers."""


@asynccontextmanager
async def raising_server(
    error: BaseException,
) -> AsyncIterator["ledger_pb2_grpc.LedgerServiceAsyncStub"]:
    """A server whose service raises `error`."""
    server = Server(raising_service(error), address="127.0.0.1:0", reflect=False, ping=_ping_well)
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield ledger_pb2_grpc.LedgerServiceStub(channel)
    finally:
        await server.stop(0)


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
    paths = [
        f"/{SERVICE}/{method.name}"
        for method in ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"].methods
    ]
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


# Starting and stopping


async def test_second_server_on_the_same_port_is_refused(shared_ledger: RunningLedger) -> None:
    """It does not start, and takes no calls away from the first server."""
    with pytest.raises(AddressUnavailable, match=re.escape(shared_ledger.address)):
        Server(
            raising_service(ValueError()),
            address=shared_ledger.address,
            reflect=False,
            ping=_ping_well,
        )
    for _ in range(20):
        assert (
            await shared_ledger.stub.IngestEvent(request_of())
        ).status == ledger_pb2.INGEST_STATUS_CREATED


class StartedCalls(NoCallMetrics):
    """Counts the calls that the server has started."""

    calls = 0

    def started(self, method: str) -> None:
        self.calls += 1


@pytest.mark.usefixtures("_patience")
async def test_calls_under_way_at_the_stop_are_answered(database: Database) -> None:
    """A stop waits for open calls and refuses new ones with UNAVAILABLE."""
    started = StartedCalls()
    async with running_ledger(
        database, metrics=Metrics(calls=started), seal_interval_seconds=0
    ) as ledger:
        restaurant_id = unique("res")
        await ledger.ingest(event_message(restaurant_id=restaurant_id))
        async with locked_events(ledger) as release:
            calls = [
                asyncio.ensure_future(_ingest(ledger, event_message(restaurant_id=restaurant_id)))
                for _ in range(5)
            ]

            async def all_taken_up() -> bool:
                return started.calls == 1 + len(calls)

            await until(all_taken_up, what="the calls are under way")
            stopping = asyncio.create_task(ledger.server.stop(2 * DEADLINE_SECONDS))
            async with aio.insecure_channel(ledger.address) as channel:
                late = ledger_pb2_grpc.LedgerServiceStub(channel)

                async def refused() -> bool:
                    request = ledger_pb2.GetRestaurantRequest(restaurant_id=restaurant_id)
                    outcome = await response_or_error(
                        late.GetRestaurant(request, timeout=DEADLINE_SECONDS)
                    )
                    return (
                        isinstance(outcome, aio.AioRpcError)
                        and outcome.code() == grpc.StatusCode.UNAVAILABLE
                    )

                await until(refused, what="a new call is refused")
            assert not stopping.done()
            assert not any(call.done() for call in calls)
            await release()
            answers = await asyncio.gather(*calls)
            await stopping
        assert {answer.status for answer in answers} == {ledger_pb2.INGEST_STATUS_CREATED}
        assert await ledger.query("SELECT count(*) FROM processor_events") == [(6,)]


async def _ingest(
    ledger: RunningLedger, event: ledger_pb2.ProcessorEvent
) -> ledger_pb2.IngestEventResponse:
    return await ledger.stub.IngestEvent(request_of(event))


@pytest.mark.usefixtures("_patience")
async def test_call_that_outlasts_the_grace_is_cut_off_and_its_event_booked(
    database: Database,
) -> None:
    """A stop ends after its grace although a call is blocked.

    The event of that call is booked all the same, once.
    """
    async with running_ledger(database, seal_interval_seconds=0) as ledger:
        event = event_message(restaurant_id=unique("res"))
        await ledger.ingest(event_message(restaurant_id=event.restaurant_id))
        async with locked_events(ledger) as release:
            call = asyncio.create_task(_ingest(ledger, event))
            await until_blocked(ledger)
            async with asyncio.timeout(DEADLINE_SECONDS):
                await ledger.server.stop(0.1)
            with pytest.raises((aio.AioRpcError, asyncio.CancelledError)) as caught:
                await call
            if isinstance(caught.value, aio.AioRpcError):
                assert caught.value.code() in {
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.CANCELLED,
                }
            await release()
        await until(lambda: is_stored(ledger, event.event_id), what="the event is booked")


# Calls that are given up


@pytest.mark.parametrize("batch", [False, True], ids=["one", "batch"])
async def test_cancelled_call_does_not_cancel_its_booking(
    ledger: RunningLedger, batch: bool
) -> None:
    """An event whose client goes away while it waits is booked; a repeat returns DUPLICATE."""
    event = event_message(restaurant_id=unique("res"))
    await ledger.ingest(event_message(restaurant_id=event.restaurant_id))
    async with locked_events(ledger) as release:
        call: Any
        if batch:
            call = ledger.stub.BatchIngestEvents(
                ledger_pb2.BatchIngestEventsRequest(events=[event])
            )
        else:
            call = ledger.stub.IngestEvent(request_of(event))
        waiting = asyncio.ensure_future(_answer(call))
        await until_blocked(ledger)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await release()
    await until(lambda: is_stored(ledger, event.event_id), what="the event is booked")
    repeated = await ledger.stub.IngestEvent(request_of(event))
    assert repeated.status == ledger_pb2.INGEST_STATUS_DUPLICATE
    assert (await ledger.balance(event.restaurant_id)).available_minor == 2 * event.amount_minor


async def _answer(call: Any) -> Any:
    return await call


async def test_deadline_that_passes_does_not_cancel_the_booking(ledger: RunningLedger) -> None:
    """An event whose deadline passes while it waits is booked; a repeat returns DUPLICATE."""
    event = event_message(restaurant_id=unique("res"))
    await ledger.ingest(event_message(restaurant_id=event.restaurant_id))
    async with locked_events(ledger) as release:

        async def given_up_while_it_waits() -> bool:
            # On a slow machine the deadline may pass before the call has come that far.
            with pytest.raises(aio.AioRpcError) as caught:
                await ledger.stub.IngestEvent(request_of(event), timeout=0.5)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            return bool(await blocked_since(ledger))

        await until(
            given_up_while_it_waits,
            what="the event waits for the lock when the call's time is over",
        )
        await release()
    await until(lambda: is_stored(ledger, event.event_id), what="the event is booked")
    repeated = await ledger.stub.IngestEvent(request_of(event))
    assert repeated.status == ledger_pb2.INGEST_STATUS_DUPLICATE


async def test_booking_that_waits_for_a_lock_is_tried_again(ledger: RunningLedger) -> None:
    """The database gives up waiting after a while; the call does not.

    It returns CREATED, not DUPLICATE.
    """
    event = event_message(restaurant_id=unique("res"))
    await ledger.ingest(event_message(restaurant_id=event.restaurant_id))
    async with locked_events(ledger) as release:
        call = asyncio.create_task(_ingest(ledger, event))
        await until_blocked(ledger)
        first = max(await blocked_since(ledger), default=datetime.now(UTC))

        async def tried_again() -> bool:
            return any(since > first for since in await blocked_since(ledger))

        await until(tried_again, what="another attempt after the lock timeout")
        await release()
        answer = await call
    assert answer.status == ledger_pb2.INGEST_STATUS_CREATED
    assert (await ledger.balance(event.restaurant_id)).available_minor == 2 * event.amount_minor


# More calls than a pool has connections. Twice as many fit into every bound: cancelled calls may
# still count when the next ones arrive.
CANCELLED_CALLS = 15
OF_RESTAURANTS = ("PutRestaurant", "UpdateRestaurant", "GetRestaurant", "ListRestaurants")


@pytest.mark.parametrize("method", ["GetEvent", "GetBalance", "ListEntries", *OF_RESTAURANTS])
async def test_cancelled_calls_leave_the_server_well(ledger: RunningLedger, method: str) -> None:
    """More calls than the pool has connections are cancelled, each at any moment.

    No connection is lost, and no error is logged.
    """
    event = event_message(restaurant_id=unique("res"))
    await ledger.ingest(event)
    requests: dict[str, Any] = {
        "GetEvent": ledger_pb2.GetEventRequest(event_id=event.event_id),
        "GetBalance": ledger_pb2.GetBalanceRequest(
            restaurant_id=event.restaurant_id, currency="PEN"
        ),
        "ListEntries": ledger_pb2.ListEntriesRequest(
            restaurant_id=event.restaurant_id, currency="PEN"
        ),
        "PutRestaurant": ledger_pb2.PutRestaurantRequest(restaurant_id=event.restaurant_id),
        "UpdateRestaurant": ledger_pb2.UpdateRestaurantRequest(
            restaurant=ledger_pb2.Restaurant(restaurant_id=event.restaurant_id),
            update_mask=FieldMask(paths=["active"]),
        ),
        "GetRestaurant": ledger_pb2.GetRestaurantRequest(restaurant_id=event.restaurant_id),
        "ListRestaurants": ledger_pb2.ListRestaurantsRequest(),
    }
    call_method = getattr(ledger.stub, method)
    with structlog.testing.capture_logs() as lines:
        async with locked_tables(ledger, "processor_events, restaurants") as release:
            calls = [call_method(requests[method]) for _ in range(CANCELLED_CALLS)]
            waiting = [asyncio.ensure_future(_answer(call)) for call in calls]
            # Balances share SQL statements. Every other call has a connection, as far as its pool
            # has any.
            await until_blocked(
                ledger, sessions={"GetBalance": 1, "ListEntries": 4}.get(method, 10)
            )
            for call in calls:
                call.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await release()
        calls = [
            call_method(requests[method], timeout=DEADLINE_SECONDS) for _ in range(CANCELLED_CALLS)
        ]
        answers = await asyncio.gather(*map(_answer, calls))
    assert len(answers) == CANCELLED_CALLS
    assert [line for line in lines if line["log_level"] in {"warning", "error"}] == []

    async def idle() -> bool:
        rows = await ledger.query(
            "SELECT 1 FROM pg_stat_activity "
            "WHERE datname = current_database() AND state LIKE 'idle in %'"
        )
        return not rows

    await until(idle, what="no session is left inside a transaction")
    assert (
        await ledger.stub.IngestEvent(request_of(event))
    ).status == ledger_pb2.INGEST_STATUS_DUPLICATE


async def test_thousands_of_calls_at_once_are_answered(ledger: RunningLedger) -> None:
    """3,000 calls at once on one channel: each succeeds or gets a retryable status.

    No event is lost, and every response is true.
    """
    restaurant_ids = [unique("res") for _ in range(10)]
    await ledger.ingest(
        *(event_message(restaurant_id=restaurant_id) for restaurant_id in restaurant_ids)
    )
    events = [
        event_message(restaurant_id=restaurant_ids[number % 10], amount_minor=100)
        for number in range(1500)
    ]
    calls = []
    for number, event in enumerate(events):
        calls.append(response_or_error(ledger.stub.IngestEvent(request_of(event))))
        balance = ledger_pb2.GetBalanceRequest(
            restaurant_id=restaurant_ids[number % 10], currency="PEN"
        )
        calls.append(response_or_error(ledger.stub.GetBalance(balance)))
    outcomes = await asyncio.gather(*calls)
    refused = [outcome for outcome in outcomes if isinstance(outcome, aio.AioRpcError)]
    assert {error.code() for error in refused} <= RETRYABLE
    assert {reason_of(error) for error in refused} <= {"DATABASE_UNAVAILABLE", "QUEUE_FULL"}
    booked = [
        event
        for event, outcome in zip(events, outcomes[::2], strict=True)
        if not isinstance(outcome, aio.AioRpcError)
    ]
    assert booked, "some calls get through"
    for event, outcome in zip(events, outcomes[::2], strict=True):
        if isinstance(outcome, aio.AioRpcError):
            repeated = await ledger.stub.IngestEvent(request_of(event))
            assert repeated.transaction_id
        else:
            assert outcome.status == ledger_pb2.INGEST_STATUS_CREATED
    balances = [await ledger.balance(restaurant_id) for restaurant_id in restaurant_ids]
    assert sum(balance.available_minor for balance in balances) == 10 * 10_000 + 1500 * 100
    await until_serving(ledger)
    assert balances[0].as_of.ToDatetime(UTC) <= datetime.now(UTC)


KILL_BLOCKED = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.mark.parametrize("method", ["GetEvent", "GetBalance", "ListEntries", *OF_RESTAURANTS])
async def test_connection_lost_under_a_call_is_unavailable(
    ledger: RunningLedger, method: str
) -> None:
    """The database ends the session that a call waits in: UNAVAILABLE, which clients retry.

    The next call gets a new session.
    """
    event = event_message(restaurant_id=unique("res"))
    await ledger.ingest(event)
    requests: dict[str, Any] = {
        "GetEvent": ledger_pb2.GetEventRequest(event_id=event.event_id),
        "GetBalance": ledger_pb2.GetBalanceRequest(
            restaurant_id=event.restaurant_id, currency="PEN"
        ),
        "ListEntries": ledger_pb2.ListEntriesRequest(
            restaurant_id=event.restaurant_id, currency="PEN"
        ),
        "PutRestaurant": ledger_pb2.PutRestaurantRequest(restaurant_id=event.restaurant_id),
        "UpdateRestaurant": ledger_pb2.UpdateRestaurantRequest(
            restaurant=ledger_pb2.Restaurant(restaurant_id=event.restaurant_id),
            update_mask=FieldMask(paths=["active"]),
        ),
        "GetRestaurant": ledger_pb2.GetRestaurantRequest(restaurant_id=event.restaurant_id),
        "ListRestaurants": ledger_pb2.ListRestaurantsRequest(),
    }
    call_method = getattr(ledger.stub, method)
    async with locked_tables(ledger, "processor_events, restaurants"):
        waiting = asyncio.ensure_future(_answer(call_method(requests[method])))
        await until_blocked(ledger)
        await ledger.query(KILL_BLOCKED)
        with pytest.raises(aio.AioRpcError) as caught:
            await waiting
    assert (caught.value.code(), reason_of(caught.value)) == (
        grpc.StatusCode.UNAVAILABLE,
        "DATABASE_UNAVAILABLE",
    )
    await call_method(requests[method], timeout=DEADLINE_SECONDS)


async def test_booking_survives_a_lost_connection(ledger: RunningLedger) -> None:
    """The database ends the session that books an event: another session books it, once.

    The call returns CREATED.
    """
    event = event_message(restaurant_id=unique("res"))
    await ledger.ingest(event_message(restaurant_id=event.restaurant_id))
    async with locked_events(ledger) as release:
        call = asyncio.create_task(_ingest(ledger, event))
        await until_blocked(ledger)
        await ledger.query(KILL_BLOCKED)
        await release()
        answer = await call
    assert answer.status == ledger_pb2.INGEST_STATUS_CREATED
    assert (await ledger.balance(event.restaurant_id)).available_minor == 2 * event.amount_minor


async def test_calls_during_a_stop_succeed_or_are_retryable(database: Database) -> None:
    """A call that arrives while the server stops succeeds or gets UNAVAILABLE.

    It never gets CANCELLED, which no client retries.
    """
    codes: Counter[grpc.StatusCode] = Counter()
    answered = asyncio.Event()

    async def keep_calling(ledger: RunningLedger) -> None:
        while True:
            try:
                await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event_message()))
            except aio.AioRpcError as error:
                codes[error.code()] += 1
                return
            codes[grpc.StatusCode.OK] += 1
            if codes[grpc.StatusCode.OK] >= 100:
                answered.set()

    async with running_ledger(database) as ledger:
        callers = [asyncio.create_task(keep_calling(ledger)) for _ in range(32)]
        await asyncio.wait_for(answered.wait(), DEADLINE_SECONDS)
        await ledger.server.stop(10)
        await asyncio.wait_for(asyncio.gather(*callers), DEADLINE_SECONDS)
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert await ledger.query("SELECT count(*) FROM processor_events") == [
            (codes[grpc.StatusCode.OK],)
        ]


async def test_calls_during_a_halted_stop_are_retryable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopping server gets no processor for longer than it waits for last calls.

    Calls that arrive in that time get a response all the same.
    """
    connected, halted, sent = threading.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def codes(address: str) -> Counter[grpc.StatusCode]:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(DEADLINE_SECONDS)
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            connected.set()
            halted.wait(DEADLINE_SECONDS)
            calls = [
                stub.IngestEvent.future(request_of(), timeout=DEADLINE_SECONDS) for _ in range(32)
            ]
            sent.set()
            return Counter(call.code() for call in calls)

    def halt() -> None:
        halted.set()
        sent.wait(DEADLINE_SECONDS)
        time.sleep(1.2 * LAST_CALLS_SECONDS)

    async with running_ledger(database) as ledger:
        calling = asyncio.create_task(asyncio.to_thread(codes, ledger.address))
        await asyncio.to_thread(connected.wait, DEADLINE_SECONDS)
        refuse_further_calls = ledger.server._frame.stop

        def stop() -> None:
            refuse_further_calls()
            loop.call_soon(halt)

        monkeypatch.setattr(ledger.server._frame, "stop", stop)
        await ledger.server.stop(10)
        assert await calling == {grpc.StatusCode.UNAVAILABLE: 32}
