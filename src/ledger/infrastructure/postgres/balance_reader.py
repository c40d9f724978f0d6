"""Balances on PostgreSQL: calculated from the entries by one statement, stored nowhere."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.domain.balances import Balance
from ledger.infrastructure.postgres.engine import autocommit

# One row for a registered restaurant, with zeros if it has no such account; no row for an unknown one. One statement, hence one
# snapshot: what it counts was committed when it began. An instant that is not past counts as now.
#
# Sums of bigint are numeric and cannot overflow. Matured means available_at reached; no available_at means from the beginning.
SELECT_BALANCE = """
SELECT instant.is_past, now() AS read_at, sums.available_minor, sums.pending_minor, sums.reserved_minor,
       sums.disputed_minor, sums.last_event_at
FROM restaurants AS r
CROSS JOIN (SELECT LEAST($3::timestamptz, now()) AS as_of, ($3::timestamptz < now()) IS TRUE AS is_past) AS instant
LEFT JOIN balance_accounts AS a ON a.restaurant_id = r.restaurant_id AND a.currency = $2
CROSS JOIN LATERAL (
  SELECT
    COALESCE(sum(e.payable_minor) FILTER (WHERE e.available_at IS NULL OR e.available_at <= instant.as_of), 0)
      AS available_minor,
    COALESCE(sum(e.payable_minor) FILTER (WHERE e.available_at > instant.as_of), 0) AS pending_minor,
    COALESCE(sum(e.reserved_minor), 0) AS reserved_minor,
    COALESCE(sum(e.disputed_minor), 0) AS disputed_minor,
    max(e.occurred_at) AS last_event_at
  FROM (
    SELECT available_at, occurred_at,
           CASE 'restaurant_payable' WHEN credit_account THEN amount_minor WHEN debit_account THEN -amount_minor END
             AS payable_minor,
           CASE 'payout_reserved' WHEN credit_account THEN amount_minor WHEN debit_account THEN -amount_minor END
             AS reserved_minor,
           CASE 'dispute_hold' WHEN credit_account THEN amount_minor WHEN debit_account THEN -amount_minor END
             AS disputed_minor
    FROM ledger_entries
    WHERE balance_account_id = a.balance_account_id
      AND (NOT instant.is_past OR recorded_at < instant.as_of)
  ) AS e
) AS sums
WHERE r.restaurant_id = $1
"""


class PostgresBalanceReader:
    """Implements `ledger.application.ports.BalanceReader`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def read(self, restaurant_id: str, currency: str, as_of: datetime | None) -> Balance | None:
        async with autocommit(self._engine) as connection:
            row = await connection.fetchrow(SELECT_BALANCE, restaurant_id, currency, as_of)
        if row is None:
            return None
        return Balance(
            restaurant_id=restaurant_id,
            currency=currency,
            available_minor=int(row["available_minor"]),
            pending_minor=int(row["pending_minor"]),
            reserved_minor=int(row["reserved_minor"]),
            disputed_minor=int(row["disputed_minor"]),
            last_event_at=row["last_event_at"],
            # As it was asked for: the driver reads the first instant of the year 1 back as minus infinity.
            as_of=as_of if as_of is not None and row["is_past"] else row["read_at"],
        )
