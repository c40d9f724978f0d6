"""The journal and the trial balance on PostgreSQL, read in one database snapshot."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, datetime, tzinfo
from functools import lru_cache

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.journals import (
    Days,
    Holder,
    HolderLines,
    JournalEntry,
    Period,
    Scope,
    TrialBalanceLine,
    period_of,
)
from ledger.errors import AccountNotFound, RestaurantNotFound
from ledger.infrastructure.postgres.sessions.driver import Connection, Row
from ledger.infrastructure.postgres.sessions.engine import (
    READ_WHOLE_TABLES,
    allow_seconds,
    autocommit,
)

# Rows that are in memory together.
PAGE_ROWS = 2_000
# Sorting the entries of a period precedes the first row. Who reads may then take time, as a pager
# does.
TIMEOUT_SECONDS = 3600
WORK_MEM = "64MB"

# The balance accounts `a` of a scope: $1 a restaurant, $2 an account, $3 the platform's, $4 a
# currency. Plans are made for the values, so a condition that is not wanted costs nothing.
_IN_SCOPE = """
  ($1::text IS NULL OR a.restaurant_id = $1)
  AND ($2::text IS NULL OR a.account_id = $2)
  AND (NOT $3::boolean OR (a.restaurant_id IS NULL AND a.account_id IS NULL))
  AND ($4::text IS NULL OR a.currency = $4)
"""
_CHART = f"ARRAY{[account.value for account in LedgerAccount]}"

# What each pair of ledger accounts moved before the period, $5, and in it, up to $6. An entry is
# read once; its two sides come apart when there are few rows left.
_MOVED = f"""
WITH moved AS (
  SELECT e.balance_account_id, e.debit_account, e.credit_account,
         COALESCE(sum(e.amount_minor) FILTER (WHERE e.recorded_at < $5::timestamptz), 0)
           AS before_minor,
         COALESCE(sum(e.amount_minor) FILTER (WHERE e.recorded_at >= $5::timestamptz), 0)
           AS period_minor,
         min(e.recorded_at) AS first_at
  FROM balance_accounts AS a
  JOIN ledger_entries AS e ON e.balance_account_id = a.balance_account_id
  WHERE {_IN_SCOPE} AND e.recorded_at < $6::timestamptz
  GROUP BY e.balance_account_id, e.debit_account, e.credit_account
),
line AS (
  SELECT a.restaurant_id, a.account_id, a.currency, s.ledger_account, s.opening_minor,
         s.debits_minor, s.credits_minor, m.first_at
  FROM moved AS m
  JOIN balance_accounts AS a ON a.balance_account_id = m.balance_account_id
  CROSS JOIN LATERAL (VALUES
    (m.debit_account, m.before_minor, m.period_minor, 0),
    (m.credit_account, -m.before_minor, 0, m.period_minor)
  ) AS s (ledger_account, opening_minor, debits_minor, credits_minor)
)
"""
_SUMS = """
  sum(opening_minor) AS opening_minor, sum(debits_minor) AS debits_minor,
  sum(credits_minor) AS credits_minor, min(first_at) AS first_at
"""

SELECT_TRIAL_BALANCE = f"""
{_MOVED}
SELECT currency, ledger_account, {_SUMS}
FROM line
GROUP BY currency, ledger_account
ORDER BY currency, array_position({_CHART}, ledger_account), ledger_account
"""

# For each holder: restaurants, then accounts, then the platform.
_OF_HOLDERS = f"""
{_MOVED}
SELECT restaurant_id, account_id, currency, ledger_account, {_SUMS}
FROM line
GROUP BY restaurant_id, account_id, currency, ledger_account
"""
_CHART_ORDER = f"array_position({_CHART}, ledger_account), ledger_account"
SELECT_LINES_OF_HOLDERS = (
    f"{_OF_HOLDERS} ORDER BY currency, restaurant_id, account_id, {_CHART_ORDER}"
)
SELECT_HOLDERS = f"""
SELECT s.restaurant_id, s.account_id, s.currency, s.ledger_account, s.opening_minor,
       s.debits_minor, s.credits_minor, s.first_at, COALESCE(r.name, h.name, '') AS holder_name
FROM ({_OF_HOLDERS}) AS s
LEFT JOIN restaurants AS r ON r.restaurant_id = s.restaurant_id
LEFT JOIN accounts AS h ON h.account_id = s.account_id
ORDER BY s.restaurant_id, s.account_id, {_CHART_ORDER}, s.currency
"""

# In the order in which they were recorded. The entries of a transaction id are together, as they
# were recorded together.
SELECT_ENTRIES = f"""
SELECT e.recorded_at, e.transaction_id, e.position, a.restaurant_id, a.account_id, a.currency,
       e.entry_type, e.debit_account, e.credit_account, e.amount_minor, e.event_id, e.payout_id,
       e.payment_id, e.occurred_at, e.available_at
FROM balance_accounts AS a
JOIN ledger_entries AS e ON e.balance_account_id = a.balance_account_id
WHERE {_IN_SCOPE} AND e.recorded_at >= $5::timestamptz AND e.recorded_at < $6::timestamptz
ORDER BY e.recorded_at, e.transaction_id, e.position, e.balance_account_id
"""

# By their primary keys, for the ids of one page.
SELECT_REFERENCES = """
SELECT event_id AS id, reference FROM processor_events WHERE event_id = ANY ($1::text[])
"""
SELECT_PAYMENT_REFERENCES = """
SELECT payment_id AS id, reference FROM payments WHERE payment_id = ANY ($1::text[])
"""
SELECT_CURRENCIES = f"""
SELECT DISTINCT a.currency FROM balance_accounts AS a WHERE {_IN_SCOPE} ORDER BY a.currency
"""


class BooksReading:
    """The books of a scope in a period, all in one database snapshot.

    Only what was committed before the snapshot is in it. Reads one thing after the other.
    """

    def __init__(
        self, connection: Connection, scope: Scope, period: Period, now_at: datetime
    ) -> None:
        self._connection = connection
        self.scope = scope
        self.period = period
        self.now_at = now_at
        self._of_scope = (
            scope.restaurant_id,
            scope.account_id,
            scope.platform,
            scope.currency,
        )
        self._parameters = (*self._of_scope, period.start_at, period.end_at)

    async def currencies(self) -> list[str]:
        """The currencies of the scope, those without entries included, in their order."""
        statement = await self._connection.prepare(SELECT_CURRENCIES)
        rows = await statement.fetch(*self._of_scope, timeout=TIMEOUT_SECONDS + 5)
        return [row["currency"] for row in rows]

    async def trial_balance(self) -> list[TrialBalanceLine]:
        """A line for each ledger account and currency, in the order of currency and chart."""
        statement = await self._connection.prepare(SELECT_TRIAL_BALANCE)
        rows = await statement.fetch(*self._parameters, timeout=TIMEOUT_SECONDS + 5)
        return [_line(row, None) for row in rows]

    async def lines_of_holders(self) -> AsyncIterator[list[TrialBalanceLine]]:
        """Pages of lines for each currency, holder and ledger account, in this order."""
        async for rows in self._pages(SELECT_LINES_OF_HOLDERS):
            yield [_line(row, _holder_of(row)) for row in rows]

    async def holders(self) -> AsyncIterator[HolderLines]:
        """The holders that have entries, each with its lines in the order of the chart."""
        found: HolderLines | None = None
        async for rows in self._pages(SELECT_HOLDERS):
            for row in rows:
                holder = _holder_of(row)
                if found is None or found.holder != holder:
                    if found is not None:
                        yield found
                    found = HolderLines(holder, row["holder_name"], [])
                found.lines.append(_line(row, holder))
        if found is not None:
            yield found

    async def entries(self) -> AsyncIterator[list[JournalEntry]]:
        """Pages of entries in the order in which they were recorded."""
        days = Days(self.period.zone)
        async for rows in self._pages(SELECT_ENTRIES):
            events = await self._references(SELECT_REFERENCES, rows, "event_id")
            payments = await self._references(SELECT_PAYMENT_REFERENCES, rows, "payment_id")
            yield [
                JournalEntry(
                    day=days.of(row["recorded_at"]),
                    recorded_at=row["recorded_at"],
                    transaction_id=row["transaction_id"],
                    position=row["position"],
                    holder=_holder_of(row),
                    currency=row["currency"],
                    entry_type=row["entry_type"],
                    debit_account=row["debit_account"],
                    credit_account=row["credit_account"],
                    amount_minor=row["amount_minor"],
                    event_id=row["event_id"],
                    payout_id=row["payout_id"],
                    payment_id=row["payment_id"],
                    reference=events.get(row["event_id"]) or payments.get(row["payment_id"]) or "",
                    occurred_at=row["occurred_at"],
                    available_at=row["available_at"],
                )
                for row in rows
            ]

    async def _pages(self, statement: str) -> AsyncIterator[list[Row]]:
        prepared = await self._connection.prepare(statement)
        cursor = await prepared.cursor(*self._parameters, timeout=TIMEOUT_SECONDS + 5)
        while rows := await cursor.fetch(PAGE_ROWS, timeout=TIMEOUT_SECONDS + 5):
            yield rows

    async def _references(
        self, statement: str, rows: list[Row], column: str
    ) -> dict[str | None, str]:
        ids = sorted({row[column] for row in rows if row[column] is not None})
        if not ids:
            return {}
        found = await self._connection.fetch(statement, ids)
        return {row["id"]: row["reference"] for row in found}


@asynccontextmanager
async def read_books(
    engine: AsyncEngine,
    scope: Scope,
    *,
    first_day: date | None,
    end_day: date | None,
    zone: tzinfo,
) -> AsyncIterator[BooksReading]:
    """The books of a scope, read in one read-only transaction.

    The period is as for `period_of`, and today is by the clock of the books. Raises InvalidRequest,
    RestaurantNotFound, AccountNotFound, DatabaseUnavailable, DatabaseTimeout.
    """
    async with (
        autocommit(engine) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await allow_seconds(connection, TIMEOUT_SECONDS)
        await connection.execute(
            f"SET LOCAL idle_in_transaction_session_timeout = '{TIMEOUT_SECONDS}s';"
            f" SET LOCAL work_mem = '{WORK_MEM}'; SET LOCAL plan_cache_mode = 'force_custom_plan'"
        )
        now_at: datetime = await connection.fetchval("SELECT ledger_now()")
        period = period_of(first_day, end_day, zone, now_at)
        await _require_holder(connection, scope)
        if scope.restaurant_id is None and scope.account_id is None:
            await connection.execute(READ_WHOLE_TABLES)
        yield BooksReading(connection, scope, period, now_at)


async def _require_holder(connection: Connection, scope: Scope) -> None:
    if scope.restaurant_id is not None and not await connection.fetchval(
        "SELECT EXISTS (SELECT FROM restaurants WHERE restaurant_id = $1)", scope.restaurant_id
    ):
        raise RestaurantNotFound(scope.restaurant_id)
    if scope.account_id is not None and not await connection.fetchval(
        "SELECT EXISTS (SELECT FROM accounts WHERE account_id = $1)", scope.account_id
    ):
        raise AccountNotFound(scope.account_id)


def _holder_of(row: Row) -> Holder:
    return _holder(row["restaurant_id"], row["account_id"])


# Cached, since there are far more entries than holders.
@lru_cache(maxsize=4096)
def _holder(restaurant_id: str | None, account_id: str | None) -> Holder:
    return Holder(restaurant_id, account_id)


def _line(row: Row, holder: Holder | None) -> TrialBalanceLine:
    # PostgreSQL adds bigint up as numeric.
    return TrialBalanceLine(
        holder=holder,
        currency=row["currency"],
        ledger_account=row["ledger_account"],
        opening_minor=int(row["opening_minor"]),
        debits_minor=int(row["debits_minor"]),
        credits_minor=int(row["credits_minor"]),
        first_at=row["first_at"],
    )
