"""`ledger payouts export`: writes the file of payouts for the bank."""

import json
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, TextIO

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.output import CsvWriter, JsonValue, write_unicode
from ledger.cli.parameters import address_option
from ledger.cli.payouts.submit import contents_options, submission_request
from ledger.cli.payouts.views import is_under_way, json_of_payout
from ledger.client.sync_pages import pages_of
from ledger.domain.money import is_currency
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.client import Ledger

# How often an export reads the list, at most: it reads again if runs appeared in between.
EXPORT_PASSES_MAX = 10

_EXPORT_COLUMNS = (
    "payout_id",
    "restaurant_id",
    "currency",
    "amount_minor",
    "amount",
    "as_of",
    "created_at",
)

HELP = """
Write the payouts that were neither submitted nor answered, as CSV for the bank,
to standard output; the latest first.

Columns: payout_id, restaurant_id, currency, amount_minor, amount, as_of,
created_at. The payout id is the bank's idempotency key: if the bank takes each
id once, a file may be sent twice.

Nothing is written until everything is read, and nothing at all while one of its
runs is under way. Exit status 0 means that the file is complete.

With --submit, the list of a submission and nothing else, in the order of payout
ids: the same bytes every time, whatever the bank has answered since. If the
submission does not exist yet, it is made of --run or --payout, as by `ledger
payouts submit`.
"""


@click.command(help=HELP)
@click.option("--currency", metavar="CURRENCY", default="", help="Only payouts in this currency.")
@click.option("--run", "payout_run_id", metavar="RUN", default="", help="Only payouts of this run.")
@click.option(
    "--submit", "submission_id", metavar="SUBMISSION", default="", help="Write this submission."
)
@contents_options
@click.option(
    "--format",
    "format_",
    metavar="FORMAT",
    type=click.Choice(["csv", "jsonl"]),
    default="csv",
    help="csv, or jsonl: JSON lines, one object a line.  [default: csv]",
)
@address_option
def export(
    currency: str,
    payout_run_id: str,
    submission_id: str,
    payout_ids: tuple[str, ...],
    payouts_max: int | None,
    format_: str,
    address: str | None,
) -> None:
    # A misspelt currency would give a file without payouts.
    if currency and not is_currency(currency):
        raise CommandFailure(
            f"--currency must be an ISO 4217 code in upper case (it is {currency!r})",
            exit_status=ExitStatus.USAGE,
        )
    if submission_id and currency:
        raise CommandFailure(
            "--submit has one currency: leave out --currency", exit_status=ExitStatus.USAGE
        )
    if not submission_id and (payout_ids or payouts_max is not None):
        raise CommandFailure("--payout and --max need --submit", exit_status=ExitStatus.USAGE)
    request = submission_request(submission_id, payout_run_id, payout_ids, payouts_max)
    settings = load_client_settings(address)
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as whole:
        rows = _rows_to(whole, format_)
        with connect(settings) as ledger:
            if submission_id:
                _export_submission(ledger, rows, submission_id, request)
            else:
                _collect_export(ledger, rows, currency, payout_run_id)
        whole.seek(0)
        write_unicode(sys.stdout)
        shutil.copyfileobj(whole, sys.stdout)
        # Now, so that a full disk sets the exit status.
        sys.stdout.flush()


def _rows_to(whole: TextIO, format_: str) -> "_Rows":
    return _JsonRows(whole) if format_ == "jsonl" else _CsvRows(whole)


class _CsvRows:
    """Writes payouts as CSV."""

    def __init__(self, whole: TextIO) -> None:
        self._whole = whole
        self.begin()

    def begin(self) -> None:
        """Begins anew."""
        self._whole.seek(0)
        self._whole.truncate()
        self._rows = CsvWriter(self._whole, _EXPORT_COLUMNS, shown_on=sys.stdout)

    def write(self, payout: ledger_pb2.Payout) -> None:
        """Raises CommandFailure for a payout in an unknown currency."""
        self._rows.write(_exported(payout))


class _JsonRows:
    """Writes payouts as JSON lines."""

    def __init__(self, whole: TextIO) -> None:
        self._whole = whole

    def begin(self) -> None:
        """Begins anew."""
        self._whole.seek(0)
        self._whole.truncate()

    def write(self, payout: ledger_pb2.Payout) -> None:
        """Raises CommandFailure for a payout in an unknown currency."""
        self._whole.write(json.dumps(_exported(payout)) + "\n")


_Rows = _CsvRows | _JsonRows


def _exported(payout: ledger_pb2.Payout) -> dict[str, JsonValue]:
    """The columns of a payout: none that changes later. Raises CommandFailure."""
    values = json_of_payout(payout)
    if values["amount"] is None:
        raise CommandFailure(
            f"payout {payout.payout_id} is in {payout.currency!r}, a currency that this"
            " version of the command does not know: update it, or export another currency"
            " with --currency"
        )
    return {column: values[column] for column in _EXPORT_COLUMNS}


def _export_submission(
    ledger: "Ledger",
    rows: _Rows,
    submission_id: str,
    request: ledger_pb2.SubmitPayoutsRequest | None,
) -> None:
    """Makes the submission if there is a request for it, and writes its list."""
    if request is not None:
        ledger.service.SubmitPayouts(request)
    wanted = ledger_pb2.ListPayoutsRequest(submission_id=submission_id)
    payouts = [
        payout for page in pages_of(ledger.service.ListPayouts, wanted) for payout in page.payouts
    ]
    for payout in sorted(payouts, key=lambda payout: payout.payout_id):
        rows.write(payout)


def _collect_export(ledger: "Ledger", rows: _Rows, currency: str, payout_run_id: str) -> None:
    """Writes the payouts in state CREATED to `rows`. Each run is in it completely or not at all.

    A run under way may add payouts to pages that were read already. So the list is read again until
    all runs in it are known to have ended before the reading began.
    """
    ended: set[str] = set()
    if payout_run_id:
        _require_ended(ledger, payout_run_id)
        ended.add(payout_run_id)
    for _ in range(EXPORT_PASSES_MAX):
        rows.begin()
        unknown = _read_export(ledger, rows, currency, payout_run_id) - ended
        if not unknown:
            return
        for found in sorted(unknown):
            _require_ended(ledger, found)
        ended |= unknown
    raise CommandFailure(
        "new payout runs kept appearing; try again when they have ended",
        exit_status=ExitStatus.UNREACHABLE,
    )


def _read_export(ledger: "Ledger", rows: _Rows, currency: str, payout_run_id: str) -> set[str]:
    """Reads the list once and writes it to `rows`. Returns the runs whose payouts are in it."""
    request = ledger_pb2.ListPayoutsRequest(
        payout_run_id=payout_run_id, state=ledger_pb2.PAYOUT_STATE_CREATED
    )
    runs: set[str] = set()
    for page in pages_of(ledger.service.ListPayouts, request):
        for payout in page.payouts:
            if currency not in ("", payout.currency):
                continue
            runs.add(payout.payout_run_id)
            rows.write(payout)
    return runs


def _require_ended(ledger: "Ledger", payout_run_id: str) -> None:
    run = ledger.get_payout_run(payout_run_id)
    if is_under_way(run):
        raise CommandFailure(
            f"run {payout_run_id} has considered {run.restaurants_considered} of"
            f" {run.restaurants_total} restaurants, so some of its payouts are missing;"
            " try again when it has ended",
            exit_status=ExitStatus.UNREACHABLE,
        )
