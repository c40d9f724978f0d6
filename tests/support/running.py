"""Real databases and servers for tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from grpc import aio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ledger.api.access.security import Security
from ledger.api.server import Server
from ledger.bootstrap.database import Database, Engines
from ledger.bootstrap.server import assemble
from ledger.infrastructure.postgres.sessions.clock import host_now
from ledger.metrics import Metrics
from ledger.settings import Settings
from ledger.v1 import account_pb2_grpc, ledger_pb2, ledger_pb2_grpc, payment_pb2_grpc

# How many rows the tables have that calls write.
COUNT_EVERYTHING = """
SELECT (SELECT count(*) FROM processor_events), (SELECT count(*) FROM ledger_entries),
       (SELECT count(*) FROM restaurants), (SELECT count(*) FROM balance_accounts),
       (SELECT count(*) FROM payout_runs), (SELECT count(*) FROM payout_run_items),
       (SELECT count(*) FROM payouts), (SELECT count(*) FROM payout_items),
       (SELECT count(*) FROM accounts), (SELECT count(*) FROM payments),
       (SELECT count(*) FROM payment_operations), (SELECT count(*) FROM quarantined_payloads),
       (SELECT count(*) FROM quarantine_moves)
"""


@dataclass(frozen=True, slots=True)
class RunningLedger:
    """A server in this process on a database, with a client of each service."""

    address: str
    channel: aio.Channel
    # Classes that only type checkers see.
    stub: "ledger_pb2_grpc.LedgerServiceAsyncStub"
    accounts: "account_pb2_grpc.AccountServiceAsyncStub"
    payments: "payment_pb2_grpc.PaymentServiceAsyncStub"
    database: Database
    engine: AsyncEngine
    server: Server
    security: Security
    superuser: AsyncEngine
    has_ended: asyncio.Event

    async def ingest(self, *events: ledger_pb2.ProcessorEvent) -> list[ledger_pb2.IngestResult]:
        """Sends events as one batch. Returns the results in the order of the events."""
        response = await self.stub.BatchIngestEvents(
            ledger_pb2.BatchIngestEventsRequest(events=events)
        )
        return list(response.results)

    async def balance(
        self, restaurant_id: str, currency: str = "PEN"
    ) -> ledger_pb2.GetBalanceResponse:
        """The balance of now."""
        return await self.stub.GetBalance(
            ledger_pb2.GetBalanceRequest(restaurant_id=restaurant_id, currency=currency)
        )

    async def query(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of an SQL statement run as superuser, also after the server has ended."""
        if self.has_ended.is_set():
            return await query(self.database.migration_url, statement, **parameters)
        return await _rows(self.superuser, statement, **parameters)


@asynccontextmanager
async def running_ledger(
    database: Database,
    *,
    address: str = "127.0.0.1:0",
    metrics: Metrics | None = None,
    host_clock: Callable[[], datetime] = host_now,
    **settings: Any,
) -> AsyncIterator[RunningLedger]:
    """Runs a server on `database`, assembled as by `ledger serve`; stops it at the end.

    It listens at a free port unless an address is given.
    """
    configured = Settings(
        _env_file=None, database_url=database.url, grpc_address=address, **settings
    )
    engines = Engines.of(database.url, configured)
    security = Security(configured)
    assembled = await assemble(
        configured,
        engines,
        security=security,
        metrics=metrics or Metrics(),
        host_clock=host_clock,
    )
    server = assembled.server
    # Keeps its session: a new one takes PostgreSQL some 10 ms of a core. Keeps no prepared
    # statement, as tests change tables.
    superuser = create_async_engine(
        database.migration_url,
        pool_size=1,
        max_overflow=-1,
        pool_pre_ping=True,
        connect_args={"prepared_statement_cache_size": 0},
    )
    has_ended = asyncio.Event()
    # Not `security.reloader.start()`: a test decides when changed files are read again.
    await assembled.start()
    address = f"127.0.0.1:{server.port}"
    try:
        async with aio.insecure_channel(address) as channel:
            yield RunningLedger(
                address,
                channel,
                ledger_pb2_grpc.LedgerServiceStub(channel),
                account_pb2_grpc.AccountServiceStub(channel),
                payment_pb2_grpc.PaymentServiceStub(channel),
                database,
                engines.other,
                server,
                security,
                superuser,
                has_ended,
            )
    finally:
        # No grace: a call that is still open belongs to a test that has ended.
        await assembled.stop(0)
        await engines.dispose()
        has_ended.set()
        await superuser.dispose()


def role_settings(database: Database) -> dict[str, str]:
    """Settings of a server process.

    On the PostgreSQL of LEDGER_TEST_DATABASE_URL the tests, and so their servers, are superuser.
    """
    return {"LEDGER_REQUIRE_RESTRICTED_ROLE": str(database.url != database.migration_url).lower()}


async def query(url: str, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of one SQL statement, run in a separate transaction, which is committed."""
    return await _rows(_engine(url), statement, **parameters)


async def _rows(engine: AsyncEngine, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    async with engine.begin() as connection:
        result = await connection.execute(text(statement), parameters)
        return [tuple(row) for row in result] if result.returns_rows else []


async def execute_alone(url: str, statement: str) -> None:
    """Runs an SQL statement that PostgreSQL refuses inside a transaction block."""
    async with _engine(url).execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text(statement))


@cache
def _engine(url: str) -> AsyncEngine:
    """Keeps no session. The engine itself is kept: its first session costs some queries."""
    return create_async_engine(url, poolclass=NullPool)
