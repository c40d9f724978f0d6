"""The faulty network does what its condition says, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from support.waiting import until

from faults.proxy import BLACKHOLE, CLEAR, REPLIES_SWALLOWED, Condition, FaultProxy, fault_proxy

PATIENCE_SECONDS = 30.0
# Long enough for a byte that is not held back to arrive, on an idle machine.
SILENCE_SECONDS = 0.1


class Echo:
    """Sends every byte back, and records what it received and in which pieces."""

    def __init__(self) -> None:
        self.received = b""
        self.reads: list[int] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(1000):
                self.received += chunk
                self.reads.append(len(chunk))
                writer.write(chunk)
        writer.close()


@asynccontextmanager
async def echo_behind_proxy() -> AsyncIterator[tuple[Echo, FaultProxy]]:
    echo = Echo()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        async with fault_proxy((host, port), seed=1) as proxy:
            yield echo, proxy
    finally:
        server.close()


@asynccontextmanager
async def calling(
    proxy: FaultProxy,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_passes_both_ways_and_ends_with_either_side() -> None:
    """Without faults bytes arrive whole, and the end of one side is the end of the other."""
    async with echo_behind_proxy() as (_, proxy), calling(proxy) as (reader, writer):
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await until(lambda: proxy.connections == 0, PATIENCE_SECONDS)


async def test_swallowed_replies_arrive_when_the_condition_ends() -> None:
    """The request arrives, the response does not: it comes late, when the condition ends."""
    async with echo_behind_proxy() as (echo, proxy), calling(proxy) as (reader, writer):
        proxy.condition = REPLIES_SWALLOWED
        writer.write(b"hello")
        await until(lambda: proxy.held_reply_bytes == 5, PATIENCE_SECONDS)
        assert echo.received == b"hello"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), SILENCE_SECONDS)
        proxy.condition = CLEAR
        assert await asyncio.wait_for(reader.readexactly(5), PATIENCE_SECONDS) == b"hello"


async def test_blackhole_passes_nothing() -> None:
    """Nothing arrives, and neither side notices."""
    async with echo_behind_proxy() as (echo, proxy), calling(proxy) as (reader, writer):
        proxy.condition = BLACKHOLE
        writer.write(b"hello")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), SILENCE_SECONDS)
        assert echo.received == b""


async def test_reset_loses_what_was_held_back() -> None:
    """Both sides see the reset, and swallowed bytes never arrive."""
    async with echo_behind_proxy() as (echo, proxy), calling(proxy) as (reader, writer):
        proxy.condition = REPLIES_SWALLOWED
        writer.write(b"hello")
        await until(lambda: proxy.held_reply_bytes == 5, PATIENCE_SECONDS)
        assert proxy.reset() == 1
        proxy.condition = CLEAR
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), PATIENCE_SECONDS)
        assert echo.received == b"hello"


async def test_proxy_refuses_new_connections_and_keeps_open_ones() -> None:
    """New connections fail while it refuses, then work on the same port; open ones stay."""
    async with echo_behind_proxy() as (_, proxy), calling(proxy) as (reader, writer):
        writer.write(b"a")
        await reader.readexactly(1)
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"b")
        assert await asyncio.wait_for(reader.readexactly(1), PATIENCE_SECONDS) == b"b"
        await proxy.accept()
        async with calling(proxy) as (again, other):
            other.write(b"c")
            assert await asyncio.wait_for(again.readexactly(1), PATIENCE_SECONDS) == b"c"


async def test_fragments_arrive_in_order_after_their_delays() -> None:
    """Each fragment waits its time; all of them arrive, in order."""
    async with echo_behind_proxy() as (echo, proxy), calling(proxy) as (reader, writer):
        proxy.condition = Condition(delay_seconds=(0.005, 0.005), fragment_bytes=7)
        began = asyncio.get_running_loop().time()
        message = bytes(range(70))
        writer.write(message)
        assert await asyncio.wait_for(reader.readexactly(70), PATIENCE_SECONDS) == message
        assert max(echo.reads) < 70
        # At least ten fragments.
        assert asyncio.get_running_loop().time() - began >= 0.05


async def test_caller_of_a_missing_target_is_cut_off(tmp_path: Path) -> None:
    """The proxy closes the connection when it cannot reach the target."""
    async with fault_proxy(tmp_path / "nowhere", seed=1) as proxy, calling(proxy) as (reader, _):
        assert await asyncio.wait_for(reader.read(1), PATIENCE_SECONDS) == b""
