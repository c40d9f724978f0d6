"""`ledger accounts balance`: shows what an account holds."""

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect_accounts
from ledger.cli.instants import format_instant
from ledger.cli.output import JsonValue, Table, print_json, print_line, print_table
from ledger.cli.parameters import account_argument, address_option, at_option, json_option
from ledger.cli.words import amount_of, amount_or_none
from ledger.v1 import account_pb2

HELP = """
Show what ACCOUNT holds, now or at a past instant.

Available is what it may spend, without its overdraft; held is what was
authorised and not captured; posted is both, what has not left the account.
"""


@click.command(help=HELP)
@account_argument
@at_option
@json_option
@address_option
def balance(account: str, at: Timestamp | None, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    with connect_accounts(settings) as stub:
        response = stub.GetAccountBalance(
            account_pb2.GetAccountBalanceRequest(account_id=account, as_of=at)
        )
    if json:
        print_json(_json_of(response))
    else:
        print_line(f"{response.account_id} as of {format_instant(response.as_of)}")
        print_table(_table_of(response))


def amounts_of(response: account_pb2.GetAccountBalanceResponse) -> dict[str, int]:
    """The parts of a balance by their names, in minor units."""
    return {
        "available": response.available_minor,
        "held": response.held_minor,
        "posted": response.posted_minor,
    }


def _table_of(response: account_pb2.GetAccountBalanceResponse) -> Table:
    table = Table(
        ("", response.currency, "minor units"), right=frozenset((response.currency, "minor units"))
    )
    for name, amount_minor in amounts_of(response).items():
        table.add(name, amount_of(amount_minor, response.currency), str(amount_minor))
    return table


def _json_of(response: account_pb2.GetAccountBalanceResponse) -> JsonValue:
    """The response by the contract's field names, and each amount also as people write it."""
    written: dict[str, JsonValue] = {}
    for name, amount_minor in amounts_of(response).items():
        written[f"{name}_minor"] = str(amount_minor)
        written[name] = amount_or_none(amount_minor, response.currency)
    return {
        "account_id": response.account_id,
        "currency": response.currency,
        **written,
        "as_of": format_instant(response.as_of),
    }
