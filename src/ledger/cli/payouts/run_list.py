"""`ledger payouts runs` and `cancel`."""

from typing import TYPE_CHECKING

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure
from ledger.cli.output import counted, print_json, print_json_lines, print_line, print_table
from ledger.cli.parameters import Word, address_option, json_lines_option, json_option
from ledger.cli.payouts.views import (
    json_of_listed_run,
    json_of_payout,
    json_of_run,
    payout_table,
    run_table,
    runs_table,
)
from ledger.cli.words import number_of, prefix_of, words_of
from ledger.client.sync_pages import pages_of
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.client import Ledger

# Without PLANNED, the state of a dry run, which is stored nowhere.
RUN_STATE = Word(
    prefix_of(ledger_pb2.PayoutRunState),
    words_of(ledger_pb2.PayoutRunState, without=(ledger_pb2.PAYOUT_RUN_STATE_PLANNED,)),
)

RUNS_HELP = """
List payout runs, the latest first. `ledger payouts show RUN` shows the progress
of a run and what it paid.
"""

CANCEL_HELP = """
End a payout run that is under way, or cancel a payout that was not submitted to
the bank. May be repeated.

What a run has paid stays paid; the restaurants that it has not considered are
skipped as canceled. The amount of a canceled payout is available again at once.

Exit status: 1 if the run has succeeded already, or the payout was submitted or
answered.
"""


@click.command(help=RUNS_HELP)
@click.option("--currency", metavar="CURRENCY", default="", help="Only those of this currency.")
@click.option(
    "--state",
    metavar="STATE",
    type=RUN_STATE,
    help=f"Only those in this state: {', '.join(RUN_STATE.words)}.",
)
@json_lines_option
@address_option
def list_runs(currency: str, state: str | None, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    request = ledger_pb2.ListPayoutRunsRequest(currency=currency)
    if state is not None:
        request.state = number_of(ledger_pb2.PayoutRunState, state)
    count = 0
    with connect(settings) as ledger:
        for page in pages_of(ledger.service.ListPayoutRuns, request):
            count += len(page.payout_runs)
            if json:
                print_json_lines(map(json_of_listed_run, page.payout_runs))
            elif page.payout_runs:
                print_table(runs_table(page.payout_runs))
    if not json:
        print_line(counted(count, "run"))


@click.command(help=CANCEL_HELP)
@click.argument("identifier", metavar="ID", help="The id of a payout run, or of a payout.")
@json_option
@address_option
def cancel(identifier: str, json: bool, address: str | None) -> None:
    from ledger.client import NotFound

    settings = load_client_settings(address)
    with connect(settings) as ledger:
        try:
            run = ledger.cancel_payout_run(identifier)
        except NotFound:
            run = None
        if run is None:
            payout = _cancel_payout(ledger, identifier)
    if run is None:
        if json:
            print_json(json_of_payout(payout))
        else:
            print_table(payout_table(payout))
    elif json:
        print_json(json_of_run(run))
    else:
        print_table(run_table(run))


def _cancel_payout(ledger: "Ledger", payout_id: str) -> ledger_pb2.Payout:
    """Cancels a payout. Raises CommandFailure if there is none: no run has the id either."""
    from ledger.client import NotFound

    try:
        return ledger.cancel_payout(payout_id)
    except NotFound:
        raise CommandFailure(
            f"NOT_FOUND PAYOUT_NOT_FOUND: neither a payout run nor a payout has the id {payout_id}"
        ) from None
