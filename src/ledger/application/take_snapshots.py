"""Takes snapshots of the balance accounts whose sums have become slow, in the background; never for an event that is booked."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from ledger.application.ports.balances import BalanceSnapshots
from ledger.jitter import jittered
from ledger.repeating import Repeating, ReportFailure, attempt

# Accounts remembered at once, of the wanted and of the resting ones. One that is forgotten is told again by its next read.
ACCOUNTS_MAX = 10_000
# How long an account is left alone after an attempt in vain: a transaction that holds the horizon back may go on for hours, and
# all that time every read asks.
REST_SECONDS = 10.0
# How long the worker waits for a database that failed.
BACKOFF_SECONDS = 1.0
# How long a read waits for a snapshot that makes it fast, which takes half a second for a million entries.
READ_WAITS_SECONDS = 5.0
# How long a snapshot may go on when the server stops; the first one of a long history takes longer.
STOP_SECONDS = 1.0


class SnapshotWorker:
    """Implements `ledger.application.ports.balances.LongTails`: takes a snapshot of every account
    reported with a long tail, one by one.

    Beside as many other workers as there are: two snapshots of one account are both right. What is wanted is kept in memory only,
    since the next read of the account asks again.
    """

    def __init__(
        self,
        snapshots: BalanceSnapshots,
        *,
        tail_entries: int,
        on_failure: ReportFailure,
        on_taken: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """`tail_entries` is how many entries may be read beyond a snapshot; 0 takes no snapshots at all. `on_failure` is told
        what went wrong, for the log, `on_taken` how many snapshots were taken.
        """
        self._on_taken = on_taken
        self._snapshots = snapshots
        self._tail_entries = tail_entries
        self._on_failure = on_failure
        # In the order in which they were asked for.
        self._wanted: dict[int, None] = {}
        self._rests_until: dict[int, float] = {}
        # Of the wanted accounts that reads wait for, which come first.
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
        """More entries than these are worth telling; as good as endless when no snapshots are taken."""
        return self._tail_entries or 2**62

    @property
    def wanted_count(self) -> int:
        """How many accounts a snapshot is wanted of, that under way included."""
        return len(self._wanted)

    def report(self, tails: Iterable[tuple[int | None, int]]) -> None:
        """Wants a snapshot of each account with a long tail, unless it rests or very many are wanted."""
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
        """As the port says. An account that rests, since an attempt was in vain just now, is not waited for."""
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
        """Begins to work."""
        self._work.start()

    async def stop(self) -> None:
        """Returns when the snapshot under way is done, or has been given up as all the others are: nothing is lost with it."""
        self._work.request_stop()
        for tried in self._tried.values():
            tried.set()
        await self._work.stop()

    async def _take_next(self) -> float | None:
        """Takes one snapshot, if any is wanted, and pauses only when no other is."""
        if not self._wanted:
            return None
        balance_account_id = next(iter(self._tried or self._wanted))
        # Half, so that no snapshot is made for a handful of entries while the others wait for a transaction to end.
        taken = await attempt(
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
        # Only now, so that reads meanwhile do not ask for it once more.
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
