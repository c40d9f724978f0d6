"""`ledger quarantine list`: lists payloads, and says how many wait and since when."""

from datetime import UTC, datetime, timedelta

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.instants import format_instant
from ledger.cli.output import counted, print_json_lines, print_line, print_table
from ledger.cli.parameters import Duration, Word, address_option, json_lines_option
from ledger.cli.quarantine.views import (
    STATE_PREFIX,
    STATE_WORDS,
    STATES,
    json_of_payload,
    payloads_table,
)
from ledger.cli.words import number_of
from ledger.client.sync_pages import pages_of
from ledger.v1 import ledger_pb2

_OPEN = ("quarantined", "retry_requested", "parked")

HELP = """
List the deliveries that could not be booked, the latest first: those that are
not settled, unless --state or --all asks for others.
"""


@click.command(help=HELP)
@click.option("--endpoint", metavar="NAME", default="", help="Only those of this endpoint.")
@click.option("--processor", metavar="NAME", default="", help="Only those of this processor.")
@click.option(
    "--state",
    "states",
    metavar="STATE",
    type=Word(STATE_PREFIX, STATE_WORDS),
    multiple=True,
    help=f"Only those in this state: {', '.join(STATE_WORDS)}; may be repeated.",
)
@click.option("--all", "every", is_flag=True, help="Also those that are settled.")
@click.option(
    "--reason", metavar="WORDS", default="", help="Only those with this one, UNKNOWN_RESTAURANT."
)
@click.option(
    "--older-than",
    metavar="DURATION",
    type=Duration(),
    help="Only those stored longer ago than this, such as 3d.",
)
@click.option("--oldest-first", is_flag=True, help="Begin with the oldest.")
@json_lines_option
@address_option
def list_payloads(
    endpoint: str,
    processor: str,
    states: tuple[str, ...],
    every: bool,
    reason: str,
    older_than: timedelta | None,
    oldest_first: bool,
    json: bool,
    address: str | None,
) -> None:
    if every and states:
        raise CommandFailure("give --state or --all, not both", exit_status=ExitStatus.USAGE)
    settings = load_client_settings(address)
    words = [] if every else list(dict.fromkeys(states)) or _OPEN
    request = ledger_pb2.ListQuarantinedRequest(
        endpoint=endpoint,
        processor=processor,
        states=[number_of(STATES, word) for word in words],
        reason=reason,
        oldest_first=oldest_first,
    )
    if older_than is not None:
        request.end_at.FromDatetime(datetime.now(UTC) - older_than)
    count = 0
    with connect(settings) as ledger:
        for page in pages_of(ledger.service.ListQuarantined, request):
            count += len(page.payloads)
            if json:
                print_json_lines(map(json_of_payload, page.payloads))
            elif page.payloads:
                print_table(payloads_table(page.payloads))
        if json:
            return
        summary = ledger.service.GetQuarantineSummary(
            ledger_pb2.GetQuarantineSummaryRequest(endpoint=endpoint)
        )
    print_line(counted(count, "payload"))
    if summary.open_count:
        since = format_instant(summary.oldest_created_at)
        print_line(f"not settled: {summary.open_count}, the oldest since {since}")
