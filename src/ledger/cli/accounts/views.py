"""Shows accounts as tables for people and as JSON for programs."""

from collections.abc import Iterable

from ledger.cli.instants import format_instant
from ledger.cli.metadata import add_pairs, json_of_pairs
from ledger.cli.output import JsonValue, Table, facts
from ledger.cli.words import amount_of, amount_or_none, word_of
from ledger.v1 import account_pb2


def account_table(account: account_pb2.Account) -> Table:
    """One account."""
    table = facts()
    table.add("account", account.account_id)
    table.add("name", account.name)
    table.add("currency", account.currency)
    table.add("overdraft", _overdraft(account))
    table.add("state", account_state(account))
    add_pairs(table, account.metadata)
    table.add("opened", format_instant(account.created_at))
    table.add("last changed", format_instant(account.updated_at))
    table.add("etag", account.etag)
    return table


def accounts_table(accounts: Iterable[account_pb2.Account]) -> Table:
    """Accounts, one a row."""
    table = Table(
        ("account", "name", "currency", "overdraft", "state", "opened"),
        right=frozenset(("overdraft",)),
        optional=("opened", "name"),
    )
    for account in accounts:
        table.add(
            account.account_id,
            account.name,
            account.currency,
            _overdraft(account),
            account_state(account),
            format_instant(account.created_at),
        )
    return table


def account_state(account: account_pb2.Account) -> str:
    """The account's state as people write it."""
    return word_of(account_pb2.AccountState, account.state)


def json_of_account(account: account_pb2.Account) -> dict[str, JsonValue]:
    """The account by the contract's field names; without a limit, that of its overdraft is null."""
    overdraft = account.overdraft
    limit_minor = None if overdraft.unlimited else overdraft.limit_minor
    return {
        "account_id": account.account_id,
        "currency": account.currency,
        "name": account.name,
        "overdraft": {
            "unlimited": overdraft.unlimited,
            "limit_minor": None if limit_minor is None else str(limit_minor),
            "limit": None if limit_minor is None else amount_or_none(limit_minor, account.currency),
        },
        "state": account_state(account),
        "metadata": json_of_pairs(account.metadata),
        "created_at": format_instant(account.created_at),
        "updated_at": format_instant(account.updated_at),
        "etag": account.etag,
    }


def _overdraft(account: account_pb2.Account) -> str:
    if account.overdraft.unlimited:
        return "unlimited"
    return amount_of(account.overdraft.limit_minor, account.currency)
