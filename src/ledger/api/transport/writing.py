"""Writes several messages of a stream together.

By itself the library sends each message of a stream with a system call of its own, and the client
reads each with one: most of what a small message costs on both sides. gRPC's core can keep a
message back until the next one comes, up to 64 KiB a stream. Its asynchronous API for Python has no
argument for that. It has one for the next message alone, not to be compressed, and this server
compresses nothing. So here that flag also keeps the message back.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from grpc import aio
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # it has no types

Context = aio.ServicerContext[Any, Any]

# Without these names messages are sent one by one, as fast as the library does.
if hasattr(cygrpc, "WriteFlag"):
    cygrpc.WriteFlag.no_compress |= cygrpc.WriteFlag.buffer_hint


class Together(NamedTuple):
    """Messages of a stream that are sent together, as bytes."""

    messages: Sequence[bytes]
    # In all of them.
    events: int
    # Called before each message is sent.
    on_write: Callable[[], None]


async def write_groups(groups: AsyncGenerator[Together], context: Context) -> None:
    """Sends messages in their order, each group in as few frames as hold it."""
    # The headers go out with the first message. gRPC's core waits until they are sent, so that the
    # first one cannot be kept back.
    is_begun = False
    # Closed with the call, not when the generator is collected.
    async with aclosing(groups):
        async for messages, _events, on_write in groups:
            left = len(messages)
            for message in messages:
                on_write()
                left -= 1
                if left and is_begun:
                    context.disable_next_message_compression()
                await context.write(message)
                is_begun = True
