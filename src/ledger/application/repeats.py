"""Reports the first of a kind at once, and then every few seconds how often it was repeated."""

import asyncio
from collections.abc import Callable, Hashable
from contextvars import Context
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

REPEATS_SECONDS = 5.0
# How many kinds are remembered. For one more, the oldest is forgotten.
KINDS_MAX = 1_000


class Repeats(Generic[K]):
    """Counts the repeats of each kind, and reports them every REPEATS_SECONDS."""

    def __init__(self, report: Callable[[K, int], None]) -> None:
        """`report` gets a kind and how often it repeated since the last report."""
        self._report = report
        self._counts: dict[K, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def is_first(self, kind: K) -> bool:
        """Returns True for a new kind, which the calling code then reports. Counts a repeat."""
        if kind in self._counts:
            self._counts[kind] += 1
            return False
        if len(self._counts) >= KINDS_MAX:
            self._report_count(next(iter(self._counts)))
        self._counts[kind] = 0
        self._start_timer()
        return True

    def flush(self) -> None:
        """Reports the counts not reported yet, and forgets all kinds."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for kind in list(self._counts):
            self._report_count(kind)

    def _start_timer(self) -> None:
        if self._timer is None:
            # In an empty context: the report is not about the call that came first.
            self._timer = asyncio.get_running_loop().call_later(
                REPEATS_SECONDS, self._report_counts, context=Context()
            )

    def _report_counts(self) -> None:
        self._timer = None
        for kind in list(self._counts):
            # A kind that was repeated is remembered: its next occurrence is a repeat, too.
            if self._report_count(kind):
                self._counts[kind] = 0
        if self._counts:
            self._start_timer()

    def _report_count(self, kind: K) -> int:
        count = self._counts.pop(kind)
        if count:
            self._report(kind, count)
        return count
