"""Payments and their operations, between the contract's messages and the domain."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

from ledger.api.convert.batches import PAYMENTS, TRANSFERS, BatchItems
from ledger.api.convert.enums import by_number
from ledger.api.convert.events import write_entry
from ledger.api.convert.identifiers import require_ids
from ledger.api.convert.instants import decode_instant_of, encode_instant, write_microseconds
from ledger.api.convert.paging import (
    Listing,
    Paging,
    PlaceFormat,
    fitting,
    read_microseconds,
)
from ledger.api.errors import status_of
from ledger.application.payments.decide_payments import Chain
from ledger.application.payments.outcomes import (
    OperationOutcome,
    OperationStatus,
    PaymentOutcome,
    PaymentStatus,
)
from ledger.application.ports.pages import Page
from ledger.application.ports.payments import PaymentDetails, PaymentPlace, PaymentQuery
from ledger.domain.events import microseconds
from ledger.domain.fields import ID_RULE, is_id
from ledger.domain.payments import (
    CaptureMode,
    DeclineReason,
    OperationKind,
    OperationOrder,
    Payment,
    PaymentOperation,
    PaymentOrder,
    PaymentState,
    operation_violations,
    order_violations,
)
from ledger.errors import (
    FieldViolation,
    InvalidRequest,
    LedgerError,
    LinkedPaymentRefused,
)
from ledger.v1 import payment_pb2

_DOMAIN = "src/ledger/domain/payments.py"
_CAPTURES = by_number(payment_pb2.CaptureMode, "CAPTURE_MODE_", CaptureMode, _DOMAIN)
_STATES = by_number(payment_pb2.PaymentState, "PAYMENT_STATE_", PaymentState, _DOMAIN)
_CAPTURE_NUMBERS = {capture: number for number, capture in _CAPTURES.items()}
_STATE_NUMBERS = {state: number for number, state in _STATES.items()}
_KIND_NUMBERS = {
    kind: number
    for number, kind in by_number(
        payment_pb2.OperationKind, "OPERATION_KIND_", OperationKind, _DOMAIN
    ).items()
}
_REASON_NUMBERS: dict[DeclineReason | None, int] = {
    reason: number
    for number, reason in by_number(
        payment_pb2.DeclineReason, "DECLINE_REASON_", DeclineReason, _DOMAIN
    ).items()
}
_REASON_NUMBERS[None] = payment_pb2.DECLINE_REASON_UNSPECIFIED
_OUTCOMES = "src/ledger/application/payments/outcomes.py"
_STATUS_NUMBERS = {
    status: number
    for number, status in by_number(
        payment_pb2.PaymentStatus, "PAYMENT_STATUS_", PaymentStatus, _OUTCOMES
    ).items()
}
_OPERATION_STATUS_NUMBERS = {
    status: number
    for number, status in by_number(
        payment_pb2.OperationStatus, "OPERATION_STATUS_", OperationStatus, _OUTCOMES
    ).items()
}
_FIELD_ORDER = {
    field.name: field.number for field in payment_pb2.AuthorizePaymentRequest.DESCRIPTOR.fields
}

# The memory, at most, of a payment without its texts, and of an entry of its metadata.
_PAYMENT_BYTES, _ENTRY_BYTES = 1000, 150
# How often a request's texts are in memory, at most: decoded, with four bytes a character, and in
# the SQL statement.
_TEXT_COPIES = 7

# An order, or the error of one that is rejected.
DecodedOrder = PaymentOrder | InvalidRequest


Instruction = payment_pb2.AuthorizePaymentRequest | payment_pb2.PaymentOrder | payment_pb2.Transfer


def decode_order(
    message: payment_pb2.AuthorizePaymentRequest | payment_pb2.PaymentOrder, path: str = ""
) -> PaymentOrder:
    """The order of a request, or of the payment at `path` of a batch.

    Raises InvalidRequest with every violation.
    """
    violations: list[FieldViolation] = []
    capture = _CAPTURES.get(message.capture)
    if capture is None:
        violations.append(FieldViolation("capture", "must be IMMEDIATE or MANUAL"))
    expires_at = decode_instant_of(message, "expires_at", violations)
    return _decode(message, capture, expires_at, violations, path)


def decode_transfer(message: payment_pb2.Transfer, path: str = "") -> PaymentOrder:
    """The order of the transfer at `path`, which is captured at once. Raises InvalidRequest."""
    return _decode(message, CaptureMode.IMMEDIATE, None, [], path)


def _decode(
    message: Instruction,
    capture: CaptureMode | None,
    expires_at: datetime | None,
    violations: list[FieldViolation],
    path: str,
) -> PaymentOrder:
    restaurant_id = message.payee_restaurant_id
    order = PaymentOrder(
        message.payment_id,
        message.payer_account_id,
        message.payee_account_id,
        restaurant_id,
        message.currency,
        message.amount_minor,
        message.fee_minor,
        capture or CaptureMode.IMMEDIATE,
        expires_at,
        message.reference,
        dict(message.metadata) if message.metadata else {},
    )
    violations += order_violations(order, capture=capture)
    if not restaurant_id and message.HasField("payee_restaurant_id"):
        # It was given, and is empty: the rule is that of the field which was given.
        violations = [found for found in violations if found.field != "payee_account_id"]
        violations.append(FieldViolation("payee_restaurant_id", ID_RULE))
    if violations:
        violations.sort(key=lambda found: _FIELD_ORDER[found.field])
        raise InvalidRequest(
            [FieldViolation(f"{path}{found.field}", found.description) for found in violations]
        )
    return order


def decode_payments(
    request: payment_pb2.BatchAuthorizePaymentsRequest,
) -> tuple[list[Chain], list[LedgerError | None]]:
    """The chains to decide, and the error of each payment that is rejected, in their places.

    A chain with a rejected payment is rejected as a whole. Raises InvalidRequest for a batch of the
    wrong size or shape.
    """
    return _decode_batch(PAYMENTS, request.payments, decode_order)


def decode_transfers(
    request: payment_pb2.BatchTransfersRequest,
) -> tuple[list[Chain], list[LedgerError | None]]:
    """As decode_payments."""
    return _decode_batch(TRANSFERS, request.transfers, decode_transfer)


def _decode_batch(
    items: BatchItems, messages: Sequence[Any], decode: Callable[[Any, str], PaymentOrder]
) -> tuple[list[Chain], list[LedgerError | None]]:
    items.check_number(len(messages))
    field = items.field
    if messages[-1].linked:
        raise InvalidRequest(
            [
                FieldViolation(
                    f"{field}[{len(messages) - 1}].linked", "must be false on the last one"
                )
            ]
        )
    chains: list[Chain] = []
    errors: list[LedgerError | None] = []
    chain: list[DecodedOrder] = []
    for place, message in enumerate(messages):
        try:
            chain.append(decode(message, f"{field}[{place}]."))
        except InvalidRequest as error:
            # Without the traceback, which would keep the variables of this loop in memory.
            chain.append(error.with_traceback(None))
        if message.linked:
            continue
        orders = [each for each in chain if isinstance(each, PaymentOrder)]
        if len(orders) == len(chain):
            chains.append(orders)
            errors += [None] * len(chain)
        else:
            errors += [
                LinkedPaymentRefused(each.payment_id) if isinstance(each, PaymentOrder) else each
                for each in chain
            ]
        chain = []
    return chains, errors


def memory_bytes(orders: Iterable[PaymentOrder | OperationOrder], message_bytes: int) -> int:
    """The memory that the orders of a message of `message_bytes` take until they are decided."""
    size_bytes = _TEXT_COPIES * message_bytes
    for order in orders:
        size_bytes += _PAYMENT_BYTES
        if isinstance(order, PaymentOrder):
            size_bytes += _ENTRY_BYTES * len(order.metadata)
    return size_bytes


def decode_operation(
    kind: OperationKind,
    request: payment_pb2.CapturePaymentRequest
    | payment_pb2.VoidPaymentRequest
    | payment_pb2.RefundPaymentRequest
    | payment_pb2.ReversePaymentRequest,
) -> OperationOrder:
    """The operation of a request. Raises InvalidRequest."""
    order = OperationOrder(
        request.operation_id,
        kind,
        request.payment_id,
        getattr(request, "amount_minor", 0),
        getattr(request, "is_final", False),
    )
    violations = operation_violations(order)
    if violations:
        raise InvalidRequest(violations)
    return order


def decode_payment_id(request: payment_pb2.GetPaymentRequest) -> str:
    """Returns the requested id. Raises InvalidRequest."""
    require_ids({"payment_id": request.payment_id})
    return request.payment_id


def decode_payment_query(request: payment_pb2.ListPaymentsRequest) -> PaymentQuery:
    """Which payments to list. Raises InvalidRequest."""
    violations: list[FieldViolation] = []
    of = request.WhichOneof("of")
    if of is None:
        violations.append(FieldViolation("payer_account_id", "a payer or a payee must be set"))
    elif not is_id(getattr(request, of)):
        violations.append(FieldViolation(of, ID_RULE))
    state = None
    if request.state:
        state = _STATES.get(request.state)
        if state is None:
            violations.append(FieldViolation("state", "must be one of the payment states"))
    if violations:
        raise InvalidRequest(violations)
    return PaymentQuery(
        payer_account_id=request.payer_account_id or None,
        payee_account_id=request.payee_account_id or None,
        payee_restaurant_id=request.payee_restaurant_id or None,
        state=state,
    )


def payment_listing(query: PaymentQuery) -> Listing[PaymentPlace]:
    """The payments that `query` selects."""
    described = (
        "ListPayments",
        query.payer_account_id or "",
        query.payee_account_id or "",
        query.payee_restaurant_id or "",
        query.state or "",
    )
    return Listing(described, _PLACE_FORMAT)


def encode_payment(payment: Payment) -> payment_pb2.Payment:
    message = payment_pb2.Payment()
    write_payment(message, payment)
    return message


def write_payment(message: payment_pb2.Payment, payment: Payment) -> None:
    """Writes a payment into an empty message, in place."""
    order = payment.order
    message.payment_id = order.payment_id
    message.payer_account_id = order.payer_account_id
    if order.payee_account_id:
        message.payee_account_id = order.payee_account_id
    else:
        message.payee_restaurant_id = order.payee_restaurant_id
    message.currency = order.currency
    message.amount_minor = order.amount_minor
    message.fee_minor = order.fee_minor
    message.capture = _CAPTURE_NUMBERS[order.capture]  # type: ignore[assignment]
    if order.expires_at is not None:
        message.expires_at.CopyFrom(encode_instant(order.expires_at))
    message.reference = order.reference
    if order.metadata:
        message.metadata.update(order.metadata)
    message.state = _STATE_NUMBERS[payment.state]  # type: ignore[assignment]
    message.captured_minor = payment.captured_minor
    message.refunded_minor = payment.refunded_minor
    message.held_minor = payment.held_minor
    if payment.decline_reason is None:
        message.transaction_id = payment.transaction_id
    else:
        message.decline_reason = _REASON_NUMBERS[payment.decline_reason]  # type: ignore[assignment]
    write_microseconds(message.created_at, microseconds(payment.recorded_at))


def _write_operation(message: payment_pb2.PaymentOperation, operation: PaymentOperation) -> None:
    order = operation.order
    is_declined = operation.decline_reason is not None
    message.operation_id = order.operation_id or ""
    message.kind = _KIND_NUMBERS[order.kind]  # type: ignore[assignment]
    message.amount_minor = order.requested_minor if is_declined else operation.amount_minor
    message.released_minor = operation.released_minor
    message.is_final = order.is_final
    message.decline_reason = _REASON_NUMBERS[operation.decline_reason]  # type: ignore[assignment]
    message.transaction_id = "" if is_declined else operation.transaction_id
    message.state = _STATE_NUMBERS[operation.state]  # type: ignore[assignment]
    message.captured_minor = operation.captured_minor
    message.refunded_minor = operation.refunded_minor
    write_microseconds(message.created_at, microseconds(operation.recorded_at))


def encode_authorization(outcome: PaymentOutcome) -> payment_pb2.AuthorizePaymentResponse:
    """The response for one payment. Raises the error if the outcome is one."""
    if isinstance(outcome, LedgerError):
        raise outcome
    response = payment_pb2.AuthorizePaymentResponse()
    response.status = _STATUS_NUMBERS[outcome.status]  # type: ignore[assignment]
    write_payment(response.payment, outcome.payment)
    return response


def write_results(
    results: RepeatedCompositeFieldContainer[payment_pb2.PaymentResult],
    errors: Sequence[LedgerError | None],
    outcomes: Iterable[PaymentOutcome],
) -> None:
    """Writes the results of a batch: a place has its error, or else the next outcome."""
    decided = iter(outcomes)
    for error in errors:
        outcome = error if error is not None else next(decided)
        message = results.add()
        if isinstance(outcome, LedgerError):
            message.error.CopyFrom(status_of(outcome))
            continue
        message.status = _STATUS_NUMBERS[outcome.status]  # type: ignore[assignment]
        payment = outcome.payment
        if payment.decline_reason is None:
            message.transaction_id = payment.transaction_id
        else:
            message.decline_reason = _REASON_NUMBERS[payment.decline_reason]  # type: ignore[assignment]


def write_operation_outcome(
    response: payment_pb2.CapturePaymentResponse
    | payment_pb2.VoidPaymentResponse
    | payment_pb2.RefundPaymentResponse
    | payment_pb2.ReversePaymentResponse,
    outcome: OperationOutcome,
) -> None:
    """Writes an outcome into an empty response. Raises the error if the outcome is one."""
    if isinstance(outcome, LedgerError):
        raise outcome
    response.status = _OPERATION_STATUS_NUMBERS[outcome.status]  # type: ignore[assignment]
    _write_operation(response.operation, outcome.operation)
    write_payment(response.payment, outcome.payment)


def encode_payment_details(details: PaymentDetails) -> payment_pb2.GetPaymentResponse:
    response = payment_pb2.GetPaymentResponse()
    write_payment(response.payment, details.payment)
    response.operations_count = details.operations_count
    for operation in details.operations:
        _write_operation(response.operations.add(), operation)
    for entry in details.entries:
        write_entry(response.entries.add(), entry)
    return response


def encode_payment_page(
    paging: Paging[PaymentPlace], page: Page[Payment, PaymentPlace]
) -> payment_pb2.ListPaymentsResponse:
    """As many payments of the page as PAGE_BYTES_MAX allows, and at least one."""
    payments, next_place = fitting(map(encode_payment, page.items), page.next_place, _place_of)
    return payment_pb2.ListPaymentsResponse(
        payments=payments, next_page_token=paging.next_page_token(next_place)
    )


def _place_of(message: payment_pb2.Payment) -> PaymentPlace:
    return PaymentPlace(message.created_at.ToDatetime(UTC), message.payment_id)


def _read_place(texts: Sequence[str]) -> PaymentPlace:
    recorded_at, payment_id = texts
    if not is_id(payment_id):
        raise ValueError("not an id")
    return PaymentPlace(read_microseconds(recorded_at), payment_id)


_PLACE_FORMAT = PlaceFormat(
    2, lambda place: (str(microseconds(place.recorded_at)), place.payment_id), _read_place
)
