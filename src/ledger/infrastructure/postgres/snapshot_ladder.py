"""The snapshot ladder: balance snapshots all along an account, for balances as of past instants.

A balance as of an instant starts from a snapshot that counts nothing recorded at the instant or
later. Snapshots of the present are only made while an account is read. So most of a long history
has none, and a past balance would read everything up to its instant.

The ladder has a snapshot, called a rung, for each RUNG_ENTRIES entries of an account. A rung has
the horizon of a statement mark, and is taken as of the latest instant below it. No entry is ever
added below a mark, so a rung made later is the same as one made then. Other snapshots with about as
many entries serve as rungs: where there is one, none is made.

A rung is calculated from the snapshot before it and the entries between them. The mark says only
where it stands, so a wrong mark makes no wrong rung. Rungs may be deleted, and two servers may make
them at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.sessions.engine import allow_seconds, autocommit
from ledger.infrastructure.postgres.sessions.horizon import (
    HAS_SUBSCRIPTION,
    STAY,
    SYSTEM_IDENTIFIER,
)
from ledger.infrastructure.postgres.snapshots import (
    SNAPSHOT_TIMEOUT_SECONDS,
    matured_between,
    tail,
    valid_snapshots,
)
from ledger.infrastructure.postgres.statement_marks import PostgresStatementMarks, valid_marks

# How many entries lie between two rungs: as many as between two marks, on which rungs stand. A rung
# takes some 500 bytes with its index, or more with more lines, and 200 entries some 60 kB with
# theirs.
RUNG_ENTRIES = 200
# The entries that one statement reads, unless a single rung has more below it.
READ_ENTRIES_MAX = 100_000
# The marks that one statement looks at.
MARKS_MAX = 1_000
# The accounts of which it is remembered how far their ladder was complete. That saves looking at
# all of their marks each time.
ACCOUNTS_MAX = 10_000

# Makes the rungs that are missing at the next $6 marks of the balance account $1, after the mark
# with last_recorded_at $2, horizon $3 and entries_count $4. It reads about $7 entries. A rung
# stands at the first mark of each $5 entries.
#
# Returns the mark after which to continue, and how many rungs were made; no row at the end.
#
# Each rung is calculated from the one before, and the first from the latest snapshot below it. In
# "term", "horizon" and "taken_at" are those of the snapshot before, as in INSERT_SNAPSHOT. "Before"
# is by the horizon, whatever else the marks say: the entries between two horizons are what a rung
# adds.
INSERT_RUNGS = f"""
WITH page AS MATERIALIZED (
  SELECT m.last_recorded_at, m.horizon, m.entries_count, m.entries_count / $5::bigint AS step
  FROM {valid_marks("$1")}
    AND (m.last_recorded_at, m.horizon) > ($2::timestamptz, $3::text::xid8)
  ORDER BY m.last_recorded_at, m.horizon
  LIMIT $6
),
covered AS MATERIALIZED (
  SELECT DISTINCT b.entries_count / $5 AS step
  FROM {valid_snapshots("$1")}
    AND b.last_recorded_at >= $2 AND b.last_recorded_at <= (SELECT max(last_recorded_at) FROM page)
),
missing AS MATERIALIZED (
  SELECT DISTINCT ON (p.step) p.*
  FROM page AS p
  WHERE p.step > $4::bigint / $5 AND NOT p.step = ANY (ARRAY(SELECT step FROM covered))
  ORDER BY p.step, p.last_recorded_at, p.horizon
),
previous AS MATERIALIZED (
  SELECT s.*
  FROM (SELECT * FROM missing ORDER BY horizon LIMIT 1) AS first
  CROSS JOIN LATERAL (
    SELECT b.horizon, b.taken_at, b.entries_count, b.last_recorded_at, b.last_event_at,
           b.ledger_accounts, b.entry_types, b.total_minors, b.matured_minors
    FROM {valid_snapshots("$1")}
      AND (b.last_recorded_at, b.horizon) < (first.last_recorded_at, first.horizon)
      AND b.horizon < first.horizon
    ORDER BY b.last_recorded_at DESC, b.horizon DESC
    LIMIT 1
  ) AS s
),
term AS MATERIALIZED (
  SELECT r.*
  FROM (
    SELECT m.last_recorded_at, m.entries_count, m.horizon AS new_horizon,
           m.last_recorded_at AS new_taken_at, max(m.entries_count) OVER rungs AS entries_reached,
           COALESCE(lag(m.horizon) OVER rungs, s.horizon) AS horizon,
           COALESCE(lag(m.last_recorded_at) OVER rungs, s.taken_at) AS taken_at,
           row_number() OVER rungs AS place, COALESCE(s.entries_count, 0) AS entries_before
    FROM missing AS m
    LEFT JOIN previous AS s ON true
    WINDOW rungs AS (ORDER BY m.horizon)
  ) AS r
  WHERE r.place = 1 OR r.entries_reached - r.entries_before <= $7
),
counted AS MATERIALIZED (
  SELECT s.place, e.entry_type, e.debit_account, e.credit_account, count(*) AS entries_count,
         sum(e.amount_minor) AS total_minor,
         COALESCE(sum(e.amount_minor)
           FILTER (WHERE e.available_at IS NULL OR e.available_at <= s.new_taken_at), 0)
           AS matured_minor,
         max(e.recorded_at) AS last_recorded_at, max(e.occurred_at) AS last_event_at
  FROM term AS s
  CROSS JOIN LATERAL (
    SELECT e.* FROM ledger_entries AS e WHERE {tail("$1")} AND e.recorded_txid < s.new_horizon
  ) AS e
  GROUP BY s.place, e.entry_type, e.debit_account, e.credit_account
),
matured AS MATERIALIZED (
  SELECT s.place, e.entry_type, e.debit_account, e.credit_account,
         sum(CASE WHEN s.new_taken_at >= s.taken_at THEN e.amount_minor ELSE -e.amount_minor END)
           AS matured_minor
  FROM term AS s
  CROSS JOIN LATERAL (
    SELECT e.* FROM ledger_entries AS e
    WHERE {matured_between("$1", "s.taken_at", "s.new_taken_at")}
    OFFSET 0
  ) AS e
  GROUP BY s.place, e.entry_type, e.debit_account, e.credit_account
),
-- By how much the lines of each rung differ from those of the snapshot before.
step AS MATERIALIZED (
  SELECT 1 AS place, u.ledger_account, u.entry_type, u.total_minor, u.matured_minor
  FROM previous AS s
  CROSS JOIN unnest(s.ledger_accounts, s.entry_types, s.total_minors, s.matured_minors)
    AS u (ledger_account, entry_type, total_minor, matured_minor)
  UNION ALL SELECT place, credit_account, entry_type, total_minor, matured_minor FROM counted
  UNION ALL SELECT place, debit_account, entry_type, -total_minor, -matured_minor FROM counted
  UNION ALL SELECT place, credit_account, entry_type, 0, matured_minor FROM matured
  UNION ALL SELECT place, debit_account, entry_type, 0, -matured_minor FROM matured
),
-- A line stays in all later rungs, changed or not.
line AS (
  SELECT l.place, l.ledger_account, l.entry_type,
         sum(sum(l.total_minor)) OVER so_far AS total_minor,
         sum(sum(l.matured_minor)) OVER so_far AS matured_minor
  FROM (
    SELECT place, ledger_account, entry_type, total_minor, matured_minor FROM step
    UNION ALL
    SELECT s.place, f.ledger_account, f.entry_type, 0, 0
    FROM term AS s
    JOIN (SELECT ledger_account, entry_type, min(place) AS place FROM step
          GROUP BY ledger_account, entry_type) AS f ON s.place > f.place
  ) AS l
  GROUP BY l.place, l.ledger_account, l.entry_type
  WINDOW so_far AS (PARTITION BY l.ledger_account, l.entry_type ORDER BY l.place)
),
lines AS MATERIALIZED (
  SELECT place,
         array_agg(ledger_account ORDER BY ledger_account, entry_type) AS ledger_accounts,
         array_agg(entry_type ORDER BY ledger_account, entry_type) AS entry_types,
         array_agg(total_minor ORDER BY ledger_account, entry_type) AS total_minors,
         array_agg(matured_minor ORDER BY ledger_account, entry_type) AS matured_minors
  FROM line
  GROUP BY place
),
counts AS MATERIALIZED (
  SELECT place, sum(sum(entries_count)) OVER so_far AS entries_count,
         max(max(last_recorded_at)) OVER so_far AS last_recorded_at,
         max(max(last_event_at)) OVER so_far AS last_event_at
  FROM counted
  GROUP BY place
  WINDOW so_far AS (ORDER BY place)
),
made AS (
  INSERT INTO balance_snapshots (
    balance_account_id, system_identifier, stay_id, horizon, taken_at, entries_count,
    last_recorded_at, last_event_at, ledger_accounts, entry_types, total_minors, matured_minors)
  SELECT $1, {SYSTEM_IDENTIFIER}, {STAY}, s.new_horizon, s.new_taken_at,
         COALESCE(before.entries_count, 0) + c.entries_count,
         GREATEST(before.last_recorded_at, c.last_recorded_at),
         GREATEST(before.last_event_at, c.last_event_at),
         l.ledger_accounts, l.entry_types, l.total_minors, l.matured_minors
  FROM term AS s
  JOIN counts AS c ON c.place = s.place
  JOIN lines AS l ON l.place = s.place
  LEFT JOIN previous AS before ON true
  WHERE NOT {HAS_SUBSCRIPTION}
  ORDER BY s.place
  ON CONFLICT DO NOTHING
  RETURNING 1
)
SELECT reached.last_recorded_at, reached.horizon::text AS horizon, reached.entries_count,
       (SELECT count(*) FROM made) AS made_count
FROM (
  SELECT last_recorded_at, horizon, entries_count FROM page
  WHERE (SELECT count(*) FROM missing) = (SELECT count(*) FROM term)
  UNION ALL
  SELECT last_recorded_at, new_horizon, entries_count FROM term
) AS reached
ORDER BY reached.last_recorded_at DESC, reached.horizon DESC
LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class _Mark:
    """A place in the order of an account's marks."""

    last_recorded_at: datetime
    horizon: str
    entries_count: int


# The driver sends this instant as -infinity, which is before any mark.
_BEFORE_ALL = _Mark(datetime.min.replace(tzinfo=UTC), "0", 0)


class PostgresSnapshotLadder:
    """Implements `ledger.application.ports.balances.BalanceSnapshots` with rungs.

    `take` makes all marks and rungs that are missing, in transactions of bounded size. What it made
    stays if it is cut off.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        on_made: Callable[[int], None] = lambda _count: None,
        rung_entries: int = RUNG_ENTRIES,
        marks_max: int = MARKS_MAX,
        read_entries_max: int = READ_ENTRIES_MAX,
        marks: PostgresStatementMarks | None = None,
    ) -> None:
        """`on_made` gets the number of rungs stored, after each transaction that stored some."""
        self._engine = engine
        self._on_made = on_made
        self._rung_entries = rung_entries
        self._marks_max = marks_max
        self._read_entries_max = read_entries_max
        self._marks = marks or PostgresStatementMarks(engine)
        # The mark up to which the ladder of an account had all rungs. The owner of the tables may
        # have deleted some since.
        self._reached: dict[int, _Mark] = {}

    async def take(self, balance_account_id: int, entries_min: int) -> bool:
        made_marks = await self._marks.take(balance_account_id, entries_min)
        reached = self._reached.pop(balance_account_id, _BEFORE_ALL)
        made = await self._climb(balance_account_id, reached)
        if not made_marks and not made and reached is not _BEFORE_ALL:
            # A read was long although the ladder has all of its upper part.
            made = await self._climb(balance_account_id, _BEFORE_ALL)
        return made_marks or made > 0

    async def _climb(self, balance_account_id: int, reached: _Mark) -> int:
        """Makes the rungs that are missing above a mark. Returns how many."""
        made_in_all = 0
        after: _Mark | None = reached
        while after is not None:
            reached = after
            made, after = await self._make_rungs(balance_account_id, reached)
            if made:
                self._on_made(made)
                made_in_all += made
        while len(self._reached) >= ACCOUNTS_MAX:
            self._reached.pop(next(iter(self._reached)))
        self._reached[balance_account_id] = reached
        return made_in_all

    async def _make_rungs(self, balance_account_id: int, after: _Mark) -> tuple[int, _Mark | None]:
        """Returns how many it made, and the mark after which to continue; None at the end."""
        async with autocommit(self._engine) as connection, connection.transaction():
            await allow_seconds(connection, SNAPSHOT_TIMEOUT_SECONDS)
            row = await connection.fetchrow(
                INSERT_RUNGS,
                balance_account_id,
                after.last_recorded_at,
                after.horizon,
                after.entries_count,
                self._rung_entries,
                self._marks_max,
                self._read_entries_max,
                timeout=SNAPSHOT_TIMEOUT_SECONDS + 5,
            )
        if row is None:
            return 0, None
        return row["made_count"], _Mark(
            row["last_recorded_at"], row["horizon"], row["entries_count"]
        )
