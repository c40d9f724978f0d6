"""`ledger reconcile`: compares a processor's report with the books."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, BinaryIO

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.ingest.source import ErrorCount, LineErrors, open_source, write_error_line
from ledger.cli.output import print_line
from ledger.cli.parameters import (
    Duration,
    FileName,
    Instant,
    address_option,
    csv_option,
    json_lines_option,
)
from ledger.cli.reconcile.books import ServerBooks
from ledger.cli.reconcile.posting import Posted, post
from ledger.cli.reconcile.views import print_csv, print_json, print_postings, print_result
from ledger.cli.statement_lines import refuse_two_formats
from ledger.domain.money import is_currency
from ledger.reconciliation.built_in import LAYOUT_BY_NAME, LAYOUTS
from ledger.reconciliation.instants import zone_of
from ledger.reconciliation.layouts import Layout
from ledger.reconciliation.mapping import MAPPING_BYTES_MAX, read_mapping
from ledger.reconciliation.problems import LayoutUnknown, ReportUnusable
from ledger.reconciliation.reconcile import DATE_TOLERANCE, Terms, reconcile

BREAKS_SHOWN = 20
_OTHER_LAYOUTS = (
    "a report of another layout needs --mapping FILE, which says where its columns are: the page"
    " docs/reconciliation.md has an example"
)

HELP = f"""
Compare FILE, a settlement or balance report of a processor, with the books; -
reads standard input.

Layouts: {", ".join(LAYOUT_BY_NAME)}; any other CSV or JSON lines with
--mapping. The header says which layout it is. Columns are found by name.

Each line is matched with an event by id, or else by reference and amount. What
does not agree is listed with both sides: missing here, missing there, another
amount, fee, currency or date. Payouts and totals of the report are checked to
be the sum of their lines.

--post books what only the report knows: fees, and payouts to the platform's
bank account. Its ids follow from the report, so a repeat books nothing.

Exit status: 0 if all agrees; 1 if not; 2 if the file cannot be used, and then
nothing was booked; 3 if the server cannot be reached.
"""


class Zone(click.ParamType[Any]):
    """A time zone: an IANA name, an offset or an abbreviation."""

    name = "zone"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tzinfo:
        if isinstance(value, tzinfo):
            return value
        try:
            return zone_of(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("reconcile", help=HELP)
@click.argument("file", metavar="FILE", help="The report, or - for standard input.")
@click.option(
    "--layout",
    metavar="NAME",
    type=click.Choice(list(LAYOUT_BY_NAME)),
    help="The layout of the file.  [default: by its header]",
)
@click.option(
    "--mapping",
    metavar="FILE",
    type=FileName(),
    help="A mapping file, in TOML, for a report of another layout.",
)
@click.option(
    "--currency", metavar="CURRENCY", default="", help="The currency of a report that names none."
)
@click.option(
    "--timezone", "zone", metavar="ZONE", type=Zone(), help="The zone of instants without one."
)
@click.option(
    "--decimal-mark",
    metavar="MARK",
    type=click.Choice([".", ","]),
    help="The decimal mark of amounts such as 1.234.  [default: by the other amounts]",
)
@click.option(
    "--from",
    "start",
    metavar="INSTANT",
    type=Instant(),
    help="Events that occurred from then on are expected.  [default: the first line]",
)
@click.option(
    "--to",
    "end",
    metavar="INSTANT",
    type=Instant(),
    help="Events that occurred before are expected.  [default: the last line]",
)
@click.option(
    "--prefix",
    metavar="PREFIX",
    help="Expect only events whose ids begin with it.  [default: that of the layout]",
)
@click.option(
    "--date-tolerance",
    metavar="DURATION",
    type=Duration(),
    default=DATE_TOLERANCE,
    help="How far the dates of both sides may differ.  [default: 1d]",
)
@click.option("--post", "is_posting", is_flag=True, help="Book what only the report knows.")
@click.option("--dry-run", is_flag=True, help="With --post: show what it would book.")
@click.option(
    "--breaks",
    metavar="NUMBER|all",
    type=ErrorCount(),
    default=BREAKS_SHOWN,
    help=f"How many of what does not agree to show.  [default: {BREAKS_SHOWN}]",
)
@click.option("--matched", is_flag=True, help="With --csv or --json: also what agrees.")
@json_lines_option
@csv_option
@address_option
def reconcile_report(
    file: str,
    layout: str | None,
    mapping: Path | None,
    currency: str,
    zone: tzinfo | None,
    decimal_mark: str | None,
    start: Timestamp | None,
    end: Timestamp | None,
    prefix: str | None,
    date_tolerance: timedelta,
    is_posting: bool,
    dry_run: bool,
    breaks: int | None,
    matched: bool,
    json: bool,
    as_csv: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    refuse_two_formats(json=json, as_csv=as_csv)
    if layout is not None and mapping is not None:
        raise CommandFailure("give --layout or --mapping", exit_status=ExitStatus.USAGE)
    if dry_run and not is_posting:
        raise CommandFailure("--dry-run goes with --post", exit_status=ExitStatus.USAGE)
    if currency and not is_currency(currency):
        raise CommandFailure(
            f"--currency must be an ISO 4217 code in upper case (it is {currency!r})",
            exit_status=ExitStatus.USAGE,
        )
    layouts: tuple[Layout, ...] = LAYOUTS
    if layout is not None:
        layouts = (LAYOUT_BY_NAME[layout],)
    if mapping is not None:
        layouts = (_mapping_in(mapping),)
    terms = Terms(
        layouts=layouts,
        currency=currency,
        zone=zone,
        decimal_mark=decimal_mark,
        event_prefix=prefix,
        start_at=_instant(start),
        end_at=_instant(end),
        date_tolerance=date_tolerance,
    )
    posted: Posted | None = None
    with _seekable(file) as (source, name), connect(settings) as ledger:
        books = ServerBooks(ledger)
        with _usable(name):
            if is_posting:
                with reconcile(source, books, terms) as result:
                    if dry_run:
                        print_postings(result.postings(), as_csv=as_csv, json=json)
                        raise click.exceptions.Exit(_status(result.agrees))
                    duplicates = result.booked_before()
                    posted = post(ledger, result.postings())
                    posted.duplicates += duplicates
            # After posting from the beginning, so that the result is that of the books.
            with reconcile(source, books, terms) as result:
                if as_csv:
                    print_csv(result, with_matched=matched)
                elif json:
                    print_json(name, result, posted, with_matched=matched)
                else:
                    print_result(name, result, breaks)
                    if posted is not None:
                        _print_posted(posted)
                status = _status(result.agrees)
    if posted is not None and posted.refused:
        for line, event_id, refusal in posted.shown:
            write_error_line(f"{name}:{line}: {event_id}: {refusal}")
        status = ExitStatus.REFUSED
    if status:
        raise click.exceptions.Exit(status)


def _status(agrees: bool) -> ExitStatus:
    return ExitStatus.DONE if agrees else ExitStatus.REFUSED


def _print_posted(posted: Posted) -> None:
    print_line("posted:")
    print_line(f"  created     {posted.created}")
    print_line(f"  duplicates  {posted.duplicates}")
    print_line(f"  refused     {posted.refused}")


def _instant(timestamp: Timestamp | None) -> datetime | None:
    return None if timestamp is None else timestamp.ToDatetime(UTC)


@contextmanager
def _seekable(file: str) -> Iterator[tuple[BinaryIO, str]]:
    """The file with its name for people; a pipe is copied to a temporary file first."""
    with open_source(file) as (source, name):
        try:
            if source.seekable():
                yield source, name
                return
            # Not in memory: a report may have any size.
            with tempfile.TemporaryFile() as copy:
                shutil.copyfileobj(source, copy)
                yield copy, name
        except OSError as error:
            raise CommandFailure(
                f"cannot read {name}: {error.strerror}", exit_status=ExitStatus.USAGE
            ) from error


@contextmanager
def _usable(name: str) -> Iterator[None]:
    """Shows the problems of a report that cannot be used, each with its place."""
    try:
        yield
    except ReportUnusable as error:
        errors = LineErrors(name, "problems", None, write_error_line)
        for problem in error.problems:
            if problem.line:
                errors.add(problem.line, problem.column, problem.text)
        lines = [str(problem) for problem in error.problems if not problem.line]
        if error.count > len(error.problems):
            lines.append(f"{error.count - len(error.problems)} more problems are not shown")
        if isinstance(error, LayoutUnknown):
            lines.append(_OTHER_LAYOUTS)
        raise CommandFailure(
            f"{name} cannot be used: nothing was compared, and nothing was booked",
            *lines,
            exit_status=ExitStatus.USAGE,
        ) from None


def _mapping_in(path: Path) -> Layout:
    try:
        with path.open("rb") as file:
            return read_mapping(file.read(MAPPING_BYTES_MAX + 1))
    except OSError as error:
        raise CommandFailure(
            f"cannot read {path}: {error.strerror}", exit_status=ExitStatus.USAGE
        ) from error
    except ReportUnusable as error:
        raise CommandFailure(
            f"{path} is no mapping", *map(str, error.problems), exit_status=ExitStatus.USAGE
        ) from None
