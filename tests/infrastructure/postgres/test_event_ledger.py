"""The event ledger: the same tests run on the fake and on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
import uuid_utils
import uuid_utils.compat
from sqlalchemy import text
from support.events import OCCURRED_AT, processor_event, unique
from support.fakes import FakeEventLedger
from support.running import query
from support.sessions import locked
from support.waiting import DEADLINE_SECONDS

from ledger.application.ports.events import EventLedger, Posting
from ledger.bootstrap.database import Database
from ledger.domain.balances import BalanceAccount
from ledger.domain.events import (
    PLATFORM_EVENT_TYPES,
    EventType,
    ProcessorEvent,
    fingerprint,
    microseconds,
)
from ledger.domain.money import AMOUNT_MINOR_MAX
from ledger.domain.posting_rules import Amount, rules_of
from ledger.errors import DatabaseContention, DataRejected
from ledger.infrastructure.postgres.event_ledger import PostgresEventLedger
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine


@pytest.fixture(params=["fake", "postgres"])
async def books(
    request: pytest.FixtureRequest, shared_database: Database
) -> AsyncIterator[EventLedger]:
    if request.param == "fake":
        yield FakeEventLedger(maturity_days=7)
        return
    engine = create_engine(shared_database.url, pool_size=4)
    yield PostgresEventLedger(partial(autocommit, engine), maturity_days=7)
    await engine.dispose()


def posting(event: ProcessorEvent) -> Posting:
    return Posting(event, fingerprint(event), str(uuid_utils.uuid7()))


def batch_id() -> UUID:
    return uuid_utils.compat.uuid7()


async def test_lock_wait_is_bounded_by_the_argument(
    books: EventLedger, shared_database: Database
) -> None:
    """Accounts are opened and events booked.

    While another session holds a lock, the call gives up in time and stores nothing.
    """
    restaurant, other = unique("res"), unique("res")
    await books.open_accounts(
        [BalanceAccount(restaurant, "PEN")], register=True, lock_wait_seconds=0.001
    )
    first, second = (
        posting(processor_event(restaurant_id=restaurant)),
        posting(processor_event(restaurant_id=restaurant)),
    )
    assert await books.insert([first], batch_id(), lock_wait_seconds=0.001) == {
        first.event.event_id
    }
    if isinstance(books, FakeEventLedger):
        return
    lock = "LOCK TABLE processor_events IN EXCLUSIVE MODE"
    async with asyncio.timeout(DEADLINE_SECONDS), locked(shared_database, lock) as holder:
        with pytest.raises(DatabaseContention):
            await books.insert([second], batch_id(), lock_wait_seconds=0.001)
        assert await books.stored([second.event.event_id]) == {}
        await holder.execute(text(f"INSERT INTO restaurants (restaurant_id) VALUES ('{other}')"))
        with pytest.raises(DatabaseContention):
            await books.open_accounts(
                [BalanceAccount(other, "PEN")], register=True, lock_wait_seconds=0.001
            )
    assert await books.insert([second], batch_id()) == {second.event.event_id}


async def test_insert_returns_the_new_ones_and_stores_them_whole(books: EventLedger) -> None:
    """Returned events are stored as given.

    Events that were there before are not returned, and do not change.
    """
    restaurant = unique("res")
    await books.open_accounts([BalanceAccount(restaurant, "PEN")], register=True)
    old = posting(
        processor_event(
            event_id=unique("evt"), restaurant_id=restaurant, metadata={"a": "é\U0001f600", "b": ""}
        )
    )
    new = posting(
        processor_event(
            EventType.DISPUTE_OPENED, restaurant_id=restaurant, fee_minor=7, reference="pay_1"
        )
    )
    first_batch, second_batch = batch_id(), batch_id()
    assert await books.insert([old], first_batch) == {old.event.event_id}
    altered = posting(
        processor_event(event_id=old.event.event_id, restaurant_id=restaurant, amount_minor=1)
    )
    in_order = sorted([altered, new], key=lambda each: each.event.event_id)
    assert await books.insert(in_order, second_batch) == {new.event.event_id}
    stored = await books.stored([old.event.event_id, new.event.event_id, "evt_absent"])
    assert {event_id: kept.event for event_id, kept in stored.items()} == {
        old.event.event_id: old.event,
        new.event.event_id: new.event,
    }
    kept = stored[old.event.event_id]
    assert (kept.fingerprint, kept.transaction_id, kept.batch_id) == (
        old.fingerprint,
        old.transaction_id,
        first_batch,
    )
    assert abs(kept.recorded_at - datetime.now(UTC)) < timedelta(minutes=5)


async def test_event_without_balance_account_is_neither_stored_nor_returned(
    books: EventLedger,
) -> None:
    """It stores nothing and fails nothing else: an unknown restaurant, or another currency."""
    restaurant = unique("res")
    await books.open_accounts([BalanceAccount(restaurant, "PEN")], register=True)
    known = posting(processor_event(event_id=unique("evt"), restaurant_id=restaurant))
    other_currency = posting(
        processor_event(event_id=unique("evt"), restaurant_id=restaurant, currency="USD")
    )
    unknown = posting(processor_event(event_id=unique("evt"), restaurant_id=unique("res")))
    assert await books.insert([known, other_currency, unknown], batch_id()) == {
        known.event.event_id
    }
    assert set(
        await books.stored([each.event.event_id for each in (known, other_currency, unknown)])
    ) == {known.event.event_id}


async def test_entries_of_an_event_have_its_maturity(books: EventLedger) -> None:
    """A charge's entries mature seven times 24 hours after it occurred, an adjustment's at once."""
    restaurant = unique("res")
    await books.open_accounts([BalanceAccount(restaurant, "PEN")], register=True)
    charge = posting(
        processor_event(
            event_id=unique("evt"), restaurant_id=restaurant, amount_minor=1000, fee_minor=50
        )
    )
    credit = posting(
        processor_event(
            EventType.ADJUSTMENT_CREDITED,
            event_id=unique("evt"),
            restaurant_id=restaurant,
            amount_minor=9,
        )
    )
    await books.insert([charge, credit], batch_id())
    stored = await books.stored([charge.event.event_id, credit.event.event_id])
    lines = [
        f"{entry.position} {entry.entry_type} {entry.debit} {entry.credit} {entry.amount_minor}"
        f" {entry.available_at_microseconds}"
        for event in (charge, credit)
        for entry in await books.entries(stored[event.event.event_id])
    ]
    matures = microseconds(OCCURRED_AT + timedelta(days=7))
    assert lines == [
        f"1 CHARGE processor_clearing restaurant_payable 1000 {matures}",
        f"2 FEE restaurant_payable platform_fees 50 {matures}",
        "1 ADJUSTMENT_CREDIT adjustments restaurant_payable 9 None",
    ]
    (_, fee) = await books.entries(stored[charge.event.event_id])
    assert (str(fee.transaction_id), fee.event_id, fee.occurred_at_microseconds) == (
        charge.transaction_id,
        charge.event.event_id,
        microseconds(OCCURRED_AT),
    )
    assert (fee.restaurant_id, fee.currency, fee.payout_id) == (restaurant, "PEN", None)


async def test_rejected_batch_stores_nothing(books: EventLedger) -> None:
    """One event that breaks a constraint fails the whole statement."""
    restaurant = unique("res")
    await books.open_accounts([BalanceAccount(restaurant, "PEN")], register=True)
    good = posting(processor_event(event_id=unique("evt"), restaurant_id=restaurant))
    bad = posting(
        processor_event(
            event_id=unique("evt"), restaurant_id=restaurant, amount_minor=AMOUNT_MINOR_MAX + 1
        )
    )
    with pytest.raises(DataRejected):
        await books.insert([good, bad], batch_id())
    assert await books.stored([good.event.event_id, bad.event.event_id]) == {}


async def test_unknown_restaurants_are_registered_only_when_asked(books: EventLedger) -> None:
    """Without `register` they are returned and get no account.

    Known restaurants get their account in any case.
    """
    known, unknown = unique("res"), unique("res")
    await books.open_accounts([BalanceAccount(known, "PEN")], register=True)
    assert await books.open_accounts(
        [BalanceAccount(known, "USD"), BalanceAccount(unknown, "PEN")], register=False
    ) == {unknown}
    refused = posting(processor_event(event_id=unique("evt"), restaurant_id=unknown))
    booked = posting(processor_event(event_id=unique("evt"), restaurant_id=known, currency="USD"))
    in_order = sorted([refused, booked], key=lambda each: each.event.event_id)
    assert await books.insert(in_order, batch_id()) == {booked.event.event_id}
    assert await books.open_accounts([BalanceAccount(unknown, "PEN")], register=True) == set()
    assert await books.insert([refused], batch_id()) == {refused.event.event_id}


async def test_entries_of_a_full_batch_belong_to_their_events(
    books: EventLedger,
) -> None:
    """A thousand events of all types: each has exactly the entries of its posting."""
    restaurant = unique("res")
    await books.open_accounts(
        [BalanceAccount(restaurant, "PEN"), BalanceAccount("", "PEN")], register=True
    )
    types = [event_type for event_type in EventType if not event_type.value.startswith("payout")]
    postings = [
        posting(
            processor_event(
                types[number % len(types)],
                event_id=f"{restaurant}_{number:04d}",
                restaurant_id=""
                if types[number % len(types)] in PLATFORM_EVENT_TYPES
                else restaurant,
                amount_minor=number + 1,
                fee_minor=1
                if number % 3 == 0 and types[number % len(types)] is EventType.CHARGE_SUCCEEDED
                else 0,
            )
        )
        for number in range(1000)
    ]
    assert len(await books.insert(postings, batch_id())) == 1000
    stored = await books.stored([each.event.event_id for each in postings])
    for each in postings[::37]:
        entries = await books.entries(stored[each.event.event_id])
        event = each.event
        rules = rules_of(event.type, has_fee=event.fee_minor > 0)
        assert [(entry.position, entry.entry_type, entry.amount_minor) for entry in entries] == [
            (
                position,
                rule.entry_type,
                event.fee_minor if rule.amount is Amount.FEE else event.amount_minor,
            )
            for position, rule in enumerate(rules, start=1)
        ]


@pytest.mark.parametrize(
    ("maturity_days", "available"), [(0, None), (30, OCCURRED_AT + timedelta(hours=24 * 30))]
)
async def test_restaurants_own_maturity_overrides_the_setting(
    shared_database: Database, maturity_days: int, available: datetime | None
) -> None:
    """The restaurant's days count, as of the record; 0 days means no maturity instant at all."""
    restaurant = unique("res")
    engine = create_engine(shared_database.url, pool_size=1)
    books = PostgresEventLedger(partial(autocommit, engine), maturity_days=7)
    await books.open_accounts([BalanceAccount(restaurant, "PEN")], register=True)
    await query(
        shared_database.migration_url,
        "UPDATE restaurants SET maturity_days = :days WHERE restaurant_id = :id",
        days=maturity_days,
        id=restaurant,
    )
    charge = posting(processor_event(event_id=unique("evt"), restaurant_id=restaurant, fee_minor=1))
    await books.insert([charge], batch_id())
    stored = await books.stored([charge.event.event_id])
    entries = await books.entries(stored[charge.event.event_id])
    matures = None if available is None else microseconds(available)
    assert [entry.available_at_microseconds for entry in entries] == [matures, matures]
    await engine.dispose()
