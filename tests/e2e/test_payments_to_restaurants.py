"""Payments to restaurants: fees, maturity, balances, payouts, and refunds out of their balance."""

import asyncio
from datetime import UTC, timedelta
from typing import Any

import grpc
import pytest
from grpc import aio
from support.audit import assert_books_in_order
from support.events import event_message
from support.paying import (
    BANK,
    MANUAL,
    SELECT_UNBALANCED,
    batch,
    details,
    entries_of,
    funds,
    in_batch,
    open_account,
    operation,
    order,
    reason_name,
    set_state,
    state_name,
    status_name,
)
from support.payout_runs import (
    finished_run,
    items_of,
    outcomes_of,
    payout_of,
    put_restaurant,
)
from support.reconciliation import assert_reconciled
from support.running import RunningLedger, running_ledger
from support.sessions import deadlocks_of
from support.statuses import reason_of, response_or_error

from ledger.bootstrap.database import Database
from ledger.v1 import payment_pb2


async def pay(
    ledger: RunningLedger, payment_id: str, restaurant_id: str, amount_minor: int, **fields: Any
) -> payment_pb2.Payment:
    """A payment of the account "guest" to a restaurant."""
    request = order(
        payment_id, "guest", "", amount_minor, payee_restaurant_id=restaurant_id, **fields
    )
    return (await ledger.payments.AuthorizePayment(request)).payment


async def standing(ledger: RunningLedger, restaurant_id: str) -> tuple[int, int, int]:
    """Available, pending and reserved."""
    got = await ledger.balance(restaurant_id)
    return got.available_minor, got.pending_minor, got.reserved_minor


async def test_payment_matures_as_its_restaurant_says(ledger: RunningLedger) -> None:
    """With 0 days at once; else so many times 24 hours after it was recorded, and its fee too."""
    await open_account(ledger, "guest", None)
    await put_restaurant(ledger, "usual", active=True)
    await put_restaurant(ledger, "at.once", active=True, maturity_days=0)
    await put_restaurant(ledger, "slow", active=True, maturity_days=365)
    for restaurant_id, days in (("usual", 7), ("at.once", 0), ("slow", 365), ("unknown", 7)):
        payment = await pay(ledger, f"t.{restaurant_id}", restaurant_id, 1000, fee_minor=30)
        held = f"h.{restaurant_id}"
        await pay(ledger, held, restaurant_id, 500, fee_minor=20, capture=MANUAL)
        await operation(ledger, "CAPTURE", f"c.{restaurant_id}", held)
        owed_minor = 970 + 480
        expected = (owed_minor, 0, 0) if days == 0 else (0, owed_minor, 0)
        assert await standing(ledger, restaurant_id) == expected
        rows = await ledger.query(
            "SELECT available_at - recorded_at FROM ledger_entries"
            " JOIN balance_accounts USING (balance_account_id)"
            " WHERE restaurant_id = :restaurant_id",
            restaurant_id=restaurant_id,
        )
        assert rows == [(timedelta(days=days) if days else None,)] * 4
        got = await details(ledger, f"t.{restaurant_id}")
        entry = got.entries[1]
        assert entry.HasField("available_at") is (days > 0)
        if days:
            at = payment.created_at.ToDatetime(tzinfo=UTC) + timedelta(days=days)
            assert entry.available_at.ToDatetime(tzinfo=UTC) == at
    await assert_books_in_order(ledger.database)


async def test_each_capture_bears_its_share_of_the_fee(ledger: RunningLedger) -> None:
    """Together they bear the fee; a share of 0 posts no entry. A refund returns no fee."""
    await open_account(ledger, "guest", funds_minor=1000)
    await put_restaurant(ledger, "eatery", active=True, maturity_days=0)
    await pay(ledger, "p", "eatery", 100, fee_minor=7, capture=MANUAL)
    for number, amount_minor in enumerate([10, 10, 33, 0]):
        await operation(ledger, "CAPTURE", f"c{number}", "p", amount_minor=amount_minor)
    fees = [
        amount_minor
        for entry_type, _, amount_minor in await entries_of(ledger, "p")
        if entry_type == "FEE"
    ]
    assert fees == [1, 2, 4]
    assert await standing(ledger, "eatery") == (93, 0, 0)
    await operation(ledger, "REFUND", "r", "p")
    assert await standing(ledger, "eatery") == (-7, 0, 0)
    assert await funds(ledger, "guest") == (1000, 0)
    assert await entries_of(ledger, "p") == [
        ("PAYMENT_HOLD", "guest", 100),
        ("PAYMENT_CAPTURE", "guest", 10),
        ("PAYMENT", "eatery", 10),
        ("PAYMENT_CAPTURE", "guest", 10),
        ("PAYMENT", "eatery", 10),
        ("FEE", "eatery", 1),
        ("PAYMENT_CAPTURE", "guest", 33),
        ("PAYMENT", "eatery", 33),
        ("FEE", "eatery", 2),
        ("PAYMENT_CAPTURE", "guest", 47),
        ("PAYMENT", "eatery", 47),
        ("FEE", "eatery", 4),
        ("REFUND_IN", "guest", 100),
        ("REFUND_OUT", "eatery", 100),
    ]
    assert await ledger.query(SELECT_UNBALANCED) == []
    await assert_books_in_order(ledger.database)


async def test_payments_are_paid_out_with_their_items(ledger: RunningLedger) -> None:
    """Beside charges; what was refunded is deducted, and what has not matured waits."""
    await open_account(ledger, "guest", None)
    for restaurant_id, days in (("eatery", 0), ("slow", 7), ("red", 0)):
        await put_restaurant(ledger, restaurant_id, active=True, maturity_days=days)
    await ledger.ingest(event_message(restaurant_id="eatery", amount_minor=5000, fee_minor=100))
    await pay(ledger, "transfer", "eatery", 1000, fee_minor=30)
    await pay(ledger, "held", "eatery", 600, capture=MANUAL)
    await operation(ledger, "CAPTURE", "c", "held", amount_minor=400, is_final=True)
    await operation(ledger, "REFUND", "r", "transfer", amount_minor=250)
    await pay(ledger, "later", "slow", 1000)
    await pay(ledger, "back", "red", 100, fee_minor=10)
    await operation(ledger, "REVERSE", "v", "back")
    assert await standing(ledger, "eatery") == (4900 + 970 + 400 - 250, 0, 0)
    assert await standing(ledger, "red") == (-10, 0, 0)
    run = await finished_run(ledger)
    assert await outcomes_of(ledger, run) == {
        "eatery": "6020",
        "slow": "NOTHING_AVAILABLE",
        "red": "NOTHING_AVAILABLE",
    }
    assert items_of(await payout_of(ledger, "eatery")) == {
        "CHARGE": 5000,
        "FEE": -130,
        "TRANSFER_IN": 1000,
        "PAYMENT": 400,
        "REFUND_OUT": -250,
    }
    assert await standing(ledger, "eatery") == (0, 0, 6020)
    # A refund of what was paid out drives the restaurant below zero: it is a fact to be settled.
    response = await operation(ledger, "REFUND", "r2", "transfer")
    assert status_name(response) == "APPLIED"
    assert await standing(ledger, "eatery") == (-750, 0, 6020)
    assert await funds(ledger, BANK) == (0, 0)
    await assert_reconciled(ledger.database.migration_url)
    await assert_books_in_order(ledger.database)


async def test_unknown_restaurants_are_registered(ledger: RunningLedger) -> None:
    """By the first payment that is decided, a declined one too; a currency opens an account."""
    await open_account(ledger, "guest", funds_minor=100)
    assert reason_name(await pay(ledger, "p1", "new", 1000)) == "INSUFFICIENT_FUNDS"
    assert await standing(ledger, "new") == (0, 0, 0)
    assert reason_name(await pay(ledger, "p2", "new", 10, currency="USD")) == "CURRENCY_MISMATCH"
    results = await batch(
        ledger,
        [
            in_batch(order(f"b{place}", "guest", "", 1, payee_restaurant_id=f"new{place % 7}"))
            for place in range(50)
        ],
    )
    assert {status_name(result) for result in results} == {"CAPTURED"}
    assert await ledger.query("SELECT count(*) FROM restaurants") == [(8,)]
    await assert_books_in_order(ledger.database)


async def test_unknown_restaurants_are_rejected_if_the_server_is_set_so(
    database: Database,
) -> None:
    """Nothing of the payment is stored, nor of its chain; repeats of stored ones are answered."""
    async with running_ledger(database) as ledger:
        await open_account(ledger, "guest", funds_minor=1000)
        await open_account(ledger, "other")
        known = await pay(ledger, "p", "known", 10)
    async with running_ledger(database, unknown_restaurants="reject") as ledger:
        assert await pay(ledger, "p", "known", 10) == known
        error = await response_or_error(pay(ledger, "q", "unknown", 10))
        assert isinstance(error, aio.AioRpcError)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert reason_of(error) == "RESTAURANT_NOT_FOUND"
        results = await batch(
            ledger,
            [
                in_batch(order("q1", "guest", "", 1, payee_restaurant_id="known")),
                in_batch(order("q2", "guest", "other", 1), linked=True),
                in_batch(order("q3", "guest", "", 1, payee_restaurant_id="unknown"), linked=True),
                in_batch(order("q4", "guest", "other", 1)),
                in_batch(order("q5", "guest", "", 1, payee_restaurant_id="known", currency="USD")),
            ],
        )
        assert [
            reason_of(result.error) if result.HasField("error") else status_name(result)
            for result in results
        ] == [
            "CAPTURED",
            "LINKED_PAYMENT_REFUSED",
            "RESTAURANT_NOT_FOUND",
            "LINKED_PAYMENT_REFUSED",
            "DECLINED",
        ]
        stored = await ledger.query("SELECT payment_id FROM payments WHERE payment_id LIKE 'q%'")
        assert sorted(stored) == [("q1",), ("q5",)]
        assert await ledger.query("SELECT restaurant_id FROM restaurants") == [("known",)]
    await assert_books_in_order(database)


@pytest.mark.parametrize("state", ["FROZEN", "CLOSED"])
async def test_restaurant_refunds_a_frozen_payer_and_no_closed_one(
    ledger: RunningLedger, state: str
) -> None:
    """A frozen account gets its own money back."""
    await open_account(ledger, "guest", funds_minor=100)
    await pay(ledger, "p", "eatery", 100)
    await set_state(ledger, "guest", state)
    response = await operation(ledger, "REFUND", "r", "p")
    is_frozen = state == "FROZEN"
    assert status_name(response) == ("APPLIED" if is_frozen else "DECLINED")
    assert reason_name(response.operation) == ("" if is_frozen else "ACCOUNT_CLOSED")
    assert state_name(response.payment) == "CAPTURED"
    assert await funds(ledger, "guest") == (100 if is_frozen else 0, 0)
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_restaurant_and_account_of_one_name_are_two_holders(ledger: RunningLedger) -> None:
    """Ids of accounts and of restaurants are apart."""
    await open_account(ledger, "guest", funds_minor=100)
    payment = await pay(ledger, "p", "guest", 60)
    assert payment.payee_restaurant_id == "guest"
    assert await funds(ledger, "guest") == (40, 0)
    assert await standing(ledger, "guest") == (0, 60, 0)
    await assert_books_in_order(ledger.database)


async def test_new_restaurants_of_payments_and_events_at_once_are_registered_once(
    database: Database,
) -> None:
    """Through two servers, in any currency, by payments, batches and events."""
    async with running_ledger(database) as first, running_ledger(database) as second:
        for currency in ("PEN", "USD"):
            await open_account(first, f"guest.{currency}", None, currency)
        ways = [first, second]

        def payment(place: int) -> payment_pb2.AuthorizePaymentRequest:
            currency = ("PEN", "USD")[place % 2]
            return order(
                f"p{place}",
                f"guest.{currency}",
                "",
                1,
                payee_restaurant_id=f"new{place % 5}",
                currency=currency,
            )

        calls: list[Any] = []
        for place in range(60):
            ledger = ways[place // 2 % 2]
            if place % 3 == 0:
                calls.append(ledger.payments.AuthorizePayment(payment(place)))
            elif place % 3 == 1:
                orders = [in_batch(payment(1000 + 10 * place + each)) for each in range(10)]
                calls.append(batch(ledger, orders[:: 1 if place % 2 else -1]))
            else:
                event = event_message(
                    restaurant_id=f"new{place % 5}", currency=("PEN", "USD")[place % 2]
                )
                calls.append(ledger.ingest(event))
        for found in await asyncio.gather(*calls):
            for result in found if isinstance(found, list) else [found]:
                assert result.status
        assert await first.query("SELECT count(*) FROM restaurants") == [(5,)]
        opened = "SELECT count(*) FROM balance_accounts WHERE restaurant_id IS NOT NULL"
        assert await first.query(opened) == [(10,)]
    assert await deadlocks_of(database) == 0
    await assert_books_in_order(database)
