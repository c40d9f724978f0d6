"""What the call log keeps of calls about accounts and payments."""

from typing import Any

import pytest
from google.protobuf.message import Message

from ledger.api.access.call_records import CONTENT_BY_METHOD
from ledger.v1 import account_pb2, ledger_pb2, payment_pb2

# Untyped: in the tables a mapping stands for a message.
accounts: Any = account_pb2
payments: Any = payment_pb2
ledgers: Any = ledger_pb2
SECRET = {"secret": "secret"}
ORDER = {
    "payment_id": "pay_1",
    "payer_account_id": "acc_1",
    "amount_minor": 1250,
    "currency": "PEN",
    "reference": "secret",
    "metadata": SECRET,
}
TO_ACCOUNT = {**ORDER, "payee_account_id": "acc_2"}
TO_RESTAURANT = {**ORDER, "payee_restaurant_id": "res_1"}
OPERATION = {"operation_id": "op_1", "payment_id": "pay_1"}
DECLINED = {
    "status": payments.PAYMENT_STATUS_DECLINED,
    "decline_reason": payments.DECLINE_REASON_INSUFFICIENT_FUNDS,
}


def described(method: str, request: Message, response: Message | None) -> Any:
    """The content of a call's record."""
    rule = CONTENT_BY_METHOD[method]
    return rule.describe(request if rule.keep is None else rule.keep(request), response)


@pytest.mark.parametrize(
    ("request_", "response", "content"),
    [
        (
            ledgers.UpdateRestaurantRequest(
                restaurant={"restaurant_id": "res_1", "payout_hold": {"reason": "secret"}},
                update_mask={"paths": ["payout_hold", "min_balance_minor.PEN"]},
            ),
            None,
            {"restaurant_id": "res_1", "changed": "min_balance_minor,payout_hold", "on_hold": True},
        ),
        (
            ledgers.UpdateRestaurantRequest(
                restaurant={"restaurant_id": "res_1"}, update_mask={"paths": ["payout_hold"]}
            ),
            None,
            {"restaurant_id": "res_1", "changed": "payout_hold", "on_hold": False},
        ),
        (
            ledgers.RunPayoutsRequest(currency="PEN", restaurant_ids=["res_1", "res_2"]),
            None,
            {
                "currency": "PEN",
                "as_of": "0000-00-00",
                "min_amount_minor": 0,
                "request_id": "",
                "dry_run": False,
                "restaurants_named": 2,
            },
        ),
        (
            ledgers.QuarantinePayloadRequest(
                endpoint="shop",
                processor="stripe",
                body=b"secret",
                headers=SECRET,
                query="secret",
                reason="X",
                detail="secret",
            ),
            ledgers.QuarantinePayloadResponse(
                status=ledgers.QUARANTINE_STATUS_CREATED, payload={"quarantine_id": "1"}
            ),
            {"endpoint": "shop", "reason": "X", "quarantine_id": "1", "status": "CREATED"},
        ),
        (
            ledgers.ListQuarantinedRequest(endpoint="shop", with_bodies=True),
            ledgers.ListQuarantinedResponse(payloads=[{"body": b"secret"}]),
            {"endpoint": "shop", "with_bodies": True, "payloads": 1},
        ),
        (
            ledgers.GetQuarantinedRequest(quarantine_id="1"),
            ledgers.GetQuarantinedResponse(payload={"body": b"secret"}),
            {"quarantine_id": "1"},
        ),
        (
            ledgers.RetryQuarantinedRequest(quarantine_ids=["1", "2"]),
            ledgers.RetryQuarantinedResponse(quarantine_ids=["1"]),
            {"dry_run": False, "payloads_named": 2, "requested": 1},
        ),
        (
            ledgers.RetryQuarantinedRequest(endpoint="shop", dry_run=True),
            None,
            {"dry_run": True, "endpoint": "shop", "reason": "", "all": False},
        ),
        (
            ledgers.ResolveQuarantinedRequest(
                quarantine_id="1",
                move_number=2,
                outcome=ledgers.QUARANTINE_STATE_RELEASED,
                event_ids=["evt_1"],
                detail="secret",
            ),
            None,
            {"quarantine_id": "1", "move_number": 2, "outcome": "RELEASED", "events": 1},
        ),
        (
            ledgers.DiscardQuarantinedRequest(quarantine_id="1", reason="secret"),
            None,
            {"quarantine_id": "1"},
        ),
        (
            accounts.CreateAccountRequest(
                account_id="acc_1", currency="PEN", name="secret", metadata=SECRET
            ),
            accounts.CreateAccountResponse(status=accounts.CREATE_ACCOUNT_STATUS_CREATED),
            {"account_id": "acc_1", "currency": "PEN", "overdraft": 0, "status": "CREATED"},
        ),
        (
            accounts.CreateAccountRequest(
                account_id="bad\0", currency="x" * 200, overdraft={"unlimited": True}
            ),
            None,
            {"account_id": "bad\\x00", "currency": "x" * 128, "overdraft": "unlimited"},
        ),
        (
            accounts.UpdateAccountRequest(
                account={
                    "account_id": "acc_1",
                    "state": accounts.ACCOUNT_STATE_FROZEN,
                    "overdraft": {"limit_minor": 500},
                    "metadata": SECRET,
                },
                update_mask={"paths": ["state", "overdraft", "metadata.secret", "nothing"]},
            ),
            accounts.UpdateAccountResponse(),
            {
                "account_id": "acc_1",
                "changed": "metadata,overdraft,state",
                "overdraft": 500,
                "state": "FROZEN",
            },
        ),
        (
            accounts.UpdateAccountRequest(
                account={"account_id": "acc_1", "state": 77}, update_mask={"paths": ["state"]}
            ),
            None,
            {"account_id": "acc_1", "changed": "state", "state": "77"},
        ),
        (
            accounts.UpdateAccountRequest(
                account={"account_id": "acc_1", "name": "secret"}, update_mask={"paths": ["name"]}
            ),
            accounts.UpdateAccountResponse(),
            {"account_id": "acc_1", "changed": "name"},
        ),
    ],
)
def test_content_of_calls_about_accounts(
    request_: Message, response: Message | None, content: dict[str, Any]
) -> None:
    """Which account, and what may cost money: its overdraft and its state."""
    method = request_.DESCRIPTOR.name.removesuffix("Request")
    assert described(method, request_, response) == content


@pytest.mark.parametrize(
    ("request_", "response", "content"),
    [
        (
            payments.AuthorizePaymentRequest(**TO_ACCOUNT),
            payments.AuthorizePaymentResponse(
                status=payments.PAYMENT_STATUS_AUTHORIZED, payment=TO_ACCOUNT
            ),
            {
                "payment_id": "pay_1",
                "payer_account_id": "acc_1",
                "payee_account_id": "acc_2",
                "amount_minor": 1250,
                "currency": "PEN",
                "status": "AUTHORIZED",
            },
        ),
        (
            payments.AuthorizePaymentRequest(**TO_RESTAURANT),
            payments.AuthorizePaymentResponse(
                status=payments.PAYMENT_STATUS_DECLINED,
                payment={
                    **TO_RESTAURANT,
                    "decline_reason": payments.DECLINE_REASON_INSUFFICIENT_FUNDS,
                },
            ),
            {
                "payment_id": "pay_1",
                "payer_account_id": "acc_1",
                "payee_restaurant_id": "res_1",
                "amount_minor": 1250,
                "currency": "PEN",
                "status": "DECLINED",
                "decline_reason": "INSUFFICIENT_FUNDS",
            },
        ),
        (
            payments.AuthorizePaymentRequest(payment_id="é" * 200),
            None,
            {
                "payment_id": "\\xe9" * 128,
                "payer_account_id": "",
                "payee_account_id": "",
                "amount_minor": 0,
                "currency": "",
            },
        ),
        (
            payments.CapturePaymentRequest(**OPERATION, is_final=True),
            payments.CapturePaymentResponse(
                status=payments.OPERATION_STATUS_APPLIED,
                operation={"amount_minor": 1000, "released_minor": 250},
                payment=TO_ACCOUNT,
            ),
            {
                "operation_id": "op_1",
                "payment_id": "pay_1",
                "payer_account_id": "acc_1",
                "payee_account_id": "acc_2",
                "amount_minor": 1000,
                "released_minor": 250,
                "currency": "PEN",
                "status": "APPLIED",
            },
        ),
        (
            payments.VoidPaymentRequest(**OPERATION),
            payments.VoidPaymentResponse(
                status=payments.OPERATION_STATUS_DECLINED,
                operation={"decline_reason": payments.DECLINE_REASON_PAYMENT_NOT_VOIDABLE},
                payment=TO_RESTAURANT,
            ),
            {
                "operation_id": "op_1",
                "payment_id": "pay_1",
                "payer_account_id": "acc_1",
                "payee_restaurant_id": "res_1",
                "amount_minor": 0,
                "released_minor": 0,
                "currency": "PEN",
                "status": "DECLINED",
                "decline_reason": "PAYMENT_NOT_VOIDABLE",
            },
        ),
        (payments.RefundPaymentRequest(**OPERATION, amount_minor=7), None, OPERATION),
        (payments.ReversePaymentRequest(**OPERATION), None, OPERATION),
        (
            payments.BatchAuthorizePaymentsRequest(payments=[TO_ACCOUNT] * 4),
            payments.BatchAuthorizePaymentsResponse(
                results=[
                    {"status": payments.PAYMENT_STATUS_AUTHORIZED},
                    DECLINED,
                    {**DECLINED, "status": payments.PAYMENT_STATUS_DUPLICATE},
                    {"error": {"code": 3}},
                ]
            ),
            {"payments": 4, "declined": 2, "refused": 1},
        ),
        (
            payments.BatchTransfersRequest(transfers=[TO_RESTAURANT] * 2),
            payments.BatchTransfersResponse(results=[{"error": {"code": 3}}] * 2),
            {"payments": 2, "declined": 0, "refused": 2},
        ),
        (payments.BatchTransfersRequest(), None, {"payments": 0}),
    ],
)
def test_content_of_calls_about_payments(
    request_: Message, response: Message | None, content: dict[str, Any]
) -> None:
    """Who paid whom how much, and how it ended; never metadata and the reference."""
    method = request_.DESCRIPTOR.name.removesuffix("Request")
    assert described(method, request_, response) == content
    assert "secret" not in str(content)
