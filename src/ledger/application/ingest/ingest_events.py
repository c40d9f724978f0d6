"""Books each processor event exactly once, even if several callers send it many times.

The database decides: an event is new if and only if its insert made the row with its id. Everything
else follows from that.
"""

import asyncio
from collections.abc import Callable, Sequence

from ledger.application.grouping import Grouping
from ledger.application.ingest.book_batch import BookBatch
from ledger.application.ingest.book_group import BookGroup, SingleCall
from ledger.application.ingest.event_batch import IngestOutcome
from ledger.application.ingest.post_events import PostEvents
from ledger.application.ingest.queue import Admission, IngestLimits, IngestQueue
from ledger.application.ingest.repeated_facts import RepeatedFacts
from ledger.application.ports.events import EventLedger
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.domain.events import PAYOUT_EVENT_TYPES, ProcessorEvent
from ledger.domain.restaurants import UnknownRestaurants
from ledger.errors import DatabaseContention, ShuttingDown


class IngestEvents:
    """The use case of IngestEvent, BatchIngestEvents and StreamEvents.

    They differ only in how many events come at once. Events that come alone are booked in groups,
    so that concurrent calls share an SQL statement and a commit. Batches are groups already. A
    payout event takes a separate transaction. It is booked as a batch, so it holds up no group.
    """

    def __init__(
        self,
        ledger: EventLedger,
        begin: UnitOfWorkFactory,
        *,
        group_ledger: EventLedger | None = None,
        unknown_restaurants: UnknownRestaurants,
        limits: IngestLimits,
        on_group: Callable[[int, float], None] = lambda _events, _seconds: None,
        on_queue: Callable[[int, int], None] = lambda _events, _size_bytes: None,
        on_repeated: Callable[[int], None] = lambda _events: None,
        other_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        """`group_ledger` books the groups, and should not wait long for locks; None: `ledger` does.

        `on_group` gets the events and seconds of each group and batch, `on_queue` the events and
        bytes that wait or are being booked, `on_repeated` how many events repeat a recent fact.
        `other_bytes` returns the bytes that others have taken of those that may wait.
        """
        register = unknown_restaurants is UnknownRestaurants.REGISTER
        facts = RepeatedFacts(on_repeated)
        self._book_batch = BookBatch(PostEvents(ledger, begin, facts, register=register))
        self._book_group = BookGroup(
            PostEvents(group_ledger or ledger, begin, facts, register=register),
            groups_at_once_max=limits.batches_at_once_max,
        )
        self._on_group = on_group
        self._queue = IngestQueue(limits, on_change=on_queue, other_bytes=other_bytes)
        self._groups: Grouping[SingleCall, IngestOutcome] = Grouping(
            self._book_group_timed,
            group_items_max=limits.group_events_max,
            groups_at_once_max=limits.batches_at_once_max,
            what="events",
        )
        self._batches = asyncio.Semaphore(limits.batches_at_once_max)
        self._running: set[asyncio.Task[list[IngestOutcome]]] = set()
        self._closed = False

    @property
    def is_busy(self) -> bool:
        """Whether events wait or are being booked."""
        return self._queue.events > 0

    @property
    def size_bytes(self) -> int:
        """The memory of the events that wait or are being booked."""
        return self._queue.size_bytes

    def admit(self, events: int, request_bytes: int, seconds_left: float | None) -> Admission:
        """Admits a call, or refuses it before the work of decoding it.

        `events` and `request_bytes` are the sizes of the request, `seconds_left` is how long its
        caller will wait. Reserves nothing: room is taken when the events are booked. Raises
        QueueFull and DeadlineTooShort.
        """
        self._queue.check(events, request_bytes, seconds_left)
        return Admission(request_bytes, seconds_left)

    async def wait_for_room(self, events: int, size_bytes: int) -> Admission:
        """Like `admit`, for a caller that can be made to wait: returns when there is room."""
        await self._queue.wait_for_room(events, size_bytes)
        return Admission(size_bytes, None)

    async def __call__(
        self, events: Sequence[ProcessorEvent], admission: Admission, *, size_bytes: int
    ) -> list[IngestOutcome]:
        """Books valid `events`; returns the outcome of each, in their order, once it is durable.

        `size_bytes` is what the events take in memory. They may take more room than their request
        did, so they are checked again as `admit` does. When the call is cancelled, a booking that
        has begun goes on. Raises QueueFull and DeadlineTooShort, with nothing stored; ShuttingDown
        after `close`; DatabaseUnavailable, DatabaseContention or DatabaseTimeout when the outcome
        is not known: then the same events may be sent again.
        """
        if self._closed:
            raise ShuttingDown
        self._queue.enter(len(events), size_bytes, admission.seconds_left)
        try:
            if len(events) == 1 and events[0].type not in PAYOUT_EVENT_TYPES:
                outcome: asyncio.Future[IngestOutcome] = asyncio.get_running_loop().create_future()
                return [await self._groups.add(SingleCall(events[0], outcome), outcome)]
            await self._batches.acquire()
            # Whether a cancelled COMMIT took effect is unknown. So a task books the batch, which
            # goes on when the call is cancelled, and keeps its place until it ends.
            task = asyncio.create_task(self._book_batch_timed(events))
            self._running.add(task)
            task.add_done_callback(self._batch_ended)
            return await asyncio.shield(task)
        finally:
            self._queue.leave(len(events), size_bytes)

    async def close(self) -> None:
        """Refuses further events, and returns when the admitted ones are booked."""
        self._closed = True
        await self._groups.close()
        while self._running:
            # Batches that wait for their turn begin when these end.
            await asyncio.wait(self._running)
            await asyncio.sleep(0)

    def _batch_ended(self, task: asyncio.Task[list[IngestOutcome]]) -> None:
        self._batches.release()
        self._running.discard(task)
        if not task.cancelled():
            # The call may be gone. Reading the exception keeps asyncio from logging it again.
            task.exception()

    async def _book_batch_timed(self, events: Sequence[ProcessorEvent]) -> list[IngestOutcome]:
        began = asyncio.get_running_loop().time()
        waited_for_locks = False
        try:
            return await self._book_batch(events)
        except DatabaseContention:
            waited_for_locks = True
            raise
        finally:
            # A payout event that comes alone is booked as a batch, but waits as a single call.
            is_batch = len(events) > 1
            self._report(len(events), began, is_batch=is_batch, waited_for_locks=waited_for_locks)

    async def _book_group_timed(self, calls: Sequence[SingleCall]) -> list[IngestOutcome]:
        began = asyncio.get_running_loop().time()
        waited_for_locks = False
        try:
            outcomes, waited_for_locks = await self._book_group(calls)
        except DatabaseContention:
            waited_for_locks = True
            raise
        finally:
            self._report(len(calls), began, is_batch=False, waited_for_locks=waited_for_locks)
        return outcomes

    def _report(self, events: int, began: float, *, is_batch: bool, waited_for_locks: bool) -> None:
        seconds = asyncio.get_running_loop().time() - began
        # A wait for a lock says nothing about the time that other groups will take.
        self._queue.booked(None if waited_for_locks else seconds, is_batch=is_batch)
        self._on_group(events, seconds)
