"""Statement marks on PostgreSQL: with them a statement reads only the entries that it shows.

Statements list entries in the order of recorded_at; the primary key has them in the order of
recorded_txid. The two are nearly the same: a transaction gets its instant when it begins, and its
txid moments later. A mark says by how much they differ. With the horizon h of a mark, its
last_recorded_at, and the late_by_max of the newest mark:

    every entry below h was recorded at last_recorded_at or before;
    every entry from h up to the newest mark's horizon was recorded at
    last_recorded_at - late_by_max or later.

So entries recorded in [r, e) have txids between the horizon of the latest mark with
last_recorded_at < r and that of the first mark with last_recorded_at >= e + late_by_max, or at or
above the newest mark's horizon, where nothing is known yet.

Each mark depends only on the entries below its horizon, and none is ever added there. So marks may
be missing, and two servers may make them at once. Where recorded_at does not follow the txids,
because the database's clock was set back or the books came from another cluster, late_by_max is
large: statements then read more entries and are right.
"""

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.movements import signed_minor
from ledger.infrastructure.postgres.sessions.engine import allow_seconds, autocommit
from ledger.infrastructure.postgres.sessions.horizon import (
    FIRST_HORIZON,
    HAS_SUBSCRIPTION,
    HORIZON,
    STAY,
    written_here,
)
from ledger.infrastructure.postgres.snapshots import begin_stay_if_moved

# How many entries lie between two marks. A mark takes some 200 bytes with its index, 200 entries
# some 100 kB with theirs.
MARK_ENTRIES = 200
# The entries that one statement reads: a second's work.
READ_ENTRIES_MAX = 200_000
MARK_TIMEOUT_SECONDS = 60

# The sums of a mark: on restaurant_payable for restaurants, on account_funds for accounts.
PAYABLE_MINOR = signed_minor("restaurant_payable", otherwise="0")
FUNDS_MINOR = signed_minor("account_funds", otherwise="0")


def valid_marks(balance_account_id: str) -> str:
    """SQL, for FROM and WHERE: an account's marks of the present stay. Add AND or ORDER BY.

    Marks with a horizon in the future are left out: entries with lower txids might still be
    stored.
    """
    return f"""statement_marks AS m
    WHERE m.balance_account_id = {balance_account_id} AND m.stay_id = {STAY} AND {written_here("m")}
      AND m.horizon <= {HORIZON}"""


def newest_mark(balance_account_id: str) -> str:
    """SQL, for FROM: an account's newest mark; one row or none.

    last_recorded_at and the horizon grow together, so the order is the same by either of them.
    """
    return f"""(
    SELECT m.horizon, m.entries_count, m.last_recorded_at, m.late_by_max, m.payable_minor,
           m.funds_minor
    FROM {valid_marks(balance_account_id)}
    ORDER BY m.last_recorded_at DESC, m.horizon DESC
    LIMIT 1
  )"""


def last_mark_before(
    balance_account_id: str, instant: str, sum_minor: str = "payable_minor"
) -> str:
    """SQL, for FROM: the newest mark that counts nothing recorded at `instant` or later.

    One row or none, with the sum of that name.
    """
    # The database stores no mark of an account without its funds; a restore may bring one.
    has_sum = "" if sum_minor == "payable_minor" else f" AND m.{sum_minor} IS NOT NULL"
    return f"""(
    SELECT m.horizon, m.entries_count, m.{sum_minor}
    FROM {valid_marks(balance_account_id)} AND m.last_recorded_at < {instant}{has_sum}
    ORDER BY m.last_recorded_at DESC, m.horizon DESC
    LIMIT 1
  )"""


def first_mark_from(balance_account_id: str, instant: str) -> str:
    """SQL, for FROM: the oldest mark that counts an entry recorded at `instant` or later.

    One row or none.
    """
    return f"""(
    SELECT m.horizon, m.entries_count, m.last_recorded_at
    FROM {valid_marks(balance_account_id)} AND m.last_recorded_at >= {instant}
    ORDER BY m.last_recorded_at, m.horizon
    LIMIT 1
  )"""


# Makes marks of the balance account $1 from its newest mark on: one after each $3 entries, and one
# at the end of what it reads. It reads about $4 entries, or fewer if fewer are final, and makes no
# mark if it reads fewer than $2.
#
# A restaurant has no funds, also where a mark of a server before 0027 says nothing of them. The
# database drops such marks of accounts; if there were one, none would be made after it.
#
# Alone in a READ COMMITTED transaction, so that the horizon is that of this very statement.
INSERT_MARKS = f"""
WITH previous AS MATERIALIZED (
  SELECT {HORIZON} AS limit_txid, {STAY} AS stay_id,
         COALESCE(m.horizon, {FIRST_HORIZON}) AS horizon,
         COALESCE(m.entries_count, 0) AS entries_count, m.last_recorded_at,
         COALESCE(m.late_by_max, interval '0') AS late_by_max,
         COALESCE(m.payable_minor, 0) AS payable_minor,
         COALESCE(m.funds_minor,
           CASE WHEN m.horizon IS NULL OR a.restaurant_id IS NOT NULL THEN 0 END) AS funds_minor
  FROM balance_accounts AS a
  LEFT JOIN {newest_mark("$1")} AS m ON true
  WHERE a.balance_account_id = $1
),
-- The transaction that reaches the number of entries is read to its end.
enough AS MATERIALIZED (
  SELECT (
    SELECT e.recorded_txid FROM ledger_entries AS e
    WHERE e.balance_account_id = $1 AND e.recorded_txid >= p.horizon
      AND e.recorded_txid < p.limit_txid
    ORDER BY e.recorded_txid
    OFFSET $4 LIMIT 1) AS txid
  FROM previous AS p
),
reach AS MATERIALIZED (
  SELECT p.*, COALESCE((
    SELECT e.recorded_txid FROM ledger_entries AS e
    WHERE e.balance_account_id = $1 AND e.recorded_txid > enough.txid
      AND e.recorded_txid < p.limit_txid
    ORDER BY e.recorded_txid
    LIMIT 1), p.limit_txid) AS end_txid
  FROM previous AS p
  CROSS JOIN enough
),
txid AS MATERIALIZED (
  SELECT e.recorded_txid, count(*) AS entries_count, min(e.recorded_at) AS first_recorded_at,
         max(e.recorded_at) AS last_recorded_at, sum({PAYABLE_MINOR}) AS payable_minor,
         sum({FUNDS_MINOR}) AS funds_minor
  FROM reach AS r
  CROSS JOIN LATERAL (
    SELECT e.* FROM ledger_entries AS e
    WHERE e.balance_account_id = $1 AND e.recorded_txid >= r.horizon
      AND e.recorded_txid < r.end_txid
  ) AS e
  GROUP BY e.recorded_txid
),
step AS (
  SELECT t.recorded_txid, t.entries_count,
         r.entries_count + sum(t.entries_count) OVER so_far AS entries_so_far,
         GREATEST(r.last_recorded_at, max(t.last_recorded_at) OVER so_far) AS last_recorded_at,
         GREATEST(r.last_recorded_at, max(t.last_recorded_at) OVER before) - t.first_recorded_at
           AS late_by,
         r.late_by_max,
         r.payable_minor + sum(t.payable_minor) OVER so_far AS payable_minor,
         r.funds_minor + sum(t.funds_minor) OVER so_far AS funds_minor,
         lead(t.recorded_txid) OVER (ORDER BY t.recorded_txid) AS next_txid,
         r.end_txid, r.stay_id,
         sum(t.entries_count) OVER () AS entries_read
  FROM txid AS t
  CROSS JOIN reach AS r
  WINDOW so_far AS (ORDER BY t.recorded_txid ROWS UNBOUNDED PRECEDING),
         before AS (ORDER BY t.recorded_txid ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
INSERT INTO statement_marks (balance_account_id, stay_id, horizon, entries_count, last_recorded_at,
  late_by_max, payable_minor, funds_minor)
SELECT $1, stay_id, COALESCE(next_txid, end_txid), entries_so_far, last_recorded_at, late_by_max,
       payable_minor, funds_minor
FROM (
  SELECT recorded_txid, next_txid, end_txid, stay_id, entries_count, entries_so_far,
         last_recorded_at, payable_minor, funds_minor,
         entries_read,
         GREATEST(late_by_max, max(late_by) OVER (ORDER BY recorded_txid ROWS UNBOUNDED PRECEDING))
           AS late_by_max
  FROM step
) AS mark
WHERE entries_read >= $2
  AND stay_id IS NOT NULL AND NOT {HAS_SUBSCRIPTION}
  AND (next_txid IS NULL
    OR trunc(entries_so_far / $3) > trunc((entries_so_far - entries_count) / $3))
ON CONFLICT DO NOTHING
"""


class PostgresStatementMarks:
    """Implements `ledger.application.ports.balances.BalanceSnapshots` with marks.

    `take` makes all marks that are missing.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        mark_entries: int = MARK_ENTRIES,
        read_entries_max: int = READ_ENTRIES_MAX,
    ) -> None:
        self._engine = engine
        self._mark_entries = mark_entries
        self._read_entries_max = read_entries_max

    async def take(self, balance_account_id: int, entries_min: int) -> bool:
        # The books may have been replaced since the server started.
        await begin_stay_if_moved(self._engine)
        made = 0
        while marks := await self._make_marks(balance_account_id, max(1, entries_min)):
            made += marks
        return made > 0

    async def _make_marks(self, balance_account_id: int, entries_min: int) -> int:
        async with autocommit(self._engine) as connection, connection.transaction():
            await allow_seconds(connection, MARK_TIMEOUT_SECONDS)
            status = await connection.execute(
                INSERT_MARKS,
                balance_account_id,
                entries_min,
                self._mark_entries,
                self._read_entries_max,
                timeout=MARK_TIMEOUT_SECONDS + 5,
            )
        return int(status.split()[-1])
