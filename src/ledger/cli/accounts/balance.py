"""`ledger accounts balance`: shows what an account holds."""

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.balance import amounts_json, amounts_table
from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.instants import format_instant
from ledger.cli.output import JsonValue, print_json, print_line, print_table
from ledger.cli.parameters import account_argument, address_option, at_option, json_option
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
    with connect(settings) as ledger:
        response = ledger.accounts.GetAccountBalance(
            account_pb2.GetAccountBalanceRequest(account_id=account, as_of=at)
        )
    if json:
        print_json(_json_of(response))
    else:
        print_line(f"{response.account_id} as of {format_instant(response.as_of)}")
        print_table(amounts_table(amounts_of(response), response.currency))


def amounts_of(response: account_pb2.GetAccountBalanceResponse) -> dict[str, int]:
    """The parts of a balance by their names, in minor units."""
    return {
        "available": response.available_minor,
        "held": response.held_minor,
        "posted": response.posted_minor,
    }


def _json_of(response: account_pb2.GetAccountBalanceResponse) -> JsonValue:
    return {
        "account_id": response.account_id,
        "currency": response.currency,
        **amounts_json(amounts_of(response), response.currency),
        "as_of": format_instant(response.as_of),
    }
