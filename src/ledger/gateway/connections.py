"""Bounds of a connection, before its request is one: headers, their size, and how long they take.

uvicorn bounds neither. A client that sends its headers byte by byte would hold a connection for
ever; one that never ends them would fill the memory.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES_MAX = 32 * 1024
HEADERS_MAX = 100
# Also how long a new connection may send nothing.
HEADER_SECONDS = 10.0


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds. A connection that breaks one is closed."""

    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _reads_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._reads_headers:
            # The first bytes of the body may count too: the bound is generous.
            self._header_bytes += len(data)
        super().data_received(data)
        if self._reads_headers and self._header_bytes > HEADER_BYTES_MAX:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reads_headers = True
        self._header_bytes = 0
        if self._timer is None:
            self._start_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > HEADERS_MAX:
            # The parser must not go on with a connection that is closed.
            raise ValueError("too many headers")

    def on_headers_complete(self) -> None:
        self._reads_headers = False
        self._stop_timer()
        super().on_headers_complete()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self._refuse, b"408 Request Timeout")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: bytes) -> None:
        transport: Any = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\n\r\n")
            transport.close()
