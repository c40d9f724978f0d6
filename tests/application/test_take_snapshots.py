"""The worker that takes snapshots: of each reported account once, and delaying no caller."""

import asyncio

import pytest
from support.fake_time import now, run_on_fake_time

from ledger.application import take_snapshots
from ledger.application.take_snapshots import (
    BACKOFF_SECONDS,
    PAST_TAIL_ENTRIES,
    READ_WAITS_SECONDS,
    REST_SECONDS,
    STOP_SECONDS,
    SnapshotWorker,
    past_tail_entries,
)
from ledger.errors import DatabaseUnavailable

TAIL_ENTRIES = 10


class FakeSnapshots:
    """Implements `BalanceSnapshots`. `outcomes` are those of the next calls; then True.

    Each snapshot takes `seconds`. `asked_at` has when each account was asked for.
    """

    def __init__(self, *outcomes: bool | Exception, seconds: float = 0.1) -> None:
        self.outcomes = list(outcomes)
        self.seconds = seconds
        self.asked: list[tuple[int, int]] = []
        self.asked_at: list[float] = []

    @property
    def accounts(self) -> list[int]:
        return [account for account, _ in self.asked]

    async def take(self, balance_account_id: int, entries_min: int) -> bool:
        self.asked.append((balance_account_id, entries_min))
        self.asked_at.append(now())
        await asyncio.sleep(self.seconds)
        outcome = self.outcomes.pop(0) if self.outcomes else True
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Working:
    """A worker that was started."""

    def __init__(self, snapshots: FakeSnapshots, tail_entries: int = TAIL_ENTRIES) -> None:
        self.failures: list[str] = []
        self.taken = 0
        self.worker = SnapshotWorker(
            snapshots,
            tail_entries=tail_entries,
            on_failure=lambda what, _: self.failures.append(what),
            on_taken=self._count,
        )

    def _count(self, count: int) -> None:
        self.taken += count

    async def __aenter__(self) -> "Working":
        self.worker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.worker.stop()

    def report(self, *accounts: int) -> None:
        self.worker.report([(account, TAIL_ENTRIES + 1) for account in accounts])


def test_accounts_with_long_tails_get_snapshots_in_order() -> None:
    """Each once, however often it is reported. An account with a short tail never."""
    snapshots = FakeSnapshots(seconds=1)

    async def main() -> None:
        async with Working(snapshots) as working:
            working.worker.report(
                [(1, TAIL_ENTRIES), (2, TAIL_ENTRIES + 1), (None, 10**9), (3, 10**9), (2, 10**9)]
            )
            working.report(2, 3)
            await asyncio.sleep(0.5)
            # Also not while its snapshot is under way.
            working.report(2)
            await asyncio.sleep(100)
            assert snapshots.asked == [(2, TAIL_ENTRIES // 2), (3, TAIL_ENTRIES // 2)]
            # An account that grows again gets another snapshot.
            working.report(2)
            await asyncio.sleep(100)
            assert snapshots.accounts == [2, 3, 2]
            assert working.taken == 3

    run_on_fake_time(main())


def test_account_rests_after_an_attempt_in_vain() -> None:
    """As while a long transaction holds the horizon back. Other accounts have their turn."""
    snapshots = FakeSnapshots(False)

    async def main() -> None:
        async with Working(snapshots) as working:
            working.report(1)
            await asyncio.sleep(1)
            working.report(1, 2)
            await asyncio.sleep(1)
            assert snapshots.accounts == [1, 2]
            await asyncio.sleep(REST_SECONDS)
            assert snapshots.accounts == [1, 2]
            working.report(1)
            await asyncio.sleep(1)
            assert snapshots.accounts == [1, 2, 1]
            assert working.taken == 2

    run_on_fake_time(main())


def test_reads_wait_for_a_snapshot_which_comes_first() -> None:
    """Reads of one account wait together until it was tried. They do not wait while it rests."""
    snapshots = FakeSnapshots(True, False, seconds=1)

    async def main() -> None:
        async with Working(snapshots) as working:
            working.report(1, 2)
            await asyncio.sleep(0.5)
            await asyncio.gather(*(working.worker.shortened(3) for _ in range(2)))
            assert now() == 2
            assert snapshots.accounts[:2] == [1, 3]
            await working.worker.shortened(3)
            assert now() == 2
            assert snapshots.accounts.count(3) == 1

    run_on_fake_time(main())


def test_read_waits_no_longer_than_its_time() -> None:
    """A snapshot that takes longer goes on without it."""
    snapshots = FakeSnapshots(seconds=3600)

    async def main() -> None:
        async with Working(snapshots) as working:
            await working.worker.shortened(1)
            assert now() == READ_WAITS_SECONDS

    run_on_fake_time(main())


@pytest.mark.parametrize("tail_entries", [0, TAIL_ENTRIES])
def test_no_read_waits_for_a_worker_that_takes_none(tail_entries: int) -> None:
    """Neither with snapshots off, nor before the start, nor during and after a stop."""
    snapshots = FakeSnapshots(seconds=3600)

    async def main() -> None:
        working = Working(snapshots, tail_entries)
        await working.worker.shortened(1)
        async with working:
            read = asyncio.create_task(working.worker.shortened(1))
            await asyncio.sleep(1)
            assert read.done() == (tail_entries == 0)
            stopping = asyncio.create_task(working.worker.stop())
            await read
            await working.worker.shortened(2)
            assert now() == 1
            await stopping
        await working.worker.shortened(3)

    run_on_fake_time(main())


@pytest.mark.parametrize(
    "error", [DatabaseUnavailable("away"), ZeroDivisionError()], ids=["database", "defect"]
)
def test_failures_are_reported_and_end_nothing(error: Exception) -> None:
    """The worker pauses, whatever is reported meantime, and continues with the others."""
    snapshots = FakeSnapshots(error, seconds=0)

    async def main() -> None:
        async with Working(snapshots) as working:
            working.report(1, 2)
            await asyncio.sleep(0.01)
            working.report(3)
            await asyncio.sleep(2 * BACKOFF_SECONDS)
            assert len(working.failures) == 1
            assert working.failures[0].startswith("the snapshot of balance account 1 ")
            assert working.taken == 2

    run_on_fake_time(main())
    assert snapshots.accounts == [1, 2, 3]
    assert BACKOFF_SECONDS / 2 <= snapshots.asked_at[1] <= BACKOFF_SECONDS


def test_switched_off_takes_none() -> None:
    """With the setting 0 no tail is too long."""
    snapshots = FakeSnapshots()

    async def main() -> None:
        async with Working(snapshots, tail_entries=0) as working:
            working.worker.report([(1, 10**12)])
            await asyncio.sleep(100)

    run_on_fake_time(main())
    assert snapshots.asked == []


@pytest.mark.parametrize(
    ("tail_entries", "expected"),
    [(0, 0), (1, PAST_TAIL_ENTRIES), (200, PAST_TAIL_ENTRIES), (10_000, 10_000)],
)
def test_past_balances_may_read_more_entries(tail_entries: int, expected: int) -> None:
    """Their snapshots are further apart. With the setting 0 there are none of them either."""
    assert past_tail_entries(tail_entries) == expected


def test_stop_ends_the_backoff_and_forgets_the_rest() -> None:
    """A worker that waits for a database that is away stops at once."""
    snapshots = FakeSnapshots(DatabaseUnavailable("away"), seconds=0)

    async def main() -> None:
        async with Working(snapshots) as working:
            working.report(*range(100))
            await asyncio.sleep(0.1)
        assert now() == 0.1

    run_on_fake_time(main())
    assert len(snapshots.asked) == 1


def test_accounts_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many accounts are slow, and however many rest."""
    monkeypatch.setattr(take_snapshots, "ACCOUNTS_MAX", 5)
    snapshots = FakeSnapshots(*[False] * 5)

    async def main() -> None:
        async with Working(snapshots) as working:
            working.report(*range(100))
            await asyncio.sleep(5)

    run_on_fake_time(main())
    assert snapshots.accounts == [0, 1, 2, 3, 4]


def test_stop_gives_up_a_snapshot_that_takes_long() -> None:
    """Such as the first one of a long history: a server that stops does not wait for it."""
    snapshots = FakeSnapshots(seconds=3600)

    async def main() -> None:
        async with Working(snapshots) as working:
            working.report(1)
            await asyncio.sleep(1)
        assert now() == 1 + STOP_SECONDS
        assert working.taken == 0

    run_on_fake_time(main())
