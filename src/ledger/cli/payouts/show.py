"""`ledger payouts show`: a payout, or a payout run with its restaurants."""

from typing import TYPE_CHECKING

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, report
from ledger.cli.output import print_json, print_json_lines, print_table
from ledger.cli.parameters import address_option, json_option
from ledger.cli.payouts.views import (
    history_table,
    items_table,
    json_of_payout,
    json_of_run,
    json_of_run_item,
    payout_table,
    run_items_table,
    run_table,
)
from ledger.client.sync_pages import pages_of
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.client import Ledger

HELP = """
Show a payout with its items and its history, or a payout run with its
restaurants.

--json prints a payout as one object; a run as JSON lines: the run, then each of
its restaurants.
"""


@click.command(help=HELP)
@click.argument("identifier", metavar="ID", help="The id of a payout, or of a payout run.")
@json_option
@address_option
def show(identifier: str, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    with connect(settings) as ledger:
        payout = _payout_or_none(ledger, identifier)
        if payout is None:
            _show_run(ledger, _run_or_failure(ledger, identifier), json=json)
            return
    if json:
        print_json(json_of_payout(payout))
    else:
        print_table(payout_table(payout))
        print_table(items_table(payout))
        print_table(history_table(payout))


def _payout_or_none(ledger: "Ledger", payout_id: str) -> ledger_pb2.Payout | None:
    from ledger.client import NotFound

    try:
        return ledger.get_payout(payout_id)
    except NotFound:
        return None


def _run_or_failure(ledger: "Ledger", identifier: str) -> ledger_pb2.PayoutRun:
    """The payout run. Raises CommandFailure if there is none: no payout has the id either."""
    from ledger.client import NotFound

    try:
        return ledger.get_payout_run(identifier)
    except NotFound:
        raise CommandFailure(
            f"NOT_FOUND PAYOUT_NOT_FOUND: neither a payout nor a payout run has the id {identifier}"
        ) from None


def _show_run(ledger: "Ledger", run: ledger_pb2.PayoutRun, *, json: bool) -> None:
    from ledger.client import LedgerError

    if json:
        print_json_lines([json_of_run(run)])
    else:
        print_table(run_table(run))
    request = ledger_pb2.ListPayoutRunItemsRequest(payout_run_id=run.payout_run_id)
    try:
        for page in pages_of(ledger.service.ListPayoutRunItems, request):
            if json:
                print_json_lines(map(json_of_run_item, page.items))
            elif page.items:
                print_table(run_items_table(page.items, run.currency))
    except LedgerError as error:
        if error.reason != "PAYOUT_RUN_ARCHIVED":
            raise
        report("warning", [error.message])
