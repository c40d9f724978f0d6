"""Shows a reconciliation: tables for people, CSV and JSON lines for programs."""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice

from ledger.cli.output import (
    CsvWriter,
    JsonValue,
    Table,
    counted,
    instant_text,
    print_json_lines,
    print_line,
    print_table,
)
from ledger.cli.reconcile.posting import Posted
from ledger.cli.words import amount_of
from ledger.domain.money import format_minor
from ledger.reconciliation.books import BookEvent
from ledger.reconciliation.lines import ReportLine
from ledger.reconciliation.outcomes import (
    AGREED,
    ONLY_THE_REPORT_KNOWS,
    Difference,
    Outcome,
    OutcomeKind,
    Sums,
    Totals,
)
from ledger.reconciliation.postings import Posting
from ledger.reconciliation.reconcile import Reconciliation

# The minor units of these differences become amounts.
_AMOUNTS = ("amount", "fee", "sum", "row")
_COLUMNS = (
    "outcome",
    "differs_in",
    "matched_by",
    "report_line",
    "report_lines",
    "report_type",
    "report_id",
    "report_at",
    "report_currency",
    "report_gross",
    "report_fee",
    "report_net",
    "event_id",
    "event_type",
    "restaurant_id",
    "reference",
    "books_at",
    "books_currency",
    "books_gross",
    "books_fee",
    "books_net",
    "note",
)
_POSTING_COLUMNS = (
    "event_id",
    "event_type",
    "restaurant_id",
    "currency",
    "amount_minor",
    "amount",
    "occurred_at",
    "reference",
    "report_line",
)
OUTCOME_WORDS = {
    OutcomeKind.MATCHED: "matched",
    OutcomeKind.FEE_NOT_BOOKED: "fee not booked",
    OutcomeKind.SETTLEMENT_NOT_BOOKED: "settlement not booked",
    OutcomeKind.DIFFERS: "differs",
    OutcomeKind.MISSING_HERE: "missing here",
    OutcomeKind.MISSING_THERE: "missing there",
    OutcomeKind.DUPLICATE_ROW: "duplicate row",
    OutcomeKind.SUM_DIFFERS: "sum differs",
}


def print_result(name: str, result: Reconciliation, shown_max: int | None) -> None:
    """Prints totals by currency, what does not agree, and what that means."""
    layouts = ", ".join(layout.title for layout in result.layouts)
    print_line(f"{name}: {layouts}, {counted(result.rows, 'row')}")
    for note in notes_of(result):
        print_line(f"note: {note}")
    for currency in result.totals.currencies:
        print_table(_totals_table(result.totals, currency))
    open_outcomes = (o for o in result.outcomes() if o.kind not in AGREED)
    table = Table(("line", "found", "report", "books", "remark"), right=frozenset({"line"}))
    for outcome in islice(open_outcomes, shown_max):
        table.add(*_cells_of(outcome))
    if table.rows:
        print_table(table)
    left = sum(_open_counts(result.totals).values()) - len(table.rows)
    if left:
        print_line(f"{left} more; --breaks all shows them, and --csv writes all")
    print_line(_conclusion(result))


def notes_of(result: Reconciliation) -> Iterator[str]:
    """What a reader should know before the numbers."""
    yield from result.notes
    for lines in result.left_out:
        place = (
            f"line {lines.first_line}"
            if lines.first_line == lines.last_line
            else f"lines {lines.first_line} to {lines.last_line}"
        )
        yield f"{place} left out: {lines.why}"
    if result.period is None:
        yield "events that are missing there were not looked for"
    else:
        start, end = map(instant_text, result.period)
        yield f"events of {start} to {end} are expected in the report"


def _totals_table(totals: Totals, currency: str) -> Table:
    titles = (currency, "lines", "gross", "fee", "net", "events", "gross ", "fee ", "net ")
    table = Table(titles, right=frozenset(titles[1:]))
    report, books = totals.report.get(currency, {}), totals.books.get(currency, {})
    for kind, word in OUTCOME_WORDS.items():
        if kind in report or kind in books:
            sides = (report.get(kind, Sums()), books.get(kind, Sums()))
            table.add(word, *_sum_cells(sides, currency))
    sides = (totals.whole_report(currency), totals.whole_books(currency))
    table.footer = ("total", *_sum_cells(sides, currency))
    return table


def _sum_cells(sides: Iterable[Sums], currency: str) -> Iterator[str]:
    for sums in sides:
        yield str(sums.count)
        for amount_minor in (sums.gross_minor, sums.cost_minor, sums.net_minor):
            yield format_minor(amount_minor, currency)


def _cells_of(outcome: Outcome) -> tuple[str, str, str, str, str]:
    remarks = [_difference_text(outcome, difference) for difference in outcome.differences]
    return (
        ", ".join(str(line.row) for line in outcome.lines),
        OUTCOME_WORDS[outcome.kind],
        "; ".join(map(_line_text, outcome.lines)),
        "; ".join(map(_event_text, outcome.events)),
        "; ".join(filter(None, (*remarks, outcome.note))),
    )


def _line_text(line: ReportLine) -> str:
    name = line.row_id or (line.references[0] if line.references else "")
    return " ".join(
        filter(
            None,
            (
                line.word,
                name,
                _amount_text(line.gross_minor, line.cost_minor, line.currency),
                line.currency,
            ),
        )
    )


def _event_text(event: BookEvent) -> str:
    amount = _amount_text(event.gross_minor, event.cost_minor, event.currency)
    return f"{event.event_id} {event.type} {amount} {event.currency}"


def _amount_text(gross_minor: int, cost_minor: int, currency: str) -> str:
    gross = amount_of(gross_minor, currency)
    if not cost_minor:
        return gross
    fee = f"fee {amount_of(cost_minor, currency)}"
    return f"{gross} {fee}" if gross_minor else fee


def _difference_text(outcome: Outcome, difference: Difference) -> str:
    report, books = difference.report, difference.books
    if difference.field in _AMOUNTS:
        currency = outcome.lines[0].currency
        report, books = (format_minor(int(amount), currency) for amount in (report, books))
    match difference.field:
        case "sum":
            return f"it is {report}, where its lines make {books}"
        case "row":
            return f"the row says {report} net, and its parts make {books}"
    return f"{difference.field}: {report} there, {books} here"


def _open_counts(totals: Totals) -> dict[OutcomeKind, int]:
    return {
        kind: totals.outcomes[kind]
        for kind in OUTCOME_WORDS
        if kind not in AGREED and totals.outcomes.get(kind)
    }


def _conclusion(result: Reconciliation) -> str:
    if result.agrees:
        return "report and books agree"
    found = [
        f"{count} {OUTCOME_WORDS[kind]}" for kind, count in _open_counts(result.totals).items()
    ]
    if any(lines.matters for lines in result.left_out):
        found.append("lines left out")
    text = f"report and books do not agree: {', '.join(found)}"
    if any(result.totals.outcomes.get(kind) for kind in ONLY_THE_REPORT_KNOWS):
        text += "; --post books what only the report knows"
    return text


def print_csv(result: Reconciliation, *, with_matched: bool) -> None:
    """Prints a row for each outcome."""
    rows = CsvWriter(sys.stdout, _COLUMNS)
    for outcome in _chosen(result, with_matched=with_matched):
        rows.write(_row_of(outcome))
    sys.stdout.flush()


def print_json(
    name: str, result: Reconciliation, posted: Posted | None, *, with_matched: bool
) -> None:
    """Prints the totals and what was posted, then each outcome, an object a line."""
    print_json_lines([{**_json_of_result(name, result), "posted": _json_of_posted(posted)}])
    print_json_lines(_json_of(outcome) for outcome in _chosen(result, with_matched=with_matched))


def _chosen(result: Reconciliation, *, with_matched: bool) -> Iterator[Outcome]:
    return (o for o in result.outcomes() if with_matched or o.kind not in AGREED)


def _row_of(outcome: Outcome) -> dict[str, object]:
    row: dict[str, object] = {
        "outcome": outcome.kind.value,
        "differs_in": " ".join(difference.field for difference in outcome.differences),
        "matched_by": outcome.matched_by,
        "note": outcome.note,
    }
    if outcome.lines:
        first = outcome.lines[0]
        sums = Sums()
        for line in outcome.lines:
            sums.add_line(line)
        row |= {
            "report_line": first.row,
            "report_lines": " ".join(str(line.row) for line in outcome.lines),
            "report_type": first.word,
            "report_id": first.row_id,
            "report_at": None if first.occurred_at is None else instant_text(first.occurred_at),
            "report_currency": first.currency,
            **_amounts("report", sums, first.currency),
        }
    if outcome.events:
        event = outcome.events[0]
        sums = Sums()
        for booked in outcome.events:
            sums.add_event(booked)
        row |= {
            "event_id": event.event_id,
            "event_type": event.type,
            "restaurant_id": event.restaurant_id,
            "reference": event.reference,
            "books_at": instant_text(event.occurred_at),
            "books_currency": event.currency,
            **_amounts("books", sums, event.currency),
        }
    return row


def _amounts(side: str, sums: Sums, currency: str) -> dict[str, object]:
    return {
        f"{side}_gross": format_minor(sums.gross_minor, currency),
        f"{side}_fee": format_minor(sums.cost_minor, currency),
        f"{side}_net": format_minor(sums.net_minor, currency),
    }


def _json_of_result(name: str, result: Reconciliation) -> dict[str, JsonValue]:
    period = result.period
    return {
        "file": name,
        "layouts": [layout.name for layout in result.layouts],
        "rows": str(result.rows),
        "agrees": result.agrees,
        "period_start_at": None if period is None else instant_text(period[0]),
        "period_end_at": None if period is None else instant_text(period[1]),
        "outcomes": {
            kind.value: str(count) for kind, count in sorted(result.totals.outcomes.items())
        },
        "totals": {
            currency: {
                "report": _json_of_side(result.totals.report.get(currency, {})),
                "books": _json_of_side(result.totals.books.get(currency, {})),
            }
            for currency in result.totals.currencies
        },
        "notes": list(notes_of(result)),
    }


def _json_of_posted(posted: Posted | None) -> JsonValue:
    if posted is None:
        return None
    return {
        "created": str(posted.created),
        "duplicates": str(posted.duplicates),
        "refused": str(posted.refused),
    }


def _json_of_side(side: dict[OutcomeKind, Sums]) -> JsonValue:
    whole = Sums()
    for sums in side.values():
        whole.add_sums(sums)
    return {
        **{kind.value: _json_of_sums(side[kind]) for kind in OUTCOME_WORDS if kind in side},
        "total": _json_of_sums(whole),
    }


def _json_of_sums(sums: Sums) -> JsonValue:
    return {
        "count": str(sums.count),
        "gross_minor": str(sums.gross_minor),
        "fee_minor": str(sums.cost_minor),
        "net_minor": str(sums.net_minor),
    }


def _json_of(outcome: Outcome) -> JsonValue:
    return {
        "outcome": outcome.kind.value,
        "matched_by": outcome.matched_by or None,
        "differences": [
            {"field": found.field, "report": found.report, "books": found.books}
            for found in outcome.differences
        ],
        "report": [_json_of_line(line) for line in outcome.lines],
        "books": [_json_of_event(event) for event in outcome.events],
        "note": outcome.note or None,
    }


def _json_of_line(line: ReportLine) -> JsonValue:
    return {
        "line": line.row,
        "type": line.word,
        "kind": line.kind.value,
        "id": line.row_id or None,
        "currency": line.currency,
        "gross_minor": str(line.gross_minor),
        "fee_minor": str(line.cost_minor),
        "net_minor": str(line.net_minor),
        "occurred_at": None if line.occurred_at is None else instant_text(line.occurred_at),
        "references": list(line.references),
        "event_ids": list(line.event_ids),
    }


def _json_of_event(event: BookEvent) -> JsonValue:
    return {
        "event_id": event.event_id,
        "event_type": event.type,
        "restaurant_id": event.restaurant_id or None,
        "currency": event.currency,
        "gross_minor": str(event.gross_minor),
        "fee_minor": str(event.cost_minor),
        "net_minor": str(event.net_minor),
        "occurred_at": instant_text(event.occurred_at),
        "reference": event.reference or None,
    }


def print_postings(postings: Iterable[Posting], *, as_csv: bool, json: bool) -> None:
    """Prints what `--post` would book."""
    if as_csv:
        rows = CsvWriter(sys.stdout, _POSTING_COLUMNS)
        for posting in postings:
            rows.write(_posting_row(posting))
        sys.stdout.flush()
    elif json:
        print_json_lines(map(_json_of_posting, postings))
    else:
        table = Table(
            ("event", "type", "restaurant", "amount", "currency", "occurred", "line"),
            right=frozenset({"amount", "line"}),
        )
        for posting in postings:
            row = _posting_row(posting)
            table.add(
                *(
                    str(row[name])
                    for name in (
                        "event_id",
                        "event_type",
                        "restaurant_id",
                        "amount",
                        "currency",
                        "occurred_at",
                        "report_line",
                    )
                )
            )
        if table.rows:
            print_table(table)
        print_line(f"{counted(len(table.rows), 'event')} would be booked")


def _posting_row(posting: Posting) -> dict[str, object]:
    return {
        "event_id": posting.event_id,
        "event_type": posting.type,
        "restaurant_id": posting.restaurant_id,
        "currency": posting.currency,
        "amount_minor": posting.amount_minor,
        "amount": format_minor(posting.amount_minor, posting.currency),
        "occurred_at": instant_text(posting.occurred_at),
        "reference": posting.reference,
        "report_line": posting.row,
    }


def _json_of_posting(posting: Posting) -> JsonValue:
    return {
        "event_id": posting.event_id,
        "event_type": posting.type,
        "restaurant_id": posting.restaurant_id,
        "currency": posting.currency,
        "amount_minor": str(posting.amount_minor),
        "occurred_at": instant_text(posting.occurred_at),
        **({"reference": posting.reference} if posting.reference else {}),
    }
