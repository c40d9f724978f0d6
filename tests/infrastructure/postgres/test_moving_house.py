"""Moves of the books as docs/operations/backup.md shows them; `make moves` plays them in full."""

import re
from pathlib import Path

import pytest
from support.books import engine_on
from support.running import execute_alone, query

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.schema.newest_schema import tables
from ledger.infrastructure.postgres.snapshots import begin_stay_if_moved
from ledger.infrastructure.postgres.verification.start_checks import (
    UnfitDatabase,
    check_subscriptions,
)

OPERATIONS = Path(__file__).resolve().parents[3] / "docs" / "operations" / "backup.md"
# Tables that the migration fills, or that have no use in another cluster.
LEFT_BEHIND = {"alembic_version", "balance_snapshots", "statement_marks"}


def test_publication_names_every_table_that_moves() -> None:
    """A new table must be added there."""
    (named,) = re.findall(r"CREATE PUBLICATION moving FOR TABLE ([^\"]*)\"", OPERATIONS.read_text())
    assert set(re.split(r",\s+", named)) == set(tables()) - LEFT_BEHIND


async def test_subscription_prevents_starts_and_stays(database: Database) -> None:
    """While it brings rows, no server starts, and a running server begins no stay."""
    await execute_alone(
        database.migration_url, "CREATE PUBLICATION moving FOR TABLE restaurants, ledger_entries"
    )
    await execute_alone(
        database.migration_url,
        "CREATE SUBSCRIPTION moving CONNECTION 'dbname=none' PUBLICATION moving"
        " WITH (connect = false, slot_name = NONE, enabled = false)",
    )
    # Without a connection, PostgreSQL does not look up the tables of the publication.
    await query(
        database.migration_url,
        "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)"
        " SELECT oid, 'ledger_entries'::regclass, 'i' FROM pg_subscription WHERE subname = "
        "'moving'",
    )
    async with engine_on(database.url) as engine:
        with pytest.raises(
            UnfitDatabase, match="the subscription moving brings rows into the books"
        ):
            await check_subscriptions(engine)
        await begin_stay_if_moved(engine)
        assert await query(database.migration_url, "SELECT count(*) FROM ledger_stays") == [(0,)]
        await execute_alone(database.migration_url, "DROP SUBSCRIPTION moving")
        await check_subscriptions(engine)
        await begin_stay_if_moved(engine)
        assert await query(database.migration_url, "SELECT count(*) FROM ledger_stays") == [(1,)]
