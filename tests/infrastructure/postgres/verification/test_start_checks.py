"""The checks of the database that a server makes before it serves."""

import re
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from support.commands import run_process
from support.logins import login
from support.running import query

from ledger.bootstrap.database import Database
from ledger.cli.failures import ExitStatus
from ledger.infrastructure.postgres.schema.migrations import database_url
from ledger.infrastructure.postgres.sessions.engine import create_engine
from ledger.infrastructure.postgres.verification.audit import load_checks
from ledger.infrastructure.postgres.verification.start_checks import (
    NotDurable,
    TooPrivileged,
    check_durability,
    check_privileges,
)


@pytest.fixture
async def engine(database: Database) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database.url, pool_size=1)
    yield engine
    await engine.dispose()


async def test_database_that_does_not_sync_is_refused(
    engine: AsyncEngine, database: Database
) -> None:
    """The PostgreSQL of the tests runs without fsync, unless an operator runs it."""
    ((fsync,),) = await query(database.migration_url, "SELECT current_setting('fsync')")
    if fsync == "on":
        pytest.skip("this server syncs")
    with pytest.raises(NotDurable, match="fsync = off"):
        await check_durability(engine)


@pytest.mark.parametrize("value", ["off", "local"])
async def test_database_that_commits_asynchronously_is_refused(
    engine: AsyncEngine, database: Database, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """A setting of the database alone is seen as well."""
    name = database_url(database.url).rpartition("/")[2].partition("?")[0]
    await query(database.migration_url, f"ALTER DATABASE {name} SET synchronous_commit = {value}")
    # Without the values that the PostgreSQL of the tests does not have.
    monkeypatch.setattr(
        "ledger.infrastructure.postgres.verification.start_checks.DURABLE_VALUES",
        {"synchronous_commit": ("on", "remote_apply")},
    )
    with pytest.raises(NotDurable, match=f"synchronous_commit = {value}"):
        await check_durability(engine)


async def privileges_checked(url: str) -> None:
    engine = create_engine(url, pool_size=1)
    try:
        await check_privileges(engine)
    finally:
        await engine.dispose()


# Members of ledger_app: attributes, grants, and the reason of the refusal; "" if it is accepted.
LOGINS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "a member of ledger_app alone": ("", (), ""),
    "one that inherits nothing": ("NOINHERIT", (), ""),
    "a reader besides": ("", ("GRANT ledger_read TO {role}",), ""),
    "a superuser": ("SUPERUSER", (), "is a superuser"),
    "a maker of roles": ("CREATEROLE", (), "may make roles"),
    "a member of the owner": (
        "",
        ("GRANT ledger_owner TO {role}",),
        "owns archived_ranges, or belongs to its owner, and",
    ),
    "one that could become the owner": (
        "NOINHERIT",
        ("GRANT ledger_owner TO {role}",),
        "owns archived_ranges, or belongs to its owner",
    ),
    "one that runs programs": (
        "",
        ("GRANT pg_execute_server_program TO {role}",),
        "belongs to pg_execute_server_program",
    ),
    "the owner of a table": (
        "",
        ("GRANT CREATE ON SCHEMA public TO {role}", "ALTER TABLE ledger_seals OWNER TO {role}"),
        "owns",
    ),
    "the owner of the schema": (
        "",
        ("ALTER SCHEMA public OWNER TO {role}",),
        "owns the schema public",
    ),
    "an updater of a column": (
        "",
        ("GRANT UPDATE (amount_minor) ON ledger_entries TO {role}",),
        "may UPDATE ledger_entries",
    ),
    "an updater": (
        "",
        ("GRANT UPDATE ON processor_events TO {role}",),
        "may UPDATE processor_events",
    ),
    "a deleter": ("", ("GRANT DELETE ON ledger_seals TO {role}",), "may DELETE ledger_seals"),
    "a truncater": ("", ("GRANT TRUNCATE ON audit_log TO {role}",), "may TRUNCATE audit_log"),
    "a deleter by membership": (
        "NOINHERIT",
        ("GRANT pg_write_all_data TO {role}",),
        "may DELETE archived_ranges, and",
    ),
    "a maker of triggers": (
        "",
        ("GRANT TRIGGER ON payout_items TO {role}",),
        "may TRIGGER payout_items",
    ),
    "a replica": (
        "",
        ("GRANT SET ON PARAMETER session_replication_role TO {role}",),
        "may set session_replication_role",
    ),
}


@pytest.mark.parametrize("kind", LOGINS)
async def test_login_that_may_change_the_books_is_refused(database: Database, kind: str) -> None:
    """The session runs as ledger_app, but could take its login role again."""
    attributes, grants, reason = LOGINS[kind]
    async with login(database, attributes, "GRANT ledger_app TO {role}", *grants) as (role, url):
        if not reason:
            await privileges_checked(url)
            return
        with pytest.raises(
            TooPrivileged,
            match=rf"^the database role {role} {re.escape(reason)}.*ALTER ROLE ledger_app PASSWORD",
        ):
            await privileges_checked(url)


async def test_audit_names_unsafe_settings_of_other_logins(database: Database) -> None:
    """A program with such a login could acknowledge what no standby has."""
    async with login(
        database, "", "GRANT ledger_app TO {role}", "ALTER ROLE {role} SET synchronous_commit = off"
    ) as (role, _):
        (check,) = [check for check in load_checks() if check.name == "settings_of_roles_are_safe"]
        found = await query(database.migration_url, check.statement)
    assert ("role " + role, "has synchronous_commit=off") in [row[2:] for row in found]


async def test_privileges_of_the_application_role_are_checked(database: Database) -> None:
    """With one column too many it is refused, whatever role has logged in."""
    async with login(database, "", "GRANT ledger_app TO {role}") as (_, url):
        await privileges_checked(url)
        await query(
            database.migration_url, "GRANT UPDATE (amount_minor) ON payout_items TO ledger_app"
        )
        with pytest.raises(
            TooPrivileged,
            match=r"^the database role ledger_app may UPDATE payout_items.*: revoke it",
        ):
            await privileges_checked(url)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_superusers_url_is_refused_in_one_line(database: Database, workers: str) -> None:
    """The line says what to do, appears once for several workers, and has no password."""
    async with login(database, "SUPERUSER") as (role, url):
        env = {
            "LEDGER_DATABASE_URL": url,
            "LEDGER_GRPC_ADDRESS": "127.0.0.1:0",
            "LEDGER_REQUIRE_DURABLE_DATABASE": "false",
            "LEDGER_WORKERS": workers,
        }
        outcome = await run_process("serve", env=env)
    assert (outcome.status, outcome.stdout) == (ExitStatus.REFUSED, "")
    assert outcome.stderr.startswith(f"error: the database role {role} is a superuser")
    assert "LEDGER_MIGRATION_DATABASE_URL" in outcome.stderr
    assert "LEDGER_REQUIRE_RESTRICTED_ROLE=false" in outcome.stderr
    assert "secret" not in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
