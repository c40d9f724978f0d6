"""One type for each kind of value on the command line, and the options that many commands share.

docs/cli.md describes the kinds of values for users.
"""

import re
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.domain.money import INT64_MAX, parse_major

# Imported only when a value needs it: most calls have no such value.
if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from google.protobuf.timestamp_pb2 import Timestamp
    from google.type import date_pb2

Decorator = TypeVar("Decorator", bound=Callable[..., Any])

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DIGITS_MAX = 19
_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


class WholeNumber(click.ParamType[int]):
    """A whole number in the digits 0 to 9: no sign, point, exponent, blank or underscore."""

    name = "number"

    def __init__(self, least: int = 0, most: int = INT64_MAX) -> None:
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not re.fullmatch("[0-9]+", value):
            self.fail(f"must be a whole number, in the digits 0 to 9 (it is {value!r})", param, ctx)
        number = int(value.lstrip("0")[: _DIGITS_MAX + 1] or "0")
        if not self._least <= number <= self._most:
            self.fail(f"must be {self._least} to {self._most} (it is {value!r})", param, ctx)
        return number


class Seconds(click.ParamType[float]):
    """A time in seconds, with or without a fraction."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, int | float):
            return value
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
            self.fail(
                f"must be a number of seconds such as 30 or 0.5 (it is {value!r})", param, ctx
            )
        return float(value)


class Instant(click.ParamType[Any]):
    """An instant, or a date, which means its first instant in UTC."""

    name = "instant"

    def __init__(self, *, takes_dates: bool = True) -> None:
        self._takes_dates = takes_dates

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "Timestamp":
        from ledger.cli.instants import parse_instant

        if not isinstance(value, str):
            found: Timestamp = value
            return found
        is_date = self._takes_dates and _DATE.fullmatch(value)
        try:
            return parse_instant(f"{value}T00:00:00Z" if is_date else value)
        except ValueError as error:
            dates = (
                ", or a date such as 2025-12-01, which means 00:00 UTC" if self._takes_dates else ""
            )
            self.fail(f"{error}{dates} (it is {value!r})", param, ctx)


class SettlementDate(click.ParamType[date]):
    """A date of the settlement time zone."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        try:
            # `fromisoformat` also accepts 20251201 and 2025-W49-1.
            found = date.fromisoformat(value) if _DATE.fullmatch(value) else None
        except ValueError:
            found = None
        if found is None:
            self.fail(f"must be a date such as 2025-12-01 (it is {value!r})", param, ctx)
        return found


class Month(click.ParamType[tuple[date, date]]):
    """A month: its first date, and that of the next month."""

    name = "month"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[date, date]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch("([0-9]{4})-(0[1-9]|1[0-2])", value)
        if match is None or not 1 <= int(match[1]) < date.max.year:
            self.fail(f"must be a month such as 2025-12 (it is {value!r})", param, ctx)
        first = date(int(match[1]), int(match[2]), 1)
        return first, (first + timedelta(days=31)).replace(day=1)


class Word(click.ParamType[str]):
    """One of the contract's words, in either case, with its prefix or without.

    fee, FEE and ENTRY_TYPE_FEE are the same; the value is the word in lower case: fee.
    """

    name = "word"

    def __init__(self, prefix: str, words: Sequence[str]) -> None:
        self._prefix = prefix
        self.words = tuple(words)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        word: str = value.upper().removeprefix(self._prefix).lower().replace("-", "_")
        if word not in self.words:
            self.fail(f"must be one of {', '.join(self.words)} (it is {value!r})", param, ctx)
        return word

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in self.words if word.startswith(incomplete.lower())]


class Duration(click.ParamType[timedelta]):
    """A time in whole seconds, minutes, hours or days of 24 hours."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        if isinstance(value, timedelta):
            return value
        match = re.fullmatch("([0-9]{1,7})([smhd])", value)
        if match is None:
            self.fail(
                f"must be a number with s, m, h or d, such as 30m or 7d (it is {value!r})",
                param,
                ctx,
            )
        return int(match[1]) * _UNITS[match[2]]


class FileName(click.ParamType[Path]):
    """The name of a file, which shells complete."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


def date_message(day: date) -> "date_pb2.Date":
    """The date as a message of the contract."""
    from google.type import date_pb2

    return date_pb2.Date(year=day.year, month=day.month, day=day.day)


def minor_units(name: str, amount: str, currency: str) -> int:
    """The amount that the parameter `name` gives in whole units, 12.50, in minor units.

    Raises CommandFailure.
    """
    try:
        return parse_major(amount, currency)
    except ValueError as error:
        raise CommandFailure(
            f"{name} {error} (it is {amount!r})", exit_status=ExitStatus.USAGE
        ) from None


def positive_minor_units(name: str, amount: str, currency: str) -> int:
    """As `minor_units`, but more than 0. Raises CommandFailure."""
    amount_minor = minor_units(name, amount, currency)
    if not amount_minor:
        raise CommandFailure(f"{name} must be more than 0", exit_status=ExitStatus.USAGE)
    return amount_minor


def restaurant_argument(function: Decorator) -> Decorator:
    """Adds RESTAURANT."""
    return click.argument("restaurant", metavar="RESTAURANT", help="The restaurant's id.")(function)


def currency_argument(function: Decorator) -> Decorator:
    """Adds CURRENCY."""
    return click.argument(
        "currency", metavar="CURRENCY", help="ISO 4217 code in upper case, such as PEN."
    )(function)


def account_argument(function: Decorator) -> Decorator:
    """Adds ACCOUNT."""
    return click.argument("account", metavar="ACCOUNT", help="The account's id.")(function)


def payment_argument(function: Decorator) -> Decorator:
    """Adds PAYMENT."""
    return click.argument("payment", metavar="PAYMENT", help="The payment's id.")(function)


def period_options(function: Decorator) -> Decorator:
    """Adds --from and --to, the bounds of a statement."""
    start = click.option(
        "--from",
        "start",
        metavar="INSTANT",
        type=Instant(),
        help="Entries recorded at or after this.  [default: from the first entry]",
    )
    end = click.option(
        "--to",
        "end",
        metavar="INSTANT",
        type=Instant(),
        help="Entries recorded before this; not in the future.  [default: now]",
    )
    return start(end(function))


def at_option(function: Decorator) -> Decorator:
    """Adds --at, the instant of a balance."""
    return click.option(
        "--at",
        metavar="INSTANT",
        type=Instant(),
        help="A past instant, such as 2025-12-01T10:00:00Z: what was recorded before it counts."
        "  [default: now]",
    )(function)


def metadata_option(function: Decorator) -> Decorator:
    """Adds --metadata."""
    return click.option(
        "--metadata",
        metavar="KEY=VALUE",
        multiple=True,
        help="A pair to store with it; may be repeated.",
    )(function)


def remove_metadata_option(function: Decorator) -> Decorator:
    """Adds --remove-metadata."""
    return click.option(
        "--remove-metadata", metavar="KEY", multiple=True, help="A key to remove; may be repeated."
    )(function)


def json_option(function: Decorator) -> Decorator:
    """Adds --json, for a command that shows one thing."""
    return click.option("--json", "json", is_flag=True, help="Print JSON, for programs.")(function)


def json_lines_option(function: Decorator) -> Decorator:
    """Adds --json, for a command that lists things."""
    return click.option(
        "--json", "json", is_flag=True, help="Print JSON lines, one object a line, for programs."
    )(function)


def csv_option(function: Decorator) -> Decorator:
    """Adds --csv."""
    return click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")(
        function
    )


def address_option(function: Decorator) -> Decorator:
    """Adds --address, for a command that calls a server, and for `serve` itself."""
    text = "The server: host:port, or unix:path.  [default: LEDGER_GRPC_ADDRESS]"
    return click.option("--address", metavar="HOST:PORT", help=text)(function)
