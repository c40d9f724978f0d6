"""Account statements on PostgreSQL, page by page.

A statement is the entries of a period on restaurant_payable, as of the moment of its first page.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ledger.application.ports.balances import LongTails
from ledger.application.ports.events import StoredEntry
from ledger.application.ports.statements import (
    StatementMoment,
    StatementPage,
    StatementPlace,
    StatementQuery,
)
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import UNIX_EPOCH
from ledger.domain.posting_rules import EntryType
from ledger.errors import DatabaseTimeout
from ledger.infrastructure.postgres.sessions.driver import Connection, Row
from ledger.infrastructure.postgres.sessions.engine import Autocommit
from ledger.infrastructure.postgres.sessions.horizon import (
    DATABASE_SNAPSHOT,
    FIRST_HORIZON,
    NEXT_TXID,
    next_txid,
    open_txids,
)
from ledger.infrastructure.postgres.snapshots import (
    NO_LONG_TAILS,
    SELECT_ACCOUNT_OF_RESTAURANT,
    report_timed_out,
)
from ledger.infrastructure.postgres.statement_marks import (
    MARK_ENTRIES,
    PAYABLE_MINOR,
    first_mark_from,
    last_mark_before,
    newest_mark,
    valid_marks,
)

# Longer than any transaction that books: the timeouts of its statements and of idle sessions are
# seconds.
BOOKING_TIME_MAX = timedelta(minutes=10)
# With more entries than this beyond the newest mark, marks are made before the first page is read.
# That takes less time than reading the entries for the balances and for the page.
TAIL_ENTRIES_MAX = 10_000
# When a read of an account finds less than a page, the next read covers this many times as many
# entries.
REACH_GROWTH = 4
REACH_ENTRIES_MAX = 100_000


def _payable_before(instant: str) -> str:
    """SQL, for FROM: the sum on restaurant_payable, available and pending together, at an instant.

    Also the number of entries that no mark counts.
    """
    return f"""(
    SELECT COALESCE(below.payable_minor, 0) + between_marks.payable_minor + tail.payable_minor
           AS payable_minor,
           tail.entries_count AS tail_entries
    FROM (SELECT) AS one
    LEFT JOIN LATERAL {newest_mark("a.balance_account_id")} AS newest ON true
    LEFT JOIN LATERAL {last_mark_before("a.balance_account_id", instant)} AS below ON true
    LEFT JOIN LATERAL {first_mark_from("a.balance_account_id", f"{instant} + newest.late_by_max")}
      AS above ON true
    CROSS JOIN LATERAL (
      SELECT COALESCE(sum({PAYABLE_MINOR}), 0) AS payable_minor
      FROM ledger_entries AS e
      WHERE e.balance_account_id = a.balance_account_id
        AND e.recorded_txid >= COALESCE(below.horizon, {FIRST_HORIZON})
        AND e.recorded_txid < COALESCE(above.horizon, newest.horizon) AND e.recorded_at < {instant}
    ) AS between_marks
    CROSS JOIN LATERAL (
      SELECT count(*) AS entries_count,
             COALESCE(sum({PAYABLE_MINOR}) FILTER (WHERE e.recorded_at < {instant}), 0)
               AS payable_minor
      FROM ledger_entries AS e
      WHERE e.balance_account_id = a.balance_account_id
        AND e.recorded_txid >= COALESCE(newest.horizon, {FIRST_HORIZON})
    ) AS tail
  )"""


# The moment that a statement shows, and its balances: one row for a registered restaurant, none for
# an unknown one. The row has the transactions that this database snapshot sees, so that later
# pages, which see more, can leave out what came after.
#
# The balances are those of SELECT_BALANCES as of the same instants, available and pending together.
# Sums of bigint are numeric and cannot overflow. Without a start the period begins at minus
# infinity, before which nothing is recorded.
SELECT_MOMENT = f"""
WITH moment AS MATERIALIZED (SELECT ledger_now() AS now_at)
SELECT moment.now_at AS read_at, {next_txid("seen.transactions")}::text AS transactions_end,
       ARRAY(SELECT open.txid::text FROM {open_txids("seen.transactions")} AS open (txid))
         AS transactions_open,
       opening.payable_minor AS opening_minor, closing.payable_minor AS closing_minor,
       a.balance_account_id,
       closing.tail_entries
FROM restaurants AS r
CROSS JOIN moment
CROSS JOIN (SELECT {DATABASE_SNAPSHOT} AS transactions) AS seen
LEFT JOIN balance_accounts AS a ON a.restaurant_id = r.restaurant_id AND a.currency = $2
CROSS JOIN LATERAL {_payable_before("COALESCE($3::timestamptz, '-infinity')")} AS opening
CROSS JOIN LATERAL {_payable_before("COALESCE($4::timestamptz, moment.now_at)")} AS closing
WHERE r.restaurant_id = $1
"""

# The account, if it has more than $3 entries beyond its newest mark.
SELECT_LONG_TAIL = f"""
SELECT a.balance_account_id
FROM balance_accounts AS a
LEFT JOIN LATERAL {newest_mark("a.balance_account_id")} AS newest ON true
CROSS JOIN LATERAL (
  SELECT FROM ledger_entries AS e
  WHERE e.balance_account_id = a.balance_account_id
    AND e.recorded_txid >= COALESCE(newest.horizon, {FIRST_HORIZON})
  OFFSET $3 LIMIT 1
) AS more
WHERE a.restaurant_id = $1 AND a.currency = $2
"""

# The step between two instants of PostgreSQL.
_NEXT_INSTANT = "interval '1 microsecond'"
_ACCOUNT = (
    "(SELECT balance_account_id FROM balance_accounts WHERE restaurant_id = $1 AND currency = $2)"
)

# Where the entries recorded in [$3, complete_before) are: their txids are in [first_txid, end_txid)
# or from tail_txid on. They are the first entries of the period [$3, $4): at least $5 of them, or
# all if there are fewer. complete_before is NULL if the ranges hold all entries of the period.
#
# A batch may be a thousand entries of one instant. So entries of the instant $3, which may be on
# the previous page, are not among the $5, and the range ends after the last instant that is needed.
#
# Each of the five look-ups of marks looks up the present stay as well. One look-up that they share
# would be a sixth join, whose plan would have to be checked again.
SELECT_REACH = f"""
SELECT COALESCE(below.horizon, {FIRST_HORIZON})::text AS first_txid,
       COALESCE(above.horizon, newest.horizon, {FIRST_HORIZON})::text AS end_txid,
       COALESCE(newest.horizon, {FIRST_HORIZON})::text AS tail_txid,
       above.last_recorded_at - newest.late_by_max AS complete_before
FROM (SELECT {_ACCOUNT} AS balance_account_id OFFSET 0) AS a
LEFT JOIN LATERAL {newest_mark("a.balance_account_id")} AS newest ON true
LEFT JOIN LATERAL {last_mark_before("a.balance_account_id", "$3")} AS below ON true
LEFT JOIN LATERAL {
    last_mark_before("a.balance_account_id", f"$3::timestamptz + {_NEXT_INSTANT}")
} AS begun ON true
LEFT JOIN LATERAL (
    SELECT m.last_recorded_at
    FROM {valid_marks("a.balance_account_id")} AND m.last_recorded_at > $3
      AND m.entries_count >= COALESCE(begun.entries_count, 0) + $5
    ORDER BY m.last_recorded_at, m.horizon
    LIMIT 1
  ) AS enough ON true
LEFT JOIN LATERAL {
    first_mark_from(
        "a.balance_account_id",
        f"LEAST(enough.last_recorded_at + {_NEXT_INSTANT}, $4) + newest.late_by_max",
    )
} AS above ON true
"""

_COLUMNS = """e.transaction_id, e.position, e.entry_type, e.debit_account, e.credit_account,
         e.amount_minor, e.available_at, e.occurred_at, e.recorded_at, e.event_id,
         e.payout_id, e.recorded_txid"""


def _microseconds(column: str) -> str:
    """SQL for an instant in microseconds since 1970, which the driver reads in a tenth of the time.

    Infinity, which only a manual write can have stored, becomes the first or last instant of the
    contract.
    """
    return f"""(1000000 * extract(epoch FROM CASE {column}
           WHEN 'infinity' THEN '9999-12-31T23:59:59.999999Z'
           WHEN '-infinity' THEN '0001-01-01T00:00:00Z'
           ELSE {column} END))::bigint"""


# In the order in which `_entries` unpacks a row.
_ROW = f"""e.transaction_id, e.position, e.entry_type, e.debit_account, e.credit_account,
       e.amount_minor,
       {_microseconds("e.available_at")},
       {_microseconds("e.occurred_at")},
       {_microseconds("e.recorded_at")} AS recorded_at_microseconds,
       e.event_id, e.payout_id, e.recorded_txid"""

# Entries of [$3, $4) on restaurant_payable. They are ordered by the instant, then by the txid, then
# by what is unique in a transaction: the order is total, and never changes once entries are there.
# {conditions} stands for what else the caller asks, so that each combination gets a plan.
#
# It reads only the two ranges of the primary key that SELECT_REACH found.
SELECT_PAGE = f"""
SELECT {_ROW}
FROM (
  SELECT {_COLUMNS}
  FROM (
    SELECT {_COLUMNS}
    FROM ledger_entries AS e
    WHERE e.balance_account_id = {_ACCOUNT}
      AND e.recorded_txid >= $6::text::xid8 AND e.recorded_txid < $7::text::xid8
      AND e.recorded_at >= $3 AND e.recorded_at < $4
      AND 'restaurant_payable' IN (e.debit_account, e.credit_account)
    UNION ALL
    SELECT {_COLUMNS}
    FROM ledger_entries AS e
    WHERE e.balance_account_id = {_ACCOUNT} AND e.recorded_txid >= $8::text::xid8
      AND e.recorded_at >= $3 AND e.recorded_at < $4
      AND 'restaurant_payable' IN (e.debit_account, e.credit_account)
  ) AS e
  WHERE true {{conditions}}
  ORDER BY e.recorded_at, e.recorded_txid, e.transaction_id, e.position
  LIMIT $5
) AS e
ORDER BY e.recorded_at, e.recorded_txid, e.transaction_id, e.position
"""

PAGE_PARAMETERS = 8

# On later pages: only the entries after the last one of the page before.
AFTER = """(e.recorded_at, e.recorded_txid, e.transaction_id, e.position)
  > (${}::timestamptz, ${}::text::xid8, ${}::uuid, ${}::smallint)"""

# On later pages: leaves out entries of transactions that were open at the moment of the first page,
# or began later. Their recorded_at may be before the end of the period, but the statement's
# balances do not count them. An entry stays if it was recorded BOOKING_TIME_MAX or more before that
# moment, by when its transaction had ended; if it was restored from another cluster, whose txids
# may be ahead; or if its txid shows that its transaction had ended.
SEEN = f"""(
  e.recorded_at <= ${{}}::timestamptz
  OR e.recorded_txid >= (SELECT {NEXT_TXID})
  OR (e.recorded_txid < ${{}}::text::xid8 AND e.recorded_txid <> ALL (${{}}::text[]::xid8[])))"""

# A look-up here is faster: EntryType(value) takes as long as the rest of an entry.
_ENTRY_TYPES = {entry_type.value: entry_type for entry_type in EntryType}
_LEDGER_ACCOUNTS = {account.value: account for account in LedgerAccount}

# The driver sends this as -infinity, which is before any entry.
_BEGINNING = datetime.min.replace(tzinfo=UTC)


class PostgresStatements:
    """Implements `ledger.application.ports.statements.Statements`."""

    def __init__(
        self,
        connections: Autocommit,
        long_tails: LongTails = NO_LONG_TAILS,
        *,
        tail_entries_max: int = TAIL_ENTRIES_MAX,
    ) -> None:
        """Accounts with many entries beyond their newest mark are reported to `long_tails`."""
        self._connections = connections
        self._long_tails = long_tails
        self._tail_entries_max = tail_entries_max

    async def first_page(self, query: StatementQuery, limit: int) -> StatementPage | None:
        try:
            return await self._first_page(query, limit)
        except DatabaseTimeout:
            await report_timed_out(
                self._connections, self._long_tails, SELECT_ACCOUNT_OF_RESTAURANT, *query.account
            )
            raise

    async def _first_page(self, query: StatementQuery, limit: int) -> StatementPage | None:
        async with self._connections() as connection:
            account = await connection.fetchval(
                SELECT_LONG_TAIL, *query.account, self._tail_entries_max
            )
        if account is not None:
            await self._long_tails.shortened(account)
        # One database snapshot, so that the balances and the entries agree.
        async with (
            self._connections() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = await connection.fetchrow(
                SELECT_MOMENT, *query.account, query.start_at, query.end_at
            )
            if row is None:
                return None
            self._long_tails.report([(row["balance_account_id"], row["tail_entries"])])
            moment = StatementMoment(
                read_at=row["read_at"],
                transactions_end=int(row["transactions_end"]),
                transactions_open=tuple(int(txid) for txid in row["transactions_open"]),
                opening_minor=int(row["opening_minor"]),
                closing_minor=int(row["closing_minor"]),
            )
            return await _page(connection, query, moment, None, limit)

    async def page(self, query: StatementQuery, after: StatementPlace, limit: int) -> StatementPage:
        async with self._connections() as connection:
            return await _page(connection, query, after.moment, after, limit)


class _Reach(NamedTuple):
    """The part of an account that one read covers: a row of SELECT_REACH."""

    first_txid: str
    end_txid: str
    tail_txid: str
    complete_before: datetime | None


async def _page(
    connection: Connection,
    query: StatementQuery,
    moment: StatementMoment,
    after: StatementPlace | None,
    limit: int,
) -> StatementPage:
    """Reads a part of the account, then larger ones, until the page is full or the period ends."""
    start_at = (query.start_at or _BEGINNING) if after is None else after.recorded_at
    end_at = query.end_at or moment.read_at
    conditions = _Conditions(query, after)
    rows: list[Row] = []
    # As many entries as a page needs, and those between the last mark before the page and the page.
    reach_entries = limit + 1 + MARK_ENTRIES
    while True:
        (row,) = await connection.fetch(
            SELECT_REACH, *query.account, start_at, end_at, reach_entries
        )
        reach = _Reach(*row)
        until = end_at if reach.complete_before is None else min(end_at, reach.complete_before)
        parameters = [
            start_at,
            until,
            limit + 1 - len(rows),
            reach.first_txid,
            reach.end_txid,
            reach.tail_txid,
        ]
        rows += await connection.fetch(
            SELECT_PAGE.format(conditions=conditions.sql),
            *query.account,
            *parameters,
            *conditions.values,
        )
        # One more than asked for shows whether more follow.
        if len(rows) > limit or until == end_at:
            return StatementPage(
                items=_entries(query, rows[:limit]),
                next_place=_place_of(moment, rows, limit),
                moment=moment,
            )
        start_at = until
        reach_entries = min(REACH_GROWTH * reach_entries, REACH_ENTRIES_MAX)


class _Conditions:
    """The further conditions on the entries of a page, as SQL and its parameters."""

    def __init__(self, query: StatementQuery, after: StatementPlace | None) -> None:
        self.sql = ""
        self.values: list[object] = []
        if after is not None:
            self._add(
                AFTER,
                after.recorded_at,
                str(after.recorded_txid),
                after.transaction_id,
                after.position,
            )
            moment = after.moment
            seen_anyway_at = moment.read_at - BOOKING_TIME_MAX
            self._add(
                SEEN,
                seen_anyway_at,
                str(moment.transactions_end),
                [str(txid) for txid in moment.transactions_open],
            )
        if query.entry_types:
            self._add(
                "e.entry_type = ANY (${}::text[])",
                [entry_type.value for entry_type in query.entry_types],
            )
        if query.event_id is not None:
            self._add("e.event_id = ${}", query.event_id)
        if query.payout_id is not None:
            self._add("e.payout_id = ${}", query.payout_id)

    def _add(self, condition: str, *values: object) -> None:
        first = PAGE_PARAMETERS + len(self.values) + 1
        self.sql += f" AND {condition.format(*range(first, first + len(values)))}"
        self.values += values


def _place_of(moment: StatementMoment, rows: Sequence[Row], limit: int) -> StatementPlace | None:
    if len(rows) <= limit:
        return None
    last = rows[limit - 1]
    recorded_at = UNIX_EPOCH + timedelta(microseconds=last["recorded_at_microseconds"])
    return StatementPlace(
        moment, recorded_at, last["recorded_txid"], last["transaction_id"], last["position"]
    )


def _entries(query: StatementQuery, rows: Sequence[Row]) -> list[StoredEntry]:
    holder_id, currency = query.account
    # By place: looking columns up by name takes as long as reading them.
    return [
        StoredEntry(
            transaction_id,
            position,
            _ENTRY_TYPES[entry_type],
            _LEDGER_ACCOUNTS[debit],
            _LEDGER_ACCOUNTS[credit],
            amount_minor,
            holder_id,
            currency,
            available_at,
            occurred_at,
            recorded_at,
            event_id,
            payout_id,
        )
        for (
            transaction_id,
            position,
            entry_type,
            debit,
            credit,
            amount_minor,
            available_at,
            occurred_at,
            recorded_at,
            event_id,
            payout_id,
            _,
        ) in rows
    ]
