"""The migrations: up, down, several at once, and the schema that they make."""

import ast
import asyncio
import importlib
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.operations.ops import AddColumnOp, CreateIndexOp, ModifyTableOps, UpgradeOps
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Integer
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from support.audit import assert_books_in_order
from support.audited_books import EARLIER_EVENTS, book_events, pay_and_answer
from support.audited_payments import ACCOUNTS, pay_between_accounts
from support.catalog import CATALOG
from support.events import event_message, unique
from support.paying import account_balance, open_account, order
from support.running import execute_alone, query, running_ledger
from support.snapshots import make_marks, take_snapshots, until_final

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.schema.migrations import (
    create_database,
    current_revision,
    database_url,
    head_revision,
    migrate_async,
)
from ledger.infrastructure.postgres.schema.tables import metadata
from ledger.infrastructure.postgres.snapshots import begin_stay_if_moved
from ledger.infrastructure.postgres.verification.start_checks import SchemaMismatch, check_schema
from ledger.resources import resource
from ledger.v1 import account_pb2

SCRIPTS = Path(__file__).resolve().parents[4] / "scripts"
# Runs a migration in a separate process and prints which revision was there before.
MIGRATE = (
    "import sys; from ledger.infrastructure.postgres.schema.migrations import migrate; "
    "print(migrate(sys.argv[1])[0])"
)

CONSTRAINT_NAMES = {
    "p": "{table}_pkey",
    "f": "{table}_{columns}_fkey",
    "u": "{table}_{columns}_key",
}


@asynccontextmanager
async def engine_of(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        yield engine
    finally:
        await engine.dispose()


async def migrate_in_process(url: str) -> str:
    """Migrates in another process. Returns the revision before, as that process prints it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        MIGRATE,
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, stderr) == (0, b"")
    return stdout.decode().strip()


async def roles_of(url: str) -> dict[str, bool]:
    """The ledger's roles, each with whether it can log in."""
    rows = await query(
        url, "SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname LIKE 'ledger%'"
    )
    return {row[0]: row[1] for row in rows}


async def test_down_and_up_again_makes_the_same_schema(empty_url: str) -> None:
    """Up, down to nothing and up again: the same schema, and in between nothing is left of it."""
    assert await migrate_async(empty_url) == (None, head_revision())
    first = await query(empty_url, CATALOG)
    assert len(first) > 50
    assert await migrate_async(empty_url, "base") == (head_revision(), None)
    left = {row[1].split(".")[0] for row in await query(empty_url, CATALOG)}
    assert left == {"alembic_version", "alembic_version_pkc"}
    assert await migrate_async(empty_url) == (None, head_revision())
    assert await query(empty_url, CATALOG) == first


async def test_each_step_down_takes_back_its_step_up(empty_url: str) -> None:
    """Every migration's downgrade leaves the schema as it was before its upgrade."""
    revisions = sorted(
        path.name.partition("_")[0] for path in resource("alembic", "versions").glob("*.py")
    )
    assert len(revisions) > 10
    schemas = {}
    for revision in revisions:
        await migrate_async(empty_url, revision)
        schemas[revision] = await query(empty_url, CATALOG)
    for revision in reversed(revisions):
        await migrate_async(empty_url, revision)
        assert await query(empty_url, CATALOG) == schemas[revision]


async def test_repeat_changes_nothing(database: Database) -> None:
    """A second migration reports the same revision twice and leaves the schema as it is."""
    before = await query(database.migration_url, CATALOG)
    assert await migrate_async(database.migration_url) == (head_revision(), head_revision())
    assert await query(database.migration_url, CATALOG) == before


async def test_migrations_at_once_on_a_new_server_all_succeed(empty_server_url: str) -> None:
    """Three processes, two of them on one database, on a server without the roles.

    One process migrates each database, and none fails.
    """
    urls = [database_url(empty_server_url, database=name) for name in ("first", "first", "second")]
    for name in ("first", "second"):
        await create_database(empty_server_url, name)
    assert await roles_of(empty_server_url) == {}
    before = await asyncio.gather(*(migrate_in_process(url) for url in urls))
    assert sorted(before[:2]) == [head_revision(), "None"]
    assert before[2] == "None"
    assert await query(urls[0], CATALOG) == await query(urls[2], CATALOG)
    roles = {"ledger_owner": False, "ledger_app": True, "ledger_read": True}
    assert await roles_of(empty_server_url) == roles
    await migrate_async(urls[0], "base")
    assert await roles_of(empty_server_url) == roles


async def test_member_of_the_owner_migrates(empty_server_url: str) -> None:
    """Once the roles exist and its owner may create in the schema, migrations need no superuser."""
    await create_database(empty_server_url, "first")
    await create_database(empty_server_url, "second")
    url = database_url(empty_server_url, database="second")
    await migrate_async(database_url(empty_server_url, database="first"))
    await query(url, "GRANT CREATE ON SCHEMA public TO ledger_owner")
    await query(url, "CREATE ROLE deployer LOGIN")
    await query(url, "GRANT ledger_owner TO deployer")
    assert await migrate_async(database_url(url, user="deployer")) == (None, head_revision())
    owners = await query(
        url, "SELECT DISTINCT tableowner::text FROM pg_tables WHERE schemaname = 'public'"
    )
    assert owners == [("ledger_owner",)]


@pytest.mark.parametrize("revision", [None, "9999"])
async def test_other_schema_is_refused_with_both_revisions(
    empty_url: str, revision: str | None
) -> None:
    """For a database without a schema, and for one of a later version.

    The message also names the command to run.
    """
    if revision is not None:
        await migrate_async(empty_url)
        await query(
            empty_url, "UPDATE alembic_version SET version_num = :revision", revision=revision
        )
    async with engine_of(empty_url) as engine:
        assert await current_revision(engine) == revision
        with pytest.raises(
            SchemaMismatch,
            match=rf"revision {revision or 'none'}, .* needs {head_revision()}: .*migrate",
        ):
            await check_schema(engine)


async def test_newest_schema_is_accepted(database: Database) -> None:
    """The server requires this schema, and its role may read the revision."""
    async with engine_of(database.url) as engine:
        await check_schema(engine)


async def test_tables_of_the_code_are_those_of_the_database(database: Database) -> None:
    """Alembic finds no difference in tables, columns, types, nullability, keys and indexes."""
    async with engine_of(database.migration_url) as engine, engine.connect() as connection:
        # Only the migrations have the comments.
        engine.dialect.supports_comments = False
        differences = await connection.run_sync(
            lambda plain: compare_metadata(
                MigrationContext.configure(plain, opts={"compare_type": True}), metadata
            )
        )
    assert differences == []


async def test_everything_has_a_comment(database: Database) -> None:
    """Every table, column, view and function of the ledger."""
    missing = await query(
        database.migration_url,
        """
        SELECT c.relname::text, a.attname::text
        FROM pg_class AS c
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum >= 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
          AND c.relname <> 'alembic_version' AND COALESCE(col_description(c.oid, a.attnum), '') = ''
        UNION ALL
        SELECT relname::text, '' FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
          AND relname <> 'alembic_version' AND COALESCE(obj_description(oid, 'pg_class'), '') = ''
        UNION ALL
        SELECT proname::text, '()' FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
          AND COALESCE(obj_description(oid, 'pg_proc'), '') = ''
        """,
    )
    assert missing == []


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        ("_minor", "minor units"),
        ("_at", "clock|matures|matured"),
        ("_days", "24 hours"),
        ("currency", "ISO 4217"),
    ],
)
async def test_comments_of_columns_name_unit_or_clock(
    database: Database, suffix: str, words: str
) -> None:
    """The comment of an amount has its unit, of an instant its clock, of days their length."""
    rows = await query(
        database.migration_url,
        "SELECT a.attrelid::regclass::text, a.attname::text, col_description(a.attrelid, a.attnum) "
        "FROM pg_attribute AS a "
        "JOIN pg_class AS c ON c.oid = a.attrelid WHERE c.relnamespace = 'public'::regnamespace "
        "AND c.relkind = 'r' "
        "AND a.attnum > 0 AND NOT a.attisdropped",
    )
    comments = {
        f"{table}.{column}": comment for table, column, comment in rows if column.endswith(suffix)
    }
    assert comments
    assert {
        name: comment for name, comment in comments.items() if not re.search(words, comment)
    } == {}


async def test_constraints_and_indexes_are_named_by_the_convention(database: Database) -> None:
    """The migrations name all of them: PostgreSQL chooses no name.

    table_pkey, table_columns_key, table_columns_fkey, table_what_check, table_columns_idx.
    """
    migrations = "".join(path.read_text() for path in resource("alembic", "versions").glob("*.py"))
    constraints = await query(
        database.migration_url,
        """
        SELECT c.conrelid::regclass::text, c.conname::text, c.contype::text,
               (SELECT string_agg(a.attname, '_' ORDER BY k.place)
                FROM unnest(c.conkey) WITH ORDINALITY AS k (attnum, place)
                JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.attnum)
        FROM pg_constraint AS c
        WHERE c.connamespace = 'public'::regnamespace AND c.contype IN ('c', 'f', 'p', 'u', 'x')
          AND c.contypid = 0 AND c.conrelid <> 'alembic_version'::regclass
        """,
    )
    assert constraints
    for table, name, kind, columns in constraints:
        if kind == "c":
            assert re.fullmatch(rf"{table}_[a-z_]+_check", name)
        else:
            assert name == CONSTRAINT_NAMES[kind].format(table=table, columns=columns)
        assert f"CONSTRAINT {name}" in migrations
    domains = await query(
        database.migration_url,
        "SELECT contypid::regtype::text, conname::text FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace AND contypid <> 0",
    )
    assert domains
    assert [name for domain, name in domains if name != f"{domain}_check"] == []
    indexes = await query(
        database.migration_url,
        "SELECT i.indrelid::regclass::text, c.relname::text, i.indisunique FROM pg_index AS i "
        "JOIN pg_class AS c ON c.oid = i.indexrelid WHERE c.relnamespace = 'public'::regnamespace "
        "AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid)",
    )
    kinds = {False: "idx", True: "key"}
    assert [
        name
        for table, name, unique in indexes
        if not re.fullmatch(rf"{table}_[a-z_]+_{kinds[unique]}", name)
    ] == []
    triggers = await query(
        database.migration_url,
        "SELECT t.tgrelid::regclass::text, t.tgname::text FROM pg_trigger AS t JOIN pg_class AS c "
        "ON c.oid = t.tgrelid "
        "WHERE c.relnamespace = 'public'::regnamespace AND NOT t.tgisinternal",
    )
    assert triggers
    assert [name for table, name in triggers if not name.startswith(f"{table}_")] == []


async def test_databases_are_created_once(server_url: str) -> None:
    """Creating a database that exists does nothing, also for several calls at the same time."""
    name = f"ledger_empty_{os.getpid()}_{unique('db')}"
    creations: list[Awaitable[None]] = [create_database(server_url, name) for _ in range(4)]
    await asyncio.gather(*creations)
    await create_database(server_url, name)
    assert await query(
        server_url, "SELECT count(*) FROM pg_database WHERE datname = :name", name=name
    ) == [(1,)]
    await execute_alone(server_url, f"DROP DATABASE {name}")


def test_revisions_are_numbered_in_their_order() -> None:
    """Revision ids are 4-digit numbers without gaps, and each file name begins with its own."""
    paths = sorted(resource("alembic", "versions").glob("*.py"))
    assert paths
    for number, path in enumerate(paths, 1):
        source = path.read_text()
        assert path.name.startswith(f"{number:04}_")
        assert f'revision: str = "{number:04}"' in source
        before = "None" if number == 1 else f'"{number - 1:04}"'
        assert f"down_revision: str | None = {before}" in source


def test_difference_of_the_tables_is_written_as_sql(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text for each statement, and an empty tuple for no difference."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    sql_literal = importlib.import_module("new_revision").sql_literal
    column = AddColumnOp("restaurants", Column("tax_rate", Integer))
    index = CreateIndexOp("restaurants_tax_idx", "restaurants", ["tax_rate"])
    difference = UpgradeOps([ModifyTableOps("restaurants", [column, index])])
    assert ast.literal_eval(sql_literal(difference)) == (
        "\nALTER TABLE restaurants ADD COLUMN tax_rate INTEGER\n",
        "\nCREATE INDEX restaurants_tax_idx ON restaurants (tax_rate)\n",
    )
    assert ast.literal_eval(sql_literal(UpgradeOps([]))) == ()


@pytest.mark.parametrize("revision", ["base", "0001"])
async def test_downgrade_removes_no_books(database: Database, revision: str) -> None:
    """A downgrade below a table that has rows is refused, and leaves the schema as it is."""
    async with running_ledger(database) as ledger:
        await ledger.ingest(event_message())
    before = await query(database.migration_url, CATALOG)
    # Without a running server, which could make the migration wait for a lock.
    with pytest.raises(DBAPIError, match="they are not removed"):
        await migrate_async(database.migration_url, revision)
    assert await query(database.migration_url, CATALOG) == before
    assert await query(database.migration_url, "SELECT count(*) FROM ledger_entries") == [(1,)]
    assert await migrate_async(database.migration_url) == (head_revision(), head_revision())


# All that books have which no account or payment is in, and that a migration must keep.
KEPT = """
SELECT (SELECT sum(hashtext(concat_ws(' ', v.event_id, v.fingerprint, v.transaction_id, v.batch_id,
                                      v.type, v.restaurant_id, v.currency, v.amount_minor,
                                      v.fee_minor, v.occurred_at, v.payout_id, v.reference,
                                      v.metadata, v.recorded_at, v.recorded_txid)))
        FROM processor_events AS v),
       (SELECT sum(hashtext(concat_ws(' ', e.balance_account_id, e.recorded_txid, e.transaction_id,
                                      e.position, e.entry_type, e.debit_account, e.credit_account,
                                      e.amount_minor, e.available_at, e.occurred_at, e.recorded_at,
                                      e.event_id, e.payout_id))) FROM ledger_entries AS e),
       (SELECT sum(hashtext(concat_ws(' ', a.balance_account_id, a.restaurant_id, a.currency,
                                      a.created_at, a.opened_txid))) FROM balance_accounts AS a),
       (SELECT sum(hashtext(i::text)) FROM payout_items AS i),
       (SELECT sum(hashtext(concat_ws(' ', p.payout_id, p.payout_run_id, p.balance_account_id,
                                      p.sequence, p.amount_minor, p.available_minor, p.as_of,
                                      p.cutoff_at, p.state, p.transaction_id, p.created_at)))
        FROM payouts AS p),
       (SELECT count(*) FROM balance_snapshots), (SELECT count(*) FROM statement_marks)
"""


async def test_books_without_accounts_go_to_the_revision_before_them_and_back(
    database: Database,
) -> None:
    """Books of revision 0026, with every event and payout that it has, are upgraded.

    Nothing of them changes, and the audit finds nothing.
    """
    async with running_ledger(database) as ledger:
        await book_events(ledger, EARLIER_EVENTS)
        await pay_and_answer(ledger, said={})
    kept = await query(database.migration_url, KEPT)
    assert None not in kept[0]
    assert await migrate_async(database.migration_url, "0026") == (head_revision(), "0026")
    assert await query(database.migration_url, KEPT) == kept
    assert await migrate_async(database.migration_url) == ("0026", head_revision())
    assert await query(database.migration_url, KEPT) == kept
    await assert_books_in_order(database)
    async with running_ledger(database) as ledger:
        await pay_between_accounts(ledger)
    await assert_books_in_order(database)


async def test_downgrade_removes_no_account(database: Database) -> None:
    """A downgrade below the accounts is refused once there is one, even without money in it."""
    async with running_ledger(database) as ledger:
        await open_account(ledger, "acc_a")
    before = await query(database.migration_url, CATALOG)
    with pytest.raises(DBAPIError, match="there are accounts, which the earlier schema cannot"):
        await migrate_async(database.migration_url, "0026")
    assert await query(database.migration_url, CATALOG) == before
    assert await query(database.migration_url, "SELECT account_id FROM accounts") == [("acc_a",)]
    assert await migrate_async(database.migration_url) == (head_revision(), head_revision())


# The columns that servers of revision 0026 write and read, in statements that do what theirs do.
# They know nothing of accounts, and look after every balance account that has many entries.
EARLIER_BOOKING = """
WITH opened AS (
  INSERT INTO balance_accounts (restaurant_id, currency)
  SELECT restaurant_id, 'PEN' FROM restaurants ORDER BY restaurant_id LIMIT 1
  RETURNING balance_account_id, restaurant_id
),
stored AS (
  INSERT INTO processor_events (event_id, fingerprint, transaction_id, batch_id, type,
    restaurant_id, currency, amount_minor, fee_minor, occurred_at, payout_id, reference, metadata)
  SELECT 'evt_earlier', sha256(convert_to(concat_ws(E'\\n', '1', 'fee_assessed', restaurant_id,
    'PEN', 7, 0, 1764547200000000, '', ''), 'UTF8')), gen_random_uuid(), gen_random_uuid(),
    'fee_assessed', restaurant_id, 'PEN', 7, 0, '2025-12-01 00:00:00+00', NULL, '', '{}'
  FROM opened
  RETURNING transaction_id, event_id, occurred_at, amount_minor
)
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type, debit_account,
  credit_account, amount_minor, available_at, occurred_at, event_id, payout_id)
SELECT opened.balance_account_id, stored.transaction_id, 1, 'FEE', 'restaurant_payable',
  'platform_fees', stored.amount_minor, NULL, stored.occurred_at, stored.event_id, NULL
FROM opened CROSS JOIN stored
"""
EARLIER_SNAPSHOTS = """
INSERT INTO balance_snapshots (balance_account_id, system_identifier, stay_id, horizon, taken_at,
  entries_count, last_recorded_at, last_event_at, ledger_accounts, entry_types, total_minors,
  matured_minors)
SELECT e.balance_account_id, (SELECT system_identifier FROM current_place),
  (SELECT stay_id FROM current_stay), pg_snapshot_xmin(pg_current_snapshot()), ledger_now(),
  e.entries_count, e.last_recorded_at, e.last_event_at, l.ledger_accounts, l.entry_types,
  l.total_minors, l.matured_minors
FROM (
  SELECT balance_account_id, count(*) AS entries_count, max(recorded_at) AS last_recorded_at,
         max(occurred_at) AS last_event_at
  FROM ledger_entries GROUP BY balance_account_id
) AS e
JOIN (
  SELECT balance_account_id, array_agg(ledger_account ORDER BY ledger_account, entry_type)
           AS ledger_accounts,
         array_agg(entry_type ORDER BY ledger_account, entry_type) AS entry_types,
         array_agg(total_minor ORDER BY ledger_account, entry_type) AS total_minors,
         array_agg(matured_minor ORDER BY ledger_account, entry_type) AS matured_minors
  FROM (
    SELECT balance_account_id, ledger_account, entry_type, sum(signed_minor) AS total_minor,
           COALESCE(sum(signed_minor) FILTER (
             WHERE available_at IS NULL OR available_at <= ledger_now()), 0) AS matured_minor
    FROM ledger_movements GROUP BY balance_account_id, ledger_account, entry_type
  ) AS line
  GROUP BY balance_account_id
) AS l ON l.balance_account_id = e.balance_account_id
ON CONFLICT DO NOTHING
"""
EARLIER_MARKS = """
INSERT INTO statement_marks (balance_account_id, stay_id, horizon, entries_count, last_recorded_at,
  late_by_max, payable_minor)
SELECT balance_account_id, (SELECT stay_id FROM current_stay),
  pg_snapshot_xmin(pg_current_snapshot()), count(*) FILTER (WHERE side = 'credit'),
  max(recorded_at), interval '0',
  COALESCE(sum(signed_minor) FILTER (WHERE ledger_account = 'restaurant_payable'), 0)
FROM ledger_movements
GROUP BY balance_account_id
ON CONFLICT DO NOTHING
"""
OF_ACCOUNTS = """
SELECT count(*) FROM {table} JOIN balance_accounts USING (balance_account_id)
WHERE account_id IS NOT NULL
"""


async def test_statements_of_the_revision_before_accounts_still_run(database: Database) -> None:
    """Servers of revision 0026 book events, and take snapshots of accounts as well.

    Their marks of accounts would lack what newer servers need, and are dropped. Balances and
    statements of accounts stay right, also of a past instant.
    """
    async with running_ledger(database) as ledger:
        await pay_between_accounts(ledger)
        balances = [await account_balance(ledger, account_id) for account_id in ACCOUNTS]
        assert (balances[0].available_minor, balances[1].held_minor) == (-50_070, 1_900)
        await begin_stay_if_moved(ledger.engine)
        await until_final(ledger.engine)
        app = ledger.database.url
        for table in ("balance_snapshots", "statement_marks"):
            await ledger.query(f"DELETE FROM {table}")
        for statement in (EARLIER_BOOKING, EARLIER_SNAPSHOTS, EARLIER_MARKS):
            await query(app, statement)
        assert [
            await ledger.query(OF_ACCOUNTS.format(table=table))
            for table in ("balance_snapshots", "statement_marks")
        ] == [[(6,)], [(0,)]]
        await assert_books_in_order(database)
        for before in balances:
            for as_of in (None, before.as_of):
                now = await account_balance(ledger, before.account_id, as_of)
                assert (now.available_minor, now.held_minor) == (
                    before.available_minor,
                    before.held_minor,
                )
            listed = await ledger.accounts.ListAccountEntries(
                account_pb2.ListAccountEntriesRequest(account_id=before.account_id)
            )
            assert listed.closing_balance_minor == before.available_minor
        # What servers of this revision add to it.
        await take_snapshots(ledger.engine)
        await make_marks(ledger.engine)
        await ledger.payments.AuthorizePayment(
            order("pay_more", "acc_bank", "acc_a", 1, currency="CHF")
        )
        now = await account_balance(ledger, "acc_a")
        assert now.available_minor == balances[1].available_minor + 1
    await assert_books_in_order(database)
