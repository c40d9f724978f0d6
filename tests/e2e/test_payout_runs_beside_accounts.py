"""Payout runs pay restaurants: accounts that hold money in the same currency are left out."""

from support.events import event_message
from support.paying import open_account, order
from support.payout_runs import end_of_run, items_of, payout_of, payouts_of, start_run
from support.running import RunningLedger

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

    plan = await start_run(ledger, dry_run=True)
    assert plan.restaurants_considered == 1
    started = await start_run(ledger)
    assert started.restaurants_total == 1
    run = await end_of_run(ledger, started.payout_run_id)
    assert run.state == ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED
    assert (run.restaurants_total, run.payouts_created) == (1, 1)
    assert run.total_amount_minor == plan.total_amount_minor
    assert len(await payouts_of(ledger)) == 1
    items = items_of(await payout_of(ledger, "res_1"))
    assert (items["TRANSFER_IN"], items["FEE"]) == (300, -30)
