"""Balances on PostgreSQL: one query adds a snapshot and the entries beyond it.

There are two such queries for each kind of holder, restaurants and accounts. That of present
balances adds every entry at or above the horizon of the latest snapshot. That of past balances
starts from a snapshot that counts nothing recorded at the instant or later, and statement marks
show it where the entries recorded before the instant end.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Generic, Literal, TypeVar

from ledger.application.ports.balances import (
    AsksForBalance,
    BalanceQuery,
    HasInstant,
    LongTails,
    TailLength,
)
from ledger.domain.balances import Balance
from ledger.errors import DatabaseTimeout
from ledger.infrastructure.postgres.movements import signed_minor
from ledger.infrastructure.postgres.sessions.driver import Row
from ledger.infrastructure.postgres.sessions.engine import Autocommit
from ledger.infrastructure.postgres.sessions.errors import refusals
from ledger.infrastructure.postgres.sessions.horizon import FIRST_HORIZON
from ledger.infrastructure.postgres.snapshots import (
    ENTRIES_MAX,
    NO_LONG_TAILS,
    SELECT_ACCOUNT_OF_RESTAURANT,
    available_between,
    latest_snapshot,
    matured_between,
    report_timed_out,
    tail,
)
from ledger.infrastructure.postgres.statement_marks import first_mark_from, newest_mark

_PAYABLE = signed_minor("restaurant_payable")
_RESERVED = signed_minor("payout_reserved")
_DISPUTED = signed_minor("dispute_hold")
_RESERVE_HELD = signed_minor("reserve_hold")
_ACCOUNT = "a.balance_account_id"

Query = TypeVar("Query", bound=AsksForBalance)
Found = TypeVar("Found", bound=HasInstant)

# The columns of a balance. An entry has matured when its available_at has passed; without
# available_at it is available from the beginning.
_SUMS = """settled.matured_minor + since.matured_minor + tail.available_minor AS available_minor,
       settled.payable_minor - settled.matured_minor - since.matured_minor + tail.pending_minor
         AS pending_minor,
       settled.reserved_minor + tail.reserved_minor AS reserved_minor,
       settled.disputed_minor + tail.disputed_minor AS disputed_minor,
       settled.reserve_held_minor + tail.reserve_held_minor AS reserve_held_minor,
       GREATEST(s.last_event_at, tail.last_event_at) AS last_event_at"""

# SQL, for FROM: what the lines of the snapshot "s" add up to.
_SETTLED = """(
  SELECT COALESCE(sum(l.total_minor) FILTER (WHERE l.ledger_account = 'restaurant_payable'), 0)
           AS payable_minor,
         COALESCE(sum(l.matured_minor) FILTER (WHERE l.ledger_account = 'restaurant_payable'), 0)
           AS matured_minor,
         COALESCE(sum(l.total_minor) FILTER (WHERE l.ledger_account = 'payout_reserved'), 0)
           AS reserved_minor,
         COALESCE(sum(l.total_minor) FILTER (WHERE l.ledger_account = 'dispute_hold'), 0)
           AS disputed_minor,
         COALESCE(sum(l.total_minor) FILTER (WHERE l.ledger_account = 'reserve_hold'), 0)
           AS reserve_held_minor
  FROM unnest(s.ledger_accounts, s.total_minors, s.matured_minors)
    AS l (ledger_account, total_minor, matured_minor)
)"""


def _matured_since(instant: str, entries: str) -> str:
    """SQL, for FROM: what matured from the taking of the snapshot "s" to an instant.

    Below zero where the instant is the earlier one. `entries` is SQL for FROM.
    """
    return f"""(
  SELECT count(*) AS entries_count,
         COALESCE(sum(CASE WHEN {instant} >= s.taken_at THEN 1 ELSE -1 END * {_PAYABLE}), 0)
           AS matured_minor
  FROM {entries}
)"""


def _tail_sums(instant: str, entries: str, entries_count: str) -> str:
    """SQL, for FROM: the sums of `entries`, which are SQL as well, with maturity at an instant.

    What matures is on neither of the accounts that hold money back: a CHECK of the table says so.
    Most entries mature, and are compared with none of these accounts.
    """
    return f"""(
  SELECT
    COALESCE(sum(e.payable_minor)
      FILTER (WHERE e.available_at IS NULL OR e.available_at <= {instant}), 0)
      AS available_minor,
    COALESCE(sum(e.payable_minor) FILTER (WHERE e.available_at > {instant}), 0)
      AS pending_minor,
    COALESCE(sum(e.reserved_minor) FILTER (WHERE e.available_at IS NULL), 0) AS reserved_minor,
    COALESCE(sum(e.disputed_minor) FILTER (WHERE e.available_at IS NULL), 0) AS disputed_minor,
    COALESCE(sum(e.reserve_held_minor) FILTER (WHERE e.available_at IS NULL), 0)
      AS reserve_held_minor,
    max(e.occurred_at) AS last_event_at,
    {entries_count} AS entries_count
  FROM ({entries}) AS e
)"""


_MATURED = f"""ledger_entries AS e
  WHERE {matured_between(_ACCOUNT, "s.taken_at", "moment.now_at")}"""
_TAIL = f"""
    SELECT e.available_at, e.occurred_at, {_PAYABLE} AS payable_minor,
           {_RESERVED} AS reserved_minor, {_DISPUTED} AS disputed_minor,
           {_RESERVE_HELD} AS reserve_held_minor
    FROM ledger_entries AS e
    WHERE {tail(_ACCOUNT)}
  """

# A row for each balance query ($1 and $2, parallel arrays) whose restaurant is registered, with
# zeros if it has no such account. `place` is the place of the balance query, from 1. One statement,
# hence one moment: it counts what was committed when it began.
#
# Sums of bigint are numeric and cannot overflow.
SELECT_BALANCES = f"""
WITH moment AS MATERIALIZED (SELECT ledger_now() AS now_at)
SELECT q.place, false AS is_past, moment.now_at AS read_at, a.balance_account_id,
       {_SUMS},
       since.entries_count + tail.entries_count AS entries_read
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS q (restaurant_id, currency, place)
CROSS JOIN moment
JOIN restaurants AS r ON r.restaurant_id = q.restaurant_id
LEFT JOIN balance_accounts AS a ON a.restaurant_id = q.restaurant_id AND a.currency = q.currency
LEFT JOIN LATERAL {latest_snapshot(_ACCOUNT)} AS s ON true
CROSS JOIN LATERAL {_SETTLED} AS settled
CROSS JOIN LATERAL {_matured_since("moment.now_at", _MATURED)} AS since
CROSS JOIN LATERAL {_tail_sums("moment.now_at", _TAIL, "count(*)")} AS tail
"""

# At most one entry more than $4: that shows that there are more. Those that the snapshot does not
# count are read and counted as well, but add nothing: there may be as many as were recorded since.
_PAST_MATURED = f"""(
    SELECT CASE WHEN e.recorded_txid < s.horizon THEN e.amount_minor END AS amount_minor,
           e.debit_account, e.credit_account
    FROM ledger_entries AS e
    WHERE {available_between(_ACCOUNT, "s.taken_at", "instant.as_of")}
    LIMIT $4::bigint + 1
  ) AS e"""


def past_tail(columns: Mapping[str, str], entries_max: str) -> str:
    """SQL: the entries that the snapshot "s" does not count, with `columns` of each by name.

    Those from the mark "above" up to the newest mark were recorded at the instant or later, so they
    are not read. The others below the newest mark are read if they are no more than `entries_max`.

    Of the entries beyond the newest mark nothing is known. They are all read, but at most one more
    than `entries_max`, and counted. The columns of those recorded at the instant or later are NULL.
    """
    named = ", ".join(f"{sql} AS {name}" for name, sql in columns.items())
    if_before = ", ".join(
        f"CASE WHEN e.recorded_at < instant.recorded_before THEN {sql} END"
        for sql in columns.values()
    )
    return f"""
    SELECT false AS is_beyond, {named}
    FROM ledger_entries AS e
    WHERE {tail(_ACCOUNT)} AND e.recorded_txid < COALESCE(above.horizon, newest.horizon)
      AND e.recorded_at < instant.recorded_before AND marked.entries_count <= {entries_max}
    UNION ALL (
      SELECT true, {if_before}
      FROM ledger_entries AS e
      WHERE e.balance_account_id = {_ACCOUNT}
        AND e.recorded_txid >= GREATEST(s.horizon, newest.horizon, {FIRST_HORIZON})
      LIMIT {entries_max} + 1
    )
  """


# SQL, for FROM: the instant "q.as_of" of a query. One in the future, or NULL, counts as now.
#
# OFFSET 0 keeps the instants from being calculated again for each entry.
PAST_INSTANT = """(
  SELECT LEAST(q.as_of, moment.now_at) AS as_of, (q.as_of < moment.now_at) IS TRUE AS is_past,
         CASE WHEN q.as_of < moment.now_at THEN q.as_of ELSE 'infinity' END AS recorded_before
  OFFSET 0
)"""

# SQL, for FROM: where the entries of a balance at "instant" begin and end. "marked" has how many
# there are between the snapshot and the mark at which they end.
PAST_REACH = f"""{newest_mark(_ACCOUNT)} AS newest ON true
LEFT JOIN LATERAL {first_mark_from(_ACCOUNT, "instant.recorded_before + newest.late_by_max")}
  AS above ON true
LEFT JOIN LATERAL {latest_snapshot(_ACCOUNT, recorded_before="instant.recorded_before")}
  AS s ON true
CROSS JOIN LATERAL (
  SELECT GREATEST(COALESCE(above.entries_count, newest.entries_count, 0)
           - COALESCE(s.entries_count, 0), 0) AS entries_count
) AS marked"""

_PAST_TAIL = past_tail(
    {
        "available_at": "e.available_at",
        "occurred_at": "e.occurred_at",
        "payable_minor": _PAYABLE,
        "reserved_minor": _RESERVED,
        "disputed_minor": _DISPUTED,
        "reserve_held_minor": _RESERVE_HELD,
    },
    "$4",
)

# As SELECT_BALANCES, each balance as of an instant ($3, parallel to $1 and $2). It counts what was
# recorded before the instant and had matured by it.
#
# A balance is wrong, and is_cut is true, if it takes more than about $4 entries.
SELECT_PAST_BALANCES = f"""
WITH moment AS MATERIALIZED (SELECT ledger_now() AS now_at)
SELECT q.place, instant.is_past, moment.now_at AS read_at, a.balance_account_id,
       {_SUMS},
       since.entries_count + tail.entries_count + marked.entries_count AS entries_read,
       GREATEST(since.entries_count, tail.entries_count, marked.entries_count) > $4 AS is_cut
FROM unnest($1::text[], $2::text[], $3::timestamptz[])
  WITH ORDINALITY AS q (restaurant_id, currency, as_of, place)
CROSS JOIN moment
JOIN restaurants AS r ON r.restaurant_id = q.restaurant_id
CROSS JOIN LATERAL {PAST_INSTANT} AS instant
LEFT JOIN balance_accounts AS a ON a.restaurant_id = q.restaurant_id AND a.currency = q.currency
LEFT JOIN LATERAL {PAST_REACH}
CROSS JOIN LATERAL {_SETTLED} AS settled
CROSS JOIN LATERAL {_matured_since("instant.as_of", _PAST_MATURED)} AS since
CROSS JOIN LATERAL {
    _tail_sums("instant.as_of", _PAST_TAIL, "count(*) FILTER (WHERE e.is_beyond)")
} AS tail
"""

# Balances that take more entries are not read together with others.
SHORT_READ_ENTRIES_MAX = 5_000


class GroupReader(ABC, Generic[Query, Found]):
    """Reads balances of one kind of holder, as `ledger.application.ports.balances` describes."""

    # The statement of present balances, and that of past ones, which also takes the instants and
    # how many entries to read of each.
    present: ClassVar[str]
    past: ClassVar[str]
    # Looks a balance account up by the keys of one query.
    account: ClassVar[str]

    def __init__(
        self,
        autocommit: Autocommit,
        long_tails: LongTails = NO_LONG_TAILS,
        *,
        short_read_entries_max: int = SHORT_READ_ENTRIES_MAX,
    ) -> None:
        self._autocommit = autocommit
        self._long_tails = long_tails
        self._short_read_entries_max = short_read_entries_max

    @abstractmethod
    def _keys(self, queries: Sequence[Query]) -> tuple[list[str], ...]:
        """What names the balance accounts of queries, as parallel lists."""

    @abstractmethod
    def _found(self, query: Query, row: Row, as_of: datetime) -> Found:
        """The balance in a row."""

    async def read(self, queries: Sequence[Query]) -> list[Found | None]:
        if any(query.as_of for query in queries):
            rows = await self._past_rows(queries, ENTRIES_MAX)
        else:
            rows = await self._rows(queries, self.present)
        balances: list[Found | None] = [None] * len(queries)
        for row in rows:
            place = row["place"] - 1
            balances[place] = self._balance(queries[place], row)
        return balances

    async def read_short(
        self, queries: Sequence[Query]
    ) -> list[Found | Literal[TailLength.LONG] | None]:
        rows = await self._past_rows(queries, self._short_read_entries_max)
        balances: list[Found | Literal[TailLength.LONG] | None] = [None] * len(queries)
        for row in rows:
            place = row["place"] - 1
            balances[place] = (
                TailLength.LONG if row["is_cut"] else self._balance(queries[place], row)
            )
        return balances

    async def _past_rows(self, queries: Sequence[Query], entries_max: int) -> list[Row]:
        instants = [query.as_of for query in queries]
        return await self._rows(queries, self.past, instants, entries_max)

    async def _rows(
        self, queries: Sequence[Query], statement: str, *arguments: object
    ) -> list[Row]:
        keys = self._keys(queries)
        try:
            with refusals():
                async with self._autocommit() as connection:
                    rows = await connection.fetch(statement, *keys, *arguments)
        except DatabaseTimeout:
            if len(queries) == 1:
                only = [key for (key,) in keys]
                await report_timed_out(self._autocommit, self._long_tails, self.account, *only)
            raise
        self._long_tails.report((row["balance_account_id"], row["entries_read"]) for row in rows)
        return rows

    def _balance(self, query: Query, row: Row) -> Found:
        # Not the instant that the row returns: the driver reads the first instant of the year 1
        # back as minus infinity.
        as_of = query.as_of if query.as_of is not None and row["is_past"] else row["read_at"]
        return self._found(query, row, as_of)


class PostgresBalanceReader(GroupReader[BalanceQuery, Balance]):
    """Implements `ledger.application.ports.balances.PastBalanceReader` for restaurants."""

    present = SELECT_BALANCES
    past = SELECT_PAST_BALANCES
    account = SELECT_ACCOUNT_OF_RESTAURANT

    def _keys(self, queries: Sequence[BalanceQuery]) -> tuple[list[str], ...]:
        return (
            [query.account.holder_id for query in queries],
            [query.account.currency for query in queries],
        )

    def _found(self, query: BalanceQuery, row: Row, as_of: datetime) -> Balance:
        return Balance(
            account=query.account,
            available_minor=int(row["available_minor"]),
            pending_minor=int(row["pending_minor"]),
            reserved_minor=int(row["reserved_minor"]),
            disputed_minor=int(row["disputed_minor"]),
            reserve_held_minor=int(row["reserve_held_minor"]),
            last_event_at=row["last_event_at"],
            as_of=as_of,
        )
