"""Payments on PostgreSQL, for readers and for the worker that releases what has expired."""

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.ports.pages import Page
from ledger.application.ports.payments import (
    ExpiryPlace,
    PaymentDetails,
    PaymentPlace,
    PaymentQuery,
)
from ledger.domain.payments import Payment
from ledger.infrastructure.postgres.event_ledger import stored_entry
from ledger.infrastructure.postgres.payment_columns import (
    OPERATION_COLUMNS,
    PAYMENT_COLUMNS,
    PAYMENT_HOLDERS,
    operation_of,
    payment_of,
)
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.sessions.fence import IS_REPLICATED, Fence

# A payment is returned with so many operations, the latest.
OPERATIONS_MAX = 1000
# A page of a list reads so many payments at most, whatever state it looks for.
SCANNED_MAX = 10_000

SELECT_PAYMENT = f"""
SELECT {PAYMENT_COLUMNS}, {IS_REPLICATED}
FROM payments AS p
{PAYMENT_HOLDERS}
WHERE p.payment_id = $1
"""

# The latest operations of a payment, at most $2, and how many there are in all: the number of the
# last one.
SELECT_OPERATIONS = f"""
SELECT {OPERATION_COLUMNS} FROM payment_operations AS o
WHERE o.payment_id = $1
ORDER BY o.sequence DESC
LIMIT $2
"""

# The entries of a payment and its operations, found in both balance accounts by the txids of the
# steps: three columns lead into the primary key of the entries. Of the operations only those from
# the number $2 on.
SELECT_ENTRIES = """
SELECT e.transaction_id, e.position, e.entry_type, e.debit_account, e.credit_account,
       e.amount_minor, a.restaurant_id, a.account_id, a.currency, e.available_at, e.occurred_at,
       e.recorded_at, e.event_id, e.payout_id, e.payment_id
FROM (
  SELECT 0 AS sequence, p.recorded_txid, p.transaction_id, p.payer_balance_account_id AS payer,
         p.payee_balance_account_id AS payee
  FROM payments AS p
  WHERE p.payment_id = $1
  UNION ALL
  SELECT o.sequence, o.recorded_txid, o.transaction_id, p.payer_balance_account_id,
         p.payee_balance_account_id
  FROM payment_operations AS o
  JOIN payments AS p ON p.payment_id = o.payment_id
  WHERE o.payment_id = $1 AND o.sequence >= $2
) AS step
CROSS JOIN LATERAL (VALUES (step.payer), (step.payee)) AS book (balance_account_id)
JOIN balance_accounts AS a ON a.balance_account_id = book.balance_account_id
JOIN ledger_entries AS e
  ON e.balance_account_id = book.balance_account_id AND e.recorded_txid = step.recorded_txid
 AND e.transaction_id = step.transaction_id
ORDER BY step.sequence, e.position
"""

# The balance accounts of a payer or a payee; of an unknown one no row, of one without any a NULL.
SELECT_BALANCE_ACCOUNTS = """
SELECT b.balance_account_id FROM accounts AS a
LEFT JOIN balance_accounts AS b ON b.account_id = a.account_id
WHERE a.account_id = $1
UNION ALL
SELECT b.balance_account_id FROM restaurants AS r
LEFT JOIN balance_accounts AS b ON b.restaurant_id = r.restaurant_id
WHERE r.restaurant_id = $2
"""

# The place at which a page that looks for a state ends at the latest: that of the SCANNED_MAX'th
# payment after the place ($2, $3) in the balance account that reaches it first. No row if there are
# fewer. {side} is the column of the payer or the payee.
SELECT_REACH = """
SELECT reached.recorded_at, reached.payment_id
FROM unnest($1::bigint[]) AS q (balance_account_id)
CROSS JOIN LATERAL (
  SELECT of_one.recorded_at, of_one.payment_id FROM payments AS of_one
  WHERE of_one.{side} = q.balance_account_id
    AND (of_one.recorded_at, of_one.payment_id) < (COALESCE($2::timestamptz, 'infinity'), $3::text)
  ORDER BY of_one.recorded_at DESC, of_one.payment_id DESC
  OFFSET $4 - 1 LIMIT 1
) AS reached
ORDER BY reached.recorded_at DESC, reached.payment_id DESC
LIMIT 1
"""

# A page of payments of the balance accounts $1, from before the place ($2, $3) down to the place
# ($6, $7), latest first. {side} is the column of the payer or the payee. Of each balance account
# one page at most is read.
SELECT_PAGE = f"""
SELECT {PAYMENT_COLUMNS}, {IS_REPLICATED}
FROM unnest($1::bigint[]) AS q (balance_account_id)
CROSS JOIN LATERAL (
  SELECT * FROM payments AS of_one
  WHERE of_one.{{side}} = q.balance_account_id
    AND (of_one.recorded_at, of_one.payment_id) < (COALESCE($2::timestamptz, 'infinity'), $3::text)
    AND (of_one.recorded_at, of_one.payment_id)
        >= (COALESCE($6::timestamptz, '-infinity'), $7::text)
    AND ($5::text IS NULL OR of_one.state = $5)
  ORDER BY of_one.recorded_at DESC, of_one.payment_id DESC
  LIMIT $4
) AS p
{PAYMENT_HOLDERS}
ORDER BY p.recorded_at DESC, p.payment_id DESC
LIMIT $4
"""

# By the words of the index, so that it serves. The sub-select is read once: the time by itself
# would be read for each payment that holds money. After the place ($2, $3), in the index's order.
SELECT_EXPIRED = """
SELECT expires_at, payment_id FROM payments
WHERE expires_at <= (SELECT ledger_now()) AND state IN ('AUTHORIZED', 'PARTIALLY_CAPTURED')
  AND (expires_at, payment_id) > (COALESCE($2::timestamptz, '-infinity'), $3::text)
ORDER BY expires_at, payment_id
LIMIT $1
"""


class PostgresPayments:
    """Implements `ledger.application.ports.payments.Payments`."""

    def __init__(
        self, engine: AsyncEngine, fence: Fence, *, scanned_max: int = SCANNED_MAX
    ) -> None:
        """A page that looks for a state reads at most `scanned_max` payments of an account."""
        self._engine = engine
        self._fence = fence
        self._scanned_max = scanned_max

    async def get(self, payment_id: str) -> PaymentDetails | None:
        # One database snapshot, so that the state, the operations and the entries agree.
        async with (
            autocommit(self._engine) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = await connection.fetchrow(SELECT_PAYMENT, payment_id)
            if row is None:
                return None
            operations = await connection.fetch(SELECT_OPERATIONS, payment_id, OPERATIONS_MAX)
            operations.reverse()
            first = operations[0]["sequence"] if operations else 1
            entries = await connection.fetch(SELECT_ENTRIES, payment_id, first)
        await self._fence.wait([row])
        return PaymentDetails(
            payment_of(row),
            operations[-1]["sequence"] if operations else 0,
            [operation_of(operation) for operation in operations],
            [stored_entry(entry) for entry in entries],
        )

    async def page(
        self, query: PaymentQuery, before: PaymentPlace | None, page_size: int
    ) -> Page[Payment, PaymentPlace] | None:
        side = (
            "payee_balance_account_id"
            if query.payer_account_id is None
            else "payer_balance_account_id"
        )
        account_id = query.payee_account_id or query.payer_account_id
        recorded_at, payment_id = before or (None, "")
        reach: PaymentPlace | None = None
        async with autocommit(self._engine) as connection:
            holder = await connection.fetch(
                SELECT_BALANCE_ACCOUNTS, account_id, query.payee_restaurant_id
            )
            if not holder:
                return None
            accounts = [row["balance_account_id"] for row in holder]
            if query.state is not None:
                row = await connection.fetchrow(
                    SELECT_REACH.format(side=side),
                    accounts,
                    recorded_at,
                    payment_id,
                    self._scanned_max,
                )
                reach = None if row is None else PaymentPlace(*row)
            rows = await connection.fetch(
                SELECT_PAGE.format(side=side),
                accounts,
                recorded_at,
                payment_id,
                page_size + 1,
                None if query.state is None else query.state.value,
                *(reach or (None, "")),
            )
        await self._fence.wait(rows)
        found = [payment_of(row) for row in rows]
        if len(found) <= page_size and reach is not None:
            # There may be more beyond what this page has read.
            return Page(found, reach)
        return Page.cut(
            found,
            page_size,
            lambda payment: PaymentPlace(payment.recorded_at, payment.order.payment_id),
        )

    async def expired(self, after: ExpiryPlace | None, limit: int) -> list[ExpiryPlace]:
        expires_at, payment_id = after or (None, "")
        async with autocommit(self._engine) as connection:
            rows = await connection.fetch(SELECT_EXPIRED, limit, expires_at, payment_id)
        return [ExpiryPlace(row["expires_at"], row["payment_id"]) for row in rows]
