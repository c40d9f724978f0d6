"""Takes balance snapshots and makes statement marks whenever a test needs them."""

import asyncio
import random
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.sessions.horizon import HORIZON
from ledger.infrastructure.postgres.snapshot_ladder import PostgresSnapshotLadder
from ledger.infrastructure.postgres.snapshots import PostgresBalanceSnapshots
from ledger.infrastructure.postgres.statement_marks import (
    MARK_ENTRIES,
    READ_ENTRIES_MAX,
    PostgresStatementMarks,
)
from support.waiting import DEADLINE_SECONDS, POLL_SECONDS

NEXT_TXID = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
REACHED = f"SELECT {HORIZON}::text::bigint >= $1"


async def until_final(engine: AsyncEngine, before: int | None = None) -> None:
    """Waits until every transaction with a txid below `before` has ended.

    By default, `before` is the txid after the last transaction that has ended. Committed rows are
    final only then. Transactions of every session count, such as an autovacuum's in another
    database.
    """
    async with asyncio.timeout(DEADLINE_SECONDS), autocommit(engine) as connection:
        txid = await connection.fetchval(NEXT_TXID) if before is None else before
        # Another process ends the transactions, so no event in this one can signal it.
        while not await connection.fetchval(REACHED, txid):  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)


class ReportedTails:
    """Implements `Tails`: keeps the long tails that reads report, and lets no read wait."""

    entries_max = 3

    def __init__(self) -> None:
        self.tails: dict[int | None, int] = {}

    def report(self, tails: Any) -> None:
        self.tails.update(tails)

    async def shortened(self, balance_account_id: int) -> None:
        raise AssertionError("a read waits for a shorter tail")


async def take_snapshots(
    engine: AsyncEngine, holder_id: str | None = None, *, at_once: bool = False
) -> int:
    """Takes a snapshot of every balance account, or of one holder's, that has new entries.

    Waits until everything booked before is final and covers all of it. With `at_once`, covers only
    what is final now. Returns how many snapshots it took.
    """
    if not at_once:
        await until_final(engine)
    snapshots = PostgresBalanceSnapshots(engine)
    async with autocommit(engine) as connection:
        rows = await connection.fetch(
            "SELECT balance_account_id FROM balance_accounts "
            "WHERE $1::text IS NULL OR restaurant_id = $1 OR account_id = $1",
            holder_id,
        )
    return sum([await snapshots.take(row["balance_account_id"], 1) for row in rows])


async def make_marks(
    engine: AsyncEngine,
    holder_id: str | None = None,
    *,
    mark_entries: int = MARK_ENTRIES,
    read_entries_max: int = READ_ENTRIES_MAX,
) -> int:
    """Makes the statement marks of every balance account, or of one holder's.

    The marks cover everything that is booked. Returns in how many accounts it made any.
    """
    await until_final(engine)
    marks = PostgresStatementMarks(
        engine, mark_entries=mark_entries, read_entries_max=read_entries_max
    )
    async with autocommit(engine) as connection:
        rows = await connection.fetch(
            "SELECT balance_account_id FROM balance_accounts "
            "WHERE $1::text IS NULL OR restaurant_id = $1 OR account_id = $1",
            holder_id,
        )
    return sum([await marks.take(row["balance_account_id"], 1) for row in rows])


async def make_ladder(
    engine: AsyncEngine,
    holder_id: str | None = None,
    *,
    at_once: bool = False,
    mark_entries: int = 2,
    rung_entries: int = 5,
    marks_max: int = 1_000,
    read_entries_max: int = READ_ENTRIES_MAX,
) -> int:
    """Makes the marks and rungs of every balance account, or of one holder's.

    Waits as `take_snapshots` does. Returns how many rungs it made.
    """
    if not at_once:
        await until_final(engine)
    made: list[int] = []
    ladder = PostgresSnapshotLadder(
        engine,
        on_made=made.append,
        rung_entries=rung_entries,
        marks_max=marks_max,
        read_entries_max=read_entries_max,
        marks=PostgresStatementMarks(engine, mark_entries=mark_entries),
    )
    async with autocommit(engine) as connection:
        rows = await connection.fetch(
            "SELECT balance_account_id FROM balance_accounts "
            "WHERE $1::text IS NULL OR restaurant_id = $1 OR account_id = $1",
            holder_id,
        )
    for row in rows:
        await ladder.take(row["balance_account_id"], 1)
    return sum(made)


async def delete_some(
    connection: Connection, table: str, account: int, chance: random.Random, share: float
) -> None:
    """Deletes a share of an account's rows in a table of snapshots or marks."""
    rows = await connection.fetch(
        f"SELECT horizon::text AS horizon FROM {table} WHERE balance_account_id = $1", account
    )
    await connection.execute(
        f"DELETE FROM {table} WHERE balance_account_id = $1 AND horizon::text = ANY ($2)",
        account,
        [row["horizon"] for row in rows if chance.random() < share],
    )
