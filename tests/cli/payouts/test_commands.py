"""`ledger payouts` against a server."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from support.audit import assert_books_in_order
from support.commands import Outcome, run_command, table_cells
from support.events import event_message
from support.running import RunningLedger
from support.waiting import DEADLINE_SECONDS, until

from ledger.api.convert.payouts import encode_payout_run
from ledger.application import run_payouts
from ledger.cli.failures import ExitStatus
from ledger.client import sync_pages
from ledger.v1 import ledger_pb2

# A date that has ended in every time zone, and by which the tests' events have matured.
AS_OF = ("--as-of", "2026-01-31")


async def command(ledger: RunningLedger, *arguments: str) -> Outcome:
    """`ledger payouts` with these arguments, at this server."""
    return await run_command("payouts", *arguments, "--address", ledger.address)


async def parsed(ledger: RunningLedger, *arguments: str) -> Any:
    """The JSON that the command prints. Asserts that it succeeds without errors."""
    outcome = await command(ledger, *arguments, "--json")
    assert (outcome.status, outcome.stderr) == (0, "")
    return json.loads(outcome.stdout)


async def parsed_lines(ledger: RunningLedger, *arguments: str) -> list[Any]:
    """The JSON lines that the command prints. Asserts that it succeeds without errors."""
    outcome = await command(ledger, *arguments, "--json")
    assert (outcome.status, outcome.stderr) == (0, "")
    return [json.loads(line) for line in outcome.stdout.splitlines()]


async def exported(ledger: RunningLedger, *arguments: str) -> list[dict[str, str]]:
    """The rows of an export. Asserts that it succeeds without errors."""
    outcome = await command(ledger, "export", *arguments)
    assert (outcome.status, outcome.stderr) == (0, "")
    return list(csv.DictReader(io.StringIO(outcome.stdout)))


async def charge(ledger: RunningLedger, **amounts_minor: int) -> None:
    """A charge in PEN for each restaurant."""
    await ledger.ingest(
        *(
            event_message(restaurant_id=restaurant_id, amount_minor=amount)
            for restaurant_id, amount in amounts_minor.items()
        )
    )


async def only_payout(ledger: RunningLedger) -> str:
    """The id of the payout of a run that creates one."""
    await charge(ledger, res_1=10_000)
    await parsed(ledger, "run", "PEN", *AS_OF)
    (payout,) = await parsed_lines(ledger, "list")
    return str(payout["payout_id"])


@asynccontextmanager
async def account_locked(ledger: RunningLedger, restaurant_id: str) -> AsyncIterator[None]:
    """Locks a restaurant, so that no run ends before the block does."""
    engine = create_async_engine(ledger.database.migration_url)
    try:
        async with engine.begin() as connection:
            statement = (
                "SELECT FROM balance_accounts WHERE restaurant_id = :restaurant_id FOR UPDATE"
            )
            await connection.execute(text(statement), {"restaurant_id": restaurant_id})
            yield
    finally:
        await engine.dispose()


async def test_run_waits_and_shows_its_result(ledger: RunningLedger) -> None:
    """The payouts, their total, and the number of skipped restaurants by reason."""
    await charge(ledger, res_1=10_000, res_2=2_550, res_small=99)
    await ledger.ingest(
        event_message(ledger_pb2.EVENT_TYPE_FEE_ASSESSED, restaurant_id="res_red", amount_minor=1)
    )
    outcome = await command(ledger, "run", "PEN", *AS_OF, "--min-amount", "1.00")
    assert (outcome.status, outcome.stderr) == (0, "")
    rows = table_cells(outcome.stdout)
    for row in (
        ["state", "succeeded"],
        ["pays out by", "2026-01-31, cut-off 2026-01-31T23:59:59.999999Z"],
        ["minimum", "1.00 PEN"],
        ["restaurants", "4 of 4 considered"],
        ["payouts", "2"],
        ["total", "125.50 PEN"],
        ["skipped", "1 nothing_available"],
        ["skipped", "1 below_minimum"],
    ):
        assert row in rows
    await assert_books_in_order(ledger.database)


async def test_same_run_is_started_once(ledger: RunningLedger) -> None:
    """The same command shows the same run; a request id starts another, which pays none twice."""
    await charge(ledger, res_1=10_000)
    first = await parsed(ledger, "run", "PEN", *AS_OF)
    assert (first["payouts_created"], first["total_amount_minor"], first["total_amount"]) == (
        "1",
        "10000",
        "100.00",
    )
    assert await parsed(ledger, "run", "PEN", *AS_OF) == first
    second = await parsed(ledger, "run", "PEN", *AS_OF, "--request-id", "again")
    assert second["payout_run_id"] != first["payout_run_id"]
    assert (second["payouts_created"], second["skipped"]) == ("0", {"payout_in_flight": "1"})


async def test_dry_run_writes_nothing(ledger: RunningLedger) -> None:
    """It shows what a run would do."""
    await charge(ledger, res_1=10_000)
    plan = await parsed(ledger, "run", "PEN", *AS_OF, "--dry-run")
    assert (plan["state"], plan["payouts_created"], plan["total_amount_minor"]) == (
        "planned",
        "1",
        "10000",
    )
    assert (plan["payout_run_id"], plan["created_at"]) == (None, None)
    assert await ledger.query("SELECT payout_run_id FROM payout_runs") == []
    assert "planned" in (await command(ledger, "run", "PEN", *AS_OF, "--dry-run")).stdout


async def test_named_restaurants_are_planned_and_paid(
    ledger: RunningLedger, tmp_path: Path
) -> None:
    """From options and a file, which may begin with a byte-order mark."""
    await charge(ledger, res_1=10_000, res_2=300, res_3=500)
    await run_command(
        *("restaurants", "put", "res_1", "--min-balance", "PEN=25.00"),
        *("--address", ledger.address),
    )
    await run_command(
        *("restaurants", "hold", "res_2", "--reason", "review", "--address", ledger.address)
    )
    file = tmp_path / "restaurants.txt"
    file.write_text("res_2\r\n\nres_1\n", encoding="utf-8-sig")
    named = ("--restaurant", "res_1", "--restaurants-file", str(file))
    plan = await command(ledger, "run", "PEN", *AS_OF, *named, "--dry-run")
    assert (plan.status, plan.stderr) == (0, "")
    assert ["res_1", "payout_created", "", "", "100.00", "25.00", "75.00"] in table_cells(
        plan.stdout
    )
    assert ["res_2", "skipped", "on_hold", "", "3.00", "", ""] in table_cells(plan.stdout)
    planned = await parsed(ledger, "run", "PEN", *AS_OF, *named, "--dry-run")
    assert [item["amount_minor"] for item in planned["items"]] == ["7500", "0"]
    run = await parsed(ledger, "run", "PEN", *AS_OF, *named)
    assert (run["restaurants_named"], run["payouts_created"]) == ("2", "1")
    (payout,) = await parsed_lines(ledger, "list")
    assert (payout["restaurant_id"], payout["amount_minor"]) == ("res_1", "7500")
    shown = await command(ledger, "show", payout["payout_id"])
    assert ["left in the account", "-25.00"] in table_cells(shown.stdout)
    assert ["total", "75.00"] in table_cells(shown.stdout)


async def test_list_that_an_earlier_server_would_ignore_is_not_sent(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would pay all restaurants: its plan says that it read no names."""
    await charge(ledger, res_1=10_000)
    monkeypatch.setattr(
        "ledger.api.convert.payouts.encode_payout_run",
        lambda run, encode=encode_payout_run: encode(replace(run, restaurants_named=0)),
    )
    outcome = await command(ledger, "run", "PEN", *AS_OF, "--restaurant", "res_1")
    assert outcome.status == ExitStatus.REFUSED
    assert "does not know runs of named restaurants" in outcome.stderr
    assert await parsed_lines(ledger, "runs") == []


@pytest.mark.parametrize("text", [None, "", " \n", "\ufeff", "x" * 200_000])
async def test_file_without_restaurants_pays_nobody(tmp_path: Path, text: str | None) -> None:
    """A file that is missing, empty or too long is a usage error: no ids would mean all."""
    file = tmp_path / "restaurants.txt"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    outcome = await run_command(
        "payouts", "run", "PEN", *AS_OF, "--restaurants-file", str(file), "--address", "127.0.0.1:1"
    )
    assert outcome.status == ExitStatus.USAGE
    assert str(file) in outcome.stderr


async def test_wait_for_a_run_ends_at_its_timeout(ledger: RunningLedger) -> None:
    """Status 3. The run continues, the same command waits again, and no export is possible yet."""
    await charge(ledger, res_1=10_000)
    async with account_locked(ledger, "res_1"):
        started = await parsed(ledger, "run", "PEN", *AS_OF, "--no-wait")
        assert started["state"] == "running"
        outcome = await command(ledger, "run", "PEN", *AS_OF, "--timeout-seconds", "0.1")
        assert (outcome.status, outcome.stdout) == (ExitStatus.UNREACHABLE, "")
        first, particulars, *_ = outcome.stderr.splitlines()
        assert first == "error: the run has not ended within 0.1 s"
        assert particulars == f"  run {started['payout_run_id']} had considered 0 of 1 restaurants"
        outcome = await command(ledger, "export", "--run", started["payout_run_id"])
        assert (outcome.status, outcome.stdout) == (ExitStatus.UNREACHABLE, "")
    ended = await parsed(ledger, "run", "PEN", *AS_OF)
    assert (ended["payout_run_id"], ended["state"]) == (started["payout_run_id"], "succeeded")


async def test_wait_for_a_canceled_run_ends_with_status_1(ledger: RunningLedger) -> None:
    """The command prints the run and then the error, and so does the same command again."""
    await charge(ledger, res_1=10_000, res_2=20_000)
    async with account_locked(ledger, "res_2"):
        waiting = asyncio.create_task(command(ledger, "run", "PEN", *AS_OF, "--json"))
        found: list[ledger_pb2.Payout] = []

        async def is_paying() -> bool:
            request = ledger_pb2.ListPayoutsRequest()
            found[:] = (await ledger.stub.ListPayouts(request)).payouts
            return bool(found)

        await until(is_paying, DEADLINE_SECONDS)
        await ledger.stub.CancelPayoutRun(
            ledger_pb2.CancelPayoutRunRequest(payout_run_id=found[0].payout_run_id)
        )
    for outcome in (await waiting, await command(ledger, "run", "PEN", *AS_OF, "--json")):
        assert outcome.status == ExitStatus.REFUSED
        run = json.loads(outcome.stdout)
        assert (run["state"], run["payouts_created"], run["skipped"]) == (
            "canceled",
            "1",
            {"canceled": "1"},
        )
        assert (
            outcome.stderr.splitlines()[0]
            == "error: the run was canceled: 1 of 2 restaurants were not considered"
        )


async def test_half_a_run_is_not_exported(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not without --run either: the bank would get a file that looks whole."""
    monkeypatch.setattr(run_payouts, "PAGE_ACCOUNTS", 1)
    await charge(ledger, res_1=10_000, res_2=20_000)
    async with account_locked(ledger, "res_2"):
        run = await parsed(ledger, "run", "PEN", *AS_OF, "--no-wait")

        async def is_paying() -> bool:
            return bool(await parsed_lines(ledger, "list"))

        await until(is_paying, DEADLINE_SECONDS)
        outcome = await command(ledger, "export")
        assert (outcome.status, outcome.stdout) == (ExitStatus.UNREACHABLE, "")
        assert f"run {run['payout_run_id']} has considered 1 of 2 restaurants" in outcome.stderr
    await parsed(ledger, "run", "PEN", *AS_OF)
    # Pages are paid concurrently, so the order of their payouts is not fixed.
    assert sorted(row["restaurant_id"] for row in await exported(ledger)) == ["res_1", "res_2"]


async def test_payout_is_shown_with_items_and_history(ledger: RunningLedger) -> None:
    """To people and to programs."""
    await ledger.ingest(
        event_message(restaurant_id="res_1", amount_minor=10_000, fee_minor=500),
        event_message(
            ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, restaurant_id="res_1", amount_minor=2_000
        ),
    )
    payout_id = await only_payout(ledger)
    payout = await parsed(ledger, "show", payout_id)
    assert (payout["state"], payout["amount_minor"], payout["as_of"]) == (
        "created",
        "17500",
        "2026-01-31",
    )
    assert {item["type"]: item["amount_minor"] for item in payout["items"]} == {
        "charge": "20000",
        "fee": "-500",
        "refund": "-2000",
    }
    assert [(move["state"], move["event_id"]) for move in payout["history"]] == [("created", None)]
    outcome = await command(ledger, "show", payout_id)
    assert (outcome.status, outcome.stderr) == (0, "")
    rows = table_cells(outcome.stdout)
    for row in (
        ["payout", payout_id],
        ["amount", "175.00 PEN"],
        ["fee", "-5.00"],
        ["refund", "-20.00"],
        ["total", "175.00"],
    ):
        assert row in rows


async def test_run_is_shown_with_all_its_restaurants(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the outcome of each, over several pages."""
    monkeypatch.setattr(sync_pages, "PAGE_SIZE_MAX", 2)
    await charge(ledger, **{f"res_{number}": 100 * number for number in range(1, 6)})
    run = await parsed(ledger, "run", "PEN", *AS_OF, "--min-amount-minor", "200")
    shown, *items = await parsed_lines(ledger, "show", run["payout_run_id"])
    assert shown == run
    assert [
        (item["restaurant_id"], item["outcome"], item["skip_reason"], item["amount_minor"])
        for item in items
    ] == [
        ("res_1", "skipped", "below_minimum", "0"),
        *((f"res_{number}", "payout_created", None, str(100 * number)) for number in range(2, 6)),
    ]
    outcome = await command(ledger, "show", run["payout_run_id"])
    rows = table_cells(outcome.stdout)
    assert ["res_1", "skipped", "below_minimum", "", "1.00", "", ""] in rows
    assert ["res_5", "payout_created", "", items[-1]["payout_id"], "5.00", "", "5.00"] in rows


async def test_show_of_an_unknown_id_is_refused(ledger: RunningLedger) -> None:
    """Also of a text that is no id."""
    unknown = str(uuid4())
    outcome = await command(ledger, "show", unknown)
    assert outcome.status == ExitStatus.REFUSED
    assert (
        outcome.stderr
        == "error: NOT_FOUND PAYOUT_NOT_FOUND: neither a payout nor a payout run has the id"
        f" {unknown}\n"
    )
    outcome = await command(ledger, "show", "po_1")
    assert outcome.status == ExitStatus.REFUSED
    assert outcome.stderr.startswith("error: INVALID_ARGUMENT INVALID_REQUEST: ")


async def test_list_goes_through_all_pages(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without filters."""
    monkeypatch.setattr(sync_pages, "PAGE_SIZE_MAX", 2)
    assert await parsed_lines(ledger, "list") == []
    restaurants = [f"res_{number}" for number in range(5)]
    await charge(ledger, **dict.fromkeys(restaurants, 10_000))
    run = await parsed(ledger, "run", "PEN", *AS_OF)
    listed = await parsed_lines(ledger, "list", "--run", run["payout_run_id"])
    assert sorted(payout["restaurant_id"] for payout in listed) == restaurants
    outcome = await command(ledger, "list")
    assert outcome.stdout.splitlines()[-1] == "5 payouts"
    assert [row[0] for row in table_cells(outcome.stdout)] == [
        payout["payout_id"] for payout in listed
    ]
    assert await parsed_lines(ledger, "list", "--restaurant", "res_3", "--state", "created") == [
        payout for payout in listed if payout["restaurant_id"] == "res_3"
    ]
    assert await parsed_lines(ledger, "list", "--state", "paid") == []


async def test_paid_is_booked_once(ledger: RunningLedger) -> None:
    """A repeat is a duplicate with the same transaction id, and succeeds."""
    payout_id = await only_payout(ledger)
    first = await parsed(ledger, "paid", payout_id)
    assert (first["status"], first["payout"]["state"]) == ("created", "paid")
    assert first["event_id"] == f"cli.payout_paid.{payout_id}"
    again = await parsed(ledger, "paid", payout_id)
    assert again == first | {"status": "duplicate"}
    outcome = await command(ledger, "paid", payout_id)
    assert outcome.status == 0
    assert outcome.stdout.splitlines() == [
        f"duplicate: event cli.payout_paid.{payout_id}, transaction id {first['transaction_id']}",
        f"payout {payout_id} of 100.00 PEN to res_1 is paid",
    ]
    assert (await ledger.balance("res_1")).reserved_minor == 0
    await assert_books_in_order(ledger.database)


async def test_time_of_the_bank_is_kept(ledger: RunningLedger) -> None:
    """The instant is kept, and another one for the same payout is a contradiction."""
    payout_id = await only_payout(ledger)
    when = ("--occurred-at", "2026-02-02T08:00:00Z")
    assert (await parsed(ledger, "paid", payout_id, *when))["status"] == "created"
    assert (await parsed(ledger, "paid", payout_id, *when))["status"] == "duplicate"
    assert (await parsed(ledger, "paid", payout_id))["status"] == "duplicate"
    request = ledger_pb2.GetEventRequest(event_id=f"cli.payout_paid.{payout_id}")
    stored = (await ledger.stub.GetEvent(request)).event
    assert stored.occurred_at.ToDatetime(UTC) == datetime(2026, 2, 2, 8, tzinfo=UTC)
    outcome = await command(ledger, "paid", payout_id, "--occurred-at", "2026-02-02T09:00:00Z")
    assert outcome.status == ExitStatus.REFUSED
    assert outcome.stderr.startswith("error: ALREADY_EXISTS EVENT_ID_REUSED: ")


async def test_failed_payout_cannot_be_paid_later(ledger: RunningLedger) -> None:
    """Its money is available again, so the next run may have paid it: `paid` is refused then.

    If it was paid before it failed, it has returned.
    """
    payout_id = await only_payout(ledger)
    assert (await parsed(ledger, "failed", payout_id))["payout"]["state"] == "failed"
    assert (await ledger.balance("res_1")).available_minor == 10_000
    outcome = await command(ledger, "paid", payout_id)
    assert outcome.status == ExitStatus.REFUSED
    assert outcome.stderr.startswith("error: FAILED_PRECONDITION PAYOUT_ANSWERS_CONTRADICT: ")
    shown = await parsed(ledger, "paid", payout_id, "--occurred-at", "2026-02-01T10:00:00Z")
    assert shown["payout"]["state"] == "returned"
    assert (await ledger.balance("res_1")).available_minor == 10_000
    await assert_books_in_order(ledger.database)


async def test_paid_payout_that_fails_has_returned(ledger: RunningLedger) -> None:
    """Both events have been booked; sent again, each is a duplicate."""
    payout_id = await only_payout(ledger)
    await parsed(ledger, "paid", payout_id)
    assert (await parsed(ledger, "failed", payout_id))["payout"]["state"] == "returned"
    assert (await parsed(ledger, "failed", payout_id))["status"] == "duplicate"
    assert (await parsed(ledger, "paid", payout_id))["status"] == "duplicate"
    assert (await ledger.balance("res_1")).available_minor == 10_000
    await assert_books_in_order(ledger.database)


async def test_what_the_bank_says_is_kept_and_shown(ledger: RunningLedger) -> None:
    """Its reference, which may come later, and why it refused. Each reference is booked once."""
    payout_id = await only_payout(ledger)
    paid = await parsed(ledger, "paid", payout_id, "--bank-reference", "trace 1")
    assert paid["payout"]["bank_reference"] == "trace 1"
    later = await parsed(ledger, "reference", payout_id, "trace 2")
    again = await parsed(ledger, "reference", payout_id, "trace 2")
    assert (later["status"], again["status"]) == ("created", "duplicate")
    assert again["payout"]["bank_reference"] == "trace 2"
    assert (later["payout"]["state"], later["event_id"]) == ("paid", again["event_id"])
    outcome = await command(ledger, "reference", payout_id, "trace 3")
    assert outcome.stdout.splitlines()[-1] == "bank reference trace 3"
    why = ("--code", "AC04", "--text", "Cuenta cerrada", "--bank-reference", "trace 4")
    failed = await parsed(ledger, "failed", payout_id, *why)
    shown = await parsed(ledger, "show", payout_id)
    (listed,) = await parsed_lines(ledger, "list")
    for payout in (failed["payout"], shown, listed):
        said = [payout[name] for name in ("bank_reference", "failure_code", "failure_text")]
        assert said == ["trace 4", "AC04", "Cuenta cerrada"]
    assert [move["bank_reference"] for move in shown["history"]] == [None, "trace 1", "trace 4"]
    assert (await parsed(ledger, "failed", payout_id, *why))["status"] == "duplicate"
    other = await command(ledger, "failed", payout_id, "--code", "AC05")
    assert other.stderr.startswith("error: ALREADY_EXISTS EVENT_ID_REUSED: ")
    wrong = await command(ledger, "reference", payout_id, "")
    assert (wrong.status, "event.bank_reference" in wrong.stderr) == (ExitStatus.REFUSED, True)
    table = (await command(ledger, "show", payout_id)).stdout
    assert "AC04 Cuenta cerrada" in table
    assert "trace 4" in table
    assert "returned AC04" in (await command(ledger, "list")).stdout
    await assert_books_in_order(ledger.database)


async def test_export_has_the_payouts_in_flight(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, in the order of the list, or those of one currency or run."""
    monkeypatch.setattr(sync_pages, "PAGE_SIZE_MAX", 2)
    await charge(ledger, **{f"res_{number}": 10_005 for number in range(5)})
    await ledger.ingest(event_message(restaurant_id="res_jp", currency="JPY", amount_minor=700))
    run = await parsed(ledger, "run", "PEN", *AS_OF)
    await parsed(ledger, "run", "JPY", *AS_OF)
    listed = await parsed_lines(ledger, "list")
    await parsed(ledger, "paid", listed[-1]["payout_id"])
    columns = (
        "payout_id",
        "restaurant_id",
        "currency",
        "amount_minor",
        "amount",
        "as_of",
        "created_at",
    )
    expected = [{name: str(payout[name]) for name in columns} for payout in listed[:-1]]
    assert (expected[0]["amount"], expected[1]["amount"]) == ("700", "100.05")
    assert await exported(ledger) == expected
    assert await exported(ledger, "--currency", "JPY") == expected[:1]
    assert await exported(ledger, "--run", run["payout_run_id"]) == expected[1:]
    outcome = await command(ledger, "export", "--currency", "USD")
    assert (outcome.status, outcome.stdout) == (
        0,
        "payout_id,restaurant_id,currency,amount_minor,amount,as_of,created_at\n",
    )


async def test_submission_is_exported_with_the_same_bytes(ledger: RunningLedger) -> None:
    """In the order of payout ids, as CSV and as JSON lines, also after the bank has answered."""
    await charge(ledger, **{f"res_{number}": 10_005 + number for number in range(4)})
    run = await parsed(ledger, "run", "PEN", *AS_OF)
    made = ("export", "--submit", "sub_1", "--run", run["payout_run_id"], "--max", "3")
    first = await command(ledger, *made)
    assert (first.status, first.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(first.stdout)))
    assert [row["payout_id"] for row in rows] == sorted(row["payout_id"] for row in rows)
    assert len(rows) == 3
    listed = await parsed_lines(ledger, "list", "--submission", "sub_1", "--state", "submitted")
    assert {payout["payout_id"] for payout in listed} == {row["payout_id"] for row in rows}
    assert {payout["submission_id"] for payout in listed} == {"sub_1"}
    await parsed(ledger, "paid", rows[0]["payout_id"])
    for arguments in (made, ("export", "--submit", "sub_1")):
        assert (await command(ledger, *arguments)).stdout == first.stdout
    lines = await command(ledger, "export", "--submit", "sub_1", "--format", "jsonl")
    assert [json.loads(line) for line in lines.stdout.splitlines()] == rows
    left = await exported(ledger)
    assert [row["payout_id"] for row in left] not in [row["payout_id"] for row in rows]
    assert len(left) == 1


async def test_submission_is_shown_and_payouts_are_canceled(ledger: RunningLedger) -> None:
    """A repeat shows the same. A submitted payout is not canceled."""
    await charge(ledger, res_1=10_000, res_2=20_000)
    run = await parsed(ledger, "run", "PEN", *AS_OF)
    first, second = (str(each["payout_id"]) for each in await parsed_lines(ledger, "list"))
    canceled = await parsed(ledger, "cancel", first)
    assert (canceled["state"], await parsed(ledger, "cancel", first)) == ("canceled", canceled)
    submit = ("submit", "sub_1", "--run", run["payout_run_id"])
    made, again = [await parsed(ledger, *submit) for _ in range(2)]
    assert (made["status"], again["status"]) == ("created", "duplicate")
    assert {**made, "status": "duplicate"} == again
    assert (made["payouts_count"], made["left_out"]) == ("1", {"canceled": "1"})
    shown = await command(ledger, *submit)
    assert "left out" in shown.stdout
    refused = await command(ledger, "cancel", second)
    assert (refused.status, refused.stdout) == (ExitStatus.REFUSED, "")
    assert " PAYOUT_MOVE_NOT_ALLOWED: " in refused.stderr
    payout = await parsed(ledger, "show", second)
    assert (payout["state"], payout["submission_id"]) == ("submitted", "sub_1")
    assert payout["submitted_at"]
    assert payout["answered_at"] is None
    old = await parsed_lines(ledger, "list", "--older-than", "0s", "--currency", "PEN")
    assert [each["payout_id"] for each in old] == [second]
    assert await parsed_lines(ledger, "list", "--older-than", "1d") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "sub_1"),
        ("submit", "sub_1", "--run", str(uuid4()), "--payout", str(uuid4())),
        ("submit", "sub_1", "--payout", str(uuid4()), "--max", "1"),
        ("export", "--max", "1"),
        ("export", "--submit", "sub_1", "--currency", "PEN"),
        ("list", "--older-than", "3"),
        ("run", "PEN"),
        ("run", "PEN", "--as-of", "today"),
        ("run", "PEN", "--as-of", "20260131"),
        ("run", "PEN", "--as-of", "2026-02-30"),
        ("run", "PEN", *AS_OF, "--min", "-1"),
        ("run", "PEN", *AS_OF, "--min", "1.50"),
        ("list", "--state", "lost"),
        ("paid",),
        ("paid", str(uuid4()), "--code", "AC04"),
        ("reference", str(uuid4())),
        ("paid", str(uuid4()), "--occurred-at", "yesterday"),
        ("export", "--address", "nowhere"),
        ("export", "--currency", "pen"),
        ("export", "--currency", "XXX"),
    ],
)
async def test_bad_usage_is_reported_before_any_call(arguments: tuple[str, ...]) -> None:
    """Status 2."""
    assert (await run_command("payouts", *arguments)).status == ExitStatus.USAGE


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("run", "pen", *AS_OF), "INVALID_REQUEST"),
        (("run", "PEN", "--as-of", "9000-01-01"), "INVALID_REQUEST"),
        (("paid", str(uuid4())), "PAYOUT_NOT_FOUND"),
        (("export", "--run", str(uuid4())), "PAYOUT_RUN_NOT_FOUND"),
        (("export", "--submit", "sub_none"), "SUBMISSION_NOT_FOUND"),
        (("submit", "sub_1", "--payout", str(uuid4())), "PAYOUT_NOT_FOUND"),
        (("cancel", str(uuid4())), "PAYOUT_NOT_FOUND"),
    ],
)
async def test_refusals_of_the_server_are_reported(
    shared_ledger: RunningLedger, arguments: tuple[str, ...], reason: str
) -> None:
    """By the contract's reasons; status 1, and nothing on standard output."""
    outcome = await command(shared_ledger, *arguments)
    assert (outcome.status, outcome.stdout) == (ExitStatus.REFUSED, "")
    assert f" {reason}: " in outcome.stderr


@pytest.mark.parametrize(
    "arguments", [("run", "PEN", *AS_OF), ("list",), ("export",), ("paid", str(uuid4()))]
)
async def test_no_server_is_reported_with_what_to_do(arguments: tuple[str, ...]) -> None:
    """Status 3, for scripts that try again."""
    outcome = await run_command("payouts", *arguments, "--address", "127.0.0.1:1")
    assert (outcome.status, outcome.stdout) == (ExitStatus.UNREACHABLE, "")


@pytest.mark.parametrize(
    "name", ["run", "show", "list", "paid", "failed", "export", "submit", "cancel"]
)
async def test_each_command_has_help(name: str) -> None:
    """Several lines of it."""
    outcome = await run_command("payouts", name, "--help")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert len(outcome.stdout.splitlines()) > 8
