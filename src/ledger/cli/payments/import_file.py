"""`ledger payments import`: carries out the transfers of a file."""

import re
from collections import Counter
from typing import TYPE_CHECKING

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.ingest.batches import Batch, read_batches
from ledger.cli.ingest.fields import InvalidLine
from ledger.cli.ingest.source import LineErrors, line_errors_option, open_source, progress_bar
from ledger.cli.output import JsonValue, counted, print_json, print_line
from ledger.cli.parameters import WholeNumber, address_option, json_option
from ledger.cli.payments.transfer_lines import TransferParser
from ledger.cli.payments.views import decline_line, reason_of
from ledger.limits import BATCH_PAYMENTS_MAX
from ledger.v1 import payment_pb2

if TYPE_CHECKING:
    from ledger.client import PaymentOutcome

# The lines that a person must look at.
LOOKED_AT = "declined or refused lines"

HELP = """
Carry out the transfers of FILE, which are captured at once, in the order of its
lines; - reads standard input.

It may be run again at any time: a payment that is decided already counts as a
duplicate and moves nothing, so an import that broke off is resumed by the same
command.

FILE has a JSON object a line, or is CSV with a header. The fields:

\b
payment_id            your id of the payment; each is decided once
payer_account_id      the account that pays
payee_account_id      who is paid: an account,
payee_restaurant_id   or a restaurant
amount_minor          whole minor units: 1250 for 12.50 PEN
currency              ISO 4217 code
fee_minor             the commission, if a restaurant is paid
reference             printable ASCII
metadata              an object of strings; in CSV a column
                      metadata.KEY for each key

Null and empty cells count as absent. Blank lines are skipped; a row of CSV is
one line.

Declined and refused lines are written to standard error as FILE:LINE:
payment_id: reason; the other lines are carried out. INVALID_LINE marks a line
that was not sent.

Exit status: 0 if every line was captured, now or before; 4 if any was declined;
1 if any was refused; 2 if the file cannot be read; 3 if the server cannot be
reached.
"""

_TransferBatch = Batch[payment_pb2.Transfer]


class ImportSummary:
    """Counts the lines by result; each line is counted once."""

    def __init__(self) -> None:
        self.captured = 0
        self.duplicates = 0
        # By reason: declined now, and declined before, which count as duplicates too.
        self.declined: Counter[str] = Counter()
        self.declined_before: Counter[str] = Counter()
        # By reason: nothing of these is stored.
        self.refused: Counter[str] = Counter()
        # With a status that only a newer command knows.
        self.unknown = 0

    @property
    def decided(self) -> int:
        """Lines whose payments are decided, now or before."""
        return self.captured + self.duplicates + self.declined.total()

    @property
    def lines(self) -> int:
        """Lines counted."""
        return self.decided + self.refused.total() + self.unknown

    @property
    def exit_status(self) -> ExitStatus:
        """What the command ends with."""
        if self.refused or self.unknown:
            return ExitStatus.REFUSED
        return ExitStatus.DECLINED if self.declined or self.declined_before else ExitStatus.DONE


@click.command("import", help=HELP)
@click.argument("file", metavar="FILE", help="The file, or - for standard input.")
@click.option(
    "--batch-size",
    metavar="NUMBER",
    type=WholeNumber(1, BATCH_PAYMENTS_MAX),
    default=BATCH_PAYMENTS_MAX,
    help=f"Transfers to send in one request, 1 to {BATCH_PAYMENTS_MAX}."
    f"  [default: {BATCH_PAYMENTS_MAX}]",
)
@line_errors_option(LOOKED_AT)
@json_option
@address_option
def import_file(
    file: str, batch_size: int, errors: int | None, json: bool, address: str | None
) -> None:
    settings = load_client_settings(address)
    summary = ImportSummary()
    with open_source(file) as (source, name), progress_bar(source) as progress:
        line_errors = LineErrors(name, LOOKED_AT, errors, progress.write)
        try:
            with connect(settings) as ledger:
                for batch in read_batches(source, TransferParser(), batch_size=batch_size):
                    _count(summary, line_errors, batch, ledger.batch_transfers(batch.messages))
                    progress.show(batch.end_bytes, summary.decided, "")
        except CommandFailure as failure:
            # The same command would fail again.
            if failure.exit_status is ExitStatus.USAGE:
                raise
            raise CommandFailure(
                *failure.lines, _so_far(summary), exit_status=failure.exit_status
            ) from failure
        except OSError as error:
            raise CommandFailure(
                f"cannot read {name}: {error.strerror}",
                _so_far(summary),
                exit_status=ExitStatus.USAGE,
            ) from error
        except KeyboardInterrupt:
            raise CommandFailure(
                "interrupted", _so_far(summary), exit_status=ExitStatus.INTERRUPTED
            ) from None
        finally:
            line_errors.close()
    if json:
        print_json(_json_of(name, summary))
    else:
        _print_summary(name, summary)
    if summary.exit_status:
        raise click.exceptions.Exit(summary.exit_status)


def _count(
    summary: ImportSummary,
    line_errors: LineErrors,
    batch: _TransferBatch,
    outcomes: "list[PaymentOutcome]",
) -> None:
    outcomes_left = iter(outcomes)
    for line in batch.lines:
        if isinstance(line.content, InvalidLine):
            summary.refused["INVALID_LINE"] += 1
            line_errors.add(
                line.number, line.content.line_id, f"INVALID_ARGUMENT INVALID_LINE {line.content}"
            )
        elif text := _count_outcome(summary, next(outcomes_left)):
            line_errors.add(line.number, line.content.payment_id, text)


def _count_outcome(summary: ImportSummary, outcome: "PaymentOutcome") -> str:
    """Counts an outcome. Returns what a person must read about it; empty if there is nothing."""
    if (error := outcome.error) is not None:
        summary.refused[error.reason or error.code.name] += 1
        # The number of the line says which transfer it is.
        message = re.sub(r"\btransfers\[[0-9]+\]\.", "", error.message)
        return f"{error.code.name} {error.reason} {message}"
    match outcome.status:
        case payment_pb2.PAYMENT_STATUS_CAPTURED:
            summary.captured += 1
        case payment_pb2.PAYMENT_STATUS_DUPLICATE:
            summary.duplicates += 1
            if outcome.decline_reason:
                summary.declined_before[reason_of(outcome.decline_reason)] += 1
        case payment_pb2.PAYMENT_STATUS_DECLINED:
            summary.declined[reason_of(outcome.decline_reason)] += 1
        case _:
            summary.unknown += 1
            return f"status {outcome.status} is unknown to this version of the command: update it"
    return f"declined: {decline_line(outcome.decline_reason)}" if outcome.decline_reason else ""


def _so_far(summary: ImportSummary) -> str:
    are = "is" if summary.decided == 1 else "are"
    return (
        f"{counted(summary.decided, 'line')} {are} known to be decided; the same command again"
        " resumes, since decided payments count as duplicates"
    )


def _print_summary(name: str, summary: ImportSummary) -> None:
    print_line(
        f"{name}: {counted(summary.lines, 'line')}"
        + ("" if summary.lines else ": the file is empty, or has a header only")
    )
    print_line(f"  captured    {summary.captured}")
    before = summary.declined_before
    print_line(
        f"  duplicates  {summary.duplicates}"
        + (f" (declined before: {_by_reason(before)})" if before else "")
    )
    for title, counts in (("declined", summary.declined), ("refused", summary.refused)):
        print_line(
            f"  {title:<10}  {counts.total()}" + (f" ({_by_reason(counts)})" if counts else "")
        )
    if summary.unknown:
        print_line(f"  unknown     {summary.unknown}")


def _by_reason(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _json_of(name: str, summary: ImportSummary) -> JsonValue:
    # Strings, as int64 of the contract: many programs read JSON numbers as floats.
    return {
        "file": name,
        "lines": str(summary.lines),
        "captured": str(summary.captured),
        "duplicates": str(summary.duplicates),
        "declined": _json_of_counts(summary.declined),
        "declined_before": _json_of_counts(summary.declined_before),
        "refused": _json_of_counts(summary.refused),
        "unknown": str(summary.unknown),
    }


def _json_of_counts(counts: Counter[str]) -> JsonValue:
    return {reason: str(count) for reason, count in sorted(counts.items())}
