"""`ledger payouts list`: lists payouts, and counts those that wait for the bank too long."""

import time
from datetime import UTC, datetime, timedelta

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.instants import format_instant
from ledger.cli.output import print_json_lines, print_line, print_table
from ledger.cli.parameters import Duration, Instant, Word, address_option, json_lines_option
from ledger.cli.payouts.views import json_of_payout, payouts_table
from ledger.cli.words import number_of, prefix_of, words_of
from ledger.client.sync_pages import pages_of
from ledger.v1 import ledger_pb2

# The default of LEDGER_PAYOUT_ANSWER_DAYS: the command cannot know what the servers have set.
OLD_DAYS = 5
OLD_SECONDS = OLD_DAYS * 86_400

_UNANSWERED = (ledger_pb2.PAYOUT_STATE_CREATED, ledger_pb2.PAYOUT_STATE_SUBMITTED)
PAYOUT_STATE = Word(prefix_of(ledger_pb2.PayoutState), words_of(ledger_pb2.PayoutState))


@click.command(help="List payouts, the latest first.")
@click.option("--restaurant", metavar="RESTAURANT", default="", help="Only this restaurant's.")
@click.option(
    "--state",
    "states",
    metavar="STATE",
    type=PAYOUT_STATE,
    multiple=True,
    help=f"Only those in this state: {', '.join(PAYOUT_STATE.words)}; may be repeated.",
)
@click.option("--run", "payout_run_id", metavar="RUN", default="", help="Only those of this run.")
@click.option("--submission", metavar="SUBMISSION", default="", help="Only those of this one.")
@click.option("--currency", metavar="CURRENCY", default="", help="Only those in this currency.")
@click.option(
    "--from", "start", metavar="INSTANT", type=Instant(), help="Created at or after this."
)
@click.option("--to", "end", metavar="INSTANT", type=Instant(), help="Created before this.")
@click.option(
    "--older-than",
    metavar="DURATION",
    type=Duration(),
    help="Only those without an answer of the bank, created longer ago than this, such as 3d.",
)
@json_lines_option
@address_option
def list_payouts(
    restaurant: str,
    states: tuple[str, ...],
    payout_run_id: str,
    submission: str,
    currency: str,
    start: Timestamp | None,
    end: Timestamp | None,
    older_than: timedelta | None,
    json: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    request = ledger_pb2.ListPayoutsRequest(
        restaurant_id=restaurant,
        payout_run_id=payout_run_id,
        submission_id=submission,
        currency=currency,
        start_at=start,
        end_at=end,
    )
    numbers = [number_of(ledger_pb2.PayoutState, state) for state in dict.fromkeys(states)]
    # One state by the field that servers have known for longer.
    if len(numbers) == 1:
        request.state = numbers[0]
    else:
        request.states.extend(numbers)
    if older_than is not None:
        request.unanswered_since.FromDatetime(datetime.now(UTC) - older_than)
    count = 0
    old_count = 0
    oldest: ledger_pb2.Payout | None = None
    old_before = time.time() - OLD_SECONDS
    with connect(settings) as ledger:
        for page in pages_of(ledger.service.ListPayouts, request):
            count += len(page.payouts)
            old = [
                payout
                for payout in page.payouts
                if payout.state in _UNANSWERED and payout.created_at.seconds < old_before
            ]
            old_count += len(old)
            # The list begins with the latest, so the last one is the oldest.
            oldest = old[-1] if old else oldest
            if json:
                print_json_lines(map(json_of_payout, page.payouts))
            elif page.payouts:
                print_table(payouts_table(page.payouts))
    if not json:
        print_line("1 payout" if count == 1 else f"{count} payouts")
        if oldest is not None:
            since = format_instant(oldest.created_at)
            print_line(
                f"{old_count} of them have waited for the bank's answer for more than"
                f" {OLD_DAYS} days, the oldest since {since}"
            )
