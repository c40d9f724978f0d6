"""Balance snapshots on PostgreSQL: sums of final entries, from which a sum of all entries starts.

A sum over the entries of a balance account, in which an entry with an `available_at` counts if that
is not after a cut-off c, is

    the lines of a snapshot, taken at s
    + entries below its horizon with s < available_at <= c, or less those with c < available_at <= s
    + entries at or above its horizon that count by c

in one statement, so that all three see the same entries. No entry is ever added below a horizon, so
the txid of an entry alone decides in which term it counts: none is missed or counted twice, in
whatever order transactions commit. Without a snapshot the horizon is below every txid, and the
third term is the whole sum.
"""

from collections.abc import Iterable
from contextlib import suppress

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.ports.balances import LongTails
from ledger.errors import LedgerError
from ledger.infrastructure.postgres.sessions.clock import CATCH_UP_CLOCK
from ledger.infrastructure.postgres.sessions.engine import Autocommit, allow_seconds, autocommit
from ledger.infrastructure.postgres.sessions.horizon import (
    BEGIN_STAY,
    FIRST_HORIZON,
    HAS_SUBSCRIPTION,
    HORIZON,
    NEXT_TXID,
    SELECT_STAY_MUST_BEGIN,
    STAY,
    SYSTEM_IDENTIFIER,
    written_here,
)

# The first snapshot of an account reads all of its entries.
SNAPSHOT_TIMEOUT_SECONDS = 120
# More than any account has.
ENTRIES_MAX = 2**62

_log = structlog.get_logger("ledger")


def valid_snapshots(balance_account_id: str) -> str:
    """SQL, for FROM and WHERE: an account's snapshots of the present stay. Add AND or ORDER BY.

    The snapshots are "b" here, so `balance_account_id` must be a column of something else.

    Their txids are those of this cluster. Snapshots with a horizon in the future are left out: a
    later transaction could get a txid below such a horizon, and the snapshot would seem to count
    its entries.
    """
    return f"""balance_snapshots AS b
    WHERE b.balance_account_id = {balance_account_id} AND b.stay_id = {STAY} AND {written_here("b")}
      AND b.horizon <= {HORIZON}"""


def latest_snapshot(balance_account_id: str, *, recorded_before: str = "'infinity'") -> str:
    """SQL, for FROM: an account's latest valid snapshot; one row or none.

    The snapshot counts nothing recorded at `recorded_before` or later.
    """
    return f"""(
    SELECT b.horizon, b.taken_at, b.entries_count, b.last_recorded_at, b.last_event_at,
           b.ledger_accounts, b.entry_types, b.total_minors, b.matured_minors
    FROM {valid_snapshots(balance_account_id)} AND b.last_recorded_at < {recorded_before}
    ORDER BY b.last_recorded_at DESC, b.horizon DESC
    LIMIT 1
  )"""


def tail(balance_account_id: str, snapshot: str = "s") -> str:
    """SQL, for WHERE: the entries that the snapshot does not count; all entries without one.

    A range of the primary key.
    """
    # An OR for the case without a snapshot would read the whole account.
    return f"""e.balance_account_id = {balance_account_id}
      AND e.recorded_txid >= COALESCE({snapshot}.horizon, {FIRST_HORIZON})"""


def available_between(balance_account_id: str, *instants: str, snapshot: str = "s") -> str:
    """SQL, for WHERE: entries that matured in a span of time, whether the snapshot counts them.

    The span is from the earliest of `instants`, exclusive, to the latest, inclusive. Without a
    snapshot there are no such entries and nothing is read.
    """
    ends = ", ".join(instants)
    return f"""{snapshot}.horizon IS NOT NULL AND e.balance_account_id = {balance_account_id}
      AND e.available_at > LEAST({ends}) AND e.available_at <= GREATEST({ends})"""


def matured_between(balance_account_id: str, *instants: str, snapshot: str = "s") -> str:
    """SQL, for WHERE: as `available_between`, but only entries that the snapshot counts."""
    # IS TRUE keeps the planner from using the range of the primary key, which is the whole history.
    # While the table is small, that range looks as good as the range of the index on available_at,
    # and the plan is kept when the table has grown.
    return f"""{available_between(balance_account_id, *instants, snapshot=snapshot)}
      AND (e.recorded_txid < {snapshot}.horizon) IS TRUE"""


# Takes a snapshot of the balance account $1, from the previous one and the entries since. Takes
# none unless these are at least $2: while any transaction is open the horizon stands still, and
# there may be few new entries below it. Two servers may do this at once, and both are right.
#
# Alone in a READ COMMITTED transaction, so that the horizon is that of this very statement.
# taken_at, which is read once, only says up to when the counted entries have matured.
#
# OFFSET 0 keeps the look-up of what matured from becoming a join whose condition is checked for
# each entry that ever matures: while the table is small, that looks as good.
INSERT_SNAPSHOT = f"""
WITH moment AS MATERIALIZED (
  SELECT {HORIZON} AS horizon, {STAY} AS stay_id, ledger_now() AS taken_at
),
previous AS MATERIALIZED (SELECT s.* FROM {latest_snapshot("$1")} AS s),
-- One row, also if there is no previous snapshot.
term AS MATERIALIZED (
  SELECT m.horizon AS new_horizon, m.stay_id, m.taken_at AS new_taken_at, s.*
  FROM moment AS m
  LEFT JOIN previous AS s ON true
),
counted AS MATERIALIZED (
  SELECT e.entry_type, e.debit_account, e.credit_account, count(*) AS entries_count,
         sum(e.amount_minor) AS total_minor,
         COALESCE(sum(e.amount_minor)
           FILTER (WHERE e.available_at IS NULL OR e.available_at <= s.new_taken_at), 0)
           AS matured_minor,
         max(e.recorded_at) AS last_recorded_at, max(e.occurred_at) AS last_event_at
  FROM term AS s
  CROSS JOIN LATERAL (
    SELECT e.* FROM ledger_entries AS e WHERE {tail("$1")} AND e.recorded_txid < s.new_horizon
  ) AS e
  GROUP BY e.entry_type, e.debit_account, e.credit_account
),
matured AS MATERIALIZED (
  SELECT e.entry_type, e.debit_account, e.credit_account, count(*) AS entries_count,
         sum(CASE WHEN s.new_taken_at >= s.taken_at THEN e.amount_minor ELSE -e.amount_minor END)
           AS matured_minor
  FROM term AS s
  CROSS JOIN LATERAL (
    SELECT e.* FROM ledger_entries AS e
    WHERE {matured_between("$1", "s.taken_at", "s.new_taken_at")}
    OFFSET 0
  ) AS e
  GROUP BY e.entry_type, e.debit_account, e.credit_account
),
line AS (
  SELECT l.ledger_account, l.entry_type, sum(l.total_minor) AS total_minor,
         sum(l.matured_minor) AS matured_minor
  FROM (
    SELECT u.ledger_account, u.entry_type, u.total_minor, u.matured_minor
    FROM previous AS s
    CROSS JOIN unnest(s.ledger_accounts, s.entry_types, s.total_minors, s.matured_minors)
      AS u (ledger_account, entry_type, total_minor, matured_minor)
    UNION ALL SELECT credit_account, entry_type, total_minor, matured_minor FROM counted
    UNION ALL SELECT debit_account, entry_type, -total_minor, -matured_minor FROM counted
    UNION ALL SELECT credit_account, entry_type, 0, matured_minor FROM matured
    UNION ALL SELECT debit_account, entry_type, 0, -matured_minor FROM matured
  ) AS l
  GROUP BY l.ledger_account, l.entry_type
)
INSERT INTO balance_snapshots (
  balance_account_id, system_identifier, stay_id, horizon, taken_at, entries_count,
  last_recorded_at, last_event_at, ledger_accounts, entry_types, total_minors, matured_minors)
SELECT $1, {SYSTEM_IDENTIFIER}, s.stay_id, s.new_horizon, s.new_taken_at,
       COALESCE(s.entries_count, 0) + c.entries_count,
       GREATEST(s.last_recorded_at, c.last_recorded_at), GREATEST(s.last_event_at, c.last_event_at),
       l.ledger_accounts, l.entry_types, l.total_minors, l.matured_minors
FROM term AS s
CROSS JOIN (
  SELECT COALESCE(sum(entries_count), 0) AS entries_count,
         max(last_recorded_at) AS last_recorded_at, max(last_event_at) AS last_event_at
  FROM counted
) AS c
CROSS JOIN (SELECT COALESCE(sum(entries_count), 0) AS entries_count FROM matured) AS m
CROSS JOIN (
  SELECT array_agg(ledger_account ORDER BY ledger_account, entry_type) AS ledger_accounts,
         array_agg(entry_type ORDER BY ledger_account, entry_type) AS entry_types,
         array_agg(total_minor ORDER BY ledger_account, entry_type) AS total_minors,
         array_agg(matured_minor ORDER BY ledger_account, entry_type) AS matured_minors
  FROM line
) AS l
WHERE c.entries_count + m.entries_count >= $2 AND s.stay_id IS NOT NULL AND NOT {HAS_SUBSCRIPTION}
ON CONFLICT DO NOTHING
RETURNING true
"""


# An entry of any account with a txid that this cluster has yet to give out. Only the last entry of
# each account is looked up.
SELECT_TXID_AHEAD = f"""
SELECT latest.recorded_txid::text AS recorded_txid, {NEXT_TXID}::text AS next_txid
FROM balance_accounts AS a
CROSS JOIN LATERAL (
  SELECT e.recorded_txid FROM ledger_entries AS e
  WHERE e.balance_account_id = a.balance_account_id
  ORDER BY e.recorded_txid DESC
  LIMIT 1
) AS latest
WHERE latest.recorded_txid >= {NEXT_TXID}
LIMIT 1
"""


async def txid_ahead(engine: AsyncEngine) -> tuple[int, int] | None:
    """The txid of an entry that is ahead of this cluster's txids, and the cluster's next txid.

    None if no entry is ahead. No snapshot counts an entry that is ahead. Raises
    DatabaseUnavailable, DatabaseTimeout.
    """
    async with autocommit(engine) as connection:
        row = await connection.fetchrow(SELECT_TXID_AHEAD)
    return None if row is None else (int(row["recorded_txid"]), int(row["next_txid"]))


async def begin_stay_if_moved(engine: AsyncEngine) -> None:
    """Begins a new stay, and logs it, if the books came from another place.

    Books that never moved are in stay 1. Raises DatabaseUnavailable, DatabaseTimeout.
    """
    async with autocommit(engine) as connection:
        if not await connection.fetchval(SELECT_STAY_MUST_BEGIN):
            return
        # Before the stay begins: if this fails, the next call repeats it.
        async with connection.transaction():
            await allow_seconds(connection, SNAPSHOT_TIMEOUT_SECONDS)
            await connection.execute(CATCH_UP_CLOCK, timeout=SNAPSHOT_TIMEOUT_SECONDS)
        number = await connection.fetchval(BEGIN_STAY)
    if number is not None and number > 1:
        _log.warning(
            "the books came from elsewhere: earlier snapshots are made again as reads need them",
            stay=number,
        )


SELECT_ACCOUNT_OF_RESTAURANT = (
    "SELECT balance_account_id FROM balance_accounts WHERE restaurant_id = $1 AND currency = $2"
)


async def report_timed_out(
    connections: Autocommit, long_tails: LongTails, statement: str, *keys: object
) -> None:
    """Reports an account whose read timed out as one with a long tail, so that a snapshot is taken.

    `statement` looks the account up by `keys`.

    A snapshot has more time than a read. Without this report every read would time out before the
    end of the tail, and none would report how long the tail is.
    """
    with suppress(LedgerError):
        async with connections() as connection:
            balance_account_id = await connection.fetchval(statement, *keys)
        long_tails.report([(balance_account_id, ENTRIES_MAX)])


class NoLongTails:
    """Implements `ledger.application.ports.balances.LongTails` where no snapshots are taken."""

    entries_max = ENTRIES_MAX

    def report(self, tails: Iterable[tuple[int | None, int]]) -> None:
        """Does nothing; `tails` is not read."""

    async def shortened(self, balance_account_id: int) -> None:
        """Returns at once."""


NO_LONG_TAILS = NoLongTails()


class PostgresBalanceSnapshots:
    """Implements `ledger.application.ports.balances.BalanceSnapshots`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def take(self, balance_account_id: int, entries_min: int) -> bool:
        # The books may have been replaced since the server started.
        await begin_stay_if_moved(self._engine)
        async with autocommit(self._engine) as connection, connection.transaction():
            await allow_seconds(connection, SNAPSHOT_TIMEOUT_SECONDS)
            taken = await connection.fetchval(
                INSERT_SNAPSHOT,
                balance_account_id,
                max(1, entries_min),
                timeout=SNAPSHOT_TIMEOUT_SECONDS + 5,
            )
        return taken is not None
