"""Returns payments to readers."""

from ledger.application.ports.pages import Page
from ledger.application.ports.payments import (
    PaymentDetails,
    PaymentPlace,
    PaymentQuery,
    Payments,
)
from ledger.domain.payments import Payment
from ledger.errors import AccountNotFound, PaymentNotFound, RestaurantNotFound


async def get_payment(payments: Payments, payment_id: str) -> PaymentDetails:
    """Returns a payment. Raises PaymentNotFound, DatabaseUnavailable, DatabaseTimeout."""
    details = await payments.get(payment_id)
    if details is None:
        raise PaymentNotFound(payment_id)
    return details


async def list_payments(
    payments: Payments, query: PaymentQuery, before: PaymentPlace | None, page_size: int
) -> Page[Payment, PaymentPlace]:
    """Returns a page of payments, latest first.

    Raises AccountNotFound or RestaurantNotFound; DatabaseUnavailable, DatabaseTimeout.
    """
    page = await payments.page(query, before, page_size)
    if page is None:
        if query.payee_restaurant_id is not None:
            raise RestaurantNotFound(query.payee_restaurant_id)
        raise AccountNotFound(query.payer_account_id or query.payee_account_id or "")
    return page
