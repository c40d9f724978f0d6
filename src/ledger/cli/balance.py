"""`ledger balance`: what a restaurant has in one currency."""

from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table

from ledger.cli.configuration import AddressOption, load_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.instants import format_instant, parse_instant
from ledger.cli.output import JsonOption, JsonValue, print_json, print_line, print_table
from ledger.domain.money import format_minor
from ledger.v1 import ledger_pb2

HELP = """
Show what RESTAURANT has in CURRENCY, now or at a past instant.

Available is what may be paid out, pending what has not matured, reserved what is inside payouts under way, disputed what is held
back for open disputes. All of them may be negative: the restaurant owes the platform then.
"""


def balance(
    restaurant: Annotated[str, typer.Argument(metavar="RESTAURANT", help="The restaurant's id.")],
    currency: Annotated[str, typer.Argument(metavar="CURRENCY", help="ISO 4217 code in upper case, such as PEN.")],
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="INSTANT", help="A past instant, such as 2025-12-01T10:00:00Z. Default: now."),
    ] = None,
    json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    settings = load_settings(address)
    instant = None if as_of is None else _parse_as_of(as_of)
    with connect(settings) as stub:
        request = ledger_pb2.GetBalanceRequest(restaurant_id=restaurant, currency=currency, as_of=instant)
        answer = stub.GetBalance(request)
    if json:
        print_json(_json_of(answer))
    else:
        last_event = format_instant(answer.last_event_at) if answer.HasField("last_event_at") else "none"
        print_line(f"{answer.restaurant_id} as of {format_instant(answer.as_of)}, last event: {last_event}")
        print_table(_table_of(answer))


def _parse_as_of(text: str) -> Timestamp:
    try:
        return parse_instant(text)
    except ValueError as error:
        raise CommandFailure(f"--as-of {error}", exit_status=ExitStatus.USAGE) from None


def _amounts_of(answer: ledger_pb2.GetBalanceResponse) -> dict[str, int]:
    return {
        "available": answer.available_minor,
        "pending": answer.pending_minor,
        "reserved": answer.reserved_minor,
        "disputed": answer.disputed_minor,
    }


def _table_of(answer: ledger_pb2.GetBalanceResponse) -> Table:
    table = Table("")
    table.add_column(answer.currency, justify="right")
    table.add_column("minor units", justify="right")
    for name, amount_minor in _amounts_of(answer).items():
        table.add_row(name, format_minor(amount_minor, answer.currency), str(amount_minor))
    return table


def _json_of(answer: ledger_pb2.GetBalanceResponse) -> JsonValue:
    """The response under its names in the contract; int64 as numbers, and each amount also as people write it."""
    written: dict[str, JsonValue] = {}
    for name, amount_minor in _amounts_of(answer).items():
        written[f"{name}_minor"] = amount_minor
        written[name] = format_minor(amount_minor, answer.currency)
    return {
        "restaurant_id": answer.restaurant_id,
        "currency": answer.currency,
        **written,
        "last_event_at": format_instant(answer.last_event_at) if answer.HasField("last_event_at") else None,
        "as_of": format_instant(answer.as_of),
    }
