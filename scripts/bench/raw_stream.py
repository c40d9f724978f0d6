"""gRPC streams with a response for each request, as bytes on an HTTP/2 connection.

Requests go out as soon as the server has room for them, as many as fit into a frame: a client that
has many events to send writes them so.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

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

# Returns the next request of a stream, or None to end it.
Take = Callable[[], bytes | None]
# Receives when a request was sent, and its response.
Answered = Callable[[float, bytes], None]


@dataclass(slots=True)
class _Stream:
    """An open stream."""

    # How many bytes the server has room for.
    window: int
    # The rest of requests for which it had none.
    unsent: bytes = b""
    # The first bytes of a response.
    received: bytes = b""
    # When the requests without a response were sent.
    sent_at: deque[float] = field(default_factory=deque)
    is_ended: bool = False


class RawStreams(RawConnection):
    """Streams of one method, each with at most `in_flight` requests without a response.

    `finished` is done when all streams have ended, each with a response to every request.
    """

    def __init__(
        self, authority: str, path: str, take: Take, answered: Answered, in_flight: int
    ) -> None:
        super().__init__(authority, path)
        self._take = take
        self._answered = answered
        self._in_flight = in_flight
        self._streams: dict[int, _Stream] = {}

    def start(self) -> None:
        """Opens one more stream."""
        number = self._begin()
        self._streams[number] = _Stream(self._stream_window)
        self._send(number)
        self._write()

    def _take_data(self, number: int, payload: bytes) -> None:
        if number not in self._streams:
            raise ConnectionFailed(f"DATA of stream {number}")
        stream = self._streams[number]
        content = stream.received + payload if stream.received else payload
        at, end = 0, len(content)
        while (message_at := at + MESSAGE_HEADER_BYTES) <= end:
            next_at = message_at + int.from_bytes(content[at + 1 : message_at])
            if content[at] or next_at > end:
                break
            if not stream.sent_at:
                raise ConnectionFailed("more responses than requests")
            self._answered(stream.sent_at.popleft(), content[message_at:next_at])
            at = next_at
        stream.received = content[at:]
        if stream.received.startswith(b"\1"):
            raise ConnectionFailed("a compressed response")
        self._send(number)

    def _take_window(self, stream: int, number: int) -> None:
        if stream == 0:
            self._window += number
            for each in self._streams:
                self._send(each)
        elif stream in self._streams:
            self._streams[stream].window += number
            self._send(stream)

    def _adopt(self, payload: bytes) -> None:
        before = self._stream_window
        super()._adopt(payload)
        for stream in self._streams.values():
            stream.window += self._stream_window - before

    def _send(self, number: int) -> None:
        """Sends what the server has room for, and the end after the last request."""
        stream = self._streams[number]
        while not stream.is_ended:
            room = min(stream.window, self._window, FRAME_BYTES_MAX)
            parts, size, is_last = [stream.unsent], len(stream.unsent), False
            while size < room and len(stream.sent_at) < self._in_flight:
                request = self._take()
                if request is None:
                    is_last = True
                    break
                parts.append(message_of(request))
                size += len(parts[-1])
                stream.sent_at.append(time.monotonic())
            content = b"".join(parts)
            payload, stream.unsent = content[:room], content[room:]
            if payload:
                stream.window -= len(payload)
                self._window -= len(payload)
                self._to_write.append(frame(DATA, 0, number, payload))
            if is_last and not stream.unsent:
                stream.is_ended = True
                self._to_write.append(frame(DATA, END_STREAM, number, b""))
            if not payload or len(payload) < FRAME_BYTES_MAX:
                return

    def _end(self, number: int) -> None:
        stream = self._streams.pop(number)
        if stream.sent_at or stream.received:
            raise ConnectionFailed(
                f"a stream ended without a response to {len(stream.sent_at)} requests"
            )
        if not self._streams and not self.finished.done():
            self.finished.set_result(None)
