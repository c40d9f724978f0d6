"""`ledger payouts run`: starts a payout run, or finds the one that the same words started, and waits for its end."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import Annotated

import grpc
import typer
from google.type import date_pb2
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ledger.cli.configuration import AddressOption, load_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.output import JsonOption, print_json, print_table
from ledger.cli.payout_views import json_of_run, run_table
from ledger.cli.refusals import refusal_of_call
from ledger.domain.money import INT64_MAX
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

WAIT_TIMEOUT_SECONDS = 600.0
_POLL_SECONDS_MIN = 0.05
_POLL_SECONDS_MAX = 1.0
_POLL_FACTOR = 1.5

HELP = """
Pay out every restaurant of CURRENCY what it may be paid by the end of a date, and wait until that is done.

The date is one of the server's settlement time zone and is not guessed: --as-of is required. What has matured by its end counts,
or by now if it is today there; refunds, disputes and fees count at once.

The same date, minimum and request id name the same run: the same command again starts nothing and shows that run. With
--request-id it starts another, to pay again what failed, for example. What is paid or under way for a date is never paid
again for it.

Exit status: 0 once the run has ended, 1 if it was refused, 3 if nobody answers or the time is over: the run goes on at the
servers then, and the same command waits for it again.
"""


def run_payouts(
    currency: Annotated[str, typer.Argument(metavar="CURRENCY", help="ISO 4217 code in upper case, such as PEN.")],
    as_of: Annotated[str, typer.Option("--as-of", metavar="DATE", help="The date to pay out by, such as 2025-12-01.")],
    min_amount_minor: Annotated[
        int, typer.Option("--min", metavar="AMOUNT_MINOR", min=0, max=INT64_MAX, help="Pay no less than this, in minor units.")
    ] = 0,
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="Tells runs of one date apart.", show_default=False)
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what a run would do, and write nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Whether to wait until the run has ended.")] = True,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout-seconds", min=0, help="How long to wait at the most.")
    ] = WAIT_TIMEOUT_SECONDS,
    json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    settings = load_settings(address)
    request = ledger_pb2.RunPayoutsRequest(
        currency=currency,
        as_of=_parse_date(as_of),
        min_amount_minor=min_amount_minor,
        request_id=request_id,
        dry_run=dry_run,
    )
    with connect(settings) as stub:
        run = stub.RunPayouts(request).payout_run
        if wait and not dry_run:
            with _progress_bar(run) as on_progress:
                run = wait_for_run(stub, run, timeout_seconds=timeout_seconds, on_progress=on_progress)
    if json:
        print_json(json_of_run(run))
    else:
        print_table(run_table(run))


def wait_for_run(
    stub: "ledger_pb2_grpc.LedgerServiceStub",
    run: ledger_pb2.PayoutRun,
    *,
    timeout_seconds: float,
    on_progress: Callable[[ledger_pb2.PayoutRun], None],
) -> ledger_pb2.PayoutRun:
    """The run once it has ended; `on_progress` is told how it stands meanwhile.

    Servers that do not answer are asked again: the run is in the database, and any of them goes on with it. Raises
    CommandFailure when the time is over, or on Ctrl-C; grpc.RpcError for a refusal that would not pass.
    """
    deadline = time.monotonic() + timeout_seconds
    request = ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id)
    pause_seconds = _POLL_SECONDS_MIN
    try:
        while run.state == ledger_pb2.PAYOUT_RUN_STATE_RUNNING:
            on_progress(run)
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                raise CommandFailure(
                    f"the run has not ended within {timeout_seconds:g} s",
                    *_goes_on(run),
                    exit_status=ExitStatus.UNREACHABLE,
                )
            time.sleep(min(pause_seconds, left_seconds))
            pause_seconds = min(pause_seconds * _POLL_FACTOR, _POLL_SECONDS_MAX)
            try:
                run = stub.GetPayoutRun(request).payout_run
            except grpc.RpcError as error:
                if not refusal_of_call(error).is_retryable:
                    raise
    except KeyboardInterrupt:
        raise CommandFailure("interrupted", *_goes_on(run), exit_status=ExitStatus.INTERRUPTED) from None
    return run


def _parse_date(text: str) -> date_pb2.Date:
    try:
        # The library takes more spellings than people agree on.
        found = date.fromisoformat(text) if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        found = None
    if found is None:
        raise CommandFailure(f"--as-of must be a date such as 2025-12-01 (it is {text!r})", exit_status=ExitStatus.USAGE)
    return date_pb2.Date(year=found.year, month=found.month, day=found.day)


@contextmanager
def _progress_bar(run: ledger_pb2.PayoutRun) -> Iterator[Callable[[ledger_pb2.PayoutRun], None]]:
    """A bar on standard error while the block runs, if that is a terminal."""
    columns = (BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f} restaurants"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("payouts", total=run.restaurants_total)
        yield lambda seen: progress.update(task, completed=seen.restaurants_considered)


def _goes_on(run: ledger_pb2.PayoutRun) -> tuple[str, str]:
    return (
        f"run {run.payout_run_id} had considered {run.restaurants_considered} of {run.restaurants_total} restaurants",
        "it goes on at the servers; the same command again waits for it, and `ledger payouts show` tells how it stands",
    )
