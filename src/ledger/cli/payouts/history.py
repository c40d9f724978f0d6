"""Folds the rows of `ledger report payouts`, one an item, into one row a payout."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.posting_rules import (
    EVENT_POSTING_RULES,
    PAYMENT_POSTING_RULES,
    PAYOUT_POSTING_RULES,
    EntryType,
)

if TYPE_CHECKING:
    from ledger.infrastructure.postgres.verification.reports import Report, Value

_RULES = (
    *(rule for rules in EVENT_POSTING_RULES.values() for rule in rules),
    *PAYOUT_POSTING_RULES.values(),
    *(rule for rules in PAYMENT_POSTING_RULES.values() for rule in rules.payee_restaurant),
)
# The types of item that a payout may have: all that move the payable, except the reserve of the
# payout itself.
ITEM_TYPES = tuple(
    entry_type
    for entry_type in EntryType
    if entry_type is not EntryType.PAYOUT_RESERVE
    and any(
        rule.entry_type is entry_type
        and LedgerAccount.RESTAURANT_PAYABLE in (rule.debit, rule.credit)
        for rule in _RULES
    )
)


def one_row_a_payout(found: "Report") -> "Report":
    """The payouts with a column for each type of item, 0 where a payout has no such item.

    The columns are always the same; types that only a newer schema knows come after them. If the
    report is incomplete, its last payout is left out, since items of it may be missing.
    """
    kept = [column for column in found.columns if column not in ("item_type", "item_minor")]
    places = {column: place for place, column in enumerate(found.columns)}
    payouts: dict[Value, tuple[list[Value], dict[str, Value]]] = {}
    for row in found.rows:
        values = [row[places[column]] for column in kept]
        _, items = payouts.setdefault(row[places["payout_id"]], (values, {}))
        if row[places["item_type"]] is not None:
            items[str(row[places["item_type"]])] = row[places["item_minor"]]
    if not found.is_complete:
        payouts.popitem()
    types = _types_in([items for _, items in payouts.values()])
    columns = (*kept, *(f"item_{name.lower()}_minor" for name in types))
    rows = tuple(
        (*values, *(items.get(name, 0) for name in types)) for values, items in payouts.values()
    )
    return type(found)(columns, rows, found.is_complete)


def _types_in(items_of_payouts: "Sequence[dict[str, Value]]") -> list[str]:
    known = [entry_type.value for entry_type in ITEM_TYPES]
    found = {name for items in items_of_payouts for name in items}
    return [*known, *sorted(found.difference(known))]
