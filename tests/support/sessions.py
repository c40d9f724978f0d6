"""Database sessions in tests: holds locks, and waits until sessions block or end."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine
from support.running import query
from support.waiting import DEADLINE_SECONDS, POLL_SECONDS, until

# The sessions of servers that wait for a table or, next in line for its lock, for a row of it.
# The query reads pg_locks: pg_stat_activity keeps showing a wait until the session has woken up.
# A sealer waits for tables too, but in a lock mode that no other session uses.
WAITING = """
WITH lock AS MATERIALIZED (SELECT * FROM pg_locks)
SELECT a.pid
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.application_name = 'ledger'
  AND EXISTS (SELECT FROM lock AS l
              WHERE l.pid = a.pid AND NOT l.granted AND l.mode <> 'ShareUpdateExclusiveLock')
  AND EXISTS (SELECT FROM lock AS l
              WHERE l.pid = a.pid AND l.database = a.datid AND l.relation = CAST(:table AS regclass)
                AND (l.locktype = 'tuple' OR NOT l.granted))
"""


@asynccontextmanager
async def locked(database: Database, statement: str) -> AsyncIterator[AsyncConnection]:
    """Runs `statement` in a separate session and keeps its locks until the block ends."""
    engine = create_async_engine(database.migration_url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.execute(text(statement))
            yield connection
            await connection.rollback()
    finally:
        await engine.dispose()


async def settings_of(url: str, names: Iterable[str]) -> dict[str, str]:
    """The values of these settings in a new session of a server."""
    engine = create_engine(url, pool_size=1)
    try:
        async with autocommit(engine) as connection:
            return {
                name: await connection.fetchval("SELECT current_setting($1)", name)
                for name in names
            }
    finally:
        await engine.dispose()


async def waiting_sessions(database: Database, table: str) -> list[int]:
    """Waits until sessions of servers wait for a lock on the table, or on a row of it.

    Returns the process ids of the sessions.
    """
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            found = [pid for (pid,) in await query(database.migration_url, WAITING, table=table)]
            if found:
                return found
            await asyncio.sleep(POLL_SECONDS)


async def deadlocks_of(database: Database) -> int:
    """Waits until the sessions of the servers have ended; returns how many deadlocks there were.

    A session that is still open reports its deadlocks some seconds late.
    """
    servers = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'ledger'"
    )

    async def all_gone() -> bool:
        return await query(database.migration_url, servers) == []

    await until(all_gone, DEADLINE_SECONDS)
    ((deadlocks,),) = await query(
        database.migration_url,
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
    )
    return int(deadlocks)


async def sessions_gone(database: Database, pids: list[int]) -> None:
    """Waits until the sessions have ended, and with them their transactions and locks."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            if not await query(
                database.migration_url,
                "SELECT pid FROM pg_stat_activity WHERE pid = ANY (:pids)",
                pids=pids,
            ):
                return
            await asyncio.sleep(POLL_SECONDS)
