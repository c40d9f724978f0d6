"""`ledger statement`: what moved a restaurant's balance over a period, between the balances before and after."""

import csv
import json as json_text
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table

from ledger.cli.configuration import AddressOption, load_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.instants import INSTANT_RULE, format_instant, parse_instant
from ledger.cli.output import JsonValue, print_line, print_table
from ledger.domain.money import format_minor
from ledger.domain.posting_rules import EntryType
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

PAGE_SIZE = 1000

HELP = """
Show what moved the balance (available and pending together) of RESTAURANT in CURRENCY, oldest first, between the balances before
and after.

The period is of the times of recording, its beginning in it and its end not. A date stands for its first instant in UTC:
`--from 2025-12-01 --to 2026-01-01` is December 2025. The running balance is shown when all entries are, that is without --type.

--csv has one row for each entry, between a row OPENING_BALANCE and a row CLOSING_BALANCE. --json is JSON lines: the statement
with its balances, then each entry.
"""

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
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
    """An entry as a statement tells it: signed as it moved the balance, and the balance after it if all entries are shown."""

    entry: ledger_pb2.LedgerEntry
    amount_minor: int
    balance_minor: int | None


def statement(
    restaurant: Annotated[str, typer.Argument(metavar="RESTAURANT", help="The restaurant's id.")],
    currency: Annotated[str, typer.Argument(metavar="CURRENCY", help="ISO 4217 code in upper case, such as PEN.")],
    start: Annotated[
        str | None, typer.Option("--from", metavar="INSTANT|DATE", help="Recorded at or after it. Default: from the first.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="INSTANT|DATE", help="Recorded before it, not in the future. Default: now.")
    ] = None,
    types: Annotated[
        list[EntryType] | None,
        typer.Option("--type", case_sensitive=False, help="Only entries of this type; may be repeated.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines, for programs.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
    address: AddressOption = None,
) -> None:
    settings = load_settings(address)
    if json and as_csv:
        raise CommandFailure("--json and --csv exclude each other", exit_status=ExitStatus.USAGE)
    request = ledger_pb2.ListEntriesRequest(
        restaurant_id=restaurant,
        currency=currency,
        start_at=_parse_bound("--from", start),
        end_at=_parse_bound("--to", end),
        entry_types=[ledger_pb2.EntryType.Value(f"ENTRY_TYPE_{entry_type.name}") for entry_type in types or ()],
        page_size=PAGE_SIZE,
    )
    write = _write_json if json else _write_csv if as_csv else _write_tables
    with connect(settings) as stub:
        # Page by page: however many entries there are, only one page of them is held.
        pages = _pages(stub, request)
        first = next(pages)
        write(request, first, _lines_of(request, first, pages))
    # So that a full disk is told by the exit status.
    sys.stdout.flush()


def _parse_bound(option: str, text: str | None) -> Timestamp | None:
    if text is None:
        return None
    try:
        return parse_instant(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)
    except ValueError:
        raise CommandFailure(f"{option} {INSTANT_RULE}, or a date", exit_status=ExitStatus.USAGE) from None


def _pages(
    stub: "ledger_pb2_grpc.LedgerServiceStub", request: ledger_pb2.ListEntriesRequest
) -> Iterator[ledger_pb2.ListEntriesResponse]:
    """The pages of the statement, at least one."""
    wanted = ledger_pb2.ListEntriesRequest()
    wanted.CopyFrom(request)
    while True:
        page = stub.ListEntries(wanted)
        yield page
        wanted.page_token = page.next_page_token
        if not wanted.page_token:
            return


def _lines_of(
    request: ledger_pb2.ListEntriesRequest,
    first: ledger_pb2.ListEntriesResponse,
    others: Iterable[ledger_pb2.ListEntriesResponse],
) -> Iterator[list[Line]]:
    """The lines of each page that has any."""
    balance_minor = first.opening_balance_minor
    for page in chain([first], others):
        lines: list[Line] = []
        for entry in page.entries:
            is_credit = entry.credit_account == ledger_pb2.LEDGER_ACCOUNT_RESTAURANT_PAYABLE
            amount_minor = entry.amount_minor if is_credit else -entry.amount_minor
            balance_minor += amount_minor
            lines.append(Line(entry, amount_minor, None if request.entry_types else balance_minor))
        if lines:
            yield lines


def _write_tables(
    request: ledger_pb2.ListEntriesRequest, first: ledger_pb2.ListEntriesResponse, pages: Iterable[list[Line]]
) -> None:
    currency = request.currency
    print_line(f"{request.restaurant_id}, {currency}, {_period(request)}")
    print_line(f"opening balance {format_minor(first.opening_balance_minor, currency)}")
    count = 0
    for lines in pages:
        count += len(lines)
        table = Table("recorded", "type")
        table.add_column("amount", justify="right")
        if not request.entry_types:
            table.add_column("balance", justify="right")
        table.add_column("event or payout")
        for line in lines:
            balance = () if line.balance_minor is None else (format_minor(line.balance_minor, currency),)
            cause = line.entry.event_id or line.entry.payout_id
            amount = format_minor(line.amount_minor, currency)
            table.add_row(format_instant(line.entry.recorded_at), _type_name(line.entry), amount, *balance, cause)
        print_table(table)
    print_line(f"closing balance {format_minor(first.closing_balance_minor, currency)}")
    print_line(f"{count} entries")


def _write_csv(
    request: ledger_pb2.ListEntriesRequest, first: ledger_pb2.ListEntriesResponse, pages: Iterable[list[Line]]
) -> None:
    rows = csv.DictWriter(sys.stdout, _CSV_COLUMNS, restval="", lineterminator="\n")
    rows.writeheader()
    rows.writerow({"type": "OPENING_BALANCE", **_balance_fields(first.opening_balance_minor, request.currency)})
    for lines in pages:
        rows.writerows({name: value for name, value in _fields_of(line).items() if value is not None} for line in lines)
    rows.writerow({"type": "CLOSING_BALANCE", **_balance_fields(first.closing_balance_minor, request.currency)})


def _write_json(
    request: ledger_pb2.ListEntriesRequest, first: ledger_pb2.ListEntriesResponse, pages: Iterable[list[Line]]
) -> None:
    head: dict[str, JsonValue] = {
        "restaurant_id": request.restaurant_id,
        "currency": request.currency,
        "start_at": format_instant(request.start_at) if request.HasField("start_at") else None,
        "end_at": format_instant(request.end_at) if request.HasField("end_at") else None,
        "opening_balance_minor": first.opening_balance_minor,
        "opening_balance": format_minor(first.opening_balance_minor, request.currency),
        "closing_balance_minor": first.closing_balance_minor,
        "closing_balance": format_minor(first.closing_balance_minor, request.currency),
    }
    print_line(json_text.dumps(head))
    for lines in pages:
        for line in lines:
            sys.stdout.write(json_text.dumps(_fields_of(line)) + "\n")


def _period(request: ledger_pb2.ListEntriesRequest) -> str:
    start = f"from {format_instant(request.start_at)}" if request.HasField("start_at") else "from the first entry"
    return f"{start} to {format_instant(request.end_at) if request.HasField('end_at') else 'now'}"


def _type_name(entry: ledger_pb2.LedgerEntry) -> str:
    return ledger_pb2.EntryType.Name(entry.type).removeprefix("ENTRY_TYPE_")


def _balance_fields(balance_minor: int, currency: str) -> dict[str, JsonValue]:
    return {"balance_minor": balance_minor, "balance": format_minor(balance_minor, currency), "currency": currency}


def _fields_of(line: Line) -> dict[str, JsonValue]:
    """An entry by the names of _CSV_COLUMNS; what it lacks is None."""
    entry = line.entry
    balance_minor = line.balance_minor
    return {
        "recorded_at": format_instant(entry.recorded_at),
        "type": _type_name(entry),
        "amount_minor": line.amount_minor,
        "amount": format_minor(line.amount_minor, entry.currency),
        "balance_minor": balance_minor,
        "balance": None if balance_minor is None else format_minor(balance_minor, entry.currency),
        "currency": entry.currency,
        "event_id": entry.event_id or None,
        "payout_id": entry.payout_id or None,
        "occurred_at": format_instant(entry.occurred_at) if entry.HasField("occurred_at") else None,
        "available_at": format_instant(entry.available_at) if entry.HasField("available_at") else None,
        "transaction_id": entry.transaction_id,
    }
