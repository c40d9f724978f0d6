"""What the trial balance and the journal share: whose books, which period, which format."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import click

from ledger.cli.accounting.output_file import Unwritten
from ledger.cli.failures import CommandFailure, ExitStatus, report
from ledger.cli.output import instant_text
from ledger.cli.parameters import (
    Decorator,
    FileName,
    Month,
    SettlementDate,
    csv_option,
    json_lines_option,
)
from ledger.domain.journals import Finality, Holder, Scope
from ledger.domain.money import is_currency

# Imported when needed: the database's libraries take longer to load than most commands run.
if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from ledger.infrastructure.postgres.verification.journal import BooksReading

PERIOD = """
The period is a month, or the dates --since one and --before another, in
LEDGER_SETTLEMENT_TIMEZONE. An entry belongs to the date on which it was
recorded. Without --since the period begins with the first entry, without
--before it ends now.

All is read in one database snapshot: of transactions that were not yet
committed, nothing is in it. A period is final a minute after its end.
"""
WHERE = """
The database is that of LEDGER_DATABASE_URL, else the embedded one in
LEDGER_DATA_DIR; a server may be running on it. Nothing is written. The login may
be ledger_app or ledger_read.
"""
TABLE, CSV, JSON, PARQUET = "table", "csv", "json", "parquet"
DATA_FORMATS = (TABLE, CSV, JSON, PARQUET)


def books_options(formats: Sequence[str]) -> Callable[[Decorator], Decorator]:
    """Adds the options that say whose books, which period and how to write it."""
    options = (
        click.option("--restaurant", metavar="RESTAURANT", help="Only the books of a restaurant."),
        click.option("--account", metavar="ACCOUNT", help="Only the books of an account."),
        click.option(
            "--platform",
            is_flag=True,
            help="Only what stands in no restaurant's and no account's books.",
        ),
        click.option("--currency", metavar="CURRENCY", help="Only this currency."),
        click.option("--month", metavar="MONTH", type=Month(), help="A month, such as 2025-12."),
        click.option(
            "--since",
            "first_day",
            metavar="DATE",
            type=SettlementDate(),
            help="The first date of the period.  [default: of the first entry]",
        ),
        click.option(
            "--before",
            "end_day",
            metavar="DATE",
            type=SettlementDate(),
            help="The date after the period.  [default: tomorrow]",
        ),
        click.option(
            "--format",
            "wanted",
            metavar="FORMAT",
            type=click.Choice(formats),
            help=f"{', '.join(formats)}.  [default: {TABLE}]",
        ),
        json_lines_option,
        csv_option,
        click.option(
            "--output",
            metavar="FILE",
            type=FileName(),
            help="Write to a file, which appears when it is whole.  [default: standard output]",
        ),
    )

    def add(function: Decorator) -> Decorator:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def format_of(given: dict[str, Any]) -> str:
    """The format that the options name together. Raises CommandFailure if they name two."""
    named = {
        name for name in (given["wanted"], CSV * given["as_csv"], JSON * given["json"]) if name
    }
    if len(named) > 1:
        raise CommandFailure(
            "--format, --json and --csv exclude each other", exit_status=ExitStatus.USAGE
        )
    return named.pop() if named else TABLE


def _scope_of(given: dict[str, Any]) -> Scope:
    named = [name for name in ("restaurant", "account", "platform") if given[name]]
    if len(named) > 1:
        raise CommandFailure(
            "--restaurant, --account and --platform exclude each other",
            exit_status=ExitStatus.USAGE,
        )
    currency = given["currency"]
    if currency is not None and not is_currency(currency):
        raise CommandFailure(
            f"--currency must be an ISO 4217 code in upper case (it is {currency!r})",
            exit_status=ExitStatus.USAGE,
        )
    return Scope(given["restaurant"], given["account"], given["platform"], currency)


def _days_of(given: dict[str, Any]) -> tuple[date | None, date | None]:
    if given["month"] is None:
        return given["first_day"], given["end_day"]
    if given["first_day"] is not None or given["end_day"] is not None:
        raise CommandFailure("--month excludes --since and --before", exit_status=ExitStatus.USAGE)
    first_day, end_day = given["month"]
    return first_day, end_day


def read(
    given: dict[str, Any], written: str, write: "Callable[[BooksReading], Awaitable[None]]"
) -> None:
    """Opens the books and lets `write` read them. Raises CommandFailure."""
    from ledger.bootstrap.books import on_books
    from ledger.cli.configuration import load_settings
    from ledger.cli.database_failures import database_failures
    from ledger.errors import AccountNotFound, InvalidRequest, RestaurantNotFound
    from ledger.infrastructure.postgres.verification.journal import read_books
    from ledger.observability import configure_logging
    from ledger.zones import settlement_zone

    if written == PARQUET:
        from ledger.cli.accounting.parquet import require_pyarrow

        require_pyarrow()
    scope = _scope_of(given)
    first_day, end_day = _days_of(given)
    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)

    async def work(engine: "AsyncEngine") -> None:
        try:
            async with read_books(
                engine,
                scope,
                first_day=first_day,
                end_day=end_day,
                zone=settlement_zone(settings.settlement_timezone),
            ) as reading:
                await write(reading)
                if end_day is not None:
                    _warn_unless_final(reading)
        except InvalidRequest as error:
            option = "--month" if given["month"] else ""
            sentence = "; ".join(
                f"{option or f'--{violation.field}'} {violation.description}"
                for violation in error.violations
            )
            raise CommandFailure(sentence, exit_status=ExitStatus.USAGE) from None
        except (AccountNotFound, RestaurantNotFound) as error:
            raise CommandFailure(str(error)) from None

    try:
        with database_failures(settings.database_url):
            on_books(settings, work)
    except Unwritten as lost:
        raise lost.error from None


def _warn_unless_final(reading: "BooksReading") -> None:
    match reading.period.finality(reading.now_at):
        case Finality.OPEN:
            now = instant_text(reading.now_at)
            report("warning", [f"the period has not ended: this is what it has at {now}"])
        case Finality.JUST_ENDED:
            report(
                "warning",
                [
                    "the period has just ended: a transaction that began before its end may still"
                    " be open; run this again in a minute"
                ],
            )


def holder_name(holder: Holder) -> str:
    return holder.restaurant_id or holder.account_id or "platform"


def title(reading: "BooksReading") -> str:
    scope, period = reading.scope, reading.period
    whose = (
        scope.restaurant_id or scope.account_id or ("platform" if scope.platform else "all books")
    )
    start = "from the first entry" if period.first_day is None else f"from {period.first_day}"
    return f"{whose}, {start} to before {period.end_day}, {period.zone}"
