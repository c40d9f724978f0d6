"""Unary gRPC calls as bytes on an HTTP/2 connection: callers that cost a fraction of gRPC's.

For the server a call is the work that it is from gRPC's own client: a HEADERS and a DATA frame,
with fields of the dynamic table.
"""

import time
from collections import deque
from collections.abc import Callable

from scripts.bench.raw_connection import (
    DATA,
    END_STREAM,
    FRAME_BYTES_MAX,
    MESSAGE_HEADER_BYTES,
    ConnectionFailed,
    RawConnection,
    frame,
    message_of,
)

# A request is one frame.
REQUEST_BYTES_MAX = FRAME_BYTES_MAX - MESSAGE_HEADER_BYTES

# Receives when a call began and its response; returns this caller's next request, or None.
Answered = Callable[[float, bytes], bytes | None]


class RawCallers(RawConnection):
    """Unary calls of one method by several callers at once.

    `finished` is done when no caller makes another call.
    """

    def __init__(self, authority: str, path: str, answered: Answered) -> None:
        super().__init__(authority, path)
        self._answered = answered
        # By stream: when the call began, and the parts of its response.
        self._calls: dict[int, tuple[float, list[bytes]]] = {}
        # Requests for which the server has no room yet.
        self._waiting: deque[tuple[float, bytes]] = deque()

    def start(self, request: bytes) -> None:
        """Makes the first call of one more caller."""
        self._call(request)
        self._write()

    def _take_data(self, stream: int, payload: bytes) -> None:
        if stream not in self._calls:
            raise ConnectionFailed(f"DATA of stream {stream}")
        self._calls[stream][1].append(payload)

    def _take_window(self, stream: int, number: int) -> None:
        # A stream's own window has room for its one request from the beginning.
        if stream == 0:
            self._window += number
            self._send_waiting()

    def _call(self, request: bytes) -> None:
        if len(request) > REQUEST_BYTES_MAX:
            raise ValueError(f"a request of {len(request)} bytes; {REQUEST_BYTES_MAX} at most")
        self._waiting.append((time.monotonic(), request))
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting:
            began, request = self._waiting[0]
            size = MESSAGE_HEADER_BYTES + len(request)
            if size > self._stream_window:
                raise ConnectionFailed(f"a stream has room for {self._stream_window} bytes only")
            if size > self._window:
                return
            self._waiting.popleft()
            self._window -= size
            stream = self._begin()
            self._calls[stream] = began, []
            self._to_write.append(frame(DATA, END_STREAM, stream, message_of(request)))

    def _end(self, stream: int) -> None:
        """Takes the end of a call, and makes the next call of this caller."""
        began, parts = self._calls.pop(stream)
        message = parts[0] if len(parts) == 1 else b"".join(parts)
        length = len(message) - MESSAGE_HEADER_BYTES
        if length < 0 or message[:MESSAGE_HEADER_BYTES] != b"\0" + length.to_bytes(4):
            raise ConnectionFailed(f"not one uncompressed message: {message[:20]!r}")
        request = self._answered(began, message[MESSAGE_HEADER_BYTES:])
        if request is not None:
            self._call(request)
        elif not self._calls and not self._waiting and not self.finished.done():
            self.finished.set_result(None)
