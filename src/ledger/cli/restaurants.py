"""`ledger restaurants`: the restaurants' profiles."""

import json as json_text
import re
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


_NameOption = Annotated[str | None, typer.Option("--name", help="The name for people.")]
_ActiveOption = Annotated[bool | None, typer.Option("--active/--inactive", help="Whether payout runs pay it.")]
_MaturityOption = Annotated[
    str | None,
    typer.Option(
        "--maturity-days",
        metavar="DAYS",
        help="Days of 24 hours until its charges are available, or default: the server's setting.",
    ),
]
_MetadataOption = Annotated[
    list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="To keep with it; may be repeated.")
]
_RemoveOption = Annotated[list[str] | None, typer.Option("--remove-metadata", metavar="KEY", help="To remove; may be repeated.")]


@app.command("put")
def put_restaurant(
    restaurant: _RestaurantArgument,
    name: _NameOption = None,
    active: _ActiveOption = None,
    maturity_days: _MaturityOption = None,
    metadata: _MetadataOption = None,
    json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Register a restaurant; of one that is registered, change what is named and nothing else."""
    request = _change_of(restaurant, name, active, maturity_days, metadata or [], [])
    request.allow_missing = True
    _update(request, json=json, address=address)


@app.command("update")
def update_restaurant(
    restaurant: _RestaurantArgument,
    name: _NameOption = None,
    active: _ActiveOption = None,
    maturity_days: _MaturityOption = None,
    metadata: _MetadataOption = None,
    remove_metadata: _RemoveOption = None,
    etag: Annotated[str, typer.Option("--etag", help="Only if the restaurant still has this etag; `get` shows it.")] = "",
    json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Change what is named of a registered restaurant, and nothing else."""
    request = _change_of(restaurant, name, active, maturity_days, metadata or [], remove_metadata or [])
    if not request.update_mask.paths:
        raise CommandFailure("name what to change: see --help", exit_status=ExitStatus.USAGE)
    request.restaurant.etag = etag
    _update(request, json=json, address=address)


def _change_of(
    restaurant: str,
    name: str | None,
    active: bool | None,
    maturity_days: str | None,
    metadata: list[str],
    remove_metadata: list[str],
) -> ledger_pb2.UpdateRestaurantRequest:
    """A request that names what was given, and nothing else. Raises CommandFailure."""
    pairs = _pairs_of(metadata)
    request = ledger_pb2.UpdateRestaurantRequest(restaurant=ledger_pb2.Restaurant(restaurant_id=restaurant, metadata=pairs))
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
    if both := sorted(set(remove_metadata) & pairs.keys()):
        raise CommandFailure(f"{both[0]!r} is both set and removed", exit_status=ExitStatus.USAGE)
    paths.extend(f"metadata.{key}" for key in sorted({*pairs, *remove_metadata}))
    return request


def _days_of(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text):
        raise CommandFailure(
            f"--maturity-days must be a whole number of days or default (it is {text!r})", exit_status=ExitStatus.USAGE
        )
    return int(text)


def _update(request: ledger_pb2.UpdateRestaurantRequest, *, json: bool, address: str | None) -> None:
    settings = load_settings(address)
    with connect(settings) as stub:
        answer = stub.UpdateRestaurant(request)
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
    table.add_row("last changed", format_instant(restaurant.updated_at))
    table.add_row("etag", restaurant.etag)
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
        "etag": restaurant.etag,
    }
