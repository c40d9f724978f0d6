"""Money that tests move by SQL, as payments post it."""

import uuid_utils
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import autocommit
from support.events import unique

# Payments $1, of $2 minor units each, from the account $3 to the account $4, whose entries have the
# ids $5. $6: with MANUAL they are only held.
INSERT_PAYMENTS = """
WITH party AS (
  SELECT payer.balance_account_id AS payer, payee.balance_account_id AS payee, payer.currency
  FROM balance_accounts AS payer
  JOIN balance_accounts AS payee ON payee.account_id = $4
  WHERE payer.account_id = $3
),
payment AS (
  INSERT INTO payments (payment_id, transaction_id, batch_id, payer_balance_account_id,
    payee_balance_account_id, currency, amount_minor, fee_minor, capture, state, captured_minor)
  SELECT p.payment_id, p.transaction_id, p.transaction_id, party.payer, party.payee,
    party.currency, $2::bigint, 0, $6::text,
    CASE $6 WHEN 'MANUAL' THEN 'AUTHORIZED' ELSE 'CAPTURED' END,
    CASE $6 WHEN 'MANUAL' THEN 0 ELSE $2 END
  FROM unnest($1::text[], $5::uuid[]) AS p (payment_id, transaction_id)
  CROSS JOIN party
  RETURNING *
)
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
  debit_account, credit_account, amount_minor, payment_id)
SELECT p.payer_balance_account_id, p.transaction_id, 1, 'TRANSFER_OUT', 'account_funds',
       'interaccount', p.amount_minor, p.payment_id
FROM payment AS p WHERE p.capture = 'IMMEDIATE'
UNION ALL
SELECT p.payee_balance_account_id, p.transaction_id, 2, 'TRANSFER_IN', 'interaccount',
       'account_funds', p.amount_minor, p.payment_id
FROM payment AS p WHERE p.capture = 'IMMEDIATE'
UNION ALL
SELECT p.payer_balance_account_id, p.transaction_id, 1, 'PAYMENT_HOLD', 'account_funds',
       'account_held', p.amount_minor, p.payment_id
FROM payment AS p WHERE p.capture = 'MANUAL'
"""

# The void $2 of the payment $1, which releases all that it holds, by entries with the id $3.
VOID_PAYMENT = """
WITH payment AS (
  UPDATE payments SET state = 'VOIDED' WHERE payment_id = $1 RETURNING *
),
operation AS (
  INSERT INTO payment_operations (payment_id, sequence, operation_id, transaction_id, batch_id,
    kind, requested_minor, is_final, amount_minor, released_minor, state, captured_minor,
    refunded_minor)
  SELECT payment_id, 1, $2, $3::uuid, $3, 'VOID', 0, false, 0, amount_minor, state, 0, 0
  FROM payment
)
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
  debit_account, credit_account, amount_minor, payment_id)
SELECT payer_balance_account_id, $3, 1, 'PAYMENT_RELEASE', 'account_held', 'account_funds',
       amount_minor, payment_id
FROM payment
"""


async def post_payments(
    connection: Connection,
    payer: str,
    payee: str,
    amount_minor: int,
    *,
    count: int = 1,
    capture: str = "IMMEDIATE",
) -> list[str]:
    """Posts payments in one transaction, whatever the payer has. Returns their ids."""
    payment_ids = [unique("pay") for _ in range(count)]
    await connection.execute(
        INSERT_PAYMENTS,
        payment_ids,
        amount_minor,
        payer,
        payee,
        [str(uuid_utils.uuid7()) for _ in payment_ids],
        capture,
    )
    return payment_ids


async def transfer(engine: AsyncEngine, payer: str, payee: str, amount_minor: int) -> str:
    """Moves money from one account to another. Returns the id of the payment."""
    async with autocommit(engine) as connection:
        (payment_id,) = await post_payments(connection, payer, payee, amount_minor)
    return payment_id


async def hold(engine: AsyncEngine, payer: str, payee: str, amount_minor: int) -> str:
    """Holds money of an account for another. Returns the id of the payment."""
    async with autocommit(engine) as connection:
        (payment_id,) = await post_payments(
            connection, payer, payee, amount_minor, capture="MANUAL"
        )
    return payment_id


async def void(engine: AsyncEngine, payment_id: str) -> None:
    """Releases what a payment holds."""
    async with autocommit(engine) as connection:
        await connection.execute(VOID_PAYMENT, payment_id, unique("op"), str(uuid_utils.uuid7()))
