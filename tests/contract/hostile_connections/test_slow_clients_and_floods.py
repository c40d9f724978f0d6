"""Slow clients and floods: the server bounds each, and no other caller notices."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.errors import ErrorCodes
from support.hostility import (
    BATCH,
    INGEST,
    LOG_BYTES_MAX,
    MESSAGE_BYTES,
    METHODS,
    ONE_BYTE,
    RSS_MIB_MAX,
    STREAM,
    hostile_is_quiet,
    request,
    unharmed,
)
from support.http2 import Http2, Stream, frame
from support.processes import ServerProcess, server_process
from support.tokens import token_line
from support.waiting import DEADLINE_SECONDS

from ledger.bootstrap.database import Database

# How often a server that says nothing is asked whether more may be sent.
IDLE_TAKES = 5


# Slow clients


async def send_without_an_end(connection: Http2, streams: list[int], body: bytes) -> None:
    """Sends on all streams at once as much of the body as the server lets it."""
    places, idle = dict.fromkeys(streams, 0), 0
    while idle < IDLE_TAKES and not connection.closed:
        idle += 1
        for stream, place in places.items():
            got = connection.streams[stream]
            size = min(connection.h2.max_outbound_frame_size, len(body) - place)
            if got.ended or got.reset is not None:
                continue
            if 0 < size <= connection.h2.local_flow_control_window(stream):
                connection.h2.send_data(stream, body[place : place + size])
                places[stream], idle = place + size, 0
        connection.flush()
        await connection.drain()
        await connection.take_in(0.2 if idle else 0.001)


@pytest.mark.parametrize(
    ("path", "calls", "rss_mib"),
    [
        pytest.param(INGEST, 60, 224, id="single"),
        pytest.param(BATCH, 100, 96, id="batch"),
        pytest.param("/grpc.health.v1.Health/Check", 40, 96, id="health"),
        pytest.param("/grpc.health.v1.Health/Watch", 40, 96, id="watch"),
    ],
)
async def test_messages_that_never_end_are_bounded(
    hostile: ServerProcess, path: str, calls: int, rss_mib: float
) -> None:
    """Two connections with many calls each, every call with 3.9 MiB except the last byte.

    The server receives only some of them at a time, and serves other callers too.
    """
    body = (MESSAGE_BYTES + 1).to_bytes(5) + bytes(MESSAGE_BYTES)
    async with unharmed(hostile, rss_mib=rss_mib, booked=2), AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(Http2.connect(hostile.address)) for _ in range(2)
        ]
        streams = [[one.open(path) for _ in range(calls)] for one in connections]
        sending = [
            asyncio.create_task(send_without_an_end(one, opened, body))
            for one, opened in zip(connections, streams, strict=True)
        ]
        await hostile.assert_well()
        await asyncio.gather(*sending)
        await hostile.assert_well()


async def test_silent_calls_do_not_hold_up_health_checks(
    hostile: ServerProcess,
) -> None:
    """Three connections with a hundred calls each fill every place and the whole queue."""
    path = "/grpc.health.v1.Health/Check"
    async with unharmed(hostile, booked=1), AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(Http2.connect(hostile.address)) for _ in range(3)
        ]
        for one in connections:
            for _ in range(100):
                one.open(path)
        refused = connections[-1].streams
        await connections[-1].until(lambda: any(got.ended for got in refused.values()))
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in {got.code for got in refused.values()}, (
            "the line is full"
        )
        await hostile.assert_well()


async def test_nothing_is_received_from_strangers(database: Database, tmp_path: Path) -> None:
    """Calls without credentials are refused before their messages come: no more than a window of
    each is taken.
    """
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line("gateway", "ingest", "one"))
    body = (MESSAGE_BYTES + 1).to_bytes(5) + bytes(MESSAGE_BYTES)
    async with (
        server_process(database, tmp_path / "server.log", auth_tokens_file=str(tokens)) as server,
        Http2.connect(server.address) as connection,
    ):
        before = server.rss_mib()
        opened = [connection.open(path) for path in (INGEST, BATCH, STREAM) for _ in range(40)]
        await send_without_an_end(connection, opened, body)
        await connection.until(lambda: all(connection.streams[stream].ended for stream in opened))
        assert {connection.streams[stream].code for stream in opened} == {
            grpc.StatusCode.UNAUTHENTICATED
        }
        assert server.rss_mib() - before < RSS_MIB_MAX


@METHODS
async def test_body_that_trickles_in_holds_up_no_other_call(
    hostile: ServerProcess, path: str
) -> None:
    """Forty calls, each sending a byte now and then.

    Other callers are served too, and a call that its client gives up is not booked.
    """
    async with unharmed(hostile, booked=5), AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(Http2.connect(hostile.address)) for _ in range(40)
        ]
        calls = [(one, one.open(path), request(path)) for one in connections]
        for place in range(5):
            for one, stream, body in calls:
                await one.send(stream, body[place : place + 1], end=False)
            await hostile.assert_well()
        for one, stream, _ in calls:
            assert one.streams[stream] == Stream(), "it is waited for"
            one.h2.reset_stream(stream)
            one.flush()


async def test_six_hundred_idle_connections_hold_up_no_call(hostile: ServerProcess) -> None:
    """Half of them have exchanged settings, the others have said one byte."""
    host, port = hostile.address.rsplit(":", 1)
    async with unharmed(hostile, booked=3, rss_mib=128), AsyncExitStack() as stack:
        for _ in range(300):
            await stack.enter_async_context(Http2.connect(hostile.address))
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(ONE_BYTE)
            stack.callback(writer.close)
        for _ in range(3):
            await hostile.assert_well()


# Floods


async def test_ping_flood_is_cut_off(hostile: ServerProcess) -> None:
    """GOAWAY with ENHANCE_YOUR_CALM and too_many_pings after a few pings too many."""
    async with unharmed(hostile), Http2.connect(hostile.address) as connection:
        for number in range(1000):
            connection.h2.ping(number.to_bytes(8))
        connection.flush()
        await connection.until(lambda: connection.goaway is not None)
        assert connection.goaway is not None
        assert (connection.goaway.error_code, connection.goaway.additional_data) == (
            ErrorCodes.ENHANCE_YOUR_CALM,
            b"too_many_pings",
        )


def continuations() -> bytes:
    """A header block that never ends, of a thousand frames (CVE-2024-27316)."""
    return frame(1, 0, 1, b"\x83\x86") + frame(9, 0, 1, b"\0\1a\1b" * 64) * 1000


FLOODS = {
    "settings": frame(4, 0, 0, (3).to_bytes(2) + (1).to_bytes(4)) * 10_000,
    "empty-settings": frame(4, 0, 0, b"") * 10_000,
    "header-table-sizes": b"".join(
        frame(4, 0, 0, (1).to_bytes(2) + size.to_bytes(4)) for size in (0, 2**31) * 2000
    ),
    "window-overflow": frame(8, 0, 0, (2**31 - 1).to_bytes(4)) * 2,
    "window-of-0": frame(8, 0, 0, bytes(4)),
    "priorities": b"".join(frame(2, 0, 2 * number + 1, bytes(5)) for number in range(10_000)),
    "resets-of-nothing": b"".join(
        frame(3, 0, 2 * number + 1, bytes(4)) for number in range(10_000)
    ),
    "body-without-stream": frame(0, 0, 7, bytes(100)) * 100,
    "push": frame(5, 4, 1, bytes(4)),
    "unknown-frames": frame(0xEE, 0xFF, 3, bytes(100)) * 10_000,
    "endless-headers": continuations(),
    "frame-of-16-MiB": frame(0, 0, 1, b"")[3:] + b"\xff" * 3,
    "header-indexes-out-of-nowhere": frame(1, 5, 1, b"\xff\xff\xff\xff\x0f"),
    "even-stream": frame(1, 5, 2, b"\x83\x86"),
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_flood_of_frames_is_survived(hostile: ServerProcess, flood: str) -> None:
    """Whether the server takes it or closes the connection: others are served."""
    async with unharmed(hostile), AsyncExitStack() as stack:
        for _ in range(3):
            connection = await stack.enter_async_context(Http2.connect(hostile.address))
            connection.write(FLOODS[flood])
            await connection.drain()
        await hostile_has_read(hostile)


async def hostile_has_read(hostile: ServerProcess) -> None:
    """What was sent before is read, for it is read in turn."""
    async with aio.insecure_channel(
        hostile.address, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for _ in range(3):
            await health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)


@METHODS
async def test_streams_opened_and_reset_at_speed_are_survived(
    hostile: ServerProcess, path: str
) -> None:
    """CVE-2023-44487: 4,000 calls that are reset at once.

    Other calls succeed at the same time, and the books stay whole.
    """
    before, memory, words = await hostile.counts(), hostile.rss_mib(), hostile.log_bytes()

    async def flood(with_body: bool) -> None:
        async with Http2.connect(hostile.address) as connection:
            for number in range(1000):
                if connection.goaway is not None or connection.closed:
                    break
                stream = connection.open(path)
                if with_body and connection.h2.local_flow_control_window(stream) > 1000:
                    connection.h2.send_data(stream, request(path), end_stream=True)
                connection.h2.reset_stream(stream, ErrorCodes.CANCEL)
                connection.flush()
                if number % 100 == 0:
                    await connection.take_in(0.001)
            await connection.drain()

    flooding = [asyncio.create_task(flood(number % 2 == 0)) for number in range(4)]
    others = 0
    while not all(task.done() for task in flooding):
        await hostile.assert_well()
        others += 1
    await asyncio.gather(*flooding)
    await hostile_has_read(hostile)
    assert others
    assert hostile.rss_mib() - memory < RSS_MIB_MAX
    assert hostile.log_bytes() - words < LOG_BYTES_MAX
    assert (await hostile.counts())[0] >= before[0] + others
    # The next test counts what is booked.
    await hostile_is_quiet(hostile, path)
