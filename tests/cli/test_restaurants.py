"""`ledger restaurants` against a server."""

import json

import pytest
from support.commands import run_command
from support.events import unique
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus
from ledger.client import sync_pages


async def test_restaurant_is_put_and_shown(shared_ledger: RunningLedger) -> None:
    """All of its profile, to people and to programs."""
    restaurant_id = unique("res")
    put = await run_command(
        *(
            "restaurants",
            "put",
            restaurant_id,
            "--name",
            "Café [bold]Ñ",
            "--inactive",
            "--maturity-days",
            "3",
        ),
        *("--metadata", "city=Lima", "--metadata", "note=a=b", "--metadata", "color=\x1b[31m"),
        *("--address", shared_ledger.address),
    )
    assert (put.status, put.stderr) == (0, "")
    assert "Café [bold]Ñ" in put.stdout
    assert "\x1b" not in put.stdout
    got = await run_command(
        "restaurants", "get", restaurant_id, "--json", "--address", shared_ledger.address
    )
    profile = json.loads(got.stdout)
    assert profile["metadata"] == {"city": "Lima", "note": "a=b", "color": "\x1b[31m"}
    assert (profile["name"], profile["active"], profile["maturity_days"]) == (
        "Café [bold]Ñ",
        False,
        3,
    )


PROFILE = (
    "--name",
    "Chifa",
    "--active",
    "--maturity-days",
    "3",
    "--metadata",
    "city=Lima",
    "--metadata",
    "tier=1",
)


@pytest.mark.parametrize("command", ["put", "update"])
async def test_command_changes_only_the_fields_it_names(
    shared_ledger: RunningLedger, command: str
) -> None:
    """One option after the other: name, maturity and metadata stay as they were."""
    restaurant_id = unique("res")
    address = ("--address", shared_ledger.address)
    await run_command("restaurants", "put", restaurant_id, *PROFILE, *address)

    async def profile_after(*options: str) -> tuple[object, ...]:
        outcome = await run_command(
            "restaurants", command, restaurant_id, *options, "--json", *address
        )
        assert (outcome.status, outcome.stderr) == (0, "")
        profile = json.loads(outcome.stdout)
        return profile["name"], profile["active"], profile["maturity_days"], profile["metadata"]

    metadata = {"city": "Lima", "tier": "1"}
    assert await profile_after("--inactive") == ("Chifa", False, 3, metadata)
    assert await profile_after("--name", "Otra") == ("Otra", False, 3, metadata)
    assert await profile_after("--metadata", "tier=2") == (
        "Otra",
        False,
        3,
        metadata | {"tier": "2"},
    )
    assert await profile_after("--maturity-days", "default") == (
        "Otra",
        False,
        None,
        metadata | {"tier": "2"},
    )
    assert await profile_after("--name", "") == ("", False, None, metadata | {"tier": "2"})


async def test_payouts_are_put_on_hold_and_paid_again(ledger: RunningLedger) -> None:
    """The reason and the end are shown, and listed with the restaurants that have a hold."""
    address = ("--address", ledger.address)
    for name in ("res_1", "res_2"):
        await run_command("restaurants", "put", name, *address)
    held = await run_command(
        *("restaurants", "hold", "res_2", "--reason", "under review"),
        *("--until", "2031-05-01", *address),
    )
    assert (held.status, held.stderr) == (0, "")
    assert "under review, until 2031-05-01T00:00:00Z" in held.stdout
    listed = await run_command("restaurants", "list", "--with-hold", "--json", *address)
    (line,) = listed.stdout.splitlines()
    assert json.loads(line)["payout_hold"] == {
        "reason": "under review",
        "until": "2031-05-01T00:00:00Z",
    }
    listed = await run_command("restaurants", "list", "--with-hold", *address)
    assert listed.stdout.splitlines()[-1] == "1 restaurant"
    past = await run_command(
        *("restaurants", "hold", "res_2", "--reason", "x", "--until", "2020-01-01", *address)
    )
    assert (past.status, "is in the past" in past.stderr) == (ExitStatus.USAGE, True)
    held = await run_command("restaurants", "hold", "res_2", "--reason", "court order", *address)
    assert "court order, until it is removed" in held.stdout
    free = await run_command("restaurants", "unhold", "res_2", "--json", *address)
    assert json.loads(free.stdout)["payout_hold"] is None
    unknown = await run_command("restaurants", "hold", "res_3", "--reason", "x", *address)
    assert (unknown.status, "RESTAURANT_NOT_FOUND" in unknown.stderr) == (ExitStatus.REFUSED, True)


async def test_minimums_are_set_and_removed_by_currency(shared_ledger: RunningLedger) -> None:
    """In whole units of their currencies."""
    restaurant_id = unique("res")
    address = ("--address", shared_ledger.address)
    put = await run_command(
        *("restaurants", "put", restaurant_id),
        *("--min-balance", "PEN=50.00", "--min-balance", "JPY=5000", *address),
    )
    assert "5000 JPY" in put.stdout
    assert "50.00 PEN" in put.stdout
    changed = await run_command(
        *("restaurants", "update", restaurant_id, "--min-balance", "USD=1"),
        *("--remove-min-balance", "JPY", "--json", *address),
    )
    profile = json.loads(changed.stdout)
    assert profile["min_balance_minor"] == {"PEN": "5000", "USD": "100"}
    assert profile["min_balance"] == {"PEN": "50.00", "USD": "1.00"}
    listed = await run_command("restaurants", "list", *address)
    assert "50.00 PEN, 1.00 USD" in listed.stdout


async def test_put_without_options_changes_no_restaurant(
    shared_ledger: RunningLedger,
) -> None:
    """It shows the profile. An unknown restaurant is registered with the defaults."""
    restaurant_id = unique("res")
    address = ("--json", "--address", shared_ledger.address)
    first = await run_command("restaurants", "put", restaurant_id, *PROFILE, *address)
    assert (await run_command("restaurants", "put", restaurant_id, *address)).stdout == first.stdout
    profile = json.loads((await run_command("restaurants", "put", unique("res"), *address)).stdout)
    assert (profile["name"], profile["active"], profile["maturity_days"]) == ("", True, None)


async def test_update_refuses_a_lost_update_and_an_unknown_restaurant(
    shared_ledger: RunningLedger,
) -> None:
    """With the etag that was read first; a key of the metadata can be removed."""
    restaurant_id = unique("res")
    address = ("--json", "--address", shared_ledger.address)
    first = json.loads(
        (await run_command("restaurants", "put", restaurant_id, *PROFILE, *address)).stdout
    )
    second = await run_command(
        "restaurants", "update", restaurant_id, "--remove-metadata", "city", *address
    )
    assert json.loads(second.stdout)["metadata"] == {"tier": "1"}
    stale = await run_command(
        "restaurants", "update", restaurant_id, "--inactive", "--etag", first["etag"], *address
    )
    assert (stale.status, "FAILED_PRECONDITION RESTAURANT_CHANGED" in stale.stderr) == (
        ExitStatus.REFUSED,
        True,
    )
    unknown = await run_command("restaurants", "update", unique("res"), "--inactive", *address)
    assert (unknown.status, "RESTAURANT_NOT_FOUND" in unknown.stderr) == (ExitStatus.REFUSED, True)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--maturity-days", "1_0"),
        ("--maturity-days", "x"),
        ("--metadata", "a=1", "--remove-metadata", "a"),
        ("--min-balance", "PEN"),
        ("--min-balance", "PEN=0"),
        ("--min-balance", "PEN=-1"),
        ("--min-balance", "PEN=1.5"),
        ("--min-balance", "pen=1"),
        ("--min-balance", "PEN=1", "--min-balance", "PEN=2"),
        ("--min-balance", "PEN=1", "--remove-min-balance", "PEN"),
    ],
)
async def test_contradicting_update_is_a_usage_error(options: tuple[str, ...]) -> None:
    """Before any call."""
    assert (
        await run_command("restaurants", "update", "res_1", *options)
    ).status == ExitStatus.USAGE


async def test_list_goes_through_all_pages(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are."""
    monkeypatch.setattr(sync_pages, "PAGE_SIZE_MAX", 2)
    names = [f"res_{number}" for number in range(5)]
    for name in names:
        await run_command("restaurants", "put", name, "--address", ledger.address)
    outcome = await run_command("restaurants", "list", "--json", "--address", ledger.address)
    assert [json.loads(line)["restaurant_id"] for line in outcome.stdout.splitlines()] == names
    outcome = await run_command("restaurants", "list", "--address", ledger.address)
    assert outcome.stdout.splitlines()[-1] == "5 restaurants"


async def test_list_of_none_is_an_empty_one(ledger: RunningLedger) -> None:
    """No line."""
    outcome = await run_command("restaurants", "list", "--json", "--address", ledger.address)
    assert (outcome.status, outcome.stdout) == (0, "")


@pytest.mark.parametrize("metadata", [("novalue",), ("=x",), ("a=1", "a=2")])
async def test_bad_metadata_is_a_usage_error(metadata: tuple[str, ...]) -> None:
    """Before any call."""
    options = [option for pair in metadata for option in ("--metadata", pair)]
    outcome = await run_command("restaurants", "put", "res_1", *options)
    assert outcome.status == ExitStatus.USAGE
    assert outcome.stderr.startswith("error: --metadata must be KEY=VALUE")


async def test_refusals_of_the_server_are_reported(shared_ledger: RunningLedger) -> None:
    """An unknown restaurant, and a value out of its range."""
    outcome = await run_command(
        "restaurants", "get", "res_none", "--address", shared_ledger.address
    )
    assert (outcome.status, "NOT_FOUND RESTAURANT_NOT_FOUND" in outcome.stderr) == (
        ExitStatus.REFUSED,
        True,
    )
    outcome = await run_command(
        "restaurants", "put", "res_1", "--maturity-days", "999", "--address", shared_ledger.address
    )
    assert outcome.status == ExitStatus.REFUSED
    assert "maturity_days must be 0 to 365" in outcome.stderr
