"""Puts the parts together: the only module that sees both the server and the database."""

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Self, TypeVar

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.api.connections import HEALTH_CONNECTIONS_MAX, room_for_connections
from ledger.api.crowding import CallLimits
from ledger.api.ledger_service import LedgerService
from ledger.api.memory_shares import MIB, MemoryShares, memory_limit_bytes, part_of_a_worker
from ledger.api.security import Security, describes_itself, keeps_audit_log
from ledger.api.server import Server
from ledger.application.audit_log import AuditLog
from ledger.application.get_balance import GROUPS_AT_ONCE_MAX, GetBalance
from ledger.application.ingest_events import IngestEvents, UnknownRestaurants
from ledger.application.ingest_queue import IngestLimits
from ledger.application.metrics import LedgerMetrics, UncountedWork
from ledger.application.ports import SealLag
from ledger.application.run_payouts import PayoutWorker
from ledger.application.seal_ledger import READS_AT_ONCE_MAX, LedgerSealer, SealWorker
from ledger.application.take_snapshots import SnapshotWorker
from ledger.database_url import shown_url
from ledger.domain.audit import AuditReport
from ledger.domain.seals import ChainReport
from ledger.errors import DatabaseUnavailable
from ledger.hangup import ends_at_hangup
from ledger.infrastructure.postgres.audit import audit
from ledger.infrastructure.postgres.audit_log import PostgresAuditLog
from ledger.infrastructure.postgres.balance_reader import PostgresBalanceReader
from ledger.infrastructure.postgres.clock import LedgerClock, host_now
from ledger.infrastructure.postgres.doctor import DURABLE, RESTRICTED, Condition, examine
from ledger.infrastructure.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError, default_data_dir, has_cluster
from ledger.infrastructure.postgres.engine import (
    APPLICATION_ROLE,
    GROUP_LOCK_TIMEOUT_SECONDS,
    OWNER_ROLE,
    BoundedConnections,
    KeptConnections,
    autocommit,
    connect,
    create_engine,
    keeps_session,
)
from ledger.infrastructure.postgres.errors import database_errors
from ledger.infrastructure.postgres.event_ledger import PostgresEventLedger
from ledger.infrastructure.postgres.fence import Fence
from ledger.infrastructure.postgres.hosts import Hosts
from ledger.infrastructure.postgres.migrations import create_database, migrate
from ledger.infrastructure.postgres.page_token_keys import PostgresPageTokenKeys
from ledger.infrastructure.postgres.payout_runs import PostgresPayoutRuns
from ledger.infrastructure.postgres.payouts import PostgresPayouts
from ledger.infrastructure.postgres.seal_audit import verify_chain
from ledger.infrastructure.postgres.seals import PostgresSealedBooks
from ledger.infrastructure.postgres.snapshots import PostgresBalanceSnapshots, find_stay
from ledger.infrastructure.postgres.start_checks import check_before_serving, check_schema, warn_of_numbers_ahead
from ledger.infrastructure.postgres.statement_marks import PostgresStatementMarks
from ledger.infrastructure.postgres.statements import PostgresStatements
from ledger.infrastructure.postgres.unit_of_work import PostgresUnitOfWork
from ledger.metrics import Metrics
from ledger.settings import Settings

DATABASE_NAME = "ledger"
# How many more objects than before make Python look for garbage; by default 700.
GARBAGE_THRESHOLD = 20_000
# The embedded server's: how many it has for others than the workers, such as `ledger verify`; and how many it has at least.
EMBEDDED_CONNECTIONS_SPARE = 50
EMBEDDED_CONNECTIONS_MIN = 200

T = TypeVar("T")

_log = structlog.get_logger("ledger")


@dataclass(frozen=True, slots=True)
class Database:
    """Where the books are: as the server opens them, and as migrations do.

    `embedded_in` names the data directory, if any; `attached` tells that another process runs the embedded server, and will
    stop it.
    """

    url: str
    migration_url: str
    embedded_in: str | None = None
    attached: bool = False

    @property
    def description(self) -> str:
        """For people: where the database is, without password."""
        if self.embedded_in is not None:
            return f"embedded PostgreSQL in {self.embedded_in}"
        return shown_url(self.url)


@contextmanager
def open_database(settings: Settings, *, newest_schema: bool = True) -> Iterator[Database]:
    """The configured database, or an embedded one, started if it is not running, and stopped at the end if so.

    The embedded one is brought to the newest schema unless the caller does not want it; nobody else administers it. From the
    main thread and outside an event loop. Raises EmbeddedPostgresError, DatabaseUnavailable, CannotMigrate.
    """
    if settings.database_url:
        yield Database(settings.database_url, settings.url_for_migrations)
        return
    data_dir = settings.data_dir or default_data_dir()
    with EmbeddedPostgres.start(data_dir, parameters={"max_connections": str(embedded_connections(settings))}) as postgres:
        owner_url = postgres.url(user=postgres.superuser, database=DATABASE_NAME)
        asyncio.run(create_database(postgres.url(user=postgres.superuser, database="postgres"), DATABASE_NAME))
        if newest_schema:
            migrate(owner_url)
        application_url = postgres.url(user=APPLICATION_ROLE, database=DATABASE_NAME)
        yield Database(application_url, owner_url, str(data_dir), postgres.attached)


@dataclass(frozen=True, slots=True)
class Engines:
    """The connections of a server, in pools of their own, so that no kind of call can take them from another, and all of them on
    the host that takes writes.

    `groups` books single calls, `ingest` batches. `ping` is apart so that a server whose connections are all busy is not taken
    for one without a database.
    """

    groups: AsyncEngine
    ingest: AsyncEngine
    balances: AsyncEngine
    long_reads: AsyncEngine
    other: AsyncEngine
    ping: AsyncEngine
    hosts: Hosts

    @classmethod
    def of(cls, url: str, settings: Settings) -> Self:
        """The engines of a database; they connect at their first use."""
        hosts = Hosts(url, target="read-write")
        return cls(
            groups=create_engine(hosts, pool_size=settings.ingest_concurrency, lock_timeout_seconds=GROUP_LOCK_TIMEOUT_SECONDS),
            ingest=create_engine(hosts, pool_size=settings.ingest_pool_size),
            balances=create_engine(hosts, pool_size=GROUPS_AT_ONCE_MAX),
            long_reads=create_engine(hosts, pool_size=settings.long_read_pool_size),
            other=create_engine(hosts, pool_size=settings.database_pool_size),
            ping=create_engine(hosts, pool_size=1),
            hosts=hosts,
        )

    async def dispose(self) -> None:
        """Closes all connections."""
        for engine in (self.groups, self.ingest, self.balances, self.long_reads, self.other, self.ping):
            await engine.dispose()


def embedded_connections(settings: Settings) -> int:
    """How many connections the embedded server takes: those of each worker, and some for others."""
    return max(EMBEDDED_CONNECTIONS_MIN, settings.workers * connections_of_a_server(settings) + EMBEDDED_CONNECTIONS_SPARE)


def connections_of_a_server(settings: Settings) -> int:
    """How many connections a server process opens to a host, at the most; two of them to see whether it is well."""
    of_events = settings.ingest_concurrency + settings.ingest_pool_size
    of_reads = GROUPS_AT_ONCE_MAX + settings.long_read_pool_size + settings.database_pool_size
    return of_events + of_reads + 2


class Application:
    """The service on a database, and what works in the background for it."""

    def __init__(
        self,
        settings: Settings,
        engines: Engines,
        metrics: LedgerMetrics | None = None,
        *,
        host_clock: Callable[[], datetime] = host_now,
    ) -> None:
        metrics = metrics or UncountedWork()
        self.clock = LedgerClock(host_clock=host_clock, on_measured=metrics.clocks, on_jump=metrics.database_clock_jumped)
        engine = engines.other
        self._hosts = engines.hosts
        worker_failed = engines.hosts.outages.worker_failed
        self._group_connections = KeptConnections(engines.groups)
        self._ingest_connections = KeptConnections(engines.ingest)
        self._balance_connections = KeptConnections(engines.balances)
        self._snapshot_worker = SnapshotWorker(
            PostgresBalanceSnapshots(engine),
            tail_entries=settings.snapshot_tail_entries,
            on_failure=worker_failed,
            on_taken=metrics.snapshots_made,
        )
        self._mark_worker = SnapshotWorker(
            PostgresStatementMarks(engine), tail_entries=settings.snapshot_tail_entries, on_failure=worker_failed
        )
        long_reads = BoundedConnections(engines.long_reads, uses_max=settings.long_reads)
        self._fence = Fence(engine, on_failure=partial(worker_failed, "gathering those who wait for a standby broke"))
        runs = PostgresPayoutRuns(
            engine,
            self._snapshot_worker,
            settlement_timezone=settings.settlement_timezone,
            open_runs_max=settings.payout_runs_open,
            fence=self._fence,
            metrics=metrics,
        )
        self._ingest_events = IngestEvents(
            PostgresEventLedger(self._ingest_connections.autocommit, maturity_days=settings.maturity_days),
            lambda: PostgresUnitOfWork(engines.ingest),
            group_ledger=PostgresEventLedger(self._group_connections.autocommit, maturity_days=settings.maturity_days),
            unknown_restaurants=UnknownRestaurants(settings.unknown_restaurants.value),
            limits=IngestLimits(
                queue_calls_max=settings.ingest_queue_calls,
                queue_events_max=settings.ingest_queue_events,
                queue_bytes_max=settings.ingest_queue_megabytes * 1024 * 1024,
                group_events_max=settings.ingest_group_events,
                batches_at_once_max=settings.ingest_concurrency,
            ),
            on_group=partial(metrics.group, "ingest"),
            on_repeated=metrics.facts_repeated,
            on_queue=metrics.queue,
        )
        self._get_balance = GetBalance(
            PostgresBalanceReader(self._balance_connections.autocommit, self._snapshot_worker),
            PostgresBalanceReader(long_reads.autocommit, self._snapshot_worker),
            on_failure=partial(worker_failed, "gathering balance reads into groups broke"),
            on_group=partial(metrics.group, "balance"),
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
            is_busy=lambda: self._ingest_events.queue.events > 0 or self._payout_worker.is_paying,
            on_failure=worker_failed,
            on_lag=lambda lag: metrics.seal_lag(lag.rows, lag.seconds),
            on_alarm=_log_seal_lag,
            # The rest of the pool is for what callers wait for.
            reads_at_once_max=min(READS_AT_ONCE_MAX, max(1, settings.database_pool_size // 2)),
        )
        self.audit_log = None
        if keeps_audit_log(settings):
            self.audit_log = AuditLog(PostgresAuditLog(engine), on_failure=partial(_log_audit_failure, worker_failed))
        self.service = LedgerService(
            ingest_events=self._ingest_events,
            ledger=PostgresEventLedger(partial(autocommit, engine), maturity_days=settings.maturity_days, fence=self._fence),
            get_balance=self._get_balance,
            statements=PostgresStatements(long_reads.autocommit, self._mark_worker),
            payout_runs=runs,
            payouts=PostgresPayouts(engine, self._fence),
            wake_payout_worker=self._payout_worker.wake,
            page_token_keys=PostgresPageTokenKeys(engine),
            begin=lambda: PostgresUnitOfWork(engine),
            clock=self.clock.latest,
        )

    def start(self) -> None:
        """Begins to work in the background."""
        self._hosts.start()
        self._payout_worker.start()
        self._snapshot_worker.start()
        self._mark_worker.start()
        self._seal_worker.start()
        if self.audit_log is not None:
            self.audit_log.start()

    def wind_up(self) -> None:
        """Begins nothing that others can do as well, while calls are still answered."""
        self._payout_worker.wind_up()

    async def close(self) -> None:
        """Ends what is under way; afterwards the engines may be disposed of."""
        await asyncio.gather(
            self._payout_worker.stop(),
            self._snapshot_worker.stop(),
            self._mark_worker.stop(),
            self._seal_worker.stop(),
            self._ingest_events.close(),
        )
        if self.audit_log is not None:
            await self.audit_log.close()
        await self._group_connections.close()
        await self._ingest_connections.close()
        await self._get_balance.close()
        await self._balance_connections.close()
        await self._fence.close()
        await self._hosts.stop()


def _log_audit_failure(wait: Callable[[str, BaseException], None], what: str, error: BaseException | None) -> None:
    if isinstance(error, DatabaseUnavailable):
        wait(what, error)
    else:
        _log.error(what, error=type(error).__name__, cause=repr(error and (error.__cause__ or error)))


def _log_seal_lag(lag: SealLag) -> None:
    _log.warning("sealing is far behind", rows=lag.rows, seconds=round(lag.seconds))


def new_event_loop() -> asyncio.AbstractEventLoop:
    """For a server: uvloop's where it is installed, which takes less time a call."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def check_security(settings: Settings) -> None:
    """Raises SecurityMisconfigured when a server could not be guarded as the settings say; before it starts a database."""
    Security(settings)


async def check_database(settings: Settings, database: Database) -> None:
    """Raises UnfitDatabase or DatabaseUnavailable when no server may or can run on `database`."""
    engine = create_engine(database.url, pool_size=2)
    try:
        await check_before_serving(
            engine,
            require_durable=settings.require_durable_database,
            require_restricted_role=settings.require_restricted_role,
        )
        await find_stay(engine)
    finally:
        await engine.dispose()


async def run_server(
    settings: Settings,
    database: Database,
    *,
    on_ready: Callable[[str, str], None],
    metrics: Metrics,
    share_port: bool = False,
) -> None:
    """Serves until SIGTERM or SIGINT, or until its terminal is closed, then drains.

    Calls `on_ready` with the address, and the one for health checks alone, once calls are answered.
    `share_port` lets other processes serve at the same address, each some of the connections. Raises AddressUnavailable,
    UnfitDatabase, SecurityMisconfigured, DatabaseUnavailable.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    security = Security(settings)
    loop.add_signal_handler(signal.SIGHUP, stop.set if ends_at_hangup() else partial(_reload, security))
    engines = Engines.of(database.url, settings)
    try:
        await check_database(settings, database)
        application = Application(settings, engines, metrics.work)
        # A standby takes no session of ours yet: its clock is read with the first sign of life.
        with suppress(DatabaseUnavailable):
            await application.clock.measure(engines.ping)
        shares = _memory_shares(settings)
        server = Server(
            application.service,
            address=settings.grpc_address,
            health_address=settings.health_address,
            reflect=describes_itself(settings),
            ping=partial(_look, application.clock, engines.ping),
            share_port=share_port,
            connection_age_seconds=settings.max_connection_age_seconds,
            connections_max=min(shares.connections, room_for_connections(_descriptors_for_others(settings))),
            limits=CallLimits(settings.open_calls, settings.open_streams, shares.large_places),
            metrics=metrics.calls,
            security=security,
            audit_log=application.audit_log,
        )
        security.start()
        await server.start()
        application.start()
        # Beside the calls, as it takes longer the more accounts there are.
        numbers_compared = asyncio.create_task(warn_of_numbers_ahead(engines.other))
        _spare_the_collector()
        on_ready(
            listening_address(settings.grpc_address, server.port),
            listening_address(settings.health_address, server.health_port),
        )
        await stop.wait()
        _log.info("stopping")
        application.wind_up()
        await server.stop(settings.shutdown_grace_seconds)
        numbers_compared.cancel()
        await application.close()
    finally:
        security.stop()
        await engines.dispose()
    _log.info("stopped")


def _descriptors_for_others(settings: Settings) -> int:
    """What a server keeps for others than its clients: the database, and health checks at their own address."""
    return connections_of_a_server(settings) + (HEALTH_CONNECTIONS_MAX if settings.health_address else 0)


def _memory_shares(settings: Settings) -> MemoryShares:
    memory_bytes = settings.memory_megabytes * MIB or memory_limit_bytes()
    own_bytes = None if memory_bytes is None else part_of_a_worker(memory_bytes, settings.workers)
    shares = MemoryShares.of(
        own_bytes,
        queue_bytes=settings.ingest_queue_megabytes * MIB,
        bookings=2 * settings.ingest_concurrency,
        streams=settings.open_streams,
    )
    if own_bytes is not None and shares.sum_bytes > own_bytes:
        _log.warning(
            "requests may take more memory than there is",
            memory_megabytes=own_bytes // MIB,
            needed_megabytes=shares.sum_bytes // MIB,
        )
    return shares


def _reload(security: Security) -> None:
    if security.has_files:
        security.reload()
    else:
        _log.info("SIGHUP: there are no certificates or tokens to read again")


def _spare_the_collector() -> None:
    """Keeps Python from looking through all that is loaded for garbage, again and again: it stays. Nor need calls be looked
    through as often as by default, since hardly any of them leaves a cycle behind."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 50)


def examine_database(settings: Settings) -> tuple[Condition, ...]:
    """Asks the configured database, or the embedded one, whether it is fit for a server, and writes nothing.

    From the main thread and outside an event loop. Raises EmbeddedPostgresError, DatabaseUnavailable.
    """
    not_required = set()
    if not settings.require_durable_database:
        not_required.add(DURABLE)
    if not settings.require_restricted_role:
        not_required.add(RESTRICTED)

    async def work_on(database: Database) -> tuple[Condition, ...]:
        engine = create_engine(database.url, pool_size=2)
        try:
            return await examine(engine, not_required=frozenset(not_required))
        finally:
            await engine.dispose()

    _refuse_to_make_books(settings)
    with open_database(settings, newest_schema=False) as database:
        return asyncio.run(work_on(database))


def audit_books(settings: Settings) -> AuditReport:
    """Audits the books of the configured database, or of the embedded one, and writes nothing into them.

    From the main thread and outside an event loop. Raises SchemaMismatch, EmbeddedPostgresError, DatabaseUnavailable,
    DatabaseTimeout.
    """
    return on_books(settings, partial(audit, payout_answer_days=settings.payout_answer_days))


def verify_seals(settings: Settings, expected_hash: bytes | None) -> ChainReport:
    """Recomputes the chain of seals of the books, likewise."""
    return on_books(settings, lambda engine: verify_chain(engine, expected_hash))


def on_books(settings: Settings, work: Callable[[AsyncEngine], Awaitable[T]], *, as_owner: bool = False) -> T:
    """What `work` returns on the books of the configured database, or of the embedded one, which must exist already.

    The one way for a command to read books, and with `as_owner` to remove from them: `work` then has two
    connections, of the role that owns the tables, on the host that takes writes. From the main thread and
    outside an event loop. Raises SchemaMismatch, EmbeddedPostgresError, DatabaseUnavailable, and what `work`
    raises.
    """

    async def work_on(database: Database) -> T:
        engine = create_engine(database.url, pool_size=1)
        if as_owner:
            engine = create_engine(Hosts(database.migration_url, target="read-write"), pool_size=2, role=OWNER_ROLE)
        try:
            await check_schema(engine)
            return await work(engine)
        finally:
            await engine.dispose()

    _refuse_to_make_books(settings)
    with open_database(settings) as database:
        return asyncio.run(work_on(database))


async def _look(clock: LedgerClock, engine: AsyncEngine) -> None:
    await ping(engine)
    await clock.measure(engine)


def _refuse_to_make_books(settings: Settings) -> None:
    """Raises EmbeddedPostgresError if opening the embedded database would make a new one."""
    data_dir = settings.data_dir or default_data_dir()
    if not settings.database_url and not has_cluster(data_dir):
        raise EmbeddedPostgresError(f"there are no books in {data_dir}: LEDGER_DATA_DIR says where they are")


async def ping(engine: AsyncEngine) -> None:
    """Asks the database for a sign of life. Raises DatabaseUnavailable when there is none a server could work with."""
    with database_errors():
        async with aclosing(await connect(engine)) as connection:
            if not await keeps_session(connection):
                raise DatabaseUnavailable("a connection pooler before the database does not keep sessions")
            if await connection.scalar(text("SELECT current_setting('transaction_read_only')")) == "on":
                raise DatabaseUnavailable("the database takes no writes: a standby, or made read-only")


def listening_address(address: str, port: int) -> str:
    """`address` with the port that was bound, which differs when port 0 was asked for; empty if it is."""
    if not address or address.startswith("unix:"):
        return address
    return f"{address.rpartition(':')[0]}:{port}"
