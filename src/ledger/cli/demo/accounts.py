"""The part of the demonstration about accounts and payments."""

from dataclasses import dataclass
from typing import Any

from ledger.cli.accounts.balance import amounts_of
from ledger.cli.demo.narration import Demonstration
from ledger.cli.output import Table, print_table
from ledger.cli.payments.views import entries_table, reason_of
from ledger.client import Ledger
from ledger.domain.money import format_minor
from ledger.v1 import account_pb2, ledger_pb2, payment_pb2

CURRENCY = "PEN"
BANK, ANA, BRUNO = "bank", "ana", "bruno"


@dataclass(frozen=True, slots=True)
class _Part:
    """What this part talks with: the narration, and the client."""

    demonstration: Demonstration
    ledger: Ledger


def show_accounts_and_payments(
    demonstration: Demonstration, ledger: Ledger, restaurant_id: str
) -> None:
    """Opens accounts, pays between them and to the restaurant, and shows their balances."""
    part = _Part(demonstration, ledger)
    _open_accounts(part)
    _pay(part, _order("fund-1", BANK, 20_000, payee_account_id=ANA))
    demonstration.say("The bank transfers 200.00 PEN to ana.")
    _hold_and_capture(part)
    _pay_restaurant(part, restaurant_id)
    _decline(part)
    _show_balances(part)


def _open_accounts(part: _Part) -> None:
    for account_id in (BANK, ANA, BRUNO):
        request = account_pb2.CreateAccountRequest(account_id=account_id, currency=CURRENCY)
        if account_id == BANK:
            request.overdraft.unlimited = True
        status = part.ledger.accounts.CreateAccount(request).status
        part.demonstration.expect(
            f"the opening of {account_id}", status, account_pb2.CREATE_ACCOUNT_STATUS_CREATED
        )
    part.demonstration.say(
        "Opened the accounts ana and bruno, and bank, which stands for the world outside: it may"
        " owe\nany amount."
    )


def _order(
    payment_id: str, payer: str, amount_minor: int, **fields: Any
) -> payment_pb2.AuthorizePaymentRequest:
    """A payment that is captured at once, unless `fields` say otherwise."""
    values: dict[str, Any] = {
        "payment_id": payment_id,
        "payer_account_id": payer,
        "amount_minor": amount_minor,
        "currency": CURRENCY,
        "capture": payment_pb2.CAPTURE_MODE_IMMEDIATE,
    }
    return payment_pb2.AuthorizePaymentRequest(**(values | fields))


def _pay(
    part: _Part,
    order: payment_pb2.AuthorizePaymentRequest,
    expected: "payment_pb2.PaymentStatus.ValueType" = payment_pb2.PAYMENT_STATUS_CAPTURED,
) -> payment_pb2.Payment:
    """Sends a payment, and checks its status."""
    response = part.ledger.payments.AuthorizePayment(order)
    part.demonstration.expect(f"the status of {order.payment_id}", response.status, expected)
    return response.payment


def _hold_and_capture(part: _Part) -> None:
    """Holds an amount, captures a part of it, and sends the capture again."""
    manual = payment_pb2.CAPTURE_MODE_MANUAL
    order = _order("order-1", ANA, 8_000, payee_account_id=BRUNO, capture=manual)
    _pay(part, order, payment_pb2.PAYMENT_STATUS_AUTHORIZED)
    request = payment_pb2.CapturePaymentRequest(
        operation_id="order-1-capture-1", payment_id="order-1", amount_minor=5_000
    )
    first, again = (
        part.ledger.payments.CapturePayment(request),
        part.ledger.payments.CapturePayment(request),
    )
    part.demonstration.expect("the capture", first.status, payment_pb2.OPERATION_STATUS_APPLIED)
    part.demonstration.expect(
        "the capture, sent again", again.status, payment_pb2.OPERATION_STATUS_DUPLICATE
    )
    part.demonstration.expect(
        "held after the capture, minor units", again.payment.held_minor, 3_000
    )
    shown = part.ledger.payments.GetPayment(payment_pb2.GetPaymentRequest(payment_id="order-1"))
    part.demonstration.say(
        "Held 80.00 PEN of ana's for bruno, captured 50.00 of them, and sent the capture twice: it"
        "\ncounts once, and 30.00 stay held. Each entry has its debit and credit in one holder's"
        " books:"
    )
    print_table(entries_table(shown.entries, CURRENCY))
    part.demonstration.expect("entries of the hold and its capture", len(shown.entries), 3)


def _pay_restaurant(part: _Part, restaurant_id: str) -> None:
    """Pays a restaurant with a fee; what it gets matures as a charge does."""
    _pay(part, _order("dinner-1", ANA, 4_000, payee_restaurant_id=restaurant_id, fee_minor=200))
    balance = part.ledger.service.GetBalance(
        ledger_pb2.GetBalanceRequest(restaurant_id=restaurant_id, currency=CURRENCY)
    )
    pending = format_minor(balance.pending_minor, CURRENCY)
    part.demonstration.say(
        f"Ana pays 40.00 PEN to {restaurant_id}; less the fee of 2.00, {pending} are pending there"
        " until\nthey mature, as a charge's would be."
    )
    part.demonstration.expect(
        f"pending of {restaurant_id} after the payment, minor units", balance.pending_minor, 3_800
    )


def _decline(part: _Part) -> None:
    """Asks for more than is available."""
    order = _order("order-2", ANA, 10_000, payee_account_id=BRUNO)
    payment = _pay(part, order, payment_pb2.PAYMENT_STATUS_DECLINED)
    reason = reason_of(payment.decline_reason)
    part.demonstration.say(
        f"A payment of 100.00 PEN from ana is declined: {reason}. It moved nothing, and a repeat"
        " gets the\nsame answer."
    )
    part.demonstration.expect("the reason of the decline", reason, "insufficient_funds")


def _show_balances(part: _Part) -> None:
    expected = {ANA: (8_000, 3_000, 11_000), BRUNO: (5_000, 0, 5_000), BANK: (-20_000, 0, -20_000)}
    columns = ("available", "held", "posted")
    table = Table(("account", "currency", *columns), right=frozenset(columns))
    for account_id, amounts_minor in expected.items():
        response = part.ledger.accounts.GetAccountBalance(
            account_pb2.GetAccountBalanceRequest(account_id=account_id)
        )
        seen = tuple(amounts_of(response).values())
        table.add(account_id, CURRENCY, *(format_minor(amount, CURRENCY) for amount in seen))
        part.demonstration.expect(f"balance of {account_id}, minor units", seen, amounts_minor)
    part.demonstration.say(
        "These are the accounts now. Together with the 40.00 that went to the restaurant, what is"
        " posted\nadds up to zero:"
    )
    print_table(table)
