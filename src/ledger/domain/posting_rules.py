"""The posting rules: which ledger entries an event, a payout or a payment posts.

One place, for accountants too.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum

from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import EventType
from ledger.domain.payout_states import PayoutState


class EntryType(StrEnum):
    """Why a ledger entry was posted. The value is the name in the database."""

    CHARGE = "CHARGE"
    FEE = "FEE"
    REFUND = "REFUND"
    ADJUSTMENT_CREDIT = "ADJUSTMENT_CREDIT"
    ADJUSTMENT_DEBIT = "ADJUSTMENT_DEBIT"
    DISPUTE_HOLD = "DISPUTE_HOLD"
    DISPUTE_WITHDRAWAL = "DISPUTE_WITHDRAWAL"
    DISPUTE_FEE = "DISPUTE_FEE"
    DISPUTE_RELEASE = "DISPUTE_RELEASE"
    DISPUTE_REINSTATEMENT = "DISPUTE_REINSTATEMENT"
    DISPUTE_LOSS = "DISPUTE_LOSS"
    PAYOUT_RESERVE = "PAYOUT_RESERVE"
    PAYOUT_RELEASE = "PAYOUT_RELEASE"
    PAYOUT_REVERSAL = "PAYOUT_REVERSAL"
    PAYOUT_RETURN = "PAYOUT_RETURN"
    PAYMENT_HOLD = "PAYMENT_HOLD"
    PAYMENT_CAPTURE = "PAYMENT_CAPTURE"
    PAYMENT = "PAYMENT"
    TRANSFER_OUT = "TRANSFER_OUT"
    TRANSFER_IN = "TRANSFER_IN"
    PAYMENT_RELEASE = "PAYMENT_RELEASE"
    REFUND_IN = "REFUND_IN"
    REFUND_OUT = "REFUND_OUT"


class Amount(Enum):
    """Which amount of an event or a payment an entry takes. A zero fee is not posted."""

    AMOUNT = "amount"
    FEE = "fee"


class Available(Enum):
    """From when on an entry counts as available."""

    AT_ONCE = "at once"
    AT_MATURITY = "at maturity"


@dataclass(frozen=True, slots=True)
class PostingRule:
    """One line of the table."""

    entry_type: EntryType
    debit: LedgerAccount
    credit: LedgerAccount
    amount: Amount = Amount.AMOUNT
    available: Available = Available.AT_ONCE

    @property
    def matures(self) -> bool:
        """Whether the entry is pending until it has matured."""
        return self.available is Available.AT_MATURITY


class PaymentStep(StrEnum):
    """What a payment or an operation does with money, and so posts."""

    HOLD = "hold"
    CAPTURE = "capture"
    TRANSFER = "transfer"
    RELEASE = "release"
    REFUND = "refund"


@dataclass(frozen=True, slots=True)
class PaymentRules:
    """What a step of a payment posts: in the payer's books, and in those of the payee.

    The payee's are those of an account or of a restaurant. Both sides take the same amount, so
    interaccount is zero over both. A step without a payee's side moves money inside the payer's.
    """

    payer: PostingRule
    payee_account: tuple[PostingRule, ...] = ()
    payee_restaurant: tuple[PostingRule, ...] = ()


_CLEARING = LedgerAccount.PROCESSOR_CLEARING
_PAYABLE = LedgerAccount.RESTAURANT_PAYABLE
_FEES = LedgerAccount.PLATFORM_FEES
_RECEIVABLE = LedgerAccount.DISPUTE_RECEIVABLE
_HOLD = LedgerAccount.DISPUTE_HOLD
_RESERVED = LedgerAccount.PAYOUT_RESERVED
_CASH = LedgerAccount.PLATFORM_CASH
_ADJUSTMENT = LedgerAccount.ADJUSTMENTS
_FUNDS = LedgerAccount.ACCOUNT_FUNDS
_HELD = LedgerAccount.ACCOUNT_HELD
_INTER = LedgerAccount.INTERACCOUNT
_LATER = Available.AT_MATURITY

# fmt: off
EVENT_POSTING_RULES: dict[EventType, tuple[PostingRule, ...]] = {
    EventType.CHARGE_SUCCEEDED: (
        PostingRule(EntryType.CHARGE,                _CLEARING,   _PAYABLE,    available=_LATER),
        PostingRule(EntryType.FEE,                   _PAYABLE,    _FEES,       Amount.FEE, _LATER),
    ),
    EventType.REFUND_SUCCEEDED: (
        PostingRule(EntryType.REFUND,                _PAYABLE,    _CLEARING),
    ),
    EventType.FEE_ASSESSED: (
        PostingRule(EntryType.FEE,                   _PAYABLE,    _FEES),
    ),
    EventType.ADJUSTMENT_CREDITED: (
        PostingRule(EntryType.ADJUSTMENT_CREDIT,     _ADJUSTMENT, _PAYABLE),
    ),
    EventType.ADJUSTMENT_DEBITED: (
        PostingRule(EntryType.ADJUSTMENT_DEBIT,      _PAYABLE,    _ADJUSTMENT),
    ),
    EventType.DISPUTE_OPENED: (
        PostingRule(EntryType.DISPUTE_HOLD,          _PAYABLE,    _HOLD),
        PostingRule(EntryType.DISPUTE_WITHDRAWAL,    _RECEIVABLE, _CLEARING),
        PostingRule(EntryType.DISPUTE_FEE,           _PAYABLE,    _CLEARING,   Amount.FEE),
    ),
    EventType.DISPUTE_WON: (
        PostingRule(EntryType.DISPUTE_RELEASE,       _HOLD,       _PAYABLE),
        PostingRule(EntryType.DISPUTE_REINSTATEMENT, _CLEARING,   _RECEIVABLE),
    ),
    EventType.DISPUTE_LOST: (
        PostingRule(EntryType.DISPUTE_LOSS,          _HOLD,       _RECEIVABLE),
    ),
}

# What a payout posts when it moves to a state. A run creates it; events make its other moves.
PAYOUT_POSTING_RULES: dict[PayoutState, PostingRule] = {
    PayoutState.CREATED:  PostingRule(EntryType.PAYOUT_RESERVE,  _PAYABLE,  _RESERVED),
    PayoutState.PAID:     PostingRule(EntryType.PAYOUT_RELEASE,  _RESERVED, _CASH),
    PayoutState.FAILED:   PostingRule(EntryType.PAYOUT_REVERSAL, _RESERVED, _PAYABLE),
    PayoutState.RETURNED: PostingRule(EntryType.PAYOUT_RETURN,   _CASH,     _PAYABLE),
}

# What each step of a payment posts. A payment to a restaurant matures as a charge does.
PAYMENT_POSTING_RULES: dict[PaymentStep, PaymentRules] = {
    PaymentStep.HOLD: PaymentRules(
        PostingRule(EntryType.PAYMENT_HOLD,    _FUNDS,    _HELD),
    ),
    PaymentStep.CAPTURE: PaymentRules(
        PostingRule(EntryType.PAYMENT_CAPTURE, _HELD,     _INTER),
        (PostingRule(EntryType.PAYMENT,        _INTER,    _FUNDS),),
        (PostingRule(EntryType.PAYMENT,        _INTER,    _PAYABLE,  available=_LATER),
         PostingRule(EntryType.FEE,            _PAYABLE,  _FEES,     Amount.FEE, _LATER)),
    ),
    PaymentStep.TRANSFER: PaymentRules(
        PostingRule(EntryType.TRANSFER_OUT,    _FUNDS,    _INTER),
        (PostingRule(EntryType.TRANSFER_IN,    _INTER,    _FUNDS),),
        (PostingRule(EntryType.TRANSFER_IN,    _INTER,    _PAYABLE,  available=_LATER),
         PostingRule(EntryType.FEE,            _PAYABLE,  _FEES,     Amount.FEE, _LATER)),
    ),
    PaymentStep.RELEASE: PaymentRules(
        PostingRule(EntryType.PAYMENT_RELEASE, _HELD,     _FUNDS),
    ),
    PaymentStep.REFUND: PaymentRules(
        PostingRule(EntryType.REFUND_IN,       _INTER,    _FUNDS),
        (PostingRule(EntryType.REFUND_OUT,     _FUNDS,    _INTER),),
        (PostingRule(EntryType.REFUND_OUT,     _PAYABLE,  _INTER),),
    ),
}
# fmt: on


def rules_of(event_type: EventType, *, has_fee: bool) -> list[PostingRule]:
    """The rules of the entries that an event posts, in the order of their positions, from 1.

    `has_fee`: whether its fee is above 0. Raises KeyError for a payout event: what it posts depends
    on the state of its payout.
    """
    rules = EVENT_POSTING_RULES[event_type]
    return [rule for rule in rules if has_fee or rule.amount is not Amount.FEE]
