"""Payout runs that are listed, bounded, canceled, or larger than a number."""

import asyncio
import json
from typing import Any

import grpc
import pytest
from grpc import aio
from support.audit import assert_books_in_order
from support.commands import run_command
from support.dates import today
from support.events import event_message
from support.payout_runs import charge_all, end_of_run, start_run
from support.reconciliation import assert_reconciled
from support.running import RunningLedger, running_ledger
from support.sessions import locked, waiting_sessions
from support.statuses import reason_of
from support.waiting import DEADLINE_SECONDS, until

from ledger.bootstrap.database import Database
from ledger.domain.money import INT64_MAX
from ledger.v1 import ledger_pb2

HELD = "SELECT FROM balance_accounts WHERE restaurant_id = 'res_0007' FOR UPDATE"
CANCELED = ledger_pb2.PAYOUT_RUN_STATE_CANCELED


async def get(ledger: RunningLedger, payout_run_id: str) -> ledger_pb2.PayoutRun:
    return (
        await ledger.stub.GetPayoutRun(ledger_pb2.GetPayoutRunRequest(payout_run_id=payout_run_id))
    ).payout_run


async def cancel(ledger: RunningLedger, payout_run_id: str) -> ledger_pb2.PayoutRun:
    return (
        await ledger.stub.CancelPayoutRun(
            ledger_pb2.CancelPayoutRunRequest(payout_run_id=payout_run_id)
        )
    ).payout_run


async def until_considered(ledger: RunningLedger, payout_run_id: str, restaurants: int) -> None:
    """Waits until the run has considered as many restaurants."""

    async def all_but_the_held() -> bool:
        return (await get(ledger, payout_run_id)).restaurants_considered == restaurants

    await until(all_but_the_held, DEADLINE_SECONDS)


async def test_canceled_run_keeps_its_payouts(database: Database) -> None:
    """It waits for one restaurant of 20: that one is skipped as CANCELED, the others stay paid.

    A repeat returns the same. A run that has succeeded cannot be canceled.
    """
    async with running_ledger(database) as ledger:
        await charge_all(ledger, 20)
        async with locked(database, HELD):
            run = await start_run(ledger)
            await until_considered(ledger, run.payout_run_id, 19)
            ended = await cancel(ledger, run.payout_run_id)
        assert (ended.state, ended.payouts_created, ended.restaurants_considered) == (
            CANCELED,
            19,
            19,
        )
        assert ended.HasField("finished_at")
        assert [(skipped.reason, skipped.count) for skipped in ended.skipped] == [
            (ledger_pb2.SKIP_REASON_CANCELED, 1)
        ]
        assert await cancel(ledger, run.payout_run_id) == ended
        request = ledger_pb2.ListPayoutRunItemsRequest(
            payout_run_id=run.payout_run_id, outcome=ledger_pb2.PAYOUT_RUN_ITEM_OUTCOME_SKIPPED
        )
        (item,) = (await ledger.stub.ListPayoutRunItems(request)).items
        assert (item.restaurant_id, item.skip_reason) == (
            "res_0007",
            ledger_pb2.SKIP_REASON_CANCELED,
        )
        # Another run pays the one that is left, and only that.
        again = await end_of_run(
            ledger, (await start_run(ledger, request_id="again")).payout_run_id
        )
        assert again.payouts_created == 1
        assert await get(ledger, run.payout_run_id) == ended
        with pytest.raises(aio.AioRpcError) as caught:
            await cancel(ledger, again.payout_run_id)
        assert (caught.value.code(), reason_of(caught.value)) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "PAYOUT_RUN_ENDED",
        )
    await assert_reconciled(database.migration_url)
    await assert_books_in_order(database)


async def test_cancel_undoes_the_page_under_way(database: Database) -> None:
    """A page that is not committed when the run is canceled is never paid.

    The response waits for the end of the page.
    """
    async with running_ledger(database, payout_concurrency=1) as ledger:
        await charge_all(ledger, 600)
        async with locked(database, "LOCK TABLE payout_items IN SHARE ROW EXCLUSIVE MODE") as gate:
            run = await start_run(ledger)
            await waiting_sessions(database, "payout_items")
            canceling = asyncio.create_task(cancel(ledger, run.payout_run_id))

            async def is_canceled() -> bool:
                return await ledger.query("SELECT 1 FROM payout_runs WHERE state = 'CANCELED'") == [
                    (1,)
                ]

            await until(is_canceled, DEADLINE_SECONDS)
            assert not canceling.done()
            await gate.rollback()
            ended = await canceling
        assert (ended.state, ended.payouts_created, ended.restaurants_considered) == (
            CANCELED,
            0,
            0,
        )
        assert [(skipped.reason, skipped.count) for skipped in ended.skipped] == [
            (ledger_pb2.SKIP_REASON_CANCELED, 600)
        ]
        again = await end_of_run(
            ledger, (await start_run(ledger, request_id="again")).payout_run_id
        )
        assert again.payouts_created == 600
        assert await get(ledger, run.payout_run_id) == ended
    await assert_reconciled(database.migration_url)
    await assert_books_in_order(database)


async def test_runs_under_way_are_bounded(database: Database) -> None:
    """A run beyond the limit is refused, and nothing is written.

    A repeat of an open run does not count.
    """
    async with running_ledger(database, payout_runs_open=2) as ledger:
        await charge_all(ledger, 8)
        async with locked(database, HELD):
            runs = [await start_run(ledger, request_id=f"run_{number}") for number in range(2)]
            with pytest.raises(aio.AioRpcError) as caught:
                await start_run(ledger, request_id="one_more")
            assert (caught.value.code(), reason_of(caught.value)) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_PAYOUT_RUNS",
            )
            assert (await start_run(ledger, request_id="run_1")).payout_run_id == runs[
                1
            ].payout_run_id
            await cancel(ledger, runs[0].payout_run_id)
            third = await start_run(ledger, request_id="one_more")
        await end_of_run(ledger, third.payout_run_id)
        await end_of_run(ledger, runs[1].payout_run_id)
    await assert_reconciled(database.migration_url)


@pytest.mark.both_servers
async def test_runs_are_listed_latest_first(ledger: RunningLedger) -> None:
    """In pages, by currency and by state. The command shows them too."""
    await ledger.ingest(
        *(
            event_message(restaurant_id=f"res_{currency}", currency=currency)
            for currency in ("PEN", "USD")
        )
    )
    runs = [
        await end_of_run(
            ledger,
            (await start_run(ledger, currency=currency, request_id=f"r{number}")).payout_run_id,
        )
        for number, currency in enumerate(("PEN", "USD", "PEN"))
    ]
    ids = [run.payout_run_id for run in reversed(runs)]

    async def listed(**fields: Any) -> list[str]:
        request = ledger_pb2.ListPayoutRunsRequest(**fields)
        found: list[str] = []
        while True:
            page = await ledger.stub.ListPayoutRuns(request)
            assert all(run.payouts_created == 0 for run in page.payout_runs)
            found += [run.payout_run_id for run in page.payout_runs]
            request.page_token = page.next_page_token
            if not request.page_token:
                return found

    assert await listed() == ids
    assert await listed(page_size=1) == ids
    assert await listed(currency="PEN") == [ids[0], ids[2]]
    assert await listed(
        currency="USD", state=ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED, page_size=1
    ) == [ids[1]]
    assert await listed(state=ledger_pb2.PAYOUT_RUN_STATE_RUNNING) == []
    outcome = await run_command("payouts", "runs", "--json", "--address", ledger.address)
    assert [json.loads(line)["payout_run_id"] for line in outcome.stdout.splitlines()] == ids
    outcome = await run_command(
        "payouts", "runs", "--state", "canceled", "--address", ledger.address
    )
    assert (outcome.status, outcome.stdout.strip()) == (0, "no runs")
    outcome = await run_command("payouts", "cancel", ids[0], "--address", ledger.address)
    assert (outcome.status, "PAYOUT_RUN_ENDED" in outcome.stderr) == (1, True)


async def test_run_that_pays_more_than_int64_can_be_read(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The total is the largest int64 and marked as capped, when planned, paid, listed and shown."""
    await charge_all(ledger, 3)
    # As the events of many years would add up; no single event may be so large.
    await ledger.query("ALTER TABLE ledger_entries DISABLE TRIGGER ALL")
    await ledger.query(
        "UPDATE ledger_entries SET amount_minor = 4000000000000000000 WHERE entry_type = 'CHARGE'"
    )
    capped = (INT64_MAX, True)
    got = await start_run(ledger, dry_run=True)
    assert (got.total_amount_minor, got.is_capped) == capped
    got = await end_of_run(ledger, (await start_run(ledger)).payout_run_id)
    assert (got.total_amount_minor, got.is_capped, got.payouts_created) == (*capped, 3)
    got = await start_run(ledger)
    assert (got.total_amount_minor, got.is_capped) == capped
    with pytest.raises(aio.AioRpcError) as caught:
        await cancel(ledger, got.payout_run_id)
    assert reason_of(caught.value) == "PAYOUT_RUN_ENDED"
    here = ("--address", ledger.address)
    run = ("payouts", "run", "PEN", "--as-of", today().isoformat())
    for shows in (run, ("payouts", "show", got.payout_run_id)):
        outcome = await run_command(*shows, *here)
        assert (outcome.status, "more than 92233720368547758.07 PEN" in outcome.stdout) == (
            0,
            True,
        ), outcome
        outcome = await run_command(*shows, "--json", *here)
        shown, _ = json.JSONDecoder().raw_decode(outcome.stdout)
        assert (shown["total_amount_minor"], shown["is_capped"]) == (str(INT64_MAX), True)
    # Commands that show single amounts, or no amounts.
    commands = [
        ("payouts", "runs"),
        ("payouts", "list"),
        ("payouts", "export", "--run", got.payout_run_id),
    ]
    for command in [*commands, ("balance", "res_0001", "PEN"), ("statement", "res_0001", "PEN")]:
        outcome = await run_command(*command, *here)
        assert (outcome.status, outcome.stderr) == (0, ""), outcome
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.migration_url.replace("+asyncpg", ""))
    for report in (("q1", "PEN"), ("q2",), ("q3", "PEN"), ("payouts", "res_0001")):
        for form in ((), ("--json",), ("--csv",)):
            outcome = await run_command("report", *report, *form)
            assert (outcome.status, outcome.stderr, "E+" in outcome.stdout) == (0, "", False), (
                outcome
            )


@pytest.mark.both_servers
async def test_run_without_restaurants_is_explained(ledger: RunningLedger) -> None:
    """In a currency without events. The command names the reason."""
    run = await end_of_run(ledger, (await start_run(ledger, currency="XPF")).payout_run_id)
    assert (run.restaurants_total, run.payouts_created) == (0, 0)
    outcome = await run_command(
        "payouts", "run", "XPF", "--as-of", "2026-01-31", "--address", ledger.address
    )
    assert "none has ever had an event in XPF" in outcome.stdout
