"""The use cases of payments on a database, without a server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import uuid_utils.compat
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.payments.decide_operations import DecideOperations
from ledger.application.payments.decide_payments import DecidePayments
from ledger.application.payments.outcomes import (
    AnsweredPayment,
    OperationOutcome,
    PaymentOutcome,
)
from ledger.bootstrap.database import Database
from ledger.domain.payments import CaptureMode, OperationKind, OperationOrder, PaymentOrder
from ledger.infrastructure.postgres.event_ledger import PostgresEventLedger
from ledger.infrastructure.postgres.payment_books import PostgresPaymentBooks
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine
from ledger.infrastructure.postgres.unit_of_work import PostgresUnitOfWork
from support.paying import BANK, open_accounts
from support.running import query

MATURITY_DAYS = 7


def payment_order(
    payment_id: str,
    payer: str = "payer",
    payee: str = "payee",
    amount_minor: int = 100,
    **fields: Any,
) -> PaymentOrder:
    """An order of a payment in PEN that is captured at once, unless `fields` say otherwise."""
    values: dict[str, Any] = {
        "payee_account_id": "" if "payee_restaurant_id" in fields else payee,
        "payee_restaurant_id": "",
        "currency": "PEN",
        "fee_minor": 0,
        "capture": CaptureMode.IMMEDIATE,
        "expires_at": None,
        "reference": "",
        "metadata": {},
    }
    return PaymentOrder(
        payment_id=payment_id,
        payer_account_id=payer,
        amount_minor=amount_minor,
        **(values | fields),
    )


@dataclass(frozen=True, slots=True)
class Deciding:
    """The use cases, each call with a new attempt's id."""

    database: Database
    engine: AsyncEngine
    decide_payments: DecidePayments
    decide_operations: DecideOperations

    async def pay(self, *orders: PaymentOrder) -> list[PaymentOutcome]:
        """The outcomes of orders of one group, none of them linked."""
        chains = [(order,) for order in orders]
        outcomes = await self.decide_payments(chains, uuid_utils.compat.uuid7())
        return [found[order.payment_id] for order, found in zip(orders, outcomes, strict=True)]

    async def operate(self, *orders: OperationOrder) -> list[OperationOutcome]:
        """The outcomes of operations of one group."""
        outcomes = await self.decide_operations(orders, uuid_utils.compat.uuid7())
        return [outcomes[order.operation_id or order.payment_id] for order in orders]

    async def open_account(
        self, account_id: str, *, limit_minor: int | None = 0, funds_minor: int = 0
    ) -> None:
        """Opens an account in PEN, and pays its funds in from the bank."""
        await open_accounts(self.engine, account_id, limit_minor=limit_minor)
        if funds_minor:
            paid_in = payment_order(f"in.{account_id}", BANK, account_id, funds_minor)
            (outcome,) = await self.pay(paid_in)
            assert isinstance(outcome, AnsweredPayment)
            assert outcome.payment.decline_reason is None

    async def query(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of an SQL statement run as superuser."""
        return await query(self.database.migration_url, statement, **parameters)


@asynccontextmanager
async def deciding_on(database: Database, *, register: bool = True) -> AsyncIterator[Deciding]:
    """The use cases on a database that has the bank."""
    engine = create_engine(database.url, pool_size=4, lock_timeout_seconds=60)
    begin = partial(
        PostgresUnitOfWork, engine, partial(PostgresPaymentBooks, maturity_days=MATURITY_DAYS)
    )
    ledger = PostgresEventLedger(partial(autocommit, engine), maturity_days=MATURITY_DAYS)
    deciding = Deciding(
        database,
        engine,
        DecidePayments(ledger, begin, register=register),
        DecideOperations(begin),
    )
    try:
        await deciding.open_account(BANK, limit_minor=None)
        yield deciding
    finally:
        await engine.dispose()


def void_of(operation_id: str, payment_id: str) -> OperationOrder:
    """A void."""
    return OperationOrder(operation_id, OperationKind.VOID, payment_id)
