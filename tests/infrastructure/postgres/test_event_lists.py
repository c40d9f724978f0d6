"""Lists of events: every filter alone and with others, page by page, and the payouts of entries."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc import aio
from support.dates import days_ago
from support.events import event_message, timestamp, unique
from support.payout_runs import answer, finished_run, payout_of
from support.running import RunningLedger

from ledger.application.ports.event_lists import EventPlace, EventQuery
from ledger.domain.events import EventType
from ledger.infrastructure.postgres.event_lists import PostgresEventLists
from ledger.infrastructure.postgres.sessions.fence import Fence
from ledger.infrastructure.postgres.statement_marks import PostgresStatementMarks
from ledger.v1 import ledger_pb2

TYPES = [
    ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
    ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
    ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
    ledger_pb2.EVENT_TYPE_ADJUSTMENT_CREDITED,
]
SELECT_STORED = """
SELECT event_id, restaurant_id, reference, type, currency, recorded_at, recorded_txid::text::bigint
FROM processor_events
"""


async def listed(ledger: RunningLedger, **fields: Any) -> list[ledger_pb2.ListedEvent]:
    """All pages of a list."""
    events: list[ledger_pb2.ListedEvent] = []
    token = ""
    while True:
        page = await ledger.stub.ListEvents(
            ledger_pb2.ListEventsRequest(**fields, page_token=token)
        )
        events += page.events
        token = page.next_page_token
        if not token:
            return events


def ids(events: list[ledger_pb2.ListedEvent]) -> list[str]:
    return [listed.event.event_id for listed in events]


async def stored_by(ledger: RunningLedger, keep: Callable[[dict[str, Any]], bool]) -> list[Any]:
    names = ("event_id", "restaurant_id", "reference", "type", "currency", "recorded_at", "txid")
    rows = [dict(zip(names, row, strict=True)) for row in await ledger.query(SELECT_STORED)]
    return [row for row in rows if keep(row)]


def expected(rows: list[dict[str, Any]], filters: dict[str, Any]) -> list[str]:
    """The ids in the order of the list."""
    if filters["event_id_prefix"]:
        return sorted(row["event_id"] for row in rows)
    of_books = filters["restaurant_id"] and not filters["reference"]
    order = "txid" if of_books else "recorded_at"
    rows.sort(key=lambda row: (row[order], row["event_id"]), reverse=True)
    return [row["event_id"] for row in rows]


async def book_random(ledger: RunningLedger, chance: random.Random, batches: int) -> None:
    """Events of five restaurants, some with a reference that others have, in batches at once."""

    def event(number: int) -> ledger_pb2.ProcessorEvent:
        return event_message(
            chance.choice(TYPES),
            event_id=f"{chance.choice(('a', 'b', 'b:c'))}:{number:04d}",
            restaurant_id=f"res_{chance.randrange(5)}",
            currency=chance.choice(("PEN", "PEN", "USD")),
            reference=chance.choice(("", "pay_1", f"pay_{number}")),
        )

    numbers = iter(range(10_000))
    for _ in range(batches // 4):
        await asyncio.gather(
            *(
                ledger.ingest(*(event(next(numbers)) for _ in range(chance.randint(1, 30))))
                for _ in range(4)
            )
        )


async def test_lists_have_exactly_the_events_that_pass_the_filters(
    ledger: RunningLedger, seed: int
) -> None:
    """Of random events and random filters, page by page, in the promised order."""
    chance = random.Random(seed)
    await book_random(ledger, chance, 40)
    accounts = await ledger.query("SELECT balance_account_id FROM balance_accounts")
    marks = PostgresStatementMarks(ledger.engine)
    for (account,) in accounts:
        if chance.random() < 0.5:
            await marks.take(account, 1)
    await book_random_later(ledger, chance)
    instants = [row["recorded_at"] for row in await stored_by(ledger, lambda _: True)]
    for _ in range(60):
        filters: dict[str, Any] = {
            "restaurant_id": chance.choice(("", "res_0", "res_3")),
            "reference": chance.choice(("", "", "pay_1", "pay_7")),
            "types": chance.sample(TYPES, chance.choice((0, 0, 1, 2))),
            "currency": chance.choice(("", "PEN", "USD")),
            "event_id_prefix": "",
        }
        if not filters["reference"]:
            filters["event_id_prefix"] = chance.choice(("", "", "a", "b:", "b:c:00", "z"))
        start, end = sorted(chance.sample(instants, 2))
        start, end = chance.choice(((None, None), (start, None), (None, end), (start, end)))
        words = {
            ledger_pb2.EventType.Name(n)[len("EVENT_TYPE_") :].lower() for n in filters["types"]
        }

        def keep(
            row: dict[str, Any], f: Any = filters, w: Any = words, s: Any = start, e: Any = end
        ) -> bool:
            return (
                f["restaurant_id"] in ("", row["restaurant_id"])
                and f["reference"] in ("", row["reference"])
                and (not w or row["type"] in w)
                and f["currency"] in ("", row["currency"])
                and row["event_id"].startswith(f["event_id_prefix"])
                and (s is None or row["recorded_at"] >= s)
                and (e is None or row["recorded_at"] < e)
            )

        events = await listed(
            ledger,
            **filters,
            page_size=chance.choice((1, 3, 50, 1000)),
            start_at=None if start is None else timestamp(start),
            end_at=None if end is None else timestamp(end),
        )
        assert ids(events) == expected(await stored_by(ledger, keep), filters), filters


async def book_random_later(ledger: RunningLedger, chance: random.Random) -> None:
    """Events after the marks."""
    for number in range(5):
        await ledger.ingest(
            event_message(event_id=f"a:later_{number}", restaurant_id=f"res_{number}")
        )


@pytest.mark.parametrize("scanned_max", [1, 2, 7])
async def test_page_that_looks_through_few_events_goes_on(
    ledger: RunningLedger, seed: int, scanned_max: int
) -> None:
    """Pages end early and the list goes on behind what they have seen, until nothing is left."""
    await book_random(ledger, random.Random(seed), 8)
    lists = PostgresEventLists(
        ledger.engine, Fence(ledger.engine), scanned_max=scanned_max, looked_up_max=scanned_max
    )
    queries = [
        EventQuery(None, None, frozenset({EventType.DISPUTE_OPENED}), None, None, None, None),
        EventQuery("res_1", None, frozenset({EventType.DISPUTE_OPENED}), None, None, None, None),
        EventQuery("res_1", None, frozenset(), None, None, None, None),
        EventQuery(None, None, frozenset({EventType.DISPUTE_OPENED}), None, None, None, "b"),
    ]
    for query in queries:
        found: list[str] = []
        after: EventPlace | None = None
        while True:
            page = await lists.page(query, after, 5)
            assert len(page.items) <= 5
            found += [item.stored.event.event_id for item in page.items]
            if page.next_place is None:
                break
            assert page.next_place != after, "the list goes on"
            after = page.next_place

        def keep(row: dict[str, Any], q: EventQuery = query) -> bool:
            return (
                q.restaurant_id in (None, row["restaurant_id"])
                and (not q.types or row["type"] in q.types)
                and row["event_id"].startswith(q.event_id_prefix or "")
            )

        wanted = await stored_by(ledger, keep)
        assert sorted(found) == sorted(row["event_id"] for row in wanted)
        assert len(set(found)) == len(found)


async def test_events_show_the_payout_that_took_their_entries(ledger: RunningLedger) -> None:
    """What happened to a payment, in one call: its charge, its refund, and the payout of each."""
    restaurant_id = "res_paid"
    charge = event_message(
        restaurant_id=restaurant_id, amount_minor=1000, fee_minor=50, reference="pay_123"
    )
    await ledger.ingest(charge, event_message(restaurant_id=restaurant_id, reference="pay_other"))
    await finished_run(ledger, as_of=days_ago(1))
    first = await payout_of(ledger, restaurant_id)
    await answer(ledger, restaurant_id, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED)
    refund = event_message(
        ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
        restaurant_id=restaurant_id,
        amount_minor=400,
        reference="pay_123",
    )
    await ledger.ingest(refund)
    page = await ledger.stub.ListEvents(
        ledger_pb2.ListEventsRequest(reference="pay_123", with_entries=True)
    )
    assert ids(list(page.events)) == [refund.event_id, charge.event_id]
    shown = [
        [
            (entry.entry.type, entry.counted_by_payout_id, entry.is_payout_unknown)
            for entry in e.entries
        ]
        for e in page.events
    ]
    assert shown == [
        [(ledger_pb2.ENTRY_TYPE_REFUND, "", False)],
        [
            (ledger_pb2.ENTRY_TYPE_CHARGE, first.payout_id, False),
            (ledger_pb2.ENTRY_TYPE_FEE, first.payout_id, False),
        ],
    ]
    assert [payout.payout_id for payout in page.payouts] == [first.payout_id]
    assert page.payouts[0].state == ledger_pb2.PAYOUT_STATE_FAILED
    await finished_run(ledger)
    second = await payout_of(ledger, restaurant_id)
    page = await ledger.stub.ListEvents(
        ledger_pb2.ListEventsRequest(restaurant_id=restaurant_id, with_entries=True)
    )
    by_type = {
        entry.entry.type: entry.counted_by_payout_id
        for event in page.events
        for entry in event.entries
    }
    assert by_type == {
        ledger_pb2.ENTRY_TYPE_REFUND: second.payout_id,
        ledger_pb2.ENTRY_TYPE_PAYOUT_REVERSAL: second.payout_id,
        ledger_pb2.ENTRY_TYPE_CHARGE: first.payout_id,
        ledger_pb2.ENTRY_TYPE_FEE: first.payout_id,
    }


async def test_event_that_posted_nothing_is_listed(ledger: RunningLedger) -> None:
    """A payment that the bank reports after its failure posts nothing, and is an event still."""
    restaurant_id = "res_late"
    await ledger.ingest(event_message(restaurant_id=restaurant_id))
    await finished_run(ledger)
    await answer(
        ledger,
        restaurant_id,
        ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
        ledger_pb2.EVENT_TYPE_PAYOUT_PAID,
    )
    events = await listed(ledger, restaurant_id=restaurant_id, with_entries=True, page_size=1)
    assert [event.event.type for event in events] == [
        ledger_pb2.EVENT_TYPE_PAYOUT_PAID,
        ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
        ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
    ]
    assert [len(event.entries) for event in events] == [0, 1, 1]


async def test_payouts_of_before_are_not_guessed(ledger: RunningLedger) -> None:
    """Of a payout that was created before the ledger kept what it counted nothing can be told,
    unless the entry had not matured by then.
    """
    restaurant_id = "res_before"
    await ledger.ingest(event_message(restaurant_id=restaurant_id))
    await finished_run(ledger, as_of=days_ago(1))
    await ledger.query("ALTER TABLE payouts DISABLE TRIGGER payouts_check_move")
    await ledger.query("UPDATE payouts SET counted_snapshot = NULL")
    await ledger.query("ALTER TABLE payouts ENABLE ALWAYS TRIGGER payouts_check_move")
    (event,) = await listed(ledger, restaurant_id=restaurant_id, with_entries=True)
    assert [(entry.counted_by_payout_id, entry.is_payout_unknown) for entry in event.entries] == [
        ("", True)
    ]


async def test_unknown_restaurant_is_not_found(shared_ledger: RunningLedger) -> None:
    """As other lists of a restaurant; one without events has none."""
    with pytest.raises(aio.AioRpcError) as caught:
        await listed(shared_ledger, restaurant_id="res_absent")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    restaurant_id = unique("res")
    await shared_ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id)
    )
    assert await listed(shared_ledger, restaurant_id=restaurant_id) == []


async def test_large_page_ends_early(shared_ledger: RunningLedger) -> None:
    """No response is larger than clients take, however much metadata the events have."""
    metadata = {"note": "x" * 8000}
    for _ in range(6):
        await shared_ledger.ingest(
            *(
                event_message(restaurant_id="res_large", metadata=metadata, reference="big")
                for _ in range(100)
            )
        )
    first = await shared_ledger.stub.ListEvents(
        ledger_pb2.ListEventsRequest(restaurant_id="res_large", page_size=1000)
    )
    assert 0 < len(first.events) < 600
    assert first.next_page_token
    for fields in ({"restaurant_id": "res_large"}, {"reference": "big"}):
        assert len(set(ids(await listed(shared_ledger, **fields, page_size=1000)))) == 600
