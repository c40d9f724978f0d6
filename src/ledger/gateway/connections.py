"""Bounds of a connection while a request arrives: headers, their size, and how long it takes.

uvicorn bounds none of these. A client that sends byte by byte would hold a connection for ever; one
that never ends its headers would fill the memory.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES_MAX = 32 * 1024
# Also how long a new connection may send nothing.
HEADER_SECONDS = 10.0
_TOO_SLOW = b"408 Request Timeout"
_TOO_LARGE = b"431 Request Header Fields Too Large"
_NO_UPGRADE = b"400 Bad Request"


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds. A connection that breaks one is closed.

    A request that arrives at once, as most do, costs no timer.
    """

    body_seconds = 10.0

    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _is_in_headers = False
    _is_in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer(HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_headers = self._is_in_headers
        super().data_received(data)
        if self._is_in_headers:
            self._header_bytes = len(data) + (self._header_bytes if was_in_headers else 0)
            if self._header_bytes > HEADER_BYTES_MAX:
                self._refuse(_TOO_LARGE)
            elif self._timer is None:
                self._start_timer(HEADER_SECONDS)
        elif self._is_in_body and self._timer is None:
            self._start_timer(self.body_seconds)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_headers = True

    def on_headers_complete(self) -> None:
        self._is_in_headers = False
        self._is_in_body = True
        self._stop_timer()
        if self.parser.should_upgrade():
            # The parser would drop the body, or take what is left of it for another request.
            self._refuse(_NO_UPGRADE, b"the gateway speaks HTTP/1.1 and upgrades to nothing else\n")
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_in_body = False
        self._stop_timer()
        super().on_message_complete()

    def _start_timer(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._refuse, _TOO_SLOW)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: bytes, text: bytes = b"") -> None:
        transport: Any = self.transport
        if transport is None or transport.is_closing():
            return
        # An answer to the headers may be under way already.
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\n\r\n" + text)
        transport.close()


def bounded_protocol(body_seconds: float) -> type[BoundedProtocol]:
    """The protocol with another bound of a body's time."""
    return type("BoundedProtocol", (BoundedProtocol,), {"body_seconds": body_seconds})
