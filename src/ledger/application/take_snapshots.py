"""Takes snapshots of balance accounts whose sums have become slow, in the background.

Booking an event never takes one, and never waits for one.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from ledger.application.ports.balances import BalanceSnapshots
from ledger.jitter import jittered
from ledger.repeating import Repeating, ReportFailure, run_or_report

# How many wanted accounts are remembered, and how many resting ones. The next read of a forgotten
# account reports it again.
ACCOUNTS_MAX = 10_000
# How long an account rests after no snapshot could be taken. A transaction that holds the horizon
# back may last for hours, and all that time every read reports the account.
REST_SECONDS = 10.0
# How long the worker pauses after the database failed.
BACKOFF_SECONDS = 1.0
# How long a read waits for the snapshot that makes it fast. One of a million entries takes 0.5 s.
READ_WAITS_SECONDS = 5.0
# How long a stop waits for a snapshot. One that takes longer, as after a long history, is given up.
STOP_SECONDS = 1.0
# How many entries a balance as of a past instant may read before its account gets more snapshots of
# the past. These snapshots lie further apart than those of the present.
PAST_TAIL_ENTRIES = 1_000


def past_tail_entries(tail_entries: int) -> int:
    """How many entries a past balance may read, if a present one may read `tail_entries`.

    0 if no snapshots are taken.
    """
    return max(tail_entries, PAST_TAIL_ENTRIES) if tail_entries else 0


class SnapshotWorker:
    """Implements `ledger.application.ports.balances.LongTails`.

    Takes a snapshot of every account reported with a long tail, one at a time. Other servers may do
    the same: two snapshots of one account are both right. Reports are kept in memory only, since
    the next read of an account reports it again.
    """

    def __init__(
        self,
        snapshots: BalanceSnapshots,
        *,
        tail_entries: int,
        on_failure: ReportFailure,
        on_taken: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """`tail_entries` is how many entries a read may add to a snapshot; 0 takes no snapshots.

        `on_taken` gets the number of snapshots taken, after each.
        """
        self._on_taken = on_taken
        self._snapshots = snapshots
        self._tail_entries = tail_entries
        self._on_failure = on_failure
        # The accounts to take snapshots of, in the order in which they were reported.
        self._wanted: dict[int, None] = {}
        self._rests_until: dict[int, float] = {}
        # The wanted accounts that reads wait for. They come first. An event is set once its account
        # was tried.
        self._tried: dict[int, asyncio.Event] = {}
        self._work = Repeating(
            "taking snapshots",
            self._take_next,
            every_seconds=None,
            stop_seconds=STOP_SECONDS,
            on_failure=on_failure,
        )

    @property
    def entries_max(self) -> int:
        """The longest tail that needs no report; practically unlimited if none are taken."""
        return self._tail_entries or 2**62

    def report(self, tails: Iterable[tuple[int | None, int]]) -> None:
        """Implements the port. Ignores accounts that rest, and accounts beyond ACCOUNTS_MAX."""
        for balance_account_id, entries in tails:
            if (
                balance_account_id is None
                or entries <= self.entries_max
                or balance_account_id in self._wanted
            ):
                continue
            if (
                len(self._wanted) < ACCOUNTS_MAX
                and self._rests_until.get(balance_account_id, 0.0) <= _now()
            ):
                self._wanted[balance_account_id] = None
                self._work.wake()

    async def shortened(self, balance_account_id: int) -> None:
        """Implements the port. Returns at once for an account that rests."""
        if not self._tail_entries or not self._work.is_working:
            return
        self.report([(balance_account_id, self._tail_entries + 1)])
        if balance_account_id not in self._wanted:
            return
        tried = self._tried.setdefault(balance_account_id, asyncio.Event())
        with suppress(TimeoutError):
            async with asyncio.timeout(READ_WAITS_SECONDS):
                await tried.wait()

    def start(self) -> None:
        self._work.start()

    async def stop(self) -> None:
        """Waits STOP_SECONDS for the snapshot under way, then gives it up, and takes no other.

        Nothing is lost: snapshots only make sums faster.
        """
        self._work.request_stop()
        for tried in self._tried.values():
            tried.set()
        await self._work.stop()

    async def _take_next(self) -> float | None:
        """Takes one snapshot. Returns the pause that follows: none while another is wanted."""
        if not self._wanted:
            return None
        balance_account_id = next(iter(self._tried or self._wanted))
        # A snapshot must save at least half the tail: while an open transaction holds the horizon
        # back, a new one would save only a handful of entries.
        taken = await run_or_report(
            f"the snapshot of balance account {balance_account_id}",
            self._snapshots.take(balance_account_id, (self._tail_entries + 1) // 2),
            self._on_failure,
        )
        if taken:
            self._on_taken(1)
        else:
            self._let_rest(balance_account_id)
        if taken is None:
            await self._work.rest(jittered(BACKOFF_SECONDS))
        # Only now, so that reads during the work do not add the account again.
        self._wanted.pop(balance_account_id, None)
        if (tried := self._tried.pop(balance_account_id, None)) is not None:
            tried.set()
        return 0.0

    def _let_rest(self, balance_account_id: int) -> None:
        while len(self._rests_until) >= ACCOUNTS_MAX:
            self._rests_until.pop(next(iter(self._rests_until)))
        self._rests_until[balance_account_id] = _now() + jittered(REST_SECONDS)


def _now() -> float:
    return asyncio.get_running_loop().time()
