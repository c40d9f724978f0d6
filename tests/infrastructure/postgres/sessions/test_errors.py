"""PostgreSQL's errors as errors of the ledger, provoked on a real server where possible."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from support.running import query
from support.waiting import DEADLINE_SECONDS, until

from ledger.bootstrap.database import Database
from ledger.errors import (
    DatabaseContention,
    DatabaseTimeout,
    DatabaseUnavailable,
    DataRejected,
    LedgerError,
)
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine
from ledger.infrastructure.postgres.sessions.errors import database_errors, error_of


@pytest.fixture
async def engine(shared_database: Database) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(shared_database.url, pool_size=3)
    yield engine
    await engine.dispose()


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SET statement_timeout = '20ms'; SELECT pg_sleep(5)", DatabaseTimeout),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$", DatabaseContention),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$", DatabaseContention),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '55P03'; END $$", DatabaseContention),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53100'; END $$", DatabaseUnavailable),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '25006'; END $$", DatabaseUnavailable),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '57P03'; END $$", DatabaseUnavailable),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '58030'; END $$", DatabaseUnavailable),
        ("SELECT (9223372036854775807::numeric + 1)::bigint", DataRejected),
        ("INSERT INTO restaurants (restaurant_id) VALUES ('not an id')", DataRejected),
    ],
)
async def test_sqlstates_have_their_meaning(
    engine: AsyncEngine, statement: str, expected: type[LedgerError]
) -> None:
    """By SQLSTATE or its class. Afterwards the pool has a working connection."""
    with pytest.raises(expected) as raised:
        async with autocommit(engine) as connection:
            await connection.execute(statement)
    assert raised.value.__cause__ is not None
    async with autocommit(engine) as connection:
        await connection.execute("RESET statement_timeout")
        assert await connection.fetchval("SELECT 1") == 1


async def test_session_that_is_ended_under_a_statement_is_unavailable(
    engine: AsyncEngine, shared_database: Database
) -> None:
    """It may or may not have run. The next one gets a working connection."""
    pids: list[int] = []

    async def sleep() -> None:
        async with autocommit(engine) as connection:
            pids.append(await connection.fetchval("SELECT pg_backend_pid()"))
            await connection.execute("SELECT pg_sleep(60)")

    sleeping = asyncio.create_task(sleep())
    ended = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid = :pid AND query = 'SELECT pg_sleep(60)'"
    )

    async def is_ended() -> bool:
        return bool(await query(shared_database.migration_url, ended, pid=pids[0] if pids else 0))

    await until(is_ended, DEADLINE_SECONDS)
    with pytest.raises(DatabaseUnavailable):
        await sleeping
    async with autocommit(engine) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_constraints_that_no_data_can_meet_are_defects(
    engine: AsyncEngine, shared_database: Database
) -> None:
    """A NOT NULL column that this code does not know is not the event's fault.

    No caller gets DataRejected for it.
    """
    await query(
        shared_database.migration_url, "CREATE TABLE later (known text, unknown text NOT NULL)"
    )
    await query(shared_database.migration_url, "GRANT INSERT ON later TO ledger_app")
    with pytest.raises(asyncpg.NotNullViolationError):
        async with autocommit(engine) as connection:
            await connection.execute("INSERT INTO later (known) VALUES ('x')")


async def test_defects_are_not_given_a_meaning(engine: AsyncEngine) -> None:
    """The error of a wrong SQL statement is kept for the log."""
    with pytest.raises(asyncpg.UndefinedTableError):
        async with autocommit(engine) as connection:
            await connection.execute("SELECT FROM no_such_table")
    assert error_of(KeyError("x")) is None


async def test_value_that_fits_no_parameter_is_refused_data(engine: AsyncEngine) -> None:
    """A value that the driver cannot encode is the caller's data, not a lost connection."""
    with pytest.raises(DataRejected):
        async with autocommit(engine) as connection:
            await connection.fetch("SELECT $1::bigint", 2**63)


async def test_connections_closed_while_idle_are_replaced(
    engine: AsyncEngine, shared_database: Database
) -> None:
    """After the server closed every pooled connection, the next use gets a new one."""
    async with (
        autocommit(engine) as first,
        autocommit(engine) as second,
        autocommit(engine) as third,
    ):
        closing = (first, second, third)
        pids = [await connection.fetchval("SELECT pg_backend_pid()") for connection in closing]
    await query(
        shared_database.migration_url,
        "SELECT pg_terminate_backend(pid) FROM unnest(CAST(:pids AS integer[])) AS pid",
        pids=pids,
    )
    # Asks the driver, as PostgreSQL forgets a session before it closes the connection.
    await until(lambda: all(connection.is_closed() for connection in closing), DEADLINE_SECONDS)
    for _ in range(3):
        async with autocommit(engine) as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") not in pids


async def test_errors_wrapped_by_sqlalchemy_are_recognized(engine: AsyncEngine) -> None:
    """SQLAlchemy's errors have the same meanings."""
    with pytest.raises(DataRejected), database_errors():
        async with engine.connect() as connection:
            await connection.execute(
                text("INSERT INTO restaurants (restaurant_id) VALUES ('not an id')")
            )
