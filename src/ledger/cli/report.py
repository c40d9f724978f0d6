"""`ledger report`: runs the queries of sql/queries.sql."""

import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.debts import one_row_an_age
from ledger.cli.failures import CommandFailure, ExitStatus, report
from ledger.cli.output import (
    CsvWriter,
    JsonValue,
    Table,
    instant_text,
    print_json_lines,
    print_line,
    print_table,
)
from ledger.cli.parameters import (
    Instant,
    SettlementDate,
    WholeNumber,
    csv_option,
    currency_argument,
    json_lines_option,
    restaurant_argument,
)
from ledger.cli.payouts.history import one_row_a_payout
from ledger.cli.payouts.run import minimum_of
from ledger.domain.money import format_minor, is_currency

# Imported when needed: the database's libraries take longer to load than most commands run.
if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from ledger.infrastructure.postgres.verification.reports import Report, Value
    from ledger.settings import Settings

    Query = Callable[[AsyncEngine, Settings], Awaitable[Report]]

_BOOKS = """
The database is that of LEDGER_DATABASE_URL, else the embedded one in
LEDGER_DATA_DIR; a server may be running on it. Nothing is written."""
_WHERE = f"{_BOOKS} Amounts are\nin minor units.\n"
# How far back the call log is shown, unless the caller says.
_CALLS_PERIOD = timedelta(days=30)
# Columns that hold one of the contract's words, which commands write in lower case.
_WORDS = frozenset(("state", "outcome", "skip_reason", "entry_type"))
# Columns that a narrow terminal does not show, the least important first; --csv and --json have
# all.
_OPTIONAL = (
    "request_id",
    "peer",
    "credential",
    "last_event_at",
    "cutoff_at",
    "live_payout_id",
    "charges_count",
    "fees_count",
    "refunds_count",
    "charged_minor",
    "refunded_minor",
    "fees_minor",
    "name",
)


def _output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    return json_lines_option(csv_option(function))


@click.command(help=f"Show the balances of every restaurant in CURRENCY.\n\n{_WHERE}")
@currency_argument
@_output_options
def q1(currency: str, json: bool, as_csv: bool) -> None:
    _show(_query("q1_balances", {"currency": _checked(currency)}), json=json, as_csv=as_csv)


@click.command(
    help="Show the ten restaurants of each currency with the highest net revenue of seven days."
    f"\n\n{_WHERE}"
)
@click.option(
    "--until", metavar="INSTANT", type=Instant(), help="When the seven days end.  [default: now]"
)
@_output_options
def q2(until: Timestamp | None, json: bool, as_csv: bool) -> None:
    until_at = datetime.now(UTC) if until is None else until.ToDatetime(UTC)
    _show(_query("q2_top_restaurants", {"until_at": until_at}), json=json, as_csv=as_csv)


@click.command(
    help="Show what a payout run would pay each restaurant in CURRENCY, or why it would skip it."
    f"\n\n{_WHERE}"
)
@currency_argument
@click.option(
    "--as-of",
    metavar="DATE",
    type=SettlementDate(),
    help="The date to pay out by, in LEDGER_SETTLEMENT_TIMEZONE.  [default: today there]",
)
@click.option(
    "--min-amount",
    metavar="AMOUNT",
    help="The least that is paid, such as 12.50.  [default: any amount]",
)
@click.option(
    "--min-amount-minor",
    metavar="NUMBER",
    type=WholeNumber(),
    help="The same in minor units, such as 1250.",
)
@_output_options
def q3(
    currency: str,
    as_of: date | None,
    min_amount: str | None,
    min_amount_minor: int | None,
    json: bool,
    as_csv: bool,
) -> None:
    checked = _checked(currency)
    min_minor = minimum_of(currency, min_amount, min_amount_minor)

    async def eligibility(engine: "AsyncEngine", settings: "Settings") -> "Report":
        from ledger.errors import InvalidRequest
        from ledger.infrastructure.postgres.verification.reports import payout_eligibility

        try:
            return await payout_eligibility(
                engine,
                currency=checked,
                as_of=as_of,
                settlement_timezone=settings.settlement_timezone,
                min_amount_minor=min_minor,
            )
        except InvalidRequest as error:
            sentence = "; ".join(
                f"--as-of {violation.description}" for violation in error.violations
            )
            raise CommandFailure(sentence, exit_status=ExitStatus.USAGE) from None

    _show(eligibility, json=json, as_csv=as_csv)


@click.command(
    help="Show what is wrong with the books, errors first; `ledger verify` is the whole audit."
    f"\n\n{_WHERE}"
)
@_output_options
def q4(json: bool, as_csv: bool) -> None:
    _show(_query("q4_integrity", {}), json=json, as_csv=as_csv)


@click.command(
    help="Show what every account in CURRENCY has available and held, and its overdraft; without"
    f" a limit, overdraft_limit_minor is empty.\n\n{_WHERE}"
)
@currency_argument
@_output_options
def accounts(currency: str, json: bool, as_csv: bool) -> None:
    _show(_query("account_balances", {"currency": _checked(currency)}), json=json, as_csv=as_csv)


@click.command(
    help=f"Show the payouts of a restaurant, latest first, with what each consists of.\n\n{_WHERE}"
)
@restaurant_argument
@_output_options
def payouts(restaurant: str, json: bool, as_csv: bool) -> None:
    async def history(engine: "AsyncEngine", _settings: "Settings") -> "Report":
        from ledger.errors import RestaurantNotFound
        from ledger.infrastructure.postgres.verification.reports import payout_history

        try:
            return await payout_history(engine, restaurant)
        except RestaurantNotFound as error:
            raise CommandFailure(str(error)) from None

    _show(history, json=json, as_csv=as_csv, shaped=one_row_a_payout)


@click.command(
    help="Show the restaurants that owe the platform in CURRENCY, the longest first: since when"
    " available and pending are below zero together, and the entry that took most at that moment;"
    " taken is what entries of that type have taken since.\n\n--by-age adds the debts up by"
    f" their age.\n\n{_BOOKS} Amounts are in\nminor units with --csv and --json.\n"
)
@currency_argument
@click.option("--by-age", is_flag=True, help="A row for each age: 0 to 7 days, to 30, to 90, more.")
@_output_options
def red(currency: str, by_age: bool, json: bool, as_csv: bool) -> None:
    query = _query("restaurants_in_red", {"currency": _checked(currency)})
    if by_age:
        _show(query, json=json, as_csv=as_csv, shaped=one_row_an_age, currency=currency)
    else:
        _show(query, json=json, as_csv=as_csv, currency=currency)


@click.command(
    help="Show who called what, latest first: the call log, without what is in archives."
    f"\n\n{_WHERE}"
)
@click.option("--about", metavar="ID", default="", help="Only calls that name this id.")
@click.option("--method", metavar="NAME", default="", help="Only calls of it, such as RunPayouts.")
@click.option(
    "--from",
    "start",
    metavar="INSTANT",
    type=Instant(),
    help="Recorded at or after this.  [default: 30 days ago]",
)
@click.option(
    "--to", "end", metavar="INSTANT", type=Instant(), help="Recorded before this.  [default: now]"
)
@_output_options
def calls(
    about: str,
    method: str,
    start: Timestamp | None,
    end: Timestamp | None,
    json: bool,
    as_csv: bool,
) -> None:
    now = datetime.now(UTC)
    parameters: dict[str, Value] = {
        "about": about,
        "method": method,
        "recorded_from": now - _CALLS_PERIOD if start is None else start.ToDatetime(UTC),
        # The clock of the books may be ahead of this machine's.
        "recorded_before": now + _CALLS_PERIOD if end is None else end.ToDatetime(UTC),
    }
    _show(_query("calls", parameters), json=json, as_csv=as_csv)


def _load_settings() -> "Settings":
    from ledger.cli.configuration import load_settings

    return load_settings()


def _checked(currency: str) -> str:
    if not is_currency(currency):
        raise CommandFailure(
            "CURRENCY must be an ISO 4217 code in upper case", exit_status=ExitStatus.USAGE
        )
    return currency


def _query(name: str, parameters: "dict[str, Value]") -> "Query":
    async def query(engine: "AsyncEngine", _settings: "Settings") -> "Report":
        from ledger.infrastructure.postgres.verification.reports import run_query

        return await run_query(engine, name, parameters)

    return query


def _show(
    query: "Query",
    *,
    json: bool,
    as_csv: bool,
    shaped: "Callable[[Report], Report]" = lambda found: found,
    currency: str = "",
) -> None:
    """Runs a query and shows its rows. With `currency` the table has people's amounts."""
    from ledger.observability import configure_logging

    if json and as_csv:
        raise CommandFailure("--json and --csv exclude each other", exit_status=ExitStatus.USAGE)
    settings = _load_settings()
    configure_logging(settings.log_format, settings.log_level)
    found = shaped(_run_on_configured_books(settings, query))
    rows = [
        {column: _text(column, value) for column, value in zip(found.columns, row, strict=True)}
        for row in found.rows
    ]
    if json:
        # Sums may exceed what a JSON number holds everywhere, as int64 does.
        print_json_lines(dict[str, JsonValue](row) for row in rows)
    elif as_csv:
        writer = CsvWriter(sys.stdout, found.columns)
        for row in rows:
            writer.write(row)
    else:
        if rows:
            print_table(_table(found.columns, rows, currency))
        print_line(f"{len(rows) or 'no'} row{'' if len(rows) == 1 else 's'}")
    if not found.is_complete:
        report("warning", [f"there are more than {len(rows)} rows; the rest is left out"])


def _run_on_configured_books(settings: "Settings", query: "Query") -> "Report":
    """Runs `query` on the database of the settings. Raises CommandFailure."""
    from ledger.bootstrap.books import on_books
    from ledger.cli.database_failures import database_failures

    with database_failures(settings.database_url):
        return on_books(settings, lambda engine: query(engine, settings))


def _table(columns: tuple[str, ...], rows: list[dict[str, str | None]], currency: str) -> Table:
    right = frozenset(
        column
        for column in columns
        if column.endswith(("_minor", "_count", "_percent")) or column in ("rank", "sequence")
    )
    # A column of items is shown only if a payout has such an item.
    shown = [
        column
        for column in columns
        if not column.startswith("item_") or any(row[column] not in (None, "0") for row in rows)
    ]
    titles = {column: _title(column, currency) for column in shown}
    table = Table(
        list(titles.values()),
        right=frozenset(titles[column] for column in shown if column in right),
        optional=[titles[column] for column in _OPTIONAL if column in shown],
    )
    for row in rows:
        table.add(*(_cell(column, row[column], currency) for column in shown))
    return table


def _title(column: str, currency: str) -> str:
    if currency and column.endswith("_minor"):
        return f"{column.removesuffix('_minor')} {currency}"
    return column


def _cell(column: str, text: str | None, currency: str) -> str:
    if text and currency and column.endswith("_minor"):
        return format_minor(int(text), currency)
    return text or ""


def _text(column: str, value: "Value") -> str | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return instant_text(value)
    if isinstance(value, Decimal):
        # str() writes a sum such as 2000000 as 2.00E+6 if the database sent it with spare digits.
        return f"{value:f}"
    if isinstance(value, date):
        return value.isoformat()
    return str(value).lower() if column in _WORDS else str(value)
