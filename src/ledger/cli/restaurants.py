"""`ledger restaurants`: the restaurants' profiles."""

import json as json_text
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.table import Table

from ledger.cli.configuration import AddressOption, load_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.instants import format_instant
from ledger.cli.output import JsonOption, JsonValue, print_json, print_line, print_table
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

PAGE_SIZE = 1000

app = typer.Typer(no_args_is_help=True)

_RestaurantArgument = Annotated[str, typer.Argument(metavar="RESTAURANT", help="The restaurant's id.")]


@app.command("list")
def list_restaurants(json: JsonOption = False, address: AddressOption = None) -> None:
    """List all restaurants in the order of their ids."""
    settings = load_settings(address)
    with connect(settings) as stub:
        restaurants = list(_all_restaurants(stub))
    if json:
        print_json([_json_of(restaurant) for restaurant in restaurants])
        return
    table = Table("restaurant", "name", "active", "maturity", "registered")
    for restaurant in restaurants:
        registered = format_instant(restaurant.created_at)
        table.add_row(restaurant.restaurant_id, restaurant.name, _yes_or_no(restaurant), _maturity_of(restaurant), registered)
    print_table(table)
    print_line(f"{len(restaurants)} restaurants")


@app.command("get")
def get_restaurant(restaurant: _RestaurantArgument, json: JsonOption = False, address: AddressOption = None) -> None:
    """Show a restaurant's profile."""
    settings = load_settings(address)
    with connect(settings) as stub:
        answer = stub.GetRestaurant(ledger_pb2.GetRestaurantRequest(restaurant_id=restaurant))
    _print_restaurant(answer.restaurant, json=json)


@app.command("put")
def put_restaurant(
    restaurant: _RestaurantArgument,
    name: Annotated[str, typer.Option("--name", help="The name for people.", show_default=False)] = "",
    active: Annotated[bool, typer.Option("--active/--inactive", help="Whether payout runs pay it.")] = True,
    maturity_days: Annotated[
        int | None,
        typer.Option("--maturity-days", help="Days of 24 hours until its charges are available. Default: the server's setting."),
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="To keep with it; may be repeated.")
    ] = None,
    json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Register a restaurant, or replace its whole profile: what is left out is set to its default."""
    settings = load_settings(address)
    request = ledger_pb2.PutRestaurantRequest(
        restaurant_id=restaurant, name=name, active=active, maturity_days=maturity_days, metadata=_pairs_of(metadata or [])
    )
    with connect(settings) as stub:
        answer = stub.PutRestaurant(request)
    _print_restaurant(answer.restaurant, json=json)


def _all_restaurants(stub: "ledger_pb2_grpc.LedgerServiceStub") -> Iterator[ledger_pb2.Restaurant]:
    page_token = ""
    while True:
        answer = stub.ListRestaurants(ledger_pb2.ListRestaurantsRequest(page_size=PAGE_SIZE, page_token=page_token))
        yield from answer.restaurants
        page_token = answer.next_page_token
        if not page_token:
            return


def _pairs_of(metadata: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in metadata:
        key, equals, value = text.partition("=")
        if not equals or not key or key in pairs:
            raise CommandFailure(f"--metadata must be KEY=VALUE, each key once (it is {text!r})", exit_status=ExitStatus.USAGE)
        pairs[key] = value
    return pairs


def _print_restaurant(restaurant: ledger_pb2.Restaurant, *, json: bool) -> None:
    if json:
        print_json(_json_of(restaurant))
        return
    table = Table(show_header=False)
    table.add_row("restaurant", restaurant.restaurant_id)
    table.add_row("name", restaurant.name)
    table.add_row("active", _yes_or_no(restaurant))
    table.add_row("maturity", _maturity_of(restaurant))
    for key in sorted(restaurant.metadata):
        # As JSON text, which shows what could steer a terminal instead of sending it there.
        pair = f"{json_text.dumps(key)}: {json_text.dumps(restaurant.metadata[key])}"
        table.add_row("metadata", pair)
    table.add_row("registered", format_instant(restaurant.created_at))
    table.add_row("last put", format_instant(restaurant.updated_at))
    print_table(table)


def _yes_or_no(restaurant: ledger_pb2.Restaurant) -> str:
    return "yes" if restaurant.active else "no"


def _maturity_of(restaurant: ledger_pb2.Restaurant) -> str:
    return f"{restaurant.maturity_days} days" if restaurant.HasField("maturity_days") else "as the server is set"


def _json_of(restaurant: ledger_pb2.Restaurant) -> JsonValue:
    metadata: dict[str, JsonValue] = {key: restaurant.metadata[key] for key in sorted(restaurant.metadata)}
    return {
        "restaurant_id": restaurant.restaurant_id,
        "name": restaurant.name,
        "active": restaurant.active,
        "maturity_days": restaurant.maturity_days if restaurant.HasField("maturity_days") else None,
        "metadata": metadata,
        "created_at": format_instant(restaurant.created_at),
        "updated_at": format_instant(restaurant.updated_at),
    }
