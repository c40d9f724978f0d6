"""Unary gRPC calls as bytes on an HTTP/2 connection: callers that cost a fraction of gRPC's.

It knows as much of HTTP/2 (RFC 9113) as a unary call needs. Whatever else arrives fails the
connection, so that no load counts what it did not understand. For the server a call is the work
that it is from gRPC's own client: a HEADERS and a DATA frame, with fields of the dynamic table.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Self, cast
from urllib.parse import unquote

from hpack import Decoder, Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, INITIAL_WINDOW = 1, 4
WINDOW_DEFAULT = 65_535
WINDOW_MAX = 2**31 - 1
FRAME_HEADER_BYTES = 9
MESSAGE_HEADER_BYTES = 5
# A request is one frame, no longer than every server accepts.
REQUEST_BYTES_MAX = 16_384 - MESSAGE_HEADER_BYTES
# Without a table a server writes fields in full: these bytes are the end of every successful call.
# No other field can contain them, as values have no control characters.
OK_FIELD = b"\x0bgrpc-status\x010"

# Receives when a call began and its response; returns this caller's next request, or None.
Answered = Callable[[float, bytes], bytes | None]


class CallFailed(Exception):
    """A call ended with a status other than OK: its code, and the server's message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"status {code}: {message}")
        self.code = code
        self.message = message


class ConnectionFailed(Exception):
    """The connection ended, or the server sent what a unary call does not lead to."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + payload


class RawConnection(asyncio.Protocol):
    """One connection, with calls of one method by several callers at once.

    `finished` is done when no caller makes another call, or with the first failure: CallFailed,
    ConnectionFailed, or what `answered` raises.
    """

    def __init__(self, authority: str, path: str, answered: Answered) -> None:
        self._answered = answered
        loop = asyncio.get_running_loop()
        self._settled: asyncio.Future[None] = loop.create_future()
        self.finished: asyncio.Future[None] = loop.create_future()
        fields = [
            (":scheme", "http"),
            (":method", "POST"),
            (":authority", authority),
            (":path", path),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "ledger-bench"),
        ]
        encoder = Encoder()
        # The first call puts the fields into the server's table; the others refer to them there.
        self._fields = encoder.encode(fields)
        self._fields_again = encoder.encode(fields)
        self._next_stream = 1
        # By stream: when the call began, and the parts of its response.
        self._calls: dict[int, tuple[float, list[bytes]]] = {}
        # Requests for which the server has no room yet.
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._window = WINDOW_DEFAULT
        self._stream_window = WINDOW_DEFAULT
        self._consumed = 0
        self._unread = b""
        self._to_write: list[bytes] = []

    @classmethod
    async def open(cls, address: str, path: str, answered: Answered) -> Self:
        """Connects to a host and port; returns once the server's settings are in force.

        Raises OSError, ConnectionFailed.
        """
        host, _, port = address.rpartition(":")
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: cls(address, path, answered), host.strip("[]"), int(port)
        )
        await asyncio.wait(
            (connection._settled, connection.finished), return_when=asyncio.FIRST_COMPLETED
        )
        if connection.finished.done():
            connection.finished.result()
        return connection

    def start(self, request: bytes) -> None:
        """Makes the first call of one more caller."""
        self._call(request)
        self._write()

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none of asyncio's classes.
        self._transport = cast(asyncio.WriteTransport, transport)
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW, WINDOW_MAX)
        self._transport.write(
            PREFACE
            + frame(SETTINGS, 0, 0, settings)
            + frame(WINDOW_UPDATE, 0, 0, (WINDOW_MAX - WINDOW_DEFAULT).to_bytes(4))
        )

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(ConnectionFailed(f"the connection is closed: {error}"))

    def data_received(self, data: bytes) -> None:
        """Takes in all whole frames; then writes all that they lead to at once."""
        content = self._unread + data if self._unread else data
        at, end = 0, len(content)
        try:
            while (payload_at := at + FRAME_HEADER_BYTES) <= end:
                next_at = payload_at + int.from_bytes(content[at : at + 3])
                if next_at > end:
                    break
                stream = int.from_bytes(content[at + 5 : payload_at])
                self._take_in(content[at + 3], content[at + 4], stream, content[payload_at:next_at])
                at = next_at
        except Exception as error:  # noqa: BLE001  # `finished` raises it
            self._fail(error)
        self._unread = content[at:]
        self._write()

    def _take_in(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            if flags & (PADDED | END_STREAM) or stream not in self._calls:
                raise ConnectionFailed(f"DATA of stream {stream} with flags {flags:#x}")
            self._calls[stream][1].append(payload)
            self._consume(len(payload))
        elif kind == HEADERS:
            if flags & (PADDED | PRIORITY) or not flags & END_HEADERS:
                raise ConnectionFailed(f"HEADERS of stream {stream} with flags {flags:#x}")
            if flags & END_STREAM:
                self._end(stream, payload)
        elif kind == WINDOW_UPDATE:
            # A stream's own window has room for its one request from the beginning.
            if stream == 0:
                self._window += int.from_bytes(payload)
                self._send_waiting()
        elif kind == SETTINGS:
            if not flags & ACK:
                self._adopt(payload)
        elif kind == PING:
            if not flags & ACK:
                self._to_write.append(frame(PING, ACK, 0, payload))
        elif kind in (RST_STREAM, GOAWAY):
            name = "RST_STREAM" if kind == RST_STREAM else "GOAWAY"
            raise ConnectionFailed(f"the server sent {name}: {payload!r}")

    def _adopt(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == INITIAL_WINDOW:
                self._stream_window = value
        self._to_write.append(frame(SETTINGS, ACK, 0, b""))
        if not self._settled.done():
            self._settled.set_result(None)

    def _consume(self, number: int) -> None:
        """Gives the server room again for bytes that have come."""
        self._consumed += number
        if self._consumed > WINDOW_MAX // 2:
            self._to_write.append(frame(WINDOW_UPDATE, 0, 0, self._consumed.to_bytes(4)))
            self._consumed = 0

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
            stream, self._next_stream = self._next_stream, self._next_stream + 2
            self._calls[stream] = began, []
            fields = self._fields if stream == 1 else self._fields_again
            message = b"\0" + len(request).to_bytes(4) + request
            self._to_write.append(
                frame(HEADERS, END_HEADERS, stream, fields)
                + frame(DATA, END_STREAM, stream, message)
            )

    def _end(self, stream: int, fields: bytes) -> None:
        """Takes the end of a call, and makes the next call of this caller."""
        began, parts = self._calls.pop(stream)
        if OK_FIELD not in fields:
            raise failure_of(fields)
        message = parts[0] if len(parts) == 1 else b"".join(parts)
        length = len(message) - MESSAGE_HEADER_BYTES
        if length < 0 or message[:MESSAGE_HEADER_BYTES] != b"\0" + length.to_bytes(4):
            raise ConnectionFailed(f"not one uncompressed message: {message[:20]!r}")
        request = self._answered(began, message[MESSAGE_HEADER_BYTES:])
        if request is not None:
            self._call(request)
        elif not self._calls and not self._waiting and not self.finished.done():
            self.finished.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)
        self._transport.close()

    def _write(self) -> None:
        if self._to_write:
            self._transport.write(b"".join(self._to_write))
            self._to_write.clear()


def failure_of(fields: bytes) -> CallFailed:
    """The failure that trailers report, from a server without a table for its fields."""
    found = dict(Decoder().decode(fields, raw=True))
    message = unquote(found.get(b"grpc-message", b"").decode())
    return CallFailed(int(found.get(b"grpc-status", b"2")), message)
