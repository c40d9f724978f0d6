"""Accounts and payments of tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.payments.expire_payments import ExpiryWorker
from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.v1 import account_pb2, ledger_pb2, payment_pb2
from support.books import superuser
from support.events import unique
from support.in_memory import MemoryLedger
from support.running import RunningLedger
from support.waiting import until

IMMEDIATE = payment_pb2.CAPTURE_MODE_IMMEDIATE
MANUAL = payment_pb2.CAPTURE_MODE_MANUAL
# The account outside: all money of tests comes from it.
BANK = "bank"

# Opens the accounts $1 in the currency $2, which may go $3 below zero; NULL: without a limit.
OPEN_ACCOUNTS = """
WITH opened AS (
  INSERT INTO accounts (account_id, currency, overdraft_limit_minor, opened_with)
  SELECT a.account_id, $2, $3::bigint,
         jsonb_build_object('name', '', 'overdraft_limit_minor', $3::bigint)
  FROM unnest($1::text[]) AS a (account_id)
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

# The entries of one payment: type, holder, amount, in their order.
SELECT_ENTRIES = """
SELECT e.entry_type, COALESCE(a.account_id, a.restaurant_id), e.amount_minor
FROM ledger_entries AS e JOIN balance_accounts AS a USING (balance_account_id)
WHERE e.payment_id = :payment_id
ORDER BY e.recorded_txid, e.transaction_id, e.position
"""


async def open_accounts(
    engine: AsyncEngine | MemoryLedger,
    *account_ids: str,
    limit_minor: int | None = None,
    currency: str = "PEN",
) -> None:
    """Opens accounts; `limit_minor` None: they may go below zero without a limit."""
    if isinstance(engine, MemoryLedger):
        overdraft = account_pb2.Overdraft(unlimited=True)
        if limit_minor is not None:
            overdraft = account_pb2.Overdraft(limit_minor=limit_minor)
        for account_id in account_ids:
            await engine.accounts.CreateAccount(
                account_pb2.CreateAccountRequest(
                    account_id=account_id, currency=currency, overdraft=overdraft
                )
            )
        return
    async with autocommit(engine) as connection:
        await connection.execute(OPEN_ACCOUNTS, list(account_ids), currency, limit_minor)


async def open_account(
    ledger: RunningLedger,
    account_id: str,
    limit_minor: int | None = 0,
    currency: str = "PEN",
    *,
    funds_minor: int = 0,
) -> None:
    """Opens an account with a limit as in `open_accounts`, by default of 0.

    The bank of the currency pays in its funds. It is opened when it is needed.
    """
    await open_accounts(ledger.engine, account_id, limit_minor=limit_minor, currency=currency)
    if not funds_minor:
        return
    bank = bank_of(currency)
    if not await _exists(ledger, bank):
        await open_accounts(ledger.engine, bank, currency=currency)
    await pay_in(ledger, account_id, funds_minor, currency=currency)


async def _exists(ledger: RunningLedger | MemoryLedger, account_id: str) -> bool:
    if isinstance(ledger, MemoryLedger):
        return account_id in ledger.books.accounts
    found = await ledger.query("SELECT 1 FROM accounts WHERE account_id = :id", id=account_id)
    return found != []


async def opened_account(
    ledger: RunningLedger, *, limit_minor: int | None = 0, currency: str = "PEN"
) -> str:
    """Opens an account under a new id, as `open_account` does. Returns the id."""
    account_id = unique("acc")
    await open_account(ledger, account_id, limit_minor, currency)
    return account_id


async def funded_account(ledger: RunningLedger, funds_minor: int, currency: str = "PEN") -> str:
    """Opens an account under a new id, with funds, as `open_account` does. Returns the id."""
    account_id = unique("acc")
    await open_account(ledger, account_id, currency=currency, funds_minor=funds_minor)
    return account_id


def bank_of(currency: str) -> str:
    """The account that stands for the world outside in a currency."""
    return BANK if currency == "PEN" else f"{BANK}_{currency}"


async def pay_in(
    ledger: RunningLedger, account_id: str, amount_minor: int, *, currency: str = "PEN"
) -> None:
    """Pays money from the bank into an account."""
    request = order(unique("in"), bank_of(currency), account_id, amount_minor, currency=currency)
    response = await ledger.payments.AuthorizePayment(request)
    assert response.status == payment_pb2.PAYMENT_STATUS_CAPTURED


async def set_state(ledger: RunningLedger, account_id: str, state: str) -> None:
    """Makes an account OPEN, FROZEN or CLOSED, whatever it holds."""
    await ledger.query(
        "UPDATE accounts SET state = :state WHERE account_id = :account_id",
        account_id=account_id,
        state=state,
    )


async def update_account(
    ledger: RunningLedger, account_id: str, *paths: str, **fields: Any
) -> account_pb2.Account:
    """Changes these fields of an account. Returns it as it is then."""
    request = account_pb2.UpdateAccountRequest(
        account=account_pb2.Account(account_id=account_id, **fields),
        update_mask=FieldMask(paths=paths),
    )
    return (await ledger.accounts.UpdateAccount(request)).account


async def account_balance(
    ledger: RunningLedger | MemoryLedger, account_id: str, as_of: Timestamp | None = None
) -> account_pb2.GetAccountBalanceResponse:
    """The balance of an account, now or at a past instant."""
    return await ledger.accounts.GetAccountBalance(
        account_pb2.GetAccountBalanceRequest(account_id=account_id, as_of=as_of)
    )


async def funds(ledger: RunningLedger | MemoryLedger, account_id: str) -> tuple[int, int]:
    """What is available and held, added up from all entries."""
    if isinstance(ledger, MemoryLedger):
        balance = await account_balance(ledger, account_id)
        return balance.available_minor, balance.held_minor
    ((available_minor, held_minor),) = await ledger.query(SELECT_FUNDS, account_id=account_id)
    return available_minor, held_minor


async def entries_of(
    ledger: RunningLedger | MemoryLedger, payment_id: str
) -> list[tuple[str, str, int]]:
    """The entries of a payment: type, holder and amount."""
    if isinstance(ledger, MemoryLedger):
        found = await details(ledger, payment_id)
        return [
            (
                ledger_pb2.EntryType.Name(entry.type).removeprefix("ENTRY_TYPE_"),
                entry.account_id or entry.restaurant_id,
                entry.amount_minor,
            )
            for entry in found.entries
        ]
    rows = await ledger.query(SELECT_ENTRIES, payment_id=payment_id)
    return [(entry_type, holder, amount_minor) for entry_type, holder, amount_minor in rows]


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


def in_batch(request: payment_pb2.AuthorizePaymentRequest, **fields: Any) -> Any:
    """The same payment as one of BatchAuthorizePayments."""
    message = payment_pb2.PaymentOrder(**fields)
    message.MergeFromString(request.SerializeToString())
    return message


async def batch(ledger: RunningLedger, orders: Sequence[Any]) -> list[payment_pb2.PaymentResult]:
    """The results of one batch, in the order of the orders."""
    request = payment_pb2.BatchAuthorizePaymentsRequest(payments=orders)
    return list((await ledger.payments.BatchAuthorizePayments(request)).results)


# The kinds of operations, and what a caller may add to each.
OPERATIONS: dict[str, tuple[str, type[Any]]] = {
    "CAPTURE": ("CapturePayment", payment_pb2.CapturePaymentRequest),
    "VOID": ("VoidPayment", payment_pb2.VoidPaymentRequest),
    "REFUND": ("RefundPayment", payment_pb2.RefundPaymentRequest),
    "REVERSE": ("ReversePayment", payment_pb2.ReversePaymentRequest),
}


def operation(
    ledger: RunningLedger, kind: str, operation_id: str, payment_id: str, **fields: Any
) -> Awaitable[Any]:
    """The response of an operation on a payment."""
    method, request = OPERATIONS[kind]
    call: Awaitable[Any] = getattr(ledger.payments, method)(
        request(operation_id=operation_id, payment_id=payment_id, **fields)
    )
    return call


async def details(
    ledger: RunningLedger | MemoryLedger, payment_id: str
) -> payment_pb2.GetPaymentResponse:
    """A payment as it stands, with its operations and entries."""
    return await ledger.payments.GetPayment(payment_pb2.GetPaymentRequest(payment_id=payment_id))


def status_name(response: Any) -> str:
    """The status of a response or a result by its name, without the prefix."""
    field = response.DESCRIPTOR.fields_by_name["status"]
    prefix = "PAYMENT_STATUS_" if field.enum_type.name == "PaymentStatus" else "OPERATION_STATUS_"
    return str(field.enum_type.values_by_number[response.status].name).removeprefix(prefix)


def reason_name(message: Any) -> str:
    """The decline reason of a payment, an operation or a result; empty if it was not declined."""
    name = payment_pb2.DeclineReason.Name(message.decline_reason)
    return "" if name.endswith("_UNSPECIFIED") else name.removeprefix("DECLINE_REASON_")


def state_name(message: Any) -> str:
    """Where a payment or an operation stands."""
    return payment_pb2.PaymentState.Name(message.state).removeprefix("PAYMENT_STATE_")


def timestamp(seconds: float) -> Timestamp:
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1_000_000))
    return message


def from_now(seconds: float) -> Timestamp:
    """An instant so many seconds from now."""
    return timestamp(datetime.now(UTC).timestamp() + seconds)


# Servers let no payment be stored that has expired, nor its instant be changed afterwards.
MAY_CHANGE = "ALTER TABLE payments DISABLE TRIGGER payments_check_move"
MAY_NOT_CHANGE = "ALTER TABLE payments ENABLE ALWAYS TRIGGER payments_check_move"


async def expire(database: Database, *payment_ids: str) -> None:
    """Makes payments that hold money expire now, whatever they were authorised with.

    On any machine what came before is before their instant, and what comes afterwards is after it.
    """
    async with superuser(database) as connection, connection.transaction():
        await connection.execute(MAY_CHANGE)
        await connection.execute(
            "UPDATE payments SET expires_at = ledger_now() WHERE payment_id = ANY ($1)",
            list(payment_ids),
        )
        await connection.execute(MAY_NOT_CHANGE)


async def until_past(ledger: RunningLedger, instant: Timestamp) -> None:
    """Waits until the database's clock is past an instant."""
    at = instant.ToDatetime(tzinfo=UTC) + timedelta(milliseconds=1)

    async def is_past() -> bool:
        return await ledger.query("SELECT now() > CAST(:at AS timestamptz)", at=at) == [(True,)]

    await until(is_past, what="the instant is past")


def expiries_by_hand(monkeypatch: pytest.MonkeyPatch) -> list[ExpiryWorker]:
    """The workers of the servers that start from here on: each releases only when a test asks it.

    `await worker.release()` does what the worker of a running server does every second.
    """
    workers: list[ExpiryWorker] = []
    monkeypatch.setattr(ExpiryWorker, "start", lambda worker: workers.append(worker))
    return workers


# Of all balances in one database snapshot: what all holders have together, the platform's fees
# included, and the accounts that have less than their limits allow.
SELECT_STANDING = """
WITH balance AS (
  SELECT m.balance_account_id,
         COALESCE(sum(signed_minor) FILTER (WHERE ledger_account = 'account_funds'), 0) AS funds,
         COALESCE(sum(signed_minor) FILTER (WHERE ledger_account = 'account_held'), 0) AS held,
         COALESCE(sum(signed_minor) FILTER (WHERE ledger_account = 'restaurant_payable'), 0)
           AS payable,
         COALESCE(sum(signed_minor) FILTER (WHERE ledger_account = 'platform_fees'), 0) AS fees,
         COALESCE(sum(signed_minor) FILTER (WHERE ledger_account = 'interaccount'), 0) AS inter
  FROM ledger_movements AS m
  GROUP BY m.balance_account_id
)
SELECT sum(b.funds + b.held + b.payable + b.fees), sum(b.inter),
       array_agg(a.account_id) FILTER (WHERE b.held < 0
         OR (a.overdraft_limit_minor IS NOT NULL AND b.funds < -a.overdraft_limit_minor)),
       (SELECT count(*) FROM payments),
       (SELECT COALESCE(sum(amount_minor - captured_minor), 0) FROM payments
        WHERE state IN ('AUTHORIZED', 'PARTIALLY_CAPTURED')),
       sum(b.held)
FROM balance AS b
JOIN balance_accounts AS o USING (balance_account_id)
LEFT JOIN accounts AS a ON a.account_id = o.account_id
"""


class Watch:
    """Reads all balances again and again, each time in one database snapshot."""

    def __init__(self, ledger: RunningLedger) -> None:
        self._ledger = ledger
        self.readings = 0
        # How many payments there were at each reading.
        self.payments: list[int] = []

    async def read(self) -> None:
        """Asserts what holds at every instant: nothing is lost, doubled or below its limit."""
        ((total, inter, below, payments, holds, held),) = await self._ledger.query(SELECT_STANDING)
        assert (total or 0, inter or 0, below) == (0, 0, None)
        assert holds == (held or 0)
        self.readings += 1
        self.payments.append(payments)


@asynccontextmanager
async def watched(ledger: RunningLedger) -> AsyncIterator[Watch]:
    """Reads all balances while the block runs, and once after it."""
    watch = Watch(ledger)
    is_over = asyncio.Event()

    async def watch_on() -> None:
        while not is_over.is_set():
            await watch.read()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch_on())
        try:
            yield watch
        finally:
            is_over.set()
    await watch.read()
