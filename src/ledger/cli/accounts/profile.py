"""`ledger accounts`: opens accounts, shows them, and changes what callers set of them."""

from typing import TYPE_CHECKING

import click

from ledger.cli.accounts.views import account_table, accounts_table, json_of_account
from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.metadata import changed_keys, pairs_of
from ledger.cli.output import counted, print_json, print_json_lines, print_line, print_table
from ledger.cli.parameters import (
    Decorator,
    account_argument,
    address_option,
    json_lines_option,
    json_option,
    metadata_option,
    minor_units,
    remove_metadata_option,
)
from ledger.cli.words import word_of
from ledger.client.sync_pages import pages_of
from ledger.v1 import account_pb2

if TYPE_CHECKING:
    from ledger.client import Ledger

UNLIMITED = "unlimited"

CREATE_HELP = """
Open ACCOUNT. May be repeated: the same id with the same currency, overdraft and
name opens nothing and shows the account as it is now.
"""
UPDATE_HELP = """
Change the fields given of ACCOUNT, and nothing else.
"""
FREEZE_HELP = """
Freeze ACCOUNT: what would pay it or take from it is declined. Its own money
still comes back to it, by voids, expiries and refunds.
"""
UNFREEZE_HELP = """
Open a frozen ACCOUNT again: it pays and is paid.
"""
CLOSE_HELP = """
Close ACCOUNT for ever. It must have nothing available and nothing held, and owe
nothing. What is held for a payment to it can no longer be captured, only voided;
payments from or to it can no longer be refunded.
"""


def _overdraft_option(function: Decorator) -> Decorator:
    return click.option(
        "--overdraft",
        metavar="AMOUNT|unlimited",
        help="How far below zero it may go, such as 500.00; unlimited for the world outside, such"
        " as a bank.",
    )(function)


def _name_option(function: Decorator) -> Decorator:
    return click.option("--name", metavar="TEXT", help="The name for people.")(function)


@click.command(help=CREATE_HELP)
@account_argument
@click.option(
    "--currency",
    metavar="CURRENCY",
    required=True,
    help="ISO 4217 code in upper case, such as PEN; it never changes.",
)
@_name_option
@_overdraft_option
@metadata_option
@json_option
@address_option
def create(
    account: str,
    currency: str,
    name: str | None,
    overdraft: str | None,
    metadata: tuple[str, ...],
    json: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    request = account_pb2.CreateAccountRequest(
        account_id=account,
        currency=currency,
        name=name or "",
        overdraft=None if overdraft is None else _overdraft_of(overdraft, currency),
        metadata=pairs_of(metadata),
    )
    with connect(settings) as ledger:
        response = ledger.accounts.CreateAccount(request)
    status = word_of(account_pb2.CreateAccountStatus, response.status)
    if json:
        print_json({"status": status, "account": json_of_account(response.account)})
        return
    print_line(f"{status}: account {response.account.account_id}")
    print_table(account_table(response.account))


@click.command(help=UPDATE_HELP)
@account_argument
@_name_option
@_overdraft_option
@metadata_option
@remove_metadata_option
@click.option(
    "--etag",
    metavar="ETAG",
    default="",
    help="Only if the account still has this etag; `show` shows it.",
)
@json_option
@address_option
def update(
    account: str,
    name: str | None,
    overdraft: str | None,
    metadata: tuple[str, ...],
    remove_metadata: tuple[str, ...],
    etag: str,
    json: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    pairs = pairs_of(metadata)
    request = account_pb2.UpdateAccountRequest(
        account=account_pb2.Account(account_id=account, metadata=pairs, etag=etag)
    )
    paths = request.update_mask.paths
    if name is not None:
        request.account.name = name
        paths.append("name")
    if overdraft is not None:
        paths.append("overdraft")
    paths.extend(f"metadata.{key}" for key in changed_keys(pairs, remove_metadata))
    if not paths:
        raise CommandFailure("say what to change: see --help", exit_status=ExitStatus.USAGE)
    with connect(settings) as ledger:
        if overdraft is not None:
            # An amount means nothing without its currency, which an account never changes.
            currency = "" if overdraft == UNLIMITED else _account(ledger, account).currency
            request.account.overdraft.CopyFrom(_overdraft_of(overdraft, currency))
        response = ledger.accounts.UpdateAccount(request)
    _print_changed("changed", response.account, json=json)


@click.command(help=FREEZE_HELP)
@account_argument
@json_option
@address_option
def freeze(account: str, json: bool, address: str | None) -> None:
    _change_state("frozen", account, account_pb2.ACCOUNT_STATE_FROZEN, json=json, address=address)


@click.command(help=UNFREEZE_HELP)
@account_argument
@json_option
@address_option
def unfreeze(account: str, json: bool, address: str | None) -> None:
    _change_state("unfrozen", account, account_pb2.ACCOUNT_STATE_OPEN, json=json, address=address)


@click.command(help=CLOSE_HELP)
@account_argument
@json_option
@address_option
def close(account: str, json: bool, address: str | None) -> None:
    _change_state("closed", account, account_pb2.ACCOUNT_STATE_CLOSED, json=json, address=address)


@click.command(help="Show an account; `balance` shows what it holds.")
@account_argument
@json_option
@address_option
def show(account: str, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    with connect(settings) as ledger:
        found = _account(ledger, account)
    _print_account(found, json=json)


@click.command(help="List all accounts in the order of their ids.")
@json_lines_option
@address_option
def list_accounts(json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    count = 0
    with connect(settings) as ledger:
        for page in pages_of(ledger.accounts.ListAccounts, account_pb2.ListAccountsRequest()):
            count += len(page.accounts)
            if json:
                print_json_lines(map(json_of_account, page.accounts))
            elif page.accounts:
                print_table(accounts_table(page.accounts))
    if not json:
        print_line(counted(count, "account"))


def _account(ledger: "Ledger", account_id: str) -> account_pb2.Account:
    return ledger.get_account(account_id)


def _overdraft_of(text: str, currency: str) -> account_pb2.Overdraft:
    if text == UNLIMITED:
        return account_pb2.Overdraft(unlimited=True)
    return account_pb2.Overdraft(limit_minor=minor_units("--overdraft", text, currency))


def _change_state(
    done: str,
    account: str,
    state: "account_pb2.AccountState.ValueType",
    *,
    json: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    request = account_pb2.UpdateAccountRequest(
        account=account_pb2.Account(account_id=account, state=state)
    )
    request.update_mask.paths.append("state")
    with connect(settings) as ledger:
        response = ledger.accounts.UpdateAccount(request)
    _print_changed(done, response.account, json=json)


def _print_changed(done: str, account: account_pb2.Account, *, json: bool) -> None:
    if not json:
        print_line(f"{done}: account {account.account_id}")
    _print_account(account, json=json)


def _print_account(account: account_pb2.Account, *, json: bool) -> None:
    if json:
        print_json(json_of_account(account))
    else:
        print_table(account_table(account))
