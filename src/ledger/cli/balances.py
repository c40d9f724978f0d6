"""`ledger balances` and `ledger maturities`."""

from collections.abc import Iterable

import click

from ledger.cli.balance import amounts_json
from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.instants import format_instant
from ledger.cli.output import JsonValue, Table, counted, print_json_lines, print_line, print_table
from ledger.cli.parameters import (
    WholeNumber,
    address_option,
    currency_argument,
    json_lines_option,
    minor_units,
)
from ledger.cli.payouts.views import format_date
from ledger.cli.words import amount_of, amount_or_none
from ledger.client.sync_pages import pages_of
from ledger.v1 import ledger_pb2

BALANCES_HELP = """
List what the restaurants have in CURRENCY now, in the order of their ids, and
the totals over all that are listed.
"""
MATURITIES_HELP = """
List what is pending in CURRENCY by the day on which it becomes available, in
the settlement time zone of the server.
"""
DAYS_MAX = 400
_AMOUNTS = ("available", "pending", "reserved", "disputed", "reserve_held")


@click.command(help=BALANCES_HELP)
@currency_argument
@click.option("--red", is_flag=True, help="Only those that owe the platform.")
@click.option(
    "--held", is_flag=True, help="Only those with something disputed or held as a reserve."
)
@click.option("--min-amount", metavar="AMOUNT", help="Only those with so much available.")
@click.option("--prefix", metavar="PREFIX", default="", help="Only ids that begin with this.")
@json_lines_option
@address_option
def balances(
    currency: str,
    red: bool,
    held: bool,
    min_amount: str | None,
    prefix: str,
    json: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    request = ledger_pb2.ListBalancesRequest(
        currency=currency,
        restaurant_id_prefix=prefix,
        in_the_red=red,
        held=held,
        min_available_minor=None
        if min_amount is None
        else minor_units("--min-amount", min_amount, currency),
        with_sums=not json,
    )
    totals: ledger_pb2.BalanceTotals | None = None
    with connect(settings) as ledger:
        for page in pages_of(ledger.service.ListBalances, request):
            if totals is None and page.HasField("totals"):
                totals = page.totals
                request.with_sums = False
            if json:
                print_json_lines(_json_of(balance, currency) for balance in page.balances)
            elif page.balances:
                print_table(_table(page.balances, currency))
    if totals is not None:
        table = Table(("total", *_AMOUNTS), right=frozenset(_AMOUNTS))
        table.add(counted(totals.restaurants_count, "restaurant"), *_shown(totals, currency))
        print_table(table)


@click.command(help=MATURITIES_HELP)
@currency_argument
@click.option("--restaurant", metavar="RESTAURANT", default="", help="Of this restaurant.")
@click.option(
    "--days",
    metavar="NUMBER",
    type=WholeNumber(1, DAYS_MAX),
    default=14,
    help="How many days, today included.  [default: 14]",
)
@json_lines_option
@address_option
def maturities(currency: str, restaurant: str, days: int, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    with connect(settings) as ledger:
        response = ledger.service.ListMaturities(
            ledger_pb2.ListMaturitiesRequest(restaurant_id=restaurant, currency=currency, days=days)
        )
    pending_minor = response.later_minor + sum(day.amount_minor for day in response.maturities)
    if json:
        print_json_lines(
            {
                "as_of": format_date(day.as_of),
                "amount_minor": str(day.amount_minor),
                "amount": amount_or_none(day.amount_minor, currency),
                "entries_count": str(day.entries_count),
            }
            for day in response.maturities
        )
        return
    table = Table(("day", currency, "entries"), right=frozenset((currency, "entries")))
    for day in response.maturities:
        table.add(
            format_date(day.as_of), amount_of(day.amount_minor, currency), str(day.entries_count)
        )
    if response.later_minor:
        table.add("later", amount_of(response.later_minor, currency), "")
    table.footer = ("pending", amount_of(pending_minor, currency), "")
    print_table(table)
    print_line(f"as of {format_instant(response.as_of)}")


def _table(found: Iterable[ledger_pb2.RestaurantBalance], currency: str) -> Table:
    table = Table(("restaurant", *_AMOUNTS), right=frozenset(_AMOUNTS))
    for balance in found:
        table.add(balance.restaurant_id, *_shown(balance, currency))
    return table


def _shown(
    amounts: "ledger_pb2.RestaurantBalance | ledger_pb2.BalanceTotals", currency: str
) -> list[str]:
    return [amount_of(getattr(amounts, f"{name}_minor"), currency) for name in _AMOUNTS]


def _json_of(balance: ledger_pb2.RestaurantBalance, currency: str) -> JsonValue:
    amounts = {name: getattr(balance, f"{name}_minor") for name in _AMOUNTS}
    return {
        "restaurant_id": balance.restaurant_id,
        "currency": currency,
        **amounts_json(amounts, currency),
        "last_event_at": format_instant(balance.last_event_at)
        if balance.HasField("last_event_at")
        else None,
        "as_of": format_instant(balance.as_of),
    }
