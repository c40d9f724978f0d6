"""Locks in the database, and the server's sessions that wait for them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from support.running import RunningLedger
from support.waiting import until


@asynccontextmanager
async def locked_tables(
    ledger: RunningLedger, tables: str
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Locks the tables in another session, so that every reader and writer of them waits.

    Yields a function that releases them.
    """
    engine = create_async_engine(ledger.database.migration_url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.execute(text(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"))
            yield connection.rollback
            await connection.rollback()
    finally:
        await engine.dispose()


def locked_events(
    ledger: RunningLedger,
) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
    """Locks the table of events, so that every booking waits; see `locked_tables`."""
    return locked_tables(ledger, "processor_events")


async def blocked_since(ledger: RunningLedger) -> list[datetime]:
    """When each session of the server that waits for a lock began its SQL statement."""
    rows = await ledger.query(
        "SELECT query_start FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return [query_start for (query_start,) in rows]


async def until_blocked(ledger: RunningLedger, sessions: int = 1) -> None:
    """Returns when that many of the server's sessions wait for a lock."""

    async def blocked() -> bool:
        return len(await blocked_since(ledger)) >= sessions

    await until(blocked, what="the booking waits for the lock")
