"""Books processor events, each exactly once, whoever sends them, however often, in whatever company.

The database decides: an event is new if and only if its insert made the row with its id. Everything here follows from that.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

import structlog
import uuid_utils.compat

from ledger.application.grouping import Answer, Grouping
from ledger.application.ingest_queue import IngestLimits, IngestQueue
from ledger.application.ports import EventLedger, Posting, StoredEvent, UnitOfWorkFactory
from ledger.application.settle_payout import settle_payout
from ledger.domain.events import PAYOUT_EVENT_TYPES, ProcessorEvent, differing_fields, fingerprint
from ledger.domain.posting_rules import entries_of
from ledger.errors import (
    DatabaseContention,
    DatabaseUnavailable,
    DataRejected,
    EventIdReused,
    EventRejected,
    LedgerError,
    PayoutMismatch,
    PayoutMoveNotAllowed,
    PayoutNotFound,
    RestaurantNotFound,
    ShuttingDown,
)

_log = structlog.get_logger("ledger.ingest")

BATCH_EVENTS_MAX = 1000
ATTEMPTS_MAX = 3
BACKOFF_SECONDS = 0.05
# How long a group goes on with those of its events that somebody else has locked, and how long one part of it waits for a lock
# as long as there are others. What is decided of the group is answered meanwhile.
# In all, with the first wait and the last, it is less than the 10 seconds that callers are recommended to wait.
CONTENTION_SECONDS = 6.0
PART_LOCK_WAIT_SECONDS = 0.01
# How long it may go on before it has found what is locked, when all places are taken by groups like it.
UNDISTURBED_SECONDS = 2.0


class IngestStatus(Enum):
    """What became of an event that was accepted."""

    CREATED = "created"
    DUPLICATE = "duplicate"


class UnknownRestaurants(Enum):
    """What to do with an event of a restaurant that is not registered."""

    REGISTER = "register"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Booked:
    """An accepted event with the transaction id of its entries, which every repeat of the event is answered with."""

    status: IngestStatus
    transaction_id: UUID


# A refused event's error is told in its place; it does not touch the other events of its batch.
IngestOutcome = Booked | LedgerError


class IngestEvents:
    """The use case of IngestEvent and its companions, which differ in nothing but how many events come at once.

    Events that come alone are booked in groups, so that concurrent calls share a statement and a commit. Batches are their own
    groups. Payout events are transactions of their own and hold up no group: they go the way of batches.
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
    ) -> None:
        """`group_ledger` books the groups, if they have one of their own: it should not wait long for locks.

        `on_group` is told of each group and batch how many events it had and how many seconds it took, `on_queue` how many
        events and bytes are waiting or being booked.
        """
        self._ledger = ledger
        self._group_ledger = group_ledger or ledger
        self._begin = begin
        self._register = unknown_restaurants is UnknownRestaurants.REGISTER
        self._on_group = on_group
        self.queue = IngestQueue(limits, on_change=on_queue)
        self._groups: Grouping[ProcessorEvent, IngestOutcome] = Grouping(
            self._book_timed,
            group_items_max=limits.group_events_max,
            groups_at_once_max=limits.batches_at_once_max,
            on_failure=_log_broken_grouping,
        )
        self._groups_at_once_max = limits.batches_at_once_max
        # The groups that are being booked in parts, the one that has been longest first.
        self._apart: list[_Batch] = []
        self._batches = asyncio.Semaphore(limits.batches_at_once_max)
        self._running: set[asyncio.Task[list[IngestOutcome]]] = set()
        self._closed = False

    async def __call__(
        self, events: Sequence[ProcessorEvent], *, size_bytes: int = 0, seconds_left: float | None = None
    ) -> list[IngestOutcome]:
        """Books valid `events` and tells what became of each, in their order; what is told as booked is durable.

        `size_bytes` is what the events take as a message, `seconds_left` what the caller will wait. A caller that is cancelled
        meanwhile stops waiting; a booking that has begun goes on. Raises QueueFull and DeadlineTooShort, with nothing stored;
        DatabaseUnavailable, DatabaseContention or DatabaseTimeout when the outcome is not known (the same events may be sent
        again), ShuttingDown after `close`.
        """
        if self._closed:
            raise ShuttingDown
        with self.queue.admitted(len(events), size_bytes, seconds_left):
            if len(events) == 1 and events[0].type not in PAYOUT_EVENT_TYPES:
                return [await self._groups.add(events[0])]
            await self._batches.acquire()
            # Whether a cancelled COMMIT took effect cannot be told, so no call owns one: this task does, and keeps its turn.
            task = asyncio.create_task(self._book_timed(events))
            self._running.add(task)
            task.add_done_callback(self._forget)
            return await asyncio.shield(task)

    async def close(self) -> None:
        """Takes no further events and returns when those let in are booked."""
        self._closed = True
        await self._groups.close()
        while self._running:
            # Those that wait for their turn begin when these end.
            await asyncio.wait(self._running)
            await asyncio.sleep(0)

    def _forget(self, task: asyncio.Task[list[IngestOutcome]]) -> None:
        self._batches.release()
        self._running.discard(task)
        if not task.cancelled():
            # Its caller may be gone; asking for the exception keeps asyncio from reporting it a second time.
            task.exception()

    async def _book_timed(
        self, events: Sequence[ProcessorEvent], answer: Answer[IngestOutcome] | None = None
    ) -> list[IngestOutcome]:
        """Books a batch, or a group, whose callers can be answered one by one."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        waited_for_locks = False
        try:
            outcomes, waited_for_locks = await self._book(events, answer)
        except DatabaseContention:
            waited_for_locks = True
            raise
        finally:
            seconds = loop.time() - began
            # What somebody has locked says nothing about the time that others will take.
            self.queue.booked(None if waited_for_locks else seconds)
            self._on_group(len(events), seconds)
        return outcomes

    async def _book(
        self, events: Sequence[ProcessorEvent], answer: Answer[IngestOutcome] | None
    ) -> tuple[list[IngestOutcome], bool]:
        """What became of each event, and whether some of them had to be booked apart."""
        outcomes: dict[int, IngestOutcome] = {}
        pending = list(range(len(events)))
        was_apart = False
        while pending:
            batch = _Batch(events, pending, self._ledger if answer is None else self._group_ledger)
            was_apart |= await self._book_candidates(batch, answer)
            outcomes.update(batch.outcomes())
            # Left are events whose id was first used by another one that was refused, so that the id is free again.
            pending = [place for place in pending if place not in outcomes]
        return [outcomes[place] for place in range(len(events))], was_apart

    async def _book_candidates(self, batch: "_Batch", answer: Answer[IngestOutcome] | None) -> bool:
        """Posts and settles what is to be; returns whether it was done in parts."""
        apart_until: float | None = None
        attempt = 1
        while True:
            try:
                if answer is None or apart_until is None:
                    await self._post(batch, batch.postings)
                else:
                    self._apart.append(batch)
                    try:
                        await self._post_apart(batch, answer, apart_until)
                    finally:
                        self._apart.remove(batch)
                await self._settle(batch)
                return apart_until is not None
            except (DatabaseContention, DatabaseUnavailable) as error:
                _log.warning("an attempt to book broke off", attempt=attempt, cause=repr(error.__cause__ or error))
                if answer is not None and isinstance(error, DatabaseContention):
                    if apart_until is not None:
                        raise
                    # A batch has one caller, who waits for all of it. A group has many, most of whom have nothing to wait for.
                    apart_until = asyncio.get_running_loop().time() + CONTENTION_SECONDS
                    continue
                # The batch id lets the next attempt know what this one may have stored before it broke off.
                if attempt == ATTEMPTS_MAX:
                    raise
                await asyncio.sleep(BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311
                attempt += 1

    async def _post_apart(self, batch: "_Batch", answer: Answer[IngestOutcome], until: float) -> None:
        """Posts what is left of a group in ever smaller parts, so that what others have locked ends up alone; answers the rest.

        One part at a time, each in a transaction of its own: a group never waits for itself, nor takes more than one connection.
        What is locked is tried in turn. Raises DatabaseContention if some of it still is at the time `until` of the event loop,
        or when other groups need the place.
        """
        # An account whose row is locked holds up all of its events: parts of several accounts come first.
        mixed: deque[list[Posting]] = deque()
        alike: deque[list[Posting]] = deque()

        def put(parts: list[list[Posting]]) -> None:
            for part in parts:
                (mixed if len({_account_of(posting) for posting in part}) > 1 else alike).append(part)

        loop = asyncio.get_running_loop()
        undisturbed_until = loop.time() + UNDISTURBED_SECONDS
        put(_halves(batch.postings))
        while mixed or alike:
            part = (mixed or alike).popleft()
            # Nobody else waits for this one, neither of this group nor for its place.
            is_last = len(part) == 1 and not mixed and not alike and len(self._apart) == 1
            began = loop.time()
            try:
                await self._post(batch, part, None if is_last else PART_LOCK_WAIT_SECONDS)
            except DatabaseContention:
                is_apart = len(part) == 1 and not mixed and all(len(other) == 1 for other in alike)
                is_done = is_apart or loop.time() >= undisturbed_until
                if loop.time() >= until or (is_done and self._must_make_room(batch)):
                    raise
                put(_halves([posting for posting in part if batch.is_undecided(posting)]))
                # No faster than parts wait for locks, should the database refuse without waiting.
                pause_seconds = began + PART_LOCK_WAIT_SECONDS - loop.time()
                if is_last:
                    pause_seconds = BACKOFF_SECONDS * random.uniform(2.0, 4.0)  # noqa: S311
                await asyncio.sleep(pause_seconds)
            finally:
                for place, outcome in batch.outcomes().items():
                    answer(place, outcome)

    def _must_make_room(self, batch: "_Batch") -> bool:
        """Whether groups that wait for locks have all the places there are, and this one has had its for longest."""
        return len(self._apart) >= self._groups_at_once_max > 1 and self._apart[0] is batch

    async def _post(self, batch: "_Batch", postings: Sequence[Posting], lock_wait_seconds: float | None = None) -> None:
        """Stores what is new, and looks up what was there before: a later statement, which sees what the first waited for."""
        missing = await self._insert(batch, postings, lock_wait_seconds)
        if not missing:
            return
        batch.stored.update(await batch.ledger.stored([posting.event.event_id for posting in missing], once_safe=True))
        missing = [posting for posting in missing if posting.event.event_id not in batch.stored]
        if not missing:
            return
        # In neither answer: there is no balance account yet. Only now, so that a duplicate or a conflict registers nobody.
        await self._open_accounts(batch, missing, lock_wait_seconds)
        missing = [posting for posting in missing if posting.event.event_id not in batch.refused]
        missing = await self._insert(batch, missing, lock_wait_seconds)
        if missing:
            event_ids = [posting.event.event_id for posting in missing]
            batch.stored.update(await batch.ledger.stored(event_ids, once_safe=True))
            if any(event_id not in batch.stored for event_id in event_ids):
                raise RuntimeError("the database neither stored an event nor had it, although its balance account is open")

    async def _insert(self, batch: "_Batch", postings: Sequence[Posting], lock_wait_seconds: float | None) -> list[Posting]:
        """Stores `postings` in one transaction, or in more if an offender must be left out. Returns those that were not new."""
        if not postings:
            return []
        try:
            new = await batch.ledger.insert(postings, batch.batch_id, lock_wait_seconds=lock_wait_seconds)
        except DataRejected as error:
            if len(postings) == 1:
                batch.refuse(postings[0], _rejected(postings[0], error))
                return []
            middle = len(postings) // 2
            first = await self._insert(batch, postings[:middle], lock_wait_seconds)
            return first + await self._insert(batch, postings[middle:], lock_wait_seconds)
        batch.new.update(new)
        return [posting for posting in postings if posting.event.event_id not in new]

    async def _open_accounts(self, batch: "_Batch", postings: Sequence[Posting], lock_wait_seconds: float | None) -> None:
        """Opens the balance accounts that `postings` need, and refuses those of unknown restaurants if it is set so."""
        accounts = sorted({_account_of(posting) for posting in postings})
        try:
            unknown = await batch.ledger.open_accounts(accounts, register=self._register, lock_wait_seconds=lock_wait_seconds)
        except DataRejected as error:
            if len(accounts) == 1:
                for posting in postings:
                    batch.refuse(posting, _rejected(posting, error))
                return
            middle = set(accounts[: len(accounts) // 2])
            for inside in (True, False):
                half = [posting for posting in postings if (_account_of(posting) in middle) is inside]
                await self._open_accounts(batch, half, lock_wait_seconds)
            return
        for posting in postings:
            if posting.event.restaurant_id in unknown:
                batch.refuse(posting, RestaurantNotFound(posting.event.restaurant_id))

    async def _settle(self, batch: "_Batch") -> None:
        """Payout events, each in a transaction of its own, in the order of the request."""
        for posting in batch.unsettled:
            event = posting.event
            try:
                new = await settle_payout(self._begin, event, posting.fingerprint, posting.transaction_id, batch.batch_id)
            except (PayoutNotFound, PayoutMismatch, PayoutMoveNotAllowed) as error:
                batch.refuse(posting, error)
            except DataRejected as error:
                batch.refuse(posting, _rejected(posting, error))
            else:
                if new:
                    batch.new.add(event.event_id)
                else:
                    batch.stored.update(await batch.ledger.stored([event.event_id], once_safe=True))


def _log_broken_grouping(error: BaseException) -> None:
    _log.error("gathering events into groups broke", exc_info=error)


def _account_of(posting: Posting) -> tuple[str, str]:
    return posting.event.restaurant_id, posting.event.currency


def _halves(postings: Sequence[Posting]) -> list[list[Posting]]:
    """Two parts of `postings`, about as large, each sorted as a batch is; no account is in both, if there are several.

    What is one or none stays so.
    """
    if len(postings) < 2:
        return [list(postings)] if postings else []
    ordered = sorted(postings, key=lambda posting: (_account_of(posting), posting.event.event_id))
    ends = [place for place in range(1, len(ordered)) if _account_of(ordered[place - 1]) != _account_of(ordered[place])]
    middle = len(ordered) // 2
    cut = min(ends, key=lambda place: abs(place - middle), default=middle)
    return [sorted(part, key=lambda posting: posting.event.event_id) for part in (ordered[:cut], ordered[cut:])]


def _rejected(posting: Posting, error: DataRejected) -> EventRejected:
    """What the caller is told; the log has what the database said."""
    event_id = posting.event.event_id
    _log.error("the database refused an event as data", event_id=event_id, cause=repr(error.__cause__ or error))
    return EventRejected(event_id)


class _Batch:
    """The events at some places of a request while they are being booked: of each id the first occurrence is the candidate."""

    def __init__(self, events: Sequence[ProcessorEvent], places: Sequence[int], ledger: EventLedger) -> None:
        self.ledger = ledger
        self.batch_id: UUID = uuid_utils.compat.uuid7()
        self.new: set[str] = set()
        self.stored: dict[str, StoredEvent] = {}
        self.refused: dict[str, LedgerError] = {}
        self._occurrences = [(place, events[place], fingerprint(events[place])) for place in places]
        self._candidates: dict[str, Posting] = {}
        for _, event, print_ in self._occurrences:
            if event.event_id not in self._candidates:
                # What a payout event posts depends on the state of its payout.
                entries = [] if event.type in PAYOUT_EVENT_TYPES else entries_of(event)
                self._candidates[event.event_id] = Posting(event, print_, uuid_utils.compat.uuid7(), entries)

    @property
    def postings(self) -> list[Posting]:
        """What is still to be posted, sorted, so that two batches never wait for each other in opposite order."""
        return sorted(
            (posting for posting in self._pending if posting.event.type not in PAYOUT_EVENT_TYPES),
            key=lambda posting: posting.event.event_id,
        )

    @property
    def unsettled(self) -> list[Posting]:
        """The payout events that are still to be booked, in the order of the request."""
        return [posting for posting in self._pending if posting.event.type in PAYOUT_EVENT_TYPES]

    @property
    def _pending(self) -> Iterator[Posting]:
        for posting in self._candidates.values():
            if self.is_undecided(posting):
                yield posting

    def is_undecided(self, posting: Posting) -> bool:
        """Whether it is not known yet what becomes of the candidate."""
        event_id = posting.event.event_id
        return event_id not in self.new and event_id not in self.stored and event_id not in self.refused

    def refuse(self, posting: Posting, error: LedgerError) -> None:
        """Records that the candidate was refused, with nothing stored."""
        self.refused[posting.event.event_id] = error

    def outcomes(self) -> dict[int, IngestOutcome]:
        """What became of each place, but for those that are undecided and those that come after something else under an id whose
        candidate was refused.
        """
        outcomes: dict[int, IngestOutcome] = {}
        first: set[str] = set()
        candidate_prints: dict[str, bytes] = {}
        left: set[str] = set()
        for place, event, print_ in self._occurrences:
            event_id = event.event_id
            is_first = event_id not in first
            first.add(event_id)
            if event_id in self.refused:
                if candidate_prints.setdefault(event_id, print_) != print_:
                    left.add(event_id)
                if event_id not in left:
                    outcomes[place] = self.refused[event_id]
            elif event_id in self.new:
                outcomes[place] = self._judge(event, print_, self._candidates[event_id], created=is_first)
            elif (stored := self.stored.get(event_id)) is not None:
                outcomes[place] = self._judge(event, print_, stored, created=is_first and stored.batch_id == self.batch_id)
        return outcomes

    @staticmethod
    def _judge(event: ProcessorEvent, print_: bytes, kept: Posting | StoredEvent, *, created: bool) -> IngestOutcome:
        if kept.fingerprint != print_:
            return EventIdReused(event.event_id, differing_fields(kept.event, event))
        return Booked(IngestStatus.CREATED if created else IngestStatus.DUPLICATE, kept.transaction_id)
