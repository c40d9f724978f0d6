"""Clients that send too much: `python -m faults.floods KIND ADDRESS TOKEN`.

The process runs beside the honest callers until its standard input ends, and repeats refused calls.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

from grpc import aio
from support.events import event_message
from support.http2 import Headers, Http2

from ledger.v1 import ledger_pb2

MIB = 1024 * 1024
PATHS = "/ledger.v1.LedgerService/"
UNFINISHED_BYTES = int(3.9 * MIB)
# The pause before a refused call is repeated: honest callers share the machine.
PAUSE_SECONDS = 0.05
FLOODING = b"flooding\n"
NEW_ID_PREFIX = "flood_"


def _message(size_bytes: int) -> bytes:
    """The frame that precedes a message of `size_bytes`."""
    return b"\0" + size_bytes.to_bytes(4, "big")


async def _unfinished(address: str, headers: Headers, path: str, calls: int) -> None:
    """One connection full of calls, each a message of 3.9 MiB without its last byte."""
    body = _message(UNFINISHED_BYTES) + bytes(UNFINISHED_BYTES - 1)
    async with Http2.connect(address) as connection:
        open_calls: dict[int, int] = {}
        while not connection.closed and connection.goaway is None:
            for stream in [stream for stream in open_calls if connection.is_over(stream)]:
                del open_calls[stream]
                await asyncio.sleep(PAUSE_SECONDS)
            while len(open_calls) < calls:
                open_calls[connection.open(path, headers)] = 0
            sent = 0
            for stream, place in open_calls.items():
                piece = connection.send_some(stream, body, place)
                open_calls[stream] += piece
                sent += piece
            await connection.drain()
            await connection.take_in(0.0 if sent else 0.2)


async def _byte_by_byte(address: str, headers: Headers, path: str, calls: int) -> None:
    """One connection whose calls send a byte of an event from time to time."""
    event = ledger_pb2.IngestEventRequest(event=event_message(event_id="never")).SerializeToString()
    body = _message(len(event)) + event
    async with Http2.connect(address) as connection:
        places: dict[int, int] = {}
        while not connection.closed and connection.goaway is None:
            places = {
                stream: place for stream, place in places.items() if not connection.is_over(stream)
            }
            while len(places) < calls:
                places[connection.open(path, headers)] = 0
            for stream, place in places.items():
                # All but the last byte.
                if place < len(body) - 1:
                    places[stream] += connection.send_some(stream, body[: place + 1], place)
            await connection.drain()
            await connection.take_in(PAUSE_SECONDS)


def large_events() -> list[ledger_pb2.ProcessorEvent]:
    """A batch of just under 4 MiB; always the same, so that repeats book nothing."""
    filling = {"filling": "x" * 4000}
    return [
        event_message(event_id=f"large_{number}", restaurant_id="large", metadata=filling)
        for number in range(980)
    ]


def new_event(event_id: str) -> ledger_pb2.ProcessorEvent:
    """An event of a new id, always the same for that id."""
    return event_message(
        event_id=event_id, restaurant_id="flooded", metadata={"filling": "x" * 4000}
    )


async def _new_batches(address: str, headers: Headers, calls: int) -> None:
    """Complete batches of 4 MiB of new events, `calls` at once."""
    async with aio.insecure_channel(
        address, options=(("grpc.use_local_subchannel_pool", 1),)
    ) as channel:
        method: Any = channel.unary_unary(PATHS + "BatchIngestEvents")

        async def send() -> None:
            while True:
                events = [new_event(NEW_ID_PREFIX + uuid4().hex) for _ in range(980)]
                raw = ledger_pb2.BatchIngestEventsRequest(events=events).SerializeToString()
                with suppress(aio.AioRpcError):
                    await method(raw, metadata=tuple(headers), timeout=60)
                await asyncio.sleep(PAUSE_SECONDS)

        await asyncio.gather(*(send() for _ in range(calls)))


async def _whole_batches(address: str, headers: Headers, calls: int) -> None:
    """Complete batches of 4 MiB, `calls` at once."""
    raw = ledger_pb2.BatchIngestEventsRequest(events=large_events()).SerializeToString()
    async with aio.insecure_channel(
        address, options=(("grpc.use_local_subchannel_pool", 1),)
    ) as channel:
        method: Any = channel.unary_unary(PATHS + "BatchIngestEvents")

        async def send() -> None:
            while True:
                with suppress(aio.AioRpcError):
                    await method(raw, metadata=tuple(headers), timeout=60)
                await asyncio.sleep(PAUSE_SECONDS)

        await asyncio.gather(*(send() for _ in range(calls)))


async def _unread_streams(address: str, headers: Headers, streams: int) -> None:
    """Streams that read no responses, each sent batches of 4 MiB as long as it takes them."""
    raw = ledger_pb2.StreamEventsRequest(events=large_events()).SerializeToString()
    async with aio.insecure_channel(
        address, options=(("grpc.use_local_subchannel_pool", 1),)
    ) as channel:
        method: Any = channel.stream_stream(PATHS + "StreamEvents")

        async def send() -> None:
            while True:
                call = method(metadata=tuple(headers))
                with suppress(aio.AioRpcError, asyncio.InvalidStateError):
                    while not call.done():
                        await call.write(raw)
                call.cancel()
                await asyncio.sleep(PAUSE_SECONDS)

        await asyncio.gather(*(send() for _ in range(streams)))


async def _again(flood: Callable[[], Awaitable[None]]) -> None:
    """Connects again when the server has closed the connection or is not there."""
    while True:
        with suppress(OSError, TimeoutError, aio.AioRpcError):
            await flood()
        await asyncio.sleep(PAUSE_SECONDS)


Flood = Callable[[str, Headers], Awaitable[None]]
BATCH, SINGLE, OPEN = (
    PATHS + "BatchIngestEvents",
    PATHS + "IngestEvent",
    "/grpc.health.v1.Health/Check",
)
# Each flood uses one connection.
KINDS: dict[str, tuple[Flood, ...]] = {
    "two-connections": (lambda to, headers: _unfinished(to, headers, BATCH, 100),) * 2,
    "one-connection": (lambda to, headers: _unfinished(to, headers, BATCH, 120),),
    "single-calls": (lambda to, headers: _unfinished(to, headers, SINGLE, 100),) * 2,
    "health-checks": (lambda to, headers: _unfinished(to, headers, OPEN, 100),) * 2,
    "whole-batches": (lambda to, headers: _whole_batches(to, headers, 100),) * 2,
    "unread-streams": (lambda to, headers: _unread_streams(to, headers, 16),) * 2,
    "new-batches": (lambda to, headers: _new_batches(to, headers, 20),),
    "byte-by-byte": (lambda to, headers: _byte_by_byte(to, headers, SINGLE, 100),) * 2,
}


async def flood(kinds: str, address: str, token: str) -> None:
    """Runs floods until standard input ends.

    `kinds` are joined by commas. Writes FLOODING at first.
    """
    headers = [("authorization", f"Bearer {token}")] if token else []
    floods = [each for kind in kinds.split(",") for each in KINDS[kind]]
    tasks = [
        asyncio.create_task(_again(lambda each=each: each(address, headers)))  # type: ignore[misc]
        for each in floods
    ]
    # Some first requests take a while.
    await asyncio.sleep(PAUSE_SECONDS)
    print(FLOODING.decode(), end="", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(flood(*sys.argv[1:]))
