"""Payout runs for tests: started through the service and waited for, and the bank's answers to their payouts."""

import asyncio
from datetime import UTC, date, datetime, timedelta

from google.type import date_pb2

from ledger.v1 import ledger_pb2
from support.events import event_message, unique
from support.running import RunningLedger

TIMEOUT_SECONDS = 60


def days_ago(days: int) -> date:
    """A date in UTC, the settlement time zone of the tests."""
    return datetime.now(UTC).date() - timedelta(days=days)


async def finished_run(
    ledger: RunningLedger,
    *,
    currency: str = "PEN",
    as_of: date | None = None,
    min_amount_minor: int = 0,
) -> ledger_pb2.PayoutRun:
    """Starts a run of its own, by default as of today, and waits for its end."""
    day = days_ago(0) if as_of is None else as_of
    request = ledger_pb2.RunPayoutsRequest(
        currency=currency,
        as_of=date_pb2.Date(year=day.year, month=day.month, day=day.day),
        min_amount_minor=min_amount_minor,
        request_id=unique("run"),
    )
    run = (await ledger.stub.RunPayouts(request)).payout_run
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while run.state != ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED:
            run = (
                await ledger.stub.GetPayoutRun(
                    ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id)
                )
            ).payout_run
    return run


async def answer(ledger: RunningLedger, restaurant_id: str, *kinds: int) -> None:
    """Has the bank say something, or one thing after the other, about the restaurant's latest payout."""
    request = ledger_pb2.ListPayoutsRequest(restaurant_id=restaurant_id, page_size=1)
    (payout,) = (await ledger.stub.ListPayouts(request)).payouts
    for kind in kinds:
        event = event_message(
            kind,
            event_id=f"evt_{restaurant_id}_{ledger_pb2.EventType.Name(kind).lower()}_{payout.payout_id}",  # type: ignore[arg-type]
            restaurant_id=restaurant_id,
            currency=payout.currency,
            amount_minor=payout.amount_minor,
            payout_id=payout.payout_id,
        )
        (result,) = await ledger.ingest(event)
        if result.status != ledger_pb2.INGEST_STATUS_CREATED:
            raise RuntimeError(result)
