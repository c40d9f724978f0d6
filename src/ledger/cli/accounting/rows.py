"""The columns of the trial balance and of the journal, for CSV, JSON lines and Parquet."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from ledger.cli.output import JsonValue, instant_text
from ledger.cli.words import amount_or_none
from ledger.domain.chart_of_accounts import NORMAL_SIDE, LedgerAccount
from ledger.domain.journals import JournalEntry, TrialBalanceLine

# What a row of totals has as its ledger account.
TOTAL = "total"

HOLDER_COLUMNS = ("restaurant_id", "account_id")
_AMOUNTS = ("opening", "debits", "credits", "closing")
LINE_COLUMNS = (
    "currency",
    "ledger_account",
    "normal_side",
    *(column for name in _AMOUNTS for column in (f"{name}_minor", name)),
)
ENTRY_COLUMNS = (
    "date",
    "recorded_at",
    "transaction_id",
    "position",
    *HOLDER_COLUMNS,
    "currency",
    "type",
    "debit_account",
    "credit_account",
    "amount_minor",
    "amount",
    "event_id",
    "payout_id",
    "payment_id",
    "reference",
    "occurred_at",
    "available_at",
)


@dataclass(slots=True)
class Totals:
    """The sums of the lines of one currency, in minor units."""

    currency: str
    opening_minor: int = 0
    debits_minor: int = 0
    credits_minor: int = 0

    @property
    def closing_minor(self) -> int:
        """0, as is the sum of the opening balances: each entry is a debit and a credit."""
        return self.opening_minor + self.debits_minor - self.credits_minor

    def add(self, line: TrialBalanceLine) -> None:
        """Counts a line."""
        self.opening_minor += line.opening_minor
        self.debits_minor += line.debits_minor
        self.credits_minor += line.credits_minor


def normal_side(ledger_account: str) -> str:
    """`debit` or `credit`: the side on which the account grows."""
    return NORMAL_SIDE[LedgerAccount(ledger_account)].value


def row_of_line(line: TrialBalanceLine | Totals) -> dict[str, JsonValue]:
    """A line, or the totals, by the names of the columns; those of a holder only if it has one."""
    if isinstance(line, Totals):
        return {
            "currency": line.currency,
            "ledger_account": TOTAL,
            "normal_side": None,
            **_amounts(line),
        }
    of_holder: dict[str, JsonValue] = {}
    if line.holder is not None:
        of_holder = {
            "restaurant_id": line.holder.restaurant_id,
            "account_id": line.holder.account_id,
        }
    return {
        **of_holder,
        "currency": line.currency,
        "ledger_account": line.ledger_account,
        "normal_side": normal_side(line.ledger_account),
        **_amounts(line),
    }


def _amounts(of: TrialBalanceLine | Totals) -> dict[str, JsonValue]:
    minors = (of.opening_minor, of.debits_minor, of.credits_minor, of.closing_minor)
    row: dict[str, JsonValue] = {}
    for name, minor in zip(_AMOUNTS, minors, strict=True):
        row[f"{name}_minor"] = str(minor)
        row[name] = amount_or_none(minor, of.currency)
    return row


def row_of_entry(entry: JournalEntry) -> dict[str, JsonValue]:
    """An entry by the names of its columns."""
    return {
        "date": entry.day.isoformat(),
        "recorded_at": _instant(entry.recorded_at),
        "transaction_id": str(entry.transaction_id),
        "position": entry.position,
        "restaurant_id": entry.holder.restaurant_id,
        "account_id": entry.holder.account_id,
        "currency": entry.currency,
        "type": entry.entry_type.lower(),
        "debit_account": entry.debit_account,
        "credit_account": entry.credit_account,
        "amount_minor": str(entry.amount_minor),
        "amount": amount_or_none(entry.amount_minor, entry.currency),
        "event_id": entry.event_id,
        "payout_id": None if entry.payout_id is None else str(entry.payout_id),
        "payment_id": entry.payment_id,
        "reference": entry.reference or None,
        "occurred_at": _instant(entry.occurred_at),
        "available_at": _instant(entry.available_at),
    }


# Cached: the entries of an event share their instants.
@lru_cache(maxsize=1024)
def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else instant_text(instant)
