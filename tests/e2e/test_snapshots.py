"""A server takes a snapshot after a read of many entries, and never because it booked an event."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from support.audit import assert_books_in_order
from support.dates import date_message, days_ago
from support.events import event_message
from support.payout_runs import finished_run
from support.running import RunningLedger, running_ledger
from support.waiting import DEADLINE_SECONDS

from ledger.application.take_snapshots import PAST_TAIL_ENTRIES
from ledger.bootstrap.database import Database
from ledger.v1 import ledger_pb2

TAIL_ENTRIES = 5


async def read_balance(ledger: RunningLedger) -> None:
    assert (await ledger.balance("res_1")).available_minor == 10_000 * (TAIL_ENTRIES + 1)


async def read_statement(ledger: RunningLedger) -> None:
    page = await ledger.stub.ListEntries(
        ledger_pb2.ListEntriesRequest(restaurant_id="res_1", currency="PEN")
    )
    assert page.closing_balance_minor == 10_000 * (TAIL_ENTRIES + 1)


async def run_payouts(ledger: RunningLedger) -> None:
    run = await finished_run(ledger, min_amount_minor=10**9)
    assert run.restaurants_considered == 1


def a_minute_ago() -> ledger_pb2.GetBalanceRequest:
    request = ledger_pb2.GetBalanceRequest(restaurant_id="res_1", currency="PEN")
    request.as_of.FromDatetime(datetime.now(UTC) - timedelta(minutes=1))
    return request


async def count_of_snapshots(ledger: RunningLedger) -> int:
    ((count,),) = await ledger.query("SELECT count(*) FROM balance_snapshots")
    return int(count)


@pytest.mark.parametrize("read", [read_balance, run_payouts])
async def test_read_of_a_long_tail_makes_a_snapshot(
    database: Database, read: Callable[[RunningLedger], Awaitable[None]]
) -> None:
    """A call that reads more entries than the setting allows causes a snapshot.

    The response stays the same. Short tails cause no snapshot.
    """
    async with running_ledger(database, snapshot_tail_entries=TAIL_ENTRIES) as ledger:
        await ledger.ingest(
            *(event_message(restaurant_id="res_1") for _ in range(TAIL_ENTRIES + 1))
        )
        await ledger.ingest(event_message(restaurant_id="res_short", currency="USD"))
        await ledger.balance("res_short", "USD")
        assert await count_of_snapshots(ledger) == 0
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await count_of_snapshots(ledger) == 0:
                await read(ledger)
        await read(ledger)
        rows = await ledger.query(
            "SELECT restaurant_id FROM balance_snapshots"
            " JOIN balance_accounts USING (balance_account_id)"
        )
        assert rows == [("res_1",)]
    await assert_books_in_order(database)


async def test_payouts_are_right_with_snapshots(database: Database) -> None:
    """With a snapshot before each payout, and after the snapshots were deleted."""
    async with running_ledger(database, snapshot_tail_entries=1) as ledger:
        for round_ in range(1, 4):
            await ledger.ingest(
                *(
                    event_message(restaurant_id="res_1", amount_minor=100, fee_minor=3)
                    for _ in range(round_)
                )
            )
            async with asyncio.timeout(DEADLINE_SECONDS):
                while await count_of_snapshots(ledger) == 0:
                    await ledger.balance("res_1")
            # Each as of a different date: a restaurant is paid only once as of the same date.
            run = await finished_run(ledger, as_of=days_ago(4 - round_))
            assert run.total_amount_minor == 97 * round_
            (payout,) = (
                await ledger.stub.ListPayouts(
                    ledger_pb2.ListPayoutsRequest(restaurant_id="res_1", page_size=1)
                )
            ).payouts
            got = (
                await ledger.stub.GetPayout(ledger_pb2.GetPayoutRequest(payout_id=payout.payout_id))
            ).payout
            items = {ledger_pb2.EntryType.Name(item.type): item.amount_minor for item in got.items}
            assert items == {"ENTRY_TYPE_CHARGE": 100 * round_, "ENTRY_TYPE_FEE": -3 * round_}
            event = event_message(
                ledger_pb2.EVENT_TYPE_PAYOUT_PAID,
                restaurant_id="res_1",
                amount_minor=payout.amount_minor,
                payout_id=payout.payout_id,
            )
            await ledger.ingest(event)
            assert (await ledger.balance("res_1")).reserved_minor == 0
            if round_ == 2:
                await ledger.query("DELETE FROM balance_snapshots")
        day = days_ago(0)
        plan = ledger_pb2.RunPayoutsRequest(
            currency="PEN",
            as_of=date_message(day),
            dry_run=True,
        )
        assert (await ledger.stub.RunPayouts(plan)).payout_run.payouts_created == 0
    await assert_books_in_order(database)


async def test_past_reads_of_a_long_account_make_a_ladder(database: Database) -> None:
    """They return the same before and after. Snapshots of the present are made for neither."""
    charges = PAST_TAIL_ENTRIES // 2 + 1
    events = [event_message(restaurant_id="res_1") for _ in range(2 * charges)]
    async with running_ledger(database) as ledger:
        for start in range(0, len(events), 500):
            await ledger.ingest(*events[start : start + 500])
        rows = await ledger.query("SELECT max(recorded_at) FROM ledger_entries")
        request = ledger_pb2.GetBalanceRequest(restaurant_id="res_1", currency="PEN")
        request.as_of.FromDatetime(rows[0][0])
        before = await ledger.stub.GetBalance(request)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await count_of_snapshots(ledger) == 0:
                assert await ledger.stub.GetBalance(request) == before
        assert await ledger.stub.GetBalance(request) == before
        assert before.available_minor + before.pending_minor < 10_000 * len(events)
    await assert_books_in_order(database)


async def test_setting_0_makes_no_snapshots(database: Database) -> None:
    """Every read adds up all entries then."""
    async with running_ledger(database, snapshot_tail_entries=0) as ledger:
        await ledger.ingest(
            *(event_message(restaurant_id="res_1") for _ in range(TAIL_ENTRIES + 1))
        )
        for _ in range(3):
            await read_balance(ledger)
            await read_statement(ledger)
            await ledger.stub.GetBalance(a_minute_ago())
    # The first server has ended, and with it all that it had begun.
    async with running_ledger(database, snapshot_tail_entries=0) as ledger:
        assert await count_of_snapshots(ledger) == 0
