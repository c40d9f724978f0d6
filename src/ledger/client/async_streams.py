"""Streams events to the server with asyncio, and goes on after a broken connection."""

import asyncio
import warnings
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ledger.client.batches import batches_of
from ledger.client.errors import LedgerError, unexpected
from ledger.client.outcomes import EventOutcome
from ledger.client.streaming import StreamLimits, StreamState
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.v1 import ledger_pb2_grpc

END_TIMEOUT_SECONDS = 2.0
# Events of a source that pauses are sent after this time, however few they are.
FLUSH_SECONDS = 0.02

T = TypeVar("T")
_Event = ledger_pb2.ProcessorEvent


class AsyncOutcomes(AsyncIterator[EventOutcome]):
    """The outcomes of events, in their order. Events are sent while it is iterated over."""

    def __init__(self, outcomes: AsyncGenerator[EventOutcome]) -> None:
        self._outcomes = outcomes
        self._has_begun = False

    async def __anext__(self) -> EventOutcome:
        self._has_begun = True
        return await anext(self._outcomes)

    async def aclose(self) -> None:
        """Leaves the stream. What is on its way may be booked or not: send it again."""
        self._has_begun = True
        await self._outcomes.aclose()

    def __del__(self) -> None:
        if not self._has_begun:
            warnings.warn(
                "the outcomes of stream_events were never looked at, so no event was sent",
                RuntimeWarning,
                stacklevel=2,
            )


def stream_events(
    service: "ledger_pb2_grpc.LedgerServiceAsyncStub",
    events: AsyncIterable[_Event] | Iterable[_Event],
    batch_size: int,
    limits: StreamLimits,
) -> AsyncOutcomes:
    """The outcomes of the events, sent in requests of up to `batch_size`."""
    batches = (
        _async_batches(events, batch_size)
        if isinstance(events, AsyncIterable)
        else _iterated(batches_of(events, batch_size))
    )
    return AsyncOutcomes(_flat(service, batches, limits))


async def _flat(
    service: "ledger_pb2_grpc.LedgerServiceAsyncStub",
    batches: AsyncIterator[Sequence[_Event]],
    limits: StreamLimits,
) -> AsyncGenerator[EventOutcome]:
    sender = _Sender(service, batches, limits)
    try:
        async for outcomes in sender.run():
            for outcome in outcomes:
                yield outcome
    finally:
        await sender.end()


async def _iterated(batches: Iterable[T]) -> AsyncIterator[T]:
    for batch in batches:
        yield batch


async def _async_batches(
    events: AsyncIterable[_Event], batch_size: int
) -> AsyncIterator[Sequence[_Event]]:
    """The events in batches; a batch is ready when it is full, or when the source pauses."""
    source = aiter(events)
    batch: list[_Event] = []
    coming: asyncio.Future[_Event] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(source))
            if batch and not coming.done():
                await asyncio.wait({coming}, timeout=FLUSH_SECONDS)
                if not coming.done():
                    for part in batches_of(batch, batch_size):
                        yield part
                    batch = []
            try:
                event = await coming
            except StopAsyncIteration:
                break
            finally:
                coming = None
            batch.append(event)
            if len(batch) == batch_size:
                # More than one, if they are too large for one request.
                for part in batches_of(batch, batch_size):
                    yield part
                batch = []
        for part in batches_of(batch, batch_size):
            yield part
    finally:
        if coming is not None:
            await _cancelled(coming)


class _Sender:
    """Carries the requests of a StreamState in one stream after the other."""

    def __init__(
        self,
        service: "ledger_pb2_grpc.LedgerServiceAsyncStub",
        batches: AsyncIterator[Sequence[_Event]],
        limits: StreamLimits,
    ) -> None:
        self._service = service
        self._batches = batches
        self._limits = limits
        self._state = StreamState(limits)
        self._requests: asyncio.Queue[ledger_pb2.StreamEventsRequest | None] = asyncio.Queue()
        self._call: Any = None
        self._batch: asyncio.Future[Sequence[_Event]] | None = None
        self._response: asyncio.Future[Any] | None = None

    async def run(self) -> AsyncIterator[list[EventOutcome]]:
        """The outcomes of each batch, in order. Raises LedgerError."""
        is_at_end = False
        while not (is_at_end and self._state.is_empty):
            if self._batch is None and not is_at_end:
                self._batch = asyncio.ensure_future(anext(self._batches))
            if self._response is None and self._state.open_requests:
                self._response = asyncio.ensure_future(self._call.read())
            await self._wait()
            if self._response is not None and self._response.done():
                response, self._response = self._response, None
                await self._take(response)
            elif self._batch is not None and self._batch.done():
                try:
                    batch = self._batch.result()
                except StopAsyncIteration:
                    self._batch, is_at_end = None, True
                else:
                    if self._state.has_room(batch):
                        self._batch = None
                        self._send(batch)
            for outcomes in self._state.ready():
                yield outcomes
        await self._end_well()

    async def _wait(self) -> None:
        """Waits for a batch that may be sent, or for a response. Raises TooSlow for neither."""
        waited_for = {self._response} if self._response is not None else set()
        if self._batch is not None and not self._batch.done():
            waited_for.add(self._batch)
        elif self._batch is not None and self._has_room_for_it(self._batch):
            return
        timeout = None if self._response is None else self._limits.response_timeout_seconds
        done, _ = await asyncio.wait(
            waited_for, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            raise self._state.silent()

    def _has_room_for_it(self, batch: "asyncio.Future[Sequence[_Event]]") -> bool:
        return batch.exception() is not None or self._state.has_room(batch.result())

    def _send(self, batch: Sequence[_Event]) -> None:
        request = self._state.add(batch)
        if request is None:
            return
        if self._call is None:
            self._open()
        else:
            self._requests.put_nowait(request.message)

    async def _take(self, response: "asyncio.Future[Any]") -> None:
        """Handles a response, or the error or end of the stream. Raises LedgerError."""
        try:
            message = await response
        except LedgerError as error:
            pause_seconds = self._state.recover(error)
            self._leave()
            await asyncio.sleep(pause_seconds)
            self._open()
            return
        if not isinstance(message, ledger_pb2.StreamEventsResponse):
            self._state.check_end()
            raise unexpected("the server ended the stream")
        if (again := self._state.take(message)) is not None:
            pause_seconds, request = again
            await asyncio.sleep(pause_seconds)
            self._requests.put_nowait(request.message)

    def _open(self) -> None:
        """Opens a stream and sends every request that has no response."""
        requests = self._requests = asyncio.Queue()
        for request in self._state.open_requests:
            requests.put_nowait(request.message)

        async def until_end() -> AsyncIterator[ledger_pb2.StreamEventsRequest]:
            while (request := await requests.get()) is not None:
                yield request

        self._call = self._service.StreamEvents(until_end())

    def _leave(self) -> None:
        self._requests.put_nowait(None)
        if self._call is not None:
            self._call.cancel()
        self._call = None

    async def _end_well(self) -> None:
        """Lets the server end the call, which it would otherwise count as cancelled."""
        if self._call is None:
            return
        self._requests.put_nowait(None)
        try:
            async with asyncio.timeout(END_TIMEOUT_SECONDS):
                await self._call.read()
        except (LedgerError, TimeoutError):
            self._call.cancel()
        self._call = None

    async def end(self) -> None:
        """Leaves the stream, and stops reading the batches."""
        for waiting in (self._batch, self._response):
            if waiting is not None:
                await _cancelled(waiting)
        self._leave()
        if isinstance(self._batches, AsyncIterator) and hasattr(self._batches, "aclose"):
            await self._batches.aclose()


async def _cancelled(waiting: "asyncio.Future[Any]") -> None:
    waiting.cancel()
    await asyncio.wait({waiting})
    if not waiting.cancelled():
        waiting.exception()
