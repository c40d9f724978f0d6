"""Archives on PostgreSQL: reads old run items and calls, records archives, removes their rows."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, tzinfo
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.archive_rows import RowsChanged
from ledger.domain.archives import Archive, ArchiveKind, ItemKind, Part, month_bounds
from ledger.errors import DatabaseContention
from ledger.infrastructure.postgres.sessions.driver import Connection, Row
from ledger.infrastructure.postgres.sessions.engine import (
    READ_WHOLE_TABLES,
    allow_seconds,
    autocommit,
    connect,
    driver_of,
    set_lock_timeout,
)
from ledger.infrastructure.postgres.sessions.errors import database_errors

# For a statement that reads or counts a month of rows, of which there may be many millions.
TIMEOUT_SECONDS = 3600
# Long enough for the last page of a run that was canceled a moment ago.
LOCK_WAIT_SECONDS = 60
ROWS_AT_ONCE = 2000
# The lock that lets one command archive at a time. Any constant that nothing else uses.
_ADVISORY_LOCK_KEY = 0x6C65646765720002

# The runs whose items may be archived: the run has ended, and its items are in no archive yet.
_ENDED_RUNS = """
payout_runs AS r
JOIN payout_run_items AS i ON i.payout_run_id = r.payout_run_id
WHERE r.state <> 'RUNNING'
  AND NOT EXISTS (SELECT FROM archived_run_outcomes AS z WHERE z.payout_run_id = r.payout_run_id)
"""

# The first instant of the rows that may be archived, for each kind; NULL if there are none.
SELECT_FIRST = {
    ArchiveKind.PAYOUT_RUN_ITEMS: (
        f"SELECT min(r.finished_at) FROM {_ENDED_RUNS} AND r.finished_at < $1"
    ),
    ArchiveKind.AUDIT_LOG: "SELECT min(recorded_at) FROM audit_log WHERE recorded_at < $1",
}

# How many rows, and bytes of them, lie between each two of the instants $1.
SELECT_PARTS = {
    ArchiveKind.PAYOUT_RUN_ITEMS: f"""
SELECT width_bucket(r.finished_at, $1::timestamptz[]) AS place, count(*) AS rows_count,
       sum(pg_column_size(i.*)) AS rows_bytes
FROM {_ENDED_RUNS} AND r.finished_at < $2
GROUP BY 1 ORDER BY 1
""",
    ArchiveKind.AUDIT_LOG: """
SELECT width_bucket(l.recorded_at, $1::timestamptz[]) AS place, count(*) AS rows_count,
       sum(pg_column_size(l.*)) AS rows_bytes
FROM audit_log AS l WHERE l.recorded_at < $2
GROUP BY 1 ORDER BY 1
""",
}

SELECT_LINES = {
    ArchiveKind.PAYOUT_RUN_ITEMS: f"""
SELECT row_to_json(i)::text AS line FROM {_ENDED_RUNS}
  AND r.finished_at >= $1 AND r.finished_at < $2
ORDER BY i.payout_run_id, i.restaurant_id
""",
    ArchiveKind.AUDIT_LOG: """
SELECT row_to_json(l)::text AS line FROM audit_log AS l
WHERE l.recorded_at >= $1 AND l.recorded_at < $2
""",
}

# Waits for open pages: a page that pays for one of these runs holds a lock on its key.
LOCK_RUNS = """
SELECT payout_run_id FROM payout_runs
WHERE payout_run_id = ANY ($1::uuid[]) AND state <> 'RUNNING'
ORDER BY payout_run_id
FOR UPDATE
"""

INSERT_RANGE = """
INSERT INTO archived_ranges (archive_id, kind, from_at, before_at, rows_count, file_name,
  file_bytes, file_sha256)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
RETURNING archived_at
"""

INSERT_OUTCOMES = """
INSERT INTO archived_run_outcomes (payout_run_id, outcome, skip_reason, items_count, archive_id)
SELECT payout_run_id, outcome, COALESCE(skip_reason, ''), count(*), $2
FROM payout_run_items
WHERE payout_run_id = ANY ($1::uuid[])
GROUP BY payout_run_id, outcome, skip_reason
RETURNING payout_run_id, outcome, skip_reason, items_count
"""

# The items that are unchanged since they were archived. A trigger refuses to remove what no archive
# covers.
DELETE_ITEMS = """
DELETE FROM payout_run_items AS i
USING unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[])
  AS a (payout_run_id, restaurant_id, outcome, skip_reason, payout_id)
WHERE i.payout_run_id = a.payout_run_id AND i.restaurant_id = a.restaurant_id
  AND i.outcome = a.outcome AND i.skip_reason IS NOT DISTINCT FROM a.skip_reason
  AND i.payout_id IS NOT DISTINCT FROM a.payout_id
"""

# By their ids: a call that was recorded after the archive was made stays, whatever its time.
DELETE_CALLS = "DELETE FROM audit_log WHERE audit_id = ANY ($1::uuid[])"

_ARCHIVE = """archive_id, kind, from_at, before_at, rows_count, file_name, file_bytes,
  file_sha256, archived_at"""

SELECT_ARCHIVES = (
    f"SELECT {_ARCHIVE} FROM archived_ranges ORDER BY from_at, archived_at, archive_id"
)

# Archives whose rows are still in the tables. An archive of calls may be listed although it is
# done: a call that was recorded late is in its range and in no archive.
SELECT_UNFINISHED = f"""
SELECT {_ARCHIVE}
FROM archived_ranges AS a
WHERE CASE a.kind
        WHEN 'audit_log' THEN EXISTS (
          SELECT FROM audit_log AS l
          WHERE l.recorded_at >= a.from_at AND l.recorded_at < a.before_at)
        ELSE EXISTS (
          SELECT FROM archived_run_outcomes AS z
          WHERE z.archive_id = a.archive_id
            AND EXISTS (SELECT FROM payout_run_items AS i WHERE i.payout_run_id = z.payout_run_id))
      END
ORDER BY a.from_at, a.archive_id
"""


class PostgresArchives:
    """Implements `ledger.application.archive_rows.ArchivedTables`.

    The engine's sessions are of the role that owns the tables.
    """

    def __init__(self, engine: AsyncEngine, zone: tzinfo) -> None:
        """`zone` is the time zone in which months begin and end."""
        self._engine = engine
        self._zone = zone

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Keeps other commands from archiving until the block ends; holds a connection.

        Raises DatabaseContention if another command is archiving.
        """
        async with aclosing(await connect(self._engine)) as pooled:
            connection = await driver_of(pooled)
            with database_errors():
                is_alone = await connection.fetchval(
                    "SELECT pg_try_advisory_lock($1)", _ADVISORY_LOCK_KEY
                )
            if not is_alone:
                raise DatabaseContention("another `ledger archive run` is under way")
            # Not inside database_errors: an error of the block may be an OSError of the output,
            # whose reader has gone away.
            try:
                yield
            finally:
                if not connection.is_closed():
                    with database_errors():
                        await connection.fetchval(
                            "SELECT pg_advisory_unlock($1)", _ADVISORY_LOCK_KEY
                        )

    async def now(self) -> datetime:
        """The time of the books."""
        async with autocommit(self._engine) as connection:
            now: datetime = await connection.fetchval("SELECT ledger_now()")
        return now

    async def parts(self, kinds: Collection[ArchiveKind], before: datetime) -> list[Part]:
        found: list[Part] = []
        async with self._reading() as connection:
            for kind in (kind for kind in ArchiveKind if kind in kinds):
                first = await connection.fetchval(
                    SELECT_FIRST[kind], before, timeout=TIMEOUT_SECONDS
                )
                if first is None:
                    continue
                bounds = month_bounds(first, before, self._zone)
                rows = await connection.fetch(
                    SELECT_PARTS[kind], bounds, before, timeout=TIMEOUT_SECONDS
                )
                for row in rows:
                    # width_bucket counts from 1 and returns the place of the bound before the row.
                    from_at, before_at = bounds[row["place"] - 1], bounds[row["place"]]
                    found.append(
                        Part(kind, from_at, before_at, row["rows_count"], row["rows_bytes"])
                    )
        return found

    async def lines(self, part: Part) -> AsyncGenerator[Sequence[str]]:
        async with self._reading() as connection:
            cursor = await connection.cursor(
                SELECT_LINES[part.kind], part.from_at, part.before_at, timeout=TIMEOUT_SECONDS
            )
            while rows := await cursor.fetch(ROWS_AT_ONCE, timeout=TIMEOUT_SECONDS):
                yield [row["line"] for row in rows]

    async def record(self, archive: Archive, items: Mapping[ItemKind, int]) -> Archive:
        runs = sorted({item.payout_run_id for item in items})
        async with autocommit(self._engine) as connection, connection.transaction():
            await allow_seconds(connection, TIMEOUT_SECONDS)
            await set_lock_timeout(connection, LOCK_WAIT_SECONDS)
            locked = await connection.fetch(LOCK_RUNS, runs, timeout=TIMEOUT_SECONDS)
            archived_at = await connection.fetchval(
                INSERT_RANGE,
                archive.archive_id,
                archive.kind.value,
                archive.from_at,
                archive.before_at,
                archive.rows_count,
                archive.file_name,
                archive.file_bytes,
                archive.file_sha256,
            )
            stored = await connection.fetch(
                INSERT_OUTCOMES, runs, archive.archive_id, timeout=TIMEOUT_SECONDS
            )
            found = {
                ItemKind(row["payout_run_id"], row["outcome"], row["skip_reason"]): row[
                    "items_count"
                ]
                for row in stored
            }
            if len(locked) != len(runs) or found != dict(items):
                raise RowsChanged(
                    f"items of payout runs changed while they were written to {archive.file_name}"
                )
        return _archived(archive, archived_at)

    async def remove(self, kind: ArchiveKind, rows: Sequence[Mapping[str, Any]]) -> int:
        async with autocommit(self._engine) as connection:
            if kind is ArchiveKind.AUDIT_LOG:
                status = await connection.execute(
                    DELETE_CALLS, [UUID(row["audit_id"]) for row in rows]
                )
            else:
                status = await connection.execute(
                    DELETE_ITEMS,
                    [UUID(row["payout_run_id"]) for row in rows],
                    [row["restaurant_id"] for row in rows],
                    [row["outcome"] for row in rows],
                    [row["skip_reason"] for row in rows],
                    [UUID(row["payout_id"]) if row["payout_id"] else None for row in rows],
                )
        return int(status.split()[-1])

    async def unfinished(self) -> list[Archive]:
        async with self._reading() as connection:
            return [
                _archive_of(row)
                for row in await connection.fetch(SELECT_UNFINISHED, timeout=TIMEOUT_SECONDS)
            ]

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        """A transaction on one database snapshot, with time for slow files."""
        async with (
            autocommit(self._engine) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await allow_seconds(connection, TIMEOUT_SECONDS)
            await connection.execute(
                f"{READ_WHOLE_TABLES}; SET LOCAL idle_in_transaction_session_timeout = 0"
            )
            yield connection


async def list_archives(engine: AsyncEngine) -> list[Archive]:
    """All recorded archives, in the order of their ranges. Any role that may read can call it."""
    async with autocommit(engine) as connection:
        return [_archive_of(row) for row in await connection.fetch(SELECT_ARCHIVES)]


def _archived(archive: Archive, archived_at: datetime) -> Archive:
    return Archive(
        archive.archive_id,
        archive.kind,
        archive.from_at,
        archive.before_at,
        archive.rows_count,
        archive.file_name,
        archive.file_bytes,
        archive.file_sha256,
        archived_at,
    )


def _archive_of(row: Row) -> Archive:
    return Archive(
        row["archive_id"],
        ArchiveKind(row["kind"]),
        row["from_at"],
        row["before_at"],
        row["rows_count"],
        row["file_name"],
        row["file_bytes"],
        row["file_sha256"],
        row["archived_at"],
    )
