"""Stays of the books: a snapshot from before a move is never used again."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import uuid_utils.compat
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from structlog.testing import capture_logs
from support.audit import assert_books_in_order
from support.books import balance_of, book, burn_numbers, charge, engine_on, restore
from support.dates import days_ago
from support.running import execute_alone, query
from support.seals import seal_everything
from support.snapshots import make_marks, take_snapshots
from support.waiting import until

from ledger.application.ports.statements import StatementQuery
from ledger.bootstrap.database import Database
from ledger.domain.balances import BalanceAccount
from ledger.domain.payouts import PayoutRunKey
from ledger.infrastructure.postgres.account_statements import PostgresStatements
from ledger.infrastructure.postgres.payout_runs import PostgresPayoutRuns
from ledger.infrastructure.postgres.schema.migrations import (
    create_database,
    database_url,
    migrate_async,
)
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import APPLICATION_ROLE, autocommit
from ledger.infrastructure.postgres.sessions.horizon import BEGIN_STAY, STAY
from ledger.infrastructure.postgres.snapshots import begin_stay_if_moved
from ledger.infrastructure.postgres.verification.seal_audit import verify_chain

RESTAURANT = "res_1"
# The amounts booked in A, in B, and in A again.
IN_A_MINOR, IN_B_MINOR, BACK_IN_A_MINOR = 163_620, 163_620, 1_000
PAST = timedelta(days=1)
# Enough that every number of B is below the horizon of A's snapshots.
AHEAD_NUMBERS = 3_000

# The sealed epochs, and their stays.
EPOCHS = """
SELECT DISTINCT s.epoch, t.number FROM ledger_seals AS s LEFT JOIN ledger_stays AS t USING (stay_id)
WHERE NOT s.is_restored ORDER BY 1
"""

needs_programs = pytest.mark.skipif(
    "LEDGER_TEST_DATABASE_URL" in os.environ, reason="needs the programs of the server's version"
)


@asynccontextmanager
async def superuser(url: str) -> AsyncIterator[Connection]:
    """A superuser's session."""
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with autocommit(engine) as connection:
            yield connection
    finally:
        await engine.dispose()


async def stays(url: str) -> list[int]:
    return [row[0] for row in await query(url, "SELECT number FROM ledger_stays ORDER BY number")]


async def sums(engine: AsyncEngine) -> set[int]:
    """The sums of a balance, a statement and a payout run: one number if they agree."""
    balance = await balance_of(engine, RESTAURANT)
    whole = StatementQuery(BalanceAccount(RESTAURANT, "PEN"), None, None, frozenset(), None, None)
    page = await PostgresStatements(partial(autocommit, engine)).first_page(whole, 10)
    assert page is not None
    plan = await PostgresPayoutRuns(engine, settlement_timezone="UTC").plan(
        PayoutRunKey("PEN", days_ago(0), 0, str(uuid_utils.compat.uuid7()))
    )
    return {balance.available_minor, page.moment.closing_minor, plan.total_amount_minor}


async def into_a_new_database(b_url: str, a: Database) -> Database:
    """The dump of B, in a new database of A."""
    name = f"{make_url(a.migration_url).database}_back"
    await create_database(a.migration_url, name)
    url = database_url(a.migration_url, database=name)
    await restore(b_url, url)
    return Database(database_url(url, user=APPLICATION_ROLE), url)


async def into_the_same_database(b_url: str, a: Database) -> Database:
    """The dump of B, in place of the tables of A, while servers have sessions."""
    await query(a.migration_url, "DROP SCHEMA public CASCADE")
    await query(a.migration_url, "CREATE SCHEMA public")
    await query(a.migration_url, "GRANT USAGE ON SCHEMA public TO PUBLIC")
    await restore(b_url, a.migration_url)
    return a


async def into_the_same_tables(b_url: str, a: Database) -> Database:
    """The rows of B, in the tables of A, which an owner has emptied."""
    async with superuser(a.migration_url) as connection:
        tables = [
            row[0]
            for row in await connection.fetch(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            )
        ]
        triggers = await connection.fetch(
            "SELECT tgrelid::regclass::text, tgname, tgenabled::text FROM pg_trigger WHERE NOT"
            " tgisinternal"
        )
        await connection.execute(
            "".join(f"ALTER TABLE {table} DISABLE TRIGGER USER;" for table in tables)
        )
        await connection.execute(f"TRUNCATE {', '.join(tables)}")
        await restore(b_url, a.migration_url, "--data-only")
        for table, name, enabled in triggers:
            state = {"A": "ALWAYS", "R": "REPLICA", "O": ""}[enabled]
            await connection.execute(f"ALTER TABLE {table} ENABLE {state} TRIGGER {name}")
    return a


async def onto_the_same_rows(b_url: str, a: Database) -> Database:
    """The rows that only B has, added to the tables of A, as logical replication brings them."""
    new_rows = {
        "processor_events": (
            "SELECT * FROM processor_events WHERE event_id = ANY ($1::text[]) = false"
        ),
        "ledger_entries": "SELECT * FROM ledger_entries WHERE event_id = ANY ($1::text[]) = false",
        "ledger_stays": "SELECT * FROM ledger_stays WHERE stay_id::text = ANY ($1::text[]) = false",
    }
    known = await query(
        a.migration_url,
        "SELECT event_id FROM processor_events UNION SELECT stay_id::text FROM ledger_stays",
    )
    async with superuser(b_url) as source, superuser(a.migration_url) as target:
        await target.execute("SET session_replication_role = replica")
        for table, statement in new_rows.items():
            rows = await source.fetch(statement, [row[0] for row in known])
            assert rows
            names = list(rows[0].keys())
            # The driver reads numbers of transactions as text.
            await target.execute(
                f"INSERT INTO {table} ({', '.join(names)})"
                f" SELECT {', '.join(names)} FROM jsonb_populate_recordset(NULL::{table},"
                " $1::text::jsonb)",
                await source.fetchval(
                    f"SELECT jsonb_agg(to_jsonb(t))::text FROM ({statement}) AS t",
                    [row[0] for row in known],
                ),
            )
    return a


WAYS_BACK = (into_a_new_database, into_the_same_database, into_the_same_tables, onto_the_same_rows)


@needs_programs
@pytest.mark.parametrize("way_back", WAYS_BACK, ids=[way.__name__ for way in WAYS_BACK])
async def test_books_that_return_to_their_cluster_have_the_same_sums(
    database: Database,
    empty_server_url: str,
    way_back: Callable[[str, Database], Awaitable[Database]],
) -> None:
    """Books are dumped from cluster A into B, used there, and moved back into A.

    A's numbers are far ahead: its old snapshots count nothing of what B booked, and are not used,
    not even by sessions that were open all the time.
    """
    past = datetime.now(UTC) - PAST
    await burn_numbers(database.migration_url, AHEAD_NUMBERS)
    async with engine_on(database.url) as open_engine:
        await begin_stay_if_moved(open_engine)
        await book(open_engine, charge(RESTAURANT, IN_A_MINOR, past))
        assert await take_snapshots(open_engine) == 1
        assert await make_marks(open_engine) == 1
        assert await sums(open_engine) == {IN_A_MINOR}
        assert await stays(database.migration_url) == [1]
        await seal_everything(database.url)
        # Creates the roles, which no dump has.
        await migrate_async(empty_server_url)
        await create_database(empty_server_url, "moved")
        b_url = database_url(empty_server_url, database="moved")
        await restore(database.migration_url, b_url)
        async with engine_on(database_url(b_url, user=APPLICATION_ROLE)) as engine:
            with capture_logs() as logged:
                await begin_stay_if_moved(engine)
                await begin_stay_if_moved(engine)
            assert [(line["log_level"], line["stay"]) for line in logged] == [("warning", 2)]
            await book(engine, charge(RESTAURANT, IN_B_MINOR, past))
            await take_snapshots(engine)
            await make_marks(engine)
            assert await sums(engine) == {IN_A_MINOR + IN_B_MINOR}
        back = await way_back(b_url, database)
        if back is database:
            # No server has been started: sessions notice by themselves.
            assert await sums(open_engine) == {IN_A_MINOR + IN_B_MINOR}
        async with engine_on(back.url) as engine:
            assert await sums(engine) == {IN_A_MINOR + IN_B_MINOR}
            with capture_logs() as logged:
                await begin_stay_if_moved(engine)
            assert [line["stay"] for line in logged] == [3]
            await book(engine, charge(RESTAURANT, BACK_IN_A_MINOR, past))
            assert await take_snapshots(engine) == 1
            assert await make_marks(engine) == 1
            assert await sums(engine) == {IN_A_MINOR + IN_B_MINOR + BACK_IN_A_MINOR}
            assert await stays(back.migration_url) == [1, 2, 3]
            # B has sealed nothing, and its rows have numbers that A had already sealed.
            await seal_everything(back.url)
            assert await query(back.migration_url, EPOCHS) == [(1, 1), (2, 3)]
            chain = await verify_chain(engine)
            assert (chain.audit.errors, chain.unsealed_count) == ((), 0)
        if back is database:
            assert await sums(open_engine) == {IN_A_MINOR + IN_B_MINOR + BACK_IN_A_MINOR}
        else:
            await execute_alone(
                database.migration_url, f"DROP DATABASE {make_url(back.migration_url).database}"
            )
    if back is database:
        await assert_books_in_order(back)


@asynccontextmanager
async def books_with_a_wrong_snapshot(database: Database) -> AsyncIterator[AsyncEngine]:
    """Books whose only snapshot has twice the right sums, which shows whether it is used."""
    async with engine_on(database.url) as engine, superuser(database.migration_url) as connection:
        await book(engine, charge(RESTAURANT, IN_A_MINOR, datetime.now(UTC) - PAST))
        assert await take_snapshots(engine) == 1
        assert await make_marks(engine) == 1
        await connection.execute(
            "ALTER TABLE balance_snapshots DISABLE TRIGGER balance_snapshots_deny_change;"
            "UPDATE balance_snapshots SET matured_minors = ARRAY(SELECT 2 * n FROM"
            " unnest(matured_minors) AS l (n)),"
            " total_minors = ARRAY(SELECT 2 * n FROM unnest(total_minors) AS l (n)), written_txid"
            " = pg_current_xact_id();"
            "ALTER TABLE balance_snapshots ENABLE ALWAYS TRIGGER balance_snapshots_deny_change"
        )
        assert (await balance_of(engine, RESTAURANT)).available_minor == 2 * IN_A_MINOR
        yield engine


@pytest.mark.parametrize(
    "change",
    [
        "system_identifier = system_identifier + 1",
        "entries_oid = entries_oid + 1",
        "entries_file = 'base/1/1'",
    ],
)
async def test_stay_belongs_to_one_cluster_table_and_file(database: Database, change: str) -> None:
    """With another one of them a new stay begins.

    pg_upgrade, for example, makes another cluster with the same OIDs and numbers.
    """
    async with (
        books_with_a_wrong_snapshot(database) as engine,
        superuser(database.migration_url) as connection,
    ):
        await connection.execute(
            "ALTER TABLE ledger_stays DISABLE TRIGGER ledger_stays_deny_change; UPDATE"
            f" ledger_stays SET {change};"
            "ALTER TABLE ledger_stays ENABLE ALWAYS TRIGGER ledger_stays_deny_change"
        )
        assert (await balance_of(engine, RESTAURANT)).available_minor == IN_A_MINOR
        await begin_stay_if_moved(engine)
        assert await stays(database.migration_url) == [1, 2]
        assert (await balance_of(engine, RESTAURANT)).available_minor == IN_A_MINOR
        assert await take_snapshots(engine) == 1
        assert await make_marks(engine) == 1
    await assert_books_in_order(database)


async def test_copy_of_the_database_is_another_place(server_url: str, database: Database) -> None:
    """CREATE DATABASE … TEMPLATE keeps every OID but the database's."""
    name = f"{make_url(database.migration_url).database}_copy"
    async with books_with_a_wrong_snapshot(database):
        pass
    await execute_alone(
        server_url, f"CREATE DATABASE {name} TEMPLATE {make_url(database.migration_url).database}"
    )
    try:
        async with engine_on(database_url(database.url, database=name)) as engine:
            assert (await balance_of(engine, RESTAURANT)).available_minor == IN_A_MINOR
    finally:
        await execute_alone(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize(
    ("change", "is_believed"),
    [
        # What a dump of the data, COPY and logical replication do: the same row, in the same place.
        ("COPIED", False),
        # Statements that only seem to make new rows.
        ("VACUUM (FREEZE) balance_snapshots", True),
        ("VACUUM (FULL, FREEZE) balance_snapshots", True),
        ("CLUSTER balance_snapshots USING balance_snapshots_pkey", True),
    ],
    ids=["copied as a row", "frozen", "rewritten", "clustered"],
)
async def test_snapshot_counts_where_it_was_written(
    database: Database, change: str, is_believed: bool
) -> None:
    """A promoted standby and the primary that it left have the same stay.

    A snapshot of one that comes to the other as a row is not used there. Whatever keeps the rows of
    the files keeps the snapshot.
    """
    async with (
        books_with_a_wrong_snapshot(database) as engine,
        superuser(database.migration_url) as connection,
    ):
        if change == "COPIED":
            rows = "WITH gone AS (DELETE FROM {0} RETURNING *) INSERT INTO {0} SELECT * FROM gone"
            for table in ("balance_snapshots", "statement_marks"):
                await connection.execute(rows.format(table))
        else:
            await connection.execute(change)
        assert (await balance_of(engine, RESTAURANT)).available_minor == IN_A_MINOR * (
            1 + is_believed
        )
        # A snapshot with this horizon exists already, so a new one needs a new entry.
        await book(engine, charge(RESTAURANT, BACK_IN_A_MINOR, datetime.now(UTC) - PAST))
        if not is_believed:
            assert await take_snapshots(engine) == 1
            assert await sums(engine) == {IN_A_MINOR + BACK_IN_A_MINOR}
            await assert_books_in_order(database)


USABLE_MARKS = "SELECT count(*) FROM statement_marks WHERE xmin = written_txid::xid"


async def test_marks_of_earlier_revisions_are_made_again(database: Database) -> None:
    """Marks from before revision 0020 do not count, but have the keys of those that would.

    A migration removes them.
    """
    async with engine_on(database.url) as engine:
        await begin_stay_if_moved(engine)
        for _ in range(9):
            await book(engine, *(charge(RESTAURANT, 1, datetime.now(UTC) - PAST) for _ in range(2)))
        await make_marks(engine, mark_entries=4)
        ((made,),) = await query(database.migration_url, USABLE_MARKS)
        assert made > 3
    await migrate_async(database.migration_url, "0019")
    await migrate_async(database.migration_url)
    async with engine_on(database.url) as engine:
        assert await query(database.migration_url, USABLE_MARKS) == [(0,)]
        await make_marks(engine, mark_entries=4)
        assert await query(database.migration_url, USABLE_MARKS) == [(made,)]
        assert len(await sums(engine)) == 1
    await assert_books_in_order(database)


@pytest.mark.parametrize(
    "stay_id", ["00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"]
)
async def test_two_stays_with_one_number_do_not_count(database: Database, stay_id: str) -> None:
    """A server ran here before all rows of the books had arrived.

    Which of the two stays is later is unknown, and a snapshot of this place may lack what came
    after it. A new stay begins, whichever id is the greater.
    """
    async with books_with_a_wrong_snapshot(database) as engine:
        await query(
            database.migration_url,
            "INSERT INTO ledger_stays (number, stay_id, system_identifier, entries_oid,"
            " entries_file)"
            f" VALUES (1, '{stay_id}', 1, 1, 'base/1/1')",
        )
        assert (await balance_of(engine, RESTAURANT)).available_minor == IN_A_MINOR
        await begin_stay_if_moved(engine)
        assert await stays(database.migration_url) == [1, 1, 2]
        assert (await balance_of(engine, RESTAURANT)).available_minor == IN_A_MINOR


async def test_servers_that_start_at_once_begin_one_stay(database: Database) -> None:
    """Both find no stay. The second waits for the first, and then begins none."""
    async with (
        engine_on(database.url) as engine,
        autocommit(engine) as one,
        autocommit(engine) as other,
    ):
        transaction = one.transaction()
        await transaction.start()
        assert await one.fetchval(BEGIN_STAY) == 1
        pid = await other.fetchval("SELECT pg_backend_pid()")
        waiting = asyncio.create_task(other.fetchval(BEGIN_STAY))

        async def is_blocked() -> bool:
            return await query(
                database.migration_url,
                "SELECT count(*) FROM pg_locks WHERE pid = :pid AND NOT granted",
                pid=pid,
            ) == [(1,)]

        await until(is_blocked)
        await transaction.commit()
        assert await waiting is None
        assert await other.fetchval(f"SELECT {STAY}") is not None
        assert await one.fetchval(BEGIN_STAY) is None
    assert await stays(database.migration_url) == [1]


async def test_sessions_without_the_identifier_see_the_same_stay(database: Database) -> None:
    """A session of psql, which may run the audit, looks the identifier of the cluster up."""
    async with engine_on(database.url) as engine, autocommit(engine) as connection:
        assert await connection.fetchval(BEGIN_STAY) == 1
        stay_id = await connection.fetchval(f"SELECT {STAY}")
    assert stay_id is not None
    assert await query(database.migration_url, f"SELECT {STAY}") == [(stay_id,)]


async def test_seals_without_a_stay_continue_the_epoch(database: Database) -> None:
    """A server of an earlier revision seals without a stay.

    That begins no epoch. A new epoch begins once the books have been in another cluster.
    """
    forget_stays = (
        "ALTER TABLE ledger_seals DISABLE TRIGGER ledger_seals_deny_change;"
        "UPDATE ledger_seals SET stay_id = DEFAULT;"
        "ALTER TABLE ledger_seals ENABLE ALWAYS TRIGGER ledger_seals_deny_change"
    )
    be_elsewhere = (
        "ALTER TABLE ledger_stays DISABLE TRIGGER ledger_stays_deny_change;"
        "UPDATE ledger_stays SET entries_file = 'base/1/1';"
        "ALTER TABLE ledger_stays ENABLE ALWAYS TRIGGER ledger_stays_deny_change"
    )
    epochs = []
    async with engine_on(database.url) as engine, superuser(database.migration_url) as connection:
        for change in ("", forget_stays, forget_stays + ";" + be_elsewhere, forget_stays):
            if change:
                await connection.execute(change)
                await begin_stay_if_moved(engine)
            await book(engine, charge(RESTAURANT, IN_A_MINOR, datetime.now(UTC) - PAST))
            await seal_everything(database.url)
            ((epoch,),) = await query(database.migration_url, "SELECT max(epoch) FROM ledger_seals")
            epochs.append(epoch)
        assert epochs == [1, 1, 2, 2]
        chain = await verify_chain(engine)
        assert (chain.audit.errors, chain.unsealed_count) == ((), 0)
