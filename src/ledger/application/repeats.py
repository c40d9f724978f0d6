"""What repeats: the first of its kind is told at once, the others by their number."""

import asyncio
from collections.abc import Callable, Hashable
from contextvars import Context
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

REPEATS_SECONDS = 5.0
# Kinds that are remembered at once; the oldest one is forgotten for one more.
KINDS_MAX = 1_000


class Repeats(Generic[K]):
    """Counts what repeats, and tells every REPEATS_SECONDS how often each kind did."""

    def __init__(self, tell: Callable[[K, int], None]) -> None:
        """`tell` is called with a kind and how often it repeated since it was last told."""
        self._tell = tell
        self._counts: dict[K, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def is_first(self, kind: K) -> bool:
        """Whether `kind` is new, for the caller to tell; a repeat is counted."""
        if kind in self._counts:
            self._counts[kind] += 1
            return False
        if len(self._counts) >= KINDS_MAX:
            self._tell_count(next(iter(self._counts)))
        self._counts[kind] = 0
        self._wait()
        return True

    def flush(self) -> None:
        """Tells what was not told yet, and forgets all kinds."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for kind in list(self._counts):
            self._tell_count(kind)

    def _wait(self) -> None:
        if self._timer is None:
            # In a context of no call: what is told then is not about the call that came first.
            self._timer = asyncio.get_running_loop().call_later(
                REPEATS_SECONDS, self._tell_counts, context=Context()
            )

    def _tell_counts(self) -> None:
        self._timer = None
        for kind in list(self._counts):
            # A kind that goes on is not new again the next time.
            if self._tell_count(kind):
                self._counts[kind] = 0
        if self._counts:
            self._wait()

    def _tell_count(self, kind: K) -> int:
        count = self._counts.pop(kind)
        if count:
            self._tell(kind, count)
        return count
