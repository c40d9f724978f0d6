"""Takes snapshots of the balance accounts whose sums have become slow, in the background; never for an event that is booked."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from ledger.application.ports.balances import BalanceSnapshots
from ledger.errors import LedgerError

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
        on_failure: Callable[[str, BaseException], None],
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
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

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
                and self._rests_until.get(balance_account_id, 0.0) <= time.monotonic()
            ):
                self._wanted[balance_account_id] = None
                self._wake.set()

    async def shortened(self, balance_account_id: int) -> None:
        """As the port says. An account that rests, since an attempt was in vain just now, is not waited for."""
        if not self._tail_entries or self._task is None or self._stopping:
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
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Returns when the snapshot under way is done, or has been given up as all the others are: nothing is lost with it."""
        self._stopping = True
        self._wake.set()
        for tried in self._tried.values():
            tried.set()
        if self._task is None:
            return
        _, under_way = await asyncio.wait([self._task], timeout=STOP_SECONDS)
        if under_way:
            self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _work(self) -> None:
        while not self._stopping:
            if not self._wanted:
                self._wake.clear()
                await self._wake.wait()
                continue
            balance_account_id = next(iter(self._tried or self._wanted))
            if not await self._take(balance_account_id):
                await self._pause()
            # Only now, so that reads meanwhile do not ask for it once more.
            self._wanted.pop(balance_account_id, None)
            if (tried := self._tried.pop(balance_account_id, None)) is not None:
                tried.set()

    async def _take(self, balance_account_id: int) -> bool:
        """Whether there was nothing wrong, be there a snapshot or not."""
        try:
            # Half, so that no snapshot is made for a handful of entries while the others wait for a transaction to end.
            if await self._snapshots.take(balance_account_id, (self._tail_entries + 1) // 2):
                self._on_taken(1)
                return True
        except LedgerError as error:
            self._on_failure(
                f"the snapshot of balance account {balance_account_id} must wait for the database",
                error,
            )
        except Exception as error:  # noqa: BLE001  # a worker that ended would let every balance become slower
            self._on_failure(
                f"the snapshot of balance account {balance_account_id} failed unexpectedly", error
            )
        else:
            self._let_rest(balance_account_id)
            return True
        self._let_rest(balance_account_id)
        return False

    def _let_rest(self, balance_account_id: int) -> None:
        while len(self._rests_until) >= ACCOUNTS_MAX:
            self._rests_until.pop(next(iter(self._rests_until)))
        # Jitter, so that the workers of several servers do not come all at once.
        rest_seconds = REST_SECONDS * random.uniform(0.5, 1.0)  # noqa: S311
        self._rests_until[balance_account_id] = time.monotonic() + rest_seconds

    async def _pause(self) -> None:
        """Waits a moment, or until the worker is to stop."""
        ends_at = time.monotonic() + BACKOFF_SECONDS * random.uniform(0.5, 1.0)  # noqa: S311
        while not self._stopping and (left_seconds := ends_at - time.monotonic()) > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(left_seconds):
                    await self._wake.wait()
            except TimeoutError:
                return
