"""The bench's own streams, against a server of gRPC."""

from typing import Any

import grpc
import pytest
from grpc import aio
from support.streaming import PATH, streaming

from scripts.bench.raw_connection import CallFailed, ConnectionFailed
from scripts.bench.raw_stream import RawStreams

# So that a stream sends its requests in many windows.
SMALL_WINDOW = ("grpc.http2.lookahead_bytes", 1024)


async def echo(_: Any, context: Any) -> None:
    while (request := await context.read()) is not aio.EOF:
        await context.write(request)


async def responses(
    address: str, requests: list[bytes], streams: int = 1, in_flight: int = 100
) -> list[bytes]:
    """The responses to all requests, in the order in which they came."""
    waiting, received = iter(requests), list[bytes]()

    def answered(began: float, response: bytes) -> None:
        assert began > 0
        received.append(response)

    connection = await RawStreams.open(
        address, PATH, lambda: next(waiting, None), answered, in_flight
    )
    try:
        for _ in range(streams):
            connection.start()
        await connection.finished
    finally:
        connection.close()
    return received


@pytest.mark.parametrize("in_flight", [1, 10, 1000])
async def test_responses_of_a_stream_come_in_the_order_of_its_requests(in_flight: int) -> None:
    """They are far more than the server takes in at once."""
    requests = [b"request %d" % number * 20 for number in range(2_000)]
    async with streaming(echo, SMALL_WINDOW) as address:
        assert await responses(address, requests, in_flight=in_flight) == requests


async def test_streams_share_a_connection() -> None:
    requests = [b"request %d" % number for number in range(2_000)]
    async with streaming(echo, SMALL_WINDOW) as address:
        received = await responses(address, requests, streams=4, in_flight=50)
    assert sorted(received) == sorted(requests)


async def test_long_messages_are_cut_and_put_together() -> None:
    requests = [bytes([number]) * 100_000 for number in range(20)]
    async with streaming(echo, SMALL_WINDOW) as address:
        assert await responses(address, requests, in_flight=3) == requests


async def test_requests_without_a_response_are_at_most_so_many() -> None:
    """The server gets no more until it responds."""
    most = 0

    async def wait(_: Any, context: Any) -> None:
        nonlocal most
        held: list[bytes] = []
        while (request := await context.read()) is not aio.EOF:
            held.append(request)
            most = max(most, len(held))
            if len(held) == 7:
                for each in held:
                    await context.write(each)
                held.clear()

    async with streaming(wait, SMALL_WINDOW) as address:
        assert len(await responses(address, [b"."] * 70, in_flight=7)) == 70
    assert most == 7


async def test_status_other_than_ok_ends_the_load() -> None:
    async def refuse(_: Any, context: Any) -> None:
        await context.write(await context.read())
        await context.abort(grpc.StatusCode.DATA_LOSS, "lost")

    async with streaming(refuse, SMALL_WINDOW) as address:
        with pytest.raises(CallFailed, match="status 15: lost"):
            await responses(address, [b"."] * 3)


@pytest.mark.parametrize(
    ("extra", "reason"), [(1, "more responses than requests"), (-1, "without a response to 1")]
)
async def test_another_number_of_responses_is_a_failure(extra: int, reason: str) -> None:
    async def miscount(_: Any, context: Any) -> None:
        requests = 0
        while await context.read() is not aio.EOF:
            requests += 1
        for _number in range(requests + extra):
            await context.write(b".")

    async with streaming(miscount, SMALL_WINDOW) as address:
        with pytest.raises(ConnectionFailed, match=reason):
            await responses(address, [b"."] * 3)


async def test_error_in_the_check_of_a_response_ends_the_load() -> None:
    def check(_began: float, response: bytes) -> None:
        raise LookupError(response)

    requests = iter([b"unexpected"])
    async with streaming(echo, SMALL_WINDOW) as address:
        connection = await RawStreams.open(address, PATH, lambda: next(requests, None), check, 1)
        connection.start()
        with pytest.raises(LookupError, match="unexpected"):
            await connection.finished
