"""Runs payouts: starts runs, and goes on with them until every restaurant was looked at."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

import structlog
import uuid_utils.compat

from ledger.application.ports.payouts import PageRejected, PayoutPage, PayoutRuns
from ledger.domain.payouts import PayoutRun, PayoutRunKey
from ledger.errors import DatabaseContention, DatabaseTimeout
from ledger.repeating import Repeating, ReportFailure, attempt
from ledger.zones import zone_table_version

_log = structlog.get_logger("ledger.payouts")

PAGE_ACCOUNTS = 500
# How long an idle worker sleeps before it looks for the runs of other servers, and for those they left unfinished.
POLL_SECONDS = 2.0
# How long a worker leaves alone what it could not do just now.
BACKOFF_SECONDS = 0.5
# How often it is asked which payouts the bank has not answered.
UNANSWERED_SECONDS = 60.0
# The same for a run of which the database refused something for a reason that nobody foresaw.
REFUSED_REST_SECONDS = 10.0
# Restaurants that a line in the log names, of those that a run waits for.
WAITING_NAMED_MAX = 10


async def run_payouts(runs: PayoutRuns, key: PayoutRunKey, *, dry_run: bool) -> PayoutRun:
    """The run of `key`, started unless it is there; or with `dry_run` what it would do.

    Raises InvalidRequest for a date in the future, DatabaseUnavailable, DatabaseContention, DatabaseTimeout.
    """
    if dry_run:
        return await runs.plan(key)
    payout_run_id = uuid_utils.compat.uuid7()
    run = await runs.start(key, payout_run_id)
    if run.payout_run_id == payout_run_id:
        _log.info(
            "payout run started",
            payout_run_id=str(payout_run_id),
            currency=key.currency,
            as_of=key.as_of.isoformat(),
            min_amount_minor=key.min_amount_minor,
            request_id_of_run=key.request_id,
            restaurants_total=run.restaurants_total,
            zone_table_version=zone_table_version(),
        )
    return run


class PayoutWorker:
    """Goes on with every unfinished run, beside as many other workers as there are: each claims pages of restaurants.

    All state is in the database: a worker that dies leaves its page unclaimed and undone, and any other one takes it.
    """

    def __init__(
        self,
        runs: PayoutRuns,
        *,
        concurrency: int,
        on_failure: ReportFailure,
        on_waiting: Callable[[int], None] = lambda _accounts: None,
        on_unanswered: Callable[[Mapping[str, tuple[int, float]]], None] | None = None,
    ) -> None:
        """`concurrency` is how many pages are paid at a time. `on_failure` is told what went wrong, for the log; the worker tries
        again by itself. `on_waiting` is told how many balance accounts the runs wait for,
        `on_unanswered`, once a minute, how many payouts the bank has not answered, by currency, with the age of the oldest.
        """
        self._runs = runs
        self._concurrency = concurrency
        self._on_failure = on_failure
        self._on_waiting = on_waiting
        self._on_unanswered = on_unanswered
        self._asks_at = -math.inf
        self._told_waiting: dict[UUID, list[str]] = {}
        self._rests_until: dict[UUID, float] = {}
        # For those who would rather wait until it is done.
        self.is_paying = False
        self._page_accounts: dict[UUID, int] = {}
        # Stopping waits for the pages under way: the time limit of their statements bounds it.
        self._rounds = Repeating(
            "paying", self._pay_all, every_seconds=POLL_SECONDS, on_failure=on_failure
        )

    def start(self) -> None:
        """Begins to work, with what earlier processes left unfinished."""
        self._rounds.start()

    def wake(self) -> None:
        """Tells that there is a new run."""
        self._rounds.wake()

    def request_stop(self) -> None:
        """Begins no further page: the rest of the run is for other workers."""
        self._rounds.request_stop()

    async def stop(self) -> None:
        """Winds up, and returns when the pages under way are done."""
        await self._rounds.stop()

    async def _pay_all(self) -> float | None:
        """Goes on with each run once. A run that fails holds up no other: it is tried again after BACKOFF_SECONDS."""
        pause_seconds = None
        running = await attempt("the payout runs", self._runs.running(), self._on_failure)
        for payout_run_id in running or ():
            if _now() < self._rests_until.get(payout_run_id, 0.0):
                continue
            if not await attempt(
                f"payout run {payout_run_id}", self._go_on_with(payout_run_id), self._on_failure
            ):
                pause_seconds = BACKOFF_SECONDS
        if self._on_unanswered is not None and _now() >= self._asks_at:
            self._asks_at = _now() + UNANSWERED_SECONDS
            unanswered = await attempt(
                "the payouts without an answer", self._runs.unanswered(), self._on_failure
            )
            if unanswered is not None:
                self._on_unanswered(unanswered)
        return pause_seconds

    async def _go_on_with(self, payout_run_id: UUID) -> bool:
        """Pays pages, some at a time, until nothing can be claimed; finishes the run if nothing is left at all.
        Whether that is so: what somebody else has locked, and what the database refuses for a reason that
        nobody foresaw, is passed over, and has its turn in the next round.

        Raises what went wrong with a page, when the pages under way are done.
        """
        paid_round = _Round(payout_run_id)
        self.is_paying = True
        try:
            outcomes = await asyncio.gather(
                *_each_until_one_fails(self._concurrency, lambda: self._pay_page(paid_round)),
                return_exceptions=True,
            )
        finally:
            self.is_paying = False
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        self._tell_of(paid_round)
        self._rests_until.pop(payout_run_id, None)
        if paid_round.was_refused:
            self._rests_until[payout_run_id] = _now() + REFUSED_REST_SECONDS
        if paid_round.waiting:
            return False
        if not self._rounds.is_stopping:
            if await self._runs.finish(payout_run_id):
                await self._tell_the_end_of(payout_run_id)
            self._page_accounts.pop(payout_run_id, None)
        return True

    async def _pay_page(self, paid_round: "_Round") -> bool:
        """Pays a page; whether there may be more of them."""
        if self._rounds.is_stopping:
            return False
        page_accounts = self._page_accounts.get(paid_round.payout_run_id, PAGE_ACCOUNTS)
        try:
            page = await self._runs.pay(paid_round.payout_run_id, page_accounts, paid_round.after)
        except (DatabaseContention, DatabaseTimeout):
            # Accounts with long histories: fewer of them fit into the time that a statement may take.
            # First the other runs have their turn.
            self._page_accounts[paid_round.payout_run_id] = max(1, page_accounts // 4)
            raise
        except PageRejected as rejected:
            self._on_failure("the database refused a page of payouts", rejected)
            await self._pay_one_by_one(paid_round, rejected.balance_account_ids)
            return True
        paid_round.count(page)
        return len(page) > 0

    async def _pay_one_by_one(self, paid_round: "_Round", accounts: Sequence[int]) -> None:
        """Looks at some restaurants each for itself, so that one that cannot be paid holds up no other."""
        for account in accounts:
            try:
                paid_round.count(await self._runs.pay(paid_round.payout_run_id, 1, account - 1))
            except PageRejected as rejected:
                for balance_account_id in rejected.balance_account_ids:
                    if rejected.is_data:
                        self._on_failure(
                            f"balance account {balance_account_id} cannot be paid", rejected
                        )
                        await self._runs.give_up(paid_round.payout_run_id, balance_account_id)
                        continue
                    if not paid_round.was_refused:
                        self._on_failure(
                            f"balance account {balance_account_id} cannot be paid for now", rejected
                        )
                    paid_round.was_refused = True
                    paid_round.pass_over(
                        {balance_account_id: f"balance account {balance_account_id}"}
                    )

    def _tell_of(self, paid_round: "_Round") -> None:
        """Says what the run waits for, when that has changed."""
        waiting = sorted(paid_round.waiting.values())
        if waiting and waiting != self._told_waiting.get(paid_round.payout_run_id):
            _log.warning(
                "a payout run waits for balance accounts that are locked or cannot be paid",
                payout_run_id=str(paid_round.payout_run_id),
                restaurants_waiting=len(waiting),
                among_them=waiting[:WAITING_NAMED_MAX],
            )
        if waiting:
            self._told_waiting[paid_round.payout_run_id] = waiting
        else:
            self._told_waiting.pop(paid_round.payout_run_id, None)
        self._on_waiting(sum(map(len, self._told_waiting.values())))

    async def _tell_the_end_of(self, payout_run_id: UUID) -> None:
        run = await self._runs.get(payout_run_id)
        if run is not None:
            _log.info(
                "payout run finished",
                payout_run_id=str(payout_run_id),
                currency=run.key.currency,
                as_of=run.key.as_of.isoformat(),
                payouts_created=run.payouts_created,
                total_amount_minor=run.total_amount_minor,
                skipped={reason.value: count for reason, count in run.skipped.items()},
            )


class _Round:
    """A walk over the open items of a run, which several pages at a time make, in the order of account ids."""

    def __init__(self, payout_run_id: UUID) -> None:
        self.payout_run_id = payout_run_id
        # The accounts up to here have had their turn, if any of them was passed over.
        self.after = 0
        self.waiting: dict[int, str] = {}
        # By the database, for a reason that nobody foresaw, which may well be one that all accounts share.
        self.was_refused = False

    def count(self, page: PayoutPage) -> None:
        if page.locked:
            self.pass_over(page.locked)
        if page.payouts_created:
            _log.debug(
                "payouts created",
                payout_run_id=str(self.payout_run_id),
                payouts_created=page.payouts_created,
                amount_minor=page.amount_minor,
            )

    def pass_over(self, accounts: Mapping[int, str]) -> None:
        """Goes on behind the accounts, which stay open for the next round."""
        self.waiting.update(accounts)
        self.after = max(self.after, *accounts)


def _now() -> float:
    return asyncio.get_running_loop().time()


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
