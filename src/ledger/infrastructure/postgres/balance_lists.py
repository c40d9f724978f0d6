"""Balances of many restaurants on PostgreSQL, read as GetBalance reads one, and what matures."""

from datetime import UTC, date, timedelta

from ledger.application.ports.balance_lists import (
    BalancesQuery,
    BalanceTotals,
    Maturities,
    Maturity,
)
from ledger.application.ports.balances import BalanceQuery, LongTails
from ledger.application.ports.pages import Page
from ledger.domain.balances import Balance, BalanceAccount
from ledger.domain.fields import after_prefix
from ledger.domain.payouts import day_bounds
from ledger.infrastructure.postgres.balance_reader import SELECT_BALANCES, PostgresBalanceReader
from ledger.infrastructure.postgres.movements import signed_minor
from ledger.infrastructure.postgres.sessions.engine import Autocommit, allow_seconds
from ledger.infrastructure.postgres.snapshots import NO_LONG_TAILS
from ledger.zones import settlement_zone

# A page looks at so many restaurants at most: some 50 ms of work once they have snapshots.
LOOKED_AT_MAX = 1_000
# For a statement over all restaurants of a currency.
ALL_TIMEOUT_SECONDS = 120

# Restaurants with an account in the currency $1 after the id $2, whose ids are in [$3, $4).
SELECT_RESTAURANTS = """
SELECT restaurant_id FROM balance_accounts
WHERE currency = $1 AND restaurant_id > $2 AND restaurant_id >= $3
  AND ($4::text IS NULL OR restaurant_id < $4)
ORDER BY restaurant_id
LIMIT $5
"""

# The filters $3 to $5 on a balance, as `_passes` has them.
_PASSES = """(NOT $3::boolean OR available_minor + pending_minor < 0)
  AND (NOT $4::boolean OR disputed_minor <> 0 OR reserve_held_minor <> 0)
  AND ($5::bigint IS NULL OR available_minor >= $5)"""

SELECT_TOTALS = f"""
SELECT count(*) AS restaurants_count, COALESCE(sum(available_minor), 0) AS available_minor,
       COALESCE(sum(pending_minor), 0) AS pending_minor,
       COALESCE(sum(reserved_minor), 0) AS reserved_minor,
       COALESCE(sum(disputed_minor), 0) AS disputed_minor,
       COALESCE(sum(reserve_held_minor), 0) AS reserve_held_minor
FROM ({SELECT_BALANCES}) AS balance
WHERE {_PASSES}
"""

_PAYABLE = signed_minor("restaurant_payable")
# What is pending at this moment in the currency $1, of the restaurant $2 or of all, by the number
# of the day: $3 are the instants at which the days begin, and that at which the last one ends. The
# index on available_at has exactly these entries of an account. One row at least, so that the
# moment is known.
SELECT_MATURITIES = f"""
WITH moment AS MATERIALIZED (SELECT ledger_now() AS now_at),
maturing AS (
  SELECT width_bucket(e.available_at, $3::timestamptz[]) AS day, {_PAYABLE} AS amount_minor
  FROM moment
  CROSS JOIN balance_accounts AS a
  CROSS JOIN LATERAL (
    SELECT e.available_at, e.debit_account, e.credit_account, e.amount_minor
    FROM ledger_entries AS e
    WHERE e.balance_account_id = a.balance_account_id AND e.available_at > moment.now_at
      AND 'restaurant_payable' IN (e.debit_account, e.credit_account)
    OFFSET 0
  ) AS e
  WHERE a.currency = $1 AND a.restaurant_id IS NOT NULL
    AND ($2::text IS NULL OR a.restaurant_id = $2)
)
SELECT moment.now_at, sums.day, sums.amount_minor, sums.entries_count
FROM moment
LEFT JOIN (
  SELECT day, sum(amount_minor) AS amount_minor, count(*) AS entries_count
  FROM maturing
  GROUP BY day
) AS sums ON true
ORDER BY sums.day
"""
SELECT_NOW = "SELECT ledger_now()"


class PostgresBalanceLists:
    """Implements `ledger.application.ports.balance_lists.BalanceLists`."""

    def __init__(
        self,
        autocommit: Autocommit,
        long_tails: LongTails = NO_LONG_TAILS,
        *,
        settlement_timezone: str,
        looked_at_max: int = LOOKED_AT_MAX,
    ) -> None:
        """`settlement_timezone` is the IANA zone in which a day begins and ends. A page looks at
        `looked_at_max` restaurants at most.
        """
        self._autocommit = autocommit
        self._reader = PostgresBalanceReader(autocommit, long_tails)
        self._zone = settlement_zone(settlement_timezone)
        self._looked_at_max = looked_at_max

    async def page(self, query: BalancesQuery, after: str, page_size: int) -> Page[Balance, str]:
        limit = min(self._looked_at_max, page_size + 1)
        found: list[Balance] = []
        looked_at = 0
        while looked_at < self._looked_at_max and len(found) <= page_size:
            ids = await self._restaurants(query, after, limit)
            read = await self._reader.read(
                [BalanceQuery(BalanceAccount(each, query.currency), None) for each in ids]
            )
            found += [
                balance for balance in read if balance is not None and _passes(query, balance)
            ]
            if len(ids) < limit:
                return Page.cut(found, page_size, lambda balance: balance.account.holder_id)
            after = ids[-1]
            looked_at += len(ids)
        if len(found) > page_size:
            return Page.cut(found, page_size, lambda balance: balance.account.holder_id)
        return Page(found, after)

    async def _restaurants(self, query: BalancesQuery, after: str, limit: int) -> list[str]:
        async with self._autocommit() as connection:
            rows = await connection.fetch(
                SELECT_RESTAURANTS, query.currency, after, *_bounds(query), limit
            )
        return [row["restaurant_id"] for row in rows]

    async def totals(self, query: BalancesQuery) -> BalanceTotals:
        async with self._autocommit() as connection, connection.transaction(readonly=True):
            await allow_seconds(connection, ALL_TIMEOUT_SECONDS)
            rows = await connection.fetch(
                SELECT_RESTAURANTS, query.currency, "", *_bounds(query), None
            )
            ids = [row["restaurant_id"] for row in rows]
            totals = await connection.fetchrow(
                SELECT_TOTALS,
                ids,
                [query.currency] * len(ids),
                query.in_the_red,
                query.held,
                query.min_available_minor,
                timeout=ALL_TIMEOUT_SECONDS,
            )
        if totals is None:
            raise RuntimeError("a query of sums has a row")
        return BalanceTotals(**{name: int(value) for name, value in totals.items()})

    async def maturities(self, currency: str, restaurant_id: str | None, days: int) -> Maturities:
        async with self._autocommit() as connection, connection.transaction(readonly=True):
            await allow_seconds(connection, ALL_TIMEOUT_SECONDS)
            now = await connection.fetchval(SELECT_NOW)
            today: date = now.astimezone(self._zone).date()
            dates = [today + timedelta(days=number) for number in range(days)]
            bounds = [day_bounds(day, self._zone) for day in dates]
            begins = [begin for begin, _ in bounds]
            rows = await connection.fetch(
                SELECT_MATURITIES,
                currency,
                restaurant_id,
                [*begins, bounds[-1][1]],
                timeout=ALL_TIMEOUT_SECONDS,
            )
        later_minor = 0
        listed: list[Maturity] = []
        for row in rows:
            if row["day"] is None:
                continue
            # Buckets are numbered from 1; what lies beyond the last bound has the number after it.
            if row["day"] > days:
                later_minor += int(row["amount_minor"])
            else:
                day = dates[row["day"] - 1]
                listed.append(Maturity(day, int(row["amount_minor"]), row["entries_count"]))
        return Maturities(listed, later_minor, rows[0]["now_at"].astimezone(UTC))


def _bounds(query: BalancesQuery) -> tuple[str, str | None]:
    """The bounds of the ids with the prefix of the query."""
    prefix = query.restaurant_id_prefix
    if prefix is None:
        return "", None
    return prefix, after_prefix(prefix)


def _passes(query: BalancesQuery, balance: Balance) -> bool:
    minimum = query.min_available_minor
    return (
        (not query.in_the_red or balance.available_minor + balance.pending_minor < 0)
        and (not query.held or bool(balance.disputed_minor or balance.reserve_held_minor))
        and (minimum is None or balance.available_minor >= minimum)
    )
