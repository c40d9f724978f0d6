"""Payments in memory, for readers and for the release of what has expired."""

from ledger.application.ports.pages import Page
from ledger.application.ports.payments import (
    ExpiryPlace,
    PaymentDetails,
    PaymentPlace,
    PaymentQuery,
)
from ledger.domain.payments import Payment
from ledger.testing.memory.books import BookedPayment, Books

# A payment is returned with so many operations, the latest.
OPERATIONS_MAX = 1000


class MemoryPayments:
    """Implements `ledger.application.ports.payments.Payments`."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def get(self, payment_id: str) -> PaymentDetails | None:
        booked = self._books.payments.get(payment_id)
        if booked is None:
            return None
        operations = booked.operations[-OPERATIONS_MAX:]
        steps = [booked.payment.transaction_id, *(each.transaction_id for each in operations)]
        entries = [
            entry.entry
            for account in (booked.payer_id, booked.payee_id)
            for entry in self._books.entries_of(account)
            if entry.entry.payment_id == payment_id and str(entry.entry.transaction_id) in steps
        ]
        entries.sort(key=lambda entry: (steps.index(str(entry.transaction_id)), entry.position))
        return PaymentDetails(booked.payment, len(booked.operations), operations, entries)

    async def page(
        self, query: PaymentQuery, before: PaymentPlace | None, page_size: int
    ) -> Page[Payment, PaymentPlace] | None:
        account_id = query.payer_account_id or query.payee_account_id
        if account_id is None:
            is_known = query.payee_restaurant_id in self._books.restaurants
        else:
            is_known = account_id in self._books.accounts
        if not is_known:
            return None
        found = [
            booked.payment for booked in self._books.payments.values() if _is_wanted(query, booked)
        ]
        found.sort(key=_place, reverse=True)
        if before is not None:
            found = [payment for payment in found if _place(payment) < before]
        return Page.cut(found, page_size, _place)

    async def expired(self, after: ExpiryPlace | None, limit: int) -> list[ExpiryPlace]:
        now = self._books.clock()
        places = sorted(
            ExpiryPlace(payment.order.expires_at, payment_id)
            for payment_id, (payment, *_) in self._books.payments.items()
            if payment.order.expires_at is not None and payment.is_expired(now)
        )
        return [place for place in places if after is None or place > after][:limit]


def _place(payment: Payment) -> PaymentPlace:
    return PaymentPlace(payment.recorded_at, payment.order.payment_id)


def _is_wanted(query: PaymentQuery, booked: BookedPayment) -> bool:
    order = booked.payment.order
    return (
        query.payer_account_id in (None, order.payer_account_id)
        and query.payee_account_id in (None, order.payee_account_id)
        and query.payee_restaurant_id in (None, order.payee_restaurant_id)
        and query.state in (None, booked.payment.state)
    )
