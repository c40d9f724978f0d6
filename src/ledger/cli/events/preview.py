"""`ledger events preview`: what the events of a file would post."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.events.views import event_type, json_of_entry, posted_table
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.ingest.batches import read_batches
from ledger.cli.ingest.fields import InvalidLine
from ledger.cli.ingest.lines import parse_event_line
from ledger.cli.ingest.source import open_source
from ledger.cli.output import JsonValue, counted, print_json_lines, print_line, print_table
from ledger.cli.parameters import address_option, json_lines_option
from ledger.cli.payouts.views import payout_state
from ledger.cli.words import word_of
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.client import Ledger

HELP = """
Show what booking the events of FILE would do, one JSON object a line as
`ledger ingest` reads them; - reads standard input. Nothing is written.

Each event is looked at by itself, as if the others of the file were not booked.

Exit status: 0 if every event would be booked or is a duplicate, 1 if any would
be refused.
"""


@click.command(help=HELP)
@click.argument("file", metavar="FILE", help="The file, or - for standard input.")
@json_lines_option
@address_option
def preview(file: str, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    refused = 0
    with open_source(file) as (source, _), connect(settings) as ledger:
        for batch in read_batches(source, parse_event_line, batch_size=1):
            for line in batch.lines:
                shown, entries = _preview(ledger, line.content)
                refused += shown["status"] == "refused"
                if json:
                    print_json_lines([{"line": line.number, **shown}])
                else:
                    _print(line.number, line.content, shown, entries)
    if refused:
        raise CommandFailure(
            f"{counted(refused, 'event')} would be refused", exit_status=ExitStatus.REFUSED
        )


def _preview(
    ledger: "Ledger", content: ledger_pb2.ProcessorEvent | InvalidLine
) -> tuple[dict[str, JsonValue], Sequence[ledger_pb2.LedgerEntry]]:
    """What would happen to the event of a line, and its entries.

    Raises LedgerError without an answer.
    """
    from ledger.client import LedgerError

    if isinstance(content, InvalidLine):
        return {
            "event_id": content.line_id or None,
            "status": "refused",
            "reason": f"INVALID_ARGUMENT INVALID_LINE {content}",
        }, ()
    try:
        response = ledger.preview_event(content)
    except LedgerError as error:
        if error.is_retryable or not error.reason:
            raise
        return {"event_id": content.event_id, "status": "refused", "reason": str(error)}, ()
    return {
        "event_id": content.event_id,
        "status": word_of(ledger_pb2.IngestStatus, response.status),
        "registers_restaurant": response.registers_restaurant,
        "payout_state": payout_state(response.payout_state) if response.payout_state else None,
        "transaction_id": response.transaction_id or None,
        "entries": [json_of_entry(entry) for entry in response.entries],
    }, response.entries


def _print(
    number: int,
    content: ledger_pb2.ProcessorEvent | InvalidLine,
    shown: dict[str, JsonValue],
    entries: Sequence[ledger_pb2.LedgerEntry],
) -> None:
    if isinstance(content, InvalidLine) or shown["status"] == "refused":
        print_line(f"line {number}: {shown['event_id'] or ''} refused: {shown['reason']}")
        return
    words = [f"line {number}: {content.event_id} {event_type(content)}: {shown['status']}"]
    if shown["registers_restaurant"]:
        words.append(f"registers {content.restaurant_id}")
    if shown["payout_state"]:
        words.append(f"payout {content.payout_id} {shown['payout_state']}")
    print_line(", ".join(words))
    if entries:
        print_table(posted_table(entries, content.currency))
