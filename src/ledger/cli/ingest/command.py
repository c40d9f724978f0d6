"""`ledger ingest`: books the events of a file."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.ingest.batches import read_batches
from ledger.cli.ingest.fields import InvalidLine
from ledger.cli.ingest.lines import parse_event_line
from ledger.cli.ingest.sender import EventBatch, Outcomes, Pace, send_batches
from ledger.cli.ingest.source import LineErrors, line_errors_option, open_source, progress_bar
from ledger.cli.output import JsonValue, counted, print_json, print_line
from ledger.cli.parameters import WholeNumber, address_option, json_option
from ledger.limits import BATCH_EVENTS_MAX
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.client import EventOutcome

# From 100 to 1000 the cost is the same; smaller requests get the first response sooner.
BATCH_EVENTS = 250
# The lines that a person must look at.
LOOKED_AT = "refused lines"

HELP = """
Book the events of FILE, one JSON object a line; - reads standard input.

It may be run again at any time: an event that is booked already counts as a
duplicate and changes nothing.

Fields of a line:

\b
event_id, restaurant_id, currency   strings; an event of the platform's books
                                    has no restaurant_id
event_type or type                  charge_succeeded, CHARGE_SUCCEEDED or
                                    EVENT_TYPE_CHARGE_SUCCEEDED, and so on
amount, amount_cents, amount_minor  whole minor units of the currency: 1250
                                    for 12.50 PEN; never 12.50 or 1e3
fee, fee_cents, fee_minor           the same; 0 if absent
processor_fee, processor_fee_cents, what the processor charged the platform;
processor_fee_minor                 the same; 0 if absent
occurred_at                         ISO 8601 with Z or an offset
available_at, available_on          the same; if absent, maturity days count
payout_id                           on payout events only; if absent,
                                    metadata.payout_id
reference                           if absent, metadata.payment_id, if any
bank_reference                      on payout events only
failure_code, failure_text          on payout_failed only
metadata                            an object of strings; numbers, true and
                                    false become text, null is left out

Null counts as absent. Two names of one field with different values are an
error. So is a field that is not listed here, since a fee under a misspelt name
would be lost; --ignore-unknown ignores such fields. Blank lines are skipped.

Refused lines are written to standard error as FILE:LINE: event_id: STATUS
REASON message; the other lines are booked. INVALID_LINE marks a line that was
not sent.

Exit status: 0 if every line was created or a duplicate, 1 if any was refused, 2
if the file cannot be read, 3 if the server cannot be reached.
"""


@dataclass(slots=True)
class IngestSummary:
    """Counts the lines by result; each line is counted once."""

    created: int = 0
    duplicates: int = 0
    conflicts: int = 0
    invalid: int = 0
    refused_otherwise: int = 0
    # With a status that only a newer command knows: they may be booked or not.
    unknown: int = 0

    @property
    def booked(self) -> int:
        """Lines whose events are in the books."""
        return self.created + self.duplicates

    @property
    def refused(self) -> int:
        """Lines whose events are not in the books."""
        return self.conflicts + self.invalid + self.refused_otherwise

    @property
    def lines(self) -> int:
        """Lines counted."""
        return self.booked + self.refused + self.unknown

    @property
    def reported(self) -> int:
        """Lines that a person must look at."""
        return self.refused + self.unknown


class ResultReporter:
    """Counts results, and writes refused lines to standard error, the first `shown_max` of them."""

    def __init__(
        self, source_name: str, shown_max: int | None, write: Callable[[str], None]
    ) -> None:
        self.summary = IngestSummary()
        self._errors = LineErrors(source_name, LOOKED_AT, shown_max, write)

    def add(self, batch: EventBatch, outcomes: Outcomes) -> None:
        """Counts the outcomes of a batch."""
        outcomes_left = iter(outcomes)
        for line in batch.lines:
            if isinstance(line.content, InvalidLine):
                self.summary.invalid += 1
                self._errors.add(
                    line.number,
                    line.content.line_id,
                    f"INVALID_ARGUMENT INVALID_LINE {line.content}",
                )
            else:
                self._add_outcome(line.number, next(outcomes_left))

    def _add_outcome(self, number: int, outcome: "EventOutcome") -> None:
        error = outcome.error
        if error is None:
            if outcome.status == ledger_pb2.INGEST_STATUS_CREATED:
                self.summary.created += 1
            elif outcome.status == ledger_pb2.INGEST_STATUS_DUPLICATE:
                self.summary.duplicates += 1
            else:
                self.summary.unknown += 1
                self._errors.add(
                    number,
                    outcome.event_id,
                    f"status {outcome.status} is unknown to this version of the command: update it",
                )
            return
        if error.code.name == "ALREADY_EXISTS":
            self.summary.conflicts += 1
        elif error.code.name == "INVALID_ARGUMENT":
            self.summary.invalid += 1
        else:
            self.summary.refused_otherwise += 1
        # The position in the request means nothing to a reader of the file.
        message = re.sub(r"\bevents\[[0-9]+\]\.", "", error.message)
        self._errors.add(number, outcome.event_id, f"{error.code.name} {error.reason} {message}")

    def close(self) -> None:
        """Writes how many refused lines were not shown."""
        self._errors.close()


@click.command(help=HELP)
@click.argument("file", metavar="FILE", help="The file, or - for standard input.")
@click.option(
    "--batch-size",
    metavar="NUMBER",
    type=WholeNumber(1, BATCH_EVENTS_MAX),
    default=BATCH_EVENTS,
    help=f"Events to send in one request, 1 to {BATCH_EVENTS_MAX}.  [default: {BATCH_EVENTS}]",
)
@line_errors_option(LOOKED_AT)
@click.option(
    "--ignore-unknown",
    "ignore_unknown_fields",
    is_flag=True,
    help="Ignore fields that an event does not have.",
)
@json_option
@address_option
def ingest(
    file: str,
    batch_size: int,
    errors: int | None,
    ignore_unknown_fields: bool,
    json: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    with open_source(file) as (source, name), progress_bar(source) as progress:
        reporter = ResultReporter(name, errors, progress.write)
        pace = Pace()

        def on_outcomes(batch: EventBatch, outcomes: Outcomes) -> None:
            reporter.add(batch, outcomes)
            progress.show(batch.end_bytes, reporter.summary.booked, _pace_text(pace))

        try:
            with connect(settings) as ledger:
                parse = partial(parse_event_line, ignore_unknown_fields=ignore_unknown_fields)
                batches = read_batches(source, parse, batch_size=batch_size)
                send_batches(ledger, batches, on_outcomes, pace, batch_size)
        except CommandFailure as failure:
            raise CommandFailure(
                *failure.lines, _so_far(reporter.summary), exit_status=failure.exit_status
            ) from failure
        except OSError as error:
            raise CommandFailure(
                f"cannot read {name}: {error.strerror}",
                _so_far(reporter.summary),
                exit_status=ExitStatus.USAGE,
            ) from error
        except KeyboardInterrupt:
            raise CommandFailure(
                "interrupted", _so_far(reporter.summary), exit_status=ExitStatus.INTERRUPTED
            ) from None
        finally:
            reporter.close()
    if json:
        print_json(_json_of(name, reporter.summary))
    else:
        _print_summary(name, reporter.summary, pace)
    if reporter.summary.reported:
        raise click.exceptions.Exit(ExitStatus.REFUSED)


def _so_far(summary: IngestSummary) -> str:
    return (
        f"{summary.booked or 'no'} lines are known to be booked ({summary.created} created,"
        f" {summary.duplicates} duplicates); running the same command again is harmless, since"
        " booked events count as duplicates"
    )


def _pace_text(pace: Pace) -> str:
    return "" if pace.events_per_second is None else f"{pace.events_per_second:,} events/s"


def _print_summary(name: str, summary: IngestSummary, pace: Pace) -> None:
    print_line(f"{name}: {counted(summary.lines, 'line')}")
    print_line(f"  created     {summary.created}")
    print_line(f"  duplicates  {summary.duplicates}")
    kinds = [
        (summary.conflicts, "conflicts"),
        (summary.invalid, "invalid"),
        (summary.refused_otherwise, "for other reasons"),
    ]
    particulars = ", ".join(f"{count} {kind}" for count, kind in kinds if count)
    print_line(f"  refused     {summary.refused}" + (f" ({particulars})" if particulars else ""))
    if summary.unknown:
        print_line(f"  unknown     {summary.unknown}")
    if pace.events:
        print_line(f"  pace        {_pace_text(pace)}")


def _json_of(name: str, summary: IngestSummary) -> JsonValue:
    # Strings, as int64 of the contract: many programs read JSON numbers as floats.
    return {
        "file": name,
        "lines": str(summary.lines),
        "created": str(summary.created),
        "duplicates": str(summary.duplicates),
        "conflicts": str(summary.conflicts),
        "invalid": str(summary.invalid),
        "refused_otherwise": str(summary.refused_otherwise),
        "unknown": str(summary.unknown),
    }
