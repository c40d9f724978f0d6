"""`ledger accounts statement`: what moved what an account has available."""

from collections.abc import Iterable, Iterator
from itertools import chain

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.parameters import (
    account_argument,
    address_option,
    csv_option,
    json_lines_option,
    period_options,
)
from ledger.cli.statement import ENTRY_TYPE
from ledger.cli.statement_lines import (
    Line,
    Statement,
    refuse_two_formats,
    signed_amount,
    write_statement,
)
from ledger.cli.words import number_of
from ledger.client.sync_pages import pages_of
from ledger.v1 import account_pb2, ledger_pb2

HELP = """
Show what moved what ACCOUNT has available, oldest first, between the balances
before and after. A hold takes an amount out, a release brings it back; the
capture of a hold moves nothing more.

An entry belongs to the period in which it was recorded. --from is in the period
and --to is not. With --type or --payment no running balance is shown.

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
    "payment_id",
    "transaction_id",
)


@click.command(help=HELP)
@account_argument
@period_options
@click.option(
    "--type",
    "types",
    metavar="TYPE",
    multiple=True,
    type=ENTRY_TYPE,
    help="Only entries of this type; may be repeated.",
)
@click.option("--payment", metavar="PAYMENT", default="", help="Only entries of this payment.")
@json_lines_option
@csv_option
@address_option
def statement(
    account: str,
    start: Timestamp | None,
    end: Timestamp | None,
    types: tuple[str, ...],
    payment: str,
    json: bool,
    as_csv: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    refuse_two_formats(json=json, as_csv=as_csv)
    request = account_pb2.ListAccountEntriesRequest(
        account_id=account,
        start_at=start,
        end_at=end,
        entry_types=[number_of(ledger_pb2.EntryType, entry_type) for entry_type in types],
        payment_id=payment,
    )
    with connect(settings) as ledger:
        # A page without entries says nothing of the currency.
        found = ledger.get_account(account)
        pages = pages_of(ledger.accounts.ListAccountEntries, request)
        first = next(pages)
        shown = Statement(
            holder=("account_id", account),
            currency=found.currency,
            start_at=start,
            end_at=end,
            opening_minor=first.opening_balance_minor,
            closing_minor=first.closing_balance_minor,
            is_filtered=bool(types or payment),
            cause_title="payment",
            columns=_COLUMNS,
            pages=_lines_of(chain([first], pages)),
        )
        write_statement(shown, json=json, as_csv=as_csv)


def _lines_of(pages: Iterable[account_pb2.ListAccountEntriesResponse]) -> Iterator[list[Line]]:
    """The lines of each page, without empty pages."""
    for page in pages:
        lines = [
            Line(
                shown.entry,
                signed_amount(shown.entry, ledger_pb2.LEDGER_ACCOUNT_ACCOUNT_FUNDS),
                shown.balance_minor if shown.HasField("balance_minor") else None,
            )
            for shown in page.entries
        ]
        if lines:
            yield lines
