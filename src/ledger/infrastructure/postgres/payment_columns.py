"""Payments and their operations as rows: the columns that are read, and what is made of them."""

from ledger.domain.payments import (
    CaptureMode,
    DeclineReason,
    OperationKind,
    OperationOrder,
    Payment,
    PaymentOperation,
    PaymentOrder,
    PaymentState,
)
from ledger.infrastructure.postgres.sessions.driver import Row

# Of payments "p", with the holders of both balance accounts.
PAYMENT_COLUMNS = """p.payment_id, p.transaction_id, p.batch_id,
       payer.account_id AS payer_account_id, payee.account_id AS payee_account_id,
       payee.restaurant_id AS payee_restaurant_id, p.currency, p.amount_minor, p.fee_minor,
       p.capture, p.expires_at, p.reference, p.metadata, p.decline_reason, p.state,
       p.captured_minor, p.refunded_minor, p.recorded_at"""
# With LIMIT each is looked up by itself: no plan reads the whole table to join it.
PAYMENT_HOLDERS = """CROSS JOIN LATERAL (
  SELECT b.account_id FROM balance_accounts AS b
  WHERE b.balance_account_id = p.payer_balance_account_id LIMIT 1
) AS payer
CROSS JOIN LATERAL (
  SELECT b.account_id, b.restaurant_id FROM balance_accounts AS b
  WHERE b.balance_account_id = p.payee_balance_account_id LIMIT 1
) AS payee"""

# Of payment_operations "o", named apart from those of its payment.
OPERATION_COLUMNS = """o.operation_id, o.sequence, o.transaction_id AS operation_transaction_id,
       o.batch_id AS operation_batch_id, o.kind, o.payment_id AS operation_payment_id,
       o.requested_minor, o.is_final,
       o.amount_minor AS moved_minor, o.released_minor,
       o.decline_reason AS operation_decline_reason, o.state AS state_after,
       o.captured_minor AS captured_after_minor, o.refunded_minor AS refunded_after_minor,
       o.recorded_at AS operation_recorded_at"""


def payment_of(row: Row) -> Payment:
    """The payment of a row that has PAYMENT_COLUMNS."""
    return Payment(
        order=PaymentOrder(
            payment_id=row["payment_id"],
            payer_account_id=row["payer_account_id"],
            payee_account_id=row["payee_account_id"] or "",
            payee_restaurant_id=row["payee_restaurant_id"] or "",
            currency=row["currency"],
            amount_minor=row["amount_minor"],
            fee_minor=row["fee_minor"],
            capture=CaptureMode(row["capture"]),
            expires_at=row["expires_at"],
            reference=row["reference"],
            metadata=row["metadata"],
        ),
        state=PaymentState(row["state"]),
        decline_reason=_reason(row["decline_reason"]),
        captured_minor=row["captured_minor"],
        refunded_minor=row["refunded_minor"],
        transaction_id=str(row["transaction_id"]),
        recorded_at=row["recorded_at"],
    )


def operation_of(row: Row) -> PaymentOperation:
    """The operation of a row that has OPERATION_COLUMNS."""
    return PaymentOperation(
        order=OperationOrder(
            row["operation_id"],
            OperationKind(row["kind"]),
            row["operation_payment_id"],
            row["requested_minor"],
            row["is_final"],
        ),
        sequence=row["sequence"],
        amount_minor=row["moved_minor"],
        released_minor=row["released_minor"],
        decline_reason=_reason(row["operation_decline_reason"]),
        transaction_id=str(row["operation_transaction_id"]),
        state=PaymentState(row["state_after"]),
        captured_minor=row["captured_after_minor"],
        refunded_minor=row["refunded_after_minor"],
        recorded_at=row["operation_recorded_at"],
    )


def _reason(text: str | None) -> DeclineReason | None:
    return None if text is None else DeclineReason(text)
