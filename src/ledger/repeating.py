"""Work that repeats in the background: pauses, jitter, backoff after a failure, and an end.

A failure is reported and never ends the work: a worker that ended would leave payouts unpaid, books
unsealed, or a revoked token in force.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import structlog

from ledger.errors import LedgerError
from ledger.jitter import jittered

_log = structlog.get_logger("ledger")

T = TypeVar("T")


class ReportFailure(Protocol):
    """Logs that a piece of background work failed. The work is tried again in any case."""

    def __call__(self, what: str, error: BaseException, /) -> None: ...


def log_failure(what: str, error: BaseException, /) -> None:
    """Logs the failure with its traceback."""
    _log.error(what, exc_info=error)


async def run_or_report(what: str, work: Awaitable[T], on_failure: ReportFailure) -> T | None:
    """Returns the result of `work`. If it raises, reports that to `on_failure` and returns None.

    `what` names the work, such as "payout run 7", and begins the line in the log.
    """
    try:
        return await work
    except Exception as error:  # noqa: BLE001  # see the module's docstring
        _report(what, error, on_failure)
    return None


def _report(what: str, error: Exception, on_failure: ReportFailure) -> None:
    if isinstance(error, LedgerError):
        on_failure(f"{what} must wait for the database", error)
    else:
        on_failure(f"{what} failed unexpectedly", error)


class Repeating:
    """Repeats a piece of work in a task, until it is stopped.

    Pauses after each time. `wake` ends a pause early, but not the pause after a failure: otherwise
    a busy server would keep trying, without a pause, what the database cannot do.

        repeating = Repeating("sealing", seal, every_seconds=10, retry_seconds_max=600)
        repeating.start()        # seal, 5 to 10 s, seal, …; after failures 5 to 10 s, 10 to 20 s, …
        await repeating.stop()   # lets a call of `seal` that is under way end
    """

    def __init__(
        self,
        what: str,
        work: Callable[[], Awaitable[float | None]],
        *,
        every_seconds: float | None,
        begins_at_once: bool = True,
        has_jitter: bool = True,
        retry_seconds: float | None = None,
        retry_seconds_max: float = 0.0,
        stop_seconds: float | None = None,
        on_failure: ReportFailure = log_failure,
    ) -> None:
        """`work` returns how many seconds to pause, or None to pause for `every_seconds`.

        With `every_seconds=None` that pause lasts until `wake`. Each pause is `jittered` if
        `has_jitter`. A pause comes first unless `begins_at_once`.

        The pause after a failure is `retry_seconds`, by default `every_seconds`. It doubles with
        each failure in a row, up to `retry_seconds_max` if that is longer.

        `stop` waits at most `stop_seconds` for the work under way; None: until it ends.
        """
        self._what = what
        self._work = work
        self._every_seconds = every_seconds
        self._begins_at_once = begins_at_once
        self._jitter = jittered if has_jitter else float
        self._retry_seconds = (every_seconds or 0.0) if retry_seconds is None else retry_seconds
        self._retry_seconds_max = max(self._retry_seconds, retry_seconds_max)
        self._stop_seconds = stop_seconds
        self._on_failure = on_failure
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_working(self) -> bool:
        """Whether it was started and is not stopping."""
        return self._task is not None and not self.is_stopping

    @property
    def is_stopping(self) -> bool:
        """Whether the work should end soon."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Starts the work, in a task of the running event loop."""
        self._task = asyncio.create_task(self._repeat())

    def wake(self) -> None:
        """Ends the pause, or makes the next one end at once."""
        self._wake.set()

    def request_stop(self) -> None:
        """Lets the work under way end, without waiting for it, and starts no more."""
        self._stopping.set()
        self._wake.set()

    async def stop(self) -> None:
        """Starts no more work, and returns when the work under way has ended or was cancelled.

        Harmless on repeat, and before the start.
        """
        self.request_stop()
        if self._task is None:
            return
        try:
            await asyncio.wait([self._task], timeout=self._stop_seconds)
        finally:
            # Also if the caller of `stop` is cancelled: nothing must be left behind.
            self._task.cancel()
        await asyncio.wait([self._task])

    def cancel(self) -> None:
        """Stops at once, without waiting: cancels the work under way."""
        self.request_stop()
        if self._task is not None:
            self._task.cancel()

    async def rest(self, seconds: float) -> bool:
        """Pauses for `seconds`, or until a stop; `wake` does not end it. Returns whether to go on.

        For the work itself, to pause while it runs.
        """
        await _wait(self._stopping, seconds)
        return not self.is_stopping

    async def _repeat(self) -> None:
        if not self._begins_at_once:
            await self._pause_until_wake(self._every_seconds)
        retry_seconds = self._retry_seconds
        while not self.is_stopping:
            # Before the work: a `wake` during the work makes it run once more.
            self._wake.clear()
            try:
                pause_seconds = await self._work()
            except Exception as error:  # noqa: BLE001  # see the module's docstring
                _report(self._what, error, self._on_failure)
                await self.rest(self._jitter(retry_seconds))
                retry_seconds = min(2 * retry_seconds, self._retry_seconds_max)
            else:
                retry_seconds = self._retry_seconds
                await self._pause_until_wake(
                    self._every_seconds if pause_seconds is None else pause_seconds
                )

    async def _pause_until_wake(self, seconds: float | None) -> None:
        # A stop sets `_wake`, too.
        if not self.is_stopping:
            await _wait(self._wake, None if seconds is None else self._jitter(seconds))


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
