"""HTTP hosts of this machine that answer as tests say."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# A response that never comes.
HANG = b""


class CannedHost:
    """An HTTP host; `answer_to` gives the response to a request line.

    It keeps all requests, and counts its open connections.
    """

    def __init__(self, answer_to: Callable[[str], bytes]) -> None:
        self.answer_to = answer_to
        self.requests: list[str] = []
        self.connections = 0
        self.origin = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of one connection."""
        self.connections += 1
        try:
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.requests.append(request)
                response = self.answer_to(request.partition("\r\n")[0])
                if response == HANG:
                    await reader.read()
                writer.write(response)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connections -= 1
            writer.close()


@asynccontextmanager
async def running_host(answer_to: Callable[[str], bytes]) -> AsyncIterator[CannedHost]:
    """A host that answers each request line."""
    canned = CannedHost(answer_to)
    server = await asyncio.start_server(canned.serve, "127.0.0.1", 0)
    canned.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield canned
    finally:
        server.close()


@asynccontextmanager
async def host(*responses: bytes) -> AsyncIterator[CannedHost]:
    """A host that gives its responses in turn, the last one for ever."""
    left = list(responses)
    async with running_host(lambda _: left.pop(0) if len(left) > 1 else left[0]) as canned:
        yield canned
