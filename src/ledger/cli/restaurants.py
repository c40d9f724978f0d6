"""`ledger restaurants`: shows and changes the restaurants' profiles."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.instants import format_instant
from ledger.cli.metadata import add_pairs, changed_keys, json_of_pairs, pairs_of
from ledger.cli.output import (
    JsonValue,
    Table,
    facts,
    print_json,
    print_json_lines,
    print_line,
    print_table,
)
from ledger.cli.pages import pages_of
from ledger.cli.parameters import (
    address_option,
    json_lines_option,
    json_option,
    metadata_option,
    remove_metadata_option,
    restaurant_argument,
)
from ledger.v1 import ledger_pb2

PUT_HELP = """
Register RESTAURANT. If it is registered already, change the fields given and
nothing else.
"""
UPDATE_HELP = """
Change the fields given of a registered RESTAURANT, and nothing else.
"""


@click.command(help="List all restaurants in the order of their ids.")
@json_lines_option
@address_option
def list_restaurants(json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    count = 0
    with connect(settings) as stub:
        for page in pages_of(stub.ListRestaurants, ledger_pb2.ListRestaurantsRequest()):
            count += len(page.restaurants)
            if json:
                print_json_lines(map(_json_of, page.restaurants))
            elif page.restaurants:
                print_table(_table_of(page.restaurants))
    if not json:
        print_line(f"{count} restaurants")


@click.command(help="Show a restaurant's profile.")
@restaurant_argument
@json_option
@address_option
def show(restaurant: str, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    with connect(settings) as stub:
        response = stub.GetRestaurant(ledger_pb2.GetRestaurantRequest(restaurant_id=restaurant))
    _print_restaurant(response.restaurant, json=json)


def _changes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say what to change."""
    for option in (
        address_option,
        json_option,
        metadata_option,
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
    metadata: tuple[str, ...],
    json: bool,
    address: str | None,
) -> None:
    request = _change_of(restaurant, name, active, maturity_days, metadata, ())
    request.allow_missing = True
    _update(request, json=json, address=address)


@click.command(help=UPDATE_HELP)
@restaurant_argument
@_changes
@remove_metadata_option
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
    metadata: tuple[str, ...],
    remove_metadata: tuple[str, ...],
    etag: str,
    json: bool,
    address: str | None,
) -> None:
    request = _change_of(restaurant, name, active, maturity_days, metadata, remove_metadata)
    if not request.update_mask.paths:
        raise CommandFailure("say what to change: see --help", exit_status=ExitStatus.USAGE)
    request.restaurant.etag = etag
    _update(request, json=json, address=address)


def _table_of(restaurants: Sequence[ledger_pb2.Restaurant]) -> Table:
    table = Table(
        ("restaurant", "name", "active", "maturity", "registered"),
        optional=("registered", "maturity"),
    )
    for restaurant in restaurants:
        registered = format_instant(restaurant.created_at)
        table.add(
            restaurant.restaurant_id,
            restaurant.name,
            _yes_or_no(restaurant),
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
    with connect(settings) as stub:
        response = stub.UpdateRestaurant(request)
    _print_restaurant(response.restaurant, json=json)


def _print_restaurant(restaurant: ledger_pb2.Restaurant, *, json: bool) -> None:
    if json:
        print_json(_json_of(restaurant))
        return
    table = facts()
    table.add("restaurant", restaurant.restaurant_id)
    table.add("name", restaurant.name)
    table.add("active", _yes_or_no(restaurant))
    table.add("maturity", _maturity_of(restaurant))
    add_pairs(table, restaurant.metadata)
    table.add("registered", format_instant(restaurant.created_at))
    table.add("last changed", format_instant(restaurant.updated_at))
    table.add("etag", restaurant.etag)
    print_table(table)


def _yes_or_no(restaurant: ledger_pb2.Restaurant) -> str:
    return "yes" if restaurant.active else "no"


def _maturity_of(restaurant: ledger_pb2.Restaurant) -> str:
    return (
        f"{restaurant.maturity_days} days"
        if restaurant.HasField("maturity_days")
        else "as the server is set"
    )


def _json_of(restaurant: ledger_pb2.Restaurant) -> JsonValue:
    return {
        "restaurant_id": restaurant.restaurant_id,
        "name": restaurant.name,
        "active": restaurant.active,
        "maturity_days": restaurant.maturity_days if restaurant.HasField("maturity_days") else None,
        "metadata": json_of_pairs(restaurant.metadata),
        "created_at": format_instant(restaurant.created_at),
        "updated_at": format_instant(restaurant.updated_at),
        "etag": restaurant.etag,
    }
