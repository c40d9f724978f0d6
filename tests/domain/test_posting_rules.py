"""The posting rules, as tables that an accountant can read."""

from collections.abc import Sequence

import pytest

from ledger.domain.chart_of_accounts import NORMAL_SIDE, LedgerAccount, Side
from ledger.domain.events import PAYOUT_EVENT_TYPES, EventType
from ledger.domain.payout_states import PayoutState
from ledger.domain.posting_rules import (
    EVENT_POSTING_RULES,
    PAYMENT_POSTING_RULES,
    PAYOUT_POSTING_RULES,
    PAYOUT_STATES_WITHOUT_ENTRY,
    Amount,
    Available,
    EntryType,
    PaymentRules,
    PaymentStep,
    PostingRule,
    rules_of,
)

# Every event has the amount 1000, the fee 50 where it may have one, and so the processor's fee 7.
# An entry counts at once, or later when it has matured, or as given by the event's available_at.
# event                 place entry type           debit              credit             amount from
POSTED = """
charge_succeeded         1 CHARGE                  processor_clearing restaurant_payable 1000 later
charge_succeeded         2 FEE                     restaurant_payable platform_fees      50   later
charge_succeeded         3 PROCESSOR_COST          processor_costs    processor_clearing 7    once
refund_succeeded         1 REFUND                  restaurant_payable processor_clearing 1000 given
refund_succeeded         2 PROCESSOR_COST          processor_costs    processor_clearing 7    once
fee_assessed             1 FEE                     restaurant_payable platform_fees      1000 once
adjustment_credited      1 ADJUSTMENT_CREDIT       adjustments        restaurant_payable 1000 once
adjustment_debited       1 ADJUSTMENT_DEBIT        restaurant_payable adjustments        1000 once
dispute_opened           1 DISPUTE_HOLD            restaurant_payable dispute_hold       1000 once
dispute_opened           2 DISPUTE_WITHDRAWAL      dispute_receivable processor_clearing 1000 once
dispute_opened           3 DISPUTE_FEE             restaurant_payable processor_clearing 50   once
dispute_opened           4 PROCESSOR_COST          processor_costs    processor_clearing 7    once
dispute_won              1 DISPUTE_RELEASE         dispute_hold       restaurant_payable 1000 once
dispute_won              2 DISPUTE_REINSTATEMENT   processor_clearing dispute_receivable 1000 once
dispute_lost             1 DISPUTE_LOSS            dispute_hold       dispute_receivable 1000 once
refund_failed            1 REFUND_REVERSAL         processor_clearing restaurant_payable 1000 once
charge_reversed          1 CHARGE_REVERSAL         restaurant_payable processor_clearing 1000 given
charge_reversed          2 FEE_REVERSAL            platform_fees      restaurant_payable 50   given
fee_refunded             1 FEE_REVERSAL            platform_fees      restaurant_payable 1000 once
dispute_fee_refunded     1 DISPUTE_FEE_REVERSAL    processor_clearing restaurant_payable 1000 once
processor_fee_assessed   1 PROCESSOR_COST          processor_costs    processor_clearing 1000 once
processor_fee_refunded   1 PROCESSOR_COST_REVERSAL processor_clearing processor_costs    1000 once
tax_withheld             1 TAX_WITHHELD            restaurant_payable tax_withheld       1000 given
tax_withholding_reversed 1 TAX_WITHHELD_REVERSAL   tax_withheld       restaurant_payable 1000 once
reserve_held             1 RESERVE_HOLD            restaurant_payable reserve_hold       1000 once
reserve_released         1 RESERVE_RELEASE         reserve_hold       restaurant_payable 1000 once
top_up_received          1 TOP_UP                  platform_cash      restaurant_payable 1000 once
debt_written_off         1 WRITE_OFF               bad_debt           restaurant_payable 1000 once
processor_settled        1 PROCESSOR_SETTLEMENT    platform_cash      processor_clearing 1000 once
processor_settlement_debited 1 PROCESSOR_SETTLEMENT_DEBIT processor_clearing platform_cash 1000 once
"""
FROM = {Available.AT_ONCE: "once", Available.AT_MATURITY: "later", Available.AS_GIVEN: "given"}
MINOR = {Amount.AMOUNT: "1000", Amount.FEE: "50", Amount.PROCESSOR_FEE: "7"}
# state  entry type       debit               credit
PAYOUT_POSTED = """
CREATED  PAYOUT_RESERVE   restaurant_payable  payout_reserved
PAID     PAYOUT_RELEASE   payout_reserved     platform_cash
FAILED   PAYOUT_REVERSAL  payout_reserved     restaurant_payable
RETURNED PAYOUT_RETURN    platform_cash       restaurant_payable
CANCELED PAYOUT_REVERSAL  payout_reserved     restaurant_payable
"""
# Every step moves the amount 1000, and takes the fee 50 where a restaurant may bear one.
# step     books       entry type       debit               credit              amount matures
PAYMENT_POSTED = """
hold       payer       PAYMENT_HOLD     account_funds       account_held        1000   no
capture    payer       PAYMENT_CAPTURE  account_held        interaccount        1000   no
capture    account     PAYMENT          interaccount        account_funds       1000   no
capture    restaurant  PAYMENT          interaccount        restaurant_payable  1000   yes
capture    restaurant  FEE              restaurant_payable  platform_fees       50     yes
transfer   payer       TRANSFER_OUT     account_funds       interaccount        1000   no
transfer   account     TRANSFER_IN      interaccount        account_funds       1000   no
transfer   restaurant  TRANSFER_IN      interaccount        restaurant_payable  1000   yes
transfer   restaurant  FEE              restaurant_payable  platform_fees       50     yes
release    payer       PAYMENT_RELEASE  account_held        account_funds       1000   no
refund     payer       REFUND_IN        interaccount        account_funds       1000   no
refund     account     REFUND_OUT       account_funds       interaccount        1000   no
refund     restaurant  REFUND_OUT       restaurant_payable  interaccount        1000   no
"""
# What each path leaves in the books of the payer, credits minus debits, and of an account that is
# paid, as multiples of the amount.
# path               payer: funds  held  interaccount   payee: funds  interaccount
PAYMENT_PATHS = """
hold                        -1     1     0                     0      0
hold,release                0      0     0                     0      0
hold,capture                -1     0     1                     1      -1
transfer                    -1     0     1                     1      -1
hold,capture,refund         0      0     0                     0      0
transfer,refund             0      0     0                     0      0
"""
# The balances after each path through the states, credits minus debits, as multiples of the payout.
# path                   restaurant_payable  payout_reserved  platform_cash
PAYOUT_PATHS = """
CREATED                  -1                  1                0
CREATED,PAID             -1                  0                1
CREATED,FAILED           0                   0                0
CREATED,PAID,RETURNED    0                   0                0
CREATED,CANCELED         0                   0                0
"""
WITH_FEE = {
    EventType.CHARGE_SUCCEEDED,
    EventType.CHARGE_REVERSED,
    EventType.DISPUTE_OPENED,
    EventType.REFUND_SUCCEEDED,
}
WITH_PROCESSOR_FEE = {
    EventType.CHARGE_SUCCEEDED,
    EventType.DISPUTE_OPENED,
    EventType.REFUND_SUCCEEDED,
}

BOOKED_TYPES = [event_type for event_type in EventType if event_type not in PAYOUT_EVENT_TYPES]


@pytest.mark.parametrize("event_type", BOOKED_TYPES)
def test_events_post_what_the_table_says(event_type: EventType) -> None:
    """The entries of each type, with their accounts, amounts and from when on they count."""
    expected = [
        row.split()[1:] for row in POSTED.strip().splitlines() if row.split()[0] == event_type.value
    ]
    assert [
        [
            str(position),
            rule.entry_type.value,
            rule.debit.value,
            rule.credit.value,
            MINOR[rule.amount],
            FROM[rule.available],
        ]
        for position, rule in enumerate(
            rules_of(
                event_type,
                has_fee=event_type in WITH_FEE,
                has_processor_fee=event_type in WITH_PROCESSOR_FEE,
            ),
            start=1,
        )
    ] == expected, f"the table POSTED of this file has other rows for {event_type.value}"


@pytest.mark.parametrize("event_type", BOOKED_TYPES)
def test_zero_fee_posts_nothing(event_type: EventType) -> None:
    """No entry has the amount 0: without a fee its rule is left out."""
    rules = rules_of(event_type, has_fee=False)
    assert rules
    assert all(rule.amount is Amount.AMOUNT for rule in rules)


def test_every_account_has_a_normal_side() -> None:
    """The accounts on the debit side are these seven."""
    assert set(NORMAL_SIDE) == set(LedgerAccount)
    debits = {account for account, side in NORMAL_SIDE.items() if side is Side.DEBIT}
    assert {account.value for account in debits} == {
        "processor_clearing",
        "platform_cash",
        "dispute_receivable",
        "adjustments",
        "interaccount",
        "processor_costs",
        "bad_debt",
    }


def test_every_event_type_but_the_payout_ones_has_rules() -> None:
    """Payout events post by the state of their payout, all others by the table."""
    assert set(EVENT_POSTING_RULES) == set(EventType) - PAYOUT_EVENT_TYPES


def test_payouts_post_what_the_table_says() -> None:
    """At most one entry for each state of a payout: its whole amount, which counts at once."""
    assert [
        [state, rule.entry_type.value, rule.debit.value, rule.credit.value]
        for state, rule in PAYOUT_POSTING_RULES.items()
    ] == [row.split() for row in PAYOUT_POSTED.strip().splitlines()]
    assert list(PAYOUT_POSTING_RULES) == [
        state for state in PayoutState if state not in PAYOUT_STATES_WITHOUT_ENTRY
    ]
    for rule in PAYOUT_POSTING_RULES.values():
        assert (rule.amount, rule.available) == (Amount.AMOUNT, Available.AT_ONCE)


@pytest.mark.parametrize("row", PAYOUT_PATHS.strip().splitlines())
def test_payout_leaves_the_balances_of_its_path(row: str) -> None:
    """A returned payout leaves none. A paid one leaves them on the platform's bank account."""
    path, *expected = row.split()
    credited: dict[LedgerAccount, int] = dict.fromkeys(LedgerAccount, 0)
    for state in path.split(","):
        credited[PAYOUT_POSTING_RULES[PayoutState(state)].debit] -= 1
        credited[PAYOUT_POSTING_RULES[PayoutState(state)].credit] += 1
    accounts = (
        LedgerAccount.RESTAURANT_PAYABLE,
        LedgerAccount.PAYOUT_RESERVED,
        LedgerAccount.PLATFORM_CASH,
    )
    assert [str(credited[account]) for account in accounts] == expected
    assert sum(credited.values()) == 0


def test_every_entry_type_has_a_rule() -> None:
    """A failed and a canceled payout share an entry type, and no other two states. No event has one
    of a payout.

    Payments share the fee with events, and no other type.
    """
    of_events = {rule.entry_type for rules in EVENT_POSTING_RULES.values() for rule in rules}
    of_payouts = [rule.entry_type for rule in PAYOUT_POSTING_RULES.values()]
    of_payments = {
        rule.entry_type
        for rules in PAYMENT_POSTING_RULES.values()
        for rule in (rules.payer, *rules.payee_account, *rules.payee_restaurant)
    }
    assert of_events.isdisjoint(of_payouts)
    assert of_payments.isdisjoint(of_payouts)
    assert of_payments & of_events == {EntryType.FEE}
    assert of_events | of_payments | set(of_payouts) == set(EntryType)
    assert [found for found in set(of_payouts) if of_payouts.count(found) > 1] == [
        EntryType.PAYOUT_REVERSAL
    ]


def books_of(rules: PaymentRules) -> list[tuple[str, PostingRule]]:
    """The rules of a step, each with whose books it is for."""
    return [
        ("payer", rules.payer),
        *(("account", rule) for rule in rules.payee_account),
        *(("restaurant", rule) for rule in rules.payee_restaurant),
    ]


def test_payments_post_what_the_table_says() -> None:
    """The entries of each step, in the books of both parties."""
    assert [
        [
            step,
            books,
            rule.entry_type.value,
            rule.debit.value,
            rule.credit.value,
            "50" if rule.amount is Amount.FEE else "1000",
            "yes" if rule.matures else "no",
        ]
        for step, rules in PAYMENT_POSTING_RULES.items()
        for books, rule in books_of(rules)
    ] == [row.split() for row in PAYMENT_POSTED.strip().splitlines()]
    assert list(PAYMENT_POSTING_RULES) == list(PaymentStep)


@pytest.mark.parametrize("row", PAYMENT_PATHS.strip().splitlines())
def test_payment_leaves_the_balances_of_its_path(row: str) -> None:
    """Money that left the one account is in the other, and interaccount is zero over both."""
    path, *expected = row.split()
    credited = {(books, account): 0 for books in ("payer", "account") for account in LedgerAccount}
    for step in path.split(","):
        for books, rule in books_of(PAYMENT_POSTING_RULES[PaymentStep(step)]):
            if books != "restaurant":
                credited[books, rule.debit] -= 1
                credited[books, rule.credit] += 1
    places = (
        ("payer", LedgerAccount.ACCOUNT_FUNDS),
        ("payer", LedgerAccount.ACCOUNT_HELD),
        ("payer", LedgerAccount.INTERACCOUNT),
        ("account", LedgerAccount.ACCOUNT_FUNDS),
        ("account", LedgerAccount.INTERACCOUNT),
    )
    assert [str(credited[place]) for place in places] == expected
    assert sum(credited.values()) == 0


@pytest.mark.parametrize("step", PaymentStep)
def test_both_sides_of_a_step_agree(step: PaymentStep) -> None:
    """What a step takes off interaccount in the payer's books it puts there in the payee's, for
    either kind of payee; a step without a payee's side does not touch it.
    """

    def of_interaccount(rules: Sequence[PostingRule]) -> int:
        return sum(
            (rule.credit is LedgerAccount.INTERACCOUNT) - (rule.debit is LedgerAccount.INTERACCOUNT)
            for rule in rules
        )

    rules = PAYMENT_POSTING_RULES[step]
    for payee in (rules.payee_account, rules.payee_restaurant):
        assert of_interaccount((rules.payer, *payee)) == 0
