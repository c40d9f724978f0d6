"""`ledger balance`: shows what a restaurant has in one currency."""

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.instants import format_instant
from ledger.cli.output import JsonValue, Table, print_json, print_line, print_table
from ledger.cli.parameters import (
    Instant,
    address_option,
    at_option,
    currency_argument,
    json_option,
    restaurant_argument,
)
from ledger.cli.words import amount_of, amount_or_none
from ledger.v1 import ledger_pb2

HELP = """
Show what RESTAURANT has in CURRENCY, now or at a past instant.

Available is what may be paid out, pending what has not matured, reserved what
is in payouts under way, disputed what is held for open disputes, reserve_held
what is held back as a reserve. A negative amount is what the restaurant owes
the platform.
"""


@click.command(help=HELP)
@restaurant_argument
@currency_argument
@at_option
# The old name. It takes no dates: with --as-of of a payout run a date means the end of that day,
# and here it would mean its beginning.
@click.option("--as-of", metavar="INSTANT", type=Instant(takes_dates=False), hidden=True)
@json_option
@address_option
def balance(
    restaurant: str,
    currency: str,
    at: Timestamp | None,
    as_of: Timestamp | None,
    json: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    with connect(settings) as ledger:
        response = ledger.service.GetBalance(
            ledger_pb2.GetBalanceRequest(
                restaurant_id=restaurant, currency=currency, as_of=as_of if at is None else at
            )
        )
    if json:
        print_json(_json_of(response))
    else:
        last_event = (
            format_instant(response.last_event_at) if response.HasField("last_event_at") else "none"
        )
        print_line(
            f"{response.restaurant_id} as of {format_instant(response.as_of)},"
            f" last event: {last_event}"
        )
        print_table(amounts_table(_amounts_of(response), response.currency))


def _amounts_of(response: ledger_pb2.GetBalanceResponse) -> dict[str, int]:
    return {
        "available": response.available_minor,
        "pending": response.pending_minor,
        "reserved": response.reserved_minor,
        "disputed": response.disputed_minor,
        "reserve_held": response.reserve_held_minor,
    }


def amounts_table(amounts: dict[str, int], currency: str) -> Table:
    """The parts of a balance, each as people write it and in minor units."""
    table = Table(("", currency, "minor units"), right=frozenset((currency, "minor units")))
    for name, amount_minor in amounts.items():
        table.add(name, amount_of(amount_minor, currency), str(amount_minor))
    return table


def amounts_json(amounts: dict[str, int], currency: str) -> dict[str, JsonValue]:
    """The parts of a balance by the contract's field names, and each also as people write it."""
    written: dict[str, JsonValue] = {}
    for name, amount_minor in amounts.items():
        written[f"{name}_minor"] = str(amount_minor)
        written[name] = amount_or_none(amount_minor, currency)
    return written


def _json_of(response: ledger_pb2.GetBalanceResponse) -> JsonValue:
    return {
        "restaurant_id": response.restaurant_id,
        "currency": response.currency,
        **amounts_json(_amounts_of(response), response.currency),
        "last_event_at": format_instant(response.last_event_at)
        if response.HasField("last_event_at")
        else None,
        "as_of": format_instant(response.as_of),
    }
