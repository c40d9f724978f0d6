"""What callers of payments get."""

from enum import StrEnum
from typing import NamedTuple

from ledger.domain.payments import Payment, PaymentOperation, PaymentState
from ledger.errors import LedgerError


class PaymentStatus(StrEnum):
    """The answer to an order."""

    AUTHORIZED = "AUTHORIZED"
    CAPTURED = "CAPTURED"
    DECLINED = "DECLINED"
    DUPLICATE = "DUPLICATE"


class OperationStatus(StrEnum):
    """The answer to an operation."""

    APPLIED = "APPLIED"
    DECLINED = "DECLINED"
    DUPLICATE = "DUPLICATE"


class AnsweredPayment(NamedTuple):
    """A decided payment, as it was first answered."""

    status: PaymentStatus
    payment: Payment


class AnsweredOperation(NamedTuple):
    """A decided operation, and the payment after it."""

    status: OperationStatus
    operation: PaymentOperation
    payment: Payment


PaymentOutcome = AnsweredPayment | LedgerError
OperationOutcome = AnsweredOperation | LedgerError

_STATUS_BY_STATE = {
    PaymentState.AUTHORIZED: PaymentStatus.AUTHORIZED,
    PaymentState.CAPTURED: PaymentStatus.CAPTURED,
    PaymentState.DECLINED: PaymentStatus.DECLINED,
}


def status_of(payment: Payment) -> PaymentStatus:
    """The status of a payment as it was first answered."""
    return _STATUS_BY_STATE[payment.state]
