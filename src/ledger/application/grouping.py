"""Groups concurrent calls: what arrives within a moment goes to the database together.

To wait a moment for each group would cost latency. To take only what has arrived would make groups
of about three. So a group waits until about as many items are here as there were lately, and at
most LINGER_SECONDS. A caller that is alone makes groups of one and never waits. Many callers wait
only until all of them are here.
"""

import asyncio
import contextvars
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from ledger.errors import ShuttingDown

_log = structlog.get_logger("ledger")

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

LINGER_SECONDS = 0.002
# The weight of the newest group in the moving average of items here at once.
FOLLOW = 0.2
# A group that takes longer, because of a lock or a silent network, does not hold up the next one.
PATIENCE_SECONDS = 0.1
PRUNE_ITEMS = 1000


class Grouping(Generic[Item, Outcome]):
    """Gathers items into groups and does the `work` of one group at a time, unless one takes long.

    The owner bounds how many items wait: it knows what it admits.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome]]],
        *,
        group_items_max: int,
        groups_at_once_max: int,
        what: str,
    ) -> None:
        """`work` returns an outcome for each item of a group, in their order, or raises the error
        of all of them.

        `what` names the items in the log, if gathering itself breaks.
        """
        self._work = work
        self._group_items_max = group_items_max
        self._groups_at_once_max = groups_at_once_max
        self._what = what
        self._waiting: deque[tuple[Item, asyncio.Future[Outcome]]] = deque()
        self._pruned_at_items = PRUNE_ITEMS
        self._awaited_items = 1
        self._awaits_end = False
        self._wake: asyncio.Future[None] | None = None
        # A group that was taken and has no task yet.
        self._taken: list[tuple[Item, asyncio.Future[Outcome]]] = []
        # How many items have lately been here at once: waiting, or in a group.
        self._usual_items = 1.0
        self._running: set[asyncio.Task[None]] = set()
        self._gathering: asyncio.Task[None] | None = None
        self._closing = False

    def add(
        self, item: Item, outcome: asyncio.Future[Outcome] | None = None
    ) -> asyncio.Future[Outcome]:
        """Returns the future outcome of `item`. Cancelling it does not stop the work of its group.

        `outcome` is for work that knows the future, and may set it before the group ends. By
        default a new one is made. Raises ShuttingDown after `close`.
        """
        if self._closing:
            raise ShuttingDown
        if len(self._waiting) >= self._pruned_at_items:
            self._prune()
        if outcome is None:
            outcome = asyncio.get_running_loop().create_future()
        self._waiting.append((item, outcome))
        if len(self._waiting) >= self._awaited_items:
            self._wake_up()
        if self._gathering is None:
            # In an empty context, which its groups inherit: their log lines must not carry the id
            # of the first call.
            self._gathering = asyncio.create_task(self._gather(), context=contextvars.Context())
            self._gathering.add_done_callback(self._gathering_ended)
        return outcome

    async def close(self) -> None:
        """Returns when everything that was added has its outcome."""
        self._closing = True
        self._wake_up()
        if self._gathering is not None:
            await self._gathering
        if self._running:
            await asyncio.wait(self._running)

    async def _gather(self) -> None:
        while self._waiting or not self._closing:
            if not self._waiting:
                await self._pause(1)
                continue
            usual = min(round(self._usual_items), self._group_items_max)
            if len(self._waiting) < usual and not self._closing:
                await self._pause(usual, LINGER_SECONDS)
            group = self._taken = self._take()
            if group:
                await self._start(group)

    async def _start(self, group: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        """Starts the work of `group` and returns when the next group may start."""
        task = asyncio.create_task(self._run(group))
        self._running.add(task)
        task.add_done_callback(self._group_ended)
        # From here on the task sets the outcomes.
        self._taken = []
        await self._pause(None, PATIENCE_SECONDS, until_end=True)
        while len(self._running) >= self._groups_at_once_max:
            await self._pause(None, until_end=True)

    async def _pause(
        self, items: int | None, timeout_seconds: float | None = None, *, until_end: bool = False
    ) -> None:
        """Returns when `items` are waiting, after `timeout_seconds`, or when `_wake_up` is called.

        With `until_end` it also returns when a group ends.
        """
        loop = asyncio.get_running_loop()
        self._awaited_items = sys.maxsize if items is None else items
        self._awaits_end = until_end
        self._wake = loop.create_future()
        timer = None if timeout_seconds is None else loop.call_later(timeout_seconds, self._wake_up)
        try:
            if len(self._waiting) < self._awaited_items:
                await self._wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _group_ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._awaits_end:
            self._wake_up()

    def _take(self) -> list[tuple[Item, asyncio.Future[Outcome]]]:
        """Returns the next group, without items whose callers have left."""
        group: list[tuple[Item, asyncio.Future[Outcome]]] = []
        while self._waiting and len(group) < self._group_items_max:
            entry = self._waiting.popleft()
            if not entry[1].done():
                group.append(entry)
        return group

    def _prune(self) -> None:
        """Forgets items whose callers have left: callers may leave faster than groups end."""
        self._waiting = deque(entry for entry in self._waiting if not entry[1].done())
        self._pruned_at_items = max(PRUNE_ITEMS, 2 * len(self._waiting))

    async def _run(self, group: list[tuple[Item, asyncio.Future[Outcome]]]) -> None:
        try:
            try:
                outcomes = await self._work([item for item, _ in group])
            finally:
                # Counted before the callers get their outcomes and call again.
                items_here = len(self._waiting) + len(group)
                self._usual_items += (items_here - self._usual_items) * FOLLOW
            if len(outcomes) != len(group):
                raise RuntimeError(
                    f"the work of a group of {len(group)} returned {len(outcomes)} outcomes"
                )
        except asyncio.CancelledError:
            for _, future in group:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # raised to every caller
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), outcome in zip(group, outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)

    def _gathering_ended(self, task: asyncio.Task[None]) -> None:
        """Fails all items if gathering broke, as when memory runs out.

        The next call of `add` starts it again.
        """
        if self._gathering is task:
            self._gathering = None
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.error(f"gathering {self._what} into groups broke", exc_info=error)
        for _, future in [*self._taken, *self._waiting]:
            if not future.done():
                future.set_exception(RuntimeError("gathering broke"))
        self._taken = []
        self._waiting.clear()
