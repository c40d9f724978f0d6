"""Statements of balance accounts on PostgreSQL, page by page.

A statement is the entries of a period on one ledger account, as of the moment of its first page: on
restaurant_payable for a restaurant, on account_funds for an account.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Generic, NamedTuple, Self, TypeVar

from ledger.application.ports.balances import LongTails
from ledger.application.ports.events import StoredEntry
from ledger.application.ports.statements import (
    AccountStatementQuery,
    AsksForStatement,
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
from ledger.infrastructure.postgres.snapshots import NO_LONG_TAILS, report_timed_out
from ledger.infrastructure.postgres.statement_marks import (
    FUNDS_MINOR,
    MARK_ENTRIES,
    PAYABLE_MINOR,
    first_mark_from,
    last_mark_before,
    newest_mark,
    valid_marks,
)

Query = TypeVar("Query", bound=AsksForStatement)

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


@dataclass(frozen=True, slots=True)
class _Holders:
    """One kind of holder in SQL.

    `keys_count` parameters, from $1 on, are the keys of a balance account; `account` is the
    condition with which they select it from balance_accounts. `known` is SQL, for FROM: a row for a
    known holder with its balance account "a", if it meets `is_asked`. `minor` is what an entry adds
    to the ledger account, and the column of marks with the sum of that has the name `sum_minor`.
    """

    keys_count: int
    account: str
    known: str
    is_asked: str
    ledger_account: str
    minor: str
    sum_minor: str
    # Further columns of what a page reads first.
    reach_columns: str = ""

    @property
    def account_id(self) -> str:
        """SQL: the id of the balance account; NULL if there is none."""
        return f"(SELECT balance_account_id FROM balance_accounts WHERE {self.account})"

    def parameter(self, number: int) -> str:
        """SQL: a parameter after the keys, counted from 1."""
        return f"${self.keys_count + number}"


_RESTAURANTS = _Holders(
    keys_count=2,
    account="restaurant_id = $1 AND currency = $2",
    known="""restaurants AS r
LEFT JOIN balance_accounts AS a ON a.restaurant_id = r.restaurant_id AND a.currency = $2""",
    is_asked="r.restaurant_id = $1",
    ledger_account="restaurant_payable",
    minor=PAYABLE_MINOR,
    sum_minor="payable_minor",
)
_ACCOUNTS = _Holders(
    keys_count=1,
    account="account_id = $1",
    known="balance_accounts AS a",
    is_asked="a.account_id = $1",
    ledger_account="account_funds",
    minor=FUNDS_MINOR,
    sum_minor="funds_minor",
    reach_columns=""",
       (SELECT currency FROM balance_accounts WHERE account_id = $1) AS currency""",
)


def _sum_before(holders: _Holders, instant: str) -> str:
    """SQL, for FROM: the sum on the ledger account, available and pending together, at an instant.

    Also the number of entries that no mark counts.
    """
    below = last_mark_before("a.balance_account_id", instant, holders.sum_minor)
    return f"""(
    SELECT COALESCE(below.{holders.sum_minor}, 0) + between_marks.sum_minor + tail.sum_minor
           AS sum_minor,
           tail.entries_count AS tail_entries
    FROM (SELECT) AS one
    LEFT JOIN LATERAL {newest_mark("a.balance_account_id")} AS newest ON true
    LEFT JOIN LATERAL {below} AS below ON true
    LEFT JOIN LATERAL {first_mark_from("a.balance_account_id", f"{instant} + newest.late_by_max")}
      AS above ON true
    CROSS JOIN LATERAL (
      SELECT COALESCE(sum({holders.minor}), 0) AS sum_minor
      FROM ledger_entries AS e
      WHERE e.balance_account_id = a.balance_account_id
        AND e.recorded_txid >= COALESCE(below.horizon, {FIRST_HORIZON})
        AND e.recorded_txid < COALESCE(above.horizon, newest.horizon) AND e.recorded_at < {instant}
    ) AS between_marks
    CROSS JOIN LATERAL (
      SELECT count(*) AS entries_count,
             COALESCE(sum({holders.minor}) FILTER (WHERE e.recorded_at < {instant}), 0)
               AS sum_minor
      FROM ledger_entries AS e
      WHERE e.balance_account_id = a.balance_account_id
        AND e.recorded_txid >= COALESCE(newest.horizon, {FIRST_HORIZON})
    ) AS tail
  )"""


def _select_moment(holders: _Holders) -> str:
    """The moment that a statement shows, and its balances: one row for a known holder, none for an
    unknown one. The row has the transactions that this database snapshot sees, so that later pages,
    which see more, can leave out what came after. The parameters are the period.

    The balances are those as of the same instants, available and pending together. Sums of bigint
    are numeric and cannot overflow. Without a start the period begins at minus infinity, before
    which nothing is recorded.
    """
    start_at, end_at = (f"{holders.parameter(number)}::timestamptz" for number in (1, 2))
    return f"""
WITH moment AS MATERIALIZED (SELECT ledger_now() AS now_at)
SELECT moment.now_at AS read_at, {next_txid("seen.transactions")}::text AS transactions_end,
       ARRAY(SELECT open.txid::text FROM {open_txids("seen.transactions")} AS open (txid))
         AS transactions_open,
       opening.sum_minor AS opening_minor, closing.sum_minor AS closing_minor,
       a.balance_account_id,
       closing.tail_entries
FROM {holders.known}
CROSS JOIN moment
CROSS JOIN (SELECT {DATABASE_SNAPSHOT} AS transactions) AS seen
CROSS JOIN LATERAL {_sum_before(holders, f"COALESCE({start_at}, '-infinity')")} AS opening
CROSS JOIN LATERAL {_sum_before(holders, f"COALESCE({end_at}, moment.now_at)")} AS closing
WHERE {holders.is_asked}
"""


def _select_long_tail(holders: _Holders) -> str:
    """The balance account, if it has more entries beyond its newest mark than the parameter."""
    return f"""
SELECT a.balance_account_id
FROM balance_accounts AS a
LEFT JOIN LATERAL {newest_mark("a.balance_account_id")} AS newest ON true
CROSS JOIN LATERAL (
  SELECT FROM ledger_entries AS e
  WHERE e.balance_account_id = a.balance_account_id
    AND e.recorded_txid >= COALESCE(newest.horizon, {FIRST_HORIZON})
  OFFSET {holders.parameter(1)} LIMIT 1
) AS more
WHERE {holders.account}
"""


# The step between two instants of PostgreSQL.
_NEXT_INSTANT = "interval '1 microsecond'"


def _select_reach(holders: _Holders) -> str:
    """Where the entries recorded in [START, complete_before) are: their txids are in [first_txid,
    end_txid) or from tail_txid on. They are the first entries of the period [START, END): at least
    ENTRIES of them, or all if there are fewer. complete_before is NULL if the ranges hold all
    entries of the period. The parameters are START, END and ENTRIES.

    A batch may be a thousand entries of one instant. So entries of the instant START, which may be
    on the previous page, are not among the ENTRIES, and the range ends after the last instant that
    is needed.

    Each of the five look-ups of marks looks up the present stay as well. One look-up that they
    share would be a sixth join, whose plan would have to be checked again.
    """
    start_at, end_at, entries = (holders.parameter(number) for number in (1, 2, 3))
    enough_at = f"LEAST(enough.last_recorded_at + {_NEXT_INSTANT}, {end_at}) + newest.late_by_max"
    after_start = f"{start_at}::timestamptz + {_NEXT_INSTANT}"
    return f"""
SELECT COALESCE(below.horizon, {FIRST_HORIZON})::text AS first_txid,
       COALESCE(above.horizon, newest.horizon, {FIRST_HORIZON})::text AS end_txid,
       COALESCE(newest.horizon, {FIRST_HORIZON})::text AS tail_txid,
       above.last_recorded_at - newest.late_by_max AS complete_before{holders.reach_columns}
FROM (SELECT {holders.account_id} AS balance_account_id OFFSET 0) AS a
LEFT JOIN LATERAL {newest_mark("a.balance_account_id")} AS newest ON true
LEFT JOIN LATERAL {last_mark_before("a.balance_account_id", start_at)} AS below ON true
LEFT JOIN LATERAL {last_mark_before("a.balance_account_id", after_start)} AS begun ON true
LEFT JOIN LATERAL (
    SELECT m.last_recorded_at
    FROM {valid_marks("a.balance_account_id")} AND m.last_recorded_at > {start_at}
      AND m.entries_count >= COALESCE(begun.entries_count, 0) + {entries}
    ORDER BY m.last_recorded_at, m.horizon
    LIMIT 1
  ) AS enough ON true
LEFT JOIN LATERAL {first_mark_from("a.balance_account_id", enough_at)} AS above ON true
"""


_COLUMNS = """e.transaction_id, e.position, e.entry_type, e.debit_account, e.credit_account,
         e.amount_minor, e.available_at, e.occurred_at, e.recorded_at, e.event_id,
         e.payout_id, e.payment_id, e.recorded_txid"""


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
       e.event_id, e.payout_id, e.payment_id, e.recorded_txid"""

PAGE_PARAMETERS = 6


def _select_page(holders: _Holders) -> str:
    """Entries of [START, END) on the ledger account. They are ordered by the instant, then by the
    txid, then by what is unique in a transaction: the order is total, and never changes once
    entries are there. {conditions} stands for what else the caller asks, so that each combination
    gets a plan.

    It reads only the two ranges of the primary key that `_select_reach` found. The parameters are
    START, END, how many entries, and the ends of the ranges; there are PAGE_PARAMETERS.
    """
    start_at, end_at, limit, first_txid, end_txid, tail_txid = (
        holders.parameter(number) for number in range(1, PAGE_PARAMETERS + 1)
    )
    return f"""
SELECT {_ROW}
FROM (
  SELECT {_COLUMNS}
  FROM (
    SELECT {_COLUMNS}
    FROM ledger_entries AS e
    WHERE e.balance_account_id = {holders.account_id}
      AND e.recorded_txid >= {first_txid}::text::xid8 AND e.recorded_txid < {end_txid}::text::xid8
      AND e.recorded_at >= {start_at} AND e.recorded_at < {end_at}
      AND '{holders.ledger_account}' IN (e.debit_account, e.credit_account)
    UNION ALL
    SELECT {_COLUMNS}
    FROM ledger_entries AS e
    WHERE e.balance_account_id = {holders.account_id} AND e.recorded_txid >= {tail_txid}::text::xid8
      AND e.recorded_at >= {start_at} AND e.recorded_at < {end_at}
      AND '{holders.ledger_account}' IN (e.debit_account, e.credit_account)
  ) AS e
  WHERE true {{conditions}}
  ORDER BY e.recorded_at, e.recorded_txid, e.transaction_id, e.position
  LIMIT {limit}
) AS e
ORDER BY e.recorded_at, e.recorded_txid, e.transaction_id, e.position
"""


@dataclass(frozen=True, slots=True)
class _Statements:
    """The SQL statements about one kind of holder."""

    keys_count: int
    account: str
    moment: str
    long_tail: str
    reach: str
    page: str

    @classmethod
    def about(cls, holders: _Holders) -> Self:
        return cls(
            holders.keys_count,
            f"SELECT {holders.account_id}",
            _select_moment(holders),
            _select_long_tail(holders),
            _select_reach(holders),
            _select_page(holders),
        )


RESTAURANT_STATEMENTS = _Statements.about(_RESTAURANTS)
ACCOUNT_STATEMENTS = _Statements.about(_ACCOUNTS)

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


class StatementReader(ABC, Generic[Query]):
    """Implements `ledger.application.ports.statements.Statements` for one kind of holder."""

    sql: ClassVar[_Statements]

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

    @abstractmethod
    def _keys(self, query: Query) -> tuple[str, ...]:
        """What names the balance account."""

    @abstractmethod
    def _filters(self, query: Query) -> Sequence[tuple[str, object]]:
        """Further conditions on the entries, in SQL, each with its parameter."""

    @abstractmethod
    def _entries(self, query: Query, currency: str, rows: Sequence[Row]) -> list[StoredEntry]:
        """The entries in rows of a page. `currency` is what the look-up of the reach found."""

    async def first_page(self, query: Query, limit: int) -> StatementPage | None:
        try:
            return await self._first_page(query, limit)
        except DatabaseTimeout:
            await report_timed_out(
                self._connections, self._long_tails, self.sql.account, *self._keys(query)
            )
            raise

    async def _first_page(self, query: Query, limit: int) -> StatementPage | None:
        keys = self._keys(query)
        async with self._connections() as connection:
            account = await connection.fetchval(self.sql.long_tail, *keys, self._tail_entries_max)
        if account is not None:
            await self._long_tails.shortened(account)
        # One database snapshot, so that the balances and the entries agree.
        async with (
            self._connections() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = await connection.fetchrow(self.sql.moment, *keys, query.start_at, query.end_at)
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
            return await self._page(connection, query, moment, None, limit)

    async def page(self, query: Query, after: StatementPlace, limit: int) -> StatementPage:
        async with self._connections() as connection:
            return await self._page(connection, query, after.moment, after, limit)

    async def _page(
        self,
        connection: Connection,
        query: Query,
        moment: StatementMoment,
        after: StatementPlace | None,
        limit: int,
    ) -> StatementPage:
        """Reads a part of the account, then larger ones, until the page is full or the period
        ends.
        """
        keys = self._keys(query)
        start_at = (query.start_at or _BEGINNING) if after is None else after.recorded_at
        end_at = query.end_at or moment.read_at
        conditions = _Conditions(self.sql.keys_count + PAGE_PARAMETERS, after)
        if query.entry_types:
            conditions.add(
                "e.entry_type = ANY (${}::text[])",
                [entry_type.value for entry_type in query.entry_types],
            )
        for condition, value in self._filters(query):
            conditions.add(condition, value)
        statement = self.sql.page.format(conditions=conditions.sql)
        rows: list[Row] = []
        # As many entries as a page needs, and those between the last mark before the page and it.
        reach_entries = limit + 1 + MARK_ENTRIES
        while True:
            (row,) = await connection.fetch(self.sql.reach, *keys, start_at, end_at, reach_entries)
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
            rows += await connection.fetch(statement, *keys, *parameters, *conditions.values)
            # One more than asked for shows whether more follow.
            if len(rows) > limit or until == end_at:
                return StatementPage(
                    items=self._entries(query, reach.currency, rows[:limit]),
                    next_place=_place_of(moment, rows, limit),
                    moment=moment,
                )
            start_at = until
            reach_entries = min(REACH_GROWTH * reach_entries, REACH_ENTRIES_MAX)


class PostgresStatements(StatementReader[StatementQuery]):
    """The statements of restaurants."""

    sql = RESTAURANT_STATEMENTS

    def _keys(self, query: StatementQuery) -> tuple[str, ...]:
        return query.account

    def _filters(self, query: StatementQuery) -> Sequence[tuple[str, object]]:
        filters: list[tuple[str, object]] = []
        if query.event_id is not None:
            filters.append(("e.event_id = ${}", query.event_id))
        if query.payout_id is not None:
            filters.append(("e.payout_id = ${}", query.payout_id))
        return filters

    def _entries(
        self, query: StatementQuery, currency: str, rows: Sequence[Row]
    ) -> list[StoredEntry]:
        holder_id, currency = query.account
        return _entries(rows, currency, restaurant_id=holder_id)


class PostgresAccountStatements(StatementReader[AccountStatementQuery]):
    """The statements of accounts."""

    sql = ACCOUNT_STATEMENTS

    def _keys(self, query: AccountStatementQuery) -> tuple[str, ...]:
        return (query.account_id,)

    def _filters(self, query: AccountStatementQuery) -> Sequence[tuple[str, object]]:
        return [] if query.payment_id is None else [("e.payment_id = ${}", query.payment_id)]

    def _entries(
        self, query: AccountStatementQuery, currency: str, rows: Sequence[Row]
    ) -> list[StoredEntry]:
        return _entries(rows, currency, account_id=query.account_id)


class _Reach(NamedTuple):
    """The part of an account that one read covers: a row of `_select_reach`."""

    first_txid: str
    end_txid: str
    tail_txid: str
    complete_before: datetime | None
    # Only of an account: the keys of a restaurant's balance account have it.
    currency: str = ""


class _Conditions:
    """The further conditions on the entries of a page, as SQL and its parameters."""

    def __init__(self, parameters_before: int, after: StatementPlace | None) -> None:
        self.sql = ""
        self.values: list[object] = []
        self._parameters_before = parameters_before
        if after is not None:
            self.add(
                AFTER,
                after.recorded_at,
                str(after.recorded_txid),
                after.transaction_id,
                after.position,
            )
            moment = after.moment
            seen_anyway_at = moment.read_at - BOOKING_TIME_MAX
            self.add(
                SEEN,
                seen_anyway_at,
                str(moment.transactions_end),
                [str(txid) for txid in moment.transactions_open],
            )

    def add(self, condition: str, *values: object) -> None:
        first = self._parameters_before + len(self.values) + 1
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


def _entries(
    rows: Sequence[Row],
    currency: str,
    *,
    restaurant_id: str | None = None,
    account_id: str | None = None,
) -> list[StoredEntry]:
    # By place: looking columns up by name takes as long as reading them.
    return [
        StoredEntry(
            transaction_id,
            position,
            _ENTRY_TYPES[entry_type],
            _LEDGER_ACCOUNTS[debit],
            _LEDGER_ACCOUNTS[credit],
            amount_minor,
            restaurant_id,
            currency,
            available_at,
            occurred_at,
            recorded_at,
            event_id,
            payout_id,
            payment_id,
            account_id,
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
            payment_id,
            _,
        ) in rows
    ]
