"""Books groups some of whose events somebody else has locked: in parts, so that the others need not wait."""

import asyncio
import random
from collections import deque
from collections.abc import Sequence

from ledger.application.grouping import Answer
from ledger.application.ingest.event_batch import EventBatch, IngestOutcome
from ledger.application.ingest.post_events import PostEvents
from ledger.application.ports.events import Posting
from ledger.errors import DatabaseContention

# How long a group goes on with those of its events that somebody else has locked, and how long one part of it waits for a lock
# as long as there are others. What is decided of the group is answered meanwhile.
# In all, with the first wait and the last, it is less than the 10 seconds that callers are recommended to wait.
CONTENTION_SECONDS = 6.0
PART_LOCK_WAIT_SECONDS = 0.01
# How long it may go on before it has found what is locked, when all places are taken by groups like it.
UNDISTURBED_SECONDS = 2.0
# Between two attempts at what is left, when there is nothing else to do: up to twice as long.
LAST_PAUSE_SECONDS = 0.1


class ContendedGroups:
    """The groups that are being booked in parts."""

    def __init__(self, post_events: PostEvents, *, groups_at_once_max: int) -> None:
        """`groups_at_once_max` is how many groups are booked at once, contended or not."""
        self._post_events = post_events
        self._groups_at_once_max = groups_at_once_max
        # The one that has been longest first.
        self._waiting: list[EventBatch] = []

    @staticmethod
    def until() -> float:
        """When a group that turns out contended now gives up, in the event loop's time."""
        return asyncio.get_running_loop().time() + CONTENTION_SECONDS

    @staticmethod
    def is_over(until: float) -> bool:
        """Whether the time `until` of the event loop has come."""
        return asyncio.get_running_loop().time() >= until

    async def post(self, batch: EventBatch, answer: Answer[IngestOutcome], until: float) -> None:
        """Posts what is left of a group in ever smaller parts, so that what others have locked ends up alone; answers the rest.

        One part at a time, each in a transaction of its own: a group never waits for itself, nor takes more than one connection.
        What is locked is tried in turn. Raises DatabaseContention if some of it still is at the time `until` of the event loop,
        or when other groups need the place; else as PostEvents does.
        """
        self._waiting.append(batch)
        try:
            await self._post(batch, answer, until)
        finally:
            self._waiting.remove(batch)

    async def _post(self, batch: EventBatch, answer: Answer[IngestOutcome], until: float) -> None:
        # An account whose row is locked holds up all of its events: parts of several accounts come first.
        mixed: deque[list[Posting]] = deque()
        alike: deque[list[Posting]] = deque()

        def put(parts: list[list[Posting]]) -> None:
            for part in parts:
                (mixed if len({posting.event.account for posting in part}) > 1 else alike).append(
                    part
                )

        loop = asyncio.get_running_loop()
        undisturbed_until = loop.time() + UNDISTURBED_SECONDS
        put(_halves(batch.postings))
        while mixed or alike:
            part = (mixed or alike).popleft()
            # Nobody else waits for this one, neither of this group nor for its place.
            is_last = len(part) == 1 and not mixed and not alike and len(self._waiting) == 1
            began = loop.time()
            try:
                await self._post_events.post(
                    batch, part, None if is_last else PART_LOCK_WAIT_SECONDS
                )
            except DatabaseContention:
                is_apart = len(part) == 1 and not mixed and all(len(other) == 1 for other in alike)
                is_done = is_apart or loop.time() >= undisturbed_until
                if self.is_over(until) or (is_done and self._must_make_room(batch)):
                    raise
                put(_halves([posting for posting in part if batch.is_undecided(posting)]))
                # No faster than parts wait for locks, should the database refuse without waiting.
                pause_seconds = began + PART_LOCK_WAIT_SECONDS - loop.time()
                if is_last:
                    pause_seconds = LAST_PAUSE_SECONDS * random.uniform(1.0, 2.0)  # noqa: S311
                await asyncio.sleep(pause_seconds)
            finally:
                for place, outcome in batch.outcomes().items():
                    answer(place, outcome)

    def _must_make_room(self, batch: EventBatch) -> bool:
        """Whether groups that wait for locks have all the places there are, and this one has had its for longest."""
        return len(self._waiting) >= self._groups_at_once_max > 1 and self._waiting[0] is batch


def _halves(postings: Sequence[Posting]) -> list[list[Posting]]:
    """Two parts of `postings`, about as large, each sorted as a batch is; no account is in both, if there are several.

    What is one or none stays so.
    """
    if len(postings) < 2:
        return [list(postings)] if postings else []
    ordered = sorted(postings, key=lambda posting: (posting.event.account, posting.event.event_id))
    ends = [
        place
        for place in range(1, len(ordered))
        if ordered[place - 1].event.account != ordered[place].event.account
    ]
    middle = len(ordered) // 2
    cut = min(ends, key=lambda place: abs(place - middle), default=middle)
    return [
        sorted(part, key=lambda posting: posting.event.event_id)
        for part in (ordered[:cut], ordered[cut:])
    ]
