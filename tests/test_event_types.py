"""What the code knows has a row in every place that needs one. A failure names the file.

That are event types, payout states, and the steps, states and reasons of payments.

Other places are checked elsewhere: converters and scopes at import, the posting rules in
tests/domain/test_posting_rules.py, docs/accounting.md in tests/test_documentation.py.
"""

import re
from pathlib import Path

import pytest

from ledger.domain.accounts import AccountState
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import (
    AVAILABLE_AT_EVENT_TYPES,
    FEE_EVENT_TYPES,
    OPTIONAL_RESTAURANT_EVENT_TYPES,
    PAYOUT_EVENT_TYPES,
    PLATFORM_EVENT_TYPES,
    PROCESSOR_FEE_EVENT_TYPES,
    EventType,
)
from ledger.domain.payments import CaptureMode, DeclineReason, OperationKind, PaymentState
from ledger.domain.payout_states import MOVES, PayoutState
from ledger.domain.posting_rules import (
    EVENT_POSTING_RULES,
    PAYMENT_POSTING_RULES,
    PAYOUT_POSTING_RULES,
    PAYOUT_STATES_WITHOUT_ENTRY,
    Amount,
    Available,
    EntryType,
    PostingRule,
)

PAYMENT_RULES = list(
    dict.fromkeys(
        rule
        for rules in PAYMENT_POSTING_RULES.values()
        for rule in (rules.payer, *rules.payee_account, *rules.payee_restaurant)
        # Events have it too.
        if rule.entry_type is not EntryType.FEE
    )
)
ROOT = Path(__file__).resolve().parents[1]
# Files, and how they spell an event type. Those of the second list have no types of payout events.
PLACES = [
    ("proto/ledger/v1/ledger.proto", "EVENT_TYPE_{0.name} = "),
    ("sql/schema.sql", "'{0.value}'"),
    ("sql/invariants.sql", "'{0.value}'"),
    ("docs/accounting.md", "{0.value}"),
    ("tests/contract/test_contract.py", "{0.name}"),
]
PLACES_WITHOUT_PAYOUTS = [
    ("tests/support/model.py", "EVENT_TYPE_{0.name}"),
    ("tests/domain/test_posting_rules.py", "{0.value}"),
]


@pytest.mark.parametrize("event_type", list(EventType))
def test_every_event_type_has_its_rows(event_type: EventType) -> None:
    """In the contract, the schema, the invariants, the documentation and the tests."""
    places = list(PLACES)
    if event_type in PAYOUT_EVENT_TYPES:
        moved = {moved_by for _, moved_by in MOVES}
        # The bank's reference moves no payout.
        assert event_type in {*moved, EventType.PAYOUT_REFERENCED}, (
            "add its moves to src/ledger/domain/payout_states.py"
        )
        # Only the bank's answers name a payout, and have the payout's amount, however large. The
        # CHECKs know them by the beginning of the word.
        assert event_type.value.startswith("payout_")
    else:
        assert not event_type.value.startswith("payout_"), "the CHECKs would want a payout"
        places += PLACES_WITHOUT_PAYOUTS
        assert event_type in EVENT_POSTING_RULES, "add it to src/ledger/domain/posting_rules.py"
    missing = [
        file
        for file, spelling in places
        if spelling.format(event_type) not in (ROOT / file).read_text()
    ]
    assert missing == [], f"{event_type.value} has no row in: {', '.join(missing)}"


def words_of(name: str) -> list[str]:
    """The words in a CHECK, of a table or a domain, in sql/schema.sql."""
    schema = (ROOT / "sql" / "schema.sql").read_text()
    found = re.search(rf"CONSTRAINT {name}\s(.*?)(?=\n    CONSTRAINT|;\n)", schema, re.DOTALL)
    assert found is not None, name
    return re.findall(r"'([\w ]+)'::text", found.group(1))


def test_domains_of_events_have_the_types_of_the_code() -> None:
    """All types, in order, and those that may have a fee, a processor's fee, an available_at, or no
    restaurant. A migration adds a type to them.
    """
    assert words_of("event_type_check") == [event_type.value for event_type in EventType]
    assert sorted(words_of("fee_event_type_check")) == sorted(
        event_type.value for event_type in FEE_EVENT_TYPES
    )
    schema = (ROOT / "sql" / "schema.sql").read_text()
    body = schema.split("CREATE FUNCTION is_valid_event(", 1)[1].split("END\n$$", 1)[0]
    lists = [
        re.findall(r"'(\w+)'", found) for found in re.findall(r" IN \((.*?)\)", body, re.DOTALL)
    ]
    assert [set(words) for words in lists] == [
        {event_type.value for event_type in types}
        for types in (
            AVAILABLE_AT_EVENT_TYPES,
            PROCESSOR_FEE_EVENT_TYPES,
            PLATFORM_EVENT_TYPES | OPTIONAL_RESTAURANT_EVENT_TYPES,
            PLATFORM_EVENT_TYPES,
        )
    ]
    # Most events are seen by the CHECK alone, which leaves these types to the function.
    assert set(words_of("restaurant_event_type_check")) == {
        event_type.value for event_type in PLATFORM_EVENT_TYPES
    }


def test_types_that_may_have_more_than_an_amount_post_it() -> None:
    """A type may have a processor's fee if a rule posts it, and an available_at if one takes it."""
    for event_type, rules in EVENT_POSTING_RULES.items():
        assert (event_type in PROCESSOR_FEE_EVENT_TYPES) is any(
            rule.amount is Amount.PROCESSOR_FEE for rule in rules
        )
        assert (event_type in AVAILABLE_AT_EVENT_TYPES) is any(
            rule.takes_available_at for rule in rules
        )


def test_domain_of_posting_rules_has_the_rules_of_the_code() -> None:
    """Each with its accounts, once, and no others. A migration adds a rule to it."""
    rules = [rule for rules in EVENT_POSTING_RULES.values() for rule in rules]
    rules += PAYOUT_POSTING_RULES.values()
    rules += PAYMENT_RULES
    listed = words_of("posting_rule_check")
    assert len(listed) == len(set(listed))
    assert set(listed) == {f"{rule.entry_type} {rule.debit} {rule.credit}" for rule in rules}
    # The CHECK of payout_id knows them by the beginning of the word.
    for rule in rules:
        is_of_payout = rule in PAYOUT_POSTING_RULES.values()
        assert rule.entry_type.startswith("PAYOUT_") is is_of_payout


@pytest.mark.parametrize(
    "rule",
    [*(rule for rules in EVENT_POSTING_RULES.values() for rule in rules), *PAYMENT_RULES],
    ids=lambda rule: rule.entry_type.value,
)
def test_every_entry_of_an_event_or_a_payment_passes_the_checks(rule: PostingRule) -> None:
    """Those of maturity and of payout items. A migration adds the entry type to them."""
    checks = []
    if rule.available is not Available.AT_ONCE:
        checks.append("maturing_entry_type_check")
    if LedgerAccount.RESTAURANT_PAYABLE in (rule.debit, rule.credit):
        checks.append("payout_items_entry_type_check")
    missing = [name for name in checks if rule.entry_type.value not in words_of(name)]
    assert missing == [], f"{rule.entry_type.value} is not in: {', '.join(missing)}"


def test_words_of_payments_are_those_of_the_code() -> None:
    """The states, the reasons and the kinds, in order. A migration adds one to them."""
    for check, words in (
        ("payment_state_check", PaymentState),
        ("decline_reason_check", DeclineReason),
        ("payment_operations_kind_check", OperationKind),
        ("payments_capture_check", CaptureMode),
        ("accounts_state_check", AccountState),
    ):
        assert words_of(check) == [word.value for word in words], check


@pytest.mark.parametrize("state", list(PayoutState))
def test_every_payout_state_has_its_rows(state: PayoutState) -> None:
    """The CHECKs know each state, and the entry that it posts. A migration adds them."""
    rule = PAYOUT_POSTING_RULES.get(state)
    assert (rule is None) == (state in PAYOUT_STATES_WITHOUT_ENTRY), (
        "add it to src/ledger/domain/posting_rules.py"
    )
    checks = {"payouts_state_check": state.value}
    # A payout is made of the entries before its own reserve.
    if (
        rule is not None
        and LedgerAccount.RESTAURANT_PAYABLE in (rule.debit, rule.credit)
        and state != "CREATED"
    ):
        checks["payout_items_entry_type_check"] = rule.entry_type.value
    missing = [name for name, word in checks.items() if word not in words_of(name)]
    posted = "" if rule is None else rule.entry_type.value
    assert missing == [], f"{state.value} or its entry {posted} is not in: {', '.join(missing)}"
    audit = (ROOT / "sql" / "invariants.sql").read_text()
    # A state without an entry is in the list of the states that a payout went through.
    assert f"('{state.value}', '{posted or state.value}'" in audit, (
        f"{state.value} has no row in sql/invariants.sql"
    )
