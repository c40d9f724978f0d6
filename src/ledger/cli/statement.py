"""`ledger statement`: what moved a restaurant's balance, and the balances before and after."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.instants import format_instant
from ledger.cli.output import CsvWriter, JsonValue, Table, print_json_lines, print_line, print_table
from ledger.cli.pages import pages_of
from ledger.cli.parameters import (
    Instant,
    Word,
    address_option,
    csv_option,
    currency_argument,
    json_lines_option,
    restaurant_argument,
)
from ledger.cli.words import (
    amount_of,
    amount_or_none,
    number_of,
    prefix_of,
    word_of,
    words_of,
)
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
"""

_CSV_COLUMNS = (
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
)


@dataclass(frozen=True, slots=True)
class Line:
    """An entry with its signed amount, and the balance after it if all entries are shown.

    The amount is None for an entry between accounts that only a newer server knows, and so are the
    balances from there on.
    """

    entry: ledger_pb2.LedgerEntry
    amount_minor: int | None
    balance_minor: int | None


@click.command(help=HELP)
@restaurant_argument
@currency_argument
@click.option(
    "--from",
    "start",
    metavar="INSTANT",
    type=Instant(),
    help="Entries recorded at or after this.  [default: from the first entry]",
)
@click.option(
    "--to",
    "end",
    metavar="INSTANT",
    type=Instant(),
    help="Entries recorded before this; not in the future.  [default: now]",
)
@click.option(
    "--type",
    "types",
    metavar="TYPE",
    multiple=True,
    type=ENTRY_TYPE,
    help="Only entries of this type; may be repeated.",
)
@json_lines_option
@csv_option
@address_option
def statement(
    restaurant: str,
    currency: str,
    start: Timestamp | None,
    end: Timestamp | None,
    types: tuple[str, ...],
    json: bool,
    as_csv: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    if json and as_csv:
        raise CommandFailure("--json and --csv exclude each other", exit_status=ExitStatus.USAGE)
    request = ledger_pb2.ListEntriesRequest(
        restaurant_id=restaurant,
        currency=currency,
        start_at=start,
        end_at=end,
        entry_types=[number_of(ledger_pb2.EntryType, entry_type) for entry_type in types],
    )
    write = _write_json if json else _write_csv if as_csv else _write_tables
    with connect(settings) as stub:
        pages = pages_of(stub.ListEntries, request)
        first = next(pages)
        write(request, first, _lines_of(request, first, pages))
    # Now, so that a full disk sets the exit status.
    sys.stdout.flush()


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
            amount_minor = _signed_amount(entry)
            if balance_minor is not None:
                balance_minor = None if amount_minor is None else balance_minor + amount_minor
            lines.append(Line(entry, amount_minor, balance_minor))
        if lines:
            yield lines


def _signed_amount(entry: ledger_pb2.LedgerEntry) -> int | None:
    """What the entry added to the balance; None if only a newer command knows its accounts."""
    if entry.credit_account == ledger_pb2.LEDGER_ACCOUNT_RESTAURANT_PAYABLE:
        return entry.amount_minor
    if entry.debit_account == ledger_pb2.LEDGER_ACCOUNT_RESTAURANT_PAYABLE:
        return -entry.amount_minor
    return None


def _write_tables(
    request: ledger_pb2.ListEntriesRequest,
    first: ledger_pb2.ListEntriesResponse,
    pages: Iterable[list[Line]],
) -> None:
    currency = request.currency
    print_line(f"{request.restaurant_id}, {currency}, {_period(request)}")
    print_line(f"opening balance {amount_of(first.opening_balance_minor, currency)}")
    count = 0
    with_balance = () if request.entry_types else ("balance",)
    for lines in pages:
        count += len(lines)
        titles = ("recorded", "type", "amount", *with_balance, "event or payout")
        table = Table(titles, right=frozenset(("amount", "balance")), optional=("recorded",))
        for line in lines:
            balance = () if request.entry_types else (_shown(line.balance_minor, currency),)
            cause = line.entry.event_id or line.entry.payout_id
            recorded = format_instant(line.entry.recorded_at)
            table.add(
                recorded,
                _type_name(line.entry),
                _shown(line.amount_minor, currency),
                *balance,
                cause,
            )
        print_table(table)
    print_line(f"closing balance {amount_of(first.closing_balance_minor, currency)}")
    print_line(f"{count} entries")


def _write_csv(
    request: ledger_pb2.ListEntriesRequest,
    first: ledger_pb2.ListEntriesResponse,
    pages: Iterable[list[Line]],
) -> None:
    rows = CsvWriter(sys.stdout, _CSV_COLUMNS)
    rows.write(
        {
            "type": "opening_balance",
            **_balance_fields(first.opening_balance_minor, request.currency),
        }
    )
    for lines in pages:
        for line in lines:
            rows.write(_fields_of(line))
    rows.write(
        {
            "type": "closing_balance",
            **_balance_fields(first.closing_balance_minor, request.currency),
        }
    )


def _write_json(
    request: ledger_pb2.ListEntriesRequest,
    first: ledger_pb2.ListEntriesResponse,
    pages: Iterable[list[Line]],
) -> None:
    head: dict[str, JsonValue] = {
        "restaurant_id": request.restaurant_id,
        "currency": request.currency,
        "start_at": format_instant(request.start_at) if request.HasField("start_at") else None,
        "end_at": format_instant(request.end_at) if request.HasField("end_at") else None,
        "opening_balance_minor": str(first.opening_balance_minor),
        "opening_balance": amount_or_none(first.opening_balance_minor, request.currency),
        "closing_balance_minor": str(first.closing_balance_minor),
        "closing_balance": amount_or_none(first.closing_balance_minor, request.currency),
    }
    print_json_lines([head])
    for lines in pages:
        print_json_lines(_fields_of(line) for line in lines)


def _period(request: ledger_pb2.ListEntriesRequest) -> str:
    start = (
        f"from {format_instant(request.start_at)}"
        if request.HasField("start_at")
        else "from the first entry"
    )
    return f"{start} to {format_instant(request.end_at) if request.HasField('end_at') else 'now'}"


def _type_name(entry: ledger_pb2.LedgerEntry) -> str:
    return word_of(ledger_pb2.EntryType, entry.type)


def _shown(amount_minor: int | None, currency: str) -> str:
    return "" if amount_minor is None else amount_of(amount_minor, currency)


def _balance_fields(balance_minor: int, currency: str) -> dict[str, JsonValue]:
    return {
        "balance_minor": str(balance_minor),
        "balance": amount_or_none(balance_minor, currency),
        "currency": currency,
    }


def _fields_of(line: Line) -> dict[str, JsonValue]:
    """An entry by the names of _CSV_COLUMNS; None where it has no value."""
    entry, amount_minor, balance_minor = line.entry, line.amount_minor, line.balance_minor
    return {
        "recorded_at": format_instant(entry.recorded_at),
        "type": _type_name(entry),
        "amount_minor": None if amount_minor is None else str(amount_minor),
        "amount": None if amount_minor is None else amount_or_none(amount_minor, entry.currency),
        "balance_minor": None if balance_minor is None else str(balance_minor),
        "balance": None if balance_minor is None else amount_or_none(balance_minor, entry.currency),
        "currency": entry.currency,
        "event_id": entry.event_id or None,
        "payout_id": entry.payout_id or None,
        "occurred_at": format_instant(entry.occurred_at) if entry.HasField("occurred_at") else None,
        "available_at": format_instant(entry.available_at)
        if entry.HasField("available_at")
        else None,
        "transaction_id": entry.transaction_id,
    }
