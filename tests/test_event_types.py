"""Event types and payout states have a row in every place that needs one. A failure names the file.

Other places are checked elsewhere: converters and scopes at import, the posting rules in
tests/domain/test_posting_rules.py, docs/accounting.md in tests/test_documentation.py.
"""

import re
from pathlib import Path

import pytest

from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import PAYOUT_EVENT_TYPES, EventType
from ledger.domain.payout_states import MOVES, PayoutState
from ledger.domain.posting_rules import (
    EVENT_POSTING_RULES,
    PAYOUT_POSTING_RULES,
    Available,
    PostingRule,
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
        assert event_type in moved, "add its moves to src/ledger/domain/payout_states.py"
        # Only the bank's answers name a payout, and have the payout's amount, however large.
        for name in ("processor_events_payout_id_check", "processor_events_amount_minor_check"):
            assert f"'{event_type.value}'" in check_of_schema(name), (
                f"{event_type.value} is not in {name}"
            )
    else:
        places += PLACES_WITHOUT_PAYOUTS
        assert event_type in EVENT_POSTING_RULES, "add it to src/ledger/domain/posting_rules.py"
    missing = [
        file
        for file, spelling in places
        if spelling.format(event_type) not in (ROOT / file).read_text()
    ]
    assert missing == [], f"{event_type.value} has no row in: {', '.join(missing)}"


def check_of_schema(name: str) -> str:
    """The text of a CHECK in sql/schema.sql."""
    schema = (ROOT / "sql" / "schema.sql").read_text()
    found = re.search(rf"CONSTRAINT {name}\s(.*?)(?=\n    CONSTRAINT|\n\);)", schema, re.DOTALL)
    assert found is not None, name
    return found.group(1)


@pytest.mark.parametrize(
    "rule",
    [rule for rules in EVENT_POSTING_RULES.values() for rule in rules],
    ids=lambda rule: rule.entry_type.value,
)
def test_every_entry_of_an_event_passes_the_checks(rule: PostingRule) -> None:
    """Those of entries and of payout items. A migration adds the entry type to them."""
    checks = ["ledger_entries_accounts_check"]
    if rule.available is Available.AT_MATURITY:
        checks.append("ledger_entries_available_at_check")
    if LedgerAccount.RESTAURANT_PAYABLE in (rule.debit, rule.credit):
        checks.append("payout_items_entry_type_check")
    missing = [name for name in checks if f"'{rule.entry_type.value}'" not in check_of_schema(name)]
    assert missing == [], f"{rule.entry_type.value} is not in: {', '.join(missing)}"


@pytest.mark.parametrize("state", list(PayoutState))
def test_every_payout_state_has_its_rows(state: PayoutState) -> None:
    """Each state posts an entry, and the CHECKs know both. A migration adds them."""
    assert state in PAYOUT_POSTING_RULES, "add it to src/ledger/domain/posting_rules.py"
    rule = PAYOUT_POSTING_RULES[state]
    checks = {
        "payouts_state_check": state.value,
        "ledger_entries_accounts_check": rule.entry_type.value,
        "ledger_entries_payout_id_check": rule.entry_type.value,
    }
    # A payout is made of the entries before its own reserve.
    if LedgerAccount.RESTAURANT_PAYABLE in (rule.debit, rule.credit) and state != "CREATED":
        checks["payout_items_entry_type_check"] = rule.entry_type.value
    missing = [name for name, word in checks.items() if f"'{word}'" not in check_of_schema(name)]
    assert missing == [], (
        f"{state.value} or {rule.entry_type.value} is not in: {', '.join(missing)}"
    )
    audit = (ROOT / "sql" / "invariants.sql").read_text()
    assert f"('{state.value}', '{rule.entry_type.value}', " in audit, (
        f"{state.value} has no row in sql/invariants.sql"
    )
