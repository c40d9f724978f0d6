"""`ledger events list`, `find` and `show`."""

from typing import TYPE_CHECKING, Any

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.events.views import (
    entries_table,
    event_table,
    events_table,
    json_of_entry,
    json_of_event,
    json_of_listed_event,
    posted_table,
)
from ledger.cli.instants import format_instant
from ledger.cli.output import counted, print_json, print_json_lines, print_line, print_table
from ledger.cli.parameters import (
    Instant,
    Word,
    address_option,
    json_lines_option,
    json_option,
)
from ledger.cli.words import number_of, prefix_of, words_of
from ledger.client.sync_pages import pages_of
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

EVENT_TYPE = Word(prefix_of(ledger_pb2.EventType), words_of(ledger_pb2.EventType))
LIST_HELP = """
List events, the latest first; with --prefix in the order of their ids.

--entries shows what each posted, and the payout that took it.
"""
FIND_HELP = """
Show all events with the reference REFERENCE, such as a payment's id, with the
entries that they posted and the payout that took each of these.
"""
SHOW_HELP = """
Show the event EVENT with the entries that it posted.
"""


def _list_filters(function: Any) -> Any:
    """Adds the options that say which events to list."""
    for option in (
        click.option(
            "--to", "end", metavar="INSTANT", type=Instant(), help="Events recorded before this."
        ),
        click.option(
            "--from",
            "start",
            metavar="INSTANT",
            type=Instant(),
            help="Events recorded at or after this.",
        ),
        click.option(
            "--prefix", metavar="PREFIX", default="", help="Events whose id begins with this."
        ),
        click.option("--currency", metavar="CURRENCY", default="", help="Events of this currency."),
        click.option(
            "--type",
            "types",
            metavar="TYPE",
            type=EVENT_TYPE,
            multiple=True,
            help="Events of this type; may be repeated.",
        ),
        click.option(
            "--restaurant", metavar="RESTAURANT", default="", help="Events of this restaurant."
        ),
    ):
        function = option(function)
    return function


@click.command(help=LIST_HELP)
@_list_filters
@click.option("--entries", "with_entries", is_flag=True, help="Show the entries of each event.")
@json_lines_option
@address_option
def list_events(
    restaurant: str,
    types: tuple[str, ...],
    currency: str,
    prefix: str,
    start: "Timestamp | None",
    end: "Timestamp | None",
    with_entries: bool,
    json: bool,
    address: str | None,
) -> None:
    request = ledger_pb2.ListEventsRequest(
        restaurant_id=restaurant,
        types=[number_of(ledger_pb2.EventType, word) for word in types],
        currency=currency,
        event_id_prefix=prefix,
        start_at=start,
        end_at=end,
        with_entries=with_entries,
    )
    _print_list(request, json=json, address=address)


@click.command(help=FIND_HELP)
@click.argument("reference", metavar="REFERENCE", help="The reference, byte by byte.")
@json_lines_option
@address_option
def find(reference: str, json: bool, address: str | None) -> None:
    request = ledger_pb2.ListEventsRequest(reference=reference, with_entries=True)
    _print_list(request, json=json, address=address)


@click.command(help=SHOW_HELP)
@click.argument("event", metavar="EVENT", help="The event's id.")
@json_option
@address_option
def show(event: str, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    with connect(settings) as ledger:
        response = ledger.get_event(event)
    recorded_at = format_instant(response.recorded_at)
    if json:
        print_json(
            {
                **json_of_event(response.event),
                "transaction_id": response.transaction_id,
                "recorded_at": recorded_at,
                "entries": [json_of_entry(entry) for entry in response.entries],
            }
        )
        return
    print_table(event_table(response.event, response.transaction_id, recorded_at))
    if response.entries:
        print_table(posted_table(response.entries, response.event.currency))


def _print_list(request: ledger_pb2.ListEventsRequest, *, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    count = 0
    with connect(settings) as ledger:
        for page in pages_of(ledger.service.ListEvents, request):
            count += len(page.events)
            payouts = {payout.payout_id: payout for payout in page.payouts}
            if json:
                print_json_lines(json_of_listed_event(listed, payouts) for listed in page.events)
            elif page.events:
                print_table(events_table(page.events))
                # The amounts of a table are of one currency.
                currencies = {listed.event.currency for listed in page.events if listed.entries}
                for currency in sorted(currencies):
                    entries = [
                        entry
                        for listed in page.events
                        if listed.event.currency == currency
                        for entry in listed.entries
                    ]
                    print_table(entries_table(entries, payouts, currency))
    if not json:
        print_line(counted(count, "event"))
