"""`ledger report`: answers the questions of sql/queries.sql."""

import csv
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer
from rich.table import Table

from ledger.cli.configuration import load_settings
from ledger.cli.failures import CommandFailure, ExitStatus, printable, report
from ledger.cli.instants import INSTANT_RULE, parse_instant
from ledger.cli.output import print_line, print_table
from ledger.cli.payout_history import one_row_a_payout
from ledger.domain.money import EXPONENT_BY_CURRENCY, INT64_MAX
from ledger.observability import configure_logging
from ledger.settings import Settings

# The database's libraries take longer to load than most other commands take in all, so they are imported when needed.
if TYPE_CHECKING:
    from ledger.infrastructure.postgres.reports import Report, Value

_WHERE = """
The database is that of LEDGER_DATABASE_URL, else the embedded one in LEDGER_DATA_DIR; a server may be running on it. Nothing is
written. Amounts are in minor units.
"""

Q1_HELP = f"Show the balances of every restaurant in CURRENCY.\n\n{_WHERE}"
Q2_HELP = f"Show the ten restaurants of each currency with the highest net revenue of seven days.\n\n{_WHERE}"
Q3_HELP = f"Show what a payout run would pay each restaurant in CURRENCY, or why it would skip it.\n\n{_WHERE}"
Q4_HELP = f"Show what is wrong with the books, errors first; `ledger verify` is the whole audit.\n\n{_WHERE}"
PAYOUTS_HELP = f"Show the payouts of a restaurant, latest first, with what each consists of.\n\n{_WHERE}"

app = typer.Typer(no_args_is_help=True)

CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV, for programs.")]
CurrencyArgument = Annotated[str, typer.Argument(help="ISO 4217 code, such as PEN.", show_default=False)]


@app.command("q1", help=Q1_HELP)
def q1(currency: CurrencyArgument, csv: CsvOption = False) -> None:
    _show("q1_balances", {"currency": _checked(currency)}, as_csv=csv)


@app.command("q2", help=Q2_HELP)
def q2(
    until: Annotated[
        str, typer.Option(help="The instant at which the seven days end. Default: now.", metavar="INSTANT", show_default=False)
    ] = "",
    csv: CsvOption = False,
) -> None:
    _show("q2_top_restaurants", {"until_at": _instant(until) if until else datetime.now(UTC)}, as_csv=csv)


@app.command("q3", help=Q3_HELP)
def q3(
    currency: CurrencyArgument,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="The date to pay out by, in LEDGER_SETTLEMENT_TIMEZONE. Default: today there.",
            show_default=False,
        ),
    ] = None,
    min_amount_minor: Annotated[int, typer.Option(min=0, max=INT64_MAX, help="The least that is paid, in minor units.")] = 0,
    csv: CsvOption = False,
) -> None:
    settings = load_settings()
    today = datetime.now(ZoneInfo(settings.settlement_timezone)).date()
    day = today if as_of is None else as_of.date()
    if day > today:
        raise CommandFailure("--as-of must not be in the future", exit_status=ExitStatus.USAGE)
    parameters: dict[str, Value] = {
        "currency": _checked(currency),
        "as_of": day,
        "settlement_timezone": settings.settlement_timezone,
        "min_amount_minor": min_amount_minor,
    }
    _show("q3_payout_eligibility", parameters, as_csv=csv)


@app.command("q4", help=Q4_HELP)
def q4(csv: CsvOption = False) -> None:
    _show("q4_integrity", {}, as_csv=csv)


@app.command("payouts", help=PAYOUTS_HELP)
def payouts(
    restaurant_id: Annotated[str, typer.Argument(help="The restaurant.", show_default=False)], csv: CsvOption = False
) -> None:
    _show("payout_history", {"restaurant_id": restaurant_id}, as_csv=csv)


def _checked(currency: str) -> str:
    if currency not in EXPONENT_BY_CURRENCY:
        raise CommandFailure("CURRENCY must be an ISO 4217 code, in capitals", exit_status=ExitStatus.USAGE)
    return currency


def _instant(text: str) -> datetime:
    try:
        return parse_instant(text).ToDatetime(UTC)
    except ValueError:
        raise CommandFailure(f"--until {INSTANT_RULE}", exit_status=ExitStatus.USAGE) from None


def _show(name: str, parameters: "dict[str, Value]", *, as_csv: bool) -> None:
    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    found = _query_configured_books(settings, name, parameters)
    if name == "payout_history":
        found = one_row_a_payout(found)
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(found.columns)
        writer.writerows([_text(value) for value in row] for row in found.rows)
    else:
        if found.rows:
            print_table(_table(found))
        print_line(f"{len(found.rows) or 'no'} row{'' if len(found.rows) == 1 else 's'}")
    if not found.is_complete:
        report("warning", [f"there are more than {len(found.rows)} rows; the rest is left out"])


def _query_configured_books(settings: Settings, name: str, parameters: "dict[str, Value]") -> "Report":
    """What the query returns on the settings' database. From the main thread. Raises CommandFailure."""
    from ledger.bootstrap import on_books
    from ledger.cli.database_failures import database_failures
    from ledger.infrastructure.postgres.reports import run_query

    with database_failures(settings.database_url):
        return on_books(settings, lambda engine: run_query(engine, name, parameters))


def _table(found: "Report") -> Table:
    table = Table()
    for column in found.columns:
        is_number = column.endswith(("_minor", "_count", "_percent")) or column in ("rank", "sequence")
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in found.rows:
        table.add_row(*(printable(_text(value)) for value in row))
    return table


def _text(value: "Value") -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        # str() writes a sum such as 2000000 as 2.00E+6 where the database sent it with digits to spare.
        return f"{value:f}"
    return value.isoformat() if isinstance(value, date) else str(value)
