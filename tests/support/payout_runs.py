"""Payout runs for tests: starts them, waits for their end, and books the bank's answers."""

import asyncio
from datetime import date
from typing import Any

from ledger.v1 import ledger_pb2
from support.dates import date_message, today
from support.events import event_message
from support.running import RunningLedger
from support.waiting import DEADLINE_SECONDS, POLL_SECONDS


async def start_run(
    ledger: RunningLedger, *, as_of: date | None = None, currency: str = "PEN", **fields: Any
) -> ledger_pb2.PayoutRun:
    """Starts a run, by default of PEN as of today. The same arguments return the same run."""
    return (await _run(ledger, as_of, currency, **fields)).payout_run


async def plan_run(
    ledger: RunningLedger, *, as_of: date | None = None, currency: str = "PEN", **fields: Any
) -> ledger_pb2.RunPayoutsResponse:
    """The plan of a run that `start_run` would start with the same arguments."""
    return await _run(ledger, as_of, currency, dry_run=True, **fields)


async def _run(
    ledger: RunningLedger, as_of: date | None, currency: str, **fields: Any
) -> ledger_pb2.RunPayoutsResponse:
    request = ledger_pb2.RunPayoutsRequest(
        currency=currency, as_of=date_message(as_of or today()), **fields
    )
    response: ledger_pb2.RunPayoutsResponse = await ledger.stub.RunPayouts(request)
    return response


async def end_of_run(
    ledger: RunningLedger, payout_run_id: str, timeout_seconds: float = DEADLINE_SECONDS
) -> ledger_pb2.PayoutRun:
    """Waits for the end of a run."""
    async with asyncio.timeout(timeout_seconds):
        while True:
            response = await ledger.stub.GetPayoutRun(
                ledger_pb2.GetPayoutRunRequest(payout_run_id=payout_run_id)
            )
            if response.payout_run.state == ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED:
                return response.payout_run
            await asyncio.sleep(POLL_SECONDS)


async def finished_run(ledger: RunningLedger, **fields: Any) -> ledger_pb2.PayoutRun:
    """Starts a run as `start_run` does, and waits for its end."""
    return await end_of_run(ledger, (await start_run(ledger, **fields)).payout_run_id)


async def payouts_of(ledger: RunningLedger, **fields: Any) -> list[ledger_pb2.Payout]:
    """Payouts without items and history, latest first, all pages of them."""
    found: list[ledger_pb2.Payout] = []
    token = ""
    while True:
        page = await ledger.stub.ListPayouts(
            ledger_pb2.ListPayoutsRequest(**fields, page_size=1000, page_token=token)
        )
        found.extend(page.payouts)
        token = page.next_page_token
        if not token:
            return found


async def payout_of(ledger: RunningLedger, restaurant_id: str) -> ledger_pb2.Payout:
    """A restaurant's latest payout, with items and history."""
    latest = (await payouts_of(ledger, restaurant_id=restaurant_id))[0]
    return (
        await ledger.stub.GetPayout(ledger_pb2.GetPayoutRequest(payout_id=latest.payout_id))
    ).payout


async def outcomes_of(ledger: RunningLedger, run: ledger_pb2.PayoutRun) -> dict[str, str]:
    """The outcome of each restaurant of a run: the reason of its skip, or the amount paid."""
    return {item.restaurant_id: outcome_of(item) for item in await run_items_of(ledger, run)}


def outcome_of(item: ledger_pb2.PayoutRunItem) -> str:
    """The reason of a skip, or the amount paid."""
    skipped = ledger_pb2.SkipReason.Name(item.skip_reason).removeprefix("SKIP_REASON_")
    return str(item.amount_minor) if skipped == "UNSPECIFIED" else skipped


async def run_items_of(
    ledger: RunningLedger, run: ledger_pb2.PayoutRun
) -> list[ledger_pb2.PayoutRunItem]:
    """The restaurants of a run, all pages of them."""
    found: list[ledger_pb2.PayoutRunItem] = []
    token = ""
    while True:
        page = await ledger.stub.ListPayoutRunItems(
            ledger_pb2.ListPayoutRunItemsRequest(
                payout_run_id=run.payout_run_id, page_size=1000, page_token=token
            )
        )
        found.extend(page.items)
        token = page.next_page_token
        if not token:
            return found


def items_of(payout: ledger_pb2.Payout) -> dict[str, int]:
    """What a payout consists of, by entry type."""
    return {
        ledger_pb2.EntryType.Name(item.type).removeprefix("ENTRY_TYPE_"): item.amount_minor
        for item in payout.items
    }


async def put_restaurant(ledger: RunningLedger, restaurant_id: str, **profile: Any) -> None:
    """Replaces a restaurant's profile."""
    await ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id, **profile)
    )


async def charge_all(
    ledger: RunningLedger, restaurants: int, prefix: str = "res", amount_minor: int = 1_000
) -> list[str]:
    """Gives as many restaurants a matured charge each, of different amounts."""
    ids = [f"{prefix}_{number:04d}" for number in range(restaurants)]
    for start in range(0, restaurants, 500):
        page = ids[start : start + 500]
        results = await ledger.ingest(
            *(
                event_message(
                    restaurant_id=restaurant_id,
                    amount_minor=amount_minor + place,
                    fee_minor=place % 7,
                )
                for place, restaurant_id in enumerate(page, start)
            )
        )
        assert {result.status for result in results} == {ledger_pb2.INGEST_STATUS_CREATED}
    return ids


def payout_event(payout: ledger_pb2.Payout, type: int, **changes: Any) -> ledger_pb2.ProcessorEvent:
    """The bank's answer to a payout, with some fields changed."""
    fields: dict[str, Any] = {
        "restaurant_id": payout.restaurant_id,
        "currency": payout.currency,
        "amount_minor": payout.amount_minor,
        "payout_id": payout.payout_id,
    }
    return event_message(type, **(fields | changes))


async def answer(ledger: RunningLedger, restaurant_id: str, *kinds: int, **said: str) -> None:
    """Books the bank's answers to the restaurant's latest payout, one after the other, each with
    what it said.
    """
    request = ledger_pb2.ListPayoutsRequest(restaurant_id=restaurant_id, page_size=1)
    (payout,) = (await ledger.stub.ListPayouts(request)).payouts
    for kind in kinds:
        type_name = ledger_pb2.EventType.Name(kind).lower()  # type: ignore[arg-type]
        event_id = f"evt_{restaurant_id}_{type_name}_{payout.payout_id}"
        event = payout_event(payout, kind, event_id=event_id, **said)
        (result,) = await ledger.ingest(event)
        if result.status != ledger_pb2.INGEST_STATUS_CREATED:
            raise RuntimeError(result)
