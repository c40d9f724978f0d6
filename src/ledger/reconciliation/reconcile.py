"""Reconciles a report with the books: read, match, compare. The entry of the package."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from itertools import chain, islice
from typing import BinaryIO

from ledger.reconciliation.amounts import AmountReader
from ledger.reconciliation.books import EXPECTED_TYPES, Books
from ledger.reconciliation.built_in import LAYOUTS
from ledger.reconciliation.layouts import Layout
from ledger.reconciliation.lines import LineReader
from ledger.reconciliation.matching import match
from ledger.reconciliation.outcomes import AGREED, Outcome, Totals, find_outcomes
from ledger.reconciliation.postings import Posting, booked_before, postings_of
from ledger.reconciliation.problems import BadCell, Problem, ProblemList, ReportUnusable
from ledger.reconciliation.rows import LeftOut, Row, read_rows
from ledger.reconciliation.texts import find_text
from ledger.reconciliation.workspace import Workspace, open_workspace

DATE_TOLERANCE = timedelta(days=1)
# Rows from which the decimal mark of the file is learnt.
_SAMPLE_ROWS = 200
_LEFT_OUT_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How to read a report, and what to compare.

    `currency`, `zone` and `decimal_mark` are for reports that leave them open. `start_at` and
    `end_at` are the period for which an event without a line is missing; by default that of the
    lines.
    """

    layouts: Sequence[Layout] = LAYOUTS
    currency: str = ""
    zone: tzinfo | None = None
    decimal_mark: str | None = None
    event_prefix: str | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    date_tolerance: timedelta = DATE_TOLERANCE


@dataclass(slots=True)
class _Read:
    """What was seen while a report was read."""

    layouts: dict[str, Layout] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    rows: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """The result. It can be read inside the block of `reconcile`."""

    layouts: tuple[Layout, ...]
    rows: int
    # The period for which an event without a line is missing; None if it could not be asked for.
    period: tuple[datetime, datetime] | None
    totals: Totals
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    _workspace: Workspace
    _date_tolerance: timedelta | None

    @property
    def agrees(self) -> bool:
        """Whether report and books agree in all, and all of the report was read."""
        return set(self.totals.outcomes) <= AGREED and not any(
            lines.matters for lines in self.left_out
        )

    def outcomes(self) -> Iterator[Outcome]:
        """Every outcome, the same ones in the same order each time."""
        return find_outcomes(self._workspace, date_tolerance=self._date_tolerance)

    def postings(self) -> Iterator[Posting]:
        """What only the report knows, as events to book."""
        return chain.from_iterable(map(postings_of, self.outcomes()))

    def booked_before(self) -> int:
        """How many events the books have that `postings` would be otherwise."""
        return sum(map(booked_before, self.outcomes()))


@contextmanager
def reconcile(source: BinaryIO, books: Books, terms: Terms) -> Iterator[Reconciliation]:
    """Compares the report in a seekable file with the books; the result is valid in the block.

    Raises ReportUnusable, with the places of the file, before the books are asked for anything.
    """
    with open_workspace() as workspace:
        try:
            seen = _read(workspace, source, terms)
            period = _add_period(workspace, books, terms, list(seen.layouts.values()))
            seen.notes += match(workspace, books, has_period=period is not None)
            has_dates = all(layout.has_event_dates for layout in seen.layouts.values())
            tolerance = terms.date_tolerance if has_dates else None
            totals = Totals()
            for outcome in find_outcomes(workspace, date_tolerance=tolerance):
                totals.add(outcome)
            _require_tied(workspace, totals)
        except sqlite3.OperationalError as error:
            if "integer overflow" not in str(error):
                raise
            raise ReportUnusable([Problem(0, "", "its sums do not fit 64 bits")]) from None
        yield Reconciliation(
            layouts=tuple(seen.layouts.values()),
            rows=seen.rows,
            period=period,
            totals=totals,
            left_out=tuple(seen.left_out),
            notes=tuple(seen.notes),
            _workspace=workspace,
            _date_tolerance=tolerance,
        )


def _read(workspace: Workspace, source: BinaryIO, terms: Terms) -> _Read:
    """Reads the whole report into the workspace. Raises ReportUnusable."""
    seen = _Read()
    problems = ProblemList()
    text_file = find_text(source)
    if text_file.note:
        seen.notes.append(text_file.note)
    with closing(read_rows(text_file, terms.layouts, problems)) as rows:
        _read_rows(workspace, rows, terms, problems, seen)
    workspace.flush()
    problems.require_none()
    for column, count, line, text in workspace.damaged_ids():
        cells = "1 id" if count == 1 else f"{count} ids"
        seen.notes.append(
            f"{column}: {cells} damaged by a spreadsheet and not used, first in line {line}: {text}"
        )
    return seen


def _read_rows(
    workspace: Workspace,
    rows: Iterator[Row | LeftOut],
    terms: Terms,
    problems: ProblemList,
    seen: _Read,
) -> None:
    sample = list(islice(rows, _SAMPLE_ROWS))
    first = next((row for row in sample if isinstance(row, Row)), None)
    layout = None if first is None else first.table.layout
    reader = LineReader(
        AmountReader(
            terms.decimal_mark or (layout and layout.decimal_mark) or None,
            is_in_minor_units=bool(layout and layout.is_in_minor_units),
        ),
        currency=terms.currency,
        zone=terms.zone,
        on_damaged_id=workspace.add_damaged_id,
        count_content=workspace.count_content,
    )
    for row in sample:
        if isinstance(row, Row):
            reader.learn(row)
    for row in chain(sample, rows):
        if isinstance(row, LeftOut):
            if len(seen.left_out) < _LEFT_OUT_SHOWN_MAX:
                seen.left_out.append(row)
            continue
        seen.rows += 1
        seen.layouts.setdefault(row.table.layout.name, row.table.layout)
        try:
            for found in reader.read(row):
                workspace.add_line(found)
        except BadCell as error:
            problems.add(row.line, error.column, error.text)


def _add_period(
    workspace: Workspace, books: Books, terms: Terms, layouts: Sequence[Layout]
) -> tuple[datetime, datetime] | None:
    """Adds the events of the report's period. Returns the period, None if there is none."""
    found = workspace.period()
    has_dates = all(layout.has_event_dates for layout in layouts)
    start_at = terms.start_at or (found[0] if found and has_dates else None)
    end_at = terms.end_at or (found[1] if found and has_dates else None)
    if start_at is None or end_at is None or start_at >= end_at:
        return None
    currencies = workspace.currencies()
    prefixes = {layout.event_prefix for layout in layouts}
    if terms.event_prefix is not None:
        prefixes = {terms.event_prefix}
    for prefix in sorted(prefixes):
        events = books.in_period(start_at, end_at, currencies, prefix)
        if events is None:
            return None
        workspace.add_events(events, in_period=True)
    return start_at, end_at


def _require_tied(workspace: Workspace, totals: Totals) -> None:
    """Proves that each line and each event was counted once. Raises RuntimeError."""
    for side, sums in (("report", workspace.line_sums()), ("books", workspace.event_sums())):
        for currency, (count, net_minor) in sums.items():
            whole = (
                totals.whole_report(currency) if side == "report" else totals.whole_books(currency)
            )
            if (whole.count, whole.net_minor) != (count, net_minor):
                raise RuntimeError(
                    f"the outcomes do not add up to the {side}: {whole.count} of {count} in"
                    f" {currency}, {whole.net_minor} of {net_minor}"
                )


__all__ = ["EXPECTED_TYPES", "Reconciliation", "Terms", "reconcile"]
