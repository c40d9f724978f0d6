"""Limits on calls that are open at once.

The ingest queue (`application/ingest/queue.py`) limits events that wait to be booked. These limits
are for everything else.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from ledger.api.methods import Method, OpenCallsLimit
from ledger.api.transport.receiving import LargePlaces
from ledger.errors import QueueFull
from ledger.limits import OPEN_CALLS_DEFAULT, OPEN_STREAMS_DEFAULT


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How many calls may be open at once: single calls, and streams of events.

    A stream may hold a message of 4 MiB that has not arrived whole, and so may a batch while it is
    received. `large_places` is the number of such messages; None: one for each. `event_stream.py`
    limits what all streams have read.
    """

    calls: int = OPEN_CALLS_DEFAULT
    streams: int = OPEN_STREAMS_DEFAULT
    large_places: int | None = None


class OpenCalls:
    """Counts the open calls of the methods that share one limit."""

    def __init__(self, calls_max: int, large: LargePlaces | None = None) -> None:
        """With `large` each call also takes one of those places."""
        self._calls_max = calls_max
        self._large = large
        self.calls = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a call while the block runs. Raises QueueFull if `calls_max` are open."""
        if self.calls >= self._calls_max:
            raise QueueFull
        with nullcontext() if self._large is None else self._large.stream():
            self.calls += 1
            try:
                yield
            finally:
                self.calls -= 1


class OpenCallsLimits:
    """The limit on open calls of each method."""

    def __init__(self, limits: CallLimits, large: LargePlaces | None = None) -> None:
        self._by_limit = {
            OpenCallsLimit.CALLS: OpenCalls(limits.calls),
            OpenCallsLimit.STREAMS: OpenCalls(limits.streams, large),
            OpenCallsLimit.ELSEWHERE: None,
        }

    def of(self, method: Method) -> OpenCalls | None:
        """The limit, which other methods share; None if something else limits the method."""
        return self._by_limit[method.open_calls_limit]
