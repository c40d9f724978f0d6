"""What bounds the calls that are open at once, and keeps refusing them cheap.

Events that wait to be booked are bounded by their queue (`application/ingest_queue.py`); this is for all else.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ledger.api.errors import reason_of
from ledger.errors import DeadlineTooShort, LedgerError, QueueFull, RateLimited

REPORT_SECONDS = 1.0

# Calls that end so were turned away, whatever they asked: there is more to do than can be held, or than the caller may ask for.
TURNED_AWAY: dict[type[LedgerError], str] = {kind: reason_of(kind) for kind in (QueueFull, DeadlineTooShort, RateLimited)}

# The queue of events bounds them. Balances are asked for in groups, and many of them share a statement.
_BOUNDED_ELSEWHERE = {"IngestEvent", "BatchIngestEvents", "GetBalance"}


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How many calls may be open at once: single ones that are not bounded elsewhere, and streams of events.

    A stream holds up to a message and what is read ahead, 5 MiB, while its events wait.
    """

    calls: int = 1000
    streams: int = 200


class OpenCalls:
    """Counts the calls of some methods that are open."""

    def __init__(self, calls_max: int) -> None:
        self._calls_max = calls_max
        self.calls = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Lets a call in while the block runs. Raises QueueFull if there are as many already."""
        if self.calls >= self._calls_max:
            raise QueueFull
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1


class CallBounds:
    """Which bound a method of the ledger has."""

    def __init__(self, limits: CallLimits) -> None:
        self._calls = OpenCalls(limits.calls)
        self._streams = OpenCalls(limits.streams)

    def of(self, name: str, *, is_stream: bool) -> OpenCalls | None:
        """The bound that the method shares with others; None if it is bounded elsewhere."""
        if is_stream:
            return self._streams
        return None if name in _BOUNDED_ELSEWHERE else self._calls


class RefusalLog:
    """Says once a second how many calls were refused: under overload, a line for each would cost more than the refusal."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._refused: Counter[str] = Counter()
        self._reporting: asyncio.TimerHandle | None = None

    def refused(self, error: BaseException) -> None:
        """Takes note of a refused call."""
        self._refused[type(error).__name__] += 1
        if self._reporting is None:
            self._reporting = asyncio.get_running_loop().call_later(REPORT_SECONDS, self.report)

    def report(self) -> None:
        """Says what has not been said yet."""
        if self._reporting is not None:
            self._reporting.cancel()
            self._reporting = None
        for name, calls in self._refused.items():
            self._log.warning("calls refused: there is more to do than can be held", error=name, calls=calls)
        self._refused.clear()
