"""What a layout says: which columns a report has, and which events its rows are in the books."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What a row of a report is about."""

    CHARGE = "charge"
    CHARGE_REVERSAL = "charge_reversal"
    REFUND = "refund"
    REFUND_REVERSAL = "refund_reversal"
    DISPUTE = "dispute"
    DISPUTE_REVERSAL = "dispute_reversal"
    FEE = "fee"
    TAX = "tax"
    RESERVE = "reserve"
    # What the ledger has no event for.
    OTHER = "other"
    # Money that went from the processor to the platform's bank account, or back: no line.
    PAYOUT = "payout"
    # A control sum over the lines of its group, and what the group began with: no lines.
    TOTAL = "total"
    OPENING = "opening"
    # A row that says nothing about money that moved.
    IGNORED = "ignored"


# Rows of these kinds are no lines.
CONTROL_KINDS = frozenset({Kind.PAYOUT, Kind.TOTAL, Kind.OPENING})

# The kind of a row whose amount has the other sign.
REVERSED_KINDS = {
    Kind.CHARGE: Kind.CHARGE_REVERSAL,
    Kind.REFUND: Kind.REFUND_REVERSAL,
    Kind.DISPUTE: Kind.DISPUTE_REVERSAL,
}
CREDIT_KINDS = frozenset({Kind.CHARGE, Kind.REFUND_REVERSAL, Kind.DISPUTE_REVERSAL})

# A template may name this instead of a column: a hash of what the row says.
ROW_HASH = "row_hash"


@dataclass(frozen=True, slots=True)
class AmountColumn:
    """A column with an amount, and whether it is added or subtracted."""

    name: str
    sign: int = 1


@dataclass(frozen=True, slots=True)
class Presented:
    """The columns of the amount that the customer paid, where it may be in another currency."""

    gross: tuple[AmountColumn, ...]
    currency: str
    rate: str


class Template:
    """A text with names of columns in braces: `stripe:{source_id}`."""

    def __init__(self, text: str) -> None:
        self.text = text
        # Odd places are names of columns.
        self._parts = re.split(r"\{([^{}]*)\}", text)

    @property
    def columns(self) -> list[str]:
        """The columns that it names."""
        return [name for name in self._parts[1::2] if name != ROW_HASH]

    @property
    def is_by_content(self) -> bool:
        """Whether it names the hash of the row."""
        return ROW_HASH in self._parts[1::2]

    def fill(self, cells: Mapping[str, str]) -> str:
        """The text with the cells in place; empty if one of them is missing or empty."""
        filled = list(self._parts)
        for place in range(1, len(filled), 2):
            cell = cells.get(filled[place], "")
            if not cell:
                return ""
            filled[place] = cell
        return "".join(filled)


def templates(*texts: str) -> tuple[Template, ...]:
    """Templates of these texts."""
    return tuple(map(Template, texts))


_NO_TEMPLATES: Mapping[Kind, tuple[Template, ...]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A layout of reports. Columns are found by name, in any order; those not required may lack.

    `gross`, `fee`, `tax` and `net` are sums of columns in the currency of settlement. A credit is
    positive; fee and tax are positive where they cost. Two of gross, fee and net give the third.
    """

    name: str
    title: str
    # Which events of the books the report is about, by the beginning of their ids.
    event_prefix: str
    # A header that has these is of this layout.
    required: tuple[str, ...]
    # The words of these columns, joined by /, say the kind of a row.
    kind: tuple[str, ...]
    kinds: Mapping[str, Kind]
    net: tuple[AmountColumn, ...] = ()
    gross: tuple[AmountColumn, ...] = ()
    fee: tuple[AmountColumn, ...] = ()
    tax: tuple[AmountColumn, ...] = ()
    presented: Presented | None = None
    # Empty: the caller must name the currency.
    currency: str = ""
    # The first that is not empty counts; a zone where the column names none.
    occurred_at: tuple[tuple[str, str], ...] = ()
    zone_column: str = ""
    # Whether a row has the instant of its event, and not that of a later release.
    has_event_dates: bool = True
    date_pattern: str | None = None
    # What the report calls the row; a row that comes twice is found by it.
    row_id: tuple[Template, ...] = ()
    references: tuple[str, ...] = ()
    # Rows with the same text belong to one payout, or to one total.
    group: Template = field(default_factory=lambda: Template(""))
    # Whether the lines of a group and its payout come to zero.
    payouts_close_groups: bool = False
    # Candidates for the id of a row's event, the best first.
    events: Mapping[Kind, tuple[Template, ...]] = field(default_factory=lambda: _NO_TEMPLATES)
    # The id under which the fee of such a row is an event of its own.
    fee_events: Mapping[Kind, tuple[Template, ...]] = field(default_factory=lambda: _NO_TEMPLATES)
    # Events that a fee row may be a part of.
    owners: tuple[Template, ...] = ()
    # Further columns with ids, only checked for damage.
    id_columns: tuple[str, ...] = ()
    decimal_mark: str | None = None
    is_in_minor_units: bool = False

    def kind_of(self, word: str) -> Kind:
        """The kind of a row by the word of its kind column, in any case."""
        word = " ".join(word.casefold().split())
        if word in self.kinds:
            return self.kinds[word]
        # release/payment: the first part alone decides where it can.
        return self.kinds.get(word.partition("/")[0] + "/*", Kind.OTHER)

    def amount_columns(self) -> list[AmountColumn]:
        """Every column with an amount."""
        presented = () if self.presented is None else self.presented.gross
        return [*self.gross, *self.fee, *self.tax, *self.net, *presented]

    def ids(self) -> list[str]:
        """Every column with an id."""
        found = [*self.references, *self.id_columns, *self.group.columns]
        for several in (self.row_id, self.owners, *self.events.values(), *self.fee_events.values()):
            found += [column for template in several for column in template.columns]
        return list(dict.fromkeys(found))

    def used_columns(self) -> list[str]:
        """Every column that decides something; those that are only checked are not among them."""
        found = [*self.required, *self.kind, self.currency, self.zone_column]
        found += [column.name for column in self.amount_columns()]
        found += [name for name, _ in self.occurred_at]
        if self.presented is not None:
            found += [self.presented.currency, self.presented.rate]
        found += [name for name in self.ids() if name not in self.id_columns]
        return [name for name in dict.fromkeys(found) if name]


def normal(name: str) -> str:
    """The name of a column as it is compared: in one case, without blanks around."""
    return " ".join(name.replace("\ufeff", "").casefold().split())


def columns_of(*names: str) -> tuple[AmountColumn, ...]:
    """Columns with amounts; one that begins with a minus is subtracted."""
    return tuple(
        AmountColumn(name.removeprefix("-"), -1 if name.startswith("-") else 1) for name in names
    )


def layout_of(header: Sequence[str], layouts: Sequence[Layout]) -> Layout | None:
    """The layout of a header: of several, the one that requires the most columns."""
    names = set(map(normal, header))
    found = [layout for layout in layouts if names.issuperset(map(normal, layout.required))]
    return max(found, key=lambda layout: len(layout.required), default=None)
