"""The entries of a payout add up to its items, whatever is booked while it is created."""

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from grpc import aio
from support.audit import assert_books_in_order
from support.bad_requests import UUID_TEXT, refusal
from support.dates import days_ago
from support.events import event_message
from support.payout_runs import answer, finished_run, payouts_of
from support.running import RunningLedger

from ledger.infrastructure.postgres.snapshots import begin_stay_if_moved
from ledger.v1 import ledger_pb2

PAYABLE = ledger_pb2.LEDGER_ACCOUNT_RESTAURANT_PAYABLE
RESTAURANTS = [f"res_{number}" for number in range(4)]
TYPES = [
    *[ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED] * 4,
    ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
    ledger_pb2.EVENT_TYPE_FEE_ASSESSED,
    ledger_pb2.EVENT_TYPE_ADJUSTMENT_CREDITED,
    ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
    ledger_pb2.EVENT_TYPE_DISPUTE_WON,
]


async def entries_of(
    ledger: RunningLedger, payout_id: str, **fields: Any
) -> list[ledger_pb2.LedgerEntry]:
    """All pages."""
    entries: list[ledger_pb2.LedgerEntry] = []
    token = ""
    while True:
        page = await ledger.stub.ListPayoutEntries(
            ledger_pb2.ListPayoutEntriesRequest(payout_id=payout_id, page_token=token, **fields)
        )
        entries += page.entries
        token = page.next_page_token
        if not token:
            return entries


def sums_of(entries: list[ledger_pb2.LedgerEntry]) -> dict[int, int]:
    sums: Counter[int] = Counter()
    for entry in entries:
        assert PAYABLE in (entry.credit_account, entry.debit_account)
        is_credit = entry.credit_account == PAYABLE
        sums[entry.type] += entry.amount_minor if is_credit else -entry.amount_minor
    return {entry_type: minor for entry_type, minor in sums.items() if minor}


async def items_of_payout(ledger: RunningLedger, payout_id: str) -> dict[int, int]:
    payout = (await ledger.stub.GetPayout(ledger_pb2.GetPayoutRequest(payout_id=payout_id))).payout
    return {item.type: item.amount_minor for item in payout.items}


def random_event(chance: random.Random) -> ledger_pb2.ProcessorEvent:
    """An event whose entries mature at any time around the cut-offs of the runs."""
    event_type = chance.choice(TYPES)
    charge = event_type == ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED
    return event_message(
        event_type,
        restaurant_id=chance.choice(RESTAURANTS),
        amount_minor=chance.randint(1000, 9000) if charge else chance.randint(1, 400),
        fee_minor=chance.choice((0, 30)) if charge else 0,
        occurred_at=datetime.now(UTC) - timedelta(days=7, hours=chance.randint(-24, 24 * 7)),
    )


async def test_entries_of_every_payout_add_up_to_its_items(
    ledger: RunningLedger, seed: int
) -> None:
    """To the cent, while events are booked at the same time, payouts fail and come back, and
    cut-offs pass. Each entry is in one payout, the one that ListEvents names.
    """
    chance = random.Random(seed)
    ended = asyncio.Event()

    async def book() -> None:
        while not ended.is_set():
            await ledger.ingest(*(random_event(chance) for _ in range(chance.randint(1, 8))))
            # The rest of the machine is for the runs.
            await asyncio.sleep(0.01)

    bookers = [asyncio.create_task(book()) for _ in range(4)]
    await asyncio.sleep(0)
    for days in (7, 6, 5, 3, 2, 1, 0):
        await ledger.ingest(*(random_event(chance) for _ in range(30)))
        await finished_run(ledger, as_of=days_ago(days), request_id=f"run_{days}")
        for restaurant_id in RESTAURANTS:
            kinds = chance.choice(
                (
                    [ledger_pb2.EVENT_TYPE_PAYOUT_PAID],
                    [ledger_pb2.EVENT_TYPE_PAYOUT_FAILED],
                    [ledger_pb2.EVENT_TYPE_PAYOUT_PAID, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED],
                )
            )
            latest = await payouts_of(ledger, restaurant_id=restaurant_id)
            if latest and latest[0].state == ledger_pb2.PAYOUT_STATE_CREATED:
                await answer(ledger, restaurant_id, *kinds)
    ended.set()
    await asyncio.gather(*bookers)
    payouts = await payouts_of(ledger)
    assert len(payouts) > len(RESTAURANTS), "several payouts of a restaurant"
    counted: dict[tuple[str, int], str] = {}
    for payout in payouts:
        entries = await entries_of(ledger, payout.payout_id, page_size=chance.choice((3, 50, 1000)))
        assert sums_of(entries) == await items_of_payout(ledger, payout.payout_id)
        for entry in entries:
            key = (entry.transaction_id, entry.position)
            assert key not in counted, "an entry is in one payout"
            counted[key] = payout.payout_id
        some = chance.choice((ledger_pb2.ENTRY_TYPE_CHARGE, ledger_pb2.ENTRY_TYPE_REFUND))
        of_type = await entries_of(ledger, payout.payout_id, entry_types=[some], page_size=7)
        assert of_type == [entry for entry in entries if entry.type == some]
    token = ""
    while True:
        page = await ledger.stub.ListEvents(
            ledger_pb2.ListEventsRequest(with_entries=True, page_size=1000, page_token=token)
        )
        for listed in page.events:
            for shown in listed.entries:
                key = (shown.entry.transaction_id, shown.entry.position)
                assert shown.counted_by_payout_id == counted.get(key, "")
                assert not shown.is_payout_unknown
        token = page.next_page_token
        if not token:
            break
    await assert_books_in_order(ledger.database)


async def test_books_that_came_from_elsewhere_still_add_up(ledger: RunningLedger) -> None:
    """Restored entries have txids above those of the cluster, whose first payout counts them."""
    await begin_stay_if_moved(ledger.engine)
    await ledger.ingest(event_message(restaurant_id="res_moved", amount_minor=1000))
    await finished_run(ledger, as_of=days_ago(3))
    await answer(ledger, "res_moved", ledger_pb2.EVENT_TYPE_PAYOUT_PAID)
    await ledger.ingest(event_message(restaurant_id="res_moved", amount_minor=500))
    # As after a restore: the numbers of the other cluster are far ahead, and a new stay began.
    for table in ("ledger_entries", "processor_events"):
        await ledger.query(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        await ledger.query(
            f"UPDATE {table} "
            "SET recorded_txid = (recorded_txid::text::bigint + 1000000)::text::xid8"
        )
        await ledger.query(f"ALTER TABLE {table} ENABLE TRIGGER USER")
    await ledger.query("ALTER TABLE payouts DISABLE TRIGGER USER")
    # The second charge was not there yet.
    await ledger.query(
        "UPDATE payouts SET counted_snapshot = (SELECT format('%s:%s:', m, m)::pg_snapshot FROM "
        "(SELECT max(recorded_txid::text::bigint) AS m FROM ledger_entries "
        "WHERE amount_minor = 500) AS x)"
    )
    await ledger.query("ALTER TABLE payouts ENABLE TRIGGER USER")
    await ledger.query(
        "INSERT INTO ledger_stays (number, stay_id, system_identifier, entries_oid, entries_file) "
        "SELECT number + 1, gen_random_uuid(), system_identifier, entries_oid, entries_file "
        "FROM ledger_stays"
    )
    await ledger.ingest(event_message(restaurant_id="res_moved", amount_minor=70))
    await finished_run(ledger, as_of=days_ago(2))
    second, first = await payouts_of(ledger, restaurant_id="res_moved")
    for payout, amounts in ((first, [1000]), (second, [500, 70])):
        entries = await entries_of(ledger, payout.payout_id, page_size=1)
        assert sorted(entry.amount_minor for entry in entries) == sorted(amounts)
        assert sums_of(entries) == await items_of_payout(ledger, payout.payout_id)


async def test_payout_of_before_is_refused_and_not_guessed(ledger: RunningLedger) -> None:
    """With the payout of which it is not known; so is the next one, which is counted from it."""
    await ledger.ingest(event_message(restaurant_id="res_before"))
    await finished_run(ledger, as_of=days_ago(2))
    await answer(ledger, "res_before", ledger_pb2.EVENT_TYPE_PAYOUT_PAID)
    await ledger.query("ALTER TABLE payouts DISABLE TRIGGER USER")
    await ledger.query("UPDATE payouts SET counted_snapshot = NULL")
    await ledger.query("ALTER TABLE payouts ENABLE TRIGGER USER")
    for days in (1, 0):
        await ledger.ingest(event_message(restaurant_id="res_before"))
        await finished_run(ledger, as_of=days_ago(days))
        await answer(ledger, "res_before", ledger_pb2.EVENT_TYPE_PAYOUT_PAID)
    third, second, first = await payouts_of(ledger, restaurant_id="res_before")
    for payout in (first, second):
        with pytest.raises(aio.AioRpcError) as caught:
            await entries_of(ledger, payout.payout_id)
        refused = refusal(caught.value)
        assert (refused.code, refused.reason, refused.metadata) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "PAYOUT_ENTRIES_UNKNOWN",
            {"payout_id": first.payout_id},
        )
    assert len(await entries_of(ledger, third.payout_id)) == 1


async def test_unknown_payout_is_not_found(shared_ledger: RunningLedger) -> None:
    """As GetPayout."""
    with pytest.raises(aio.AioRpcError) as caught:
        await entries_of(shared_ledger, UUID_TEXT)
    assert refusal(caught.value).reason == "PAYOUT_NOT_FOUND"
