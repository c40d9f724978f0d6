"""Runs payouts: starts runs, and pays them page by page until every restaurant was looked at."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

import structlog
import uuid_utils.compat

from ledger.application.ports.payouts import PageRejected, PayoutPage, PayoutRuns, Unanswered
from ledger.domain.payouts import PayoutRun, PayoutRunKey
from ledger.errors import DatabaseContention, DatabaseTimeout
from ledger.repeating import Repeating, ReportFailure, run_or_report
from ledger.zones import zone_table_version

_log = structlog.get_logger("ledger.payouts")

PAGE_ACCOUNTS = 500
# How long an idle worker pauses before it looks for runs that other servers started or left.
POLL_SECONDS = 2.0
# The pause of a worker after a round in which a run could not be finished.
BACKOFF_SECONDS = 0.5
# How often a worker counts the payouts that the bank has not answered.
UNANSWERED_SECONDS = 60.0
# How long a run rests after the database refused an account for a reason other than its data.
REFUSED_REST_SECONDS = 10.0
# How many of the restaurants that a run waits for are named in one log line.
WAITING_NAMED_MAX = 10


async def run_payouts(runs: PayoutRuns, key: PayoutRunKey, *, dry_run: bool) -> PayoutRun:
    """Starts the run of `key`, or returns the existing one. A dry run only plans it.

    Raises InvalidRequest for a date in the future, RestaurantNotFound, TooManyPayoutRuns,
    DatabaseUnavailable, DatabaseContention, DatabaseTimeout.
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
            restaurants_named=run.restaurants_named,
            restaurants_total=run.restaurants_total,
            zone_table_version=zone_table_version(),
        )
    return run


class PayoutWorker:
    """Pays every unfinished run, page by page, together with the workers of other servers.

    Each worker claims its pages, and all state is in the database: when a worker dies, its page is
    neither claimed nor paid, and any worker takes it.
    """

    def __init__(
        self,
        runs: PayoutRuns,
        *,
        concurrency: int,
        on_failure: ReportFailure,
        on_waiting: Callable[[int], None] = lambda _accounts: None,
        on_unanswered: Callable[[Unanswered], None] | None = None,
    ) -> None:
        """`concurrency` is how many pages are paid at a time.

        `on_waiting` gets how many balance accounts the runs wait for. `on_unanswered` gets, once a
        minute, the payouts that the bank has not answered.
        """
        self._runs = runs
        self._concurrency = concurrency
        self._on_failure = on_failure
        self._on_waiting = on_waiting
        self._on_unanswered = on_unanswered
        self._count_unanswered_at = -math.inf
        self._logged_waiting: dict[UUID, list[str]] = {}
        self._rests_until: dict[UUID, float] = {}
        # While this is true, the sealer leaves more of the database to the run.
        self.is_paying = False
        self._page_accounts: dict[UUID, int] = {}
        # A stop waits for the pages under way. The time limit of their SQL statements bounds that.
        self._rounds = Repeating(
            "paying", self._pay_all, every_seconds=POLL_SECONDS, on_failure=on_failure
        )

    def start(self) -> None:
        """Begins to pay, also the runs that earlier processes left unfinished."""
        self._rounds.start()

    def wake(self) -> None:
        """Makes the worker look for new runs at once."""
        self._rounds.wake()

    def request_stop(self) -> None:
        """Begins no further page. Other workers pay the rest of the run."""
        self._rounds.request_stop()

    async def stop(self) -> None:
        """Begins no further page, and returns when the pages under way have ended."""
        await self._rounds.stop()

    async def _pay_all(self) -> float | None:
        """Pays each run as far as possible. A failure of one run holds up no other."""
        pause_seconds = None
        running = await run_or_report("the payout runs", self._runs.running(), self._on_failure)
        for payout_run_id in running or ():
            if _now() < self._rests_until.get(payout_run_id, 0.0):
                continue
            if not await run_or_report(
                f"payout run {payout_run_id}", self._pay_run(payout_run_id), self._on_failure
            ):
                pause_seconds = BACKOFF_SECONDS
        if self._on_unanswered is not None and _now() >= self._count_unanswered_at:
            self._count_unanswered_at = _now() + UNANSWERED_SECONDS
            unanswered = await run_or_report(
                "the payouts without an answer", self._runs.unanswered(), self._on_failure
            )
            if unanswered is not None:
                self._on_unanswered(unanswered)
        return pause_seconds

    async def _pay_run(self, payout_run_id: UUID) -> bool:
        """Pays pages until none can be claimed, and finishes the run if no item is open.

        Returns False if accounts were passed over, because they are locked or because the database
        refuses them for a reason other than their data. The next round tries them again. Raises the
        error of a page, after the other pages under way have ended.
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
        self._log_waiting(paid_round)
        self._rests_until.pop(payout_run_id, None)
        if paid_round.was_refused:
            self._rests_until[payout_run_id] = _now() + REFUSED_REST_SECONDS
        if paid_round.waiting:
            return False
        if not self._rounds.is_stopping:
            if await self._runs.finish(payout_run_id):
                await self._log_finished(payout_run_id)
            self._page_accounts.pop(payout_run_id, None)
        return True

    async def _pay_page(self, paid_round: "_Round") -> bool:
        """Pays a page. Returns whether there may be more pages."""
        if self._rounds.is_stopping:
            return False
        page_accounts = self._page_accounts.get(paid_round.payout_run_id, PAGE_ACCOUNTS)
        try:
            page = await self._runs.pay(paid_round.payout_run_id, page_accounts, paid_round.after)
        except (DatabaseContention, DatabaseTimeout):
            # Accounts with long histories: fewer of them fit into the time limit of an SQL
            # statement. The next round tries a smaller page, after the other runs.
            self._page_accounts[paid_round.payout_run_id] = max(1, page_accounts // 4)
            raise
        except PageRejected as rejected:
            self._on_failure("the database refused a page of payouts", rejected)
            await self._pay_one_by_one(paid_round, rejected.balance_account_ids)
            return True
        paid_round.count(page)
        return len(page) > 0

    async def _pay_one_by_one(self, paid_round: "_Round", accounts: Sequence[int]) -> None:
        """Pays accounts one by one, so that one that cannot be paid holds up no other."""
        for account in accounts:
            try:
                paid_round.count(await self._runs.pay(paid_round.payout_run_id, 1, account - 1))
            except PageRejected as rejected:
                for balance_account_id in rejected.balance_account_ids:
                    name = f"balance account {balance_account_id}"
                    if rejected.is_data:
                        self._on_failure(f"{name} cannot be paid", rejected)
                        await self._runs.give_up(paid_round.payout_run_id, balance_account_id)
                        continue
                    if not paid_round.was_refused:
                        self._on_failure(f"{name} cannot be paid for now", rejected)
                    paid_round.was_refused = True
                    paid_round.pass_over({balance_account_id: name})

    def _log_waiting(self, paid_round: "_Round") -> None:
        """Logs and counts which accounts the run waits for; logs only a change."""
        waiting = sorted(paid_round.waiting.values())
        if waiting and waiting != self._logged_waiting.get(paid_round.payout_run_id):
            _log.warning(
                "a payout run waits for balance accounts that are locked or cannot be paid",
                payout_run_id=str(paid_round.payout_run_id),
                restaurants_waiting=len(waiting),
                among_them=waiting[:WAITING_NAMED_MAX],
            )
        if waiting:
            self._logged_waiting[paid_round.payout_run_id] = waiting
        else:
            self._logged_waiting.pop(paid_round.payout_run_id, None)
        self._on_waiting(sum(map(len, self._logged_waiting.values())))

    async def _log_finished(self, payout_run_id: UUID) -> None:
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
    """One pass over the open items of a run, in the order of account ids, several pages at once."""

    def __init__(self, payout_run_id: UUID) -> None:
        self.payout_run_id = payout_run_id
        # The id of the last account that was passed over, or 0. Later pages begin after it.
        self.after = 0
        self.waiting: dict[int, str] = {}
        # Whether the database refused an account for a reason other than its data. All accounts may
        # share the reason.
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
        """Goes on after these accounts. They stay open for the next round."""
        self.waiting.update(accounts)
        self.after = max(self.after, *accounts)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _each_until_one_fails(count: int, step: Callable[[], Awaitable[bool]]) -> list[Awaitable[None]]:
    """Returns `count` loops to run together.

    Each repeats `step` until it returns False or any of the loops has failed.
    """
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
