"""What the database itself holds of the quarantine, and how its tables come to books in use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from support.audit import assert_books_in_order
from support.books import superuser
from support.damage.quarantine import ID, stored
from support.quarantine import quarantined
from support.running import RunningLedger, query, running_ledger

from ledger.bootstrap.database import Database
from ledger.domain.quarantine import MOVES, QuarantineState
from ledger.infrastructure.postgres.schema.migrations import head_revision, migrate_async
from ledger.infrastructure.postgres.sessions.driver import Connection

BEFORE, ADDED = "0037", "0038"
# A move by itself, and with its row.
MOVE = f"""
UPDATE quarantined_payloads
SET state = '{{state}}', move_number = move_number + 1,
    retry_at = CASE WHEN '{{state}}' IN ('PARKED', 'RETRY_REQUESTED') THEN now() END
WHERE quarantine_id = '{ID}'
"""
RECORDED_MOVE = f"""
WITH p AS ({MOVE} RETURNING *)
INSERT INTO quarantine_moves (quarantine_id, number, state, reason, detail, event_ids, retry_at,
  actor)
SELECT quarantine_id, move_number, state,
       CASE WHEN state IN ('QUARANTINED', 'PARKED') THEN 'X' ELSE '' END, 'x', '{{{{}}}}', retry_at,
       ''
FROM p
"""
CANNOT = "cannot be changed so"
# How each state is reached.
WAYS = {
    "QUARANTINED": (),
    "RETRY_REQUESTED": ("RETRY_REQUESTED",),
    "PARKED": ("RETRY_REQUESTED", "PARKED"),
    "RELEASED": ("RETRY_REQUESTED", "RELEASED"),
    "DISCARDED": ("DISCARDED",),
}
CHANGES = (
    *(
        f"UPDATE quarantined_payloads SET {change}"
        for change in (
            "body = ''",
            "body = body || '\\x00'",
            "headers = '{}'",
            "query = 'x'",
            "endpoint = 'x'",
            "processor = 'x'",
            "kind = 'x'",
            "received_at = now()",
            "created_at = now()",
            "reason = 'X'",
            "detail = 'x'",
            "move_number = move_number + 1",
            "state = 'RETRY_REQUESTED', retry_at = now(), move_number = move_number + 2",
        )
    ),
    "DELETE FROM quarantined_payloads",
    "TRUNCATE quarantined_payloads, quarantine_moves",
    "DELETE FROM quarantine_moves",
    "TRUNCATE quarantine_moves CASCADE",
    "UPDATE quarantine_moves SET actor = 'x'",
)


@asynccontextmanager
async def undone(database: Database, *, role: str = "") -> AsyncIterator[Connection]:
    """A superuser's session, or that of `role`. What it does is rolled back."""
    async with superuser(database) as connection:
        transaction = connection.transaction()
        await transaction.start()
        if role:
            await connection.execute(f"SET LOCAL ROLE {role}")
        try:
            yield connection
        finally:
            await transaction.rollback()


@pytest.mark.parametrize("after", [*QuarantineState, "LOST"])
@pytest.mark.parametrize("before", QuarantineState)
async def test_payload_makes_only_the_moves_of_the_domain(
    shared_database: Database, before: QuarantineState, after: str
) -> None:
    """Any other move is refused, also one to the same state, and to the owner."""
    async with undone(shared_database) as connection:
        await connection.execute(stored("QUARANTINED", "QUARANTINED"))
        for state in WAYS[before]:
            await connection.execute(RECORDED_MOVE.format(state=state))
        if after in MOVES[before]:
            moved = await connection.execute(RECORDED_MOVE.format(state=after))
            assert moved == "INSERT 0 1"
        else:
            with pytest.raises(asyncpg.CheckViolationError, match=CANNOT):
                await connection.execute(RECORDED_MOVE.format(state=after))


@pytest.mark.parametrize("replication_role", ["origin", "replica"])
@pytest.mark.parametrize("change", CHANGES)
async def test_no_role_changes_what_was_kept(
    shared_database: Database, change: str, replication_role: str
) -> None:
    """Also in a session that turns ordinary triggers off."""
    async with undone(shared_database) as connection:
        await connection.execute(stored("QUARANTINED", "QUARANTINED"))
        await connection.execute(f"SET LOCAL session_replication_role = {replication_role}")
        with pytest.raises(asyncpg.PostgresError, match=f"{CANNOT}|is append-only"):
            await connection.execute(change)


@pytest.mark.parametrize(
    "statements",
    [
        stored("QUARANTINED", "QUARANTINED") + MOVE.format(state="DISCARDED"),
        stored("DISCARDED", "QUARANTINED"),
        stored("QUARANTINED"),
    ],
    ids=["no-move", "another-state", "never-made"],
)
async def test_state_without_its_move_is_refused(
    shared_database: Database, statements: str
) -> None:
    """The statement that changes a payload's state also stores the move."""
    async with undone(shared_database) as connection:
        with pytest.raises(asyncpg.ForeignKeyViolationError, match="has no move"):
            await connection.execute(statements)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("ledger_app", "UPDATE quarantined_payloads SET body = ''"),
        ("ledger_app", "UPDATE quarantined_payloads SET created_at = now()"),
        ("ledger_app", "DELETE FROM quarantined_payloads"),
        ("ledger_app", "UPDATE quarantine_moves SET actor = ''"),
        ("ledger_app", "INSERT INTO quarantine_moves (recorded_at) VALUES (now())"),
        ("ledger_read", "SELECT body FROM quarantined_payloads"),
        ("ledger_read", "SELECT headers FROM quarantined_payloads"),
        ("ledger_read", "SELECT query FROM quarantined_payloads"),
        ("ledger_read", "SELECT p.* FROM quarantined_payloads AS p"),
        ("ledger_read", "UPDATE quarantined_payloads SET state = 'DISCARDED'"),
    ],
)
async def test_roles_may_do_no_more_than_they_need(
    shared_database: Database, role: str, statement: str
) -> None:
    async with undone(shared_database, role=role) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_reader_reads_what_reports_need(shared_database: Database) -> None:
    async with undone(shared_database, role="ledger_read") as connection:
        await connection.fetch(
            "SELECT quarantine_id, endpoint, processor, kind, body_sha256, received_at, created_at,"
            " state, move_number, reason, detail, retry_at FROM quarantined_payloads"
        )
        await connection.fetch("SELECT * FROM quarantine_moves")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT p.quarantine_id FROM quarantined_payloads AS p WHERE p.retry_at < now()"
        " ORDER BY p.retry_at, p.quarantine_id LIMIT 10",
        "SELECT p.state, count(*), min(p.created_at) FROM quarantined_payloads AS p"
        " WHERE p.state IN ('QUARANTINED', 'RETRY_REQUESTED', 'PARKED') GROUP BY p.state",
    ],
)
async def test_gateways_and_metrics_read_indexes_of_what_is_open(
    shared_database: Database, statement: str
) -> None:
    """What was settled years ago costs them nothing."""
    async with undone(shared_database) as connection:
        plan = await connection.fetch(f"EXPLAIN {statement}")
    lines = "\n".join(line for (line,) in plan)
    assert "quarantined_payloads_open_idx" in lines or "quarantined_payloads_retry_at_idx" in lines
    assert "Seq Scan" not in lines


async def test_tables_come_while_every_other_table_is_in_use(database: Database) -> None:
    """The migration waits for no lock of sessions that write. Going back, likewise."""
    await migrate_async(database.migration_url, BEFORE)
    tables = await query(
        database.migration_url,
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname <> 'alembic_version'"
        " AND relnamespace = 'public'::regnamespace",
    )
    engine = create_async_engine(database.migration_url, poolclass=NullPool)
    async with engine.connect() as holder:
        named = ", ".join(name for (name,) in tables)
        await holder.execute(text(f"LOCK TABLE {named} IN ROW EXCLUSIVE MODE"))
        for before, after in ((BEFORE, ADDED), (ADDED, BEFORE), (BEFORE, ADDED)):
            assert await migrate_async(database.migration_url, after) == (before, after)
        await holder.rollback()
    await engine.dispose()
    assert await migrate_async(database.migration_url) == (ADDED, head_revision())
    async with running_ledger(database) as ledger:
        await quarantined(ledger)
    with pytest.raises(DBAPIError, match="there are payloads in the quarantine"):
        await migrate_async(database.migration_url, BEFORE)
    await migrate_async(database.migration_url)
    await assert_books_in_order(database)


async def test_actor_is_who_called(shared_ledger: RunningLedger) -> None:
    """Empty where callers do not authenticate."""
    payload = await quarantined(shared_ledger)
    rows = await shared_ledger.query(
        "SELECT actor FROM quarantine_moves WHERE quarantine_id = CAST(:id AS uuid)",
        id=payload.quarantine_id,
    )
    assert rows == [("",)]
