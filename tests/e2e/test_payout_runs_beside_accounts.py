"""Payout runs pay restaurants: accounts that hold money in the same currency are left out."""

import asyncio

from support.dates import date_message, days_ago
from support.events import event_message
from support.paying import open_account, order
from support.running import RunningLedger
from support.waiting import DEADLINE_SECONDS

from ledger.v1 import ledger_pb2


async def test_run_looks_at_restaurants_alone(ledger: RunningLedger) -> None:
    """Its plan, its count while it runs, its items and its payouts."""
    for number in range(3):
        await open_account(ledger, f"acc_{number}", None)
    await ledger.payments.AuthorizePayment(order("pay_1", "acc_0", "acc_1", 5000))
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=700, fee_minor=0))
    await ledger.query("UPDATE restaurants SET maturity_days = 0 RETURNING 1")
    await ledger.payments.AuthorizePayment(
        order("pay_2", "acc_0", "", 300, payee_restaurant_id="res_1", fee_minor=30)
    )

    def request(*, dry_run: bool) -> ledger_pb2.RunPayoutsRequest:
        return ledger_pb2.RunPayoutsRequest(
            currency="PEN", as_of=date_message(days_ago(0)), dry_run=dry_run
        )

    plan = (await ledger.stub.RunPayouts(request(dry_run=True))).payout_run
    assert plan.restaurants_considered == 1
    started = (await ledger.stub.RunPayouts(request(dry_run=False))).payout_run
    assert started.restaurants_total == 1
    run = started
    async with asyncio.timeout(DEADLINE_SECONDS):
        while run.state != ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED:
            await asyncio.sleep(0.01)
            run = (
                await ledger.stub.GetPayoutRun(
                    ledger_pb2.GetPayoutRunRequest(payout_run_id=started.payout_run_id)
                )
            ).payout_run
    assert (run.restaurants_total, run.payouts_created) == (1, 1)
    assert run.total_amount_minor == plan.total_amount_minor
    (payout,) = (await ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest())).payouts
    details = await ledger.stub.GetPayout(ledger_pb2.GetPayoutRequest(payout_id=payout.payout_id))
    items = {
        ledger_pb2.EntryType.Name(item.type): item.amount_minor for item in details.payout.items
    }
    assert items["ENTRY_TYPE_TRANSFER_IN"] == 300
    assert items["ENTRY_TYPE_FEE"] == -30
