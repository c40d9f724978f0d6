"""`ledger accounts create`, `update`, `freeze`, `unfreeze`, `close`, `show` and `list`."""

import json
from typing import Any

import pytest
from support.commands import Outcome, run_command, table_cells
from support.events import unique
from support.paying import funded_account
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus
from ledger.client import sync_pages


async def called(ledger: RunningLedger, *arguments: str) -> Outcome:
    return await run_command("accounts", *arguments, "--address", ledger.address)


async def account_after(ledger: RunningLedger, *arguments: str) -> dict[str, Any]:
    """The account that the command shows."""
    outcome = await called(ledger, *arguments, "--json")
    assert (outcome.status, outcome.stderr) == (0, "")
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


async def test_account_is_opened_and_shown(shared_ledger: RunningLedger) -> None:
    """All of its profile, to people and to programs."""
    account_id = unique("acc")
    outcome = await called(
        shared_ledger,
        *("create", account_id, "--currency", "PEN", "--name", "Café [bold]Ñ"),
        *("--overdraft", "500.00", "--metadata", "city=Lima", "--metadata", "color=\x1b[31m"),
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    assert outcome.stdout.splitlines()[0] == f"created: account {account_id}"
    assert "\x1b" not in outcome.stdout
    rows = dict(table_cells(outcome.stdout))
    assert (rows["name"], rows["overdraft"], rows["state"]) == ("Café [bold]Ñ", "500.00", "open")
    shown = await account_after(shared_ledger, "show", account_id)
    assert (shown["account_id"], shown["currency"], shown["state"]) == (account_id, "PEN", "open")
    assert shown["overdraft"] == {"unlimited": False, "limit_minor": "50000", "limit": "500.00"}
    assert shown["metadata"] == {"city": "Lima", "color": "\x1b[31m"}


async def test_opening_may_be_repeated(shared_ledger: RunningLedger) -> None:
    """It opens nothing and shows the account as it is now; with other contents it is refused."""
    account_id = unique("bank")
    command = ("create", account_id, "--currency", "PEN", "--overdraft", "unlimited")
    first = await account_after(shared_ledger, *command)
    assert (first["status"], first["account"]["overdraft"]["unlimited"]) == ("created", True)
    await account_after(shared_ledger, "update", account_id, "--name", "Bank")
    again = await account_after(shared_ledger, *command)
    assert (again["status"], again["account"]["name"]) == ("duplicate", "Bank")
    other = await called(shared_ledger, "create", account_id, "--currency", "USD")
    assert other.status == ExitStatus.REFUSED
    assert "ALREADY_EXISTS ACCOUNT_ID_REUSED" in other.stderr


async def test_update_changes_only_the_fields_it_names(shared_ledger: RunningLedger) -> None:
    """One option after the other; amounts are in the account's currency."""
    account_id = unique("acc")
    await called(
        shared_ledger, "create", account_id, "--currency", "JPY", "--metadata", "city=Lima"
    )

    async def changed(*options: str) -> tuple[object, ...]:
        account = await account_after(shared_ledger, "update", account_id, *options)
        return account["name"], account["overdraft"]["limit_minor"], account["metadata"]

    assert await changed("--name", "Ana") == ("Ana", "0", {"city": "Lima"})
    assert await changed("--overdraft", "500") == ("Ana", "500", {"city": "Lima"})
    assert await changed("--metadata", "tier=1") == ("Ana", "500", {"city": "Lima", "tier": "1"})
    assert await changed("--remove-metadata", "city") == ("Ana", "500", {"tier": "1"})
    assert await changed("--overdraft", "unlimited") == ("Ana", None, {"tier": "1"})
    assert await changed("--name", "") == ("", None, {"tier": "1"})
    outcome = await called(shared_ledger, "update", account_id, "--name", "Bo")
    assert outcome.stdout.splitlines()[0] == f"changed: account {account_id}"
    outcome = await called(shared_ledger, "update", account_id, "--overdraft", "5.00")
    assert outcome.status == ExitStatus.USAGE
    assert outcome.stderr.startswith("error: --overdraft must be an amount in JPY such as 12,")


async def test_lost_update_is_refused(shared_ledger: RunningLedger) -> None:
    """With the etag that was read first."""
    account_id = unique("acc")
    await called(shared_ledger, "create", account_id, "--currency", "PEN")
    etag = (await account_after(shared_ledger, "show", account_id))["etag"]
    await account_after(shared_ledger, "update", account_id, "--name", "A", "--etag", etag)
    stale = await called(shared_ledger, "update", account_id, "--name", "B", "--etag", etag)
    assert stale.status == ExitStatus.REFUSED
    assert "FAILED_PRECONDITION ACCOUNT_CHANGED" in stale.stderr


async def test_account_is_frozen_opened_again_and_closed(shared_ledger: RunningLedger) -> None:
    """A closed one changes no more; one with money is not closed."""
    account_id = unique("acc")
    await called(shared_ledger, "create", account_id, "--currency", "PEN")
    for command, state, done in (
        ("freeze", "frozen", "frozen"),
        ("unfreeze", "open", "unfrozen"),
        ("close", "closed", "closed"),
    ):
        outcome = await called(shared_ledger, command, account_id)
        assert outcome.stdout.splitlines()[0] == f"{done}: account {account_id}"
        assert dict(table_cells(outcome.stdout))["state"] == state
    again = await called(shared_ledger, "unfreeze", account_id)
    assert again.status == ExitStatus.REFUSED
    assert "FAILED_PRECONDITION ACCOUNT_CLOSED" in again.stderr
    rich = await funded_account(shared_ledger, 1)
    outcome = await called(shared_ledger, "close", rich)
    assert outcome.status == ExitStatus.REFUSED
    assert "FAILED_PRECONDITION ACCOUNT_NOT_EMPTY" in outcome.stderr


async def test_list_goes_through_all_pages(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the ids. Of none there is no line of JSON."""
    monkeypatch.setattr(sync_pages, "PAGE_SIZE_MAX", 2)
    assert (await called(ledger, "list", "--json")).stdout == ""
    names = [f"acc_{number}" for number in range(5)]
    for name in names:
        await called(ledger, "create", name, "--currency", "PEN")
    outcome = await called(ledger, "list", "--json")
    assert [json.loads(line)["account_id"] for line in outcome.stdout.splitlines()] == names
    outcome = await called(ledger, "list")
    assert [row[0] for row in table_cells(outcome.stdout)] == names
    assert outcome.stdout.splitlines()[-1] == "5 accounts"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("show", "none"), "NOT_FOUND ACCOUNT_NOT_FOUND"),
        (("freeze", "none"), "NOT_FOUND ACCOUNT_NOT_FOUND"),
        (("update", "none", "--overdraft", "1.00"), "NOT_FOUND ACCOUNT_NOT_FOUND"),
        (("show", "a b"), "INVALID_ARGUMENT INVALID_REQUEST"),
        (("create", "acc_1", "--currency", "pen"), "INVALID_ARGUMENT INVALID_REQUEST"),
    ],
)
async def test_refusals_of_the_server_are_reported(
    shared_ledger: RunningLedger, arguments: tuple[str, ...], reason: str
) -> None:
    """Status 1 with the reason."""
    outcome = await called(shared_ledger, *arguments)
    assert (outcome.status, outcome.stdout) == (ExitStatus.REFUSED, "")
    assert reason in outcome.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "acc_1"),
        ("create", "acc_1", "--currency", "PEN", "--overdraft", "5.0"),
        ("create", "acc_1", "--currency", "PEN", "--overdraft", "none"),
        ("create", "acc_1", "--currency", "PEN", "--metadata", "x"),
        ("update", "acc_1"),
        ("update", "acc_1", "--metadata", "a=1", "--remove-metadata", "a"),
    ],
    ids=" ".join,
)
async def test_bad_usage_is_reported_before_any_call(arguments: tuple[str, ...]) -> None:
    """Status 2; there is no server here."""
    outcome = await run_command("accounts", *arguments)
    assert (outcome.status, outcome.stdout) == (ExitStatus.USAGE, "")
