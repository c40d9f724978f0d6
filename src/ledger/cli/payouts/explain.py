"""`ledger payouts explain`: which entries a payout counted."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure
from ledger.cli.instants import format_instant
from ledger.cli.output import JsonValue, Table, print_json_lines, print_line, print_table
from ledger.cli.parameters import address_option, json_lines_option
from ledger.cli.payouts.views import json_of_payout, payout_table, retained_parts
from ledger.cli.statement_lines import signed_amount
from ledger.cli.words import amount_of, amount_or_none, word_of
from ledger.client.sync_pages import pages_of
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.client import Ledger

PAYABLE = ledger_pb2.LEDGER_ACCOUNT_RESTAURANT_PAYABLE
HELP = """
Show why a payout has its amount: each of its items with the entries that add up
to it, to the cent. An entry is in one payout, the first that counted it.

--json prints JSON lines: the payout, then each entry.
"""


@click.command(help=HELP)
@click.argument("payout_id", metavar="PAYOUT", help="The payout's id.")
@json_lines_option
@address_option
def explain(payout_id: str, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    with connect(settings) as ledger:
        payout = ledger.get_payout(payout_id)
        sums: dict[int, int] = defaultdict(int)
        if json:
            print_json_lines([json_of_payout(payout)])
            for entries in _pages(ledger, payout_id, None):
                _add(sums, entries)
                print_json_lines(_json_of(entry) for entry in entries)
        else:
            print_table(payout_table(payout))
            for item in payout.items:
                _print_item(ledger, payout, item, sums)
    _check(payout, sums)
    if not json:
        print_line(f"items of {amount_of(sum(sums.values()), payout.currency)} add up")
        if parts := retained_parts(payout):
            kept = ", ".join(f"{name} {amount_of(part, payout.currency)}" for name, part in parts)
            paid = amount_of(payout.amount_minor, payout.currency)
            print_line(f"{kept}, so the payout is {paid}")


def _pages(
    ledger: "Ledger",
    payout_id: str,
    entry_type: "ledger_pb2.EntryType.ValueType | None",
) -> Iterator[list[ledger_pb2.LedgerEntry]]:
    request = ledger_pb2.ListPayoutEntriesRequest(
        payout_id=payout_id, entry_types=[] if entry_type is None else [entry_type]
    )
    for page in pages_of(ledger.service.ListPayoutEntries, request):
        if page.entries:
            yield list(page.entries)


def _print_item(
    ledger: "Ledger",
    payout: ledger_pb2.Payout,
    item: ledger_pb2.PayoutItem,
    sums: dict[int, int],
) -> None:
    name = word_of(ledger_pb2.EntryType, item.type)
    print_line(f"{name} {amount_of(item.amount_minor, payout.currency)}")
    for entries in _pages(ledger, payout.payout_id, item.type):
        _add(sums, entries)
        table = Table(
            ("recorded", "available", "event", payout.currency),
            right=frozenset((payout.currency,)),
            optional=("recorded",),
        )
        for entry in entries:
            table.add(
                format_instant(entry.recorded_at),
                format_instant(entry.available_at) if entry.HasField("available_at") else "at once",
                entry.event_id or entry.payment_id,
                amount_of(signed_amount(entry, PAYABLE) or 0, payout.currency),
            )
        print_table(table)


def _add(sums: dict[int, int], entries: list[ledger_pb2.LedgerEntry]) -> None:
    for entry in entries:
        sums[entry.type] += signed_amount(entry, PAYABLE) or 0


def _check(payout: ledger_pb2.Payout, sums: dict[int, int]) -> None:
    """Raises CommandFailure unless the entries add up to each item."""
    items: dict[int, int] = {item.type: item.amount_minor for item in payout.items}
    for entry_type in items.keys() | sums.keys():
        if items.get(entry_type, 0) != sums.get(entry_type, 0):
            raise CommandFailure(
                f"the entries of {word_of(ledger_pb2.EntryType, entry_type)} add up to"
                f" {sums.get(entry_type, 0)} minor units, and the item is"
                f" {items.get(entry_type, 0)}: run `ledger verify`"
            )


def _json_of(entry: ledger_pb2.LedgerEntry) -> JsonValue:
    signed_minor = signed_amount(entry, PAYABLE) or 0
    return {
        "type": word_of(ledger_pb2.EntryType, entry.type),
        "amount_minor": str(signed_minor),
        "amount": amount_or_none(signed_minor, entry.currency),
        "currency": entry.currency,
        "event_id": entry.event_id or None,
        "payment_id": entry.payment_id or None,
        "payout_id": entry.payout_id or None,
        "occurred_at": format_instant(entry.occurred_at) if entry.HasField("occurred_at") else None,
        "available_at": format_instant(entry.available_at)
        if entry.HasField("available_at")
        else None,
        "recorded_at": format_instant(entry.recorded_at),
        "transaction_id": entry.transaction_id,
    }
