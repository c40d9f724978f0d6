"""StreamEvents: books the events of a stream in their order, as many at a time as have arrived."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from ledger.api.convert.events import (
    DecodedEvent,
    decode_stream_request,
    memory_bytes,
    stream_response_bytes,
)
from ledger.api.transport.receiving import ROOM_TO_PARSE
from ledger.api.transport.writing import Together
from ledger.application.ingest.event_batch import IngestOutcome
from ledger.application.ingest.ingest_events import IngestEvents
from ledger.application.ingest.queue import Admission
from ledger.domain.events import ProcessorEvent
from ledger.errors import LedgerError, QueueFull
from ledger.limits import BATCH_EVENTS_MAX
from ledger.v1 import ledger_pb2

# How much memory a stream may take for what it reads ahead of what is being booked. A single
# request may be larger.
READ_AHEAD_BYTES = 2 * 1024 * 1024
# How much memory all streams of a server may take for what they have read and not booked yet, but
# for the last request.
HELD_BYTES_MAX = 8 * 1024 * 1024
# How long a client may leave a response unread while other streams wait for room.
UNREAD_SECONDS = 5.0


async def ingest_decoded(
    ingest_events: IngestEvents,
    decoded: Sequence[DecodedEvent],
    admission: Admission,
    *,
    size_bytes: int,
) -> list[IngestOutcome]:
    """Books the valid events. Returns the outcome or the error of each event, in order.

    `size_bytes` is the memory that `decoded` takes. Raises as IngestEvents does.
    """
    events = [event for event in decoded if isinstance(event, ProcessorEvent)]
    booked = await ingest_events(events, admission, size_bytes=size_bytes) if events else []
    if len(booked) == len(decoded):
        return booked
    outcomes = iter(booked)
    return [next(outcomes) if isinstance(event, ProcessorEvent) else event for event in decoded]


class Holder(Protocol):
    """A stream that holds requests."""

    @property
    def unread_since(self) -> float | None:
        """When the response that its client has not read was sent, in the event loop's time.

        None if there is no such response.
        """
        ...

    def drop(self, error: LedgerError) -> None:
        """Gives back all that it holds, and ends with `error` after the responses under way."""
        ...


class HeldRequests:
    """Bounds the requests that the streams of a server hold while they are not booked yet.

    A stream whose client reads no responses books nothing and holds what it has read. Two such
    streams can take all the room, so they are dropped when others find none.
    """

    def __init__(self, bytes_max: int = HELD_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._room: asyncio.Event | None = None
        self._holders: set[Holder] = set()
        self.size_bytes = 0

    def enter(self, holder: Holder) -> None:
        """Lets a stream hold requests until it leaves."""
        self._holders.add(holder)

    def leave(self, holder: Holder) -> None:
        """Removes a stream, which has given back what it held."""
        self._holders.discard(holder)

    async def wait_for_room(self, size_bytes: int, holder: Holder | None = None) -> None:
        """Returns once `size_bytes` fit. More than the limit fit once nothing is held.

        While it waits, drops other streams whose clients read no responses.
        """
        while self.size_bytes and self.size_bytes + size_bytes > self._bytes_max:
            if self._room is None or self._room.is_set():
                self._room = asyncio.Event()
            try:
                async with asyncio.timeout(UNREAD_SECONDS):
                    await self._room.wait()
            except TimeoutError:
                self._drop_unread(holder)

    def take(self, size_bytes: int) -> None:
        """Counts `size_bytes` as held, whether or not there is room."""
        self.size_bytes += size_bytes

    def _drop_unread(self, waiting: Holder | None) -> None:
        unread_before = asyncio.get_running_loop().time() - UNREAD_SECONDS
        for holder in list(self._holders):
            since = holder.unread_since
            if holder is not waiting and since is not None and since <= unread_before:
                holder.drop(QueueFull())

    def give_back(self, size_bytes: int) -> None:
        """Counts `size_bytes` no more: they are booked, or were given up."""
        self.size_bytes -= size_bytes
        if self._room is not None:
            self._room.set()


class _Received(NamedTuple):
    """A request that has arrived: its events or their errors, and the memory that they take."""

    decoded: Sequence[DecodedEvent]
    is_single: bool
    size_bytes: int


class EventStream:
    """One stream.

    While some of its events are being booked, it reads the next ones, about as many as it books at
    a time.
    """

    def __init__(
        self, ingest_events: IngestEvents, clock: Callable[[], datetime], held: HeldRequests
    ) -> None:
        self._ingest_events = ingest_events
        self._held = held
        self._held_bytes = 0
        self._clock = clock
        self._now = clock()
        self._received: deque[_Received] = deque()
        self._events = 0
        self._size_bytes = 0
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._now_at = self._loop.time()
        self._ended = False
        self._error: Exception | None = None
        self._reading: asyncio.Task[None] | None = None
        self.unread_since: float | None = None

    async def responses(
        self, requests: AsyncIterator[ledger_pb2.StreamEventsRequest]
    ) -> AsyncGenerator[Together]:
        """Yields one response for each request, in their order, as many together as were booked.

        Raises the error that ended the stream, after the responses to the requests before it.
        """
        self._reading = asyncio.create_task(self._read(requests))
        self._held.enter(self)
        try:
            while not self._ended or self._received:
                if not self._received:
                    await self._wait_for_change()
                    continue
                yield await self._book(self._take())
                self.unread_since = None
            if self._error is not None:
                raise self._error
        finally:
            self._reading.cancel()
            # A cancelled task refers to this stream and to what it had read. Without this line they
            # would stay in memory until the garbage collector runs, which may take long.
            self._reading = None
            self._received.clear()
            self._give_back(self._held_bytes)
            self._held.leave(self)

    def drop(self, error: LedgerError) -> None:
        """Called only while a response is unread: nothing is being booked then."""
        if self._reading is not None:
            self._reading.cancel()
        self._error = error
        self._ended = True
        self._take()
        self._give_back(self._held_bytes)

    async def _read(self, requests: AsyncIterator[ledger_pb2.StreamEventsRequest]) -> None:
        ROOM_TO_PARSE.set(lambda size_bytes: self._held.wait_for_room(size_bytes, self))
        try:
            async for request in requests:
                received = self._decode(request)
                self._held_bytes += received.size_bytes
                self._held.take(received.size_bytes)
                # Not held until the next one comes.
                del request
                while self._events and not self._has_room(received):
                    await self._wait_for_change()
                self._received.append(received)
                self._events += len(received.decoded)
                self._size_bytes += received.size_bytes
                self._changed.set()
                del received
        except Exception as error:  # noqa: BLE001  # raised by `responses`, after those before it
            self._error = error
        finally:
            self._ended = True
            self._changed.set()

    def _give_back(self, size_bytes: int) -> None:
        self._held_bytes -= size_bytes
        self._held.give_back(size_bytes)

    def _decode(self, request: ledger_pb2.StreamEventsRequest) -> _Received:
        """Raises InvalidRequest for an invalid request, not for invalid events in it."""
        # uvloop's time stands still for a round of the loop, and costs less to read than the clock.
        if (at := self._loop.time()) != self._now_at:
            self._now_at, self._now = at, self._clock()
        decoded = decode_stream_request(request, self._now)
        size_bytes = memory_bytes(decoded, request.ByteSize())
        return _Received(decoded, request.HasField("event"), size_bytes)

    def _has_room(self, received: _Received) -> bool:
        return (
            self._events + len(received.decoded) <= BATCH_EVENTS_MAX
            and self._size_bytes + received.size_bytes <= READ_AHEAD_BYTES
        )

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _take(self) -> list[_Received]:
        """Removes and returns the requests that have arrived."""
        taken = list(self._received)
        self._received.clear()
        self._events = 0
        self._size_bytes = 0
        self._changed.set()
        return taken

    def _on_write(self) -> None:
        self.unread_since = self._loop.time()

    async def _book(self, taken: Sequence[_Received]) -> Together:
        decoded = [event for received in taken for event in received.decoded]
        size_bytes = sum(received.size_bytes for received in taken)
        admission = await self._ingest_events.wait_for_room(len(decoded), size_bytes)
        outcomes = await ingest_decoded(
            self._ingest_events, decoded, admission, size_bytes=size_bytes
        )
        self._give_back(size_bytes)
        responses, at = list[bytes](), 0
        for received in taken:
            of_request = outcomes[at : at + len(received.decoded)]
            responses.append(stream_response_bytes(of_request, is_single=received.is_single))
            at += len(received.decoded)
        return Together(responses, len(decoded), self._on_write)
