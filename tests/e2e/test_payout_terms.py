"""Holds, minimums that stay in the account, and runs of named restaurants."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from grpc import aio
from support.audit import assert_books_in_order
from support.bad_requests import refusal
from support.dates import days_ago
from support.events import event_message
from support.payout_runs import (
    answer,
    finished_run,
    items_of,
    outcomes_of,
    payout_of,
    payouts_of,
    plan_run,
    run_items_of,
    start_run,
)
from support.reconciliation import assert_reconciled
from support.running import RunningLedger, running_ledger

from ledger.bootstrap.database import Database
from ledger.v1 import ledger_pb2

pytestmark = pytest.mark.both_servers

FAILED = ledger_pb2.EVENT_TYPE_PAYOUT_FAILED
PAID = ledger_pb2.EVENT_TYPE_PAYOUT_PAID


async def update(ledger: RunningLedger, name: str, *paths: str, **fields: Any) -> None:
    request = ledger_pb2.UpdateRestaurantRequest(
        restaurant=ledger_pb2.Restaurant(restaurant_id=name, **fields), allow_missing=True
    )
    request.update_mask.paths.extend(paths)
    await ledger.stub.UpdateRestaurant(request)


async def keep(ledger: RunningLedger, name: str, **minimums: int) -> None:
    """Sets the minimums of a restaurant, by currency."""
    await update(ledger, name, "min_balance_minor", min_balance_minor=minimums)


async def hold(ledger: RunningLedger, name: str, days: int | None = None) -> None:
    """Puts a restaurant on hold until so many days from now; None: without an end."""
    payout_hold = ledger_pb2.PayoutHold(reason="under review")
    if days is not None:
        payout_hold.until.FromDatetime(datetime.now(UTC) + timedelta(days=days))
    await update(ledger, name, "payout_hold", payout_hold=payout_hold)


async def charge(ledger: RunningLedger, name: str, amount_minor: int, **fields: Any) -> None:
    await ledger.ingest(event_message(restaurant_id=name, amount_minor=amount_minor, **fields))


async def outcomes(ledger: RunningLedger, **fields: Any) -> dict[str, str]:
    """What a new run does with each restaurant; its plan is the same."""
    plan = (await plan_run(ledger, **fields)).payout_run
    run = await finished_run(ledger, **fields)
    assert list(plan.skipped) == list(run.skipped)
    assert (plan.payouts_created, plan.total_amount_minor, plan.restaurants_named) == (
        run.payouts_created,
        run.total_amount_minor,
        run.restaurants_named,
    )
    return await outcomes_of(ledger, run)


async def test_hold_keeps_a_restaurant_out_of_runs_until_it_ends(database: Database) -> None:
    """By the database's clock, or when it is removed. A payout in flight goes on."""
    async with running_ledger(database) as ledger:
        for name in ("res_free", "res_held", "res_later", "res_over"):
            await charge(ledger, name, 1_000)
        await hold(ledger, "res_held")
        await hold(ledger, "res_later", 1)
        await hold(ledger, "res_over", -1)
        assert await outcomes(ledger) == {
            "res_free": "1000",
            "res_held": "ON_HOLD",
            "res_later": "ON_HOLD",
            "res_over": "1000",
        }
        await hold(ledger, "res_over")
        await answer(ledger, "res_over", PAID)
        await update(ledger, "res_held", "payout_hold")
        await hold(ledger, "res_later", -1)
        await update(ledger, "res_free", "active", active=False)
        await hold(ledger, "res_free")
        assert await outcomes(ledger, request_id="again") == {
            "res_free": "INACTIVE",
            "res_held": "1000",
            "res_later": "1000",
            "res_over": "ON_HOLD",
        }
    await assert_reconciled(database.migration_url)
    await assert_books_in_order(database)


@pytest.mark.parametrize(
    ("available", "kept", "minimum", "outcome"),
    [
        (1_000, 0, 0, "1000"),
        (1_000, 1, 0, "999"),
        (1_000, 999, 0, "1"),
        (1_000, 999, 1, "1"),
        (1_000, 999, 2, "MIN_BALANCE"),
        (1_000, 1_000, 0, "MIN_BALANCE"),
        (1_000, 10**12, 0, "MIN_BALANCE"),
        (1_000, 500, 500, "500"),
        (1_000, 500, 501, "MIN_BALANCE"),
        (1_000, 500, 1_000, "MIN_BALANCE"),
        (1_000, 500, 1_001, "BELOW_MINIMUM"),
        (-1, 500, 0, "NOTHING_AVAILABLE"),
    ],
)
async def test_minimum_stays_in_the_account(
    shared_ledger: RunningLedger, available: int, kept: int, minimum: int, outcome: str
) -> None:
    """The run pays what is above it, and the item says what was available and what was kept."""
    name = f"res_keep_{available}_{kept}_{minimum}"
    if available > 0:
        await charge(shared_ledger, name, available, currency="SEK")
    else:
        await shared_ledger.ingest(
            event_message(
                ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
                restaurant_id=name,
                currency="SEK",
                amount_minor=-available,
            )
        )
    if kept:
        await keep(shared_ledger, name, SEK=kept, PEN=1)
    fields: dict[str, Any] = {
        "currency": "SEK",
        "restaurant_ids": [name],
        "min_amount_minor": minimum,
    }
    (planned,) = (await plan_run(shared_ledger, **fields)).items
    assert (await outcomes(shared_ledger, **fields)) == {name: outcome}
    run = await start_run(shared_ledger, **fields)
    (item,) = await run_items_of(shared_ledger, run)
    assert (item.available_minor, item.retained_minor) == (
        available,
        min(kept, max(available, 0)),
    )
    item.payout_id = ""
    assert planned == item
    assert (await shared_ledger.balance(name, "SEK")).available_minor == (
        min(kept, available) if outcome.isdecimal() else available
    )


async def test_items_explain_a_payout_that_leaves_money_in_the_account(
    database: Database,
) -> None:
    """They add up to what is paid and what is left, less what the payout before left."""
    async with running_ledger(database) as ledger:
        shown: list[tuple[int, int, int, dict[str, int]]] = []

        async def pay(request_id: str) -> None:
            await finished_run(ledger, as_of=days_ago(0), request_id=request_id)
            payout = await payout_of(ledger, "res_1")
            shown.append(
                (
                    payout.amount_minor,
                    payout.retained_before_minor,
                    payout.retained_minor,
                    items_of(payout),
                )
            )

        await charge(ledger, "res_1", 15_000)
        await keep(ledger, "res_1", PEN=5_000)
        await pay("first")
        await answer(ledger, "res_1", PAID, FAILED)
        await keep(ledger, "res_1", PEN=14_000)
        await pay("less")
        await answer(ledger, "res_1", FAILED)
        await update(ledger, "res_1", "min_balance_minor.PEN")
        await pay("all")
        assert shown == [
            (10_000, 0, 5_000, {"CHARGE": 15_000}),
            (1_000, 5_000, 14_000, {"PAYOUT_RETURN": 10_000}),
            (15_000, 14_000, 0, {"PAYOUT_REVERSAL": 1_000}),
        ]
        # Nothing but what was left: a payout without items.
        await answer(ledger, "res_1", FAILED)
        await keep(ledger, "res_1", PEN=14_999)
        await pay("unit")
        await answer(ledger, "res_1", PAID)
        await keep(ledger, "res_1")
        await finished_run(ledger, as_of=days_ago(0))
        assert len(await payouts_of(ledger, restaurant_id="res_1")) == 4, "paid for the date"
    await assert_reconciled(database.migration_url)
    await assert_books_in_order(database)


async def test_refund_that_matured_after_the_cutoff_is_not_paid(database: Database) -> None:
    """The payout counts without it, and leaves what it took; the next one counts both."""
    async with running_ledger(database) as ledger:
        await charge(ledger, "res_1", 1_000)
        begin = datetime.combine(days_ago(0), datetime.min.time(), UTC)
        refund = event_message(
            ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, restaurant_id="res_1", amount_minor=300
        )
        refund.available_at.FromDatetime(begin)
        refund.occurred_at.FromDatetime(begin - timedelta(days=1))
        await ledger.ingest(refund)
        run = await finished_run(ledger, as_of=days_ago(1))
        (item,) = await run_items_of(ledger, run)
        assert (item.amount_minor, item.available_minor, item.retained_minor) == (700, 700, 0)
        payout = await payout_of(ledger, "res_1")
        assert (payout.amount_minor, payout.retained_minor) == (700, 300)
        await answer(ledger, "res_1", PAID)
        assert await outcomes(ledger) == {"res_1": "NOTHING_AVAILABLE"}
        await charge(ledger, "res_1", 50)
        await finished_run(ledger, request_id="again")
        payout = await payout_of(ledger, "res_1")
        assert (payout.amount_minor, payout.retained_before_minor, payout.retained_minor) == (
            50,
            300,
            0,
        )
        assert items_of(payout) == {"CHARGE": 50, "REFUND": -300}
    await assert_reconciled(database.migration_url)
    await assert_books_in_order(database)


async def test_what_was_left_is_paid_without_new_entries(database: Database) -> None:
    """The items of such a payout are none: it pays what the payout before left."""
    async with running_ledger(database) as ledger:
        await charge(ledger, "res_1", 900)
        await keep(ledger, "res_1", PEN=600)
        await finished_run(ledger, as_of=days_ago(1))
        await answer(ledger, "res_1", PAID)
        await keep(ledger, "res_1")
        await finished_run(ledger, as_of=days_ago(0))
        payout = await payout_of(ledger, "res_1")
        assert (payout.amount_minor, payout.retained_before_minor, payout.retained_minor) == (
            600,
            600,
            0,
        )
        assert not payout.items
    await assert_reconciled(database.migration_url)
    await assert_books_in_order(database)


async def test_run_of_named_restaurants_pays_only_these(database: Database) -> None:
    """Order and repeats do not matter; another list is another run, as is the one of all."""
    async with running_ledger(database) as ledger:
        for place in range(5):
            await charge(ledger, f"res_{place}", 100 + place)
        await charge(ledger, "res_usd", 1, currency="USD")
        names = ["res_3", "res_1", "res_usd"]
        run = await finished_run(ledger, restaurant_ids=names)
        assert (run.restaurants_named, run.restaurants_total, run.payouts_created) == (3, 2, 2)
        assert run.request_id == ""
        assert await outcomes_of(ledger, run) == {"res_1": "101", "res_3": "103"}
        again = await start_run(ledger, restaurant_ids=["res_usd", *names[::-1], "res_1"])
        assert again == run
        assert {payout.restaurant_id for payout in await payouts_of(ledger)} == {"res_1", "res_3"}
        other = await finished_run(ledger, restaurant_ids=["res_1"])
        assert await outcomes_of(ledger, other) == {"res_1": "PAYOUT_IN_FLIGHT"}
        everybody = await finished_run(ledger)
        assert (everybody.restaurants_named, everybody.restaurants_total) == (0, 5)
        assert everybody.payouts_created == 3
        named = await finished_run(ledger, restaurant_ids=["res_usd"], request_id="x")
        assert (named.request_id, named.restaurants_named, named.restaurants_total) == ("x", 1, 0)
        listed = (await ledger.stub.ListPayoutRuns(ledger_pb2.ListPayoutRunsRequest())).payout_runs
        assert [(found.request_id, found.restaurants_named) for found in listed] == [
            ("x", 1),
            ("", 0),
            ("", 1),
            ("", 3),
        ]
    await assert_reconciled(database.migration_url)
    await assert_books_in_order(database)


@pytest.mark.parametrize("dry_run", [False, True])
async def test_unknown_restaurants_are_named_and_nothing_is_started(
    shared_ledger: RunningLedger, dry_run: bool
) -> None:
    """Ten of them at most."""
    await charge(shared_ledger, "res_known", 1, currency="DKK")
    unknown = [f"res_unknown_{number:02d}" for number in range(12)]
    for names, text in (
        (["res_unknown_07", "res_known"], "restaurant res_unknown_07 is not registered"),
        (
            ["res_known", *unknown[::-1]],
            f"restaurants {', '.join(unknown[:10])} and 2 more are not registered",
        ),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await start_run(shared_ledger, currency="DKK", restaurant_ids=names, dry_run=dry_run)
        got = refusal(caught.value)
        assert (got.code, got.reason) == (grpc.StatusCode.NOT_FOUND, "RESTAURANT_NOT_FOUND")
        assert caught.value.details() == text
    assert got.metadata == {
        "restaurant_id": "res_unknown_00",
        "restaurant_ids": ",".join(unknown[:10]),
    }
    runs = await shared_ledger.stub.ListPayoutRuns(ledger_pb2.ListPayoutRunsRequest(currency="DKK"))
    assert not runs.payout_runs


async def test_plan_says_what_each_named_restaurant_would_be_paid_and_why_not_more(
    shared_ledger: RunningLedger,
) -> None:
    """In the order of ids; without those that have no account in the currency."""
    await charge(shared_ledger, "res_plan_a", 900, currency="NOK")
    await charge(shared_ledger, "res_plan_b", 300, currency="NOK")
    await charge(shared_ledger, "res_plan_c", 1, currency="USD")
    await shared_ledger.ingest(
        event_message(
            ledger_pb2.EVENT_TYPE_FEE_ASSESSED,
            restaurant_id="res_plan_d",
            currency="NOK",
            amount_minor=70,
        )
    )
    await keep(shared_ledger, "res_plan_a", NOK=200)
    await keep(shared_ledger, "res_plan_b", NOK=500)
    names = ["res_plan_d", "res_plan_c", "res_plan_b", "res_plan_a"]
    response = await plan_run(shared_ledger, currency="NOK", restaurant_ids=names)
    assert [
        (
            item.restaurant_id,
            item.amount_minor,
            item.available_minor,
            item.retained_minor,
            ledger_pb2.SkipReason.Name(item.skip_reason),
            item.payout_id,
        )
        for item in response.items
    ] == [
        ("res_plan_a", 700, 900, 200, "SKIP_REASON_UNSPECIFIED", ""),
        ("res_plan_b", 0, 300, 300, "SKIP_REASON_MIN_BALANCE", ""),
        ("res_plan_d", 0, -70, 0, "SKIP_REASON_NOTHING_AVAILABLE", ""),
    ]
    plan = response.payout_run
    assert (plan.restaurants_named, plan.restaurants_total, plan.total_amount_minor) == (4, 3, 700)
    assert not (await plan_run(shared_ledger, currency="NOK")).items


async def test_thousand_restaurants_can_be_named(ledger: RunningLedger) -> None:
    """As many as a request may name, each paid."""
    names = [f"res_{number:04d}" for number in range(1_001)]
    await ledger.ingest(*(event_message(restaurant_id=name) for name in names[:500]))
    await ledger.ingest(*(event_message(restaurant_id=name) for name in names[500:]))
    run = await finished_run(ledger, restaurant_ids=names[:1_000])
    assert (run.payouts_created, run.restaurants_named) == (1_000, 1_000)
    assert not await payouts_of(ledger, restaurant_id="res_1000")


async def test_concurrent_calls_with_one_list_start_one_run(ledger: RunningLedger) -> None:
    """64 calls at once, each with the list in another order and with repeats."""
    names = [f"res_{number}" for number in range(20)]
    await ledger.ingest(*(event_message(restaurant_id=name) for name in names))
    seed = 20261129
    chance = random.Random(seed)
    lists = [[*chance.sample(names, len(names)), *chance.choices(names, k=5)] for _ in range(64)]
    runs = await asyncio.gather(*(start_run(ledger, restaurant_ids=each) for each in lists))
    assert len({run.payout_run_id for run in runs}) == 1
    assert (await finished_run(ledger, restaurant_ids=names)).payouts_created == 20
    assert len(await payouts_of(ledger)) == 20


async def test_profiles_that_change_during_runs_leave_the_books_in_order(
    database: Database,
) -> None:
    """64 callers set holds and minimums while runs go on: each payout is explained exactly."""
    names = [f"res_{number}" for number in range(40)]
    seed = 20261130
    chance = random.Random(seed)
    async with running_ledger(database) as ledger:
        await ledger.ingest(*(event_message(restaurant_id=name) for name in names))

        async def change() -> None:
            for _ in range(6):
                name = chance.choice(names)
                if chance.random() < 0.5:
                    await keep(ledger, name, PEN=chance.randint(1, 9_000))
                elif chance.random() < 0.5:
                    await hold(ledger, name, chance.choice([None, -1, 1]))
                else:
                    await update(ledger, name, "payout_hold", "min_balance_minor")

        async def pay(number: int) -> None:
            some = chance.sample(names, 20) if number % 2 else []
            run = await finished_run(
                ledger, request_id=f"r{number}", restaurant_ids=some, as_of=days_ago(number % 3)
            )
            for item in await run_items_of(ledger, run):
                if item.payout_id:
                    assert item.amount_minor == item.available_minor - item.retained_minor
                    if chance.random() < 0.5:
                        await answer(ledger, item.restaurant_id, FAILED)

        await asyncio.gather(*(change() for _ in range(58)), *(pay(number) for number in range(6)))
    await assert_reconciled(database.migration_url, quiet=False)
    await assert_books_in_order(database)
