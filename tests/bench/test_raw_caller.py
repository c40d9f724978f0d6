"""The bench's own caller, against a server of gRPC."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from grpc import aio
from support.waiting import DEADLINE_SECONDS

from scripts.bench.raw_caller import REQUEST_BYTES_MAX, RawCallers
from scripts.bench.raw_connection import (
    ACK,
    GOAWAY,
    INITIAL_WINDOW,
    PING,
    RST_STREAM,
    SETTINGS,
    CallFailed,
    ConnectionFailed,
    frame,
)

PATH = "/test.Test/Call"
Behaviour = Callable[[bytes, Any], Awaitable[bytes]]


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[tuple[str, aio.Server]]:
    """A server of one method; yields its address."""
    server = aio.server(options=(("grpc.so_reuseport", 0),))
    handlers: dict[str, Any] = {"Call": grpc.unary_unary_rpc_method_handler(behaviour)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        await server.stop(None)


async def answers(address: str, requests: list[bytes], callers: int = 1) -> list[bytes]:
    """The responses to all requests, in the order in which they came."""
    waiting, received = iter(requests), list[bytes]()

    def answered(began: float, response: bytes) -> bytes | None:
        assert began > 0
        received.append(response)
        return next(waiting, None)

    connection = await RawCallers.open(address, PATH, answered)
    for _ in range(callers):
        connection.start(next(waiting))
    try:
        await connection.finished
    finally:
        connection.close()
    return received


async def echo(request: bytes, _context: Any) -> bytes:
    return request


@pytest.mark.parametrize("callers", [1, 16])
async def test_every_call_has_its_response(callers: int) -> None:
    requests = [b"request %d" % number for number in range(500)]
    async with serving(echo) as (address, _):
        assert sorted(await answers(address, requests, callers)) == sorted(requests)


async def test_callers_call_at_once() -> None:
    """No call waits for the response to another: the server gets as many as there are callers."""
    arrived, all_arrived = 0, asyncio.Event()

    async def wait_for_all(request: bytes, _context: Any) -> bytes:
        nonlocal arrived
        arrived += 1
        if arrived == 16:
            all_arrived.set()
        await all_arrived.wait()
        return request

    async with serving(wait_for_all) as (address, _):
        assert len(await answers(address, [b""] * 32, callers=16)) == 32


async def test_long_requests_wait_for_room() -> None:
    """Together they are many times what a server takes in before the first calls end."""
    requests = [bytes([number]) * REQUEST_BYTES_MAX for number in range(200)]
    async with serving(echo) as (address, _):
        assert sorted(await answers(address, requests, callers=64)) == requests


async def test_responses_of_many_frames_are_put_together() -> None:
    async def long(request: bytes, _context: Any) -> bytes:
        return request * 300_000

    async with serving(long) as (address, _):
        assert await answers(address, [b"a", b"b", b""]) == [b"a" * 300_000, b"b" * 300_000, b""]


async def test_request_that_is_too_long_is_not_sent() -> None:
    async with serving(echo) as (address, _):
        with pytest.raises(ValueError, match="bytes"):
            await answers(address, [b"." * (REQUEST_BYTES_MAX + 1)])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "100 % wrong: ungültig"),
        (grpc.StatusCode.UNAVAILABLE, ""),
        (grpc.StatusCode.UNAUTHENTICATED, "grpc-status: 0"),
    ],
)
async def test_error_status_ends_the_load(code: grpc.StatusCode, message: str) -> None:
    async def refuse(request: bytes, context: Any) -> bytes:
        if request == b"refused":
            await context.abort(code, message)
        return request

    async with serving(refuse) as (address, _):
        with pytest.raises(CallFailed) as raised:
            await answers(address, [b"", b"", b"refused", b""])
    assert (raised.value.code, raised.value.message) == (code.value[0], message)


async def test_failure_after_a_response_is_a_failure() -> None:
    """The status counts, whatever else the server sent."""

    async def fail_late(_request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.DATA_LOSS)
        return b"response"

    async with serving(fail_late) as (address, _):
        with pytest.raises(CallFailed, match="status 15"):
            await answers(address, [b""])


async def test_unknown_method_is_a_failure() -> None:
    async with serving(echo) as (address, _):
        connection = await RawCallers.open(address, "/test.Test/Other", lambda *_: None)
        connection.start(b"")
        with pytest.raises(CallFailed, match="status 12"):
            await connection.finished


async def test_error_in_the_check_of_a_response_ends_the_load() -> None:
    def check(_began: float, response: bytes) -> bytes | None:
        raise LookupError(response)

    async with serving(echo) as (address, _):
        connection = await RawCallers.open(address, PATH, check)
        connection.start(b"unexpected")
        with pytest.raises(LookupError, match="unexpected"):
            await connection.finished


async def test_server_that_stops_ends_the_load() -> None:
    """No caller waits for ever: the connection's end, or GOAWAY, is a failure."""
    arrived = asyncio.Event()

    async def hang(_request: bytes, _context: Any) -> bytes:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(hang) as (address, server):
        connection = await RawCallers.open(address, PATH, lambda *_: None)
        connection.start(b"")
        await arrived.wait()
        await server.stop(None)
        with pytest.raises((ConnectionFailed, CallFailed)):
            await connection.finished


@asynccontextmanager
async def scripted(written: bytes, awaited: bytes = b"") -> AsyncIterator[str]:
    """A server that writes bytes, one at a time, and closes once it has read what it awaits."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in written:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        if awaited:
            with suppress(asyncio.IncompleteReadError):
                await reader.readuntil(awaited)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("acknowledged", [(SETTINGS, b""), (PING, b"12345678")])
async def test_settings_and_pings_are_acknowledged(acknowledged: tuple[int, bytes]) -> None:
    """With the bytes that the server waits for; frames may come in any pieces."""
    kind, content = acknowledged
    written = frame(SETTINGS, 0, 0, b"") + frame(PING, 0, 0, b"12345678")
    async with scripted(written, frame(kind, ACK, 0, content)) as address:
        connection = await RawCallers.open(address, PATH, lambda *_: None)
        with pytest.raises(ConnectionFailed, match="is closed"):
            async with asyncio.timeout(DEADLINE_SECONDS):
                await connection.finished


@pytest.mark.parametrize("kind", [GOAWAY, RST_STREAM])
async def test_refusing_frames_end_the_load(kind: int) -> None:
    written = frame(SETTINGS, 0, 0, b"") + frame(kind, 0, 0, b"reason")
    async with scripted(written) as address:
        with pytest.raises(ConnectionFailed, match="reason"):
            connection = await RawCallers.open(address, PATH, lambda *_: None)
            await connection.finished


async def test_server_without_room_for_a_request_is_a_failure() -> None:
    settings = frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, 100))
    async with scripted(settings, b"never") as address:
        connection = await RawCallers.open(address, PATH, lambda *_: None)
        with pytest.raises(ConnectionFailed, match="100 bytes"):
            connection.start(b"." * 100)
        connection.close()


async def test_server_of_another_protocol_is_a_failure() -> None:
    async def speak_http1(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_http1, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionFailed):
            await RawCallers.open(f"127.0.0.1:{port}", PATH, lambda *_: None)
