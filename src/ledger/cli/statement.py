"""`ledger statement`: what moved a restaurant's balance, and the balances before and after."""

from collections.abc import Iterable, Iterator
from itertools import chain

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.pages import pages_of
from ledger.cli.parameters import (
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
    refuse_two_formats,
    signed_amount,
    write_statement,
)
from ledger.cli.words import number_of, prefix_of, words_of
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
    refuse_two_formats(json=json, as_csv=as_csv)
    request = ledger_pb2.ListEntriesRequest(
        restaurant_id=restaurant,
        currency=currency,
        start_at=start,
        end_at=end,
        entry_types=[number_of(ledger_pb2.EntryType, entry_type) for entry_type in types],
    )
    with connect(settings) as stub:
        pages = pages_of(stub.ListEntries, request)
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
        write_statement(shown, json=json, as_csv=as_csv)


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
