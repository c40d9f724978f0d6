"""Migrations of books in use: no session stands still behind them, and killed ones continue."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool
from support.catalog import CATALOG
from support.running import query
from support.waiting import DEADLINE_SECONDS, until

from ledger.errors import DatabaseUnavailable
from ledger.infrastructure.postgres.schema import migrations
from ledger.infrastructure.postgres.schema.failures import CannotMigrate
from ledger.infrastructure.postgres.schema.migrations import head_revision, migrate_async

# Longer than a migration may hold up other sessions.
PATIENCE = "5s"
WAITING = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = CAST(:table AS regclass)"
ADD_COLUMN = """
ALTER TABLE balance_snapshots
  ADD COLUMN stay_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
"""
IS_VALID = (
    "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('balance_snapshots_stay_key')"
)

# The new CHECKs of revision 0026 that old rows are known to pass.
VALIDATED = """
SELECT count(*) FROM pg_constraint WHERE contypid = 0 AND convalidated
  AND pg_get_constraintdef(oid) ~ '::posting_rule|event_type|starts_with'
"""

NEW_RESTAURANT = """
WITH registered AS (
  INSERT INTO restaurants (restaurant_id) VALUES ('{name}') RETURNING restaurant_id
)
INSERT INTO balance_accounts (restaurant_id, currency) SELECT restaurant_id, 'PEN' FROM registered
"""
RESTAURANTS = "SELECT restaurant_id FROM balance_accounts"


@asynccontextmanager
async def holding(url: str, statement: str) -> AsyncIterator[AsyncConnection]:
    """A transaction that has run a statement, and stays open until the block ends."""
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.execute(text(statement))
            yield connection
            await connection.rollback()
    finally:
        await engine.dispose()


async def waits_for(url: str, table: str) -> int:
    """The pid of a session that waits for a lock on the table, once there is one."""
    found: list[int] = []

    async def waiting() -> bool:
        found[:] = [row[0] for row in await query(url, WAITING, table=table)]
        return bool(found)

    await until(waiting, DEADLINE_SECONDS)
    return found[0]


async def test_no_reader_waits_behind_a_migration_that_waits(empty_url: str) -> None:
    """A long reader of snapshots holds up the migration, which holds up no other reader.

    It gives way, tries again, and ends once the long reader has ended.
    """
    await migrate_async(empty_url, "0009")
    async with holding(empty_url, "SELECT count(*) FROM balance_snapshots"):
        migrating = asyncio.create_task(migrate_async(empty_url))
        await waits_for(empty_url, "balance_snapshots")
        engine = create_async_engine(empty_url, poolclass=NullPool)
        for _ in range(3):
            async with engine.begin() as connection:
                await connection.execute(text(f"SET LOCAL lock_timeout = '{PATIENCE}'"))
                await connection.execute(text("SELECT count(*) FROM balance_snapshots"))
        await engine.dispose()
        assert not migrating.done()
    assert await asyncio.wait_for(migrating, DEADLINE_SECONDS) == ("0009", head_revision())


async def test_migration_that_gets_no_lock_says_what_to_do(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the sessions to end. The revisions that were reached stay."""
    monkeypatch.setattr(migrations, "LOCKS_WAIT_SECONDS", 1)
    await migrate_async(empty_url, "0009")
    async with holding(empty_url, "LOCK TABLE payout_runs IN ACCESS SHARE MODE"):
        with pytest.raises(CannotMigrate, match="end those whose transactions are long"):
            await migrate_async(empty_url)
    assert await migrate_async(empty_url) == ("0013", head_revision())


async def test_killed_migration_is_continued_by_the_next(empty_url: str) -> None:
    """Its session is ended while it builds an index concurrently, and between two steps.

    Finished steps stay, and the invalid index is built again. The schema is the one that an
    undisturbed migration makes.
    """
    await migrate_async(empty_url)
    at_once = await query(empty_url, CATALOG)
    await migrate_async(empty_url, "base")
    await migrate_async(empty_url, "0009")
    # The first step of the migration, which would wait for the writer below.
    await query(empty_url, ADD_COLUMN)
    writer = "LOCK TABLE balance_snapshots IN ROW EXCLUSIVE MODE"
    async with holding(empty_url, writer):
        migrating = asyncio.create_task(migrate_async(empty_url))
        pid = await waits_for_index(empty_url)
        await query(empty_url, f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(DatabaseUnavailable):
            await asyncio.wait_for(migrating, DEADLINE_SECONDS)
    assert await query(empty_url, IS_VALID) == [(False,)]
    async with holding(empty_url, "LOCK TABLE payout_runs IN ACCESS SHARE MODE"):
        migrating = asyncio.create_task(migrate_async(empty_url))
        pid = await waits_for(empty_url, "payout_runs")
        await query(empty_url, f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(DatabaseUnavailable):
            await asyncio.wait_for(migrating, DEADLINE_SECONDS)
    assert await migrate_async(empty_url) == ("0013", head_revision())
    assert await query(empty_url, CATALOG) == at_once


@pytest.mark.parametrize("table", ["balance_accounts", "ledger_entries", "processor_events"])
async def test_large_tables_are_read_when_no_lock_is_left_to_wait_for(
    empty_url: str, table: str
) -> None:
    """Each attempt that waits for a lock in vain begins again, and has read no table."""
    await migrate_async(empty_url, "0025")
    async with holding(empty_url, f"LOCK TABLE {table} IN ACCESS SHARE MODE"):
        migrating = asyncio.create_task(migrate_async(empty_url, "0026"))
        await waits_for(empty_url, table)
        assert await query(empty_url, VALIDATED) == [(0,)]
    assert await asyncio.wait_for(migrating, DEADLINE_SECONDS) == ("0025", "0026")
    assert await query(empty_url, VALIDATED) == [(6,)]


async def test_killed_change_of_checks_is_continued_by_the_next(empty_url: str) -> None:
    """Its session is ended between two steps. The schema is that of an undisturbed migration."""
    await migrate_async(empty_url, "0026")
    at_once = await query(empty_url, CATALOG)
    await migrate_async(empty_url, "0025")
    async with holding(empty_url, "LOCK TABLE processor_events IN ACCESS SHARE MODE"):
        migrating = asyncio.create_task(migrate_async(empty_url, "0026"))
        pid = await waits_for(empty_url, "processor_events")
        await query(empty_url, f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(DatabaseUnavailable):
            await asyncio.wait_for(migrating, DEADLINE_SECONDS)
    assert await migrate_async(empty_url, "0026") == ("0025", "0026")
    assert await query(empty_url, CATALOG) == at_once


async def test_key_of_accounts_is_built_while_writers_go_on(empty_url: str) -> None:
    """A writer of balance accounts holds up the migration, which holds up no other writer.

    A migration that is killed meanwhile is continued by the next. The schema is that of an
    undisturbed migration.
    """
    await migrate_async(empty_url, "0028")
    at_once = await query(empty_url, CATALOG)
    await migrate_async(empty_url, "0027")
    async with holding(empty_url, NEW_RESTAURANT.format(name="res_first")):
        migrating = asyncio.create_task(migrate_async(empty_url, "0028"))
        pid = await waits_for_index(empty_url)
        await query(empty_url, NEW_RESTAURANT.format(name="res_meanwhile"))
        assert await query(empty_url, RESTAURANTS) == [("res_meanwhile",)]
        await query(empty_url, f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(DatabaseUnavailable):
            await asyncio.wait_for(migrating, DEADLINE_SECONDS)
    assert await migrate_async(empty_url, "0028") == ("0027", "0028")
    assert await query(empty_url, CATALOG) == at_once


async def waits_for_index(url: str) -> int:
    """The pid of a session that builds an index and waits for writers, once there is one."""
    found: list[int] = []

    async def waiting() -> bool:
        rows = await query(
            url,
            "SELECT pid FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for writers%'",
        )
        found[:] = [row[0] for row in rows]
        return bool(found)

    await until(waiting, DEADLINE_SECONDS)
    return found[0]
