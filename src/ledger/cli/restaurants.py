"""`ledger restaurants`: shows and changes the restaurants' profiles."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.instants import format_instant
from ledger.cli.metadata import add_pairs, changed_keys, json_of_pairs, pairs_of
from ledger.cli.output import (
    JsonValue,
    Table,
    counted,
    facts,
    print_json,
    print_json_lines,
    print_line,
    print_table,
)
from ledger.cli.parameters import (
    Instant,
    address_option,
    json_lines_option,
    json_option,
    metadata_option,
    positive_minor_units,
    remove_metadata_option,
    restaurant_argument,
)
from ledger.cli.words import amount_of, amount_or_none
from ledger.client.sync_pages import pages_of
from ledger.v1 import ledger_pb2

PUT_HELP = """
Register RESTAURANT. If it is registered already, change the fields given and
nothing else.
"""
UPDATE_HELP = """
Change the fields given of a registered RESTAURANT, and nothing else.
"""
HOLD_HELP = """
Hold the payouts of RESTAURANT: payout runs skip it until the hold has ended.
Its events are still booked, and payouts that were created before go on. A
restaurant on hold gets the new reason and end.
"""
UNHOLD_HELP = """
End the hold of RESTAURANT: the next payout run pays it again.
"""


@click.command(help="List all restaurants in the order of their ids.")
@click.option(
    "--with-hold", is_flag=True, help="Only those that have a hold, also one that has ended."
)
@json_lines_option
@address_option
def list_restaurants(with_hold: bool, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    count = 0
    with connect(settings) as ledger:
        for page in pages_of(ledger.service.ListRestaurants, ledger_pb2.ListRestaurantsRequest()):
            restaurants = [
                restaurant
                for restaurant in page.restaurants
                if not with_hold or restaurant.HasField("payout_hold")
            ]
            count += len(restaurants)
            if json:
                print_json_lines(map(_json_of, restaurants))
            elif restaurants:
                print_table(_table_of(restaurants))
    if not json:
        print_line(counted(count, "restaurant") if with_hold else f"{count} restaurants")


@click.command(help="Show a restaurant's profile.")
@restaurant_argument
@json_option
@address_option
def show(restaurant: str, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    with connect(settings) as ledger:
        response = ledger.service.GetRestaurant(
            ledger_pb2.GetRestaurantRequest(restaurant_id=restaurant)
        )
    _print_restaurant(response.restaurant, json=json)


def _changes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say what to change."""
    for option in (
        address_option,
        json_option,
        metadata_option,
        click.option(
            "--min-balance",
            metavar="CURRENCY=AMOUNT",
            multiple=True,
            help="What payout runs leave in its account, such as PEN=50.00; may be repeated.",
        ),
        click.option(
            "--maturity-days",
            metavar="DAYS",
            help="Days of 24 hours until its charges are available, or `default`: the server's"
            " setting.",
        ),
        click.option("--active/--inactive", default=None, help="Whether payout runs pay it."),
        click.option("--name", metavar="TEXT", help="The name for people."),
    ):
        function = option(function)
    return function


@click.command(help=PUT_HELP)
@restaurant_argument
@_changes
def put_restaurant(
    restaurant: str,
    name: str | None,
    active: bool | None,
    maturity_days: str | None,
    min_balance: tuple[str, ...],
    metadata: tuple[str, ...],
    json: bool,
    address: str | None,
) -> None:
    request = _change_of(restaurant, name, active, maturity_days, metadata, ())
    _change_min_balance(request, min_balance, ())
    request.allow_missing = True
    _update(request, json=json, address=address)


@click.command(help=UPDATE_HELP)
@restaurant_argument
@_changes
@remove_metadata_option
@click.option(
    "--remove-min-balance",
    metavar="CURRENCY",
    multiple=True,
    help="A currency whose minimum to remove; may be repeated.",
)
@click.option(
    "--etag",
    metavar="ETAG",
    default="",
    help="Only if the restaurant still has this etag; `show` shows it.",
)
def update_restaurant(
    restaurant: str,
    name: str | None,
    active: bool | None,
    maturity_days: str | None,
    min_balance: tuple[str, ...],
    metadata: tuple[str, ...],
    remove_metadata: tuple[str, ...],
    remove_min_balance: tuple[str, ...],
    etag: str,
    json: bool,
    address: str | None,
) -> None:
    request = _change_of(restaurant, name, active, maturity_days, metadata, remove_metadata)
    _change_min_balance(request, min_balance, remove_min_balance)
    if not request.update_mask.paths:
        raise CommandFailure("say what to change: see --help", exit_status=ExitStatus.USAGE)
    request.restaurant.etag = etag
    _update(request, json=json, address=address)


@click.command(help=HOLD_HELP)
@restaurant_argument
@click.option("--reason", metavar="WORDS", required=True, help="Why, for people.")
@click.option(
    "--until",
    metavar="INSTANT",
    type=Instant(),
    help="When the hold ends by itself.  [default: when it is removed]",
)
@json_option
@address_option
def hold(
    restaurant: str, reason: str, until: Timestamp | None, json: bool, address: str | None
) -> None:
    if until is not None and _is_past(until):
        raise CommandFailure(
            "--until is in the past: such a hold would not hold anything; `unhold` ends a hold",
            exit_status=ExitStatus.USAGE,
        )
    request = ledger_pb2.UpdateRestaurantRequest(
        restaurant=ledger_pb2.Restaurant(
            restaurant_id=restaurant, payout_hold=ledger_pb2.PayoutHold(reason=reason, until=until)
        )
    )
    request.update_mask.paths.append("payout_hold")
    _update(request, json=json, address=address)


@click.command(help=UNHOLD_HELP)
@restaurant_argument
@json_option
@address_option
def unhold(restaurant: str, json: bool, address: str | None) -> None:
    request = ledger_pb2.UpdateRestaurantRequest(
        restaurant=ledger_pb2.Restaurant(restaurant_id=restaurant)
    )
    request.update_mask.paths.append("payout_hold")
    _update(request, json=json, address=address)


def _table_of(restaurants: Sequence[ledger_pb2.Restaurant]) -> Table:
    table = Table(
        ("restaurant", "name", "active", "on hold", "minimum", "maturity", "registered"),
        optional=("registered", "maturity", "minimum", "on hold"),
    )
    for restaurant in restaurants:
        registered = format_instant(restaurant.created_at)
        table.add(
            restaurant.restaurant_id,
            restaurant.name,
            _yes_or_no(restaurant),
            _hold_of(restaurant),
            ", ".join(_minimums_of(restaurant)),
            _maturity_of(restaurant),
            registered,
        )
    return table


def _change_of(
    restaurant: str,
    name: str | None,
    active: bool | None,
    maturity_days: str | None,
    metadata: Sequence[str],
    remove_metadata: Sequence[str],
) -> ledger_pb2.UpdateRestaurantRequest:
    """A request that changes the fields given, and nothing else. Raises CommandFailure."""
    pairs = pairs_of(metadata)
    request = ledger_pb2.UpdateRestaurantRequest(
        restaurant=ledger_pb2.Restaurant(restaurant_id=restaurant, metadata=pairs)
    )
    paths = request.update_mask.paths
    if name is not None:
        request.restaurant.name = name
        paths.append("name")
    if active is not None:
        request.restaurant.active = active
        paths.append("active")
    if maturity_days is not None:
        if maturity_days != "default":
            request.restaurant.maturity_days = _days_of(maturity_days)
        paths.append("maturity_days")
    paths.extend(f"metadata.{key}" for key in changed_keys(pairs, remove_metadata))
    return request


def _change_min_balance(
    request: ledger_pb2.UpdateRestaurantRequest, given: Sequence[str], removed: Sequence[str]
) -> None:
    """Adds the minimums that options give as CURRENCY=AMOUNT, and those to remove.

    Raises CommandFailure.
    """
    minimums = request.restaurant.min_balance_minor
    for text in given:
        currency, equals, amount = text.partition("=")
        if not equals or currency in minimums:
            raise CommandFailure(
                f"--min-balance must be CURRENCY=AMOUNT, each currency once (it is {text!r})",
                exit_status=ExitStatus.USAGE,
            )
        minimums[currency] = positive_minor_units("--min-balance", amount, currency)
    request.update_mask.paths.extend(
        f"min_balance_minor.{currency}" for currency in changed_keys(minimums, removed)
    )


def _days_of(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text):
        raise CommandFailure(
            f"--maturity-days must be a whole number of days or default (it is {text!r})",
            exit_status=ExitStatus.USAGE,
        )
    return int(text)


def _update(
    request: ledger_pb2.UpdateRestaurantRequest, *, json: bool, address: str | None
) -> None:
    """Sends the change and prints the restaurant as the server returns it."""
    settings = load_client_settings(address)
    with connect(settings) as ledger:
        response = ledger.service.UpdateRestaurant(request)
    _print_restaurant(response.restaurant, json=json)


def _print_restaurant(restaurant: ledger_pb2.Restaurant, *, json: bool) -> None:
    if json:
        print_json(_json_of(restaurant))
        return
    table = facts()
    table.add("restaurant", restaurant.restaurant_id)
    table.add("name", restaurant.name)
    table.add("active", _yes_or_no(restaurant))
    if restaurant.HasField("payout_hold"):
        table.add("payouts on hold", _hold_of(restaurant))
    for minimum in _minimums_of(restaurant):
        table.add("keeps at least", minimum)
    table.add("maturity", _maturity_of(restaurant))
    add_pairs(table, restaurant.metadata)
    table.add("registered", format_instant(restaurant.created_at))
    table.add("last changed", format_instant(restaurant.updated_at))
    table.add("etag", restaurant.etag)
    print_table(table)


def _yes_or_no(restaurant: ledger_pb2.Restaurant) -> str:
    return "yes" if restaurant.active else "no"


def _hold_of(restaurant: ledger_pb2.Restaurant) -> str:
    """Why and until when its payouts are on hold; empty without a hold."""
    if not restaurant.HasField("payout_hold"):
        return ""
    hold = restaurant.payout_hold
    if not hold.HasField("until"):
        return f"{hold.reason}, until it is removed"
    word = "ended" if _is_past(hold.until) else "until"
    return f"{hold.reason}, {word} {format_instant(hold.until)}"


def _is_past(instant: Timestamp) -> bool:
    return instant.seconds < time.time()


def _minimums_of(restaurant: ledger_pb2.Restaurant) -> list[str]:
    """What payout runs leave in its account, by currency."""
    return [
        f"{amount_of(minimum, currency)} {currency}"
        for currency, minimum in sorted(restaurant.min_balance_minor.items())
    ]


def _maturity_of(restaurant: ledger_pb2.Restaurant) -> str:
    return (
        f"{restaurant.maturity_days} days"
        if restaurant.HasField("maturity_days")
        else "as the server is set"
    )


def _json_of(restaurant: ledger_pb2.Restaurant) -> JsonValue:
    hold = restaurant.payout_hold
    minimums = sorted(restaurant.min_balance_minor.items())
    minimums_minor: dict[str, JsonValue] = {
        currency: str(minimum) for currency, minimum in minimums
    }
    return {
        "restaurant_id": restaurant.restaurant_id,
        "name": restaurant.name,
        "active": restaurant.active,
        "maturity_days": restaurant.maturity_days if restaurant.HasField("maturity_days") else None,
        "metadata": json_of_pairs(restaurant.metadata),
        "payout_hold": {
            "reason": hold.reason,
            "until": format_instant(hold.until) if hold.HasField("until") else None,
        }
        if restaurant.HasField("payout_hold")
        else None,
        "min_balance_minor": minimums_minor,
        "min_balance": {
            currency: amount_or_none(minimum, currency) for currency, minimum in minimums
        },
        "created_at": format_instant(restaurant.created_at),
        "updated_at": format_instant(restaurant.updated_at),
        "etag": restaurant.etag,
    }
