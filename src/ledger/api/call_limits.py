"""What bounds the calls that are open at once, and keeps refusing them cheap.

Events that wait to be booked are bounded by their queue (`application/ingest/queue.py`); this is for all else.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from ledger.api.access.authentication import Context
from ledger.api.access.authorization import SCOPE_BY_METHOD, Scope
from ledger.api.errors import reason_of
from ledger.api.transport.receiving import LargePlaces
from ledger.application.repeats import Repeats
from ledger.errors import DeadlineTooShort, LedgerError, NotAuthenticated, QueueFull, RateLimited
from ledger.observability import CALLER

# Calls that end so were turned away, whatever they asked: there is more to do than can be held, or than the caller may ask for.
TURNED_AWAY: dict[type[LedgerError], str] = {
    kind: reason_of(kind) for kind in (QueueFull, DeadlineTooShort, RateLimited)
}

# Refusals that somebody should look at.
_WARNED_OF = (QueueFull, DeadlineTooShort, NotAuthenticated)

# The queue of events bounds them. Balances are asked for in groups, and many of them share a statement.
_BOUNDED_ELSEWHERE = {"IngestEvent", "BatchIngestEvents", "GetBalance"}

# Answers that clients have not read: pages and the like, and those to batches.
UNREAD_BYTES_MAX, UNREAD_OF_BATCHES_BYTES_MAX = 24 * 1024 * 1024, 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How many calls may be open at once: single ones that are not bounded elsewhere, and streams of events.

    A stream may hold a message of 4 MiB that is not whole yet, as a batch may while it is received: there
    are `large_places` for both, by default one for each. What all of them have read is bounded in
    `event_stream.py`.
    """

    calls: int = 1000
    streams: int = 32
    large_places: int | None = None


class OpenCalls:
    """Counts the calls of some methods that are open."""

    def __init__(self, calls_max: int, large: LargePlaces | None = None) -> None:
        """With `large` each call also has one of those places."""
        self._calls_max = calls_max
        self._large = large
        self.calls = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Lets a call in while the block runs. Raises QueueFull if there are as many already."""
        if self.calls >= self._calls_max:
            raise QueueFull
        with nullcontext() if self._large is None else self._large.stream():
            self.calls += 1
            try:
                yield
            finally:
                self.calls -= 1


class UnreadAnswers:
    """Bounds what answers take that their clients have not read: of all callers, and of one half as much.

    The library keeps an answer until its client has read it, or is gone, and one connection may ask
    for 128 of up to 4 MiB. A caller without credentials is its connection.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes_by_caller: Counter[str] = Counter()
        self.size_bytes = 0

    def check(self, context: Context) -> None:
        """Raises QueueFull if there is no room for any answer to the caller."""
        if (
            self.size_bytes >= self._bytes_max
            or self._bytes_by_caller[_caller_of(context)] * 2 >= self._bytes_max
        ):
            raise QueueFull

    def keep(self, context: Context, size_bytes: int, *, is_refusable: bool) -> None:
        """Counts an answer until its call has ended. Raises QueueFull if it `is_refusable` and there is no room for it.

        Any answer has room if nothing else is there, and any of a caller of whom nothing is in what there
        is room for.
        """
        caller = _caller_of(context)
        of_caller = self._bytes_by_caller[caller]
        is_over = self.size_bytes and self.size_bytes + size_bytes > self._bytes_max
        is_over_share = of_caller and (of_caller + size_bytes) * 2 > self._bytes_max
        if is_refusable and (is_over or is_over_share):
            raise QueueFull
        self._add(caller, size_bytes)

        def forget(_: Context) -> None:
            self._add(caller, -size_bytes)

        context.add_done_callback(cast(Any, forget))

    def _add(self, caller: str, size_bytes: int) -> None:
        self.size_bytes += size_bytes
        self._bytes_by_caller[caller] += size_bytes
        if not self._bytes_by_caller[caller]:
            del self._bytes_by_caller[caller]


def _caller_of(context: Context) -> str:
    return CALLER.get() or context.peer()


class CallBounds:
    """Which bound a method of the ledger has."""

    def __init__(self, limits: CallLimits, large: LargePlaces | None = None) -> None:
        self._calls = OpenCalls(limits.calls)
        self._streams = OpenCalls(limits.streams, large)
        self._read_answers = UnreadAnswers(UNREAD_BYTES_MAX)
        self._batch_answers = UnreadAnswers(UNREAD_OF_BATCHES_BYTES_MAX)

    def of(self, name: str, *, is_stream: bool) -> OpenCalls | None:
        """The bound that the method shares with others; None if it is bounded elsewhere."""
        if is_stream:
            return self._streams
        return None if name in _BOUNDED_ELSEWHERE else self._calls

    def of_answers(self, name: str) -> UnreadAnswers | None:
        """The bound on unread answers of the method: what is read, and batches, have one each; other answers are small."""
        if name == "BatchIngestEvents":
            return self._batch_answers
        return self._read_answers if is_read(name) and name not in _BOUNDED_ELSEWHERE else None


def is_read(name: str) -> bool:
    """Whether the method changes nothing, so that it can be refused when its answer is known."""
    return SCOPE_BY_METHOD.get(name) is Scope.READ


class _Refused(NamedTuple):
    """What refusals have in common that are summed up: the error, its status, who called, and what the log says about it."""

    verb: str
    error: str
    code: str
    identity: str
    why: str
    is_warning: bool


class RefusalLog:
    """Logs calls that were refused or failed: the first of a kind and caller at once, the others by their number.

    A line for each would cost more than the refusal, and let a stranger fill the disk; during an outage
    every call fails. At the level debug each of them has its line.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._repeats: Repeats[_Refused] = Repeats(self._tell)

    def refused(self, error: BaseException, code: str) -> None:
        """Takes note of a refused call."""
        particulars = error.particulars if isinstance(error, NotAuthenticated) else {}
        kind = _Refused(
            "refused",
            type(error).__name__,
            code,
            CALLER.get() or particulars.get("identity", ""),
            error.why if isinstance(error, NotAuthenticated) else "",
            isinstance(error, _WARNED_OF),
        )
        self._tell_first(kind, **particulars)

    def failed(self, error: LedgerError, code: str, cause: BaseException) -> None:
        """Takes note of a call that failed for a cause. Our words tell its kind: the cause's may differ each time."""
        kind = _Refused(
            "failed", type(error).__name__, code, CALLER.get() or "", str(error), is_warning=True
        )
        self._tell_first(kind, cause=repr(cause))

    def _tell_first(self, kind: _Refused, **particulars: str) -> None:
        log = self._log.debug
        if self._repeats.is_first(kind):
            log = self._log.warning if kind.is_warning else self._log.info
        why = {"why": kind.why} if kind.why else {}
        log(f"call {kind.verb}", code=kind.code, error=kind.error, **why, **particulars)

    def report(self) -> None:
        """Says what has not been said yet."""
        self._repeats.flush()

    def _tell(self, kind: _Refused, calls: int) -> None:
        known = {
            name: value for name, value in (("identity", kind.identity), ("why", kind.why)) if value
        }
        log = self._log.warning if kind.is_warning else self._log.info
        log(
            f"more calls {kind.verb} in the same way",
            code=kind.code,
            error=kind.error,
            calls=calls,
            **known,
        )
