"""The worker that takes snapshots: of what was reported, once, and never in anybody's way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.waiting import until

from ledger.application import take_snapshots
from ledger.application.take_snapshots import SnapshotWorker
from ledger.errors import DatabaseUnavailable

DEADLINE_SECONDS = 20
TAIL_ENTRIES = 10


class FakeSnapshots:
    """Implements `BalanceSnapshots`: remembers what was asked for. `outcomes` are of the next calls, or True."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.outcomes: list[bool | Exception] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def take(self, balance_account_id: int, entries_min: int) -> bool:
        self.asked.append((balance_account_id, entries_min))
        await self.may_go_on.wait()
        outcome = self.outcomes.pop(0) if self.outcomes else True
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@asynccontextmanager
async def working(
    snapshots: FakeSnapshots, *, tail_entries: int = TAIL_ENTRIES, failures: list[str] | None = None
) -> AsyncIterator[SnapshotWorker]:
    worker = SnapshotWorker(
        snapshots,
        tail_entries=tail_entries,
        on_failure=lambda what, _: None if failures is None else failures.append(what),
    )
    worker.start()
    try:
        yield worker
    finally:
        snapshots.may_go_on.set()
        await asyncio.wait_for(worker.stop(), DEADLINE_SECONDS)


async def test_long_tails_are_shortened_in_order() -> None:
    """Each account with a tail longer than the setting, once, whatever it was reported; others never."""
    snapshots = FakeSnapshots()
    snapshots.may_go_on.clear()
    async with working(snapshots) as worker:
        worker.report(
            [(1, TAIL_ENTRIES), (2, TAIL_ENTRIES + 1), (None, 10**9), (3, 10**9), (2, 10**9)]
        )
        worker.report([(2, 99), (3, 99)])
        await until(lambda: snapshots.asked == [(2, TAIL_ENTRIES // 2)])
        # The one under way is not asked for again either.
        worker.report([(2, 99)])
        snapshots.may_go_on.set()
        await until(lambda: len(snapshots.asked) == 2)
        await until(lambda: worker.wanted_count == 0)
        assert [account for account, _ in snapshots.asked] == [2, 3]
        # Whoever grows again gets another one.
        worker.report([(2, 99)])
        await until(lambda: len(snapshots.asked) == 3)


async def test_an_attempt_in_vain_is_not_repeated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while a long transaction holds the horizon: the account rests, and others have their turn."""
    monkeypatch.setattr(take_snapshots, "REST_SECONDS", 3600.0)
    snapshots = FakeSnapshots()
    snapshots.outcomes = [False]
    async with working(snapshots) as worker:
        worker.report([(1, 99)])
        await until(lambda: worker.wanted_count == 0)
        worker.report([(1, 99), (2, 99)])
        await until(lambda: worker.wanted_count == 0)
        assert [account for account, _ in snapshots.asked] == [1, 2]


async def test_reads_wait_for_a_snapshot_which_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one account wait together, until it was tried, with or without success; not while it rests."""
    monkeypatch.setattr(take_snapshots, "READ_WAITS_SECONDS", 3600.0)
    monkeypatch.setattr(take_snapshots, "REST_SECONDS", 3600.0)
    snapshots = FakeSnapshots()
    snapshots.may_go_on.clear()
    async with asyncio.timeout(DEADLINE_SECONDS), working(snapshots) as worker:
        worker.report([(1, 99), (2, 99)])
        await until(lambda: len(snapshots.asked) == 1)
        reads = [asyncio.create_task(worker.shortened(3)) for _ in range(2)]
        await until(lambda: worker.wanted_count == 3)
        assert not any(read.done() for read in reads)
        snapshots.outcomes = [True, False]
        snapshots.may_go_on.set()
        await asyncio.gather(*reads)
        assert [account for account, _ in snapshots.asked[:2]] == [1, 3]
        await worker.shortened(3)
        assert [account for account, _ in snapshots.asked].count(3) == 1


@pytest.mark.parametrize("tail_entries", [0, TAIL_ENTRIES])
async def test_no_read_waits_in_vain(monkeypatch: pytest.MonkeyPatch, tail_entries: int) -> None:
    """Neither where no snapshots are taken, nor longer than its time, nor for a worker that stops."""
    monkeypatch.setattr(take_snapshots, "READ_WAITS_SECONDS", 0.01)
    monkeypatch.setattr(take_snapshots, "STOP_SECONDS", 0.01)
    snapshots = FakeSnapshots()
    snapshots.may_go_on.clear()
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        working(snapshots, tail_entries=tail_entries) as worker,
    ):
        await worker.shortened(1)
        monkeypatch.setattr(take_snapshots, "READ_WAITS_SECONDS", 3600.0)
        read = asyncio.create_task(worker.shortened(2))
        await asyncio.sleep(0)
        assert read.done() == (tail_entries == 0)
        await worker.stop()
        await read
        await worker.shortened(3)


async def test_rest_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that was left alone is tried again, once it is reported again."""
    monkeypatch.setattr(take_snapshots, "REST_SECONDS", 0.0)
    snapshots = FakeSnapshots()
    snapshots.outcomes = [False, False]
    async with working(snapshots) as worker:
        for times in (1, 2, 3):
            worker.report([(1, 99)])
            await until(
                lambda wanted=times: len(snapshots.asked) == wanted and worker.wanted_count == 0
            )


@pytest.mark.parametrize(
    "error", [DatabaseUnavailable("away"), ZeroDivisionError()], ids=["database", "defect"]
)
async def test_failures_are_told_and_end_nothing(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The worker says what went wrong, waits a moment, and goes on with the others."""
    monkeypatch.setattr(take_snapshots, "BACKOFF_SECONDS", 0.01)
    snapshots, failures = FakeSnapshots(), list[str]()
    snapshots.outcomes = [error]
    async with working(snapshots, failures=failures) as worker:
        worker.report([(1, 99), (2, 99)])
        await until(lambda: len(snapshots.asked) == 2)
        assert len(failures) == 1
        assert "balance account 1" in failures[0]


async def test_switched_off_takes_none() -> None:
    """With 0 nothing is ever wanted."""
    snapshots = FakeSnapshots()
    async with working(snapshots, tail_entries=0) as worker:
        worker.report([(1, 10**12)])
        assert worker.wanted_count == 0
    assert snapshots.asked == []


async def test_stop_ends_the_backoff_and_gives_up_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that waits for a database that is away stops at once; what was wanted is forgotten."""
    monkeypatch.setattr(take_snapshots, "BACKOFF_SECONDS", 3600.0)
    snapshots = FakeSnapshots()
    snapshots.outcomes = [DatabaseUnavailable("away")]
    async with working(snapshots) as worker:
        worker.report([(account, 99) for account in range(100)])
        await until(lambda: len(snapshots.asked) == 1)
    assert len(snapshots.asked) == 1


async def test_what_is_wanted_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many accounts are slow, only so many are remembered."""
    monkeypatch.setattr(take_snapshots, "ACCOUNTS_MAX", 5)
    snapshots = FakeSnapshots()
    snapshots.outcomes = [False] * 5
    snapshots.may_go_on.clear()
    async with working(snapshots) as worker:
        worker.report([(account, 99) for account in range(100)])
        assert worker.wanted_count == 5
        snapshots.may_go_on.set()
        await until(lambda: worker.wanted_count == 0)
        assert len(snapshots.asked) == 5


async def test_stop_gives_up_a_snapshot_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the first one of a long history: whoever stops the server does not wait for it."""
    monkeypatch.setattr(take_snapshots, "STOP_SECONDS", 0.01)
    snapshots = FakeSnapshots()
    snapshots.may_go_on.clear()
    worker = SnapshotWorker(
        snapshots, tail_entries=TAIL_ENTRIES, on_failure=lambda what, _: pytest.fail(what)
    )
    worker.start()
    worker.report([(1, 99)])
    await until(lambda: len(snapshots.asked) == 1)
    await asyncio.wait_for(worker.stop(), DEADLINE_SECONDS)
