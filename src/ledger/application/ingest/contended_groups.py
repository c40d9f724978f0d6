"""Books groups in parts when other sessions have locked some of their events.

So the other events of a group need not wait.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence

from ledger.application.ingest.event_batch import Decisions, EventBatch
from ledger.application.ingest.post_events import PostEvents
from ledger.application.ports.events import Posting
from ledger.errors import DatabaseContention

# How long a group keeps trying its locked events. Together with the first and the last wait for a
# lock it is less than the 10 seconds that callers are advised to wait.
CONTENTION_SECONDS = 6.0
# How long one part waits for a lock while other parts or groups could go on.
PART_LOCK_WAIT_SECONDS = 0.01
# After this time a group may have to make room although it has not found what is locked.
UNDISTURBED_SECONDS = 2.0
# The pause before the last event is tried again; up to twice as long.
LAST_PAUSE_SECONDS = 0.1


class ContendedGroups:
    """The groups that are being booked in parts."""

    def __init__(self, post_events: PostEvents, *, groups_at_once_max: int) -> None:
        """`groups_at_once_max` is how many groups are booked at once, contended or not."""
        self._post_events = post_events
        self._groups_at_once_max = groups_at_once_max
        # The group that has waited longest is first.
        self._waiting: list[EventBatch] = []

    @staticmethod
    def until() -> float:
        """The time of the event loop at which a group that meets a lock now gives up."""
        return asyncio.get_running_loop().time() + CONTENTION_SECONDS

    @staticmethod
    def is_over(until: float) -> bool:
        """Whether the event loop has reached the time `until`."""
        return asyncio.get_running_loop().time() >= until

    async def post(self, batch: EventBatch, on_decided: Callable[[], None], until: float) -> None:
        """Posts what is left of a group, in ever smaller parts, until what is locked is alone.

        Calls `on_decided` whenever events are decided. Posts one part at a time, each in a separate
        transaction: a group never waits for itself, and takes one session. Example: four events, of
        which b is locked:

            [a b] [c d]      a and b meet the lock: divided, and put behind the others
            [c d] [a] [b]    c, d and a are booked and their outcomes set, part by part
            [b]              tried again and again; if no other part and no other contended
                             group is left, it waits for the lock with the ledger's usual timeout

        Raises DatabaseContention if some events are still locked at `until`, in the event loop's
        time; or, to make room, when contended groups fill all `groups_at_once_max` places and this
        one has waited longest. Otherwise it raises what `PostEvents.post` raises.
        """
        # The attempt that met the lock may have decided some events.
        on_decided()
        self._waiting.append(batch)
        try:
            await self._post(batch, on_decided, until)
        finally:
            self._waiting.remove(batch)

    async def _post(self, batch: EventBatch, on_decided: Callable[[], None], until: float) -> None:
        def decide(decisions: Decisions) -> None:
            batch.decide(decisions)
            on_decided()

        loop = asyncio.get_running_loop()
        undisturbed_until = loop.time() + UNDISTURBED_SECONDS
        parts = deque(_halves(batch.postings))
        while parts:
            part = parts.popleft()
            # No other part and no other group could go on while this event waits.
            is_last = len(part) == 1 and not parts and len(self._waiting) == 1
            lock_wait_seconds = None if is_last else PART_LOCK_WAIT_SECONDS
            began = loop.time()
            try:
                await self._post_events.post(
                    part, batch.batch_id, decide, lock_wait_seconds=lock_wait_seconds
                )
            except DatabaseContention:
                has_found_locked = all(len(each) == 1 for each in (part, *parts))
                may_make_room = has_found_locked or loop.time() >= undisturbed_until
                if self.is_over(until) or (may_make_room and self._must_make_room(batch)):
                    raise
                parts += _halves([posting for posting in part if batch.is_undecided(posting)])
                # As long as a part waits for a lock, if the database has refused without waiting.
                pause_seconds = began + PART_LOCK_WAIT_SECONDS - loop.time()
                if is_last:
                    pause_seconds = LAST_PAUSE_SECONDS * random.uniform(1.0, 2.0)  # noqa: S311
                await asyncio.sleep(pause_seconds)

    def _must_make_room(self, batch: EventBatch) -> bool:
        """Whether contended groups have all the places, and this one has waited longest."""
        return len(self._waiting) >= self._groups_at_once_max > 1 and self._waiting[0] is batch


def _halves(postings: Sequence[Posting]) -> list[Sequence[Posting]]:
    """`postings` as two parts, or as one part if they are a single event; each in their order."""
    middle = len(postings) // 2
    return [part for part in (postings[:middle], postings[middle:]) if part]
