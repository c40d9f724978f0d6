"""`ledger payouts list`: lists payouts, and counts those that wait for the bank too long."""

import time

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.instants import format_instant
from ledger.cli.output import print_json_lines, print_line, print_table
from ledger.cli.pages import pages_of
from ledger.cli.parameters import Word, address_option, json_lines_option
from ledger.cli.payouts.views import json_of_payout, payouts_table
from ledger.cli.words import number_of, prefix_of, words_of
from ledger.v1 import ledger_pb2

# The default of LEDGER_PAYOUT_ANSWER_DAYS: the command cannot know what the servers have set.
OLD_DAYS = 5
OLD_SECONDS = OLD_DAYS * 86_400

PAYOUT_STATE = Word(prefix_of(ledger_pb2.PayoutState), words_of(ledger_pb2.PayoutState))


@click.command(help="List payouts, the latest first.")
@click.option("--restaurant", metavar="RESTAURANT", default="", help="Only this restaurant's.")
@click.option(
    "--state",
    metavar="STATE",
    type=PAYOUT_STATE,
    help=f"Only those in this state: {', '.join(PAYOUT_STATE.words)}.",
)
@click.option("--run", "payout_run_id", metavar="RUN", default="", help="Only those of this run.")
@json_lines_option
@address_option
def list_payouts(
    restaurant: str, state: str | None, payout_run_id: str, json: bool, address: str | None
) -> None:
    settings = load_client_settings(address)
    request = ledger_pb2.ListPayoutsRequest(restaurant_id=restaurant, payout_run_id=payout_run_id)
    if state is not None:
        request.state = number_of(ledger_pb2.PayoutState, state)
    count = 0
    old_count = 0
    oldest: ledger_pb2.Payout | None = None
    old_before = time.time() - OLD_SECONDS
    with connect(settings) as stub:
        for page in pages_of(stub.ListPayouts, request):
            count += len(page.payouts)
            old = [
                payout
                for payout in page.payouts
                if payout.state == ledger_pb2.PAYOUT_STATE_CREATED
                and payout.created_at.seconds < old_before
            ]
            old_count += len(old)
            # The list begins with the latest, so the last one is the oldest.
            oldest = old[-1] if old else oldest
            if json:
                print_json_lines(map(json_of_payout, page.payouts))
            elif page.payouts:
                print_table(payouts_table(page.payouts))
    if not json:
        print_line(f"{count} payouts")
        if oldest is not None:
            since = format_instant(oldest.created_at)
            print_line(
                f"{old_count} of them have waited for the bank's answer for more than"
                f" {OLD_DAYS} days, the oldest since {since}"
            )
