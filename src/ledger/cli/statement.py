"""`ledger statement`: what moved a restaurant's balance, and the balances before and after."""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from itertools import chain
from pathlib import Path
from zoneinfo import ZoneInfo

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.parameters import (
    FileName,
    Month,
    Word,
    address_option,
    csv_option,
    currency_argument,
    json_lines_option,
    period_options,
    restaurant_argument,
)
from ledger.cli.statement_lines import (
    Line,
    Statement,
    signed_amount,
    write_statement,
)
from ledger.cli.words import number_of, prefix_of, words_of
from ledger.client.sync_pages import pages_of
from ledger.v1 import ledger_pb2

ENTRY_TYPE = Word(prefix_of(ledger_pb2.EntryType), words_of(ledger_pb2.EntryType))

HELP = """
Show what moved the balance (available and pending together) of RESTAURANT in
CURRENCY, oldest first, between the balances before and after.

An entry belongs to the period in which it was recorded. --from is in the period
and --to is not: --from 2025-12-01 --to 2026-01-01 is December 2025. With --type
no running balance is shown.

--csv has a row for each entry, between a row opening_balance and a row
closing_balance. --json prints the statement with its balances, then each entry.

--html and --pdf print a page to send to the restaurant, with its dates in
LEDGER_SETTLEMENT_TIMEZONE. --pdf needs the package fpdf2.
"""

_COLUMNS = (
    "recorded_at",
    "type",
    "amount_minor",
    "amount",
    "balance_minor",
    "balance",
    "currency",
    "event_id",
    "payout_id",
    "occurred_at",
    "available_at",
    "transaction_id",
    "payment_id",
)


@click.command(help=HELP)
@restaurant_argument
@currency_argument
@period_options
@click.option(
    "--type",
    "types",
    metavar="TYPE",
    multiple=True,
    type=ENTRY_TYPE,
    help="Only entries of this type; may be repeated.",
)
@click.option(
    "--month",
    metavar="MONTH",
    type=Month(),
    help="A month of LEDGER_SETTLEMENT_TIMEZONE, such as 2025-12, instead of --from and --to.",
)
@json_lines_option
@csv_option
@click.option("--html", is_flag=True, help="Print a page of HTML, to send or to print.")
@click.option("--pdf", is_flag=True, help="Print a PDF, to send.")
@click.option(
    "--font",
    metavar="FILE",
    type=FileName(),
    help="The TrueType font of the PDF.  [default: one with the letters of Western Europe]",
)
@address_option
def statement(
    restaurant: str,
    currency: str,
    start: Timestamp | None,
    end: Timestamp | None,
    types: tuple[str, ...],
    month: tuple[date, date] | None,
    json: bool,
    as_csv: bool,
    html: bool,
    pdf: bool,
    font: Path | None,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    if json + as_csv + html + pdf > 1:
        raise _usage("--json, --csv, --html and --pdf exclude each other")
    if font is not None and not pdf:
        raise _usage("--font is for --pdf")
    if (html or pdf) and types:
        raise _usage("--html and --pdf show all entries: leave --type out")
    if month is not None:
        if start is not None or end is not None:
            raise _usage("--month excludes --from and --to")
        start, end = _bounds_of(month)
    request = ledger_pb2.ListEntriesRequest(
        restaurant_id=restaurant,
        currency=currency,
        start_at=start,
        end_at=end,
        entry_types=[number_of(ledger_pb2.EntryType, entry_type) for entry_type in types],
    )
    with connect(settings) as ledger:
        pages = pages_of(ledger.service.ListEntries, request)
        first = next(pages)
        shown = Statement(
            holder=("restaurant_id", restaurant),
            currency=currency,
            start_at=start,
            end_at=end,
            opening_minor=first.opening_balance_minor,
            closing_minor=first.closing_balance_minor,
            is_filtered=bool(types),
            cause_title="event, payout or payment",
            columns=_COLUMNS,
            pages=_lines_of(request, first, pages),
        )
        if html or pdf:
            asked = ledger_pb2.GetRestaurantRequest(restaurant_id=restaurant)
            name = ledger.service.GetRestaurant(asked).restaurant.name
            _print(shown, name, pdf=pdf, font=font)
        else:
            write_statement(shown, json=json, as_csv=as_csv)


def _usage(sentence: str) -> CommandFailure:
    return CommandFailure(sentence, exit_status=ExitStatus.USAGE)


# Imported when needed: loading all settings takes longer than most calls.
def _settlement_zone() -> ZoneInfo:
    from ledger.cli.configuration import load_settings
    from ledger.zones import settlement_zone

    return settlement_zone(load_settings().settlement_timezone)


def _bounds_of(month: tuple[date, date]) -> tuple[Timestamp, Timestamp | None]:
    """The instants at which the month begins and ends; None for an end in the future."""
    from ledger.domain.payouts import day_bounds

    zone = _settlement_zone()
    begins_at, ends_at = (day_bounds(day, zone)[0] for day in month)
    start, end = Timestamp(), Timestamp()
    start.FromDatetime(begins_at)
    end.FromDatetime(ends_at)
    return start, end if ends_at <= datetime.now(UTC) else None


def _print(shown: Statement, name: str, *, pdf: bool, font: Path | None) -> None:
    from ledger.cli.printed.html import write_html
    from ledger.cli.printed.parts import PrintedStatement, Recipient
    from ledger.cli.printed.pdf import write_pdf

    recipient = Recipient(shown.holder[1], name, _settlement_zone())
    printed = PrintedStatement(shown, recipient, datetime.now(UTC))
    if pdf:
        write_pdf(printed, font)
    else:
        write_html(printed)


def _lines_of(
    request: ledger_pb2.ListEntriesRequest,
    first: ledger_pb2.ListEntriesResponse,
    others: Iterable[ledger_pb2.ListEntriesResponse],
) -> Iterator[list[Line]]:
    """The lines of each page, without empty pages."""
    balance_minor: int | None = None if request.entry_types else first.opening_balance_minor
    for page in chain([first], others):
        lines: list[Line] = []
        for entry in page.entries:
            amount_minor = signed_amount(entry, ledger_pb2.LEDGER_ACCOUNT_RESTAURANT_PAYABLE)
            if balance_minor is not None:
                balance_minor = None if amount_minor is None else balance_minor + amount_minor
            lines.append(Line(entry, amount_minor, balance_minor))
        if lines:
            yield lines
