"""Events and entries are only ever added: for the application by privilege, for everybody else by trigger."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from support.audit import assert_books_in_order
from support.events import event_message
from support.running import query, running_ledger

from ledger.bootstrap import Database
from ledger.infrastructure.postgres.engine import autocommit

# Each names the table that it would change.
CHANGES = (
    ("processor_events", "UPDATE processor_events SET amount_minor = amount_minor + 1"),
    ("processor_events", "UPDATE processor_events SET reference = reference WHERE false"),
    ("processor_events", "DELETE FROM processor_events"),
    ("processor_events", "TRUNCATE processor_events"),
    ("processor_events", "MERGE INTO processor_events USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE"),
    (
        "processor_events",
        "INSERT INTO processor_events SELECT stored.* FROM processor_events AS stored"
        " ON CONFLICT (event_id) DO UPDATE SET amount_minor = 1",
    ),
    ("ledger_entries", "UPDATE ledger_entries SET amount_minor = amount_minor + 1"),
    ("ledger_entries", "UPDATE ledger_entries SET available_at = NULL WHERE false"),
    ("ledger_entries", "DELETE FROM ledger_entries"),
    ("ledger_entries", "TRUNCATE ledger_entries"),
    (
        "ledger_entries",
        "MERGE INTO ledger_entries USING (SELECT 1) AS one ON true WHEN MATCHED THEN UPDATE SET amount_minor = 1",
    ),
    (
        "ledger_entries",
        "INSERT INTO ledger_entries SELECT stored.* FROM ledger_entries AS stored"
        " ON CONFLICT ON CONSTRAINT ledger_entries_pkey DO UPDATE SET amount_minor = 1",
    ),
)

# What else the application might try: to turn the guards off, and to change what it may only read or add to.
NOT_FOR_THE_APPLICATION = (
    "ALTER TABLE processor_events DISABLE TRIGGER ALL",
    "ALTER TABLE ledger_entries DISABLE TRIGGER ledger_entries_deny_change",
    "DROP TRIGGER ledger_entries_deny_change ON ledger_entries",
    "CREATE OR REPLACE FUNCTION deny_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "SET session_replication_role = replica",
    "DROP TABLE ledger_entries",
    "CREATE TABLE of_its_own (id bigint)",
    "UPDATE restaurants SET restaurant_id = 'res_x'",
    "UPDATE restaurants SET created_at = now()",
    "DELETE FROM restaurants",
    "TRUNCATE restaurants CASCADE",
    "UPDATE balance_accounts SET balance_account_id = DEFAULT",
    "UPDATE balance_accounts SET restaurant_id = restaurant_id",
    "UPDATE balance_accounts SET currency = currency",
    "UPDATE balance_accounts SET created_at = now()",
    "DELETE FROM balance_accounts",
    "TRUNCATE balance_accounts CASCADE",
    "INSERT INTO balance_accounts (restaurant_id, currency) VALUES ('res_001', 'PEN')"
    " ON CONFLICT (restaurant_id, currency) DO UPDATE SET currency = 'USD'",
    "UPDATE alembic_version SET version_num = '0000'",
    "SET ROLE ledger_owner",
)

FOR_THE_APPLICATION = (
    "UPDATE restaurants SET name = 'Chifa', active = false, maturity_days = 3, metadata = '{}', updated_at = now()",
    "UPDATE balance_accounts SET lock_pad = false",
    "SELECT FROM balance_accounts ORDER BY balance_account_id FOR NO KEY UPDATE",
)

TABLES = ("restaurants", "balance_accounts", "processor_events", "ledger_entries", "alembic_version")


@pytest.fixture(scope="module")
async def books(new_database: Callable[[], Awaitable[Database]]) -> AsyncIterator[Database]:
    """Books with one event in them, which is all there is and still in order when the tests are over."""
    database = await new_database()
    async with running_ledger(database) as ledger:
        await ledger.ingest(event_message(amount_minor=1000, fee_minor=50))
    yield database
    counted = await query(
        database.migration_url,
        "SELECT (SELECT count(*) FROM processor_events), (SELECT sum(amount_minor) FROM ledger_entries)",
    )
    assert counted == [(1, 1050)]
    await assert_books_in_order(database)


@asynccontextmanager
async def session(database: Database, *, role: str | None = None, **parameters: str) -> AsyncIterator[Any]:
    """A superuser's session, or that of `role`, with these parameters of PostgreSQL; what it does is rolled back."""
    if role is not None:
        parameters["role"] = role
    engine = create_async_engine(
        database.migration_url, poolclass=NullPool, connect_args={"server_settings": parameters, "command_timeout": 10}
    )
    try:
        async with autocommit(engine) as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                yield connection
            finally:
                await transaction.rollback()
    finally:
        await engine.dispose()


def names(case: object) -> str:
    return str(case)[:60]


@pytest.mark.parametrize(("table", "change"), CHANGES, ids=names)
async def test_application_may_not_change_what_was_recorded(books: Database, table: str, change: str) -> None:
    """The application role has no such privilege."""
    async with session(books, role="ledger_app") as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=f"permission denied for table {table}"):
            await connection.execute(change)


@pytest.mark.parametrize(("table", "change"), CHANGES, ids=names)
async def test_owner_may_not_change_what_was_recorded(books: Database, table: str, change: str) -> None:
    """The owner of the tables has every privilege, and the trigger refuses all the same, even where no row is touched."""
    async with session(books, role="ledger_owner") as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=f"{table} is append-only"):
            await connection.execute(change)


@pytest.mark.parametrize("replication_role", ["origin", "replica"])
@pytest.mark.parametrize(("table", "change"), CHANGES, ids=names)
async def test_superuser_may_not_change_what_was_recorded(
    books: Database, table: str, change: str, replication_role: str
) -> None:
    """Nor may a superuser, in a session that turns ordinary triggers off either."""
    async with session(books, session_replication_role=replication_role) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=f"{table} is append-only"):
            await connection.execute(change)


@pytest.mark.parametrize("statement", NOT_FOR_THE_APPLICATION, ids=names)
async def test_application_may_do_no_more_than_it_needs(books: Database, statement: str) -> None:
    """It cannot turn the guards off, become the owner, or change anything but profiles and the lock column."""
    async with session(books, role="ledger_app") as connection:
        # A session's login decides what it may become, so here it has to be the application's.
        await connection.execute("SET SESSION AUTHORIZATION ledger_app")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


@pytest.mark.parametrize("statement", FOR_THE_APPLICATION, ids=names)
async def test_application_may_do_what_it_needs(books: Database, statement: str) -> None:
    """It changes profiles and locks balance accounts."""
    async with session(books, role="ledger_app") as connection:
        assert await connection.execute(statement) in ("UPDATE 1", "SELECT 1")


@pytest.mark.parametrize("table", TABLES)
async def test_reader_reads_and_does_nothing_else(books: Database, table: str) -> None:
    """ledger_read sees every table; it can neither add to it, nor change it, nor lock its rows."""
    async with session(books, role="ledger_read") as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") > 0
    column = await query(
        books.migration_url, "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attnum = 1", table=table
    )
    for statement in (
        f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT stored.* FROM {table} AS stored",
        f"UPDATE {table} SET {column[0][0]} = DEFAULT",
        f"DELETE FROM {table}",
        f"TRUNCATE {table} CASCADE",
        f"SELECT FROM {table} FOR KEY SHARE",
    ):
        async with session(books, role="ledger_read") as connection:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match=f"permission denied for table {table}"):
                await connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO processor_events (event_id, recorded_txid) VALUES ('evt', '5')",
        "INSERT INTO processor_events (event_id, recorded_at) VALUES ('evt', '2020-01-01')",
        "INSERT INTO ledger_entries (balance_account_id, recorded_txid) VALUES (1, '5')",
        "INSERT INTO ledger_entries (balance_account_id, recorded_at) VALUES (1, '2020-01-01')",
        "INSERT INTO balance_accounts (balance_account_id, restaurant_id) OVERRIDING SYSTEM VALUE VALUES (1, 'res')",
        "INSERT INTO restaurants (restaurant_id, created_at) VALUES ('res', '2020-01-01')",
    ],
)
async def test_application_cannot_say_when_or_as_what_a_row_was_recorded(shared_database: Database, statement: str) -> None:
    """Numbers and instants of recording are the database's to tell: past balances rest on them."""
    with pytest.raises(DBAPIError) as refused:
        await query(shared_database.url, statement)
    assert getattr(refused.value.orig, "sqlstate", None) == "42501"
