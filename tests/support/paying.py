"""Accounts and payments of tests."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from ledger.v1 import payment_pb2
from support.running import RunningLedger

IMMEDIATE = payment_pb2.CAPTURE_MODE_IMMEDIATE
MANUAL = payment_pb2.CAPTURE_MODE_MANUAL

INSERT_ACCOUNT = """
WITH opened AS (
  INSERT INTO accounts (account_id, currency, overdraft_limit_minor, opened_with)
  VALUES (:account_id, :currency, CAST(:limit_minor AS bigint), '{}')
  RETURNING account_id, currency
)
INSERT INTO balance_accounts (account_id, currency) SELECT account_id, currency FROM opened
"""

SELECT_FUNDS = """
SELECT COALESCE(sum(signed_minor) FILTER (WHERE ledger_account = 'account_funds'), 0)::bigint,
       COALESCE(sum(signed_minor) FILTER (WHERE ledger_account = 'account_held'), 0)::bigint
FROM ledger_movements JOIN balance_accounts USING (balance_account_id)
WHERE account_id = :account_id
"""

# What each transaction id leaves on interaccount; no row if all is right.
SELECT_UNBALANCED = """
SELECT transaction_id, sum(signed_minor) FROM ledger_movements
WHERE ledger_account = 'interaccount' GROUP BY transaction_id HAVING sum(signed_minor) <> 0
"""


async def open_account(
    ledger: RunningLedger, account_id: str, limit_minor: int | None = 0, currency: str = "PEN"
) -> None:
    """Opens an account; `limit_minor` None: it may go below zero without a limit."""
    await ledger.query(
        f"{INSERT_ACCOUNT} RETURNING account_id",
        account_id=account_id,
        currency=currency,
        limit_minor=limit_minor,
    )


async def funds(ledger: RunningLedger, account_id: str) -> tuple[int, int]:
    """What is available and held, added up from all entries."""
    ((available_minor, held_minor),) = await ledger.query(SELECT_FUNDS, account_id=account_id)
    return available_minor, held_minor


def order(
    payment_id: str, payer: str, payee: str, amount_minor: int, **fields: Any
) -> payment_pb2.AuthorizePaymentRequest:
    """A payment between two accounts in PEN, captured at once unless `fields` say otherwise."""
    values: dict[str, Any] = {"currency": "PEN", "capture": IMMEDIATE, "payee_account_id": payee}
    if "payee_restaurant_id" in fields:
        del values["payee_account_id"]
    return payment_pb2.AuthorizePaymentRequest(
        payment_id=payment_id,
        payer_account_id=payer,
        amount_minor=amount_minor,
        **(values | fields),
    )


def timestamp(seconds: float) -> Timestamp:
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1_000_000))
    return message
