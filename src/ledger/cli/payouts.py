"""`ledger payouts`: puts its subcommands together, and shows and lists payouts."""

from enum import StrEnum
from typing import Annotated

import grpc
import typer

from ledger.cli import payout_answers, payout_export, payout_runs
from ledger.cli.configuration import AddressOption, load_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure
from ledger.cli.output import JsonOption, print_json, print_json_lines, print_line, print_table
from ledger.cli.payout_pages import payout_pages, run_item_pages
from ledger.cli.payout_views import (
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
from ledger.v1 import ledger_pb2, ledger_pb2_grpc


class StateOption(StrEnum):
    """The states of a payout, as people write them."""

    CREATED = "created"
    PAID = "paid"
    FAILED = "failed"
    RETURNED = "returned"


def show(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="The id of a payout, or of a payout run.")],
    json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Show a payout with its items and its history, or a payout run with its restaurants.

    With --json a run is JSON lines: the run, then each of its restaurants.
    """
    settings = load_settings(address)
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


def list_payouts(
    restaurant: Annotated[str, typer.Option("--restaurant", help="Only this restaurant's.", show_default=False)] = "",
    state: Annotated[StateOption | None, typer.Option("--state", help="Only those in this state.")] = None,
    payout_run_id: Annotated[str, typer.Option("--run", metavar="RUN", help="Only those of this run.", show_default=False)] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines, for programs.")] = False,
    address: AddressOption = None,
) -> None:
    """List payouts, the latest first."""
    settings = load_settings(address)
    request = ledger_pb2.ListPayoutsRequest(restaurant_id=restaurant, payout_run_id=payout_run_id, state=_state_number(state))
    count = 0
    with connect(settings) as stub:
        for page in payout_pages(stub, request):
            count += len(page)
            if json:
                print_json_lines(json_of_payout(payout) for payout in page)
            elif page:
                print_table(payouts_table(page))
    if not json:
        print_line(f"{count} payouts")


def _payout_or_none(stub: "ledger_pb2_grpc.LedgerServiceStub", payout_id: str) -> ledger_pb2.Payout | None:
    try:
        return stub.GetPayout(ledger_pb2.GetPayoutRequest(payout_id=payout_id)).payout
    except grpc.RpcError as error:
        if refusal_of_call(error).reason != "PAYOUT_NOT_FOUND":
            raise
    return None


def _run_or_failure(stub: "ledger_pb2_grpc.LedgerServiceStub", identifier: str) -> ledger_pb2.PayoutRun:
    try:
        return stub.GetPayoutRun(ledger_pb2.GetPayoutRunRequest(payout_run_id=identifier)).payout_run
    except grpc.RpcError as error:
        if refusal_of_call(error).reason != "PAYOUT_RUN_NOT_FOUND":
            raise
    raise CommandFailure(f"NOT_FOUND PAYOUT_NOT_FOUND: neither a payout nor a payout run has the id {identifier}")


def _show_run(stub: "ledger_pb2_grpc.LedgerServiceStub", run: ledger_pb2.PayoutRun, *, json: bool) -> None:
    if json:
        print_json_lines([json_of_run(run)])
    else:
        print_table(run_table(run))
    for page in run_item_pages(stub, run.payout_run_id):
        if json:
            print_json_lines(json_of_run_item(item) for item in page)
        elif page:
            print_table(run_items_table(page, run.currency))


def _state_number(state: StateOption | None) -> ledger_pb2.PayoutState.ValueType:
    return ledger_pb2.PAYOUT_STATE_UNSPECIFIED if state is None else ledger_pb2.PayoutState.Value(f"PAYOUT_STATE_{state.name}")


app = typer.Typer(no_args_is_help=True)
app.command("run", help=payout_runs.HELP)(payout_runs.run_payouts)
app.command("show")(show)
app.command("list")(list_payouts)
app.command("paid")(payout_answers.paid)
app.command("failed")(payout_answers.failed)
app.command("export", help=payout_export.HELP)(payout_export.export)
