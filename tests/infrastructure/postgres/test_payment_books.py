"""What payments lock and what they leave to others, and that no half of a payment is posted."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.audit import assert_books_in_order
from support.deciding import Deciding, deciding_on, payment_order, void_of
from support.paying import SELECT_FUNDS, SELECT_UNBALANCED
from support.plans import buffers_of, explained
from support.sessions import WAITING, deadlocks_of, locked, waiting_sessions
from support.waiting import until

from ledger.application.payments.outcomes import AnsweredOperation, AnsweredPayment
from ledger.bootstrap.database import Database
from ledger.domain.payments import CaptureMode, OperationKind, OperationOrder
from ledger.errors import AccountNotFound, PaymentNotFound, PaymentRejected
from ledger.infrastructure.postgres import payment_books
from ledger.infrastructure.postgres.payments import SELECT_EXPIRED
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.unit_of_work import PostgresUnitOfWork

POSTING = "LOCK TABLE ledger_entries IN SHARE ROW EXCLUSIVE MODE"
MANUAL = CaptureMode.MANUAL
Command = Callable[[Deciding], Awaitable[object]]


def transfer(payment_id: str, payer: str, payee: str) -> Command:
    return lambda deciding: deciding.pay(payment_order(payment_id, payer, payee, 10))


def hold(payment_id: str, payer: str, payee: str) -> Command:
    order = payment_order(payment_id, payer, payee, 10, capture=MANUAL)
    return lambda deciding: deciding.pay(order)


def capture(operation_id: str, payment_id: str) -> Command:
    order = OperationOrder(operation_id, OperationKind.CAPTURE, payment_id, 1)
    return lambda deciding: deciding.operate(order)


def refund(operation_id: str, payment_id: str) -> Command:
    order = OperationOrder(operation_id, OperationKind.REFUND, payment_id, 1)
    return lambda deciding: deciding.operate(order)


def void(operation_id: str, payment_id: str) -> Command:
    return lambda deciding: deciding.operate(void_of(operation_id, payment_id))


def change_of(account_id: str) -> Command:
    """What freezes or closes an account begins with its lock."""

    async def lock(deciding: Deciding) -> None:
        async with PostgresUnitOfWork(deciding.engine) as uow:
            await uow.accounts.lock(account_id)

    return lock


# The first command stands before its commit. Whether the second, which comes then, waits for it.
# There are the accounts a, b, c; "held" is a hold of a for b, and "paid" and "paid.2" are transfers
# from a to b.
PAIRS: dict[str, tuple[Command, Command, bool]] = {
    "two of one payer": (transfer("p", "a", "b"), transfer("q", "a", "c"), True),
    "two holds of one payer": (hold("p", "a", "b"), hold("q", "a", "c"), True),
    "two of one id": (transfer("p", "a", "b"), transfer("p", "a", "b"), True),
    "two to one payee": (transfer("p", "a", "c"), transfer("q", "b", "c"), False),
    "there and back": (transfer("p", "a", "b"), transfer("q", "b", "a"), False),
    "two operations on one payment": (capture("p", "held"), void("q", "held"), True),
    "two refunds out of one account": (refund("p", "paid"), refund("q", "paid.2"), True),
    "a refund and a payment out of one account": (
        refund("p", "paid"),
        transfer("q", "b", "c"),
        True,
    ),
    "a refund and a payment of its payer": (refund("p", "paid"), transfer("q", "a", "c"), False),
    "a capture and a payment of its payer": (capture("p", "held"), transfer("q", "a", "c"), False),
    "a capture and a payment of its payee": (capture("p", "held"), transfer("q", "b", "c"), False),
    "a payment and a change of its payer": (transfer("p", "a", "b"), change_of("a"), True),
    "a payment and a change of its payee": (transfer("p", "a", "b"), change_of("b"), True),
    "a capture and a change of its payer": (capture("p", "held"), change_of("a"), True),
    "a capture and a change of its payee": (capture("p", "held"), change_of("b"), True),
    "a refund and a change of its payer": (refund("p", "paid"), change_of("a"), True),
    "a void and a change of its payer": (void("p", "held"), change_of("a"), True),
}


@pytest.mark.parametrize("name", PAIRS)
async def test_commands_wait_for_what_they_are_decided_by(database: Database, name: str) -> None:
    """For a balance, a payment or the state of an account that changes; and for nothing else."""
    first, second, waits = PAIRS[name]
    async with deciding_on(database) as deciding:
        for account_id in "abc":
            await deciding.open_account(account_id, funds_minor=100)
        await deciding.pay(
            payment_order("held", "a", "b", 10, capture=MANUAL),
            payment_order("paid", "a", "b", 10),
            payment_order("paid.2", "a", "b", 10),
        )

        async def waiting_for(*tables: str) -> int:
            found = [await deciding.query(WAITING, table=table) for table in tables]
            return len({pid for rows in found for (pid,) in rows})

        async with locked(database, POSTING):
            tasks: list[asyncio.Task[object]] = [asyncio.create_task(first(deciding))]  # type: ignore[arg-type]
            await waiting_sessions(database, "ledger_entries")
            tasks.append(asyncio.create_task(second(deciding)))  # type: ignore[arg-type]

            async def has_come() -> bool:
                return (
                    tasks[1].done()
                    or await waiting_for("balance_accounts", "payments") > 0
                    or await waiting_for("ledger_entries") > 1
                )

            await until(has_come)
            assert not tasks[1].done()
            assert (await waiting_for("balance_accounts", "payments") > 0) is waits
        await asyncio.gather(*tasks)
    assert await deadlocks_of(database) == 0
    await assert_books_in_order(database)


@pytest.mark.parametrize("lost", [0, 1])
async def test_half_of_a_capture_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """The statement fails unless both sides of each transaction id agree."""
    entries_of = payment_books._entries_of  # what a defect there would do

    def half(*arguments: Any) -> list[Any]:
        return [entry for place, entry in enumerate(entries_of(*arguments)) if place != lost]

    async with deciding_on(database) as deciding:
        await deciding.open_account("payer", funds_minor=100)
        await deciding.open_account("payee")
        await deciding.pay(payment_order("p", amount_minor=10, capture=MANUAL))
        monkeypatch.setattr(payment_books, "_entries_of", half)
        order = OperationOrder("o", OperationKind.CAPTURE, "p")
        (outcome,) = await deciding.operate(order)
        assert isinstance(outcome, PaymentRejected)
        assert await deciding.query("SELECT count(*) FROM payment_operations") == [(0,)]
        assert await deciding.query(SELECT_UNBALANCED) == []
    await assert_books_in_order(database)


async def test_account_that_was_not_locked_is_not_decided_on(database: Database) -> None:
    """It is opened while the group waits for the lock of another account. Otherwise two groups
    could decide on its balance at once.
    """
    async with deciding_on(database) as deciding:
        await deciding.open_account("busy", funds_minor=1000)
        await deciding.open_account("payee")
        async with locked(
            database, "SELECT FROM balance_accounts WHERE account_id = 'busy' FOR UPDATE"
        ):
            group = asyncio.create_task(
                deciding.pay(
                    payment_order("p.busy", "busy"),
                    payment_order("p.new", "new"),
                    payment_order("p.to_new", "busy", "new"),
                )
            )
            await waiting_sessions(database, "balance_accounts")
            await deciding.open_account("new", funds_minor=100)
        first, from_new, to_new = await group
        assert isinstance(first, AnsweredPayment)
        assert isinstance(from_new, AccountNotFound)
        assert isinstance(to_new, AccountNotFound)
        # The errors have left the ids free.
        (again,) = await deciding.pay(payment_order("p.new", "new"))
        assert isinstance(again, AnsweredPayment)
        assert await deciding.query(SELECT_FUNDS, account_id="new") == [(0, 0)]
    await assert_books_in_order(database)


async def test_payment_that_was_not_locked_is_not_decided_on(database: Database) -> None:
    """It is authorised while the group waits for the lock of another payment."""
    async with deciding_on(database) as deciding:
        await deciding.open_account("payer", funds_minor=1000)
        await deciding.open_account("payee")
        await deciding.pay(payment_order("p.busy", capture=MANUAL))
        async with locked(database, "SELECT FROM payments WHERE payment_id = 'p.busy' FOR UPDATE"):
            group = asyncio.create_task(
                deciding.operate(void_of("v.busy", "p.busy"), void_of("v.new", "p.new"))
            )
            await waiting_sessions(database, "payments")
            await deciding.pay(payment_order("p.new", capture=MANUAL))
        first, of_new = await group
        assert isinstance(first, AnsweredOperation)
        assert isinstance(of_new, PaymentNotFound)
    await assert_books_in_order(database)


async def test_expiry_reads_only_what_has_expired(database: Database) -> None:
    """However many payments hold money."""
    async with deciding_on(database) as deciding:
        await deciding.open_account("payer", limit_minor=None)
        await deciding.open_account("payee")
        later = datetime.now(UTC) + timedelta(days=1)
        orders = [
            payment_order(f"p.{number}", capture=MANUAL, expires_at=later) for number in range(1000)
        ]
        await deciding.pay(*orders)
        async with autocommit(deciding.engine) as connection:
            plan = await explained(connection, SELECT_EXPIRED, 500, None, "")
        assert plan["Actual Rows"] == 0
        assert buffers_of(plan) < 10
