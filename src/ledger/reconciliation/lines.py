"""Turns rows of a report into lines in the currency of settlement, and into control sums."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal

from ledger.domain.fields import is_id, is_reference
from ledger.domain.money import EXPONENT_BY_CURRENCY, is_currency
from ledger.reconciliation.amounts import AmountReader
from ledger.reconciliation.instants import SECOND, read_instant, zone_of
from ledger.reconciliation.layouts import (
    CONTROL_KINDS,
    CREDIT_KINDS,
    REVERSED_KINDS,
    ROW_HASH,
    AmountColumn,
    Kind,
    Template,
)
from ledger.reconciliation.problems import BadCell, shown
from ledger.reconciliation.rows import Row

# What a spreadsheet makes of a long number, or shows instead of a value.
_DAMAGED = re.compile(r"[0-9]+(?:[.,][0-9]+)?[eE]\+[0-9]+|#{2,}|#(?:NAME\?|REF!|VALUE!|N/A|NUM!)")
_FORMULA_STARTS = ("=", "@")
_HASH_DIGITS = 16
_EXACT_RATE = Decimal(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLine:
    """A row of the report, or a part of one, in minor units of the currency of settlement.

    Positive is a credit; `cost_minor` is positive where it costs. `net_minor` is what the row says,
    and `untied_minor` what gross less cost is more than that: 0 in a row that adds up.
    """

    row: int
    word: str
    kind: Kind
    row_id: str
    currency: str
    gross_minor: int
    cost_minor: int
    net_minor: int
    untied_minor: int
    occurred_at: datetime | None
    exact_to: timedelta
    # Candidates for its event; for the event of its fee alone; the event whose part it may be.
    event_ids: tuple[str, ...]
    fee_ids: tuple[str, ...]
    owner_id: str
    references: tuple[str, ...]
    group: str
    # Whether it is a control sum, so that its group must come to zero.
    closes_group: bool
    note: str
    # A hash of what it says.
    content: str


@dataclass(frozen=True, slots=True)
class DamagedId:
    """A cell with an id that a spreadsheet has damaged: never used as an id."""

    line: int
    column: str
    text: str


class LineReader:
    """Reads the rows of one report. What the report leaves open comes from the caller."""

    def __init__(
        self,
        amounts: AmountReader,
        *,
        currency: str = "",
        zone: tzinfo | None = None,
        on_damaged_id: Callable[[DamagedId], None],
        count_content: Callable[[str], int],
    ) -> None:
        """`count_content` returns how often it was called with the same text, this call included:
        it tells rows without an id apart that say the same.
        """
        self._amounts = amounts
        self._currency = currency
        self._zone = zone
        self._on_damaged_id = on_damaged_id
        self._count_content = count_content
        self._zones: dict[str, tzinfo] = {}

    def learn(self, row: Row) -> None:
        """Learns the decimal mark of the file from a row."""
        for column in row.table.layout.amount_columns():
            if text := row.cell(column.name):
                self._amounts.learn(text)

    def read(self, row: Row) -> Iterator[ReportLine]:
        """The lines of a row; none if it moved nothing. Raises BadCell."""
        layout = row.table.layout
        word = "/".join(row.cell(name) for name in layout.kind).strip("/")
        kind = layout.kind_of("/".join(row.cell(name) for name in layout.kind))
        if kind is Kind.IGNORED:
            return
        currency = self._currency_of(row)
        gross, cost, tax, net, untied = self._amounts_of(row, currency)
        note = self._presented_note(row, currency, gross)
        if kind in CONTROL_KINDS or kind is Kind.FEE:
            # A fee row is a cost without an amount; of a control only the net counts.
            cost = -net - tax if kind is Kind.FEE else 0
            gross = 0 if kind is Kind.FEE else net
            tax = tax if kind is Kind.FEE else 0
        elif kind in REVERSED_KINDS and gross and (gross > 0) != (kind in CREDIT_KINDS):
            kind = REVERSED_KINDS[kind]
        occurred_at, exact_to = self._instant_of(row)
        cells, damage = self._ids_of(row)
        references = tuple(
            dict.fromkeys(
                cells[name]
                for name in layout.references
                if cells.get(name) and is_reference(cells[name])
            )
        )
        # A report without groups is one.
        group = layout.group.fill(cells) if layout.group.columns else "report"
        row_id = _first(layout.row_id, cells)
        is_by_content = any(template.is_by_content for template in layout.events.get(kind, ()))
        # Only where it decides: it takes as long as reading an amount.
        content = (
            ""
            if row_id and not is_by_content
            else _hash(
                word, currency, gross, cost, tax, net, occurred_at, "\n".join(references), group
            )
        )
        if is_by_content:
            count = self._count_content(content)
            content = content if count == 1 else f"{content}.{count}"
        cells[ROW_HASH] = content

        def line_of(
            part: Kind, gross_minor: int, cost_minor: int, net_minor: int, untied_minor: int
        ) -> ReportLine:
            return ReportLine(
                row=row.line,
                word=word if part is kind or kind not in REVERSED_KINDS else f"{word}: tax",
                kind=part,
                row_id=row_id,
                currency=currency,
                gross_minor=gross_minor,
                cost_minor=cost_minor,
                net_minor=net_minor,
                untied_minor=untied_minor,
                occurred_at=occurred_at,
                exact_to=exact_to,
                event_ids=_ids(layout.events.get(part, ()), cells),
                fee_ids=_ids(layout.fee_events.get(part, ()), cells),
                owner_id=_first(layout.owners, cells) if part is Kind.FEE else "",
                references=references,
                group=group,
                closes_group=bool(group)
                and (part is Kind.TOTAL or (part is Kind.PAYOUT and layout.payouts_close_groups)),
                note="; ".join(filter(None, (note, damage))),
                content=content,
            )

        if gross or cost or net or kind in CONTROL_KINDS:
            yield line_of(kind, gross, cost, net + tax, untied)
        if tax:
            yield line_of(Kind.TAX, -tax, 0, -tax, 0)

    def _currency_of(self, row: Row) -> str:
        column = row.table.layout.currency
        code = row.cell(column).upper() if column else ""
        if not code and not self._currency:
            raise BadCell(column, "is missing: name the currency with --currency")
        if code and not is_currency(code):
            raise BadCell(column, f"must be an ISO 4217 code (it is {shown(code)})")
        if code and self._currency and code != self._currency:
            raise BadCell(column, f"is {code}, where --currency says {self._currency}")
        return code or self._currency

    def _amounts_of(self, row: Row, currency: str) -> tuple[int, int, int, int, int]:
        """Gross, cost, tax, net, and what does not add up."""
        layout = row.table.layout
        net = self._sum(row, layout.net, currency)
        gross = self._sum(row, layout.gross, currency)
        cost = self._sum(row, layout.fee, currency)
        tax = self._sum(row, layout.tax, currency) or 0
        # In the currency of settlement, the presented amount is the gross one.
        if (
            gross is None
            and layout.presented is not None
            and row.cell(layout.presented.currency).upper() in ("", currency)
        ):
            gross = self._sum(row, layout.presented.gross, currency)
        if gross is None and net is None:
            column = (*layout.net, *layout.gross)[0].name
            raise BadCell(column, "is missing: the row has no amount")
        if gross is None:
            gross = (net or 0) + (cost or 0) + tax
        if net is None:
            net = gross - (cost or 0) - tax
        if cost is None:
            # Some reports write a gross amount without its sign.
            gross = -gross if gross * net < 0 else gross
            cost = gross - net - tax if not layout.fee else 0
        untied = gross - cost - tax - net
        if untied and untied == -tax:
            # The fee of the report includes the tax.
            cost, untied = cost - tax, 0
        return gross, cost, tax, net, untied

    def _sum(self, row: Row, columns: tuple[AmountColumn, ...], currency: str) -> int | None:
        """The sum of the cells that are not empty; None if all are."""
        total: int | None = None
        for column in columns:
            if text := row.cell(column.name):
                try:
                    total = (total or 0) + column.sign * self._amounts.read(text, currency)
                except ValueError as error:
                    raise BadCell(column.name, f"{error} (it is {shown(text)})") from None
        return total

    def _presented_note(self, row: Row, currency: str, gross_minor: int) -> str:
        """What the customer paid, in another currency, and whether the rate leads to the gross."""
        presented = row.table.layout.presented
        if presented is None:
            return ""
        code = row.cell(presented.currency).upper()
        if code in ("", currency):
            return ""
        if not is_currency(code):
            raise BadCell(presented.currency, f"must be an ISO 4217 code (it is {shown(code)})")
        paid = self._sum(row, presented.gross, code)
        if paid is None:
            return ""
        rate_text = row.cell(presented.rate) if presented.rate else ""
        if not rate_text:
            return f"paid in {code}"
        if not re.fullmatch(r"[0-9]{1,12}(?:\.[0-9]{1,12})?", rate_text):
            raise BadCell(presented.rate, f"must be a rate such as 1.0657 (it is {rate_text!r})")
        rate = Decimal(rate_text)
        shift = EXPONENT_BY_CURRENCY[currency] - EXPONENT_BY_CURRENCY[code]
        converted = (Decimal(abs(paid)) * rate).scaleb(shift)
        # The rate is rounded, and so is the amount.
        doubt = Decimal(abs(paid)).scaleb(shift) * _EXACT_RATE.scaleb(
            rate.as_tuple().exponent  # type: ignore[arg-type]  # a number, since it is finite
        )
        if abs(converted - abs(gross_minor)) > 1 + doubt:
            return f"paid in {code}, and the rate {rate_text} does not lead to the amount"
        return f"paid in {code} at {rate_text}"

    def _instant_of(self, row: Row) -> tuple[datetime | None, timedelta]:
        layout = row.table.layout
        for column, zone_name in layout.occurred_at:
            text = row.cell(column)
            if not text:
                continue
            name = (row.cell(layout.zone_column) if layout.zone_column else "") or zone_name
            try:
                zone = self._zone_named(name) if name else self._zone
                return read_instant(text, zone, layout.date_pattern)
            except ValueError as error:
                raise BadCell(column, f"{error} (it is {shown(text)})") from None
        return None, SECOND

    def _zone_named(self, name: str) -> tzinfo:
        if name not in self._zones:
            self._zones[name] = zone_of(name)
        return self._zones[name]

    def _ids_of(self, row: Row) -> tuple[dict[str, str], str]:
        """The cells with ids by their columns, damaged ones empty, and a note about those."""
        cells: dict[str, str] = {}
        damaged: list[str] = []
        for name in row.table.id_columns:
            text = row.cell(name)
            if text and (text.startswith(_FORMULA_STARTS) or _DAMAGED.fullmatch(text)):
                self._on_damaged_id(DamagedId(row.line, name, text))
                damaged.append(name)
                text = ""
            cells[name] = text
        return cells, f"damaged: {', '.join(damaged)}" if damaged else ""


def _ids(candidates: tuple[Template, ...], cells: dict[str, str]) -> tuple[str, ...]:
    found = (template.fill(cells) for template in candidates)
    return tuple(dict.fromkeys(text for text in found if text and is_id(text)))


def _first(candidates: tuple[Template, ...], cells: dict[str, str]) -> str:
    return next(filter(None, (template.fill(cells) for template in candidates)), "")


def _hash(*parts: object) -> str:
    text = "\n".join(map(str, parts))
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]
