"""Each event is booked once, however many callers, repeats and servers there are."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.audit import assert_books_in_order
from support.events import event_message, timestamp, unique
from support.model import ModelBalance, model_balances
from support.running import RunningLedger, running_ledger
from support.sessions import deadlocks_of

from ledger.bootstrap.database import Database
from ledger.domain.events import PLATFORM_EVENT_TYPES
from ledger.domain.posting_rules import EVENT_POSTING_RULES, rules_of
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.v1 import ledger_pb2

CREATED, DUPLICATE = ledger_pb2.INGEST_STATUS_CREATED, ledger_pb2.INGEST_STATUS_DUPLICATE
MATURITY = timedelta(days=7)


async def balance_of(ledger: RunningLedger, restaurant_id: str, currency: str) -> ModelBalance:
    """The balance that the server returns, as the model has it."""
    got = await ledger.balance(restaurant_id, currency)
    assert got.reserved_minor == 0
    last_event_at = (
        got.last_event_at.ToDatetime(tzinfo=UTC) if got.HasField("last_event_at") else None
    )
    return ModelBalance(
        got.available_minor,
        got.pending_minor,
        got.disputed_minor,
        got.reserve_held_minor,
        last_event_at,
    )


async def test_event_of_64_calls_is_created_once(ledger: RunningLedger) -> None:
    """All calls return one transaction id, and there is one set of entries."""
    event = event_message(amount_minor=1000, fee_minor=50)
    request = ledger_pb2.IngestEventRequest(event=event)
    responses = await asyncio.gather(*(ledger.stub.IngestEvent(request) for _ in range(64)))
    assert Counter(response.status for response in responses) == {CREATED: 1, DUPLICATE: 63}
    assert len({response.transaction_id for response in responses}) == 1
    assert await ledger.query("SELECT count(*) FROM ledger_entries") == [(2,)]
    assert (await ledger.balance(event.restaurant_id)).available_minor == 950
    await assert_books_in_order(ledger.database)


async def test_events_of_all_types_of_64_calls_are_created_once(database: Database) -> None:
    """All at once through two servers, and the accounts, the platform's too, are opened by them."""
    requests = [
        ledger_pb2.IngestEventRequest(
            event=event_message(
                ledger_pb2.EventType.Value(f"EVENT_TYPE_{event_type.name}"),
                restaurant_id="" if event_type in PLATFORM_EVENT_TYPES else "res_a",
            )
        )
        for event_type in EVENT_POSTING_RULES
    ]
    async with running_ledger(database) as first, running_ledger(database) as second:
        stubs = (first.stub, second.stub)
        responses = await asyncio.gather(
            *(stubs[place % 2].IngestEvent(request) for place in range(64) for request in requests)
        )
        for number in range(len(requests)):
            of_event = responses[number :: len(requests)]
            statuses = Counter(response.status for response in of_event)
            assert statuses == {CREATED: 1, DUPLICATE: 63}
            assert len({response.transaction_id for response in of_event}) == 1
        counts = "SELECT count(*), count(DISTINCT event_id) FROM ledger_entries"
        posted = sum(len(rules_of(event_type, has_fee=False)) for event_type in EVENT_POSTING_RULES)
        assert await first.query(counts) == [(posted, len(requests))]
        assert await first.query("SELECT count(*) FROM balance_accounts") == [(2,)]
    await assert_books_in_order(database)


@pytest.mark.both_servers
async def test_one_of_64_events_with_one_id_is_booked(ledger: RunningLedger) -> None:
    """64 calls with different amounts: 63 are conflicts, and the balance is that of the other."""
    event_id = unique("evt")
    events = [
        event_message(event_id=event_id, amount_minor=amount_minor)
        for amount_minor in range(1000, 1064)
    ]
    results = await asyncio.gather(*(ledger.ingest(event) for event in events))
    booked = [
        event for event, (result,) in zip(events, results, strict=True) if result.status == CREATED
    ]
    assert len(booked) == 1
    assert sum(result.error.code == 6 for (result,) in results) == 63
    assert (await ledger.balance("res_001")).available_minor == booked[0].amount_minor
    await assert_books_in_order(ledger.database)


async def test_overlapping_batches_of_two_servers_do_not_deadlock(
    database: Database,
) -> None:
    """The same events in opposite order, in several rounds. Each is booked once."""
    rounds, batch_events = 6, 300
    async with running_ledger(database) as first, running_ledger(database) as second:
        for number in range(rounds):
            restaurants = [f"res_{number}_{place}" for place in range(5)]
            events = [
                event_message(restaurant_id=restaurants[place % 5], amount_minor=place + 1)
                for place in range(batch_events)
            ]
            responses = await asyncio.gather(
                first.ingest(*events),
                second.ingest(*reversed(events)),
                first.ingest(*events[100:]),
                second.ingest(*reversed(events[:200])),
            )
            got = Counter(result.status for response in responses for result in response)
            assert got == {CREATED: batch_events, DUPLICATE: batch_events + 200 + 200}
            balances = [
                (await first.balance(restaurant)).available_minor for restaurant in restaurants
            ]
            assert sum(balances) == sum(range(1, batch_events + 1))
        assert await first.query("SELECT count(*) FROM processor_events") == [
            (rounds * batch_events,)
        ]
    assert await deadlocks_of(database) == 0
    await assert_books_in_order(database)


async def test_first_events_of_a_restaurant_at_once_register_it_once(database: Database) -> None:
    """Of the same restaurants and currencies, through two servers. Each account is opened once."""
    async with running_ledger(database) as first, running_ledger(database) as second:
        events = [
            event_message(restaurant_id=f"res_{place % 3}", currency=currency, amount_minor=1)
            for place in range(30)
            for currency in ("PEN", "USD")
        ]
        ways = [first, second]
        results = await asyncio.gather(
            *(ways[place % 2].ingest(event) for place, event in enumerate(events))
        )
        assert Counter(result.status for (result,) in results) == {CREATED: 60}
        assert await first.query("SELECT count(*) FROM restaurants") == [(3,)]
        assert await first.query("SELECT count(*) FROM balance_accounts") == [(6,)]
    await assert_books_in_order(database)


@pytest.mark.both_servers
async def test_balance_read_after_an_acknowledgement_includes_it(ledger: RunningLedger) -> None:
    """Each caller sees its event in the balance while others write."""

    async def write_and_read(bit: int) -> None:
        (result,) = await ledger.ingest(event_message(amount_minor=1 << bit))
        assert result.status == CREATED
        assert (await ledger.balance("res_001")).available_minor & (1 << bit)

    await asyncio.gather(*(write_and_read(bit) for bit in range(32)))
    assert (await ledger.balance("res_001")).available_minor == 2**32 - 1


@pytest.mark.both_servers
async def test_balance_as_of_the_past_is_what_it_was(ledger: RunningLedger) -> None:
    """A balance as of the instant of an earlier response equals that response."""
    responses = []
    now = datetime.now(UTC)
    for days in (1, 5, 10, 20):
        await ledger.ingest(
            event_message(amount_minor=1000 + days, occurred_at=now - timedelta(days=days))
        )
        responses.append(await ledger.balance("res_001"))
    assert [(response.available_minor, response.pending_minor) for response in responses] == [
        (0, 1001),
        (0, 2006),
        (1010, 2006),
        (2030, 2006),
    ]
    for response in responses:
        again = await ledger.stub.GetBalance(
            ledger_pb2.GetBalanceRequest(
                restaurant_id="res_001", currency="PEN", as_of=response.as_of
            )
        )
        assert again == response


# Random lists of events. Ids come from a small range, so that lists repeat them, with the same
# contents or with others.
_TYPES = [
    name
    for name, _ in ledger_pb2.EventType.items()
    if "PAYOUT" not in name and "UNSPECIFIED" not in name
]
_FEE_TYPES = {
    "EVENT_TYPE_CHARGE_SUCCEEDED",
    "EVENT_TYPE_CHARGE_REVERSED",
    "EVENT_TYPE_DISPUTE_OPENED",
    "EVENT_TYPE_REFUND_SUCCEEDED",
}
_PROCESSOR_FEE_TYPES = _FEE_TYPES - {"EVENT_TYPE_CHARGE_REVERSED"}
_AVAILABLE_AT_TYPES = _FEE_TYPES - {"EVENT_TYPE_DISPUTE_OPENED"} | {"EVENT_TYPE_TAX_WITHHELD"}
_PLATFORM_TYPES = {"EVENT_TYPE_PROCESSOR_SETTLED", "EVENT_TYPE_PROCESSOR_SETTLEMENT_DEBITED"}
_PROCESSOR_TYPES = {"EVENT_TYPE_PROCESSOR_FEE_ASSESSED", "EVENT_TYPE_PROCESSOR_FEE_REFUNDED"}


@st.composite
def _events(draw: st.DrawFn) -> ledger_pb2.ProcessorEvent:
    name = draw(st.sampled_from(_TYPES))
    amount_minor = draw(st.integers(1, 10**12) | st.integers(1, 1000))
    fee_max = 10**12 if name == "EVENT_TYPE_DISPUTE_OPENED" else amount_minor
    occurred_at = datetime.now(UTC).replace(microsecond=0) - timedelta(
        hours=draw(st.integers(0, 24 * 20)), minutes=30
    )
    restaurant_id = f"r{draw(st.integers(0, 2))}"
    if name in _PLATFORM_TYPES or (name in _PROCESSOR_TYPES and draw(st.booleans())):
        restaurant_id = ""
    available_at = None
    if name in _AVAILABLE_AT_TYPES and draw(st.booleans()):
        available_at = occurred_at + timedelta(hours=draw(st.integers(0, 24 * 20)))
    return event_message(
        ledger_pb2.EventType.Value(name),
        event_id=f"e{draw(st.integers(0, 30))}",
        restaurant_id=restaurant_id,
        currency=draw(st.sampled_from(["PEN", "USD", "JPY"])),
        amount_minor=amount_minor,
        fee_minor=draw(st.integers(0, fee_max)) if name in _FEE_TYPES else 0,
        occurred_at=occurred_at,
        available_at=available_at,
        processor_fee_minor=draw(st.integers(0, 500)) if name in _PROCESSOR_FEE_TYPES else 0,
        reference=draw(st.sampled_from(["", "pay_1", "pay_2"])),
    )


@pytest.fixture
async def audited_ledger(ledger: RunningLedger) -> AsyncIterator[RunningLedger]:
    """A server for all examples of a test. Asserts at the end that its books are in order."""
    yield ledger
    assert await ledger.query("SELECT count(*) > 100 FROM processor_events") == [(True,)]
    await assert_books_in_order(ledger.database)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(events=st.lists(_events(), min_size=1, max_size=40), seed=st.integers(0, 2**32))
async def test_balances_equal_the_model_for_any_events(
    audited_ledger: RunningLedger, events: list[ledger_pb2.ProcessorEvent], seed: int
) -> None:
    """In any order, batches and repeats, sent at once. Each id counts once, as it was booked."""
    example = unique("example")
    for event in events:
        event.event_id = f"{example}.{event.event_id}"
        if event.restaurant_id:
            event.restaurant_id = f"{example}.{event.restaurant_id}"
    chance = random.Random(seed)
    sent = events + [chance.choice(events) for _ in range(len(events) // 2)]
    chance.shuffle(sent)
    batches = [sent[start : start + 7] for start in range(0, len(sent), 7)]
    responses = await asyncio.gather(*(audited_ledger.ingest(*batch) for batch in batches))
    results = [result for response in responses for result in response]
    booked = [
        event for event, result in zip(sent, results, strict=True) if result.status == CREATED
    ]
    by_id = {event.event_id: event for event in booked}
    assert len(by_id) == len(booked), "an id was created twice"
    assert set(by_id) == {event.event_id for event in sent}
    for event, result in zip(sent, results, strict=True):
        same = event == by_id[event.event_id]
        assert (result.status == 0) is not same, (
            "a repeat is a duplicate, anything else under its id a conflict"
        )
    model = model_balances(booked, datetime.now(UTC), MATURITY)
    for (restaurant_id, currency), expected in model.items():
        if not restaurant_id:
            continue
        assert await balance_of(audited_ledger, restaurant_id, currency) == expected


async def balance_at(
    ledger: RunningLedger, as_of: datetime, restaurant_id: str = "res_001"
) -> tuple[int, int]:
    """Available and pending of a restaurant as of an instant."""
    request = ledger_pb2.GetBalanceRequest(
        restaurant_id=restaurant_id, currency="PEN", as_of=timestamp(as_of)
    )
    got = await ledger.stub.GetBalance(request)
    return got.available_minor, got.pending_minor


async def test_entry_counts_after_the_instant_of_its_record(ledger: RunningLedger) -> None:
    """As of that instant it does not count, and a microsecond later it does."""
    await ledger.ingest(event_message(amount_minor=1000))
    ((recorded_at,),) = await ledger.query("SELECT recorded_at FROM ledger_entries")
    assert await balance_at(ledger, recorded_at) == (0, 0)
    assert await balance_at(ledger, recorded_at + timedelta(microseconds=1)) == (1000, 0)


async def test_charge_is_available_from_the_instant_it_matures(ledger: RunningLedger) -> None:
    """As of available_at it is available; a microsecond before, it is pending."""
    # The charge matures a moment from now: it must be recorded before, and the test must not wait
    # long. On a slow machine the next try takes more time.
    for ahead_seconds in (1, 4, 20):
        restaurant_id = unique("res")
        occurred_at = datetime.now(UTC) - MATURITY + timedelta(seconds=ahead_seconds)
        await ledger.ingest(
            event_message(restaurant_id=restaurant_id, amount_minor=1000, occurred_at=occurred_at)
        )
        ((available_at, is_in_time),) = await ledger.query(
            "SELECT available_at, recorded_at < available_at - interval '1 microsecond'"
            " FROM ledger_entries ORDER BY recorded_at DESC LIMIT 1"
        )
        if is_in_time:
            break
    async with asyncio.timeout(60):
        while (await ledger.balance(restaurant_id)).available_minor == 0:
            pass
    assert await balance_at(ledger, available_at, restaurant_id) == (1000, 0)
    assert await balance_at(ledger, available_at - timedelta(microseconds=1), restaurant_id) == (
        0,
        1000,
    )


async def test_server_takes_the_application_role_under_any_login(database: Database) -> None:
    """With a superuser's URL too, the server's sessions may do no more than ledger_app may."""
    async with running_ledger(replace(database, url=database.migration_url)) as ledger:
        await ledger.ingest(event_message())
        async with autocommit(ledger.engine) as connection:
            assert await connection.fetchval("SELECT current_user") == "ledger_app"
