"""Removes superseded snapshots and marks. That changes no result.

Of the present stay, the newest balance snapshot of each account and month is kept, and the newest
of each RUNG_ENTRIES entries, so a balance as of a past instant still finds one just below it. Marks
serve the statement of any period, and take a quarter of a percent of what the entries take: all
marks of the present stay are kept. Of an ended stay, which no read uses, the newest snapshot of
each account and month is kept, and the newest mark of each account.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.sessions.engine import (
    READ_WHOLE_TABLES,
    allow_seconds,
    autocommit,
)
from ledger.infrastructure.postgres.sessions.horizon import HORIZON, STAY, written_here
from ledger.infrastructure.postgres.snapshot_ladder import RUNG_ENTRIES

# The rows that one transaction examines.
ROWS_AT_ONCE = 5000
TIMEOUT_SECONDS = 600

_KEY = ("balance_account_id", "stay_id", "last_recorded_at", "horizon")

# For each table, SQL: whether another row of the same account and stay supersedes the row "old".
# Servers must be able to use the other row. They use none with a horizon in the future, and none
# that was copied here as a row.
_NEWER = f"""
SELECT FROM {{table}} AS newer
WHERE newer.balance_account_id = old.balance_account_id AND newer.stay_id = old.stay_id
  AND newer.last_recorded_at >= old.last_recorded_at AND newer.last_recorded_at < $1
  AND newer.horizon > old.horizon AND newer.horizon <= {HORIZON} AND {written_here("newer")}
"""
SUPERSEDED = {
    "balance_snapshots": f"""EXISTS ({_NEWER.format(table="balance_snapshots")}
  AND date_trunc('month', newer.last_recorded_at, 'UTC')
      = date_trunc('month', old.last_recorded_at, 'UTC')
  AND (old.stay_id <> {STAY}
       OR newer.entries_count / {RUNG_ENTRIES} = old.entries_count / {RUNG_ENTRIES}))""",
    "statement_marks": f"""old.stay_id <> {STAY}
  AND EXISTS ({_NEWER.format(table="statement_marks")})""",
}

# Prunes the next $6 rows of the primary key after the key $2 to $5. Returns the last key of them,
# after which the next call continues.
PRUNE = """
WITH page AS MATERIALIZED (
  SELECT {key} FROM {table}
  WHERE ({key}) > ($2::bigint, $3::uuid, $4::timestamptz, $5::text::xid8)
  ORDER BY {key}
  LIMIT $6
),
removed AS (
  DELETE FROM {table} AS old USING page
  WHERE (old.balance_account_id, old.stay_id, old.last_recorded_at, old.horizon)
        = (page.balance_account_id, page.stay_id, page.last_recorded_at, page.horizon)
    AND old.last_recorded_at < $1 AND {superseded}
  RETURNING 1
)
SELECT balance_account_id, stay_id, last_recorded_at, horizon::text AS horizon,
       (SELECT count(*) FROM removed) AS removed_count
FROM page
ORDER BY page.balance_account_id DESC, page.stay_id DESC, page.last_recorded_at DESC,
  page.horizon DESC
LIMIT 1
"""

COUNT = """
SELECT count(*) AS rows_count, COALESCE(sum(pg_column_size(old.*)), 0) AS rows_bytes
FROM {table} AS old
WHERE old.last_recorded_at < $1 AND {superseded}
"""

# Below the keys of every account.
_LOWEST_KEY = (0, UUID(int=0), datetime(2000, 1, 1, tzinfo=UTC), "0")


class SupersededSnapshots:
    """Implements `ledger.application.archive_rows.Snapshots`.

    The engine's sessions are of the role that owns the tables.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def count(self, before: datetime) -> Mapping[str, tuple[int, int]]:
        """How many rows `prune` would remove, by table, and their bytes without indexes."""
        found = {}
        async with autocommit(self._engine) as connection, connection.transaction(readonly=True):
            await allow_seconds(connection, TIMEOUT_SECONDS)
            await connection.execute(READ_WHOLE_TABLES)
            for table, superseded in SUPERSEDED.items():
                statement = COUNT.format(table=table, superseded=superseded)
                (row,) = await connection.fetch(statement, before, timeout=TIMEOUT_SECONDS)
                found[table] = (row["rows_count"], int(row["rows_bytes"]))
        return found

    async def prune(self, before: datetime) -> Mapping[str, int]:
        """Removes superseded rows recorded before `before`. Returns how many, by table.

        Each transaction examines some thousand rows. Servers may run at the same time.
        """
        return {table: await self._prune(table, before) for table in SUPERSEDED}

    async def _prune(self, table: str, before: datetime) -> int:
        statement = PRUNE.format(table=table, superseded=SUPERSEDED[table], key=", ".join(_KEY))
        removed = 0
        key: tuple[Any, ...] | None = _LOWEST_KEY
        while key is not None:
            async with autocommit(self._engine) as connection:
                row = await connection.fetchrow(statement, before, *key, ROWS_AT_ONCE)
            key = None if row is None else tuple(row[column] for column in _KEY)
            removed += 0 if row is None else row["removed_count"]
        return removed
