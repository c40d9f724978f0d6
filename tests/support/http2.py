"""An HTTP/2 client that sends what no gRPC library sends, and records what a server sends back."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from support.processes import SERVED_SECONDS
from support.waiting import DEADLINE_SECONDS

CODES = {code.value[0]: code for code in grpc.StatusCode}
CHUNK_BYTES = 65_536

Headers = Iterable[tuple[str, str | bytes]]


@dataclass(slots=True)
class Stream:
    """The response on a stream: the status of the call, a reset, or nothing yet."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def code(self) -> grpc.StatusCode | None:
        """The status; None if the stream was cut off without one."""
        status = self.headers.get(b"grpc-status")
        return None if status is None else CODES[int(status)]


class Http2:
    """A connection. It reads what arrives only while `until` or `take_in` waits."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        # The library must let tests send invalid headers.
        self.h2 = H2Connection(
            H2Configuration(
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                header_encoding=None,
            )
        )
        self.streams: dict[int, Stream] = {}
        self.goaway: ConnectionTerminated | None = None
        self.settings: dict[int, int] = {}
        self.closed = False

    @classmethod
    @asynccontextmanager
    async def connect(cls, address: str) -> AsyncIterator[Self]:
        """Connects and exchanges settings."""
        host, port = address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        connection = cls(reader, writer)
        try:
            connection.h2.initiate_connection()
            connection.flush()
            await connection.until(lambda: bool(connection.settings))
            yield connection
        finally:
            writer.close()

    def flush(self) -> None:
        """Sends what the library has to send."""
        if not self.closed:
            self._writer.write(self.h2.data_to_send())

    def reset(self) -> None:
        """Closes the connection by a reset, whatever has not been sent or read."""
        no_time_to_linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, no_time_to_linger
        )
        self._writer.transport.abort()
        self.closed = True

    def write(self, raw: bytes) -> None:
        """Sends bytes past the library."""
        self.flush()
        self._writer.write(raw)

    async def drain(self) -> None:
        """Waits until the kernel has taken what was sent.

        A connection that the server closed is closed.
        """
        try:
            await asyncio.wait_for(self._writer.drain(), DEADLINE_SECONDS)
        except ConnectionError:
            self.closed = True

    def open(
        self, path: str, headers: Headers = (), *, without: Iterable[str] = (), end: bool = False
    ) -> int:
        """Opens a stream with the headers of a call, some of them changed, added or left out."""
        usual: dict[str, str | bytes] = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        sent: list[tuple[str, str | bytes]] = [
            *(usual | {name: value for name, value in headers if name in usual}).items()
        ]
        sent = [(name, value) for name, value in sent if name not in set(without)]
        stream = self.h2.get_next_available_stream_id()
        self.streams[stream] = Stream()
        self.h2.send_headers(
            stream,
            [*sent, *((name, value) for name, value in headers if name not in usual)],
            end_stream=end,
        )
        self.flush()
        return stream

    async def send(self, stream: int, body: bytes, *, end: bool = True) -> None:
        """Sends a body as flow control allows; stops when the server has ended the stream."""
        place = 0
        while place < len(body) and not self.is_over(stream):
            size = min(
                CHUNK_BYTES,
                self.h2.local_flow_control_window(stream),
                self.h2.max_outbound_frame_size,
                len(body) - place,
            )
            if size <= 0:
                await self.take_in(0.2)
                continue
            self.h2.send_data(stream, body[place : place + size])
            place += size
            self.flush()
        if end and not self.is_over(stream):
            self.h2.end_stream(stream)
            self.flush()

    def send_some(self, stream: int, body: bytes, place: int) -> int:
        """Sends as much of a body from `place` on as flow control allows now.

        Returns how many bytes it sent.
        """
        size = 0
        while place + size < len(body) and not self.is_over(stream):
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room <= 0:
                break
            piece = body[place + size : place + size + room]
            self.h2.send_data(stream, piece)
            size += len(piece)
        self.flush()
        return size

    async def call(
        self, path: str, body: bytes, headers: Headers = (), *, without: Iterable[str] = ()
    ) -> Stream:
        """Makes a whole call and returns its ended stream."""
        stream = self.open(path, headers, without=without)
        await self.send(stream, body)
        await self.until(lambda: self.is_over(stream))
        return self.streams[stream]

    async def until(
        self, condition: Callable[[], bool], timeout_seconds: float = SERVED_SECONDS
    ) -> None:
        """Takes in what arrives until the condition holds. Raises TimeoutError."""
        ends_at = time.monotonic() + timeout_seconds
        while not condition():
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{self.streams}, {self.goaway}, closed: {self.closed}")
            await self.take_in(0.2)

    def is_over(self, stream: int) -> bool:
        """Whether the stream or its connection has ended."""
        got = self.streams[stream]
        return got.ended or got.reset is not None or self.closed or self.goaway is not None

    async def take_in(self, seconds: float) -> None:
        """Takes in what arrives within `seconds`, at most one piece."""
        if self.closed:
            await asyncio.sleep(min(seconds, 0.01))
            return
        try:
            raw = await asyncio.wait_for(self._reader.read(CHUNK_BYTES), seconds)
        except TimeoutError:
            return
        except ConnectionError:
            raw = b""
        if not raw:
            self.closed = True
            return
        for event in self.h2.receive_data(raw):
            self._note(event)
        self.flush()

    def _note(self, event: Event) -> None:
        match event:
            case RemoteSettingsChanged():
                self.settings |= {
                    int(number): change.new_value
                    for number, change in event.changed_settings.items()
                }
            case ConnectionTerminated():
                self.goaway = event
            case ResponseReceived() | TrailersReceived():
                self.streams[event.stream_id or 0].headers |= {
                    bytes(name): bytes(value) for name, value in event.headers or ()
                }
            case DataReceived():
                self.streams[event.stream_id or 0].body += event.data or b""
                self.h2.acknowledge_received_data(
                    event.flow_controlled_length or 0, event.stream_id or 0
                )
            case StreamEnded():
                self.streams[event.stream_id or 0].ended = True
            case StreamReset():
                self.streams[event.stream_id or 0].reset = int(
                    event.error_code or ErrorCodes.NO_ERROR
                )
            case _:
                pass


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def grpc_message(raw: bytes, *, compressed: int = 0) -> bytes:
    """A message as gRPC frames it."""
    return bytes([compressed]) + len(raw).to_bytes(4) + raw
