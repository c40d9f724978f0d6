"""A server of gRPC with one method, for tests of what reads and writes streams."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio

PATH = "/test.Test/Stream"
# Gets an iterator of the requests and the context of a call.
Behaviour = Callable[[Any, Any], Awaitable[None]]


@asynccontextmanager
async def streaming(behaviour: Behaviour, *options: tuple[str, int]) -> AsyncIterator[str]:
    """Serves a method at PATH that takes a stream and returns one; yields the server's address."""
    server = aio.server(options=(("grpc.so_reuseport", 0), *options))
    handlers: dict[str, Any] = {"Stream": grpc.stream_stream_rpc_method_handler(behaviour)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
