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
    REFUND_REVERSAL = "REFUND_REVERSAL"
    CHARGE_REVERSAL = "CHARGE_REVERSAL"
    FEE_REVERSAL = "FEE_REVERSAL"
    DISPUTE_FEE_REVERSAL = "DISPUTE_FEE_REVERSAL"
    PROCESSOR_COST = "PROCESSOR_COST"
    PROCESSOR_COST_REVERSAL = "PROCESSOR_COST_REVERSAL"
    TAX_WITHHELD = "TAX_WITHHELD"
    TAX_WITHHELD_REVERSAL = "TAX_WITHHELD_REVERSAL"
    RESERVE_HOLD = "RESERVE_HOLD"
    RESERVE_RELEASE = "RESERVE_RELEASE"
    TOP_UP = "TOP_UP"
    WRITE_OFF = "WRITE_OFF"
    PROCESSOR_SETTLEMENT = "PROCESSOR_SETTLEMENT"
    PROCESSOR_SETTLEMENT_DEBIT = "PROCESSOR_SETTLEMENT_DEBIT"


class Amount(Enum):
    """Which amount of an event or a payment an entry takes. A zero fee is not posted."""

    AMOUNT = "amount"
    FEE = "fee"
    PROCESSOR_FEE = "processor_fee"


class Available(Enum):
    """From when on an entry counts as available."""

    AT_ONCE = "at once"
    # At the event's available_at; without it at once.
    AS_GIVEN = "as given"
    # At the event's available_at; without it after the maturity days.
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

    @property
    def takes_available_at(self) -> bool:
        """Whether the entry has the event's available_at, if that is set."""
        return self.available is not Available.AT_ONCE


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
_COSTS = LedgerAccount.PROCESSOR_COSTS
_TAX = LedgerAccount.TAX_WITHHELD
_RESERVE = LedgerAccount.RESERVE_HOLD
_BAD_DEBT = LedgerAccount.BAD_DEBT
_LATER = Available.AT_MATURITY
_GIVEN = Available.AS_GIVEN
_COST = PostingRule(EntryType.PROCESSOR_COST, _COSTS, _CLEARING, Amount.PROCESSOR_FEE)

# fmt: off
EVENT_POSTING_RULES: dict[EventType, tuple[PostingRule, ...]] = {
    EventType.CHARGE_SUCCEEDED: (
        PostingRule(EntryType.CHARGE,                _CLEARING,   _PAYABLE,    available=_LATER),
        PostingRule(EntryType.FEE,                   _PAYABLE,    _FEES,       Amount.FEE, _LATER),
        _COST,
    ),
    EventType.REFUND_SUCCEEDED: (
        PostingRule(EntryType.REFUND,                _PAYABLE,    _CLEARING,   available=_GIVEN),
        _COST,
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
        _COST,
    ),
    EventType.DISPUTE_WON: (
        PostingRule(EntryType.DISPUTE_RELEASE,       _HOLD,       _PAYABLE),
        PostingRule(EntryType.DISPUTE_REINSTATEMENT, _CLEARING,   _RECEIVABLE),
    ),
    EventType.DISPUTE_LOST: (
        PostingRule(EntryType.DISPUTE_LOSS,          _HOLD,       _RECEIVABLE),
    ),
    EventType.REFUND_FAILED: (
        PostingRule(EntryType.REFUND_REVERSAL,       _CLEARING,   _PAYABLE),
    ),
    EventType.CHARGE_REVERSED: (
        PostingRule(EntryType.CHARGE_REVERSAL,       _PAYABLE,    _CLEARING,   available=_GIVEN),
        PostingRule(EntryType.FEE_REVERSAL,          _FEES,       _PAYABLE,    Amount.FEE, _GIVEN),
    ),
    EventType.FEE_REFUNDED: (
        PostingRule(EntryType.FEE_REVERSAL,          _FEES,       _PAYABLE),
    ),
    EventType.DISPUTE_FEE_REFUNDED: (
        PostingRule(EntryType.DISPUTE_FEE_REVERSAL,  _CLEARING,   _PAYABLE),
    ),
    EventType.PROCESSOR_FEE_ASSESSED: (
        PostingRule(EntryType.PROCESSOR_COST,        _COSTS,      _CLEARING),
    ),
    EventType.PROCESSOR_FEE_REFUNDED: (
        PostingRule(EntryType.PROCESSOR_COST_REVERSAL, _CLEARING, _COSTS),
    ),
    EventType.TAX_WITHHELD: (
        PostingRule(EntryType.TAX_WITHHELD,          _PAYABLE,    _TAX,        available=_GIVEN),
    ),
    EventType.TAX_WITHHOLDING_REVERSED: (
        PostingRule(EntryType.TAX_WITHHELD_REVERSAL, _TAX,        _PAYABLE),
    ),
    EventType.RESERVE_HELD: (
        PostingRule(EntryType.RESERVE_HOLD,          _PAYABLE,    _RESERVE),
    ),
    EventType.RESERVE_RELEASED: (
        PostingRule(EntryType.RESERVE_RELEASE,       _RESERVE,    _PAYABLE),
    ),
    EventType.TOP_UP_RECEIVED: (
        PostingRule(EntryType.TOP_UP,                _CASH,       _PAYABLE),
    ),
    EventType.DEBT_WRITTEN_OFF: (
        PostingRule(EntryType.WRITE_OFF,             _BAD_DEBT,   _PAYABLE),
    ),
    EventType.PROCESSOR_SETTLED: (
        PostingRule(EntryType.PROCESSOR_SETTLEMENT,  _CASH,       _CLEARING),
    ),
    EventType.PROCESSOR_SETTLEMENT_DEBITED: (
        PostingRule(EntryType.PROCESSOR_SETTLEMENT_DEBIT, _CLEARING, _CASH),
    ),
}

# What a payout posts when it moves to a state. A run creates it; events make its other moves.
PAYOUT_POSTING_RULES: dict[PayoutState, PostingRule] = {
    PayoutState.CREATED:  PostingRule(EntryType.PAYOUT_RESERVE,  _PAYABLE,  _RESERVED),
    PayoutState.PAID:     PostingRule(EntryType.PAYOUT_RELEASE,  _RESERVED, _CASH),
    PayoutState.FAILED:   PostingRule(EntryType.PAYOUT_REVERSAL, _RESERVED, _PAYABLE),
    PayoutState.RETURNED: PostingRule(EntryType.PAYOUT_RETURN,   _CASH,     _PAYABLE),
    PayoutState.CANCELED: PostingRule(EntryType.PAYOUT_REVERSAL, _RESERVED, _PAYABLE),
}
# The states to which a payout moves without an entry.
PAYOUT_STATES_WITHOUT_ENTRY = frozenset({PayoutState.SUBMITTED})

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


def rules_of(
    event_type: EventType, *, has_fee: bool, has_processor_fee: bool = False
) -> list[PostingRule]:
    """The rules of the entries that an event posts, in the order of their positions, from 1.

    `has_fee`, `has_processor_fee`: whether that fee is above 0. Raises KeyError for a payout event:
    what it posts depends on the state of its payout.
    """
    is_posted = {
        Amount.AMOUNT: True,
        Amount.FEE: has_fee,
        Amount.PROCESSOR_FEE: has_processor_fee,
    }
    return [rule for rule in EVENT_POSTING_RULES[event_type] if is_posted[rule.amount]]
