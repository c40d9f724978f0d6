"""The server's limits on connections, streams and responses, as a caller sees them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.errors import ErrorCodes
from h2.events import Event, PingAckReceived
from h2.settings import SettingCodes
from support.audit import assert_books_in_order
from support.commands import INTERRUPTIBLE
from support.events import event_message, unique
from support.hostility import INGEST, LOG_BYTES_MAX, ONE_BYTE, STREAM, unharmed
from support.http2 import Http2
from support.processes import SERVICE, ServerProcess, server_process
from support.running import running_ledger
from support.waiting import DEADLINE_SECONDS, until

from ledger.api import server as api_server
from ledger.api import unread_responses
from ledger.bootstrap.database import Database
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

# Less than the two minutes that gRPC gives by default to a connection that exchanges no settings.
SHOWN_OUT_SECONDS = 100.0


async def test_server_announces_how_many_streams_a_connection_may_open(
    hostile: ServerProcess,
) -> None:
    """The number is in the settings.

    Streams beyond it are refused as such, which callers repeat by themselves.
    """
    async with unharmed(hostile), Http2.connect(hostile.address) as connection:
        assert connection.settings[SettingCodes.MAX_CONCURRENT_STREAMS] == api_server.STREAMS_MAX
        # Half a call each: no response comes before the call is whole.
        for _ in range(api_server.STREAMS_MAX):
            connection.open(INGEST)
        connection.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 2**31 - 1
        connection.h2.remote_settings.acknowledge()
        surplus = [connection.open(INGEST) for _ in range(50)]
        await connection.until(
            lambda: any(connection.streams[stream].reset is not None for stream in surplus)
        )
        resets = {connection.streams[stream].reset for stream in surplus}
        assert resets <= {None, int(ErrorCodes.REFUSED_STREAM), int(ErrorCodes.ENHANCE_YOUR_CALM)}


def result_of(response: Any) -> ledger_pb2.IngestResult:
    """The result in a response of a stream."""
    assert isinstance(response, ledger_pb2.StreamEventsResponse), response
    return response.result


async def test_streams_of_events_beyond_the_bound_are_refused_for_now(
    database: Database,
) -> None:
    """RESOURCE_EXHAUSTED with QUEUE_FULL for the one too many.

    When one has ended there is room again.
    """
    async with running_ledger(database, open_streams=2) as ledger:
        first, second = ledger.stub.StreamEvents(), ledger.stub.StreamEvents()
        for call in (first, second):
            await call.write(ledger_pb2.StreamEventsRequest(event=event_message()))
            assert result_of(await call.read()).status == ledger_pb2.INGEST_STATUS_CREATED
        third = ledger.stub.StreamEvents()
        assert await third.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "QUEUE_FULL" in str(await third.trailing_metadata())
        await first.done_writing()
        assert await first.code() is grpc.StatusCode.OK
        fourth = ledger.stub.StreamEvents()
        await fourth.write(ledger_pb2.StreamEventsRequest(event=event_message()))
        assert result_of(await fourth.read()).status == ledger_pb2.INGEST_STATUS_CREATED
        second.cancel()
        fourth.cancel()


async def test_calls_beyond_the_bound_are_refused_for_now(database: Database) -> None:
    """With two calls open that wait for the database, a third is RESOURCE_EXHAUSTED.

    Events and health are not held up.
    """
    async with running_ledger(database, open_calls=2) as ledger:
        restaurant_id = unique("res")
        await ledger.stub.PutRestaurant(
            ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id)
        )
        calls = [
            ledger.stub.ListRestaurants(ledger_pb2.ListRestaurantsRequest(page_size=1))
            for _ in range(200)
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        refused = [error for error in outcomes if isinstance(error, aio.AioRpcError)]
        assert refused
        assert len(refused) < len(outcomes)
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert all("QUEUE_FULL" in str(error.trailing_metadata()) for error in refused)
        (result,) = await ledger.ingest(event_message(restaurant_id=restaurant_id))
        assert result.status == ledger_pb2.INGEST_STATUS_CREATED
        assert (await ledger.stub.ListRestaurants(ledger_pb2.ListRestaurantsRequest())).restaurants


class PingedConnection(Http2):
    """A connection that can wait until everything sent so far, both ways, has arrived."""

    pongs = 0

    async def ping(self) -> None:
        """Returns when the server has acknowledged a ping, or has closed the connection."""
        wanted = self.pongs + 1
        self.h2.ping(bytes(8))
        self.flush()
        await self.until(lambda: self.pongs >= wanted or self.closed)

    def _note(self, event: Event) -> None:
        self.pongs += isinstance(event, PingAckReceived)
        super()._note(event)


@asynccontextmanager
async def busy_connection(address: str) -> AsyncIterator[PingedConnection]:
    """One with a call open, of which the server learnt before the connection had been idle for too
    long.
    """
    ends_at = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < ends_at:
        async with PingedConnection.connect(address) as connection:
            connection.open(STREAM)
            await connection.ping()
            if connection.goaway is None and not connection.closed:
                yield connection
                return
    raise TimeoutError("every connection was shown out before its call was open")


async def test_unread_responses_are_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses further reads of a client that takes no responses, but no other's."""
    monkeypatch.setattr(unread_responses, "UNREAD_BYTES_MAX", 2000)
    async with running_ledger(database) as ledger:
        event, small = event_message(metadata={"filling": "x" * 900}), event_message()
        await ledger.ingest(event)
        await ledger.ingest(small)
        raw = ledger_pb2.GetEventRequest(event_id=event.event_id).SerializeToString()
        body = b"\0" + len(raw).to_bytes(4, "big") + raw
        async with Http2.connect(ledger.address) as unread:
            unread.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
            first = unread.open(f"/{SERVICE}/GetEvent")
            await unread.send(first, body)
            await unread.until(lambda: bool(unread.streams[first].headers))
            second = await unread.call(f"/{SERVICE}/GetEvent", body)
            assert second.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert not unread.is_over(first)
            stored = await ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=small.event_id))
            assert stored.event.event_id == small.event_id
            # Calls with small responses are not counted.
            await ledger.ingest(event_message(restaurant_id=event.restaurant_id))
            await ledger.balance(event.restaurant_id)


async def test_idle_connection_is_shown_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GOAWAY to who has no call open for long, and none to who has.

    A client with a channel notices nothing.
    """
    limits = dict(api_server._OPTIONS) | {"grpc.max_connection_idle_ms": 500}
    monkeypatch.setattr(api_server, "_OPTIONS", tuple(limits.items()))
    async with running_ledger(database) as ledger:
        async with AsyncExitStack() as stack:
            busy = await stack.enter_async_context(busy_connection(ledger.address))
            idle = await stack.enter_async_context(Http2.connect(ledger.address))
            await idle.until(lambda: idle.closed or idle.goaway is not None)
            # It was there before the other, and would have been shown out before.
            await busy.ping()
            assert not busy.closed
            assert busy.goaway is None
        (result,) = await ledger.ingest(event_message())
        assert result.status == ledger_pb2.INGEST_STATUS_CREATED


async def test_silent_connection_is_shown_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that says one byte and exchanges no settings has a few seconds and not two minutes."""
    limits = dict(api_server._OPTIONS)
    assert limits["grpc.server_handshake_timeout_ms"] == api_server.HANDSHAKE_SECONDS * 1000
    monkeypatch.setattr(
        api_server, "_OPTIONS", tuple((limits | {"grpc.server_handshake_timeout_ms": 200}).items())
    )
    async with running_ledger(database) as ledger:
        host, port = ledger.address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(ONE_BYTE)
        async with asyncio.timeout(SHOWN_OUT_SECONDS):
            while await reader.read(65_536):
                pass
        writer.close()
        (result,) = await ledger.ingest(event_message())
        assert result.status == ledger_pb2.INGEST_STATUS_CREATED


def few_descriptors(number: int) -> str:
    """The command in a process that may have so many descriptors."""
    return (
        "import resource; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({number}, {number}))\n{INTERRUPTIBLE}"
    )


@asynccontextmanager
async def strangers(
    address: str, number: int, first: bytes = b""
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Connections that send `first` and no more.

    Yields a task for each, which ends when the server closes it.
    """
    host, port = address.rsplit(":", 1)
    connections = [await asyncio.open_connection(host, int(port)) for _ in range(number)]

    async def until_closed(reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while await reader.read(65_536):
                pass

    for _, writer in connections:
        writer.write(first)
    closing = [asyncio.create_task(until_closed(reader)) for reader, _ in connections]
    try:
        yield closing
    finally:
        for _, writer in connections:
            writer.close()
        await asyncio.gather(*closing)


async def test_connections_beyond_the_descriptors_are_closed(
    database: Database, tmp_path: Path
) -> None:
    """With 256 descriptors newcomers hear at once that there is no room, clients that are
    there are served, and there is room again when the others have gone. Health checks have an
    address and room apart from all of them.
    """
    settings = {"health_address": f"unix:{tmp_path}/health.sock"}
    async with (
        server_process(
            database, tmp_path / "server.log", program=few_descriptors(256), **settings
        ) as server,
        aio.insecure_channel(server.address) as channel,
    ):
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        await stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event_message()))
        # The kernel keeps connections out that have not sent a single byte.
        async with strangers(server.address, 300, ONE_BYTE) as closing:
            # Long before the server closes the connections that got in.
            _, pending = await asyncio.wait(
                closing,
                timeout=api_server.HANDSHAKE_SECONDS / 2,
                return_when=asyncio.FIRST_COMPLETED,
            )
            assert len(pending) < len(closing), "a connection beyond the bound is closed"
            await stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event_message()))
            for _ in range(10):
                assert (
                    await health_at(settings["health_address"])
                    == health_pb2.HealthCheckResponse.SERVING
                )
        await until(partial(is_well, server), DEADLINE_SECONDS)


async def test_silent_connections_take_no_place(database: Database, tmp_path: Path) -> None:
    """More of them than the server has descriptors keep no newcomer out, and take no descriptor."""
    async with server_process(
        database, tmp_path / "server.log", program=few_descriptors(256)
    ) as server:
        await server.assert_well()
        async with strangers(server.address, 300) as closing:
            for _ in range(5):
                await server.assert_well()
            assert server.descriptors() < 128
            assert not any(task.done() for task in closing), "none was closed to make room"


async def health_at(address: str) -> Any:
    """The status that a health check on a separate connection returns."""
    async with aio.insecure_channel(
        address, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return (
            await stub.Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=DEADLINE_SECONDS
            )
        ).status


async def is_well(server: ServerProcess) -> bool:
    """Whether a newcomer is served."""
    try:
        await server.assert_well()
    except aio.AioRpcError:
        return False
    return True


async def test_old_connection_is_replaced_and_no_event_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller whose connections are all old ones is never refused.

    A stream is cut off after the grace, and its caller, which repeats events without a result, has
    every event booked once.
    """
    monkeypatch.setattr(api_server, "CONNECTION_AGE_GRACE_SECONDS", 1)
    async with running_ledger(database, max_connection_age_seconds=1) as ledger:
        ends_at, single, cut = time.monotonic() + 5, list[ledger_pb2.ProcessorEvent](), 0
        unanswered = [event_message(restaurant_id="res_aged") for _ in range(200)]

        async def stream() -> None:
            nonlocal cut
            while unanswered:
                call = ledger.stub.StreamEvents()
                try:
                    for event in list(unanswered):
                        await call.write(ledger_pb2.StreamEventsRequest(event=event))
                        response = await call.read()
                        if not isinstance(response, ledger_pb2.StreamEventsResponse):
                            break
                        assert response.result.status in {
                            ledger_pb2.INGEST_STATUS_CREATED,
                            ledger_pb2.INGEST_STATUS_DUPLICATE,
                        }
                        unanswered.remove(event)
                        await asyncio.sleep(0.025)
                except (aio.AioRpcError, asyncio.InvalidStateError, AttributeError):
                    # A write that meets the end of the connection fails inside the client: no
                    # server sent that status.
                    is_own = await call.details() == "Internal error from Core"
                    assert is_own or await call.code() is grpc.StatusCode.UNAVAILABLE
                    cut += 1

        streaming = asyncio.create_task(stream())
        while time.monotonic() < ends_at or not streaming.done():
            single.append(event_message(restaurant_id="res_single"))
            began = time.monotonic()
            try:
                (result,) = await ledger.ingest(single[-1])
            except aio.AioRpcError:
                # Where a machine halts for longer than the grace, a single call is cut off as well.
                assert time.monotonic() - began >= api_server.CONNECTION_AGE_GRACE_SECONDS
                await ledger.ingest(single[-1])
            else:
                assert result.status == ledger_pb2.INGEST_STATUS_CREATED
        await streaming
        assert cut
        assert await ledger.query(
            "SELECT restaurant_id, count(*) FROM processor_events GROUP BY 1 ORDER BY 1"
        ) == [
            ("res_aged", 200),
            ("res_single", len(single)),
        ]
    await assert_books_in_order(database)


async def test_callers_that_leave_before_they_are_refused_write_no_log(
    database: Database, tmp_path: Path
) -> None:
    """More calls than may wait, on connections that are reset at once.

    The refused ones have no client left to receive the refusal.
    """

    async def leave(address: str) -> None:
        async with Http2.connect(address) as connection:
            for _ in range(100):
                connection.open(INGEST)
            await connection.drain()
            connection.reset()

    async with server_process(database, tmp_path / "server.log") as server:
        for _ in range(3):
            await asyncio.gather(*(leave(server.address) for _ in range(20)))
        await server.assert_well()
    log = server.log.read_text()
    assert "never retrieved" not in log
    assert "Traceback" not in log, log[max(0, log.index("Traceback") - 500) :][:4000]
    assert len(log) < LOG_BYTES_MAX
