"""Frames of an HTTP/2 connection to a server, for callers that cost a fraction of gRPC's.

It knows as much of HTTP/2 (RFC 9113) as the calls of the bench need. Whatever else arrives fails
the connection, so that no load counts what it did not understand.
"""

import asyncio
import struct
from typing import Any, Self, cast
from urllib.parse import unquote

from hpack import Decoder, Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, INITIAL_WINDOW = 1, 4
WINDOW_DEFAULT = 65_535
WINDOW_MAX = 2**31 - 1
FRAME_HEADER_BYTES = 9
# Every server accepts frames with so many bytes.
FRAME_BYTES_MAX = 16_384
MESSAGE_HEADER_BYTES = 5
# Without a table a server writes fields in full: these bytes are the end of every successful call.
# No other field can contain them, as values have no control characters.
OK_FIELD = b"\x0bgrpc-status\x010"


class CallFailed(Exception):
    """A call ended with a status other than OK: its code, and the server's message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"status {code}: {message}")
        self.code = code
        self.message = message


class ConnectionFailed(Exception):
    """The connection ended, or the server sent what the calls do not lead to."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + payload


def message_of(request: bytes) -> bytes:
    """A request with its header of gRPC: uncompressed, and its length."""
    return b"\0" + len(request).to_bytes(4) + request


class RawConnection(asyncio.Protocol):
    """One connection, with calls of one method.

    `finished` is done when all calls have ended, or with the first failure: CallFailed,
    ConnectionFailed, or what the check of a response raises.
    """

    def __init__(self, authority: str, path: str) -> None:
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
        self._window = WINDOW_DEFAULT
        self._stream_window = WINDOW_DEFAULT
        self._consumed = 0
        self._unread = b""
        self._to_write: list[bytes] = []

    @classmethod
    async def open(cls, address: str, path: str, *arguments: Any) -> Self:
        """Connects to a host and port; returns once the server's settings are in force.

        Raises OSError, ConnectionFailed.
        """
        host, _, port = address.rpartition(":")
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: cls(address, path, *arguments), host.strip("[]"), int(port)
        )
        await asyncio.wait(
            (connection._settled, connection.finished), return_when=asyncio.FIRST_COMPLETED
        )
        if connection.finished.done():
            connection.finished.result()
        return connection

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
            if flags & (PADDED | END_STREAM):
                raise ConnectionFailed(f"DATA of stream {stream} with flags {flags:#x}")
            self._take_data(stream, payload)
            self._consume(len(payload))
        elif kind == HEADERS:
            if flags & (PADDED | PRIORITY) or not flags & END_HEADERS:
                raise ConnectionFailed(f"HEADERS of stream {stream} with flags {flags:#x}")
            if flags & END_STREAM:
                if OK_FIELD not in payload:
                    raise failure_of(payload)
                self._end(stream)
        elif kind == WINDOW_UPDATE:
            self._take_window(stream, int.from_bytes(payload))
        elif kind == SETTINGS:
            if not flags & ACK:
                self._adopt(payload)
        elif kind == PING:
            if not flags & ACK:
                self._to_write.append(frame(PING, ACK, 0, payload))
        elif kind in (RST_STREAM, GOAWAY):
            name = "RST_STREAM" if kind == RST_STREAM else "GOAWAY"
            raise ConnectionFailed(f"the server sent {name}: {payload!r}")

    def _take_data(self, stream: int, payload: bytes) -> None:
        """Takes a part of the responses on a stream."""
        raise NotImplementedError

    def _end(self, stream: int) -> None:
        """Takes the end of a call that succeeded."""
        raise NotImplementedError

    def _take_window(self, stream: int, number: int) -> None:
        """Takes room for `number` more bytes on a stream, or of the connection: 0."""
        raise NotImplementedError

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

    def _begin(self) -> int:
        """Writes the headers of one more call; returns its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        fields = self._fields if stream == 1 else self._fields_again
        self._to_write.append(frame(HEADERS, END_HEADERS, stream, fields))
        return stream

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
