"""The use cases of payments on a database, without a server."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import uuid_utils.compat
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.payments.decide_operations import DecideOperations
from ledger.application.payments.decide_payments import DecidePayments
from ledger.application.payments.outcomes import (
    AnsweredPayment,
    OperationOutcome,
    PaymentOutcome,
)
from ledger.application.ports.balances import LongTails
from ledger.application.ports.payments import Standings
from ledger.bootstrap.database import Database
from ledger.domain.payments import CaptureMode, OperationKind, OperationOrder, PaymentOrder
from ledger.infrastructure.postgres import payment_books
from ledger.infrastructure.postgres.event_ledger import PostgresEventLedger
from ledger.infrastructure.postgres.payment_books import PostgresPaymentBooks
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine
from ledger.infrastructure.postgres.snapshots import NO_LONG_TAILS
from ledger.infrastructure.postgres.unit_of_work import PostgresUnitOfWork
from support.paying import BANK, open_accounts
from support.running import query
from support.snapshots import ReportedTails

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
async def deciding_on(
    database: Database,
    *,
    register: bool = True,
    lock_timeout_seconds: float = 60,
    long_tails: LongTails = NO_LONG_TAILS,
) -> AsyncIterator[Deciding]:
    """The use cases on a database that has the bank."""
    engine = create_engine(database.url, pool_size=4, lock_timeout_seconds=lock_timeout_seconds)
    books = partial(PostgresPaymentBooks, maturity_days=MATURITY_DAYS, long_tails=long_tails)
    begin = partial(PostgresUnitOfWork, engine, books)
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


@dataclass(slots=True)
class SlowAccount:
    """An account with a tail so long that a look at its balance times out."""

    account_id: str
    tails: ReportedTails
    timeouts: int = 0

    async def open(self, deciding: Deciding) -> None:
        """Opens it, with 1000 in as many entries as make it slow."""
        await deciding.open_account(self.account_id)
        part_minor = 1000 // payment_books.SLOW_TAIL_ENTRIES
        for number in range(payment_books.SLOW_TAIL_ENTRIES):
            order = payment_order(f"{self.account_id}.{number}", BANK, self.account_id, part_minor)
            await deciding.pay(order)


def slow_account(account_id: str, monkeypatch: pytest.MonkeyPatch) -> SlowAccount:
    """Lets the books time out whenever they add up as many entries of the account as make it slow.

    Without millions of entries, which take long to store.
    """
    monkeypatch.setattr(payment_books, "SLOW_TAIL_ENTRIES", 5)
    slow = SlowAccount(account_id, ReportedTails())
    standings = PostgresPaymentBooks.standings

    async def timed(
        books: PostgresPaymentBooks, deciding: Collection[str], *arguments: Any
    ) -> Standings:
        connection = books._connection
        names = [account_id] if account_id in deciding else []
        for tail in await connection.fetch(payment_books.SELECT_TAILS, names, 5):
            if tail["entries_count"] == 5:
                slow.timeouts += 1
                await connection.execute("SET LOCAL statement_timeout = 1")
                await connection.execute("SELECT pg_sleep(60)")
        return await standings(books, deciding, *arguments)

    monkeypatch.setattr(PostgresPaymentBooks, "standings", timed)
    return slow


def void_of(operation_id: str, payment_id: str) -> OperationOrder:
    """A void."""
    return OperationOrder(operation_id, OperationKind.VOID, payment_id)
