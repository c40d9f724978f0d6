"""Bounds what waits to be booked: in calls, events, bytes, and the time that a call has left."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ledger.errors import DeadlineTooShort, QueueFull

# The weight of the newest group, or batch, in the moving average of their times.
_FOLLOW = 0.2
# The share of the queue that batches leave to single calls, so that a caller of large batches does
# not shut out all others.
_SPARED_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class IngestLimits:
    """How much may wait or be under way at once, and how it is booked.

    `queue_calls_max`, `queue_events_max` and `queue_bytes_max` (of memory) bound all calls
    together. Single calls meet the first bound, as a call takes far longer than one more event of a
    batch; batches meet the others. Events of single calls are booked in groups of at most
    `group_events_max`. `batches_at_once_max` batches and as many groups may be under way.
    """

    queue_calls_max: int
    queue_events_max: int
    queue_bytes_max: int
    group_events_max: int
    batches_at_once_max: int


class Admission(NamedTuple):
    """A call that was admitted before its events were decoded."""

    request_bytes: int
    # None if the call has no deadline, or waits for room.
    seconds_left: float | None


class IngestQueue:
    """Counts the calls that wait to be booked or are being booked."""

    def __init__(
        self,
        limits: IngestLimits,
        *,
        on_change: Callable[[int, int], None] = lambda _events, _size_bytes: None,
        other_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        """`other_bytes` returns how much of `queue_bytes_max` others have taken now.

        `on_change` gets the events and bytes that are here, after each group or batch, and
        when none are left.
        """
        self._on_change = on_change
        self._other_bytes = other_bytes
        self._limits = limits
        self._single_limits = (
            limits.queue_calls_max,
            limits.queue_events_max,
            limits.queue_bytes_max,
        )
        calls_max, events_max, bytes_max = self._single_limits
        share = 1.0 - _SPARED_SHARE
        self._batch_limits = (calls_max * share, events_max * share, bytes_max * share)
        # The usual time of a group of single calls, and of a batch: neither waits for the other.
        self._group_seconds = 0.0
        self._batch_seconds = 0.0
        self._batch_events = 0
        self._room: asyncio.Event | None = None
        self.calls = 0
        self.events = 0
        self.size_bytes = 0

    def check(self, events: int, size_bytes: int, seconds_left: float | None) -> None:
        """Raises QueueFull when there is no room, DeadlineTooShort when the call would be too late.

        Too late means that it and the work ahead of it take longer than `seconds_left`: single
        calls wait for single calls, batches for batches. An empty queue refuses only a call whose
        time is over.
        """
        if seconds_left is not None and seconds_left <= 0:
            raise DeadlineTooShort
        if not self.events:
            return
        if not self._has_room(events, size_bytes):
            raise QueueFull
        if seconds_left is None:
            return
        ahead, usual_seconds = self._batch_events, self._batch_seconds
        if events == 1:
            ahead, usual_seconds = self.events - ahead, self._group_seconds
        # The full groups ahead of the call, and the one that it joins. The first call of its kind
        # is admitted in any case: nothing else would show that a slow time is over.
        groups = ahead // self._limits.group_events_max + 1
        if ahead and groups * usual_seconds > seconds_left:
            raise DeadlineTooShort

    def enter(self, events: int, size_bytes: int, seconds_left: float | None) -> None:
        """Counts a call until it leaves. Raises as `check`."""
        self.check(events, size_bytes, seconds_left)
        self.calls += 1
        self.events += events
        self.size_bytes += size_bytes
        if events > 1:
            self._batch_events += events

    def leave(self, events: int, size_bytes: int) -> None:
        """Counts a call no more: it has its outcomes, or was cancelled."""
        self.calls -= 1
        self.events -= events
        self.size_bytes -= size_bytes
        if events > 1:
            self._batch_events -= events
        if not self.events:
            self._on_change(0, 0)
        if self._room is not None:
            self._room.set()

    async def wait_for_room(self, events: int, size_bytes: int) -> None:
        """Returns when there is room, for callers that can be made to wait, such as streams."""
        while self.events and not self._has_room(events, size_bytes):
            if self._room is None or self._room.is_set():
                self._room = asyncio.Event()
            await self._room.wait()

    def booked(self, seconds: float | None, *, is_batch: bool = False) -> None:
        """Records how long a group or a batch took; None if it says nothing about others."""
        if seconds is None:
            pass
        elif is_batch:
            self._batch_seconds += (seconds - self._batch_seconds) * _FOLLOW
        else:
            self._group_seconds += (seconds - self._group_seconds) * _FOLLOW
        self._on_change(self.events, self.size_bytes)

    def _has_room(self, events: int, size_bytes: int) -> bool:
        calls_max, events_max, bytes_max = (
            self._single_limits if events == 1 else self._batch_limits
        )
        return (
            self.calls < calls_max
            and self.events + events <= events_max
            and self.size_bytes + self._other_bytes() + size_bytes <= bytes_max
        )
