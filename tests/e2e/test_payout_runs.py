"""Payout runs: no restaurant is paid twice or too much, whatever runs at the same time."""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest
from grpc import aio
from support.dates import days_ago, end_of
from support.events import event_message
from support.payout_runs import (
    charge_all,
    end_of_run,
    finished_run,
    items_of,
    outcomes_of,
    payout_event,
    payout_of,
    payouts_of,
    put_restaurant,
    start_run,
)
from support.reconciliation import assert_reconciled
from support.running import RunningLedger, query, running_ledger
from support.sessions import deadlocks_of, locked
from support.statuses import reason_of
from support.waiting import DEADLINE_SECONDS, until

from ledger.application import run_payouts
from ledger.bootstrap.database import Database
from ledger.v1 import ledger_pb2

CREATED, DUPLICATE = ledger_pb2.INGEST_STATUS_CREATED, ledger_pb2.INGEST_STATUS_DUPLICATE
CHARGE, REFUND = ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED, ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED
PAID, FAILED = ledger_pb2.EVENT_TYPE_PAYOUT_PAID, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED
MATURITY = timedelta(days=7)
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION.value[0]


async def wait_past(period: timedelta, margin: timedelta = timedelta(seconds=5)) -> None:
    """Waits for the next period of UTC, such as an hour, if that is about to begin."""
    left = period - (datetime.now(UTC) - datetime.min.replace(tzinfo=UTC)) % period
    if left < margin:
        await asyncio.sleep(left.total_seconds() + 0.01)


async def servers_on(
    stack: AsyncExitStack, database: Database, count: int, **settings: Any
) -> list[RunningLedger]:
    """Several servers on one database."""
    return [
        await stack.enter_async_context(running_ledger(database, **settings)) for _ in range(count)
    ]


async def test_same_run_of_three_servers_pays_each_once(database: Database) -> None:
    """24 calls at once with the same key start one run."""
    async with AsyncExitStack() as stack:
        servers = await servers_on(stack, database, 3)
        ids = await charge_all(servers[0], 700)
        runs = await asyncio.gather(
            *(start_run(servers[place % 3], request_id="same") for place in range(24))
        )
        (payout_run_id,) = {run.payout_run_id for run in runs}
        run = await end_of_run(servers[1], payout_run_id)
        assert (run.payouts_created, run.restaurants_considered, run.restaurants_total) == (
            700,
            700,
            700,
        )
        payouts = await payouts_of(servers[2])
        assert sorted(payout.restaurant_id for payout in payouts) == ids
        assert sum(payout.amount_minor for payout in payouts) == run.total_amount_minor
        again = await start_run(servers[0], request_id="same")
        assert again == run, "the same parameters return the finished run too"
    assert await deadlocks_of(database) == 0
    await assert_reconciled(database.migration_url)


async def test_different_runs_at_once_never_pay_twice(database: Database, seed: int) -> None:
    """Twelve runs of different dates, minimums and request ids at once through three servers.

    In several rounds, with the bank's answers in between: no restaurant has two payouts in flight
    or a debt, and there is no deadlock.
    """
    chance = random.Random(seed)
    async with AsyncExitStack() as stack:
        servers = await servers_on(stack, database, 3)
        ids = await charge_all(servers[0], 200)
        for number in range(2):
            # The dates go back and forth.
            wanted: list[dict[str, Any]] = [
                {
                    "as_of": days_ago(days),
                    "min_amount_minor": minimum,
                    "request_id": f"r{number}",
                }
                for days in (0, 1, 2, 3)
                for minimum in (0, 1, 1_100)
            ]
            chance.shuffle(wanted)
            started = await asyncio.gather(
                *(start_run(servers[place % 3], **fields) for place, fields in enumerate(wanted)),
            )
            assert len({run.payout_run_id for run in started}) == 12
            runs = [await end_of_run(servers[0], run.payout_run_id) for run in started]
            assert all(run.restaurants_considered == 200 for run in runs)
            created = await payouts_of(servers[0], state=ledger_pb2.PAYOUT_STATE_CREATED)
            assert len({payout.restaurant_id for payout in created}) == len(created)
            if number == 0:
                assert [
                    payout.restaurant_id
                    for payout in sorted(created, key=lambda payout: payout.restaurant_id)
                ] == ids
            assert await servers[0].query(
                """SELECT count(*) FROM (
                     SELECT sum(CASE 'restaurant_payable' WHEN credit_account THEN amount_minor
                                WHEN debit_account THEN -amount_minor ELSE 0 END) AS payable_minor
                     FROM ledger_entries GROUP BY balance_account_id
                   ) AS b WHERE payable_minor < 0"""
            ) == [(0,)]
            answers = [payout_event(payout, chance.choice([PAID, FAILED])) for payout in created]
            assert {result.status for result in await servers[1].ingest(*answers)} <= {CREATED}
    assert await deadlocks_of(database) == 0
    await assert_reconciled(database.migration_url)


async def test_100_concurrent_calls_of_run_payouts_pay_each_once(database: Database) -> None:
    """First of one run, then of 100 runs: all calls return, and all runs end."""
    async with running_ledger(database, payout_runs_open=200) as ledger:
        await charge_all(ledger, 40)
        same = await asyncio.gather(*(start_run(ledger, request_id="same") for _ in range(100)))
        assert len({run.payout_run_id for run in same}) == 1
        different = await asyncio.gather(
            *(start_run(ledger, request_id=f"run_{number}") for number in range(100))
        )
        assert len({run.payout_run_id for run in different}) == 100
        runs = [await end_of_run(ledger, run.payout_run_id) for run in [same[0], *different]]
        assert sum(run.payouts_created for run in runs) == 40
        assert all(run.restaurants_considered == 40 for run in runs)
    await assert_reconciled(database.migration_url)


async def test_runs_pay_exactly_the_balance_while_events_arrive(
    database: Database, seed: int
) -> None:
    """Two servers book charges and refunds while runs pay hundreds of restaurants.

    The reserved amounts equal the payouts, and a last run without traffic pays the rest to the
    cent.
    """
    chance = random.Random(seed)
    async with AsyncExitStack() as stack:
        servers = await servers_on(stack, database, 2)
        ids = await charge_all(servers[0], 200, amount_minor=5_000)
        net = {restaurant_id: 5_000 + place - place % 7 for place, restaurant_id in enumerate(ids)}
        paying = True

        async def storm(server: RunningLedger) -> None:
            while paying:
                events = [
                    event_message(
                        chance.choice([CHARGE, REFUND]),
                        restaurant_id=chance.choice(ids),
                        amount_minor=chance.randint(1, 40),
                    )
                    for _ in range(20)
                ]
                assert {result.status for result in await server.ingest(*events)} == {CREATED}
                for event in events:
                    net[event.restaurant_id] += (
                        event.amount_minor if event.type == CHARGE else -event.amount_minor
                    )
                # The rest of the machine is for the runs.
                await asyncio.sleep(0.01)

        storms = [asyncio.create_task(storm(server)) for server in servers]
        try:
            for number in range(2):
                runs = await asyncio.gather(
                    *(
                        start_run(server, request_id=f"storm_{number}_{place}")
                        for place, server in enumerate(servers)
                    ),
                    *(start_run(server, request_id=f"storm_{number}") for server in servers),
                )
                for run in runs:
                    await end_of_run(servers[0], run.payout_run_id)
                created = await payouts_of(servers[0], state=ledger_pb2.PAYOUT_STATE_CREATED)
                for page in (created[:100], created[100:]):
                    answers = [
                        payout_event(payout, FAILED)
                        for payout in page
                        if number < 1 or chance.random() < 0.5
                    ]
                    assert {result.status for result in await servers[1].ingest(*answers)} <= {
                        CREATED
                    }
        finally:
            paying = False
            await asyncio.gather(*storms)
        created = await payouts_of(servers[0], state=ledger_pb2.PAYOUT_STATE_CREATED)
        balances = await asyncio.gather(
            *(servers[place % 2].balance(id_) for place, id_ in enumerate(ids))
        )
        assert (
            sum(balance.reserved_minor for balance in balances)
            == sum(payout.amount_minor for payout in created)
            > 0
        )
        await servers[0].ingest(*(payout_event(payout, FAILED) for payout in created))
        last = await finished_run(servers[0], request_id="last")
        assert last.total_amount_minor == sum(amount for amount in net.values() if amount > 0)
        assert await outcomes_of(servers[0], last) == {
            id_: str(amount) if amount > 0 else "NOTHING_AVAILABLE" for id_, amount in net.items()
        }
    await assert_reconciled(database.migration_url, quiet=False)


async def test_racing_answers_of_the_bank_return_the_payout(database: Database) -> None:
    """32 callers report paid and 32 report failed at once: one event of each kind is booked.

    The others are refused and not stored. The entries are those of the state RETURNED.
    """
    async with AsyncExitStack() as stack:
        servers = await servers_on(stack, database, 2)
        await charge_all(servers[0], 6)
        await finished_run(servers[0])
        for payout in await payouts_of(servers[0]):
            events = [payout_event(payout, kind) for _ in range(32) for kind in (PAID, FAILED)]
            got = await asyncio.gather(
                *(servers[place % 2].ingest(event) for place, event in enumerate(events))
            )
            results = [result for (result,) in got]
            won = sorted(
                event.type
                for event, result in zip(events, results, strict=True)
                if result.status == CREATED
            )
            assert won == [PAID, FAILED]
            lost = [result for result in results if result.status != CREATED]
            assert {result.error.code for result in lost} == {FAILED_PRECONDITION}
            assert {reason_of(result.error) for result in lost} == {"PAYOUT_MOVE_NOT_ALLOWED"}
            stored = await servers[0].query(
                "SELECT count(*) FROM processor_events WHERE payout_id = :payout_id",
                payout_id=payout.payout_id,
            )
            assert stored == [(len(won),)]
            final = await payout_of(servers[0], payout.restaurant_id)
            assert [move.state for move in final.history] in ([1, 2, 4], [1, 3, 4])
            assert (
                await servers[1].balance(payout.restaurant_id)
            ).available_minor == payout.amount_minor
    await assert_reconciled(database.migration_url)


async def test_payout_event_of_64_calls_is_created_once(database: Database) -> None:
    """Through two servers: the other 63 calls are duplicates with its transaction id."""
    async with AsyncExitStack() as stack:
        servers = await servers_on(stack, database, 2)
        await charge_all(servers[0], 1)
        await finished_run(servers[0])
        (payout,) = await payouts_of(servers[0])
        for kind in (PAID, FAILED):
            event = payout_event(payout, kind)
            got = await asyncio.gather(*(servers[place % 2].ingest(event) for place in range(64)))
            assert Counter(result.status for (result,) in got) == {CREATED: 1, DUPLICATE: 63}
            assert len({result.transaction_id for (result,) in got}) == 1
    await assert_reconciled(database.migration_url)


@pytest.mark.parametrize(
    "kinds", [[PAID], [FAILED], [PAID, FAILED]], ids=["paid", "failed", "returned"]
)
async def test_second_event_with_the_same_report_is_refused(
    ledger: RunningLedger, kinds: list[int]
) -> None:
    """It cannot move the payout, and is not stored."""
    await charge_all(ledger, 1)
    await finished_run(ledger)
    (payout,) = await payouts_of(ledger)
    for kind in kinds:
        assert [result.status for result in await ledger.ingest(payout_event(payout, kind))] == [
            CREATED
        ]
    before = (
        await ledger.query("SELECT count(*) FROM ledger_entries"),
        await ledger.query("SELECT * FROM payouts"),
    )
    again = payout_event(payout, kinds[-1])
    with pytest.raises(aio.AioRpcError) as caught:
        await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=again))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    (result,) = await ledger.ingest(again)
    assert reason_of(result.error) == "PAYOUT_MOVE_NOT_ALLOWED"
    assert (
        await ledger.query("SELECT count(*) FROM ledger_entries"),
        await ledger.query("SELECT * FROM payouts"),
    ) == before
    stored = await ledger.query(
        "SELECT count(*) FROM processor_events WHERE event_id = :event_id", event_id=again.event_id
    )
    assert stored == [(0,)]
    await assert_reconciled(ledger.database.migration_url)


@pytest.mark.parametrize(
    "wrong",
    [{"amount_minor": 999}, {"restaurant_id": "res_0001"}, {"currency": "USD"}],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_event_that_does_not_match_its_payout_is_refused(
    ledger: RunningLedger, wrong: dict[str, Any]
) -> None:
    """Amount, restaurant and currency must be those of the payout. Its id stays free."""
    await charge_all(ledger, 2)
    await finished_run(ledger)
    payout = await payout_of(ledger, "res_0000")
    event = payout_event(payout, PAID, **wrong)
    (result,) = await ledger.ingest(event)
    assert (result.error.code, reason_of(result.error)) == (FAILED_PRECONDITION, "PAYOUT_MISMATCH")
    (result,) = await ledger.ingest(payout_event(payout, PAID, event_id=event.event_id))
    assert result.status == CREATED
    await assert_reconciled(ledger.database.migration_url)


async def test_debt_of_a_restaurant_is_deducted_from_its_next_payout(ledger: RunningLedger) -> None:
    """A refund after a payout makes the debt. Until it is earned, the restaurant is skipped."""
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=10_000, fee_minor=300))
    await finished_run(ledger, as_of=days_ago(3))
    await ledger.ingest(payout_event(await payout_of(ledger, "res_1"), PAID))
    await ledger.ingest(event_message(REFUND, restaurant_id="res_1", amount_minor=4_000))
    red = await finished_run(ledger, as_of=days_ago(2))
    assert await outcomes_of(ledger, red) == {"res_1": "NOTHING_AVAILABLE"}
    assert (await ledger.balance("res_1")).available_minor == -4_000
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=4_000))
    assert await outcomes_of(ledger, await finished_run(ledger, as_of=days_ago(1))) == {
        "res_1": "NOTHING_AVAILABLE"
    }
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=1_500, fee_minor=100))
    await finished_run(ledger)
    payout = await payout_of(ledger, "res_1")
    assert payout.amount_minor == 1_400
    assert items_of(payout) == {"CHARGE": 5_500, "FEE": -100, "REFUND": -4_000}
    await assert_reconciled(ledger.database.migration_url)


async def test_charge_that_matures_after_a_payout_is_in_the_next_one(ledger: RunningLedger) -> None:
    """Each run pays the charges that had matured by its date, and each charge is paid once."""
    days = [days_ago(age) for age in (4, 3, 2, 1)]
    events = [
        # The last microsecond of a day belongs to it, the one after does not.
        event_message(
            restaurant_id="res_1", amount_minor=10**place, occurred_at=end_of(day) - MATURITY
        )
        for place, day in enumerate(days)
    ]
    events.append(
        event_message(
            restaurant_id="res_1",
            amount_minor=50_000,
            occurred_at=end_of(days[0]) - MATURITY + timedelta(microseconds=1),
        )
    )
    await ledger.ingest(*events)
    for place, day in enumerate(days):
        run = await finished_run(ledger, as_of=day)
        assert run.cutoff_at.ToDatetime(tzinfo=UTC) == end_of(day)
        payout = await payout_of(ledger, "res_1")
        assert payout.amount_minor == 10**place + (50_000 if place == 1 else 0)
        assert items_of(payout) == {"CHARGE": payout.amount_minor}
        await ledger.ingest(payout_event(payout, PAID))
    assert await outcomes_of(ledger, await finished_run(ledger)) == {"res_1": "NOTHING_AVAILABLE"}
    await assert_reconciled(ledger.database.migration_url)


async def test_charge_that_matures_during_a_payout_is_in_the_next_one(
    ledger: RunningLedger,
) -> None:
    """It matures seconds after the payout was created. The next payout also has the reversal."""
    # A slow machine, where it matures before the run, tries again in another currency.
    for ahead_seconds, currency in ((2, "PEN"), (8, "USD"), (25, "EUR")):
        restaurant_id, matures_at = (
            f"res_{currency}",
            datetime.now(UTC) + timedelta(seconds=ahead_seconds),
        )
        about_it: dict[str, Any] = {"restaurant_id": restaurant_id, "currency": currency}
        await ledger.ingest(
            event_message(**about_it, amount_minor=700),
            event_message(
                **about_it, amount_minor=40, fee_minor=4, occurred_at=matures_at - MATURITY
            ),
        )
        run = await finished_run(ledger, currency=currency)
        if run.cutoff_at.ToDatetime(tzinfo=UTC) < matures_at:
            break
    first = await payout_of(ledger, restaurant_id)
    assert items_of(first) == {"CHARGE": 700}
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (await ledger.balance(restaurant_id, currency)).pending_minor:
            pass
    run = await finished_run(ledger, currency=currency, request_id="two")
    assert await outcomes_of(ledger, run) == {restaurant_id: "PAYOUT_IN_FLIGHT"}
    await ledger.ingest(payout_event(first, FAILED))
    await finished_run(ledger, currency=currency, request_id="three")
    second = await payout_of(ledger, restaurant_id)
    assert items_of(second) == {"CHARGE": 40, "FEE": -4, "PAYOUT_REVERSAL": 700}
    assert second.amount_minor == 736
    await assert_reconciled(ledger.database.migration_url)


async def test_maturity_of_a_restaurant_holds_for_later_charges(ledger: RunningLedger) -> None:
    """It does not change the maturity of charges that were booked before."""
    recent = datetime.now(UTC) - timedelta(hours=1)
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=100, occurred_at=recent))
    await put_restaurant(ledger, "res_1", maturity_days=0)
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=20, occurred_at=recent))
    await put_restaurant(ledger, "res_1", maturity_days=30)
    await ledger.ingest(
        event_message(
            restaurant_id="res_1", amount_minor=3, occurred_at=recent - timedelta(days=20)
        )
    )
    assert await outcomes_of(ledger, await finished_run(ledger)) == {"res_1": "20"}
    await assert_reconciled(ledger.database.migration_url)


async def test_run_of_an_earlier_or_repeated_date_pays_nothing(ledger: RunningLedger) -> None:
    """A run of today after one of yesterday pays what came in between. Others give a reason."""
    yesterday = {"as_of": days_ago(1)}
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=100))
    assert await outcomes_of(ledger, await finished_run(ledger, **yesterday)) == {"res_1": "100"}
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=20))
    assert await outcomes_of(ledger, await finished_run(ledger)) == {"res_1": "PAYOUT_IN_FLIGHT"}
    await ledger.ingest(payout_event(await payout_of(ledger, "res_1"), PAID))
    assert await outcomes_of(ledger, await finished_run(ledger, **yesterday, request_id="a")) == {
        "res_1": "ALREADY_PAID"
    }
    assert await outcomes_of(ledger, await finished_run(ledger, request_id="b")) == {"res_1": "20"}
    await ledger.ingest(payout_event(await payout_of(ledger, "res_1"), PAID))
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=3))
    assert await outcomes_of(ledger, await finished_run(ledger, request_id="c")) == {
        "res_1": "ALREADY_PAID"
    }
    earlier = {"as_of": days_ago(5)}
    assert await outcomes_of(ledger, await finished_run(ledger, **earlier)) == {
        "res_1": "CUTOFF_BEFORE_LATEST_PAYOUT"
    }
    # A payout that came back frees its date, and not the dates before it.
    await ledger.ingest(payout_event(await payout_of(ledger, "res_1"), FAILED))
    outcomes = await outcomes_of(ledger, await finished_run(ledger, **earlier, request_id="d"))
    assert outcomes == {"res_1": "CUTOFF_BEFORE_LATEST_PAYOUT"}
    assert await outcomes_of(ledger, await finished_run(ledger, request_id="e")) == {"res_1": "23"}
    assert items_of(await payout_of(ledger, "res_1")) == {"CHARGE": 3, "PAYOUT_RETURN": 20}
    await assert_reconciled(ledger.database.migration_url)


async def test_refund_after_the_date_of_a_run_is_deducted(ledger: RunningLedger) -> None:
    """A run of a past date pays no more than is available today."""
    await ledger.ingest(
        event_message(restaurant_id="res_1", amount_minor=1_000),
        event_message(
            REFUND, restaurant_id="res_1", amount_minor=400, occurred_at=datetime.now(UTC)
        ),
    )
    run = await finished_run(ledger, as_of=days_ago(10))
    assert await outcomes_of(ledger, run) == {"res_1": "600"}
    await assert_reconciled(ledger.database.migration_url)


async def test_amount_below_the_minimum_is_not_paid(ledger: RunningLedger) -> None:
    """Exactly the minimum is paid. No minimum equals a minimum of 1. Each currency is separate."""
    for amount_minor in (1, 499, 500, 501):
        await ledger.ingest(
            event_message(restaurant_id=f"res_{amount_minor}", amount_minor=amount_minor)
        )
    await ledger.ingest(
        event_message(restaurant_id="res_0", amount_minor=5),
        event_message(REFUND, restaurant_id="res_0", amount_minor=5),
        event_message(restaurant_id="res_1", currency="USD", amount_minor=700),
    )
    below, nothing = "BELOW_MINIMUM", "NOTHING_AVAILABLE"
    run = await finished_run(ledger, min_amount_minor=500)
    assert await outcomes_of(ledger, run) == {
        "res_0": nothing, "res_1": below, "res_499": below, "res_500": "500", "res_501": "501"
    }  # fmt: skip
    in_flight = "PAYOUT_IN_FLIGHT"
    run = await finished_run(ledger)
    assert await outcomes_of(ledger, run) == {
        "res_0": nothing, "res_1": "1", "res_499": "499", "res_500": in_flight, "res_501": in_flight
    }  # fmt: skip
    assert await outcomes_of(ledger, await finished_run(ledger, currency="USD")) == {"res_1": "700"}
    assert await outcomes_of(ledger, await finished_run(ledger, currency="EUR")) == {}
    await assert_reconciled(ledger.database.migration_url)


async def test_skipped_item_has_the_first_reason_that_applies(ledger: RunningLedger) -> None:
    """In the order of the list of reasons."""
    long_ago = {"as_of": days_ago(9)}
    await charge_all(ledger, 6, prefix="a")
    await finished_run(ledger)
    payouts = {payout.restaurant_id: payout for payout in await payouts_of(ledger)}
    await ledger.ingest(*(payout_event(payouts[f"a_000{number}"], PAID) for number in (1, 2, 3, 4)))
    await ledger.ingest(payout_event(payouts["a_0005"], FAILED))
    await ledger.ingest(
        event_message(restaurant_id="a_0002", amount_minor=9),
        event_message(REFUND, restaurant_id="a_0003", amount_minor=9),
        event_message(restaurant_id="b_0001", amount_minor=9),
        event_message(restaurant_id="b_0002", amount_minor=10),
        event_message(REFUND, restaurant_id="b_0003", amount_minor=10),
    )
    await put_restaurant(ledger, "a_0000", active=False)
    await put_restaurant(ledger, "a_0004", active=False)
    await put_restaurant(ledger, "b_0003", active=False)
    run = await finished_run(ledger, min_amount_minor=10, request_id="again")
    assert await outcomes_of(ledger, run) == {
        "a_0000": "INACTIVE",
        "a_0001": "ALREADY_PAID",
        "a_0002": "ALREADY_PAID",
        "a_0003": "ALREADY_PAID",
        "a_0004": "INACTIVE",
        "a_0005": str(payouts["a_0005"].amount_minor),
        "b_0001": "BELOW_MINIMUM",
        "b_0002": "10",
        "b_0003": "INACTIVE",
    }
    run = await finished_run(ledger, **long_ago, min_amount_minor=10**9)
    assert await outcomes_of(ledger, run) == {
        "a_0000": "INACTIVE",
        "a_0001": "CUTOFF_BEFORE_LATEST_PAYOUT",
        "a_0002": "CUTOFF_BEFORE_LATEST_PAYOUT",
        "a_0003": "CUTOFF_BEFORE_LATEST_PAYOUT",
        "a_0004": "INACTIVE",
        "a_0005": "PAYOUT_IN_FLIGHT",
        "b_0001": "BELOW_MINIMUM",
        "b_0002": "PAYOUT_IN_FLIGHT",
        "b_0003": "INACTIVE",
    }
    assert Counter({skipped.reason: skipped.count for skipped in run.skipped}).total() == 9
    await assert_reconciled(ledger.database.migration_url)


async def test_restaurant_that_is_active_again_is_paid(ledger: RunningLedger) -> None:
    """Inactivity only delays its payout."""
    await charge_all(ledger, 1)
    await put_restaurant(ledger, "res_0000", active=False)
    assert await outcomes_of(ledger, await finished_run(ledger)) == {"res_0000": "INACTIVE"}
    await put_restaurant(ledger, "res_0000", active=True)
    assert await outcomes_of(ledger, await finished_run(ledger, request_id="again")) == {
        "res_0000": "1000"
    }
    await assert_reconciled(ledger.database.migration_url)


async def test_run_of_a_future_date_is_refused(database: Database) -> None:
    """Tomorrow in the settlement time zone is refused, planned or run.

    The date of today in that zone is accepted.
    """
    for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"):
        async with running_ledger(database, settlement_timezone=zone) as ledger:
            # In all three zones midnight is at a full hour.
            await wait_past(timedelta(hours=1))
            day = datetime.now(ZoneInfo(zone)).date()
            for dry_run in (True, False):
                with pytest.raises(aio.AioRpcError) as caught:
                    await start_run(ledger, as_of=day + timedelta(days=1), dry_run=dry_run)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            plan = await start_run(ledger, as_of=day, dry_run=True)
            assert abs(plan.cutoff_at.ToDatetime(tzinfo=UTC) - datetime.now(UTC)) < timedelta(
                minutes=1
            )
    assert await query(database.migration_url, "SELECT count(*) FROM payout_runs") == [(0,)]


async def test_plan_writes_no_rows_and_equals_the_run(ledger: RunningLedger) -> None:
    """Its figures are those of the run that follows."""
    await charge_all(ledger, 30)
    await ledger.ingest(
        event_message(REFUND, restaurant_id="res_0001", amount_minor=5_000),
        event_message(restaurant_id="res_0002", amount_minor=77, occurred_at=datetime.now(UTC)),
        event_message(
            ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
            restaurant_id="res_0003",
            amount_minor=900,
            fee_minor=15,
        ),
    )
    await put_restaurant(ledger, "res_0004", active=False)
    fields: dict[str, Any] = {"as_of": days_ago(1), "min_amount_minor": 1_010}
    plan = await start_run(ledger, **fields, dry_run=True)
    for table in ("payout_runs", "payout_run_items", "payouts", "payout_items"):
        assert await ledger.query(f"SELECT count(*) FROM {table}") == [(0,)]
    assert plan.state == ledger_pb2.PAYOUT_RUN_STATE_PLANNED
    assert plan.payout_run_id == ""
    run = await finished_run(ledger, **fields)
    for field in (
        "payouts_created",
        "total_amount_minor",
        "restaurants_total",
        "skipped",
        "cutoff_at",
        "min_amount_minor",
        "as_of",
    ):
        assert getattr(plan, field) == getattr(run, field), field
    assert run.payouts_created == 16
    # In a second plan all payouts are in flight.
    again = await start_run(ledger, **fields, dry_run=True)
    assert again.payouts_created == 0
    assert again.restaurants_total == 30
    await assert_reconciled(ledger.database.migration_url)


def last_microsecond(day: date, zone: str) -> datetime:
    """The last instant at which the zone has the date `day` or an earlier one.

    Found by halving, independently of the service.
    """
    there = ZoneInfo(zone)
    low = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=2)
    high = low + timedelta(days=5)
    # Dates never go back in these zones, so there is one such instant.
    while high - low > timedelta(microseconds=1):
        middle = low + (high - low) // 2
        low, high = (middle, high) if middle.astimezone(there).date() <= day else (low, middle)
    return low


@pytest.mark.parametrize(
    ("zone", "days"),
    [
        ("America/Lima", ["2025-06-30", "2026-02-28", "2024-02-29"]),
        ("Asia/Kathmandu", ["2025-12-31", "2026-03-31"]),
        # This zone had no 30 December 2011.
        ("Pacific/Apia", ["2011-12-29", "2011-12-30", "2011-12-31", "2021-04-03", "2025-09-27"]),
        ("Europe/Madrid", ["2026-03-28", "2026-03-29", "2025-10-25", "2025-10-26"]),
        # Clocks change at midnight: spring begins at 01:00, and autumn has 23:00 to 24:00 twice.
        (
            "America/Santiago",
            ["2025-09-06", "2025-09-07", "2026-04-03", "2026-04-04", "2026-04-05"],
        ),
        # Autumn has 00:00 to 01:00 twice: the date begins at the first one.
        ("America/Havana", ["2025-11-01", "2025-11-02", "2026-03-07", "2026-03-08"]),
        ("Atlantic/Azores", ["2025-10-25", "2025-10-26", "2026-03-28", "2026-03-29"]),
        ("Australia/Lord_Howe", ["2025-10-04", "2025-10-05", "2026-04-04", "2026-04-05"]),
    ],
)
async def test_cutoff_is_the_last_microsecond_of_the_date(
    shared_database: Database, zone: str, days: list[str]
) -> None:
    """In any settlement time zone, also on days on which its clocks change."""
    async with running_ledger(shared_database, settlement_timezone=zone) as ledger:
        got = {}
        for day in days:
            plan = await start_run(ledger, as_of=date.fromisoformat(day), dry_run=True)
            got[day] = plan.cutoff_at.ToDatetime(tzinfo=UTC).isoformat()
        assert got == {
            day: last_microsecond(date.fromisoformat(day), zone).isoformat() for day in days
        }


async def test_maturity_at_midnight_counts_by_the_settlement_zone(database: Database) -> None:
    """In Lima a day ends at 05:00 UTC. A charge of its last microsecond belongs to that day."""
    zone = "America/Lima"
    day = datetime.now(ZoneInfo(zone)).date() - timedelta(days=1)
    cutoff_at = last_microsecond(day, zone)
    async with running_ledger(database, settlement_timezone=zone) as ledger:
        await ledger.ingest(
            event_message(
                restaurant_id="res_1", amount_minor=100, occurred_at=cutoff_at - MATURITY
            ),
            event_message(
                restaurant_id="res_1",
                amount_minor=3,
                occurred_at=cutoff_at - MATURITY + timedelta(microseconds=1),
            ),
        )
        assert await outcomes_of(ledger, await finished_run(ledger, as_of=day)) == {"res_1": "100"}
        await ledger.ingest(payout_event(await payout_of(ledger, "res_1"), PAID))
        outcomes = await outcomes_of(
            ledger, await finished_run(ledger, as_of=day + timedelta(days=1))
        )
        assert outcomes == {"res_1": "3"}
    await assert_reconciled(database.migration_url)


async def test_payout_that_the_database_rejects_is_skipped(database: Database) -> None:
    """It breaks a CHECK and is skipped as FAILED. All others are paid. A later run pays it."""
    async with AsyncExitStack() as stack:
        servers = await servers_on(stack, database, 2)
        await charge_all(servers[0], 700)
        refused = ["res_0000", "res_0333", "res_0699"]
        await servers[0].query(
            """DO $$ BEGIN EXECUTE format(
            'ALTER TABLE payouts ADD CONSTRAINT planted CHECK (balance_account_id NOT IN (%s))',
            (SELECT string_agg(balance_account_id::text, ',') FROM balance_accounts
             WHERE restaurant_id IN ('res_0000', 'res_0333', 'res_0699'))); END $$"""
        )
        started = await asyncio.gather(*(start_run(server) for server in servers))
        run = await end_of_run(servers[0], started[0].payout_run_id)
        assert (run.payouts_created, run.restaurants_considered) == (697, 700)
        outcomes = await outcomes_of(servers[0], run)
        assert (
            sorted(
                restaurant_id for restaurant_id, outcome in outcomes.items() if outcome == "FAILED"
            )
            == refused
        )
        for restaurant_id in refused:
            balance = await servers[0].balance(restaurant_id)
            assert (balance.available_minor > 0, balance.reserved_minor) == (True, 0)
        await assert_reconciled(database.migration_url)
        await servers[0].query("ALTER TABLE payouts DROP CONSTRAINT planted")
        again = await finished_run(servers[0], request_id="again")
        assert again.payouts_created == 3
    await assert_reconciled(database.migration_url)


async def test_accounts_that_are_locked_hold_up_no_other(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two accounts of 1,100 are locked, one of each page. All others are paid before these two.

    The log names the accounts that the run waits for, and the run pays them once they are free.
    """
    async with running_ledger(database) as ledger:
        await charge_all(ledger, 1_100)
        held = ["res_0000", "res_0500"]
        async with locked(
            database,
            "SELECT FROM balance_accounts WHERE restaurant_id IN ('res_0000', 'res_0500')"
            " FOR UPDATE",
        ):
            run = await start_run(ledger)

            async def all_others() -> bool:
                return await ledger.query("SELECT count(*) FROM payouts") == [(1_098,)]

            await until(all_others, DEADLINE_SECONDS)
            waits = "a payout run waits for balance accounts"
            logged = ""

            async def is_logged() -> bool:
                nonlocal logged
                logged += capsys.readouterr().out
                return waits in logged

            await until(is_logged, DEADLINE_SECONDS)
            assert all(restaurant in logged for restaurant in held)
            got = await ledger.stub.GetPayoutRun(
                ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id)
            )
            assert got.payout_run.state == ledger_pb2.PAYOUT_RUN_STATE_RUNNING
            assert got.payout_run.restaurants_considered == 1_098
        run = await end_of_run(ledger, run.payout_run_id)
        assert (run.payouts_created, run.restaurants_considered) == (1_100, 1_100)
    await assert_reconciled(database.migration_url)


async def test_restaurant_refused_for_an_unknown_reason_stays_open(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not skipped, as the schema may be wrong.

    All others are paid, and so is this one once the reason is removed.
    """
    monkeypatch.setattr(run_payouts, "REFUSED_REST_SECONDS", 0.05)
    async with running_ledger(database) as ledger:
        await charge_all(ledger, 40)
        await ledger.query(
            """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '0A000'; END $$"""
        )
        await ledger.query(
            """DO $$ BEGIN EXECUTE format(
            'CREATE TRIGGER refuse BEFORE INSERT ON payouts FOR EACH ROW
            WHEN (NEW.balance_account_id = %s) EXECUTE FUNCTION refuse()',
            (SELECT balance_account_id FROM balance_accounts WHERE restaurant_id = 'res_0007'));
            END $$"""
        )
        run = await start_run(ledger)

        async def all_others() -> bool:
            return await ledger.query("SELECT count(*) FROM payouts") == [(39,)]

        await until(all_others, DEADLINE_SECONDS)
        request = ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id)
        assert (
            await ledger.stub.GetPayoutRun(request)
        ).payout_run.state == ledger_pb2.PAYOUT_RUN_STATE_RUNNING
        await ledger.query("DROP TRIGGER refuse ON payouts")
        run = await end_of_run(ledger, run.payout_run_id)
        assert (run.payouts_created, list(run.skipped)) == (40, [])
    await assert_reconciled(database.migration_url)


async def test_run_that_waits_holds_up_no_other(database: Database) -> None:
    """One run waits for a locked account of its currency.

    A run of another currency, started later, finishes before it.
    """
    async with running_ledger(database) as ledger:
        await charge_all(ledger, 5)
        await ledger.ingest(event_message(restaurant_id="res_usd", currency="USD"))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                locked(
                    database,
                    "SELECT FROM balance_accounts WHERE restaurant_id = 'res_0002' FOR UPDATE",
                )
            )
            held_up = await start_run(ledger)
            other = await start_run(ledger, currency="USD")
            run = await end_of_run(ledger, other.payout_run_id)
            assert run.payouts_created == 1
        assert (await end_of_run(ledger, held_up.payout_run_id)).payouts_created == 5
    await assert_reconciled(database.migration_url)
