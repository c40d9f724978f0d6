"""`ledger payouts submit`: fixes which payouts go to the bank."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.output import print_json, print_table
from ledger.cli.parameters import WholeNumber, address_option, json_option
from ledger.cli.payouts.views import json_of_submission, submission_table
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    pass

Decorator = TypeVar("Decorator", bound=Callable[..., Any])

HELP = """
Mark payouts as handed over to the bank, under an id of yours: those of a run
that are created, or those that you name. The same command again changes nothing
and shows the same submission.

`ledger payouts export --submit SUBMISSION` writes its list.
"""


def contents_options(function: Decorator) -> Decorator:
    """Adds what a submission is made of: --payout and --max. --run is the command's."""
    named = click.option(
        "--payout",
        "payout_ids",
        metavar="PAYOUT",
        multiple=True,
        help="Submit this payout; may be repeated, up to 1,000 times.",
    )
    most = click.option(
        "--max",
        "payouts_max",
        metavar="NUMBER",
        type=WholeNumber(1, 100_000),
        help="Take at most this many of the run.  [default: 100,000]",
    )
    return named(most(function))


@click.command(help=HELP)
@click.argument("submission_id", metavar="SUBMISSION", help="An id of yours, used once.")
@click.option(
    "--run", "payout_run_id", metavar="RUN", default="", help="Submit the payouts of this run."
)
@contents_options
@json_option
@address_option
def submit(
    submission_id: str,
    payout_run_id: str,
    payout_ids: tuple[str, ...],
    payouts_max: int | None,
    json: bool,
    address: str | None,
) -> None:
    request = submission_request(submission_id, payout_run_id, payout_ids, payouts_max)
    if request is None:
        raise CommandFailure("give --run or --payout", exit_status=ExitStatus.USAGE)
    settings = load_client_settings(address)
    with connect(settings) as ledger:
        response = ledger.service.SubmitPayouts(request)
    if json:
        print_json(json_of_submission(response))
    else:
        print_table(submission_table(response))


def submission_request(
    submission_id: str, payout_run_id: str, payout_ids: Sequence[str], payouts_max: int | None
) -> ledger_pb2.SubmitPayoutsRequest | None:
    """The request that the options make; None without contents. Raises CommandFailure."""
    if payout_run_id and payout_ids:
        raise CommandFailure("give --run or --payout, not both", exit_status=ExitStatus.USAGE)
    if payouts_max is not None and not payout_run_id:
        raise CommandFailure("--max needs --run", exit_status=ExitStatus.USAGE)
    if not payout_run_id and not payout_ids:
        return None
    return ledger_pb2.SubmitPayoutsRequest(
        submission_id=submission_id,
        payout_run_id=payout_run_id,
        payout_ids=payout_ids,
        payouts_max=payouts_max or 0,
    )
