"""Payments that are decided together."""

import asyncio
from collections.abc import Sequence

import pytest
from support.audit import assert_books_in_order
from support.deciding import Deciding, deciding_on, payment_order, slow_account
from support.sessions import locked
from support.snapshots import take_snapshots
from support.waiting import until

from ledger.application.payments import parts
from ledger.application.payments.outcomes import AnsweredPayment, PaymentOutcome, PaymentStatus
from ledger.bootstrap.database import Database
from ledger.domain.payments import PaymentOrder
from ledger.errors import (
    AccountNotFound,
    DatabaseContention,
    DatabaseTimeout,
    PaymentIdReused,
    PaymentRejected,
)
from ledger.infrastructure.postgres.snapshots import ENTRIES_MAX

BUSY = "SELECT FROM balance_accounts WHERE account_id = 'busy' FOR NO KEY UPDATE"


def answers(outcomes: Sequence[PaymentOutcome]) -> list[object]:
    """The status of each that was decided, and the class of each error."""
    return [
        outcome.status if isinstance(outcome, AnsweredPayment) else type(outcome)
        for outcome in outcomes
    ]


async def is_stored(deciding: Deciding, payment_id: str) -> bool:
    rows = await deciding.query("SELECT 1 FROM payments WHERE payment_id = :id", id=payment_id)
    return len(rows) > 0


@pytest.mark.parametrize("payer", ["nobody", "payer"])
async def test_refused_payment_registers_no_restaurant(database: Database, payer: str) -> None:
    """Neither it nor its balance account is stored if the payer does not exist."""
    async with deciding_on(database) as deciding:
        await deciding.open_account("payer", funds_minor=1000)
        (outcome,) = await deciding.pay(payment_order("p", payer, payee_restaurant_id="new"))
        is_refused = payer == "nobody"
        assert isinstance(outcome, AccountNotFound) is is_refused
        assert await deciding.query("SELECT count(*) FROM restaurants") == [(1 - is_refused,)]
        assert await deciding.query("SELECT count(*) FROM payments") == [(2 - is_refused,)]
    await assert_books_in_order(database)


async def test_payment_is_new_once_though_its_batch_is_decided_in_parts(
    database: Database,
) -> None:
    """The database refuses one payment, so the others are decided in several transactions."""
    async with deciding_on(database) as deciding:
        await deciding.open_account("payer", funds_minor=1000)
        await deciding.open_account("payee")
        outcomes = await deciding.pay(
            payment_order("p"),
            payment_order("refused", reference="not printable \t"),
            payment_order("q"),
            payment_order("p"),
            payment_order("p", amount_minor=1),
            payment_order("q"),
        )
        assert answers(outcomes) == [
            PaymentStatus.CAPTURED,
            PaymentRejected,
            PaymentStatus.CAPTURED,
            PaymentStatus.DUPLICATE,
            PaymentIdReused,
            PaymentStatus.DUPLICATE,
        ]
    await assert_books_in_order(database)


async def test_locked_account_fails_only_its_payments(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are. Nobody else's payment waits for it, also none into it."""
    monkeypatch.setattr(parts, "PATIENCE_SECONDS", 0.3)
    async with deciding_on(database, lock_timeout_seconds=0.2) as deciding:
        await deciding.open_account("busy", funds_minor=1000)
        await deciding.open_account("payer", funds_minor=1000)
        await deciding.open_account("payee")
        stuck = [payment_order(f"stuck.{number}", "busy") for number in range(100)]
        async with locked(database, BUSY):
            outcomes = await deciding.pay(
                *stuck,
                payment_order("p"),
                payment_order("q", "payer", "busy"),
                payment_order("stuck.1", "payer"),
            )
        captured, failed = PaymentStatus.CAPTURED, DatabaseContention
        assert answers(outcomes) == [*[failed] * 100, captured, captured, failed]
        assert [await is_stored(deciding, name) for name in ("p", "q", "stuck.1")] == [
            True,
            True,
            False,
        ]
    await assert_books_in_order(database)


async def test_payments_of_a_busy_account_have_their_turn(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the request, as what pays on their money and what repeats their ids.

    The others are stored before the lock ends.
    """
    monkeypatch.setattr(parts, "PATIENCE_SECONDS", 60)
    async with deciding_on(database, lock_timeout_seconds=0.2) as deciding:
        await deciding.open_account("busy", funds_minor=1000)
        await deciding.open_account("payer", funds_minor=1000)
        await deciding.open_account("poor")
        await deciding.open_account("payee")
        orders: list[PaymentOrder] = [
            payment_order("first", "busy", "poor"),
            payment_order("on", "poor"),
            payment_order("p"),
            payment_order("first"),
            payment_order("on", "poor"),
        ]
        async with locked(database, BUSY) as session:
            paying = asyncio.create_task(deciding.pay(*orders))
            await until(lambda: is_stored(deciding, "p"))
            assert not await is_stored(deciding, "on")
            assert not paying.done()
            await session.rollback()
            outcomes = await paying
        assert answers(outcomes) == [
            PaymentStatus.CAPTURED,
            PaymentStatus.CAPTURED,
            PaymentStatus.CAPTURED,
            PaymentIdReused,
            PaymentStatus.DUPLICATE,
        ]
    await assert_books_in_order(database)


async def test_only_payments_of_a_slow_account_time_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All after one time-out, and it gets a snapshot before the next try."""
    slow = slow_account("slow", monkeypatch)
    async with deciding_on(database, long_tails=slow.tails) as deciding:
        await deciding.open_account("payer", funds_minor=1000)
        await deciding.open_account("payee")
        await slow.open(deciding)
        orders = [payment_order(f"s.{number}", "slow", amount_minor=1) for number in range(9)]
        outcomes = await deciding.pay(*orders, payment_order("p"), payment_order("q"))
        captured = PaymentStatus.CAPTURED
        assert answers(outcomes) == [*[DatabaseTimeout] * 9, captured, captured]
        assert slow.timeouts == 1
        ((number,),) = await deciding.query(
            "SELECT balance_account_id FROM balance_accounts WHERE account_id = 'slow'"
        )
        assert slow.tails.tails[number] == ENTRIES_MAX
        await take_snapshots(deciding.engine, "slow")
        assert answers(await deciding.pay(*orders)) == [captured] * 9
    await assert_books_in_order(database)
