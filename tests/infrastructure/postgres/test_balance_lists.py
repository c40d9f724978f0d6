"""Balances of many restaurants, and what matures on which day, are those of GetBalance."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.type import date_pb2
from grpc import aio
from support.events import event_message
from support.payout_runs import finished_run
from support.running import RunningLedger, running_ledger

from ledger.application.ports.balance_lists import BalancesQuery
from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.balance_lists import PostgresBalanceLists
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.v1 import ledger_pb2

TYPES = [
    ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
    ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
    ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
    ledger_pb2.EVENT_TYPE_RESERVE_HELD,
]
AMOUNTS = (
    "available_minor",
    "pending_minor",
    "reserved_minor",
    "disputed_minor",
    "reserve_held_minor",
)


async def listed(ledger: RunningLedger, **fields: Any) -> list[ledger_pb2.RestaurantBalance]:
    """All pages of a list in PEN."""
    balances: list[ledger_pb2.RestaurantBalance] = []
    token = ""
    while True:
        page = await ledger.stub.ListBalances(
            ledger_pb2.ListBalancesRequest(currency="PEN", page_token=token, **fields)
        )
        balances += page.balances
        token = page.next_page_token
        if not token:
            return balances


async def test_lists_have_the_balances_that_pass_the_filters(
    ledger: RunningLedger, seed: int
) -> None:
    """Each is what GetBalance returns, and the totals are their sums."""
    chance = random.Random(seed)
    now = datetime.now(UTC)
    restaurants = [f"{prefix}_{number}" for prefix in ("a", "b") for number in range(12)]
    for _ in range(6):
        await ledger.ingest(
            *(
                event_message(
                    chance.choice(TYPES),
                    restaurant_id=chance.choice(restaurants),
                    currency=chance.choice(("PEN", "PEN", "USD")),
                    amount_minor=chance.randint(1, 999),
                    occurred_at=now - timedelta(days=chance.choice((1, 30))),
                )
                for _ in range(12)
            )
        )
    await finished_run(ledger, min_amount_minor=700)
    every = {balance.restaurant_id: balance for balance in await listed(ledger)}
    assert list(every) == sorted(every)
    for restaurant_id, shown in every.items():
        balance = await ledger.balance(restaurant_id)
        for name in (*AMOUNTS, "last_event_at"):
            assert getattr(shown, name) == getattr(balance, name)
    for in_the_red in (False, True):
        for held in (False, True):
            for prefix in ("", "a", "b_1"):
                for minimum in (None, -100, 500):
                    kept = [
                        balance
                        for balance in every.values()
                        if balance.restaurant_id.startswith(prefix)
                        and (not in_the_red or balance.available_minor + balance.pending_minor < 0)
                        and (not held or balance.disputed_minor or balance.reserve_held_minor)
                        and (minimum is None or balance.available_minor >= minimum)
                    ]
                    fields: dict[str, Any] = {
                        "in_the_red": in_the_red,
                        "held": held,
                        "restaurant_id_prefix": prefix,
                        "min_available_minor": minimum,
                    }
                    found = await listed(ledger, **fields, page_size=chance.choice((1, 5, 1000)))
                    assert [balance.restaurant_id for balance in found] == [
                        balance.restaurant_id for balance in kept
                    ]
                    page = await ledger.stub.ListBalances(
                        ledger_pb2.ListBalancesRequest(
                            currency="PEN", page_size=1, with_sums=True, **fields
                        )
                    )
                    assert page.totals.restaurants_count == len(kept)
                    for name in AMOUNTS:
                        assert getattr(page.totals, name) == sum(
                            getattr(balance, name) for balance in kept
                        )


async def test_page_that_looks_at_few_restaurants_goes_on(ledger: RunningLedger) -> None:
    """It may be empty, and the list goes on behind what it has looked at."""
    await ledger.ingest(*(event_message(restaurant_id=f"res_{n:02}") for n in range(9)))
    await ledger.ingest(
        event_message(
            ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, restaurant_id="res_07", amount_minor=99_999
        )
    )
    lists = PostgresBalanceLists(
        lambda: autocommit(ledger.engine), settlement_timezone="UTC", looked_at_max=2
    )
    query = BalancesQuery("PEN", None, True, False, None)
    after, found, pages = "", [], 0
    while True:
        page = await lists.page(query, after, 5)
        found += [balance.account.holder_id for balance in page.items]
        pages += 1
        if page.next_place is None:
            break
        after = page.next_place
    assert (found, pages) == (["res_07"], 5)


async def test_maturities_are_by_day_of_the_settlement_zone(database: Database) -> None:
    """Lima is five hours behind UTC. What lies beyond the days is in one sum, and all add up to
    what is pending.
    """
    async with running_ledger(database, settlement_timezone="America/Lima") as ledger:
        today = datetime.now(UTC) - timedelta(hours=5)
        noon = today.replace(hour=12, minute=0, second=0, microsecond=0) + timedelta(hours=5)
        # Seven days on they mature: at 22:00 in Lima on the day after today, and at noon later.
        for days, hours, amount in ((1, 10, 100), (1, 0, 50), (2, 0, 7), (6, 0, 3)):
            await ledger.ingest(
                event_message(
                    restaurant_id="res_lima",
                    amount_minor=amount * 10,
                    fee_minor=amount,
                    occurred_at=noon + timedelta(days=days - 7, hours=hours),
                )
            )
        await ledger.ingest(
            event_message(
                restaurant_id="res_other",
                amount_minor=1,
                occurred_at=noon + timedelta(days=2 - 7),
            )
        )
        request = ledger_pb2.ListMaturitiesRequest(restaurant_id="res_lima", currency="PEN", days=4)
        response = await ledger.stub.ListMaturities(request)

        def day(number: int) -> date_pb2.Date:
            found = (today + timedelta(days=number)).date()
            return date_pb2.Date(year=found.year, month=found.month, day=found.day)

        assert [
            (maturity.as_of, maturity.amount_minor, maturity.entries_count)
            for maturity in response.maturities
        ] == [(day(1), 1350, 4), (day(2), 63, 2)]
        assert response.later_minor == 27
        balance = await ledger.balance("res_lima")
        assert balance.pending_minor == 1350 + 63 + 27
        everything = await ledger.stub.ListMaturities(
            ledger_pb2.ListMaturitiesRequest(currency="PEN")
        )
        assert [maturity.amount_minor for maturity in everything.maturities] == [1350, 64, 27]
        assert everything.later_minor == 0


async def test_maturities_of_nothing(shared_ledger: RunningLedger) -> None:
    """No rows for a restaurant without anything pending; NOT_FOUND for an unknown one."""
    await shared_ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id="res_idle")
    )
    request = ledger_pb2.ListMaturitiesRequest(restaurant_id="res_idle", currency="PEN")
    response = await shared_ledger.stub.ListMaturities(request)
    assert not response.maturities
    assert response.HasField("as_of")
    request.restaurant_id = "res_absent"
    with pytest.raises(aio.AioRpcError) as caught:
        await shared_ledger.stub.ListMaturities(request)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
