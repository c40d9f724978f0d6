"""Events about payouts that do not exist, that differ, or that have ended."""

from typing import Any

import grpc
import pytest
from grpc import aio
from support.bad_requests import (
    PAYOUT_FAILED,
    PAYOUT_PAID,
    UUID_TEXT,
    assert_nothing_internal,
    checked_details_of,
    counts,
    ingest,
    refusal,
    run_request,
    send,
)
from support.dates import date_message, days_ago
from support.events import event_message, unique
from support.payout_runs import end_of_run, payout_event
from support.running import RunningLedger

from ledger.v1 import ledger_pb2

pytestmark = pytest.mark.both_servers


@pytest.mark.parametrize("type", [PAYOUT_PAID, PAYOUT_FAILED])
async def test_payout_event_of_no_payout_is_not_found(
    shared_ledger: RunningLedger, type: int
) -> None:
    """However often it is repeated. It registers no restaurant."""
    before = await counts(shared_ledger)
    event = event_message(type, restaurant_id=unique("res"), payout_id="po_none")
    for _ in range(2):
        with pytest.raises(aio.AioRpcError) as caught:
            await send(shared_ledger, "IngestEvent", ingest(event))
        got = refusal(caught.value)
        assert (got.code, got.reason) == (grpc.StatusCode.NOT_FOUND, "PAYOUT_NOT_FOUND")
        assert got.metadata == {"payout_id": "po_none"}
        assert_nothing_internal(got.everything)
    assert await counts(shared_ledger) == before


@pytest.mark.parametrize("type", [PAYOUT_PAID, PAYOUT_FAILED])
@pytest.mark.parametrize(
    "payout_id", ["po_none", "-1", UUID_TEXT, UUID_TEXT.upper(), UUID_TEXT.replace("-", "")]
)
async def test_other_spelling_of_a_payout_id_is_not_found(
    ledger: RunningLedger, type: int, payout_id: str
) -> None:
    """So is an id of no payout. Nothing is stored."""
    payout = await created_payout(ledger)
    spellings = {payout.payout_id.upper(), payout.payout_id.replace("-", ""), payout_id} - {
        payout.payout_id
    }
    before = await counts(ledger)
    for spelling in sorted(spellings):
        await assert_payout_event_refused(
            ledger,
            payout_event(payout, type, payout_id=spelling),
            (grpc.StatusCode.NOT_FOUND, "PAYOUT_NOT_FOUND"),
            {"payout_id": spelling},
        )
    assert await counts(ledger) == before
    assert (await payout_of(ledger, payout.payout_id)) == payout


async def created_payout(ledger: RunningLedger) -> ledger_pb2.Payout:
    """The one payout of the books, in the state CREATED."""
    await ledger.ingest(event_message(restaurant_id="res_paid", amount_minor=918_273))
    await ledger.ingest(event_message(restaurant_id="res_other", amount_minor=1))
    today = date_message(days_ago(0))
    run = await ledger.stub.RunPayouts(run_request(as_of=today, min_amount_minor=2))
    await end_of_run(ledger, run.payout_run.payout_run_id)
    (payout,) = (await ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest())).payouts
    return await payout_of(ledger, payout.payout_id)


async def payout_of(ledger: RunningLedger, payout_id: str) -> ledger_pb2.Payout:
    """A payout with its history."""
    return (await ledger.stub.GetPayout(ledger_pb2.GetPayoutRequest(payout_id=payout_id))).payout


async def assert_payout_event_refused(
    ledger: RunningLedger,
    event: ledger_pb2.ProcessorEvent,
    expected: tuple[grpc.StatusCode, str],
    metadata: dict[str, str],
) -> None:
    """Asserts that the event is refused alone and in a batch, twice each, for the same reason.

    It is not stored, and the error shows nothing internal.
    """
    for _ in range(2):
        with pytest.raises(aio.AioRpcError) as caught:
            await send(ledger, "IngestEvent", ingest(event))
        got = refusal(caught.value)
        assert (got.code, got.reason) == expected
        assert got.metadata == metadata
        assert_nothing_internal(got.everything)
        (result,) = await ledger.ingest(event)
        assert (result.error.code, *checked_details_of(result.error)[:2]) == (
            expected[0].value[0],
            expected[1],
            metadata,
        )
    with pytest.raises(aio.AioRpcError) as caught:
        await ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event.event_id))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("type", [PAYOUT_PAID, PAYOUT_FAILED])
async def test_payout_event_that_contradicts_its_payout_is_refused(
    ledger: RunningLedger, type: int
) -> None:
    """FAILED_PRECONDITION names the fields that differ, but not the payout's values."""
    payout = await created_payout(ledger)
    before = await counts(ledger)
    contradictions: dict[str, dict[str, Any]] = {
        "amount_minor": {"amount_minor": payout.amount_minor - 1},
        "restaurant_id": {"restaurant_id": "res_other"},
        "currency": {"currency": "USD"},
        "restaurant_id,currency,amount_minor": {
            "restaurant_id": "res_unknown",
            "currency": "JPY",
            "amount_minor": 1,
        },
    }
    for differing, changes in contradictions.items():
        metadata = {"payout_id": payout.payout_id, "differing_fields": differing}
        expected = (grpc.StatusCode.FAILED_PRECONDITION, "PAYOUT_MISMATCH")
        event = payout_event(payout, type, **changes)
        await assert_payout_event_refused(ledger, event, expected, metadata)
        with pytest.raises(aio.AioRpcError) as caught:
            await send(ledger, "IngestEvent", ingest(event))
        shown = refusal(caught.value).everything
        assert [text for text in ("918273", "918_273", "res_paid") if text in shown] == []
    assert await counts(ledger) == before
    assert await payout_of(ledger, payout.payout_id) == payout


@pytest.mark.parametrize(
    ("moves", "refused_move", "state"),
    [
        pytest.param((PAYOUT_PAID,), PAYOUT_PAID, "PAID", id="paid-twice"),
        pytest.param((PAYOUT_FAILED,), PAYOUT_FAILED, "FAILED", id="failed-twice"),
        pytest.param(
            (PAYOUT_PAID, PAYOUT_FAILED), PAYOUT_PAID, "RETURNED", id="paid-after-returned"
        ),
        pytest.param((PAYOUT_PAID, PAYOUT_FAILED), PAYOUT_FAILED, "RETURNED", id="returned-twice"),
        pytest.param(
            (PAYOUT_FAILED, PAYOUT_PAID),
            PAYOUT_PAID,
            "RETURNED",
            id="paid-after-returned-in-the-other-order",
        ),
    ],
)
async def test_event_about_a_payout_that_has_ended_is_refused(
    ledger: RunningLedger, moves: tuple[int, ...], refused_move: int, state: str
) -> None:
    """FAILED_PRECONDITION with the state of the payout. A repeat of a booked event is DUPLICATE."""
    payout = await created_payout(ledger)
    made = [payout_event(payout, move) for move in moves]
    for event in made:
        assert [result.status for result in await ledger.ingest(event)] == [
            ledger_pb2.INGEST_STATUS_CREATED
        ]
    moved, before = await payout_of(ledger, payout.payout_id), await counts(ledger)
    refused = payout_event(payout, refused_move)
    booked = ",".join(sorted(event.event_id for event in made))
    metadata = {
        "payout_id": payout.payout_id,
        "state": state,
        "event_id": refused.event_id,
        "booked_event_ids": booked,
    }
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "PAYOUT_MOVE_NOT_ALLOWED")
    await assert_payout_event_refused(ledger, refused, expected, metadata)
    repeated = await ledger.ingest(*made)
    assert {result.status for result in repeated} == {ledger_pb2.INGEST_STATUS_DUPLICATE}
    assert await counts(ledger) == before
    assert await payout_of(ledger, payout.payout_id) == moved


@pytest.mark.parametrize("first", [PAYOUT_PAID, PAYOUT_FAILED])
async def test_payment_after_the_failure_is_refused_with_both_events(
    ledger: RunningLedger, first: int
) -> None:
    """By `occurred_at` the bank paid after the payout had failed: FAILED_PRECONDITION with the ids
    of both events, whichever came first.
    """
    payout = await created_payout(ledger)
    failed = payout_event(payout, PAYOUT_FAILED)
    paid = payout_event(payout, PAYOUT_PAID)
    paid.occurred_at.FromMicroseconds(failed.occurred_at.ToMicroseconds() + 1)
    booked, refused = (paid, failed) if first == PAYOUT_PAID else (failed, paid)
    assert [result.status for result in await ledger.ingest(booked)] == [
        ledger_pb2.INGEST_STATUS_CREATED
    ]
    moved, before = await payout_of(ledger, payout.payout_id), await counts(ledger)
    metadata = {
        "payout_id": payout.payout_id,
        "state": "PAID" if first == PAYOUT_PAID else "FAILED",
        "event_id": refused.event_id,
        "booked_event_id": booked.event_id,
    }
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "PAYOUT_ANSWERS_CONTRADICT")
    await assert_payout_event_refused(ledger, refused, expected, metadata)
    assert await counts(ledger) == before
    assert await payout_of(ledger, payout.payout_id) == moved
