"""Balance snapshots and statement marks for tests: taken at will."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.sessions.horizon import HORIZON
from ledger.infrastructure.postgres.snapshots import PostgresBalanceSnapshots
from ledger.infrastructure.postgres.statement_marks import (
    MARK_ENTRIES,
    READ_ENTRIES_MAX,
    PostgresStatementMarks,
)
from support.waiting import POLL_SECONDS

DEADLINE_SECONDS = 40

NEXT_NUMBER = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
REACHED = f"SELECT {HORIZON}::text::bigint >= $1"


async def until_final(engine: AsyncEngine, before: int | None = None) -> None:
    """Waits until no transaction goes on whose number is less than `before`.

    By default, that has a number by now.

    Whatever has been committed is only final then. Transactions of anybody count, such as an
    autovacuum's in another database.
    """
    async with asyncio.timeout(DEADLINE_SECONDS), autocommit(engine) as connection:
        number = await connection.fetchval(NEXT_NUMBER) if before is None else before
        while not await connection.fetchval(REACHED, number):  # noqa: ASYNC110  # it happens in another process
            await asyncio.sleep(POLL_SECONDS)


async def take_snapshots(
    engine: AsyncEngine, restaurant_id: str | None = None, *, at_once: bool = False
) -> int:
    """Takes a snapshot of every balance account, or of one restaurant's, wherever there is anything
    new; how many were taken.

    Of all that was booked before, unless it is to be done `at_once`, of what is final just now.
    """
    if not at_once:
        await until_final(engine)
    snapshots = PostgresBalanceSnapshots(engine)
    async with autocommit(engine) as connection:
        rows = await connection.fetch(
            "SELECT balance_account_id FROM balance_accounts WHERE $1::text IS NULL OR restaurant_id = $1",
            restaurant_id,
        )
    return sum([await snapshots.take(row["balance_account_id"], 1) for row in rows])


async def make_marks(
    engine: AsyncEngine,
    restaurant_id: str | None = None,
    *,
    mark_entries: int = MARK_ENTRIES,
    read_entries_max: int = READ_ENTRIES_MAX,
) -> int:
    """Makes statement marks of every balance account, or of one restaurant's, of all that is
    booked; in how many.
    """
    await until_final(engine)
    marks = PostgresStatementMarks(
        engine, mark_entries=mark_entries, read_entries_max=read_entries_max
    )
    async with autocommit(engine) as connection:
        rows = await connection.fetch(
            "SELECT balance_account_id FROM balance_accounts WHERE $1::text IS NULL OR restaurant_id = $1",
            restaurant_id,
        )
    return sum([await marks.take(row["balance_account_id"], 1) for row in rows])
