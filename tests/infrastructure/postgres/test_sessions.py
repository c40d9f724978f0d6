"""The settings that a session makes itself, whatever the database and the roles are set to."""

import pytest
from sqlalchemy.engine import make_url
from support.events import event_message
from support.running import query, running_ledger
from support.sessions import settings_of

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.schema.migrations import migrate_async
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine

# Settings that a role may change for its later sessions, and that safety or time depend on.
LOOSE = {
    "synchronous_commit": "'off'",
    "search_path": "hidden, public",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_deferrable": "'on'",
    "statement_timeout": "'0'",
    "lock_timeout": "'0'",
    "idle_in_transaction_session_timeout": "'0'",
    "idle_session_timeout": "'1min'",
    "client_min_messages": "'error'",
    "plan_cache_mode": "'force_custom_plan'",
    "enable_seqscan": "'on'",
    "jit": "'on'",
    "max_parallel_workers_per_gather": "'4'",
    "timezone": "'America/Lima'",
    "ledger.now": "'clock'",
}


@pytest.mark.parametrize("whose", ["ROLE ledger_app IN DATABASE {name}", "DATABASE {name}"])
async def test_role_and_database_settings_change_no_session(database: Database, whose: str) -> None:
    """A role may change its defaults.

    No acknowledgement, table or timeout of a server depends on them.
    """
    before = await settings_of(database.url, LOOSE)
    name = make_url(database.url).database
    for setting, value in LOOSE.items():
        await query(
            database.migration_url, f"ALTER {whose.format(name=name)} SET {setting} = {value}"
        )
    assert await settings_of(database.url, LOOSE) == before
    assert before["synchronous_commit"] == "on"
    assert before["search_path"] == "public, pg_temp"


async def test_stricter_commits_are_left_alone(database: Database) -> None:
    """A database whose commits wait until standbys show them keeps that setting."""
    await query(
        database.migration_url,
        f"ALTER DATABASE {make_url(database.url).database} SET synchronous_commit = remote_apply",
    )
    assert (await settings_of(database.url, LOOSE))["synchronous_commit"] == "remote_apply"


@pytest.mark.parametrize("commits", ["", "remote_apply"], ids=["as configured", "stricter"])
async def test_reload_of_the_configuration_changes_no_open_session(
    database: Database, commits: str
) -> None:
    """PostgreSQL keeps what a session has set itself, even to the value that was in force."""
    if commits:
        name = make_url(database.url).database
        await query(
            database.migration_url, f"ALTER DATABASE {name} SET synchronous_commit = {commits}"
        )
    engine = create_engine(database.url, pool_size=1)
    try:
        async with autocommit(engine) as connection:
            rows = await connection.fetch(
                "SELECT lower(name), source FROM pg_settings WHERE lower(name) = ANY ($1)",
                list(LOOSE),
            )
    finally:
        await engine.dispose()
    # No view of PostgreSQL shows the ledger's settings, such as ledger.now.
    assert {name: source for name, source in rows} == dict.fromkeys(
        LOOSE.keys() - {"ledger.now"}, "session"
    )


@pytest.mark.parametrize("schema", ["books", "Books of 2026"])
async def test_books_may_have_a_schema_of_another_name(database: Database, schema: str) -> None:
    """The first schema on the database's path at its migration; sessions and functions find it."""
    url, name = database.migration_url, make_url(database.url).database
    await migrate_async(url, "base")
    await query(url, "DROP TABLE alembic_version")
    await query(url, f'CREATE SCHEMA "{schema}"')
    await query(url, f'ALTER DATABASE {name} SET search_path = "{schema}"')
    await migrate_async(url)
    async with running_ledger(database) as ledger:
        (result,) = await ledger.ingest(event_message(amount_minor=700))
        assert result.transaction_id
        assert (await ledger.balance("res_001")).available_minor == 700
        # The search path of a role does not matter.
        await query(url, f"ALTER ROLE ledger_app IN DATABASE {name} SET search_path = public")
        assert (await settings_of(database.url, LOOSE))["search_path"].endswith(", pg_temp")
        assert await query(url, f'SELECT count(*) FROM "{schema}".processor_events') == [(1,)]
