"""The worker that pays runs, on runs in memory and on a clock that needs no waiting."""

import asyncio
import math
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from support.fake_time import now, run_on_fake_time

from ledger.application import run_payouts as module
from ledger.application.ports.payouts import (
    PageRejected,
    PayoutPage,
    PayoutRunQuery,
    Unanswered,
)
from ledger.application.run_payouts import (
    BACKOFF_SECONDS,
    PAGE_ACCOUNTS,
    POLL_SECONDS,
    REFUSED_REST_SECONDS,
    UNANSWERED_SECONDS,
    WAITING_NAMED_MAX,
    PayoutWorker,
    run_payouts,
)
from ledger.domain.payout_states import PayoutState
from ledger.domain.payouts import (
    PayoutRun,
    PayoutRunItem,
    PayoutRunItemOutcome,
    PayoutRunKey,
    PayoutRunState,
)
from ledger.errors import DatabaseTimeout, DatabaseUnavailable

KEY = PayoutRunKey(
    currency="PEN", as_of=date(2026, 11, 20), min_amount_minor=1, request_id="friday"
)
A, B = UUID(int=1), UUID(int=2)


class FakePayoutRuns:
    """Implements `PayoutRuns` in memory. A page takes `page_seconds`.

    An account is open until it is paid or given up. Those of `locked`, `poison` (its data is
    refused) and `cursed` (refused for another reason) cannot be paid. `errors` are those of the
    next pages. `accounts_max` is how many accounts fit into the time limit of a statement.
    """

    def __init__(self, runs: dict[UUID, Iterable[int]] | None = None) -> None:
        self.open = {run: set(accounts) for run, accounts in (runs or {}).items()}
        self.page_seconds = 0.01
        self.locked: set[int] = set()
        self.poison: set[int] = set()
        self.cursed: set[int] = set()
        self.errors: list[Exception] = []
        self.accounts_max = PAGE_ACCOUNTS
        self.unanswered_payouts: Unanswered = {("PEN", PayoutState.CREATED): (3, 60.0)}
        self.claimed: set[tuple[UUID, int]] = set()
        self.paid: list[int] = []
        self.given_up: list[int] = []
        self.finished: list[UUID] = []
        self.pages: list[tuple[float, UUID, int]] = []
        self.under_way = self.under_way_max = 0
        self.looked_at: list[float] = []
        self.counted_at: list[float] = []

    async def running(self) -> list[UUID]:
        self.looked_at.append(now())
        if self.errors and isinstance(self.errors[0], DatabaseUnavailable):
            raise self.errors.pop(0)
        return [run for run in self.open if run not in self.finished]

    async def pay(self, payout_run_id: UUID, limit: int, after: int = 0) -> PayoutPage:
        claimed = [
            account
            for account in sorted(self.open[payout_run_id])
            if account > after and (payout_run_id, account) not in self.claimed
        ][:limit]
        self.pages.append((now(), payout_run_id, limit))
        keys = {(payout_run_id, account) for account in claimed}
        self.claimed |= keys
        self.under_way += 1
        self.under_way_max = max(self.under_way, self.under_way_max)
        try:
            await asyncio.sleep(self.page_seconds)
            return self._paid(payout_run_id, claimed)
        finally:
            self.under_way -= 1
            self.claimed -= keys

    def _paid(self, payout_run_id: UUID, claimed: list[int]) -> PayoutPage:
        if self.errors and claimed:
            raise self.errors.pop(0)
        if len(claimed) > self.accounts_max:
            raise DatabaseTimeout
        free = [account for account in claimed if account not in self.locked]
        if self.cursed & {*free} or self.poison & {*free}:
            raise PageRejected(claimed, is_data=not self.cursed & {*free})
        self.open[payout_run_id] -= {*free}
        self.paid += free
        locked = {account: f"res_{account}" for account in claimed if account in self.locked}
        return PayoutPage(claimed, locked, len(free), 100 * len(free))

    async def give_up(self, payout_run_id: UUID, balance_account_id: int) -> None:
        self.open[payout_run_id].discard(balance_account_id)
        self.given_up.append(balance_account_id)

    async def finish(self, payout_run_id: UUID) -> bool:
        if self.open[payout_run_id] or payout_run_id in self.finished:
            return False
        self.finished.append(payout_run_id)
        return True

    async def unanswered(self) -> Unanswered:
        self.counted_at.append(now())
        return self.unanswered_payouts

    async def get(self, payout_run_id: UUID) -> PayoutRun | None:
        return run_of(payout_run_id)

    async def start(self, key: PayoutRunKey, payout_run_id: UUID) -> PayoutRun:
        first = next(iter(self.open), payout_run_id)
        self.open.setdefault(first, set())
        return run_of(first)

    async def plan(self, key: PayoutRunKey) -> PayoutRun:
        return run_of(None)

    async def items(
        self, payout_run_id: UUID, outcome: PayoutRunItemOutcome | None, after: str, limit: int
    ) -> list[PayoutRunItem]:
        raise NotImplementedError

    async def page(
        self, query: PayoutRunQuery, before: tuple[datetime, UUID] | None, limit: int
    ) -> list[PayoutRun]:
        raise NotImplementedError

    async def cancel(self, payout_run_id: UUID) -> bool:
        raise NotImplementedError


def run_of(payout_run_id: UUID | None) -> PayoutRun:
    return PayoutRun(
        payout_run_id=payout_run_id,
        key=KEY,
        cutoff_at=datetime(2026, 11, 21, tzinfo=UTC),
        state=PayoutRunState.RUNNING,
        payouts_created=0,
        total_amount_minor=0,
        restaurants_considered=0,
        restaurants_total=0,
        skipped={},
        created_at=None,
        finished_at=None,
    )


class Working:
    """A worker that was started."""

    def __init__(self, runs: FakePayoutRuns, *, concurrency: int = 1) -> None:
        self.failures: list[str] = []
        self.waiting: list[int] = []
        self.unanswered: list[Any] = []
        self.worker = PayoutWorker(
            runs,
            concurrency=concurrency,
            on_failure=lambda what, _: self.failures.append(what),
            on_waiting=self.waiting.append,
            on_unanswered=self.unanswered.append,
        )

    async def __aenter__(self) -> "Working":
        self.worker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.worker.stop()


async def work_for(seconds: float, runs: FakePayoutRuns, **options: Any) -> Working:
    async with Working(runs, **options) as working:
        await asyncio.sleep(seconds)
    return working


def test_runs_are_paid_page_by_page_and_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each account once, in the order of accounts; the second run after the first."""
    monkeypatch.setattr(module, "PAGE_ACCOUNTS", 3)
    runs = FakePayoutRuns({A: range(1, 8), B: [20, 21]})

    async def main() -> None:
        working = await work_for(1, runs)
        assert working.failures == []

    run_on_fake_time(main())
    assert runs.paid == [1, 2, 3, 4, 5, 6, 7, 20, 21]
    assert runs.finished == [A, B]
    # Three pages with accounts and one without, then one and one.
    assert [page[1] for page in runs.pages] == [A, A, A, A, B, B]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_pages_are_paid_concurrently(monkeypatch: pytest.MonkeyPatch, concurrency: int) -> None:
    """As many as the setting allows. No account is paid by two of them."""
    monkeypatch.setattr(module, "PAGE_ACCOUNTS", 2)
    runs = FakePayoutRuns({A: range(1, 41)})

    async def main() -> None:
        await work_for(1, runs, concurrency=concurrency)

    run_on_fake_time(main())
    assert runs.under_way_max == concurrency
    assert sorted(runs.paid) == list(range(1, 41))
    assert runs.finished == [A]


def test_worker_looks_for_runs_when_it_is_woken_and_every_few_seconds() -> None:
    """No call wakes it for the runs that other servers started or left."""
    runs = FakePayoutRuns()

    async def main() -> None:
        async with Working(runs) as working:
            await asyncio.sleep(20)
            runs.open[A] = {1}
            working.worker.wake()
            await asyncio.sleep(0.1)
            assert runs.finished == [A]

    run_on_fake_time(main())
    pauses = [
        later - earlier
        for earlier, later in zip(runs.looked_at, runs.looked_at[1:-1], strict=False)
    ]
    assert len(pauses) >= 9
    assert all(POLL_SECONDS / 2 <= pause <= POLL_SECONDS for pause in pauses)
    assert runs.looked_at[-1] == 20


def test_refused_page_is_paid_account_by_account() -> None:
    """An account whose data the books refuse is given up; it holds up no other and no finish."""
    runs = FakePayoutRuns({A: range(1, 6)})
    runs.poison = {3}

    async def main() -> None:
        working = await work_for(0.4, runs)
        assert working.failures == [
            "the database refused a page of payouts",
            "balance account 3 cannot be paid",
        ]

    run_on_fake_time(main())
    assert (runs.paid, runs.given_up, runs.finished) == ([1, 2, 4, 5], [3], [A])


def test_account_refused_for_another_reason_waits() -> None:
    """All others are paid. The run pauses, to spare the log and the database."""
    runs = FakePayoutRuns({A: range(1, 6), B: [20]})
    runs.cursed = {2, 4}

    async def main() -> None:
        async with Working(runs) as working:
            await asyncio.sleep(REFUSED_REST_SECONDS - 1)
            assert sorted(runs.paid) == [1, 3, 5, 20]
            assert (runs.given_up, runs.finished) == ([], [B])
            assert working.failures == [
                "the database refused a page of payouts",
                "balance account 2 cannot be paid for now",
            ]
            assert working.waiting == [2, 2]
            assert max(at for at, payout_run_id, _ in runs.pages if payout_run_id == A) < 1
            runs.cursed = set()
            await asyncio.sleep(1 + POLL_SECONDS)
            assert runs.finished == [B, A]
            assert working.waiting[-1] == 0

    run_on_fake_time(main())


def test_locked_account_is_passed_over_and_tried_again() -> None:
    """Soon, as most locks last a moment. The log names once which accounts wait."""
    runs = FakePayoutRuns({A: range(1, 31)})
    runs.locked = set(range(11, 31))

    async def main() -> None:
        async with Working(runs) as working:
            await asyncio.sleep(10 * BACKOFF_SECONDS)
            assert runs.paid == list(range(1, 11))
            assert {*working.waiting} == {20}
            assert (runs.finished, working.failures) == ([], [])
            runs.locked = set()
            await asyncio.sleep(2 * BACKOFF_SECONDS)
            assert runs.finished == [A]
            assert working.waiting[-1] == 0

    with capture_logs() as lines:
        run_on_fake_time(main())
    (line,) = (line for line in lines if line["log_level"] == "warning")
    assert line["restaurants_waiting"] == 20
    assert len(line["among_them"]) == WAITING_NAMED_MAX


def test_page_that_takes_too_long_is_made_smaller() -> None:
    """By three quarters each time, down to what fits; the other runs are not held up."""
    runs = FakePayoutRuns({A: range(1, PAGE_ACCOUNTS + 1), B: [1000]})
    runs.accounts_max = 40

    async def main() -> None:
        working = await work_for(20, runs)
        assert working.failures == [f"payout run {A} must wait for the database"] * 2

    run_on_fake_time(main())
    limits = list(
        dict.fromkeys(limit for _, payout_run_id, limit in runs.pages if payout_run_id == A)
    )
    assert limits == [PAGE_ACCOUNTS, PAGE_ACCOUNTS // 4, PAGE_ACCOUNTS // 16]
    assert runs.finished == [B, A]


def test_failure_of_one_page_lets_the_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they have paid is paid. The run goes on after the backoff, and not before."""
    monkeypatch.setattr(module, "PAGE_ACCOUNTS", 2)
    runs = FakePayoutRuns({A: range(1, 21)})
    runs.errors = [ZeroDivisionError()]

    async def main() -> None:
        working = await work_for(5, runs, concurrency=3)
        assert working.failures == [f"payout run {A} failed unexpectedly"]

    run_on_fake_time(main())
    began_at = sorted({at for at, _, _ in runs.pages})
    assert BACKOFF_SECONDS / 2 <= began_at[1] - runs.page_seconds <= BACKOFF_SECONDS
    assert sorted(runs.paid) == list(range(1, 21))
    assert runs.finished == [A]


def test_outage_is_reported_and_ends_nothing() -> None:
    """The worker looks again after its usual pause."""
    runs = FakePayoutRuns({A: [1]})
    runs.errors = [DatabaseUnavailable(), DatabaseUnavailable()]

    async def main() -> None:
        working = await work_for(3 * POLL_SECONDS, runs)
        assert working.failures == ["the payout runs must wait for the database"] * 2

    run_on_fake_time(main())
    assert runs.finished == [A]


def test_stop_lets_the_page_under_way_end_and_begins_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rest of the run belongs to other workers: it is neither paid nor finished here."""
    monkeypatch.setattr(module, "PAGE_ACCOUNTS", 1)
    runs = FakePayoutRuns({A: range(1, 100)})
    runs.page_seconds = 10

    async def main() -> None:
        async with Working(runs, concurrency=2) as working:
            await asyncio.sleep(15)
            working.worker.request_stop()
            await working.worker.stop()
            assert now() == 20
        await asyncio.sleep(100)

    run_on_fake_time(main())
    assert runs.paid == [1, 2, 3, 4]
    assert runs.finished == []


def test_worker_reports_that_it_pays() -> None:
    """The sealer then uses less of the database."""
    runs = FakePayoutRuns({A: [1]})
    runs.page_seconds = 10

    async def main() -> None:
        async with Working(runs) as working:
            await asyncio.sleep(5)
            assert working.worker.is_paying
            await asyncio.sleep(20)
            assert not working.worker.is_paying

    run_on_fake_time(main())


def test_payouts_without_an_answer_are_counted_once_a_minute() -> None:
    """At the start, and then whenever a minute is over."""
    runs = FakePayoutRuns()

    async def main() -> None:
        working = await work_for(10 * UNANSWERED_SECONDS, runs)
        assert working.unanswered == [{("PEN", PayoutState.CREATED): (3, 60.0)}] * len(
            runs.counted_at
        )

    run_on_fake_time(main())
    assert runs.counted_at[0] == 0
    gaps = [
        later - earlier
        for earlier, later in zip(runs.counted_at, runs.counted_at[1:], strict=False)
    ]
    assert all(UNANSWERED_SECONDS <= gap <= UNANSWERED_SECONDS + POLL_SECONDS for gap in gaps)
    assert math.isclose(len(gaps), 9, abs_tol=1)


async def test_run_is_logged_by_the_call_that_starts_it() -> None:
    """A repeat gets the same run, and logs nothing. A dry run starts none."""
    runs = FakePayoutRuns()
    with capture_logs() as lines:
        plan = await run_payouts(runs, KEY, dry_run=True)
        started = await run_payouts(runs, KEY, dry_run=False)
        repeated = await run_payouts(runs, KEY, dry_run=False)
    assert plan.payout_run_id is None
    assert started == repeated
    assert [(line["event"], line["request_id_of_run"]) for line in lines] == [
        ("payout run started", "friday")
    ]
