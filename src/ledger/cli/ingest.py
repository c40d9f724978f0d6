"""`ledger ingest`: books the events of a file."""

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ledger.cli.configuration import AddressOption, load_settings
from ledger.cli.connection import connect
from ledger.cli.event_batches import BATCH_EVENTS_MAX, Batch, read_batches
from ledger.cli.event_lines import InvalidLine
from ledger.cli.event_sender import EventSender, Pace, Results
from ledger.cli.failures import CommandFailure, ExitStatus, printable
from ledger.cli.output import print_line
from ledger.cli.refusals import refusal_of_status
from ledger.v1 import ledger_pb2

ERRORS_SHOWN = 20
# From a hundred to a thousand it costs the same; the fewer there are, the sooner the first answer comes.
BATCH_EVENTS = 250
_EVENT_ID_LENGTH_SHOWN = 128

HELP = """
Book the events of FILE, one JSON object a line; `-` reads standard input.

It may be run again at any time: what is booked already counts as a duplicate and changes nothing.

**Fields of a line**

- `event_id`, `restaurant_id`, `currency`: strings.

- `event_type` or `type`: `charge_succeeded`, `CHARGE_SUCCEEDED` or `EVENT_TYPE_CHARGE_SUCCEEDED`, and so on.

- `amount`, `amount_cents` or `amount_minor`: whole minor units of the currency, such as 1250 for 12.50 PEN; never 12.50 or 1e3.

- `fee`, `fee_cents` or `fee_minor`: the same; absent is 0.

- `occurred_at`: ISO 8601 with `Z` or an offset, up to nine digits of a fraction.

- `payout_id`: on payout events only; absent is `metadata.payout_id`.

- `reference`: absent is `metadata.payment_id`, if there is one.

- `metadata`: an object of strings; numbers, true and false become text, null is left out.

Null is as good as absent. Two names of one field that say different things are an error. So is a field that is not listed here,
since a fee under a misspelt name would be lost; --ignore-unknown lets them pass. Blank lines are skipped.

**Refused lines** go to standard error as `FILE:LINE: event_id: STATUS REASON message`; the other lines are booked all the same.
INVALID_LINE is what was not sent at all.

**Exit status**: 0 if every line was created or a duplicate, 1 if any was refused, 2 if the file cannot be read, 3 if the server
cannot be reached.
"""


@dataclass(slots=True)
class IngestSummary:
    """What became of the lines so far: each is counted in one of these."""

    created: int = 0
    duplicates: int = 0
    conflicts: int = 0
    invalid: int = 0
    refused_otherwise: int = 0

    @property
    def booked(self) -> int:
        """Lines whose events are in the books."""
        return self.created + self.duplicates

    @property
    def refused(self) -> int:
        """Lines whose events are not."""
        return self.conflicts + self.invalid + self.refused_otherwise


class ResultReporter:
    """Counts results, and writes refused lines to standard error, the first `shown_max` of them."""

    def __init__(self, source_name: str, shown_max: int | None, console: Console) -> None:
        self.summary = IngestSummary()
        self._source_name = source_name
        self._shown_max = shown_max
        self._console = console

    def add(self, batch: Batch, results: Results) -> None:
        """Takes in what became of a batch."""
        answers = iter(results)
        for line in batch.lines:
            if isinstance(line.content, InvalidLine):
                self.summary.invalid += 1
                self._refuse(line.number, line.content.event_id, f"INVALID_ARGUMENT INVALID_LINE {line.content}")
            else:
                self._add_result(line.number, line.content, next(answers))

    def _add_result(self, number: int, event: ledger_pb2.ProcessorEvent, result: ledger_pb2.IngestResult) -> None:
        if not result.HasField("error"):
            if result.status == ledger_pb2.INGEST_STATUS_CREATED:
                self.summary.created += 1
            else:
                self.summary.duplicates += 1
            return
        refusal = refusal_of_status(result.error)
        if refusal.code == "ALREADY_EXISTS":
            self.summary.conflicts += 1
        elif refusal.code == "INVALID_ARGUMENT":
            self.summary.invalid += 1
        else:
            self.summary.refused_otherwise += 1
        # Places in the request are nothing to whoever reads lines of a file.
        message = re.sub(r"\bevents\[[0-9]+\]\.", "", refusal.message)
        self._refuse(number, event.event_id, f"{refusal.code} {refusal.reason} {message}")

    def _refuse(self, number: int, event_id: str, text: str) -> None:
        if self._shown_max is None or self.summary.refused <= self._shown_max:
            shown_id = printable(event_id[:_EVENT_ID_LENGTH_SHOWN]) or "-"
            self._write(f"{self._source_name}:{number}: {shown_id}: {printable(text)}")

    def close(self) -> None:
        """Tells how many refused lines were not written."""
        if self._shown_max is not None and self.summary.refused > self._shown_max:
            self._write(f"{self.summary.refused - self._shown_max} more refused lines; --errors all shows them")

    def _write(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def ingest(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file, or - for standard input.")],
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=BATCH_EVENTS_MAX, help="How many events to send in one request.")
    ] = BATCH_EVENTS,
    errors: Annotated[str, typer.Option("--errors", metavar="N|all", help="How many refused lines to show in full.")] = str(
        ERRORS_SHOWN
    ),
    ignore_unknown_fields: Annotated[
        bool, typer.Option("--ignore-unknown", help="Let fields pass that are not an event's.")
    ] = False,
    address: AddressOption = None,
) -> None:
    settings = load_settings(address)
    shown_max = _shown_max_of(errors)
    with _open_source(file) as (source, name), _progress_bar(source) as (progress, task):
        reporter = ResultReporter(name, shown_max, progress.console)

        pace = Pace()

        def on_answer(batch: Batch, results: Results) -> None:
            reporter.add(batch, results)
            progress.update(task, completed=batch.end_bytes, booked=reporter.summary.booked, pace=_pace_text(pace))

        try:
            with connect(settings) as stub:
                batches = read_batches(source, batch_size=batch_size, ignore_unknown_fields=ignore_unknown_fields)
                EventSender(stub, on_answer, pace).send_all(batches)
        except CommandFailure as failure:
            raise CommandFailure(*failure.lines, _so_far(reporter.summary), exit_status=failure.exit_status) from failure
        except OSError as error:
            raise CommandFailure(
                f"cannot read {name}: {error.strerror}", _so_far(reporter.summary), exit_status=ExitStatus.USAGE
            ) from error
        except KeyboardInterrupt:
            raise CommandFailure("interrupted", _so_far(reporter.summary), exit_status=ExitStatus.INTERRUPTED) from None
        finally:
            reporter.close()
    _print_summary(name, reporter.summary, pace)
    if reporter.summary.refused:
        raise typer.Exit(ExitStatus.REFUSED)


def _shown_max_of(errors: str) -> int | None:
    """How many refused lines to show; None means all."""
    if errors == "all":
        return None
    if not errors.isdecimal():
        raise CommandFailure("--errors must be a number or all", exit_status=ExitStatus.USAGE)
    return int(errors)


@contextmanager
def _open_source(file: str) -> Iterator[tuple[BinaryIO, str]]:
    """The file's bytes and its name for people. Raises CommandFailure when it cannot be opened."""
    if file == "-":
        if sys.stdin is None:
            raise CommandFailure("there is no standard input to read", exit_status=ExitStatus.USAGE)
        yield sys.stdin.buffer, "<stdin>"
        return
    try:
        source = Path(file).open("rb")  # noqa: SIM115  # errors of the block are not errors of opening
    except OSError as error:
        raise CommandFailure(f"cannot read {file}: {error.strerror}", exit_status=ExitStatus.USAGE) from error
    with source:
        yield source, file


@contextmanager
def _progress_bar(source: BinaryIO) -> Iterator[tuple[Progress, TaskID]]:
    """A bar on standard error while the block runs, if that is a terminal; its console writes lines above the bar."""
    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.fields[booked]} booked"), TextColumn("{task.fields[pace]}"), TimeRemainingColumn())
    status = os.fstat(source.fileno())
    total_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        yield progress, progress.add_task("ingest", total=total_bytes, booked=0, pace="")


def _so_far(summary: IngestSummary) -> str:
    return (
        f"{summary.booked or 'no'} lines are known to be booked ({summary.created} created, {summary.duplicates} duplicates); "
        "running the same command again is harmless, since what is booked counts as a duplicate"
    )


def _pace_text(pace: Pace) -> str:
    return "" if pace.events_per_second is None else f"{pace.events_per_second:,} events/s"


def _print_summary(name: str, summary: IngestSummary, pace: Pace) -> None:
    print_line(f"{name}: {summary.booked + summary.refused} lines")
    print_line(f"  created     {summary.created}")
    print_line(f"  duplicates  {summary.duplicates}")
    kinds = [(summary.conflicts, "conflicts"), (summary.invalid, "invalid"), (summary.refused_otherwise, "for other reasons")]
    particulars = ", ".join(f"{count} {kind}" for count, kind in kinds if count)
    print_line(f"  refused     {summary.refused}" + (f" ({particulars})" if particulars else ""))
    if pace.events:
        print_line(f"  pace        {_pace_text(pace)}")
