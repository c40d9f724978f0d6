"""`ledger payouts show` and `list`."""

import time
from typing import TYPE_CHECKING

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, report
from ledger.cli.instants import format_instant
from ledger.cli.output import print_json, print_json_lines, print_line, print_table
from ledger.cli.pages import pages_of
from ledger.cli.parameters import Word, address_option, json_lines_option, json_option
from ledger.cli.payouts.views import (
    history_table,
    items_table,
    json_of_payout,
    json_of_run,
    json_of_run_item,
    payout_table,
    payouts_table,
    run_items_table,
    run_table,
)
from ledger.cli.refusals import refusal_of_call
from ledger.cli.words import number_of, prefix_of, words_of
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.v1 import ledger_pb2_grpc

# The default of the server's setting for the audit; the command cannot know the setting itself.
OLD_DAYS = 5
OLD_SECONDS = OLD_DAYS * 86_400

PAYOUT_STATE = Word(prefix_of(ledger_pb2.PayoutState), words_of(ledger_pb2.PayoutState))

SHOW_HELP = """
Show a payout with its items and its history, or a payout run with its
restaurants.

--json prints a payout as one object; a run as JSON lines: the run, then each of
its restaurants.
"""


@click.command(help=SHOW_HELP)
@click.argument("identifier", metavar="ID", help="The id of a payout, or of a payout run.")
@json_option
@address_option
def show(identifier: str, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    with connect(settings) as stub:
        payout = _payout_or_none(stub, identifier)
        if payout is None:
            _show_run(stub, _run_or_failure(stub, identifier), json=json)
            return
    if json:
        print_json(json_of_payout(payout))
    else:
        print_table(payout_table(payout))
        print_table(items_table(payout))
        print_table(history_table(payout))


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


def _payout_or_none(
    stub: "ledger_pb2_grpc.LedgerServiceStub", payout_id: str
) -> ledger_pb2.Payout | None:
    import grpc

    try:
        return stub.GetPayout(ledger_pb2.GetPayoutRequest(payout_id=payout_id)).payout
    except grpc.RpcError as error:
        if refusal_of_call(error).reason != "PAYOUT_NOT_FOUND":
            raise
    return None


def _run_or_failure(
    stub: "ledger_pb2_grpc.LedgerServiceStub", identifier: str
) -> ledger_pb2.PayoutRun:
    """The payout run. Raises CommandFailure if there is none: no payout has the id either."""
    import grpc

    try:
        return stub.GetPayoutRun(
            ledger_pb2.GetPayoutRunRequest(payout_run_id=identifier)
        ).payout_run
    except grpc.RpcError as error:
        if refusal_of_call(error).reason != "PAYOUT_RUN_NOT_FOUND":
            raise
    raise CommandFailure(
        f"NOT_FOUND PAYOUT_NOT_FOUND: neither a payout nor a payout run has the id {identifier}"
    )


def _show_run(
    stub: "ledger_pb2_grpc.LedgerServiceStub", run: ledger_pb2.PayoutRun, *, json: bool
) -> None:
    import grpc

    if json:
        print_json_lines([json_of_run(run)])
    else:
        print_table(run_table(run))
    request = ledger_pb2.ListPayoutRunItemsRequest(payout_run_id=run.payout_run_id)
    try:
        for page in pages_of(stub.ListPayoutRunItems, request):
            if json:
                print_json_lines(map(json_of_run_item, page.items))
            elif page.items:
                print_table(run_items_table(page.items, run.currency))
    except grpc.RpcError as error:
        refusal = refusal_of_call(error)
        if refusal.reason != "PAYOUT_RUN_ARCHIVED":
            raise
        report("warning", [refusal.message])
