"""Books with accounts in every state, and with payments and operations of every kind."""

from typing import Any

from ledger.v1 import account_pb2, ledger_pb2, payment_pb2
from support.paying import MANUAL, expire, order, update_account
from support.payout_runs import finished_run
from support.running import RunningLedger

# Each account with its overdraft. All but the last are in CHF.
ACCOUNTS = {
    "acc_bank": account_pb2.Overdraft(unlimited=True),
    "acc_a": None,
    "acc_b": account_pb2.Overdraft(limit_minor=500),
    "acc_empty": None,
    "acc_frozen": None,
    "acc_closed": None,
    "acc_lowered": account_pb2.Overdraft(limit_minor=400),
    "acc_usd": None,
}
TO_LATER: dict[str, Any] = {"payee_restaurant_id": "res_later"}
TO_AT_ONCE: dict[str, Any] = {"payee_restaurant_id": "res_at_once"}
# Id, payer, payee, amount, and what is special. They are decided in this order, and each operation
# after its payment: what an operation asks for is its kind, its amount (0: all) and more.
PAYMENTS: tuple[tuple[Any, ...], ...] = (
    ("pay_in", "acc_bank", "acc_a", 50_000, {}),
    ("pay_in_frozen", "acc_bank", "acc_frozen", 70, {}),
    ("pay_in_closed", "acc_bank", "acc_closed", 100, {}),
    ("pay_out_closed", "acc_closed", "acc_bank", 100, {}),
    ("pay_lowered", "acc_lowered", "acc_a", 300, {}),
    ("pay_overdraft", "acc_b", "acc_a", 200, {"reference": "rent, May"}),
    # In parts of which each bears its share of the fee: 110, 111 and 67.
    ("pay_parts", "acc_a", "", 10_000, {"capture": MANUAL, "fee_minor": 333} | TO_LATER),
    ("op_part_1", "Capture", 3_333, {}),
    ("op_part_2", "Capture", 3_333, {}),
    ("op_part_more", "Capture", 3_335, {}),
    ("op_part_3", "Capture", 2_000, {"is_final": True}),
    ("op_part_refund", "Refund", 1_000, {}),
    ("pay_later", "acc_a", "", 2_500, {"fee_minor": 100} | TO_LATER),
    ("pay_at_once", "acc_a", "", 8_000, {"fee_minor": 80} | TO_AT_ONCE),
    ("op_at_once_refund", "Refund", 500, {}),
    ("op_at_once_too_much", "Refund", 7_501, {}),
    ("pay_captured", "acc_a", "", 900, {"capture": MANUAL} | TO_AT_ONCE),
    ("op_captured", "Capture", 0, {}),
    ("pay_voided", "acc_a", "acc_b", 700, {"capture": MANUAL, "metadata": {"k": "v"}}),
    ("op_voided", "Void"),
    ("op_voided_again", "Void"),
    ("pay_part_voided", "acc_a", "acc_b", 1_000, {"capture": MANUAL}),
    ("op_part_voided_1", "Capture", 300, {}),
    ("op_part_voided_2", "Void"),
    ("pay_reversed", "acc_a", "acc_b", 600, {"capture": MANUAL}),
    ("op_reversed_1", "Capture", 250, {}),
    ("op_reversed_2", "Reverse"),
    ("pay_reversed_hold", "acc_a", "acc_b", 650, {"capture": MANUAL}),
    ("op_reversed_hold", "Reverse"),
    ("pay_reversed_transfer", "acc_a", "acc_b", 640, {}),
    ("op_reversed_transfer", "Reverse"),
    ("pay_expired", "acc_a", "acc_b", 800, {"capture": MANUAL}),
    ("pay_hold", "acc_a", "", 1_200, {"capture": MANUAL, "fee_minor": 10} | TO_LATER),
    ("pay_part_held", "acc_a", "acc_b", 1_100, {"capture": MANUAL}),
    ("op_part_held", "Capture", 400, {}),
    ("pay_too_much", "acc_empty", "acc_a", 1, {}),
    ("op_too_much", "Capture", 0, {}),
    ("pay_frozen", "acc_frozen", "acc_a", 1, {}),
    ("pay_mismatch", "acc_a", "acc_usd", 1, {}),
)


async def pay_between_accounts(ledger: RunningLedger) -> None:
    """Every payment of PAYMENTS, a chain that is declined, a payment that expires, and a payout
    of what accounts paid.
    """
    for account_id, overdraft in ACCOUNTS.items():
        await ledger.accounts.CreateAccount(
            account_pb2.CreateAccountRequest(
                account_id=account_id,
                currency="USD" if account_id == "acc_usd" else "CHF",
                overdraft=overdraft,
            )
        )
    await ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id="res_at_once", maturity_days=0)
    )
    payment_id = ""
    for each in PAYMENTS:
        if each[0].startswith("pay_"):
            payment_id = each[0]
            await ledger.payments.AuthorizePayment(_order(*each))
        else:
            await _operate(ledger, payment_id, *each)
        if payment_id == "pay_in_frozen":
            await update_account(
                ledger, "acc_frozen", "state", state=account_pb2.ACCOUNT_STATE_FROZEN
            )
    await update_account(ledger, "acc_closed", "state", state=account_pb2.ACCOUNT_STATE_CLOSED)
    lowered = account_pb2.Overdraft(limit_minor=300)
    await update_account(ledger, "acc_lowered", "overdraft", overdraft=lowered)
    chain = [
        payment_pb2.PaymentOrder(
            payment_id=f"pay_chain_{number}",
            payer_account_id="acc_a",
            payee_account_id="acc_b",
            amount_minor=amount_minor,
            currency="CHF",
            capture=MANUAL,
            linked=number < 3,
        )
        for number, amount_minor in ((1, 5), (2, 10**12), (3, 6))
    ]
    await ledger.payments.BatchAuthorizePayments(
        payment_pb2.BatchAuthorizePaymentsRequest(payments=chain)
    )
    await expire(ledger.database, "pay_expired")
    # A worker releases it, unless this comes first; declined either way.
    await _operate(ledger, "pay_expired", "op_expired", "Void")
    assert (await finished_run(ledger, currency="CHF")).payouts_created == 1


def _order(
    payment_id: str, payer: str, payee: str, amount_minor: int, fields: dict[str, Any]
) -> payment_pb2.AuthorizePaymentRequest:
    return order(payment_id, payer, payee, amount_minor, **({"currency": "CHF"} | fields))


async def _operate(
    ledger: RunningLedger,
    payment_id: str,
    operation_id: str,
    kind: str,
    amount_minor: int = 0,
    fields: dict[str, Any] | None = None,
) -> None:
    amount = {"amount_minor": amount_minor} if amount_minor else {}
    request = getattr(payment_pb2, f"{kind}PaymentRequest")(
        operation_id=operation_id, payment_id=payment_id, **amount, **(fields or {})
    )
    await getattr(ledger.payments, f"{kind}Payment")(request)
