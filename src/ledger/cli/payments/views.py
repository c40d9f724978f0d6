"""Shows payments and their operations as tables for people and as JSON for programs."""

from collections.abc import Iterable

from ledger.cli.instants import format_instant
from ledger.cli.metadata import add_pairs, json_of_pairs
from ledger.cli.output import JsonValue, Table, facts
from ledger.cli.words import amount_of, amount_or_none, word_of
from ledger.v1 import ledger_pb2, payment_pb2

# What people read beside the reason of a decline.
_SENTENCES = {
    payment_pb2.DECLINE_REASON_INSUFFICIENT_FUNDS: (
        "the account that would pay has too little, its overdraft included"
    ),
    payment_pb2.DECLINE_REASON_ACCOUNT_FROZEN: "an account that would pay or be paid is frozen",
    payment_pb2.DECLINE_REASON_ACCOUNT_CLOSED: "an account that would pay or be paid is closed",
    payment_pb2.DECLINE_REASON_CURRENCY_MISMATCH: "an account has another currency",
    payment_pb2.DECLINE_REASON_PAYMENT_NOT_CAPTURABLE: "nothing of the payment is held",
    payment_pb2.DECLINE_REASON_AMOUNT_EXCEEDS_AUTHORIZED: "less is held",
    payment_pb2.DECLINE_REASON_PAYMENT_NOT_VOIDABLE: "nothing of the payment is held",
    payment_pb2.DECLINE_REASON_PAYMENT_NOT_REFUNDABLE: "nothing was captured, or all is refunded",
    payment_pb2.DECLINE_REASON_AMOUNT_EXCEEDS_CAPTURED: "less is left to refund",
    payment_pb2.DECLINE_REASON_PAYMENT_NOT_REVERSIBLE: "nothing is held or left to refund",
    payment_pb2.DECLINE_REASON_EXPIRED: "the payment had expired when it was decided",
    payment_pb2.DECLINE_REASON_LINKED_PAYMENT_DECLINED: "another payment of its chain was declined",
}


def reason_of(number: "payment_pb2.DeclineReason.ValueType") -> str:
    """The reason of a decline as people write it; empty without one."""
    return word_of(payment_pb2.DeclineReason, number) if number else ""


def decline_line(number: "payment_pb2.DeclineReason.ValueType") -> str:
    """The reason of a decline, and what it means."""
    sentence = _SENTENCES.get(number)
    return reason_of(number) + (f": {sentence}" if sentence else "")


def payment_state(number: "payment_pb2.PaymentState.ValueType") -> str:
    """The state as people write it."""
    return word_of(payment_pb2.PaymentState, number)


def payment_table(payment: payment_pb2.Payment) -> Table:
    """One payment: who pays whom, where it stands, its amounts."""
    currency = payment.currency
    table = facts()
    table.add("payment", payment.payment_id)
    table.add("from", payment.payer_account_id)
    table.add("to", _payee(payment))
    table.add("amount", f"{amount_of(payment.amount_minor, currency)} {currency}")
    if payment.fee_minor:
        table.add("fee", amount_of(payment.fee_minor, currency))
    table.add("state", payment_state(payment.state))
    if payment.decline_reason:
        table.add("reason", decline_line(payment.decline_reason))
    else:
        table.add("held", amount_of(payment.held_minor, currency))
        table.add("captured", amount_of(payment.captured_minor, currency))
        table.add("refunded", amount_of(payment.refunded_minor, currency))
    if payment.HasField("expires_at"):
        table.add("expires", format_instant(payment.expires_at))
    if payment.reference:
        table.add("reference", payment.reference)
    add_pairs(table, payment.metadata)
    table.add("decided", format_instant(payment.created_at))
    if payment.transaction_id:
        table.add("transaction id", payment.transaction_id)
    return table


def payments_table(payments: Iterable[payment_pb2.Payment]) -> Table:
    """Payments, one a row."""
    amounts = ("amount", "held", "captured", "refunded")
    titles = ("payment", "from", "to", "state", "currency", *amounts, "reason", "decided")
    table = Table(
        titles,
        right=frozenset(amounts),
        optional=("decided", "refunded", "held", "reason"),
    )
    for payment in payments:
        shown = (
            payment.amount_minor,
            payment.held_minor,
            payment.captured_minor,
            payment.refunded_minor,
        )
        table.add(
            payment.payment_id,
            payment.payer_account_id,
            _payee(payment),
            payment_state(payment.state),
            payment.currency,
            *(amount_of(amount_minor, payment.currency) for amount_minor in shown),
            reason_of(payment.decline_reason),
            format_instant(payment.created_at),
        )
    return table


def operation_table(operation: payment_pb2.PaymentOperation, currency: str) -> Table:
    """One operation: what it moved, and where it left the payment."""
    table = facts()
    table.add("operation", _kind(operation))
    table.add("operation id", operation.operation_id)
    if operation.amount_minor or operation.decline_reason:
        table.add("amount", _asked(operation, currency))
    if operation.released_minor:
        table.add("released", amount_of(operation.released_minor, currency))
    if operation.decline_reason:
        table.add("reason", decline_line(operation.decline_reason))
    table.add("decided", format_instant(operation.created_at))
    if operation.transaction_id:
        table.add("transaction id", operation.transaction_id)
    return table


def operations_table(operations: Iterable[payment_pb2.PaymentOperation], currency: str) -> Table:
    """The operations on a payment, one a row."""
    amounts = ("amount", "released")
    table = Table(
        ("operation", "operation id", *amounts, "state after", "reason", "decided"),
        right=frozenset(amounts),
        optional=("decided",),
    )
    for operation in operations:
        table.add(
            _kind(operation),
            operation.operation_id,
            _asked(operation, currency),
            amount_of(operation.released_minor, currency),
            payment_state(operation.state),
            reason_of(operation.decline_reason),
            format_instant(operation.created_at),
        )
    return table


def entries_table(entries: Iterable[ledger_pb2.LedgerEntry], currency: str) -> Table:
    """Entries, each with one debit and one credit, and with the holder of its books."""
    table = Table(
        ("books of", "entry", "debit", "credit", currency, "transaction id"),
        right=frozenset((currency,)),
        optional=("transaction id",),
    )
    for entry in entries:
        table.add(
            entry.account_id or entry.restaurant_id,
            word_of(ledger_pb2.EntryType, entry.type),
            word_of(ledger_pb2.LedgerAccount, entry.debit_account),
            word_of(ledger_pb2.LedgerAccount, entry.credit_account),
            amount_of(entry.amount_minor, entry.currency),
            entry.transaction_id,
        )
    return table


def json_of_payment(payment: payment_pb2.Payment) -> dict[str, JsonValue]:
    """The payment by the contract's field names, each amount also as people write it."""
    return {
        "payment_id": payment.payment_id,
        "payer_account_id": payment.payer_account_id,
        "payee_account_id": payment.payee_account_id or None,
        "payee_restaurant_id": payment.payee_restaurant_id or None,
        "currency": payment.currency,
        **_json_of_amount("amount", payment.amount_minor, payment.currency),
        **_json_of_amount("fee", payment.fee_minor, payment.currency),
        "capture": word_of(payment_pb2.CaptureMode, payment.capture),
        "expires_at": format_instant(payment.expires_at)
        if payment.HasField("expires_at")
        else None,
        "reference": payment.reference,
        "metadata": json_of_pairs(payment.metadata),
        "state": payment_state(payment.state),
        "decline_reason": reason_of(payment.decline_reason) or None,
        **_json_of_amount("captured", payment.captured_minor, payment.currency),
        **_json_of_amount("refunded", payment.refunded_minor, payment.currency),
        **_json_of_amount("held", payment.held_minor, payment.currency),
        "transaction_id": payment.transaction_id or None,
        "created_at": format_instant(payment.created_at),
    }


def json_of_operation(
    operation: payment_pb2.PaymentOperation, currency: str
) -> dict[str, JsonValue]:
    """The operation by the contract's field names, each amount also as people write it."""
    return {
        "operation_id": operation.operation_id or None,
        "kind": _kind(operation),
        **_json_of_amount("amount", operation.amount_minor, currency),
        **_json_of_amount("released", operation.released_minor, currency),
        "is_final": operation.is_final,
        "decline_reason": reason_of(operation.decline_reason) or None,
        "transaction_id": operation.transaction_id or None,
        "state": payment_state(operation.state),
        **_json_of_amount("captured", operation.captured_minor, currency),
        **_json_of_amount("refunded", operation.refunded_minor, currency),
        "created_at": format_instant(operation.created_at),
    }


def json_of_entry(entry: ledger_pb2.LedgerEntry) -> dict[str, JsonValue]:
    """The entry by the contract's field names, without those that no payment's entry has."""
    return {
        "transaction_id": entry.transaction_id,
        "position": entry.position,
        "type": word_of(ledger_pb2.EntryType, entry.type),
        "account_id": entry.account_id or None,
        "restaurant_id": entry.restaurant_id or None,
        "debit_account": word_of(ledger_pb2.LedgerAccount, entry.debit_account),
        "credit_account": word_of(ledger_pb2.LedgerAccount, entry.credit_account),
        **_json_of_amount("amount", entry.amount_minor, entry.currency),
        "currency": entry.currency,
        "available_at": format_instant(entry.available_at)
        if entry.HasField("available_at")
        else None,
        "recorded_at": format_instant(entry.recorded_at),
    }


def _json_of_amount(name: str, amount_minor: int, currency: str) -> dict[str, JsonValue]:
    return {f"{name}_minor": str(amount_minor), name: amount_or_none(amount_minor, currency)}


def _payee(payment: payment_pb2.Payment) -> str:
    if payment.payee_restaurant_id:
        return f"restaurant {payment.payee_restaurant_id}"
    return payment.payee_account_id


def _kind(operation: payment_pb2.PaymentOperation) -> str:
    return word_of(payment_pb2.OperationKind, operation.kind)


def _asked(operation: payment_pb2.PaymentOperation, currency: str) -> str:
    if operation.decline_reason and not operation.amount_minor:
        return "all"
    return amount_of(operation.amount_minor, currency)
