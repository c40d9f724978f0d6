"""Runs payouts: starts runs, and goes on with them until every restaurant was looked at."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import UUID

import uuid_utils.compat

from ledger.application.ports import PageRejected, PayoutRuns
from ledger.domain.payouts import PayoutRun, PayoutRunKey
from ledger.errors import DatabaseContention, DatabaseTimeout, LedgerError

T = TypeVar("T")

PAGE_ACCOUNTS = 500
# How long an idle worker sleeps before it looks for the runs of other servers, and for those they left unfinished.
POLL_SECONDS = 2.0
# How long a worker leaves alone what it could not do just now.
BACKOFF_SECONDS = 0.5


async def run_payouts(runs: PayoutRuns, key: PayoutRunKey, *, dry_run: bool) -> PayoutRun:
    """The run of `key`, started unless it is there; or with `dry_run` what it would do.

    Raises InvalidRequest for a date in the future, DatabaseUnavailable, DatabaseContention, DatabaseTimeout.
    """
    if dry_run:
        return await runs.plan(key)
    return await runs.start(key, uuid_utils.compat.uuid7())


class PayoutWorker:
    """Goes on with every unfinished run, beside as many other workers as there are: each claims pages of restaurants.

    All state is in the database: a worker that dies leaves its page unclaimed and undone, and any other one takes it.
    """

    def __init__(self, runs: PayoutRuns, *, concurrency: int, on_failure: Callable[[str, BaseException], None]) -> None:
        """`concurrency` is how many pages are paid at a time. `on_failure` is told what went wrong, for the log; the worker tries
        again by itself.
        """
        self._runs = runs
        self._concurrency = concurrency
        self._on_failure = on_failure
        # For those who would rather wait until it is done.
        self.is_paying = False
        self._wake = asyncio.Event()
        self._stopping = False
        self._page_accounts: dict[UUID, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to work, with what earlier processes left unfinished."""
        self._task = asyncio.create_task(self._work())

    def wake(self) -> None:
        """Tells that there is a new run."""
        self._wake.set()

    def wind_up(self) -> None:
        """Begins no further page: the rest of the run is for other workers."""
        self._stopping = True
        self._wake.set()

    async def stop(self) -> None:
        """Winds up, and returns when the pages under way are done."""
        self.wind_up()
        if self._task is not None:
            await self._task

    async def _work(self) -> None:
        while not self._stopping:
            self._wake.clear()
            pause_seconds = POLL_SECONDS
            for payout_run_id in await self._try_for("the payout runs", self._runs.running()) or ():
                if not await self._try_for(f"payout run {payout_run_id}", self._go_on_with(payout_run_id)):
                    pause_seconds = BACKOFF_SECONDS
            if not self._stopping:
                # Jitter, so that the workers of several servers do not come all at once.
                pause_seconds *= random.uniform(0.5, 1.0)  # noqa: S311
                try:
                    await asyncio.wait_for(self._wake.wait(), pause_seconds)
                except TimeoutError:
                    continue

    async def _try_for(self, what: str, work: Awaitable[T]) -> T | None:
        """The result of `work`; None if it failed, which is told. One run that cannot go on holds up no other."""
        try:
            return await work
        except LedgerError as error:
            self._on_failure(f"{what} must wait for the database", error)
        except Exception as error:  # noqa: BLE001  # a worker that ended would leave every run unfinished
            self._on_failure(f"{what} failed unexpectedly", error)
        return None

    async def _go_on_with(self, payout_run_id: UUID) -> bool:
        """Pays pages, some at a time, until nothing can be claimed; finishes the run if nothing is left at all. Always true.

        Raises what went wrong with a page, when the pages under way are done.
        """
        self.is_paying = True
        try:
            outcomes = await asyncio.gather(
                *_each_until_one_fails(self._concurrency, lambda: self._pay_page(payout_run_id)), return_exceptions=True
            )
        finally:
            self.is_paying = False
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        if not self._stopping:
            await self._runs.finish(payout_run_id)
            self._page_accounts.pop(payout_run_id, None)
        return True

    async def _pay_page(self, payout_run_id: UUID) -> bool:
        """Pays a page; whether there may be more of them."""
        if self._stopping:
            return False
        page_accounts = self._page_accounts.get(payout_run_id, PAGE_ACCOUNTS)
        try:
            return bool(await self._runs.pay(payout_run_id, page_accounts))
        except (DatabaseContention, DatabaseTimeout):
            # Accounts that others hold, or with long histories: fewer of them fit into the time that a statement may take.
            # First the other runs have their turn.
            self._page_accounts[payout_run_id] = max(1, page_accounts // 4)
            raise
        except PageRejected as rejected:
            self._on_failure("the database refused a page of payouts", rejected)
            await self._pay_one_by_one(payout_run_id, len(rejected.balance_account_ids))
            return True

    async def _pay_one_by_one(self, payout_run_id: UUID, accounts: int) -> None:
        """Looks at some restaurants each for itself, so that one that cannot be paid holds up no other."""
        for _ in range(accounts):
            try:
                await self._runs.pay(payout_run_id, 1)
            except PageRejected as rejected:
                for balance_account_id in rejected.balance_account_ids:
                    self._on_failure(f"balance account {balance_account_id} cannot be paid", rejected)
                    await self._runs.give_up(payout_run_id, balance_account_id)


def _each_until_one_fails(count: int, step: Callable[[], Awaitable[bool]]) -> list[Awaitable[None]]:
    """Loops, to be run together, each repeating `step` until it is false, or until another loop has raised."""
    failed = False

    async def loop() -> None:
        nonlocal failed
        try:
            while not failed and await step():
                pass
        except BaseException:
            failed = True
            raise

    return [loop() for _ in range(count)]
