"""Assembles the service on a database, and its background work."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from functools import partial

import structlog

from ledger.api.account_service import AccountService
from ledger.api.ledger_service import LedgerService
from ledger.api.pages import Pages
from ledger.api.payment_service import PaymentService
from ledger.application.call_log import CallLog
from ledger.application.count_quarantine import QuarantineCounter
from ledger.application.find_long_accounts import LongAccountFinder
from ledger.application.get_account_balance import GetAccountBalance
from ledger.application.get_balance import GetBalance
from ledger.application.grouped_balances import LONG_READS_AT_ONCE_MAX
from ledger.application.ingest.ingest_events import IngestEvents
from ledger.application.ingest.queue import IngestLimits
from ledger.application.metrics import LedgerMetrics, NoWorkMetrics
from ledger.application.payments.decide_operations import DecideOperations
from ledger.application.payments.decide_payments import DecidePayments
from ledger.application.payments.expire_payments import ExpiryWorker
from ledger.application.payments.pay import Pay
from ledger.application.ports.seals import SealLag
from ledger.application.preview_event import PreviewEvent
from ledger.application.run_payouts import PayoutWorker
from ledger.application.seal_ledger import READS_AT_ONCE_MAX, LedgerSealer, SealWorker
from ledger.application.take_snapshots import SnapshotWorker, past_tail_entries
from ledger.bootstrap.database import Engines
from ledger.domain.restaurants import UnknownRestaurants
from ledger.errors import DatabaseUnavailable
from ledger.infrastructure.postgres.account_balances import PostgresAccountBalanceReader
from ledger.infrastructure.postgres.account_statements import (
    PostgresAccountStatements,
    PostgresStatements,
)
from ledger.infrastructure.postgres.accounts import PostgresAccountReader
from ledger.infrastructure.postgres.balance_lists import PostgresBalanceLists
from ledger.infrastructure.postgres.balance_reader import PostgresBalanceReader
from ledger.infrastructure.postgres.call_log import PostgresCallLog
from ledger.infrastructure.postgres.event_ledger import PostgresEventLedger
from ledger.infrastructure.postgres.event_lists import PostgresEventLists
from ledger.infrastructure.postgres.long_accounts import PostgresLongAccounts
from ledger.infrastructure.postgres.page_token_keys import PostgresPageTokenKeys
from ledger.infrastructure.postgres.payment_books import PostgresPaymentBooks
from ledger.infrastructure.postgres.payments import PostgresPayments
from ledger.infrastructure.postgres.payout_entries import PostgresPayoutEntries
from ledger.infrastructure.postgres.payout_runs import PostgresPayoutRuns
from ledger.infrastructure.postgres.payouts import PostgresPayouts
from ledger.infrastructure.postgres.quarantine import PostgresQuarantine
from ledger.infrastructure.postgres.seals import PostgresSealedBooks
from ledger.infrastructure.postgres.sessions.clock import LedgerClock, host_now
from ledger.infrastructure.postgres.sessions.engine import (
    BoundedConnections,
    KeptConnections,
    autocommit,
)
from ledger.infrastructure.postgres.sessions.fence import Fence
from ledger.infrastructure.postgres.snapshot_ladder import PostgresSnapshotLadder
from ledger.infrastructure.postgres.snapshots import PostgresBalanceSnapshots
from ledger.infrastructure.postgres.statement_marks import PostgresStatementMarks
from ledger.infrastructure.postgres.unit_of_work import PostgresUnitOfWork
from ledger.repeating import ReportFailure
from ledger.settings import Settings

_log = structlog.get_logger("ledger")


class Application:
    """The service on a database, with the workers that run in the background."""

    def __init__(
        self,
        settings: Settings,
        engines: Engines,
        metrics: LedgerMetrics | None = None,
        *,
        host_clock: Callable[[], datetime] = host_now,
    ) -> None:
        metrics = metrics or NoWorkMetrics()
        self.clock = LedgerClock(
            host_clock=host_clock, on_measured=metrics.clocks, on_jump=metrics.database_clock_jumped
        )
        engine = engines.other
        self._hosts = engines.hosts
        worker_failed = engines.hosts.outages.worker_failed
        self._group_connections = KeptConnections(engines.groups)
        self._ingest_connections = KeptConnections(engines.ingest)
        self._payment_connections = KeptConnections(engines.payments)
        self._balance_connections = KeptConnections(engines.balances)
        self._balance_snapshot_worker = SnapshotWorker(
            PostgresBalanceSnapshots(engine),
            tail_entries=settings.snapshot_tail_entries,
            on_failure=worker_failed,
            on_taken=metrics.snapshots_made,
        )
        self._statement_mark_worker = SnapshotWorker(
            PostgresStatementMarks(engine),
            tail_entries=settings.snapshot_tail_entries,
            on_failure=worker_failed,
        )
        self._long_account_finder = None
        if settings.snapshot_tail_entries:
            self._long_account_finder = LongAccountFinder(
                PostgresLongAccounts(engine), self._statement_mark_worker, on_failure=worker_failed
            )
        self._snapshot_ladder_worker = SnapshotWorker(
            PostgresSnapshotLadder(engine, on_made=metrics.snapshots_made),
            tail_entries=past_tail_entries(settings.snapshot_tail_entries),
            on_failure=worker_failed,
        )
        long_reads = BoundedConnections(engines.long_reads, uses_max=settings.long_reads)
        self._fence = Fence(engine)
        runs = PostgresPayoutRuns(
            engine,
            self._balance_snapshot_worker,
            settlement_timezone=settings.settlement_timezone,
            open_runs_max=settings.payout_runs_open,
            fence=self._fence,
            metrics=metrics,
        )
        # Events and payments share it.
        queue_bytes_max = settings.ingest_queue_megabytes * 1024 * 1024
        self._ingest_events = IngestEvents(
            PostgresEventLedger(
                self._ingest_connections.autocommit, maturity_days=settings.maturity_days
            ),
            lambda: PostgresUnitOfWork(engines.ingest),
            group_ledger=PostgresEventLedger(
                self._group_connections.autocommit, maturity_days=settings.maturity_days
            ),
            unknown_restaurants=settings.unknown_restaurants,
            limits=IngestLimits(
                queue_calls_max=settings.ingest_queue_calls,
                queue_events_max=settings.ingest_queue_events,
                queue_bytes_max=queue_bytes_max,
                group_events_max=settings.ingest_group_events,
                batches_at_once_max=settings.ingest_concurrency,
            ),
            on_group=partial(metrics.group, "ingest"),
            on_repeated=metrics.facts_repeated,
            on_queue=metrics.queue,
            other_bytes=lambda: self._pay.size_bytes,
        )
        # One bound for both kinds of balances, so that their groups always have a session.
        long_balances = asyncio.Semaphore(LONG_READS_AT_ONCE_MAX)
        self._get_account_balance = GetAccountBalance(
            PostgresAccountBalanceReader(
                self._balance_connections.autocommit, self._balance_snapshot_worker
            ),
            PostgresAccountBalanceReader(long_reads.autocommit, self._snapshot_ladder_worker),
            long_reads=long_balances,
            on_group=partial(metrics.group, "balance"),
            on_past_group=partial(metrics.group, "past_balance"),
        )
        self._get_balance = GetBalance(
            PostgresBalanceReader(
                self._balance_connections.autocommit, self._balance_snapshot_worker
            ),
            PostgresBalanceReader(long_reads.autocommit, self._snapshot_ladder_worker),
            long_reads=long_balances,
            on_group=partial(metrics.group, "balance"),
            on_past_group=partial(metrics.group, "past_balance"),
        )
        self._payout_worker = PayoutWorker(
            runs,
            concurrency=settings.payout_concurrency,
            on_failure=worker_failed,
            on_waiting=metrics.payout_accounts_waiting,
            on_unanswered=metrics.payouts_unanswered,
        )
        self._seal_worker = SealWorker(
            LedgerSealer(PostgresSealedBooks(engine)),
            interval_seconds=settings.seal_interval_seconds,
            is_busy=lambda: (
                self._ingest_events.is_busy or self._pay.is_busy or self._payout_worker.is_paying
            ),
            on_failure=worker_failed,
            on_lag=lambda lag: metrics.seal_lag(lag.rows, lag.seconds),
            on_alarm=_log_seal_lag,
            # The rest of the pool serves calls.
            reads_at_once_max=min(READS_AT_ONCE_MAX, max(1, settings.database_pool_size // 2)),
        )
        self.call_log = None
        if settings.keeps_call_log:
            self.call_log = CallLog(
                PostgresCallLog(engine), on_failure=partial(_log_call_log_failure, worker_failed)
            )
        pages = Pages(PostgresPageTokenKeys(engine))
        ledger = PostgresEventLedger(
            partial(autocommit, engine), maturity_days=settings.maturity_days, fence=self._fence
        )
        payment_books = partial(
            PostgresPaymentBooks,
            maturity_days=settings.maturity_days,
            long_tails=self._balance_snapshot_worker,
        )
        begin_payments = partial(PostgresUnitOfWork, self._payment_connections, payment_books)
        payments = PostgresPayments(engine, self._fence)
        self._pay = Pay(
            DecidePayments(
                ledger,
                begin_payments,
                register=settings.unknown_restaurants is UnknownRestaurants.REGISTER,
            ),
            DecideOperations(begin_payments),
            on_group=partial(metrics.group, "payment"),
            bytes_max=queue_bytes_max,
            other_bytes=lambda: self._ingest_events.size_bytes,
            on_decided=metrics.payment_decided,
        )
        self._expiry_worker = ExpiryWorker(
            payments,
            # Not on the connections that groups and batches keep: there are no more than these use.
            DecideOperations(partial(PostgresUnitOfWork, engine, payment_books)),
            on_failure=worker_failed,
            on_expired=metrics.payments_expired,
        )
        self.payments = PaymentService(pay=self._pay, payments=payments, pages=pages)
        self.accounts = AccountService(
            accounts=PostgresAccountReader(engine, self._fence),
            get_account_balance=self._get_account_balance,
            statements=PostgresAccountStatements(
                long_reads.autocommit, self._statement_mark_worker
            ),
            pages=pages,
            begin=lambda: PostgresUnitOfWork(engine),
        )
        stored_payouts = PostgresPayouts(engine, self._fence)
        quarantine = PostgresQuarantine(engine, self._fence)
        self._quarantine_counter = None
        if not isinstance(metrics, NoWorkMetrics):
            self._quarantine_counter = QuarantineCounter(
                quarantine, on_counted=metrics.quarantined, on_failure=worker_failed
            )
        self.service = LedgerService(
            ingest_events=self._ingest_events,
            ledger=ledger,
            event_lists=PostgresEventLists(engine, self._fence),
            preview_event=PreviewEvent(
                ledger,
                stored_payouts,
                lambda: PostgresUnitOfWork(engine),
                unknown_restaurants=settings.unknown_restaurants,
                maturity_days=settings.maturity_days,
            ),
            balance_lists=PostgresBalanceLists(
                long_reads.autocommit,
                self._balance_snapshot_worker,
                settlement_timezone=settings.settlement_timezone,
            ),
            get_balance=self._get_balance,
            statements=PostgresStatements(long_reads.autocommit, self._statement_mark_worker),
            payout_runs=runs,
            payouts=stored_payouts,
            payout_entries=PostgresPayoutEntries(engine, self._fence),
            quarantine=quarantine,
            wake_payout_worker=self._payout_worker.wake,
            pages=pages,
            begin=lambda: PostgresUnitOfWork(engine),
            clock=self.clock.latest,
        )

    def start(self) -> None:
        """Starts the background work in the running event loop; `close` ends it."""
        self._hosts.start()
        self._payout_worker.start()
        self._balance_snapshot_worker.start()
        self._statement_mark_worker.start()
        if self._long_account_finder is not None:
            self._long_account_finder.start()
        self._snapshot_ladder_worker.start()
        self._seal_worker.start()
        self._expiry_worker.start()
        if self._quarantine_counter is not None:
            self._quarantine_counter.start()
        if self.call_log is not None:
            self.call_log.start()

    def request_stop(self) -> None:
        """Stops beginning work that another server can do. Calls still get their response."""
        self._payout_worker.request_stop()

    async def close(self) -> None:
        """Ends all work, and waits for the work under way. Then the engines may be disposed of."""
        if self._long_account_finder is not None:
            await self._long_account_finder.stop()
        if self._quarantine_counter is not None:
            await self._quarantine_counter.stop()
        await asyncio.gather(
            self._payout_worker.stop(),
            self._balance_snapshot_worker.stop(),
            self._statement_mark_worker.stop(),
            self._snapshot_ladder_worker.stop(),
            self._seal_worker.stop(),
            self._expiry_worker.stop(),
            self._ingest_events.close(),
            self._pay.close(),
        )
        if self.call_log is not None:
            await self.call_log.close()
        await self._group_connections.close()
        await self._ingest_connections.close()
        await asyncio.gather(self._get_balance.close(), self._get_account_balance.close())
        await self._payment_connections.close()
        await self._balance_connections.close()
        await self._fence.close()
        await self._hosts.stop()


def _log_call_log_failure(worker_failed: ReportFailure, what: str, error: BaseException, /) -> None:
    """Logs an error, or less if the database is away: then the calls wait, and none is lost."""
    if isinstance(error, DatabaseUnavailable):
        worker_failed(what, error)
    else:
        _log.error(what, error=type(error).__name__, cause=repr(error.__cause__ or error))


def _log_seal_lag(lag: SealLag) -> None:
    _log.warning("sealing is far behind", rows=lag.rows, seconds=round(lag.seconds))
