"""The payments that the bench makes, and what it takes for success."""

from typing import TYPE_CHECKING

import pytest

from ledger.v1 import payment_pb2
from scripts.bench.wire import PaymentRequests, UnexpectedResponse, path_of

if TYPE_CHECKING:
    from ledger.v1.payment_pb2 import _PaymentStatus

    Status = _PaymentStatus.ValueType

ACCOUNTS = ["PEN.1", "PEN.2", "PEN.3", "PEN.4"]
CAPTURED = payment_pb2.PAYMENT_STATUS_CAPTURED
DECLINED = payment_pb2.PAYMENT_STATUS_DECLINED
DUPLICATE = payment_pb2.PAYMENT_STATUS_DUPLICATE


def singles(payer: str = "") -> PaymentRequests:
    return PaymentRequests("AuthorizePayment", "bench.1.0", ACCOUNTS, "PEN", payer)


def test_every_account_pays_and_is_paid_in_turn() -> None:
    requests = singles()
    orders = [
        payment_pb2.AuthorizePaymentRequest.FromString(requests.take(1))
        for _ in range(len(ACCOUNTS))
    ]
    assert sorted(order.payer_account_id for order in orders) == ACCOUNTS
    assert sorted(order.payee_account_id for order in orders) == ACCOUNTS
    assert len({order.payment_id for order in orders}) == len(orders)
    assert all(order.payer_account_id != order.payee_account_id for order in orders)
    assert all(order.capture == payment_pb2.CAPTURE_MODE_IMMEDIATE for order in orders)


def test_one_payer_pays_all_others() -> None:
    requests = singles("PEN.2")
    orders = [payment_pb2.AuthorizePaymentRequest.FromString(requests.take(1)) for _ in range(3)]
    assert {order.payer_account_id for order in orders} == {"PEN.2"}
    assert sorted(order.payee_account_id for order in orders) == ["PEN.1", "PEN.3", "PEN.4"]


def test_a_batch_is_as_many_transfers() -> None:
    requests = PaymentRequests("BatchTransfers", "bench.1.0", ACCOUNTS, "PEN", "")
    batch = payment_pb2.BatchTransfersRequest.FromString(requests.take(6))
    assert len({transfer.payment_id for transfer in batch.transfers}) == 6


@pytest.mark.parametrize("status", [DECLINED, DUPLICATE])
def test_only_captured_payments_count(status: "Status") -> None:
    payment = payment_pb2.Payment(payment_id="bench.1.0.000000001")
    for answered in (CAPTURED, status):
        response = payment_pb2.AuthorizePaymentResponse(status=answered, payment=payment)
        if answered == CAPTURED:
            singles().check(response.SerializeToString(), 1)
        else:
            with pytest.raises(UnexpectedResponse):
                singles().check(response.SerializeToString(), 1)


@pytest.mark.parametrize(
    "statuses", [[CAPTURED], [CAPTURED, DECLINED], [CAPTURED, CAPTURED, CAPTURED]]
)
def test_all_of_a_batch_must_be_captured(statuses: "list[Status]") -> None:
    requests = PaymentRequests("BatchTransfers", "bench.1.0", ACCOUNTS, "PEN", "")
    response = payment_pb2.BatchTransfersResponse(
        results=[payment_pb2.PaymentResult(status=status) for status in statuses]
    )
    with pytest.raises(UnexpectedResponse):
        requests.check(response.SerializeToString(), 2)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("IngestEvent", "/ledger.v1.LedgerService/IngestEvent"),
        ("BatchTransfers", "/ledger.v1.PaymentService/BatchTransfers"),
    ],
)
def test_path_names_the_service_of_the_method(method: str, path: str) -> None:
    assert path_of({"method": method}) == path


def test_a_payment_is_captured_by_a_call_of_its_own() -> None:
    requests = PaymentRequests("AuthorizePayment", "b", ACCOUNTS, "PEN", "", captures=True)
    request = payment_pb2.AuthorizePaymentRequest.FromString(requests.take(1))
    assert request.capture == payment_pb2.CAPTURE_MODE_MANUAL
    payment = payment_pb2.Payment(payment_id=request.payment_id)
    held = payment_pb2.AuthorizePaymentResponse(
        status=payment_pb2.PAYMENT_STATUS_AUTHORIZED, payment=payment
    ).SerializeToString()
    requests.check(held, 1)
    capture = payment_pb2.CapturePaymentRequest.FromString(requests.capture_of(held))
    assert capture.payment_id == request.payment_id
    requests.check_capture(
        payment_pb2.CapturePaymentResponse(
            status=payment_pb2.OPERATION_STATUS_APPLIED
        ).SerializeToString()
    )
    captured_at_once = payment_pb2.AuthorizePaymentResponse(status=CAPTURED, payment=payment)
    with pytest.raises(UnexpectedResponse):
        requests.check(captured_at_once.SerializeToString(), 1)
    declined = payment_pb2.CapturePaymentResponse(status=payment_pb2.OPERATION_STATUS_DECLINED)
    with pytest.raises(UnexpectedResponse):
        requests.check_capture(declined.SerializeToString())
