"""An HTTP server that stands for a processor's API."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class JsonHost:
    """Returns `resources` by their paths, or the raw responses of `instead`; keeps requests."""

    def __init__(self) -> None:
        self.resources: dict[str, object] = {}
        self.instead: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.origin = ""

    @property
    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [request.split(" ")[1] for request in self.requests]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request and its response."""
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(request)
            path = request.split(" ")[1]
            if path in self.instead:
                writer.write(self.instead[path])
                if not self.instead[path]:
                    # A host that says nothing, until the other side gives up.
                    await reader.read()
            else:
                writer.write(self._response(path))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _response(self, path: str) -> bytes:
        is_there = path in self.resources
        body = json.dumps(self.resources[path] if is_there else {"error": "not_found"}).encode()
        status = "200 OK" if is_there else "404 Not Found"
        return http_response(status, body)


def http_response(status: str, body: bytes = b"", *headers: str) -> bytes:
    """A whole response, after which the connection is closed."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def json_host() -> AsyncIterator[JsonHost]:
    """A host on a port of this machine."""
    host = JsonHost()
    server = await asyncio.start_server(host.answer, "127.0.0.1", 0)
    host.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield host
    finally:
        server.close()
