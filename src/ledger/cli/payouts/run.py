"""`ledger payouts run`: starts a payout run or finds it again, and waits until it ends."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus, report
from ledger.cli.output import print_json, print_table
from ledger.cli.parameters import (
    FileName,
    Seconds,
    SettlementDate,
    WholeNumber,
    address_option,
    currency_argument,
    date_message,
    json_option,
    minor_units,
)
from ledger.cli.payouts.views import (
    json_of_run,
    json_of_run_item,
    run_items_table,
    run_table,
)
from ledger.cli.words import amount_of
from ledger.domain.fields import ID_LENGTH_MAX
from ledger.limits import RUN_RESTAURANTS_MAX
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.client import Ledger

WAIT_TIMEOUT_SECONDS = 600.0
_POLL_SECONDS_MIN = 0.05
_POLL_SECONDS_MAX = 1.0
_POLL_FACTOR = 1.5
# Room for as many ids as a run may name, of any length, with ends of lines.
_FILE_CHARACTERS_MAX = RUN_RESTAURANTS_MAX * (ID_LENGTH_MAX + 2)

HELP = """
Pay every restaurant of CURRENCY, or those named, what it may be paid by the end
of a date, and wait until the run ends.

--as-of is required; the date is one of the server's settlement time zone. What
has matured by the end of that date counts, or by now if the date is today.
Refunds, disputes and fees count at once.

The same date, minimum, request id and restaurants name the same run: the same
command again starts nothing and shows that run. Another --request-id starts
another run, for example to pay again what failed. A restaurant that has a payout
for a date, paid or under way, gets no second one for it.

--dry-run with --restaurant shows what a run would pay each restaurant, and why
not more.

Exit status: 0 once every restaurant was considered; 1 if the run was refused or
canceled; 3 without a response or after the timeout. After the timeout the
servers continue the run, and the same command waits for it again.
"""


@click.command(help=HELP)
@currency_argument
@click.option(
    "--as-of",
    metavar="DATE",
    required=True,
    type=SettlementDate(),
    help="The date to pay out by, such as 2025-12-01.",
)
@click.option(
    "--min-amount",
    metavar="AMOUNT",
    help="Pay no less than this, such as 12.50.  [default: any amount]",
)
@click.option(
    "--min-amount-minor",
    metavar="NUMBER",
    type=WholeNumber(),
    help="The same in minor units, such as 1250.",
)
@click.option("--min", "old_minimum", metavar="NUMBER", hidden=True)
@click.option("--request-id", metavar="ID", default="", help="Distinguishes runs of one date.")
@click.option(
    "--restaurant",
    "restaurants",
    metavar="RESTAURANT",
    multiple=True,
    help="Pay only this restaurant; may be repeated.",
)
@click.option(
    "--restaurants-file",
    metavar="FILE",
    type=FileName(),
    help="Pay only the restaurants of this file, one id a line.",
)
@click.option("--dry-run", is_flag=True, help="Show what a run would do, and write nothing.")
@click.option(
    "--wait/--no-wait",
    default=True,
    help="Whether to wait until the run has ended.  [default: wait]",
)
@click.option(
    "--timeout-seconds",
    metavar="SECONDS",
    type=Seconds(),
    default=WAIT_TIMEOUT_SECONDS,
    help=f"How long to wait at most.  [default: {WAIT_TIMEOUT_SECONDS:g}]",
)
@json_option
@address_option
def run_payouts(
    currency: str,
    as_of: date,
    min_amount: str | None,
    min_amount_minor: int | None,
    old_minimum: str | None,
    request_id: str,
    restaurants: tuple[str, ...],
    restaurants_file: Path | None,
    dry_run: bool,
    wait: bool,
    timeout_seconds: float,
    json: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    request = ledger_pb2.RunPayoutsRequest(
        currency=currency,
        as_of=date_message(as_of),
        min_amount_minor=minimum_of(currency, min_amount, min_amount_minor, old_minimum),
        request_id=request_id,
        dry_run=dry_run,
        restaurant_ids=_named(restaurants, restaurants_file),
    )
    with connect(settings) as ledger:
        if request.restaurant_ids and not dry_run:
            _require_that_lists_are_known(ledger, request)
        response = ledger.service.RunPayouts(request)
        run = response.payout_run
        if wait and not dry_run:
            with _progress_bar(run) as on_progress:
                run = wait_for_run(
                    ledger, run, timeout_seconds=timeout_seconds, on_progress=on_progress
                )
    if json:
        printed = json_of_run(run)
        if dry_run and request.restaurant_ids:
            printed["items"] = [json_of_run_item(item) for item in response.items]
        print_json(printed)
    else:
        print_table(run_table(run))
        if response.items:
            print_table(run_items_table(response.items, run.currency))
    if run.state == ledger_pb2.PAYOUT_RUN_STATE_CANCELED:
        left = run.restaurants_total - run.restaurants_considered
        raise CommandFailure(
            f"the run was canceled: {left} of {run.restaurants_total} restaurants were not"
            " considered",
            "what it has paid stays paid; --request-id starts another run",
        )


def _named(restaurants: Sequence[str], file: Path | None) -> list[str]:
    """The restaurants that the options name; none if no option is given. Raises CommandFailure.

    A file without an id is refused: a run without ids would pay all restaurants.
    """
    if file is None:
        return list(restaurants)
    try:
        with file.open(encoding="utf-8-sig") as lines:
            text = lines.read(_FILE_CHARACTERS_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailure(f"cannot read {file}: {error}", exit_status=ExitStatus.USAGE) from None
    ids = text.split()
    if not ids or len(text) > _FILE_CHARACTERS_MAX:
        raise CommandFailure(
            f"{file} must have 1 to {RUN_RESTAURANTS_MAX} ids, one a line",
            exit_status=ExitStatus.USAGE,
        )
    return [*restaurants, *ids]


def _require_that_lists_are_known(ledger: "Ledger", request: ledger_pb2.RunPayoutsRequest) -> None:
    """Raises CommandFailure if the server is older than lists of restaurants: it would pay all."""
    plan = ledger_pb2.RunPayoutsRequest()
    plan.CopyFrom(request)
    plan.dry_run = True
    if not ledger.service.RunPayouts(plan).payout_run.restaurants_named:
        raise CommandFailure(
            "this server does not know runs of named restaurants and would pay all: upgrade it"
        )


def minimum_of(
    currency: str, amount: str | None, amount_minor: int | None, old: str | None = None
) -> int:
    """The least amount to pay, in minor units; 0 if no option is given. Raises CommandFailure.

    `old` is the value of --min, an old option in minor units whose name does not say so. A warning
    repeats it with decimals: --min 10 is 0.10 PEN, not 10 PEN. A value with decimals is refused.
    """
    given = [option for option in (amount, amount_minor, old) if option is not None]
    if len(given) > 1:
        raise CommandFailure(
            "give one minimum: --min-amount or --min-amount-minor", exit_status=ExitStatus.USAGE
        )
    if amount is not None:
        return minor_units("--min-amount", amount, currency)
    if old is None:
        return amount_minor or 0
    if not re.fullmatch("[0-9]{1,18}", old):
        raise CommandFailure(
            f"--min takes minor units, which {old!r} is not: give --min-amount 12.50 or"
            " --min-amount-minor 1250",
            exit_status=ExitStatus.USAGE,
        )
    minimum = int(old)
    report(
        "warning",
        [
            f"--min {old} is {amount_of(minimum, currency)} {currency}; better give --min-amount"
            " or --min-amount-minor"
        ],
    )
    return minimum


def wait_for_run(
    ledger: "Ledger",
    run: ledger_pb2.PayoutRun,
    *,
    timeout_seconds: float,
    on_progress: Callable[[ledger_pb2.PayoutRun], None],
) -> ledger_pb2.PayoutRun:
    """Waits until the run has ended, and returns it. Calls `on_progress` with each state.

    Raises CommandFailure after the timeout or on Ctrl-C, LedgerError if a retry cannot help.
    """
    from ledger.client import TooSlow

    seen = run

    def note(current: ledger_pb2.PayoutRun) -> None:
        nonlocal seen
        seen = current
        on_progress(current)

    try:
        return ledger.wait_for_run(run.payout_run_id, timeout_seconds, on_progress=note)
    except TooSlow:
        raise CommandFailure(
            f"the run has not ended within {timeout_seconds:g} s",
            *_progress_lines(seen),
            exit_status=ExitStatus.UNREACHABLE,
        ) from None
    except KeyboardInterrupt:
        raise CommandFailure(
            "interrupted", *_progress_lines(seen), exit_status=ExitStatus.INTERRUPTED
        ) from None


@contextmanager
def _progress_bar(run: ledger_pb2.PayoutRun) -> Iterator[Callable[[ledger_pb2.PayoutRun], None]]:
    """Shows a bar on standard error while the block runs, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    # Imported only for a terminal: rich takes longer to load than the rest of a command.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} restaurants"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("payouts", total=run.restaurants_total)
        yield lambda seen: progress.update(task, completed=seen.restaurants_considered)


def _progress_lines(run: ledger_pb2.PayoutRun) -> tuple[str, str]:
    return (
        f"run {run.payout_run_id} had considered {run.restaurants_considered} of"
        f" {run.restaurants_total} restaurants",
        "the servers continue it; the same command waits for it again, and `ledger payouts show`"
        " shows its progress",
    )
