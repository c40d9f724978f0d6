"""Payments that are decided together."""

import pytest
from support.audit import assert_books_in_order
from support.deciding import deciding_on, payment_order

from ledger.application.payments.outcomes import AnsweredPayment, PaymentStatus
from ledger.bootstrap.database import Database
from ledger.errors import AccountNotFound, PaymentIdReused, PaymentRejected


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
        assert [
            outcome.status if isinstance(outcome, AnsweredPayment) else type(outcome)
            for outcome in outcomes
        ] == [
            PaymentStatus.CAPTURED,
            PaymentRejected,
            PaymentStatus.CAPTURED,
            PaymentStatus.DUPLICATE,
            PaymentIdReused,
            PaymentStatus.DUPLICATE,
        ]
    await assert_books_in_order(database)
