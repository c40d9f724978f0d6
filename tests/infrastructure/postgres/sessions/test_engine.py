"""Kept connections: which are used again, which are replaced, and that the pool loses none."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from support.books import SMALL_POOL
from support.running import query
from support.waiting import DEADLINE_SECONDS, until

from ledger.bootstrap.database import Database
from ledger.errors import DatabaseUnavailable, DataRejected
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import (
    KeptConnections,
    autocommit,
)


@pytest.fixture
async def connections(engine: AsyncEngine) -> AsyncIterator[KeptConnections]:
    connections = KeptConnections(engine)
    yield connections
    await connections.close()


async def session(connections: KeptConnections) -> tuple[int, Connection]:
    """Uses a connection once. Returns the process id of its session, and the connection."""
    async with asyncio.timeout(DEADLINE_SECONDS), connections.autocommit() as connection:
        return await connection.fetchval("SELECT pg_backend_pid()"), connection


async def test_connection_stays_for_the_next_use(connections: KeptConnections) -> None:
    """The same session, use after use. There are never more sessions than uses at once."""
    first, _ = await session(connections)
    assert {(await session(connections))[0] for _ in range(5)} == {first}
    async with connections.autocommit() as connection:
        both = {
            await connection.fetchval("SELECT pg_backend_pid()"),
            (await session(connections))[0],
        }
    assert len(both) == 2
    assert {(await session(connections))[0] for _ in range(5)} <= both


async def test_session_that_was_ended_while_idle_is_replaced(
    connections: KeptConnections, shared_database: Database
) -> None:
    """No error: the next use has another session."""
    for _ in range(2 * SMALL_POOL):
        ended, connection = await session(connections)
        await query(shared_database.migration_url, "SELECT pg_terminate_backend(:pid)", pid=ended)
        await until(connection.is_closed)
        assert (await session(connections))[0] != ended


async def test_session_that_was_ended_under_its_use_is_replaced(
    connections: KeptConnections, shared_database: Database
) -> None:
    """That use gets DatabaseUnavailable, the next one another session."""
    for _ in range(2 * SMALL_POOL):
        with pytest.raises(DatabaseUnavailable):
            async with connections.autocommit() as connection:
                ended = await connection.fetchval("SELECT pg_backend_pid()")
                await query(
                    shared_database.migration_url, "SELECT pg_terminate_backend(:pid)", pid=ended
                )
                await connection.fetchval("SELECT pg_sleep(60)")
        assert (await session(connections))[0] != ended


async def test_cancelled_use_is_not_kept(connections: KeptConnections) -> None:
    """Its statement may still run in that session; the pool has room for another one."""
    for _ in range(2 * SMALL_POOL):
        before, _ = await session(connections)
        begun = asyncio.Event()

        async def use(begun: asyncio.Event = begun) -> None:
            async with connections.autocommit() as connection:
                begun.set()
                await connection.fetchval("SELECT pg_sleep(60)")

        task = asyncio.create_task(use())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await session(connections))[0] != before


async def test_refused_statement_does_not_cost_the_connection(connections: KeptConnections) -> None:
    """The session is used again."""
    before, _ = await session(connections)
    for error, statement in (
        (DataRejected, "SELECT 'x'::integer"),
        (asyncpg.UndefinedTableError, "SELECT FROM nothing"),
    ):
        with pytest.raises(error):
            async with connections.autocommit() as connection:
                await connection.execute(statement)
    with pytest.raises(ZeroDivisionError):
        async with connections.autocommit():
            raise ZeroDivisionError
    assert (await session(connections))[0] == before


async def test_close_returns_all_connections_to_the_pool(engine: AsyncEngine) -> None:
    """The pool can hand them out again."""
    connections = KeptConnections(engine)
    async with connections.autocommit(), connections.autocommit():
        assert engine.pool.status().endswith(f"Current Checked out connections: {SMALL_POOL}")
    await connections.close()
    assert engine.pool.status().endswith("Current Checked out connections: 0")
    await session(connections)
    await connections.close()


async def test_use_cancelled_while_a_transaction_begins_leaves_none_open(
    engine: AsyncEngine,
) -> None:
    """The database may have begun it although the driver never got the response.

    The next use must not run inside it: its writes would be lost and its reads old.
    """
    for _ in range(5 * SMALL_POOL):
        begun = asyncio.Event()

        async def use(begun: asyncio.Event = begun) -> None:
            async with autocommit(engine) as connection:
                begun.set()
                async with connection.transaction(isolation="repeatable_read"):
                    await connection.fetchval("SELECT 1")

        task = asyncio.create_task(use())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(DEADLINE_SECONDS), autocommit(engine) as connection:
            assert not connection.is_in_transaction()
            assert (
                await connection.fetchval("SELECT current_setting('transaction_isolation')")
                == "read committed"
            )
