"""What a reconciliation finds: outcomes with both sides, and totals that tie."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum

from ledger.reconciliation.books import EXPECTED_TYPES, BookEvent, type_of
from ledger.reconciliation.layouts import Kind
from ledger.reconciliation.lines import ReportLine
from ledger.reconciliation.workspace import StoredEvent, StoredLine, Workspace


class OutcomeKind(StrEnum):
    """What was found about lines of the report, or an event of the books."""

    MATCHED = "matched"
    # Matched, but the fee is in the report alone.
    FEE_NOT_BOOKED = "fee_not_booked"
    # Money that went to the platform's bank account, and is not in the books.
    SETTLEMENT_NOT_BOOKED = "settlement_not_booked"
    DIFFERS = "differs"
    MISSING_HERE = "missing_here"
    MISSING_THERE = "missing_there"
    # A copy of an earlier row.
    DUPLICATE_ROW = "duplicate_row"
    # A payout or a total that is not the sum of its lines.
    SUM_DIFFERS = "sum_differs"


# What `--post` can book, since only the report knows it.
ONLY_THE_REPORT_KNOWS = frozenset({OutcomeKind.FEE_NOT_BOOKED, OutcomeKind.SETTLEMENT_NOT_BOOKED})
AGREED = frozenset({OutcomeKind.MATCHED})


@dataclass(frozen=True, slots=True)
class Difference:
    """A thing in which both sides differ, as each has it."""

    field: str
    report: str
    books: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was found. Without lines it is about the books alone, without events about the report.

    `fee_events` are events that are the fee of one of the lines alone.
    """

    kind: OutcomeKind
    lines: tuple[ReportLine, ...] = ()
    event: BookEvent | None = None
    fee_events: tuple[BookEvent, ...] = ()
    differences: tuple[Difference, ...] = ()
    matched_by: str = ""
    note: str = ""
    # Whether a payout is the sum of its lines, where that can be told.
    is_sure: bool = True

    @property
    def cost_not_booked_minor(self) -> int:
        """The part of the lines' cost that the books lack."""
        return sum(line.cost_minor for line in self.lines) - self.books_cost_minor

    @property
    def books_cost_minor(self) -> int:
        return sum(event.cost_minor for event in self.events)

    @property
    def events(self) -> tuple[BookEvent, ...]:
        """The event and the fee events."""
        return self.fee_events if self.event is None else (self.event, *self.fee_events)


@dataclass(slots=True)
class Sums:
    """How many, and how much, in minor units of one currency."""

    count: int = 0
    gross_minor: int = 0
    cost_minor: int = 0
    net_minor: int = 0

    def add(self, gross_minor: int, cost_minor: int, net_minor: int) -> None:
        self.count += 1
        self.gross_minor += gross_minor
        self.cost_minor += cost_minor
        self.net_minor += net_minor

    def add_line(self, line: ReportLine) -> None:
        self.add(line.gross_minor, line.cost_minor, line.net_minor)

    def add_event(self, event: BookEvent) -> None:
        self.add(event.gross_minor, event.cost_minor, event.net_minor)

    def add_sums(self, other: "Sums") -> None:
        self.count += other.count
        self.gross_minor += other.gross_minor
        self.cost_minor += other.cost_minor
        self.net_minor += other.net_minor


@dataclass(slots=True)
class Totals:
    """The sums of both sides by currency and kind of outcome, and how many outcomes there are."""

    report: dict[str, dict[OutcomeKind, Sums]] = field(default_factory=dict)
    books: dict[str, dict[OutcomeKind, Sums]] = field(default_factory=dict)
    outcomes: dict[OutcomeKind, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, outcome: Outcome) -> None:
        """Counts an outcome. Payouts and totals of a report are no lines, and have no sums."""
        self.outcomes[outcome.kind] += 1
        if outcome.kind in (OutcomeKind.SUM_DIFFERS, OutcomeKind.SETTLEMENT_NOT_BOOKED) or (
            outcome.lines and outcome.lines[0].kind is Kind.PAYOUT
        ):
            return
        for line in outcome.lines:
            _sums(self.report, line.currency, outcome.kind).add_line(line)
        for event in outcome.events:
            _sums(self.books, event.currency, outcome.kind).add_event(event)

    def whole_report(self, currency: str) -> Sums:
        """The sum of all lines in a currency."""
        return _whole(self.report, currency)

    def whole_books(self, currency: str) -> Sums:
        """The sum of all events in a currency."""
        return _whole(self.books, currency)

    @property
    def currencies(self) -> list[str]:
        return sorted({*self.report, *self.books})


def _sums(side: dict[str, dict[OutcomeKind, Sums]], currency: str, kind: OutcomeKind) -> Sums:
    return side.setdefault(currency, {}).setdefault(kind, Sums())


def _whole(side: dict[str, dict[OutcomeKind, Sums]], currency: str) -> Sums:
    whole = Sums()
    for sums in side.get(currency, {}).values():
        whole.add_sums(sums)
    return whole


def find_outcomes(workspace: Workspace, *, date_tolerance: timedelta | None) -> Iterator[Outcome]:
    """Every outcome: lines and payouts by their rows, then what is missing there by its instant.

    Dates are compared if there is a tolerance.
    """
    controls = iter(_outcomes_of_controls(workspace))
    waiting = next(controls, None)
    for stored, event, has_fees in workspace.lines_with_events():
        while waiting is not None and waiting.lines[0].row <= stored.line.row:
            yield waiting
            waiting = next(controls, None)
        fees = tuple(workspace.fee_events(stored.id)) if has_fees else ()
        outcome = _outcome_of(workspace, stored, event, fees, date_tolerance)
        if outcome is not None:
            yield outcome
    while waiting is not None:
        yield waiting
        waiting = next(controls, None)
    for missing in workspace.events_missing_there():
        yield Outcome(kind=OutcomeKind.MISSING_THERE, event=missing.event)


def _outcome_of(
    workspace: Workspace,
    stored: StoredLine,
    found: StoredEvent | None,
    fees: tuple[BookEvent, ...],
    date_tolerance: timedelta | None,
) -> Outcome | None:
    """The outcome of a line and all others of its event; None unless it is the first of them."""
    line = stored.line
    if stored.duplicate_of is not None:
        return Outcome(
            kind=OutcomeKind.DUPLICATE_ROW,
            lines=(line,),
            note=f"a copy of line {stored.duplicate_of}",
        )
    if found is None:
        return Outcome(
            kind=OutcomeKind.MISSING_HERE, lines=(line,), fee_events=fees, note=line.note
        )
    if found.first_line != stored.id:
        return None
    lines: tuple[ReportLine, ...] = (line,)
    if found.line_count > 1:
        group = workspace.lines_of(found.id)
        lines = tuple(other.line for other in group)
        fees = tuple(fee for other in group for fee in workspace.fee_events(other.id))
    return _compared(
        Outcome(
            kind=OutcomeKind.MATCHED,
            lines=lines,
            event=found.event,
            fee_events=fees,
            matched_by=stored.matched_by,
            note="; ".join(dict.fromkeys(filter(None, (line.note for line in lines)))),
        ),
        date_tolerance,
    )


def _compared(outcome: Outcome, date_tolerance: timedelta | None) -> Outcome:
    """The outcome of lines and their event, compared."""
    differences = tuple(_differences(outcome, date_tolerance))
    if differences:
        return replace(outcome, kind=OutcomeKind.DIFFERS, differences=differences)
    if outcome.cost_not_booked_minor:
        return replace(outcome, kind=OutcomeKind.FEE_NOT_BOOKED)
    return outcome


def _differences(outcome: Outcome, date_tolerance: timedelta | None) -> Iterator[Difference]:
    """In what the lines and the event differ: currency, amount, fee, date, or a row in itself."""
    event = outcome.event
    if event is None:
        return
    for line in outcome.lines:
        if line.currency != event.currency:
            yield Difference("currency", line.currency, event.currency)
            return
    gross = sum(line.gross_minor for line in outcome.lines)
    if gross != event.gross_minor:
        yield Difference("amount", str(gross), str(event.gross_minor))
    cost = sum(line.cost_minor for line in outcome.lines)
    # Books without any fee only lack it; with another one they contradict the report.
    if cost != outcome.books_cost_minor and outcome.books_cost_minor:
        yield Difference("fee", str(cost), str(outcome.books_cost_minor))
    first = outcome.lines[0]
    if date_tolerance is not None and first.occurred_at is not None:
        earliest = first.occurred_at - date_tolerance
        latest = first.occurred_at + first.exact_to + date_tolerance
        if not earliest <= event.occurred_at <= latest:
            yield Difference("date", first.occurred_at.isoformat(), event.occurred_at.isoformat())
    for line in outcome.lines:
        if line.untied_minor:
            yield Difference("row", str(line.net_minor), str(line.net_minor + line.untied_minor))


def _outcomes_of_controls(workspace: Workspace) -> Iterator[Outcome]:
    """Payouts that are booked or not, and groups whose payout or total is not their sum."""
    for control, rest_minor in workspace.controls():
        if rest_minor:
            sums = Difference("sum", str(control.net_minor), str(_due(control, rest_minor)))
            yield Outcome(kind=OutcomeKind.SUM_DIFFERS, lines=(control,), differences=(sums,))
        if control.kind is Kind.PAYOUT and control.net_minor:
            yield _outcome_of_payout(workspace, control, is_tied=not rest_minor)


def _due(control: ReportLine, rest_minor: int) -> int:
    """What the control sum would be if it were that of its lines."""
    sign = -1 if control.kind is Kind.TOTAL else 1
    return control.net_minor - sign * rest_minor


def _outcome_of_payout(workspace: Workspace, payout: ReportLine, *, is_tied: bool) -> Outcome:
    wanted = type_of(Kind.PAYOUT, payout.net_minor)
    found = workspace.events_by_id(payout.event_ids)
    for event_id in payout.event_ids:
        stored = found.get(event_id)
        if stored is None or stored.event.type != wanted:
            continue
        differences = []
        if stored.event.currency != payout.currency:
            differences.append(Difference("currency", payout.currency, stored.event.currency))
        elif stored.event.gross_minor != payout.net_minor:
            differences.append(
                Difference("amount", str(payout.net_minor), str(stored.event.gross_minor))
            )
        return Outcome(
            kind=OutcomeKind.DIFFERS if differences else OutcomeKind.MATCHED,
            lines=(payout,),
            event=stored.event,
            differences=tuple(differences),
            matched_by="id",
        )
    return Outcome(
        kind=OutcomeKind.SETTLEMENT_NOT_BOOKED,
        lines=(payout,),
        note="" if is_tied else "not the sum of its lines",
        is_sure=is_tied,
    )


def is_expected(event: BookEvent) -> bool:
    """Whether the report should have a line for the event."""
    return event.type in EXPECTED_TYPES
