"""What a move of the books breaks: the start check names it, and a migration mends it."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from support.audit import assert_books_in_order, audit_of
from support.books import libpq_url
from support.events import event_message, unique
from support.payout_runs import finished_run
from support.quarantine import discard, quarantined
from support.running import execute_alone, query, running_ledger

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.embedded import find_bin_dir
from ledger.infrastructure.postgres.schema import newest_schema
from ledger.infrastructure.postgres.schema.migrations import (
    database_url,
    head_revision,
    migrate_async,
)
from ledger.infrastructure.postgres.schema.newest_schema import trigger_states
from ledger.infrastructure.postgres.sessions.engine import create_engine
from ledger.infrastructure.postgres.verification.start_checks import (
    UnfitDatabase,
    check_before_serving,
)
from ledger.resources import resource

COUNTS = """
SELECT (SELECT count(*) FROM processor_events), (SELECT count(*) FROM ledger_entries),
       (SELECT count(*) FROM payouts), (SELECT sum(amount_minor) FROM payout_items),
       (SELECT count(*) FROM payout_run_items), (SELECT count(*) FROM restaurants),
       (SELECT count(*) FROM quarantined_payloads), (SELECT count(*) FROM quarantine_moves)
"""
TRIGGERS = """
SELECT c.relname::text, t.tgname::text, t.tgenabled::text
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal
"""


async def check(url: str) -> None:
    """The checks of a server that starts, without those that a test database cannot pass."""
    engine = create_engine(url, pool_size=2)
    try:
        await check_before_serving(engine, require_durable=False, require_restricted_role=False)
    finally:
        await engine.dispose()


async def mended(database: Database) -> list[str]:
    """Migrates the database, which is at the newest revision. Returns what the migration mended."""
    sentences: list[str] = []
    revisions = await migrate_async(database.migration_url, on_mended=sentences.append)
    assert revisions == (head_revision(), head_revision())
    return sentences


async def program(name: str, *arguments: str | Path, lenient: bool = False) -> str:
    """Runs one of PostgreSQL's programs. Returns its standard error."""
    process = await asyncio.create_subprocess_exec(
        find_bin_dir() / name, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, stderr = await asyncio.wait_for(process.communicate(), 60)
    assert lenient or process.returncode == 0, stderr.decode()
    return stderr.decode()


@pytest.fixture
async def books(database: Database) -> Database:
    """Books with charges, a run, payouts and a discarded payload, and without sessions."""
    async with running_ledger(database) as ledger:
        await ledger.ingest(
            *(event_message(restaurant_id=f"res_{n}", amount_minor=900 + n) for n in range(3))
        )
        await finished_run(ledger)
        await discard(ledger, (await quarantined(ledger)).quarantine_id)
    return database


@pytest.fixture
async def empty(server_url: str) -> AsyncIterator[Database]:
    """A database with nothing in it."""
    name = f"ledger_empty_{os.getpid()}_{unique('db')}"
    await execute_alone(server_url, f"CREATE DATABASE {name}")
    url = database_url(server_url, database=name)
    application_url = (
        url if os.environ.get("LEDGER_TEST_DATABASE_URL") else database_url(url, user="ledger_app")
    )
    yield Database(application_url, url)
    await execute_alone(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.mark.parametrize(
    ("damage", "refusal", "repair"),
    [
        (
            "REVOKE INSERT (amount_minor) ON ledger_entries FROM ledger_app",
            r"lacks privileges: INSERT on ledger_entries \(amount_minor\): run `ledger migrate`",
            "granted 1 privilege that was missing",
        ),
        (
            "REVOKE SELECT ON alembic_version FROM ledger_app",
            r"lacks privileges: SELECT on alembic_version: run `ledger migrate`",
            "granted 1 privilege that was missing",
        ),
        (
            "REVOKE USAGE ON SCHEMA public FROM PUBLIC, ledger_app, ledger_read",
            r"lacks privileges: USAGE on schema public: run `ledger migrate`",
            "granted ledger_app and ledger_read the use of the schema",
        ),
        (
            "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC, ledger_app, ledger_read",
            r"lacks privileges: EXECUTE on advance_ledger_clock, .*: run `ledger migrate`",
            "granted 15 privileges that were missing",
        ),
        (
            "ALTER SEQUENCE balance_accounts_balance_account_id_seq RESTART",
            r"gives 1 next, and the table has 3: run `ledger migrate`",
            "moved the sequence of balance_accounts.balance_account_id from 1 past 3",
        ),
    ],
    ids=["a column", "the revision", "the schema", "functions", "the sequence"],
)
async def test_migration_mends_what_the_start_check_refuses(
    books: Database, damage: str, refusal: str, repair: str
) -> None:
    """The message names what is missing and the command that mends it. The audit has an error."""
    await check(books.url)
    for statement in damage.split(";"):
        await query(books.migration_url, statement)
    with pytest.raises(UnfitDatabase, match=refusal):
        await check(books.url)
    assert (await audit_of(books)).errors or "alembic" in damage
    assert await mended(books) == [repair]
    await check(books.url)
    assert await mended(books) == []
    await assert_books_in_order(books)


async def test_functions_are_granted_to_roles_and_not_only_to_public(books: Database) -> None:
    """Administrators revoke them from PUBLIC: servers go on, and a migration mends nothing."""
    await query(books.migration_url, "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
    await check(books.url)
    async with running_ledger(books) as ledger:
        await ledger.ingest(event_message(restaurant_id="res_new"))
        await finished_run(ledger)
    assert await mended(books) == []
    await assert_books_in_order(books)


async def test_functions_with_named_arguments_are_mended_too(
    books: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump shows the names of arguments, and PostgreSQL looks functions up without them."""
    named = (
        "CREATE FUNCTION named_arguments(run uuid, items_max integer DEFAULT 5) RETURNS integer\n"
        "GRANT ALL ON FUNCTION named_arguments(run uuid, items_max integer) TO ledger_app;\n"
    )
    await query(
        books.migration_url,
        "CREATE FUNCTION named_arguments(run uuid, items_max integer DEFAULT 5) RETURNS integer"
        " LANGUAGE sql SECURITY DEFINER RETURN items_max",
    )
    script = resource("sql", "schema.sql").read_text() + named
    monkeypatch.setattr(newest_schema, "_script", lambda: script)
    for known in (newest_schema.functions, newest_schema.privileges):
        known.cache_clear()
    try:
        assert await mended(books) == [
            "gave 1 object to ledger_owner",
            "revoked named_arguments(uuid,integer) from PUBLIC",
            "granted 1 privilege that was missing",
        ]
        await check(books.url)
    finally:
        monkeypatch.undo()
        for known in (newest_schema.functions, newest_schema.privileges):
            known.cache_clear()


@pytest.mark.parametrize("name", ["deny_change", "recorded_now"])
async def test_function_of_another_role_keeps_its_owner(books: Database, name: str) -> None:
    """Owned by ledger_owner, the function of another role could change the books.

    A function of the ledger with the same name is still mended.
    """
    await query(books.migration_url, "GRANT CREATE ON SCHEMA public TO ledger_read")
    await query(
        books.migration_url,
        f"DO $$ BEGIN SET LOCAL ROLE ledger_read; CREATE FUNCTION public.{name}(integer) RETURNS "
        "name"
        " LANGUAGE sql SECURITY DEFINER RETURN current_user; END $$",
    )
    assert await mended(books) == []
    await check(books.url)
    assert await query(books.migration_url, f"SELECT public.{name}(1)::text") == [("ledger_read",)]
    await query(books.migration_url, f"REVOKE EXECUTE ON FUNCTION {name}(integer) FROM PUBLIC")
    await query(books.migration_url, "REVOKE CREATE ON SCHEMA public FROM ledger_read")
    await assert_books_in_order(books)
    await query(
        books.migration_url, "REVOKE EXECUTE ON FUNCTION recorded_now() FROM PUBLIC, ledger_app"
    )
    assert await mended(books) == ["granted 1 privilege that was missing"]


async def test_migration_turns_triggers_on_again(books: Database) -> None:
    """A dump with --disable-triggers may leave them in another state, or off."""
    await query(books.migration_url, "ALTER TABLE ledger_entries DISABLE TRIGGER ALL")
    await query(books.migration_url, "ALTER TABLE ledger_entries ENABLE TRIGGER ALL")
    await query(books.migration_url, "ALTER TABLE payouts DISABLE TRIGGER payouts_check_items")
    assert (await audit_of(books)).errors
    assert len(await mended(books)) == 2
    assert {
        (table, name): state for table, name, state in await query(books.migration_url, TRIGGERS)
    } == trigger_states()
    await assert_books_in_order(books)


@pytest.mark.parametrize("options", [("--no-acl",), ("--no-acl", "--no-owner")], ids=" ".join)
async def test_restore_without_privileges_is_mended(
    books: Database, empty: Database, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """A server names what is missing; a migration makes privileges and owners what they were."""
    dump = tmp_path / "dump"
    await program(
        "pg_dump", "--format=custom", "--file", dump, "--dbname", libpq_url(books.migration_url)
    )
    await program("pg_restore", *options, "--dbname", libpq_url(empty.migration_url), dump)
    with pytest.raises(
        UnfitDatabase, match=r"lacks privileges: SELECT on alembic_version: run `ledger migrate`"
    ):
        await check(empty.url)
    assert await mended(empty)
    await check(empty.url)
    await assert_books_in_order(empty)
    acls = (
        "SELECT relname::text, relowner::regrole::text, relacl::text FROM pg_class WHERE "
        "relnamespace = 'public'::regnamespace UNION ALL "
        "SELECT typname, typowner::regrole::text, typacl::text FROM pg_type WHERE typtype = 'd' "
        "AND typnamespace = 'public'::regnamespace"
    )
    assert sorted(row[:2] for row in await query(empty.migration_url, acls)) == sorted(
        row[:2] for row in await query(books.migration_url, acls)
    )
    async with running_ledger(empty) as ledger:
        (result,) = await ledger.ingest(event_message(restaurant_id="res_new"))
        assert result.transaction_id


@pytest.mark.parametrize(
    "options", [(), ("--disable-triggers",)], ids=["plain", "--disable-triggers"]
)
async def test_data_only_dump_is_loaded_into_a_migrated_database(
    books: Database, migrated: Database, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Every row arrives without an error.

    Afterwards a migration mends the triggers if the dump had turned them off, else nothing.
    """
    dump = tmp_path / "dump.sql"
    await program(
        "pg_dump",
        "--data-only",
        *options,
        "--exclude-table=alembic_version",
        "--file",
        dump,
        "--dbname",
        libpq_url(books.migration_url),
    )
    arguments = (
        "--no-psqlrc",
        "--quiet",
        "--file",
        dump,
        "--dbname",
        libpq_url(migrated.migration_url),
    )
    assert await program("psql", *arguments, lenient=True) == ""
    assert await query(migrated.migration_url, COUNTS) == await query(books.migration_url, COUNTS)
    assert bool(await mended(migrated)) == bool(options)
    await check(migrated.url)
    await assert_books_in_order(migrated)


@pytest.fixture
async def migrated(empty: Database) -> Database:
    """A second database with the newest schema, made by its own migration."""
    await migrate_async(empty.migration_url)
    return empty


async def test_loaded_items_must_add_up_to_their_payout(
    books: Database, migrated: Database, tmp_path: Path
) -> None:
    """The table that is loaded second is compared with the first, also for a superuser."""
    for first, second in (("payouts", "payout_items"), ("payout_items", "payouts")):
        other = f"ledger_load_{os.getpid()}_{unique('db')}"
        name = make_url(migrated.migration_url).database
        await execute_alone(books.migration_url, f"CREATE DATABASE {other} TEMPLATE {name}")
        url = database_url(migrated.migration_url, database=other)
        try:
            tables = ("restaurants", "balance_accounts", "payout_runs", first)
            for table in (*tables, second):
                dump = tmp_path / f"{other}.{table}.sql"
                await program(
                    "pg_dump",
                    "--data-only",
                    f"--table={table}",
                    "--file",
                    dump,
                    "--dbname",
                    libpq_url(books.migration_url),
                )
                if table == second:
                    column = "amount_minor bigint" if second == "payout_items" else "amount_minor"
                    lines = dump.read_text().splitlines()
                    start = next(n for n, line in enumerate(lines) if line.startswith("COPY")) + 1
                    place = (
                        lines[start - 1]
                        .partition("(")[2]
                        .partition(")")[0]
                        .split(", ")
                        .index(column.split()[0])
                    )
                    row = lines[start].split("\t")
                    row[place] = str(int(row[place]) - 1)
                    lines[start] = "\t".join(row)
                    dump.write_text("\n".join(lines) + "\n")
                stderr = await program(
                    "psql",
                    "--no-psqlrc",
                    "--quiet",
                    "--file",
                    dump,
                    "--dbname",
                    libpq_url(url),
                    lenient=True,
                )
                assert ("do not add up to its amount" in stderr) == (table == second), stderr
        finally:
            await execute_alone(books.migration_url, f"DROP DATABASE {other} WITH (FORCE)")
