"""Balances on PostgreSQL: one query adds the latest snapshot and the entries beyond it."""

from collections.abc import Sequence

from ledger.application.ports.balances import BalanceQuery, LongTails
from ledger.domain.balances import Balance
from ledger.errors import DatabaseTimeout
from ledger.infrastructure.postgres.movements import signed_minor
from ledger.infrastructure.postgres.sessions.driver import Row
from ledger.infrastructure.postgres.sessions.engine import Autocommit
from ledger.infrastructure.postgres.sessions.errors import refusals
from ledger.infrastructure.postgres.snapshots import (
    NO_LONG_TAILS,
    latest_snapshot,
    matured_between,
    report_timed_out,
    tail,
)

_PAYABLE = signed_minor("restaurant_payable")

# A row for each balance query ($1 to $3, parallel arrays) whose restaurant is registered, with
# zeros if it has no such account. `place` is the place of the balance query, from 1. One statement,
# hence one moment: it counts what was committed when it began. An instant in the future counts as
# now. A balance as of an instant starts from a snapshot that counts nothing recorded at that
# instant or later.
#
# Sums of bigint are numeric and cannot overflow. An entry has matured when its available_at has
# passed; without available_at it is available from the beginning.
SELECT_BALANCES = f"""
WITH moment AS MATERIALIZED (SELECT ledger_now() AS now_at)
SELECT q.place, instant.is_past, moment.now_at AS read_at, a.balance_account_id,
       settled.matured_minor + since.matured_minor + tail.available_minor AS available_minor,
       settled.payable_minor - settled.matured_minor - since.matured_minor + tail.pending_minor
         AS pending_minor,
       settled.reserved_minor + tail.reserved_minor AS reserved_minor,
       settled.disputed_minor + tail.disputed_minor AS disputed_minor,
       GREATEST(s.last_event_at, tail.last_event_at) AS last_event_at,
       since.entries_count + tail.entries_count AS entries_read
FROM unnest($1::text[], $2::text[], $3::timestamptz[])
  WITH ORDINALITY AS q (restaurant_id, currency, as_of, place)
CROSS JOIN moment
JOIN restaurants AS r ON r.restaurant_id = q.restaurant_id
CROSS JOIN LATERAL (
  SELECT LEAST(q.as_of, moment.now_at) AS as_of, (q.as_of < moment.now_at) IS TRUE AS is_past
) AS instant
LEFT JOIN balance_accounts AS a ON a.restaurant_id = q.restaurant_id AND a.currency = q.currency
LEFT JOIN LATERAL {
    latest_snapshot(
        "a.balance_account_id",
        recorded_before="CASE WHEN instant.is_past THEN instant.as_of ELSE 'infinity' END",
    )
} AS s ON true
CROSS JOIN LATERAL (
  SELECT COALESCE(sum(l.total_minor) FILTER (WHERE l.ledger_account = 'restaurant_payable'), 0)
           AS payable_minor,
         COALESCE(sum(l.matured_minor) FILTER (WHERE l.ledger_account = 'restaurant_payable'), 0)
           AS matured_minor,
         COALESCE(sum(l.total_minor) FILTER (WHERE l.ledger_account = 'payout_reserved'), 0)
           AS reserved_minor,
         COALESCE(sum(l.total_minor) FILTER (WHERE l.ledger_account = 'dispute_hold'), 0)
           AS disputed_minor
  FROM unnest(s.ledger_accounts, s.total_minors, s.matured_minors)
    AS l (ledger_account, total_minor, matured_minor)
) AS settled
CROSS JOIN LATERAL (
  SELECT count(*) AS entries_count,
         COALESCE(sum(CASE WHEN instant.as_of >= s.taken_at THEN 1 ELSE -1 END * {
    _PAYABLE
}), 0) AS matured_minor
  FROM ledger_entries AS e
  WHERE {matured_between("a.balance_account_id", "s.taken_at", "instant.as_of")}
) AS since
CROSS JOIN LATERAL (
  SELECT
    COALESCE(sum(e.payable_minor)
      FILTER (WHERE e.available_at IS NULL OR e.available_at <= instant.as_of), 0)
      AS available_minor,
    COALESCE(sum(e.payable_minor) FILTER (WHERE e.available_at > instant.as_of), 0)
      AS pending_minor,
    COALESCE(sum(e.reserved_minor), 0) AS reserved_minor,
    COALESCE(sum(e.disputed_minor), 0) AS disputed_minor,
    max(e.occurred_at) AS last_event_at,
    count(*) AS entries_count
  FROM (
    SELECT e.available_at, e.occurred_at, {_PAYABLE} AS payable_minor,
           {signed_minor("payout_reserved")} AS reserved_minor,
           {signed_minor("dispute_hold")} AS disputed_minor
    FROM ledger_entries AS e
    WHERE {tail("a.balance_account_id")} AND (NOT instant.is_past OR e.recorded_at < instant.as_of)
  ) AS e
) AS tail
"""


class PostgresBalanceReader:
    """Implements `ledger.application.ports.balances.BalanceReader`."""

    def __init__(self, autocommit: Autocommit, long_tails: LongTails = NO_LONG_TAILS) -> None:
        self._autocommit = autocommit
        self._long_tails = long_tails

    async def read(self, queries: Sequence[BalanceQuery]) -> list[Balance | None]:
        try:
            with refusals():
                async with self._autocommit() as connection:
                    rows = await connection.fetch(
                        SELECT_BALANCES,
                        [query.account.holder_id for query in queries],
                        [query.account.currency for query in queries],
                        [query.as_of for query in queries],
                    )
        except DatabaseTimeout:
            # A snapshot of now does not help to read the past.
            if len(queries) == 1 and queries[0].as_of is None:
                await report_timed_out(
                    self._autocommit,
                    self._long_tails,
                    queries[0].account,
                )
            raise
        self._long_tails.report((row["balance_account_id"], row["entries_read"]) for row in rows)
        balances: list[Balance | None] = [None] * len(queries)
        for row in rows:
            place = row["place"] - 1
            balances[place] = _balance(queries[place], row)
        return balances


def _balance(query: BalanceQuery, row: Row) -> Balance:
    return Balance(
        account=query.account,
        available_minor=int(row["available_minor"]),
        pending_minor=int(row["pending_minor"]),
        reserved_minor=int(row["reserved_minor"]),
        disputed_minor=int(row["disputed_minor"]),
        last_event_at=row["last_event_at"],
        # Not the instant that the row returns: the driver reads the first instant of the year 1
        # back as minus infinity.
        as_of=query.as_of if query.as_of is not None and row["is_past"] else row["read_at"],
    )
