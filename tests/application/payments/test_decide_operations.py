"""Operations that are decided together."""

import pytest
from support.audit import assert_books_in_order
from support.deciding import deciding_on, payment_order, void_of
from support.paying import expire

from ledger.application.payments.outcomes import AnsweredOperation, OperationStatus
from ledger.bootstrap.database import Database
from ledger.domain.payments import CaptureMode, OperationKind


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
