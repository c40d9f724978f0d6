"""Payouts in a currency that no load uses, so that they do not change the load's balances."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from support.dates import date_message
from support.events import event_message

from faults.callers import Caller
from faults.journal import Reply
from faults.stage import Stage
from ledger.v1 import ledger_pb2

CURRENCY = "EUR"


async def charge_restaurants(caller: Caller, restaurants: int, *, round_: int = 0) -> None:
    """Gives as many restaurants a matured charge each, of different amounts."""
    for start in range(0, restaurants, 500):
        calls = await caller.send_batch(
            [
                event_message(
                    event_id=f"paid_{round_}_{number:05d}",
                    restaurant_id=f"paid_{number:05d}",
                    currency=CURRENCY,
                    amount_minor=1_000 + number,
                    fee_minor=number % 7,
                )
                for number in range(start, min(start + 500, restaurants))
            ]
        )
        assert {call.reply for call in calls} == {Reply.CREATED}


async def change_profile(
    caller: Caller, restaurant_id: str, *, min_balance_minor: int = 0, hold: str = ""
) -> None:
    """Sets a restaurant's minimum, or puts it on hold for a reason."""
    request = ledger_pb2.UpdateRestaurantRequest()
    request.restaurant.restaurant_id = restaurant_id
    if min_balance_minor:
        request.restaurant.min_balance_minor[CURRENCY] = min_balance_minor
        request.update_mask.paths.append(f"min_balance_minor.{CURRENCY}")
    if hold:
        request.restaurant.payout_hold.reason = hold
        request.update_mask.paths.append("payout_hold")
    await caller.stub.UpdateRestaurant(request, timeout=30)


async def start_run(
    caller: Caller, *, days_ago: int = 0, request_id: str = "", restaurants: Sequence[str] = ()
) -> str:
    """Starts a run and returns its id; the same arguments name the same run."""
    day = datetime.now(UTC).date() - timedelta(days=days_ago)
    request = ledger_pb2.RunPayoutsRequest(
        currency=CURRENCY,
        as_of=date_message(day),
        request_id=request_id,
        restaurant_ids=restaurants,
    )
    return (await caller.stub.RunPayouts(request, timeout=30)).payout_run.payout_run_id


async def finished(
    caller: Caller, payout_run_id: str, *, timeout_seconds: float = 60
) -> ledger_pb2.PayoutRun:
    """Waits for the end of a run."""
    async with asyncio.timeout(timeout_seconds):
        while True:
            request = ledger_pb2.GetPayoutRunRequest(payout_run_id=payout_run_id)
            run = (await caller.stub.GetPayoutRun(request)).payout_run
            if run.state == ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED:
                return run
            await asyncio.sleep(0.05)


async def paid_once(stage: Stage, restaurants: int) -> None:
    """Asserts that every restaurant has one payout, of all that it was owed."""
    rows = await stage.query("SELECT count(*), count(DISTINCT balance_account_id) FROM payouts")
    assert rows == [(restaurants, restaurants)], rows
    unpaid = await stage.query(
        """
        SELECT a.restaurant_id, p.amount_minor, sum(v.amount_minor - v.fee_minor)
        FROM payouts AS p
        JOIN balance_accounts AS a USING (balance_account_id)
        JOIN processor_events AS v
          ON v.restaurant_id = a.restaurant_id AND v.currency = a.currency
        AND v.type = 'charge_succeeded'
        GROUP BY 1, 2 HAVING p.amount_minor <> sum(v.amount_minor - v.fee_minor)
        """
    )
    assert unpaid == [], unpaid[:5]
