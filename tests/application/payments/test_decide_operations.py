"""Operations that are decided together."""

from collections.abc import Sequence

import pytest
from support.audit import assert_books_in_order
from support.deciding import deciding_on, payment_order, slow_account, void_of
from support.paying import expire
from support.sessions import locked
from support.snapshots import take_snapshots

from ledger.application.payments import parts
from ledger.application.payments.outcomes import (
    AnsweredOperation,
    OperationOutcome,
    OperationStatus,
)
from ledger.bootstrap.database import Database
from ledger.domain.payments import CaptureMode, OperationKind, OperationOrder
from ledger.errors import DatabaseContention, DatabaseTimeout

APPLIED = OperationStatus.APPLIED


def refund_of(operation_id: str, payment_id: str) -> OperationOrder:
    return OperationOrder(operation_id, OperationKind.REFUND, payment_id, 1)


def answers(outcomes: Sequence[OperationOutcome]) -> list[object]:
    """The status of each that was decided, and the class of each error."""
    return [
        outcome.status if isinstance(outcome, AnsweredOperation) else type(outcome)
        for outcome in outcomes
    ]


@pytest.mark.parametrize("named_first", [True, False])
async def test_operation_named_like_an_expired_payment_keeps_its_answer(
    database: Database, *, named_first: bool
) -> None:
    """Ids of payments and of operations are apart: a caller may use one as the other.

    In one group an operation on "a" is called "b", and an operation on "b" finds that expired.
    """
    async with deciding_on(database) as deciding:
        await deciding.open_account("payer", funds_minor=1000)
        await deciding.open_account("payee")
        await deciding.pay(
            payment_order("a", capture=CaptureMode.MANUAL),
            payment_order("b", capture=CaptureMode.MANUAL),
        )
        await expire(database, "b")
        orders = [void_of("b", "a"), void_of("c", "b")]
        if not named_first:
            orders.reverse()
        outcomes = await deciding.operate(*orders)
        for order, outcome in zip(orders, outcomes, strict=True):
            assert isinstance(outcome, AnsweredOperation)
            assert outcome.operation.order == order
            assert outcome.operation.order.kind is OperationKind.VOID
            expected = (
                OperationStatus.APPLIED if order.payment_id == "a" else (OperationStatus.DECLINED)
            )
            assert outcome.status is expected
    await assert_books_in_order(database)


@pytest.mark.parametrize(
    ("row", "fail"),
    [
        ("payments WHERE payment_id = 'paid'", {"refund.1", "refund.2"}),
        ("balance_accounts WHERE account_id = 'b'", {"refund.1", "refund.2", "refund.b"}),
    ],
)
async def test_locked_row_fails_only_its_operations(
    database: Database, monkeypatch: pytest.MonkeyPatch, row: str, fail: set[str]
) -> None:
    """An account is locked for the operations that its balance decides."""
    monkeypatch.setattr(parts, "PATIENCE_SECONDS", 0.3)
    async with deciding_on(database, lock_timeout_seconds=0.2) as deciding:
        for account_id in "abc":
            await deciding.open_account(account_id, funds_minor=1000)
        await deciding.pay(
            payment_order("paid", "a", "b"),
            payment_order("paid.b", "c", "b"),
            payment_order("paid.c", "b", "c"),
            payment_order("held", "b", "c", capture=CaptureMode.MANUAL),
            payment_order("held.b", "c", "b", capture=CaptureMode.MANUAL),
        )
        orders = [
            refund_of("refund.1", "paid"),
            refund_of("refund.2", "paid"),
            refund_of("refund.b", "paid.b"),
            refund_of("refund.c", "paid.c"),
            void_of("void", "held"),
            OperationOrder("capture", OperationKind.CAPTURE, "held.b"),
        ]
        async with locked(database, f"SELECT FROM {row} FOR NO KEY UPDATE"):
            outcomes = await deciding.operate(*orders)
        assert answers(outcomes) == [
            DatabaseContention if order.operation_id in fail else APPLIED for order in orders
        ]
        assert answers(await deciding.operate(*orders)) == [
            APPLIED if order.operation_id in fail else OperationStatus.DUPLICATE for order in orders
        ]
    await assert_books_in_order(database)


async def test_only_refunds_out_of_a_slow_account_time_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its balance does not decide goes on."""
    slow = slow_account("slow", monkeypatch)
    async with deciding_on(database, long_tails=slow.tails) as deciding:
        await deciding.open_account("payer", funds_minor=1000)
        await deciding.open_account("payee")
        await slow.open(deciding)
        await deciding.pay(
            payment_order("paid", payee="slow"),
            payment_order("paid.2"),
            payment_order("held", payee="slow", capture=CaptureMode.MANUAL),
        )
        orders = [
            refund_of("refund.1", "paid"),
            refund_of("refund.2", "paid"),
            refund_of("refund.3", "paid.2"),
            OperationOrder("capture", OperationKind.CAPTURE, "held"),
        ]
        outcomes = await deciding.operate(*orders)
        assert answers(outcomes) == [DatabaseTimeout, DatabaseTimeout, APPLIED, APPLIED]
        assert slow.timeouts == 1
        assert slow.tails.tails
        await take_snapshots(deciding.engine, "slow")
        assert answers(await deciding.operate(*orders[:2])) == [APPLIED, APPLIED]
    await assert_books_in_order(database)
