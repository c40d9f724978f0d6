"""Messages that are written together reach the client in few frames, in their order."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.streaming import PATH, streaming

from ledger.api.transport.writing import Together, write_groups
from scripts.bench.raw_stream import RawStreams


class CountingStreams(RawStreams):
    """Counts the frames with responses."""

    frames = 0

    def _take_data(self, number: int, payload: bytes) -> None:
        self.frames += 1
        super()._take_data(number, payload)


@asynccontextmanager
async def serving(groups: Sequence[Sequence[bytes]]) -> AsyncIterator[str]:
    """A server that reads as many requests as there are messages, then writes them in groups."""
    written = 0

    def on_write() -> None:
        nonlocal written
        written += 1

    async def each() -> AsyncGenerator[Together]:
        for group in groups:
            yield Together(group, len(group), on_write)

    async def behaviour(_: Any, context: Any) -> None:
        for group in groups:
            for _message in group:
                await context.read()
        await write_groups(each(), context)
        assert written == sum(map(len, groups))

    async with streaming(behaviour) as address:
        yield address


async def received_of(address: str, requests: int) -> tuple[list[bytes], int]:
    """The responses to so many requests, and the frames in which they came."""
    received, left = list[bytes](), requests

    def take() -> bytes | None:
        nonlocal left
        left -= 1
        return b"" if left >= 0 else None

    streams = await CountingStreams.open(
        address, PATH, take, lambda _, response: received.append(response), requests + 1
    )
    streams.start()
    await streams.finished
    streams.close()
    return received, streams.frames


@pytest.mark.parametrize("number", [1, 2, 100])
async def test_small_messages_share_a_frame(number: int) -> None:
    """One by one they would take as many frames as they are. The first goes out with the headers.

    A frame has at most 16 KiB.
    """
    messages = [b"message %03d" % place for place in range(number)]
    async with serving([messages, messages]) as address:
        received, frames = await received_of(address, 2 * number)
    assert received == 2 * messages
    assert frames == (2 if number == 1 else 3)


async def test_more_than_is_kept_back_is_sent_on_the_way() -> None:
    """gRPC keeps back 64 KiB of a stream at most."""
    messages = [b"%04d" % place * 250 for place in range(1_000)]
    async with serving([messages]) as address:
        received, frames = await received_of(address, len(messages))
    assert received == messages
    assert frames < len(messages) / 5
