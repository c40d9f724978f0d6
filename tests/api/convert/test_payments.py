"""Payments and operations, as requests and responses have them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.violations import violations_of

from ledger.api.convert.payments import (
    decode_operation,
    decode_order,
    decode_payment_query,
    decode_payments,
    decode_transfers,
    encode_authorization,
    encode_payment,
    encode_payment_details,
    write_operation_outcome,
    write_results,
)
from ledger.application.payments.outcomes import (
    AnsweredOperation,
    AnsweredPayment,
    OperationStatus,
    PaymentStatus,
)
from ledger.application.ports.payments import PaymentDetails, PaymentQuery
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
from ledger.errors import InvalidRequest, LinkedPaymentRefused, PaymentNotFound
from ledger.v1 import payment_pb2

EXPIRES_AT = datetime(2027, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
DECIDED_AT = datetime(2026, 11, 29, 12, 0, 0, 1, tzinfo=UTC)
ORDER = PaymentOrder(
    "p",
    "payer",
    "",
    "eatery",
    "PEN",
    100,
    7,
    CaptureMode.MANUAL,
    EXPIRES_AT,
    "a reference",
    {"key": "value"},
)
FIELDS: dict[str, Any] = {
    "payment_id": "p",
    "payer_account_id": "payer",
    "payee_restaurant_id": "eatery",
    "amount_minor": 100,
    "currency": "PEN",
    "fee_minor": 7,
    "reference": "a reference",
    "metadata": {"key": "value"},
}


def instant(at: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(at)
    return message


def request(**changes: Any) -> payment_pb2.AuthorizePaymentRequest:
    """The request of ORDER, with some fields changed; None: without the field."""
    fields = FIELDS | {
        "capture": payment_pb2.CAPTURE_MODE_MANUAL,
        "expires_at": instant(EXPIRES_AT),
    }
    fields |= changes
    return payment_pb2.AuthorizePaymentRequest(
        **{name: value for name, value in fields.items() if value is not None}
    )


def test_order_of_a_request_has_all_its_fields() -> None:
    assert decode_order(request()) == ORDER
    plain = decode_order(
        request(
            payee_account_id="payee",
            payee_restaurant_id=None,
            fee_minor=None,
            expires_at=None,
            capture=payment_pb2.CAPTURE_MODE_IMMEDIATE,
            reference=None,
            metadata=None,
        )
    )
    assert plain == PaymentOrder(
        "p", "payer", "payee", "", "PEN", 100, 0, CaptureMode.IMMEDIATE, None, "", {}
    )


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"payee_restaurant_id": "", "fee_minor": 0}, ["payee_restaurant_id"]),
        ({"payee_restaurant_id": None, "fee_minor": 0}, ["payee_account_id"]),
        ({"capture": 0}, ["capture"]),
        ({"capture": 99}, ["capture"]),
        ({"capture": payment_pb2.CAPTURE_MODE_IMMEDIATE}, ["expires_at"]),
        ({"expires_at": Timestamp(nanos=-1)}, ["expires_at"]),
        ({"expires_at": Timestamp(seconds=2**62)}, ["expires_at"]),
        # All of them, in the order of the contract.
        (
            {
                "payment_id": "",
                "payer_account_id": "no spaces",
                "payee_restaurant_id": "é",
                "amount_minor": 0,
                "currency": "",
                "capture": 0,
                "fee_minor": -1,
                "reference": "\t",
                "metadata": {"\0": ""},
            },
            [
                "payment_id",
                "payer_account_id",
                "payee_restaurant_id",
                "amount_minor",
                "currency",
                "capture",
                "fee_minor",
                "reference",
                "metadata",
            ],
        ),
    ],
    ids=str,
)
def test_invalid_order_names_its_fields(changes: dict[str, Any], fields: list[str]) -> None:
    found = violations_of(decode_order, request(**changes))
    assert [field for field, _ in found] == fields


def transfer(payment_id: str, *, linked: bool = False, **changes: Any) -> payment_pb2.Transfer:
    return payment_pb2.Transfer(**(FIELDS | {"payment_id": payment_id} | changes), linked=linked)


def test_transfers_are_cut_into_chains() -> None:
    """A chain ends with the first payment that is not linked."""
    chains, errors = decode_transfers(
        payment_pb2.BatchTransfersRequest(
            transfers=[
                transfer("a"),
                transfer("b", linked=True),
                transfer("c", linked=True),
                transfer("d"),
                transfer("e"),
            ]
        )
    )
    assert [[order.payment_id for order in chain] for chain in chains] == [
        ["a"],
        ["b", "c", "d"],
        ["e"],
    ]
    assert errors == [None] * 5
    for chain in chains:
        assert {(order.capture, order.expires_at) for order in chain} == {
            (CaptureMode.IMMEDIATE, None)
        }


def test_chain_with_an_invalid_payment_is_refused_as_a_whole() -> None:
    """The payment names its fields by its place; results are in the places of the requests."""
    chains, errors = decode_transfers(
        payment_pb2.BatchTransfersRequest(
            transfers=[
                transfer("a", linked=True),
                transfer("b", amount_minor=0),
                transfer("c"),
                transfer("d", currency=""),
            ]
        )
    )
    assert [[order.payment_id for order in chain] for chain in chains] == [["c"]]
    assert [type(error) for error in errors] == [
        LinkedPaymentRefused,
        InvalidRequest,
        type(None),
        InvalidRequest,
    ]
    assert isinstance(errors[1], InvalidRequest)
    assert [violation.field for violation in errors[1].violations] == ["transfers[1].amount_minor"]
    results = payment_pb2.BatchTransfersResponse().results
    write_results(results, errors, [AnsweredPayment(PaymentStatus.DUPLICATE, PAYMENT)])
    assert [result.HasField("error") for result in results] == [True, True, False, True]
    assert results[2] == payment_pb2.PaymentResult(
        status=payment_pb2.PAYMENT_STATUS_DUPLICATE, transaction_id="t"
    )


@pytest.mark.parametrize(
    ("count", "linked_place", "field"),
    [(0, None, "payments"), (1001, None, "payments"), (3, 2, "payments[2].linked")],
)
def test_batch_of_a_wrong_size_or_shape_is_rejected(
    count: int, linked_place: int | None, field: str
) -> None:
    batch = payment_pb2.BatchAuthorizePaymentsRequest()
    for place in range(count):
        batch.payments.add(payment_id=f"p{place}", linked=place == linked_place)
    ((found, _),) = violations_of(decode_payments, batch)
    assert found == field


PAYMENT = Payment(ORDER, PaymentState.PARTIALLY_CAPTURED, None, 40, 10, "t", DECIDED_AT)
DECLINED = Payment(
    ORDER, PaymentState.DECLINED, DeclineReason.ACCOUNT_FROZEN, 0, 0, "t", DECIDED_AT
)
OPERATION = PaymentOperation(
    OperationOrder("o", OperationKind.CAPTURE, "p", 0, is_final=True),
    3,
    40,
    60,
    None,
    "u",
    PaymentState.CAPTURED,
    40,
    10,
    DECIDED_AT,
)


def test_payment_of_a_response_has_all_its_fields() -> None:
    assert encode_payment(PAYMENT) == payment_pb2.Payment(
        **FIELDS,
        capture=payment_pb2.CAPTURE_MODE_MANUAL,
        expires_at=instant(EXPIRES_AT),
        state=payment_pb2.PAYMENT_STATE_PARTIALLY_CAPTURED,
        captured_minor=40,
        refunded_minor=10,
        held_minor=60,
        transaction_id="t",
        created_at=instant(DECIDED_AT),
    )


def test_declined_payment_has_its_reason_and_posted_nothing() -> None:
    response = encode_authorization(AnsweredPayment(PaymentStatus.DECLINED, DECLINED))
    assert response.status == payment_pb2.PAYMENT_STATUS_DECLINED
    assert response.payment.decline_reason == payment_pb2.DECLINE_REASON_ACCOUNT_FROZEN
    assert (response.payment.transaction_id, response.payment.held_minor) == ("", 0)


def test_error_of_a_single_command_is_raised() -> None:
    with pytest.raises(PaymentNotFound):
        encode_authorization(PaymentNotFound("p"))
    with pytest.raises(PaymentNotFound):
        write_operation_outcome(payment_pb2.VoidPaymentResponse(), PaymentNotFound("p"))


def test_operation_of_a_response_has_all_its_fields() -> None:
    response = payment_pb2.CapturePaymentResponse()
    outcome = AnsweredOperation(OperationStatus.APPLIED, OPERATION, PAYMENT)
    write_operation_outcome(response, outcome)
    assert response == payment_pb2.CapturePaymentResponse(
        status=payment_pb2.OPERATION_STATUS_APPLIED,
        operation=payment_pb2.PaymentOperation(
            operation_id="o",
            kind=payment_pb2.OPERATION_KIND_CAPTURE,
            amount_minor=40,
            released_minor=60,
            is_final=True,
            transaction_id="u",
            state=payment_pb2.PAYMENT_STATE_CAPTURED,
            captured_minor=40,
            refunded_minor=10,
            created_at=instant(DECIDED_AT),
        ),
        payment=encode_payment(PAYMENT),
    )


def test_declined_operation_has_what_was_asked() -> None:
    """And an expiry, for which no caller asked, has no id."""
    declined = PaymentOperation(
        OperationOrder("o", OperationKind.REFUND, "p", 55),
        1,
        0,
        0,
        DeclineReason.AMOUNT_EXCEEDS_CAPTURED,
        "u",
        PaymentState.AUTHORIZED,
        0,
        0,
        DECIDED_AT,
    )
    expiry = PaymentOperation(
        OperationOrder(None, OperationKind.EXPIRE, "p"),
        2,
        0,
        100,
        None,
        "v",
        PaymentState.EXPIRED,
        0,
        0,
        DECIDED_AT,
    )
    details = encode_payment_details(PaymentDetails(PAYMENT, 7, [declined, expiry], []))
    first, second = details.operations
    assert (first.amount_minor, first.transaction_id) == (55, "")
    assert first.decline_reason == payment_pb2.DECLINE_REASON_AMOUNT_EXCEEDS_CAPTURED
    assert (second.operation_id, second.released_minor) == ("", 100)
    assert second.kind == payment_pb2.OPERATION_KIND_EXPIRE


@pytest.mark.parametrize(
    ("kind", "message", "expected"),
    [
        (
            OperationKind.CAPTURE,
            payment_pb2.CapturePaymentRequest(
                operation_id="o", payment_id="p", amount_minor=5, is_final=True
            ),
            OperationOrder("o", OperationKind.CAPTURE, "p", 5, is_final=True),
        ),
        (
            OperationKind.REFUND,
            payment_pb2.RefundPaymentRequest(operation_id="o", payment_id="p", amount_minor=5),
            OperationOrder("o", OperationKind.REFUND, "p", 5),
        ),
        (
            OperationKind.VOID,
            payment_pb2.VoidPaymentRequest(operation_id="o", payment_id="p"),
            OperationOrder("o", OperationKind.VOID, "p"),
        ),
        (
            OperationKind.REVERSE,
            payment_pb2.ReversePaymentRequest(operation_id="o", payment_id="p"),
            OperationOrder("o", OperationKind.REVERSE, "p"),
        ),
    ],
)
def test_operation_of_a_request_has_all_its_fields(
    kind: OperationKind, message: Any, expected: OperationOrder
) -> None:
    assert decode_operation(kind, message) == expected
    empty = type(message)()
    found = violations_of(decode_operation, kind, empty)
    assert [field for field, _ in found] == ["operation_id", "payment_id"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"payer_account_id": "a"}, PaymentQuery("a", None, None, None)),
        ({"payee_account_id": "a"}, PaymentQuery(None, "a", None, None)),
        (
            {"payee_restaurant_id": "r", "state": payment_pb2.PAYMENT_STATE_VOIDED},
            PaymentQuery(None, None, "r", PaymentState.VOIDED),
        ),
    ],
)
def test_list_is_of_a_payer_or_a_payee(fields: dict[str, Any], expected: PaymentQuery) -> None:
    query = payment_pb2.ListPaymentsRequest(**fields)
    assert decode_payment_query(query) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ["payer_account_id"]),
        ({"payee_account_id": ""}, ["payee_account_id"]),
        ({"payee_restaurant_id": "no spaces", "state": 99}, ["payee_restaurant_id", "state"]),
    ],
)
def test_invalid_list_names_its_fields(fields: dict[str, Any], expected: list[str]) -> None:
    query = payment_pb2.ListPaymentsRequest(**fields)
    found = violations_of(decode_payment_query, query)
    assert [field for field, _ in found] == expected
