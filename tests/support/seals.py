"""Seals the books without a server, tampers with them, and checks the chain."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import make_url

from ledger.application.seal_ledger import LedgerSealer
from ledger.domain.seals import ChainReport
from ledger.infrastructure.postgres.schema.migrations import database_url
from ledger.infrastructure.postgres.seals import PostgresSealedBooks
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine
from ledger.infrastructure.postgres.verification.seal_audit import verify_chain
from support.events import unique
from support.running import execute_alone, query
from support.waiting import DEADLINE_SECONDS

# How many causes and entries are sealed, and how many there are. A cause is an event, a payment or
# an operation of one.
COUNTS = """
SELECT (SELECT COALESCE(sum(events_count), 0)::int FROM ledger_seals),
       (SELECT COALESCE(sum(entries_count), 0)::int FROM ledger_seals),
       (SELECT count(*)::int FROM processor_events) + (SELECT count(*)::int FROM payments)
         + (SELECT count(*)::int FROM payment_operations),
       (SELECT count(*)::int FROM ledger_entries)
"""


async def seal(url: str) -> None:
    """Seals every final row."""
    engine = create_engine(url, pool_size=1)
    try:
        sealer = LedgerSealer(PostgresSealedBooks(engine))
        while await sealer.seal_next():
            pass
    finally:
        await engine.dispose()


async def seal_everything(url: str, *, timeout_seconds: float = DEADLINE_SECONDS) -> None:
    """Seals everything that is booked.

    A transaction of another session may delay this for a moment.
    """
    async with asyncio.timeout(timeout_seconds):
        while True:
            await seal(url)
            ((causes_sealed, entries_sealed, causes, entries),) = await query(url, COUNTS)
            if (causes_sealed, entries_sealed) == (causes, entries):
                return
            await asyncio.sleep(0.02)


async def verify(url: str, expected_hash: bytes | None = None) -> ChainReport:
    engine = create_engine(url, pool_size=1)
    try:
        return await verify_chain(engine, expected_hash)
    finally:
        await engine.dispose()


def findings_of(report: ChainReport, check: str) -> list[str]:
    """The findings of a check, each in a line."""
    return [
        f"{finding.entity} {finding.detail}"
        for finding in report.audit.errors
        if finding.check == check
    ]


# The guards that a superuser removes first.
UNGUARD = """
ALTER TABLE balance_accounts DISABLE TRIGGER USER;
ALTER TABLE processor_events DISABLE TRIGGER processor_events_deny_change;
ALTER TABLE ledger_entries DISABLE TRIGGER ledger_entries_deny_change;
ALTER TABLE ledger_seals DISABLE TRIGGER ledger_seals_deny_change;
ALTER TABLE payments DISABLE TRIGGER USER;
ALTER TABLE payment_operations DISABLE TRIGGER USER;
"""


async def run_unguarded(url: str, sql: str) -> None:
    """Runs SQL as a superuser who has turned the triggers off."""
    engine = create_engine(url, pool_size=1, role="postgres")
    try:
        async with autocommit(engine) as connection:
            await connection.execute(UNGUARD + sql)
    finally:
        await engine.dispose()


@asynccontextmanager
async def copy_of(migration_url: str, server_url: str) -> AsyncIterator[str]:
    """A superuser's URL of a copy of a database, to tamper with."""
    name = f"ledger_tampered_{os.getpid()}_{unique('db')}"
    await execute_alone(
        server_url, f"CREATE DATABASE {name} TEMPLATE {make_url(migration_url).database}"
    )
    yield database_url(server_url, database=name)
    await execute_alone(server_url, f"DROP DATABASE {name} WITH (FORCE)")
