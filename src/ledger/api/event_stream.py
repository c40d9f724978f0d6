"""StreamEvents: books the events of a stream in their order, as many at a time as have arrived."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ledger.api import convert
from ledger.application.event_batch import IngestOutcome
from ledger.application.ingest_events import BATCH_EVENTS_MAX, IngestEvents
from ledger.domain.events import ProcessorEvent
from ledger.v1 import ledger_pb2

# Read ahead of what is being booked; a single request may be larger.
READ_AHEAD_BYTES = 1024 * 1024


async def ingest_decoded(
    ingest_events: IngestEvents,
    decoded: Sequence[convert.DecodedEvent],
    *,
    size_bytes: int,
    seconds_left: float | None,
) -> list[IngestOutcome]:
    """Books what is valid; what became of each, or what is wrong with it, in their order. Raises as IngestEvents."""
    events = [event for event in decoded if isinstance(event, ProcessorEvent)]
    outcomes = iter(await ingest_events(events, size_bytes=size_bytes, seconds_left=seconds_left) if events else ())
    return [next(outcomes) if isinstance(event, ProcessorEvent) else event for event in decoded]


@dataclass(frozen=True, slots=True)
class _Received:
    """A request that has arrived: its events, or what is wrong with them."""

    decoded: Sequence[convert.DecodedEvent]
    is_single: bool
    size_bytes: int


class EventStream:
    """One stream. While some of its events are being booked the next ones are read, about as many as are booked at a time."""

    def __init__(self, ingest_events: IngestEvents, clock: Callable[[], datetime]) -> None:
        self._ingest_events = ingest_events
        self._clock = clock
        self._received: deque[_Received] = deque()
        self._events = 0
        self._size_bytes = 0
        self._changed = asyncio.Event()
        self._ended = False
        self._end: Exception | None = None

    async def answers(
        self, requests: AsyncIterator[ledger_pb2.StreamEventsRequest]
    ) -> AsyncGenerator[ledger_pb2.StreamEventsResponse, None]:
        """One response for each request, in their order. Raises what ended the stream, once what came before it is answered."""
        reading = asyncio.create_task(self._read(requests))
        try:
            while not self._ended or self._received:
                if not self._received:
                    await self._change()
                    continue
                for answer in await self._book(self._take()):
                    yield answer
            if self._end is not None:
                raise self._end
        finally:
            reading.cancel()

    async def _read(self, requests: AsyncIterator[ledger_pb2.StreamEventsRequest]) -> None:
        try:
            async for request in requests:
                received = self._decode(request)
                while self._events and not self._has_room(received):
                    await self._change()
                self._received.append(received)
                self._events += len(received.decoded)
                self._size_bytes += received.size_bytes
                self._changed.set()
        except Exception as error:  # noqa: BLE001  # raised by `answers`, in its turn
            self._end = error
        finally:
            self._ended = True
            self._changed.set()

    def _decode(self, request: ledger_pb2.StreamEventsRequest) -> _Received:
        """Raises InvalidRequest when the request itself is not as it should be."""
        now = self._clock()
        decoded = convert.decode_stream_request(request, now)
        return _Received(decoded, is_single=request.HasField("event"), size_bytes=request.ByteSize())

    def _has_room(self, received: _Received) -> bool:
        return (
            self._events + len(received.decoded) <= BATCH_EVENTS_MAX
            and self._size_bytes + received.size_bytes <= READ_AHEAD_BYTES
        )

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _take(self) -> list[_Received]:
        """All that has arrived."""
        taken = list(self._received)
        self._received.clear()
        self._events = 0
        self._size_bytes = 0
        self._changed.set()
        return taken

    async def _book(self, taken: Sequence[_Received]) -> list[ledger_pb2.StreamEventsResponse]:
        decoded = [event for received in taken for event in received.decoded]
        size_bytes = sum(received.size_bytes for received in taken)
        await self._ingest_events.queue.wait_for_room(len(decoded), size_bytes)
        outcomes = iter(await ingest_decoded(self._ingest_events, decoded, size_bytes=size_bytes, seconds_left=None))
        return [
            ledger_pb2.StreamEventsResponse(result=convert.encode_result(next(outcomes)))
            if received.is_single
            else ledger_pb2.StreamEventsResponse(results=[convert.encode_result(next(outcomes)) for _ in received.decoded])
            for received in taken
        ]
