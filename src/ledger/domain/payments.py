"""Payments, and how each command about one is decided. Amounts are in minor units.

A decision is made once, of the state and the balances that hold at that moment. What it moves is a
list of steps, which `ledger.domain.posting_rules` turns into entries.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from ledger.domain.accounts import AccountState
from ledger.domain.fields import (
    ID_RULE,
    METADATA_RULE,
    REFERENCE_RULE,
    is_id,
    is_metadata,
    is_reference,
)
from ledger.domain.money import AMOUNT_MINOR_MAX, AMOUNT_RULE, CURRENCY_RULE, is_currency
from ledger.domain.posting_rules import PaymentStep
from ledger.errors import FieldViolation

FEE_RULE = "must be 0 to amount_minor"
EXPIRES_AT_MIN = datetime(2000, 1, 1, tzinfo=UTC)
# The database's first and last instants mean infinity to its driver.
EXPIRES_AT_END = datetime(9999, 1, 1, tzinfo=UTC)
EXPIRES_AT_RULE = "must be from 2000-01-01 to 9998-12-31"
REQUESTED_RULE = f"must be 0 (all of it) to {AMOUNT_MINOR_MAX}"


class CaptureMode(StrEnum):
    """When a payment's amount moves to the payee."""

    IMMEDIATE = "IMMEDIATE"
    MANUAL = "MANUAL"


class PaymentState(StrEnum):
    """Where a payment stands. The first two hold money; the others are ends."""

    AUTHORIZED = "AUTHORIZED"
    PARTIALLY_CAPTURED = "PARTIALLY_CAPTURED"
    CAPTURED = "CAPTURED"
    VOIDED = "VOIDED"
    EXPIRED = "EXPIRED"
    DECLINED = "DECLINED"


HOLDING_STATES = (PaymentState.AUTHORIZED, PaymentState.PARTIALLY_CAPTURED)


class DeclineReason(StrEnum):
    """Why a payment or an operation was declined."""

    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    ACCOUNT_FROZEN = "ACCOUNT_FROZEN"
    ACCOUNT_CLOSED = "ACCOUNT_CLOSED"
    CURRENCY_MISMATCH = "CURRENCY_MISMATCH"
    PAYMENT_NOT_CAPTURABLE = "PAYMENT_NOT_CAPTURABLE"
    AMOUNT_EXCEEDS_AUTHORIZED = "AMOUNT_EXCEEDS_AUTHORIZED"
    PAYMENT_NOT_VOIDABLE = "PAYMENT_NOT_VOIDABLE"
    PAYMENT_NOT_REFUNDABLE = "PAYMENT_NOT_REFUNDABLE"
    AMOUNT_EXCEEDS_CAPTURED = "AMOUNT_EXCEEDS_CAPTURED"
    PAYMENT_NOT_REVERSIBLE = "PAYMENT_NOT_REVERSIBLE"
    EXPIRED = "EXPIRED"
    LINKED_PAYMENT_DECLINED = "LINKED_PAYMENT_DECLINED"


class OperationKind(StrEnum):
    """What is asked of a payment after it was authorised."""

    CAPTURE = "CAPTURE"
    VOID = "VOID"
    REFUND = "REFUND"
    REVERSE = "REVERSE"
    EXPIRE = "EXPIRE"


class PaymentOrder(NamedTuple):
    """What a caller asks for. One of the two payees is empty.

    `expires_at` is aware, in UTC, to the microsecond; None: never.
    """

    payment_id: str
    payer_account_id: str
    payee_account_id: str
    payee_restaurant_id: str
    currency: str
    amount_minor: int
    fee_minor: int
    capture: CaptureMode
    expires_at: datetime | None
    reference: str
    metadata: Mapping[str, str]


# Two orders with the same id must agree on these. Metadata is not among them.
COMPARED_ORDER_FIELDS = tuple(
    name for name in PaymentOrder._fields if name not in ("payment_id", "metadata")
)


class Payment(NamedTuple):
    """A payment as it stands, or as it stood when a command was answered.

    `transaction_id` is that of the authorisation's entries; a declined payment posted none.
    """

    order: PaymentOrder
    state: PaymentState
    decline_reason: DeclineReason | None
    captured_minor: int
    refunded_minor: int
    transaction_id: str
    recorded_at: datetime

    @property
    def held_minor(self) -> int:
        """What is held and may be captured."""
        if self.state in HOLDING_STATES:
            return self.order.amount_minor - self.captured_minor
        return 0

    @property
    def refundable_minor(self) -> int:
        """What was captured and not refunded."""
        return self.captured_minor - self.refunded_minor

    def is_expired(self, now: datetime) -> bool:
        """Whether it holds money although `expires_at` has come."""
        expires_at = self.order.expires_at
        return self.state in HOLDING_STATES and expires_at is not None and expires_at <= now


class OperationOrder(NamedTuple):
    """What a caller asks of a payment. `requested_minor` 0: all there is.

    `operation_id` None: no caller asked; the payment has expired.
    """

    operation_id: str | None
    kind: OperationKind
    payment_id: str
    requested_minor: int = 0
    is_final: bool = False


COMPARED_OPERATION_FIELDS = ("kind", "payment_id", "requested_minor", "is_final")
# By their names in the contract.
_CONTRACT_NAMES = {"requested_minor": "amount_minor"}


class PaymentOperation(NamedTuple):
    """An operation that was decided.

    `state`, `captured_minor` and `refunded_minor` say where it left the payment.
    """

    order: OperationOrder
    sequence: int
    amount_minor: int
    released_minor: int
    decline_reason: DeclineReason | None
    transaction_id: str
    state: PaymentState
    captured_minor: int
    refunded_minor: int
    recorded_at: datetime


class Move(NamedTuple):
    """A step of a payment, with the amount that it moves and the fee that it takes."""

    step: PaymentStep
    amount_minor: int
    fee_minor: int = 0


class AccountStanding:
    """An account while a group of commands is decided: each decision changes what is available.

    `available_minor` None: it was not read, because nothing in the group is decided by it.
    """

    __slots__ = (
        "available_minor",
        "balance_account_id",
        "currency",
        "overdraft_limit_minor",
        "state",
    )

    def __init__(
        self,
        balance_account_id: int,
        currency: str,
        state: AccountState,
        overdraft_limit_minor: int | None,
        available_minor: int | None,
    ) -> None:
        self.balance_account_id = balance_account_id
        self.currency = currency
        self.state = state
        self.overdraft_limit_minor = overdraft_limit_minor
        self.available_minor = available_minor

    def covers(self, amount_minor: int) -> bool:
        """Whether the account may pay so much, its overdraft included."""
        if self.overdraft_limit_minor is None:
            return True
        if self.available_minor is None:
            raise RuntimeError("the account's balance decides and was not read")
        return self.available_minor + self.overdraft_limit_minor >= amount_minor

    def add(self, amount_minor: int) -> None:
        """Adds to what is available; less than 0 takes off."""
        if self.available_minor is not None:
            self.available_minor += amount_minor


class OperationDecision(NamedTuple):
    """What an operation does, and where it leaves the payment. Declined: it moves nothing."""

    decline_reason: DeclineReason | None
    amount_minor: int
    released_minor: int
    state: PaymentState
    captured_minor: int
    refunded_minor: int
    moves: tuple[Move, ...] = ()


def order_violations(order: PaymentOrder, *, capture: CaptureMode | None) -> list[FieldViolation]:
    """The violations of an order; empty for a valid one.

    `capture` is None if its converter has already reported it.
    """
    found: list[FieldViolation] = []
    if not is_id(order.payment_id):
        found.append(FieldViolation("payment_id", ID_RULE))
    if not is_id(order.payer_account_id):
        found.append(FieldViolation("payer_account_id", ID_RULE))
    if order.payee_restaurant_id:
        if not is_id(order.payee_restaurant_id):
            found.append(FieldViolation("payee_restaurant_id", ID_RULE))
    elif not is_id(order.payee_account_id):
        found.append(FieldViolation("payee_account_id", ID_RULE))
    elif order.payee_account_id == order.payer_account_id:
        found.append(FieldViolation("payee_account_id", "must not be the payer"))
    amount_is_valid = 1 <= order.amount_minor <= AMOUNT_MINOR_MAX
    if not amount_is_valid:
        found.append(FieldViolation("amount_minor", AMOUNT_RULE))
    if not is_currency(order.currency):
        found.append(FieldViolation("currency", CURRENCY_RULE))
    # Without a valid amount there is nothing that a fee could exceed.
    if order.fee_minor < 0 or (amount_is_valid and order.fee_minor > order.amount_minor):
        found.append(FieldViolation("fee_minor", FEE_RULE))
    elif order.fee_minor > 0 and not order.payee_restaurant_id:
        found.append(FieldViolation("fee_minor", "must be 0 unless a restaurant is paid"))
    if order.expires_at is not None:
        if not EXPIRES_AT_MIN <= order.expires_at < EXPIRES_AT_END:
            found.append(FieldViolation("expires_at", EXPIRES_AT_RULE))
        elif capture is CaptureMode.IMMEDIATE:
            found.append(FieldViolation("expires_at", "must be absent unless capture is MANUAL"))
    if not is_reference(order.reference):
        found.append(FieldViolation("reference", REFERENCE_RULE))
    if order.metadata and not is_metadata(order.metadata):
        found.append(FieldViolation("metadata", METADATA_RULE))
    return found


def operation_violations(order: OperationOrder) -> list[FieldViolation]:
    """The violations of an operation's order, in field order; empty for a valid one."""
    found: list[FieldViolation] = []
    if not is_id(order.operation_id or ""):
        found.append(FieldViolation("operation_id", ID_RULE))
    if not is_id(order.payment_id):
        found.append(FieldViolation("payment_id", ID_RULE))
    if not 0 <= order.requested_minor <= AMOUNT_MINOR_MAX:
        found.append(FieldViolation("amount_minor", REQUESTED_RULE))
    return found


def differing_order_fields(stored: PaymentOrder, other: PaymentOrder) -> list[str]:
    """The compared fields in which two orders differ, in the order of COMPARED_ORDER_FIELDS."""
    return [name for name in COMPARED_ORDER_FIELDS if getattr(stored, name) != getattr(other, name)]


def differing_operation_fields(stored: OperationOrder, other: OperationOrder) -> list[str]:
    """The compared fields, by their names in the contract, in which two operations differ."""
    return [
        _CONTRACT_NAMES.get(name, name)
        for name in COMPARED_OPERATION_FIELDS
        if getattr(stored, name) != getattr(other, name)
    ]


def first_state(order: PaymentOrder, decline_reason: DeclineReason | None) -> PaymentState:
    """The state in which the decision leaves a payment."""
    if decline_reason is not None:
        return PaymentState.DECLINED
    if order.capture is CaptureMode.IMMEDIATE:
        return PaymentState.CAPTURED
    return PaymentState.AUTHORIZED


def first_step(order: PaymentOrder) -> PaymentStep:
    """What an order does when it is accepted."""
    return PaymentStep.TRANSFER if order.capture is CaptureMode.IMMEDIATE else PaymentStep.HOLD


def first_payment(
    order: PaymentOrder,
    decline_reason: DeclineReason | None,
    transaction_id: str,
    recorded_at: datetime,
) -> Payment:
    """The payment as its decision leaves it."""
    state = first_state(order, decline_reason)
    captured_minor = order.amount_minor if state is PaymentState.CAPTURED else 0
    return Payment(order, state, decline_reason, captured_minor, 0, transaction_id, recorded_at)


def as_first_answered(payment: Payment) -> Payment:
    """The payment as it was when it was decided, whatever has happened to it since."""
    return first_payment(
        payment.order, payment.decline_reason, payment.transaction_id, payment.recorded_at
    )


def after(payment: Payment, decided: OperationDecision | PaymentOperation) -> Payment:
    """The payment where an operation left it."""
    return payment._replace(
        state=decided.state,
        captured_minor=decided.captured_minor,
        refunded_minor=decided.refunded_minor,
    )


def decide_payment(
    order: PaymentOrder, payer: AccountStanding, payee: AccountStanding | None, now: datetime
) -> DeclineReason | None:
    """Accepts an order, and moves its amount between the standings, or declines it.

    `payee` is None if a restaurant is paid: restaurants take every payment.
    """
    if payer.currency != order.currency or (payee and payee.currency != order.currency):
        return DeclineReason.CURRENCY_MISMATCH
    if (reason := _state_reason(payer, payee)) is not None:
        return reason
    if order.expires_at is not None and order.expires_at <= now:
        return DeclineReason.EXPIRED
    if not payer.covers(order.amount_minor):
        return DeclineReason.INSUFFICIENT_FUNDS
    payer.add(-order.amount_minor)
    if payee is not None and order.capture is CaptureMode.IMMEDIATE:
        payee.add(order.amount_minor)
    return None


def decide_chain(
    chain: Sequence[tuple[PaymentOrder, AccountStanding, AccountStanding | None]], now: datetime
) -> list[DeclineReason | None]:
    """Accepts all orders of a chain, or declines all. Decides each after those before it.

    The first that is declined has its own reason; the others are declined because of it. A chain
    of one is a payment that is not linked.
    """
    accepted: list[tuple[PaymentOrder, AccountStanding, AccountStanding | None]] = []
    for place, (order, payer, payee) in enumerate(chain):
        reason = decide_payment(order, payer, payee, now)
        if reason is not None:
            for done, done_payer, done_payee in accepted:
                done_payer.add(done.amount_minor)
                if done_payee is not None and done.capture is CaptureMode.IMMEDIATE:
                    done_payee.add(-done.amount_minor)
            reasons: list[DeclineReason | None] = [DeclineReason.LINKED_PAYMENT_DECLINED] * len(
                chain
            )
            reasons[place] = reason
            return reasons
        accepted.append((order, payer, payee))
    return [None] * len(chain)


def decide_operation(
    payment: Payment,
    order: OperationOrder,
    payer: AccountStanding,
    payee: AccountStanding | None,
) -> OperationDecision:
    """Carries an operation out on the standings, or declines it.

    `payee` is None if a restaurant was paid. A payment that has expired must have been released
    before (`OperationKind.EXPIRE`). An EXPIRE is never declined: it comes only to a payment for
    which `is_expired` is true, so which holds money.
    """
    held_minor, refundable_minor = payment.held_minor, payment.refundable_minor
    match order.kind:
        case OperationKind.CAPTURE:
            amount_minor = order.requested_minor or held_minor
            if not held_minor:
                return _declined(payment, DeclineReason.PAYMENT_NOT_CAPTURABLE)
            if (reason := _state_reason(payer, payee)) is not None:
                return _declined(payment, reason)
            if amount_minor > held_minor:
                return _declined(payment, DeclineReason.AMOUNT_EXCEEDS_AUTHORIZED)
            return _capture(payment, amount_minor, payer, payee, is_final=order.is_final)
        case OperationKind.VOID | OperationKind.EXPIRE:
            if not held_minor:
                return _declined(payment, DeclineReason.PAYMENT_NOT_VOIDABLE)
            payer.add(held_minor)
            expires = order.kind is OperationKind.EXPIRE
            return _released(payment, PaymentState.EXPIRED if expires else PaymentState.VOIDED)
        case OperationKind.REFUND:
            amount_minor = order.requested_minor or refundable_minor
            if not refundable_minor:
                return _declined(payment, DeclineReason.PAYMENT_NOT_REFUNDABLE)
            reason = _refund_reason(payment, amount_minor, payer, payee)
            if reason is not None:
                return _declined(payment, reason)
            _refund(amount_minor, payer, payee)
            return OperationDecision(
                None,
                amount_minor,
                0,
                payment.state,
                payment.captured_minor,
                payment.refunded_minor + amount_minor,
                (Move(PaymentStep.REFUND, amount_minor),),
            )
        case OperationKind.REVERSE:
            return _reverse(payment, payer, payee)


def fee_share(order: PaymentOrder, captured_before_minor: int, captured_minor: int) -> int:
    """The part of the fee that a capture bears.

    All captures so far bear the fee in proportion to what they captured, rounded down, so a payment
    that is captured as a whole bears its fee exactly.
    """
    before = order.fee_minor * captured_before_minor // order.amount_minor
    return order.fee_minor * captured_minor // order.amount_minor - before


def _state_reason(payer: AccountStanding, payee: AccountStanding | None) -> DeclineReason | None:
    """Why the accounts take part in no payment, if they do not."""
    states = (payer.state, payee.state if payee is not None else AccountState.OPEN)
    if AccountState.CLOSED in states:
        return DeclineReason.ACCOUNT_CLOSED
    if AccountState.FROZEN in states:
        return DeclineReason.ACCOUNT_FROZEN
    return None


def _refund_reason(
    payment: Payment, amount_minor: int, payer: AccountStanding, payee: AccountStanding | None
) -> DeclineReason | None:
    """Why the refund is declined, if it is. A frozen payer gets its money back."""
    payee_state = payee.state if payee is not None else AccountState.OPEN
    if AccountState.CLOSED in (payer.state, payee_state):
        return DeclineReason.ACCOUNT_CLOSED
    if payee_state is AccountState.FROZEN:
        return DeclineReason.ACCOUNT_FROZEN
    if amount_minor > payment.refundable_minor:
        return DeclineReason.AMOUNT_EXCEEDS_CAPTURED
    if payee is not None and not payee.covers(amount_minor):
        return DeclineReason.INSUFFICIENT_FUNDS
    return None


def _refund(amount_minor: int, payer: AccountStanding, payee: AccountStanding | None) -> None:
    payer.add(amount_minor)
    if payee is not None:
        payee.add(-amount_minor)


def _capture(
    payment: Payment,
    amount_minor: int,
    payer: AccountStanding,
    payee: AccountStanding | None,
    *,
    is_final: bool,
) -> OperationDecision:
    left_minor = payment.held_minor - amount_minor
    released_minor = left_minor if is_final else 0
    captured_minor = payment.captured_minor + amount_minor
    fee_minor = fee_share(payment.order, payment.captured_minor, captured_minor)
    if payee is not None:
        payee.add(amount_minor)
    payer.add(released_minor)
    moves = [Move(PaymentStep.CAPTURE, amount_minor, fee_minor)]
    if released_minor:
        moves.append(Move(PaymentStep.RELEASE, released_minor))
    is_over = is_final or not left_minor
    return OperationDecision(
        None,
        amount_minor,
        released_minor,
        PaymentState.CAPTURED if is_over else PaymentState.PARTIALLY_CAPTURED,
        captured_minor,
        payment.refunded_minor,
        tuple(moves),
    )


def _released(payment: Payment, state: PaymentState) -> OperationDecision:
    """All that is held is released. A payment of which a part was captured stays captured."""
    return OperationDecision(
        None,
        0,
        payment.held_minor,
        PaymentState.CAPTURED if payment.captured_minor else state,
        payment.captured_minor,
        payment.refunded_minor,
        (Move(PaymentStep.RELEASE, payment.held_minor),),
    )


def _reverse(
    payment: Payment, payer: AccountStanding, payee: AccountStanding | None
) -> OperationDecision:
    held_minor, refundable_minor = payment.held_minor, payment.refundable_minor
    if not held_minor and not refundable_minor:
        return _declined(payment, DeclineReason.PAYMENT_NOT_REVERSIBLE)
    if refundable_minor:
        reason = _refund_reason(payment, refundable_minor, payer, payee)
        if reason is not None:
            return _declined(payment, reason)
        _refund(refundable_minor, payer, payee)
    payer.add(held_minor)
    moves = []
    if held_minor:
        moves.append(Move(PaymentStep.RELEASE, held_minor))
    if refundable_minor:
        moves.append(Move(PaymentStep.REFUND, refundable_minor))
    return OperationDecision(
        None,
        refundable_minor,
        held_minor,
        PaymentState.CAPTURED if payment.captured_minor else PaymentState.VOIDED,
        payment.captured_minor,
        payment.refunded_minor + refundable_minor,
        tuple(moves),
    )


def _declined(payment: Payment, reason: DeclineReason) -> OperationDecision:
    return OperationDecision(
        reason, 0, 0, payment.state, payment.captured_minor, payment.refunded_minor
    )
