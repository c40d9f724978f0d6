"""Payouts that are handed over to the bank once, and payouts that are canceled before."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import pytest
from grpc import aio
from support.audit import assert_books_in_order
from support.events import event_message, unique
from support.locks import until_blocked
from support.payout_runs import (
    charge_all,
    finished_run,
    payout_event,
    payout_of,
    payouts_of,
    start_run,
)
from support.running import RunningLedger
from support.statuses import reason_of, refusal

from ledger.v1 import ledger_pb2

CREATED, SUBMITTED = ledger_pb2.PAYOUT_STATE_CREATED, ledger_pb2.PAYOUT_STATE_SUBMITTED
PAID, FAILED = ledger_pb2.PAYOUT_STATE_PAID, ledger_pb2.PAYOUT_STATE_FAILED
CANCELED = ledger_pb2.PAYOUT_STATE_CANCELED
# Payouts wait at their commit for the advisory lock 1.
COMMIT_BEHIND_A_GATE = (
    "CREATE FUNCTION wait_at_the_gate() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END'",
    "CREATE CONSTRAINT TRIGGER payouts_wait_at_the_gate AFTER INSERT ON payouts"
    " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_at_the_gate()",
)
NEW, REPEATED = ledger_pb2.SUBMIT_STATUS_CREATED, ledger_pb2.SUBMIT_STATUS_DUPLICATE


async def submit(
    ledger: RunningLedger, submission_id: str, **fields: Any
) -> ledger_pb2.SubmitPayoutsResponse:
    return await ledger.stub.SubmitPayouts(
        ledger_pb2.SubmitPayoutsRequest(submission_id=submission_id, **fields)
    )


async def cancel(ledger: RunningLedger, payout_id: str) -> ledger_pb2.Payout:
    response = await ledger.stub.CancelPayout(ledger_pb2.CancelPayoutRequest(payout_id=payout_id))
    return response.payout


async def cancel_run(ledger: RunningLedger, payout_run_id: str) -> ledger_pb2.PayoutRun:
    request = ledger_pb2.CancelPayoutRunRequest(payout_run_id=payout_run_id)
    return (await ledger.stub.CancelPayoutRun(request)).payout_run


@pytest.mark.both_servers
async def test_run_is_submitted_once_and_its_list_stays(ledger: RunningLedger) -> None:
    """A repeat changes nothing, also after the bank has answered; other contents are a conflict."""
    await charge_all(ledger, 5)
    run = await finished_run(ledger)
    payouts = sorted(await payouts_of(ledger), key=lambda payout: payout.payout_id)
    await ledger.ingest(payout_event(payouts[0], ledger_pb2.EVENT_TYPE_PAYOUT_PAID))
    await cancel(ledger, payouts[1].payout_id)
    first = await submit(ledger, "sub_1", payout_run_id=run.payout_run_id, payouts_max=2)
    taken = payouts[2:4]
    submission = first.submission
    assert (first.status, submission.payout_run_id) == (NEW, run.payout_run_id)
    assert (submission.currency, submission.payouts_count) == ("PEN", 2)
    assert submission.total_amount_minor == sum(payout.amount_minor for payout in taken)
    assert {left.state: left.count for left in submission.left_out} == {
        PAID: 1,
        CANCELED: 1,
        CREATED: 1,
    }
    rest = await submit(ledger, "sub_2", payout_run_id=run.payout_run_id)
    assert {left.state: left.count for left in rest.submission.left_out} == {
        PAID: 1,
        CANCELED: 1,
        SUBMITTED: 2,
    }
    await ledger.ingest(payout_event(taken[0], ledger_pb2.EVENT_TYPE_PAYOUT_PAID))
    again = await submit(ledger, "sub_1", payout_run_id=run.payout_run_id, payouts_max=2)
    assert (again.status, again.submission) == (REPEATED, submission)
    listed = await payouts_of(ledger, submission_id="sub_1")
    assert sorted(payout.payout_id for payout in listed) == [each.payout_id for each in taken]
    assert {payout.submission_id for payout in listed} == {"sub_1"}
    for wrong, differing in (
        ({"payout_run_id": run.payout_run_id}, "payouts_max"),
        ({"payout_ids": [taken[0].payout_id]}, "payout_run_id,payout_ids,payouts_max"),
    ):
        status, reason, metadata = await refusal(submit(ledger, "sub_1", **wrong))
        assert (status, reason) == (grpc.StatusCode.ALREADY_EXISTS, "SUBMISSION_ID_REUSED")
        assert metadata == {"submission_id": "sub_1", "differing_fields": differing}
    shown = await payout_of(ledger, taken[0].restaurant_id)
    assert [move.state for move in shown.history] == [CREATED, SUBMITTED, PAID]
    assert shown.submitted_at.ToNanoseconds() < shown.answered_at.ToNanoseconds()
    assert shown.history[1].event_id == f"payout:{shown.payout_id}:submitted"
    stored = await ledger.stub.GetEvent(
        ledger_pb2.GetEventRequest(event_id=shown.history[1].event_id)
    )
    assert (stored.event.reference, list(stored.entries)) == ("sub_1", [])
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_empty_run_gives_an_empty_list(ledger: RunningLedger) -> None:
    """The list is empty for ever, too."""
    await ledger.ingest(event_message(ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED))
    run = await finished_run(ledger)
    for status in (NEW, REPEATED):
        found = await submit(ledger, "sub_1", payout_run_id=run.payout_run_id)
        assert (found.status, found.submission.payouts_count) == (status, 0)
    assert await payouts_of(ledger, submission_id="sub_1") == []
    await assert_books_in_order(ledger.database)


async def test_run_under_way_is_not_submitted(ledger: RunningLedger) -> None:
    """Its list would not be complete."""
    await charge_all(ledger, 1)
    async with ledger.engine.begin() as connection:
        await connection.exec_driver_sql("SELECT 1 FROM balance_accounts FOR UPDATE")
        run = await start_run(ledger)
        found = await refusal(submit(ledger, "sub_1", payout_run_id=run.payout_run_id))
    assert found == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "PAYOUT_RUN_UNDER_WAY",
        {"payout_run_id": run.payout_run_id},
    )


async def test_submission_of_a_canceled_run_has_what_its_last_page_paid(
    ledger: RunningLedger,
) -> None:
    """A page may be committing while its run is canceled: the list waits for it."""
    await charge_all(ledger, 3)
    async with ledger.superuser.begin() as connection:
        for statement in COMMIT_BEHIND_A_GATE:
            await connection.exec_driver_sql(statement)
    async with ledger.superuser.connect() as gate:
        await gate.exec_driver_sql("SELECT pg_advisory_lock(1)")
        run = await start_run(ledger)
        await until_blocked(ledger)
        canceling = asyncio.create_task(cancel_run(ledger, run.payout_run_id))
        await until_blocked(ledger, 2)
        submitting = asyncio.create_task(submit(ledger, "sub_1", payout_run_id=run.payout_run_id))
        await asyncio.wait([submitting], timeout=1)
        await gate.exec_driver_sql("SELECT pg_advisory_unlock(1)")
    canceled = await canceling
    submission = (await submitting).submission
    assert (canceled.state, canceled.payouts_created) == (ledger_pb2.PAYOUT_RUN_STATE_CANCELED, 3)
    assert (submission.payouts_count, list(submission.left_out)) == (3, [])
    assert {payout.state for payout in await payouts_of(ledger)} == {SUBMITTED}
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_named_payouts_are_submitted_all_or_none(ledger: RunningLedger) -> None:
    """Those that cannot be are named, and nothing is stored."""
    await charge_all(ledger, 3)
    await ledger.ingest(event_message(restaurant_id="res_usd", currency="USD"))
    await finished_run(ledger)
    await finished_run(ledger, currency="USD")
    dollars, *payouts = [
        payout.payout_id
        for payout in sorted(
            await payouts_of(ledger), key=lambda payout: payout.currency, reverse=True
        )
    ]
    await cancel(ledger, payouts[0])
    unknown = str(uuid4())
    refused: list[tuple[list[str], tuple[grpc.StatusCode, str, dict[str, str]]]] = [
        (
            payouts,
            (
                grpc.StatusCode.FAILED_PRECONDITION,
                "PAYOUTS_NOT_SUBMITTABLE",
                {"payout_ids": payouts[0], "count": "1"},
            ),
        ),
        (
            [payouts[1], unknown],
            (grpc.StatusCode.NOT_FOUND, "PAYOUT_NOT_FOUND", {"payout_id": unknown}),
        ),
        (
            [payouts[1], dollars],
            (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", {"field": "payout_ids"}),
        ),
    ]
    for named, expected in refused:
        assert await refusal(submit(ledger, "sub_1", payout_ids=named)) == expected
    first = await submit(ledger, "sub_1", payout_ids=payouts[1:])
    again = await submit(ledger, "sub_1", payout_ids=payouts[:0:-1])
    assert (first.status, again.status) == (NEW, REPEATED)
    assert first.submission == again.submission
    assert await refusal(submit(ledger, "sub_1", payout_ids=payouts)) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "SUBMISSION_ID_REUSED",
        {"submission_id": "sub_1", "differing_fields": "payout_ids"},
    )
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_canceled_payout_is_available_again(ledger: RunningLedger) -> None:
    """At once, for a payout of the same date. A repeat answers the same; the bank's answers and a
    submission are refused and move no money.
    """
    await charge_all(ledger, 1, amount_minor=10_000)
    run = await finished_run(ledger)
    payout = await payout_of(ledger, "res_0000")
    canceled = await cancel(ledger, payout.payout_id)
    assert [move.state for move in canceled.history] == [CREATED, CANCELED]
    assert await cancel(ledger, payout.payout_id) == canceled
    balance = await ledger.balance("res_0000")
    assert (balance.available_minor, balance.reserved_minor) == (10_000, 0)
    for kind in (
        ledger_pb2.EVENT_TYPE_PAYOUT_PAID,
        ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
        ledger_pb2.EVENT_TYPE_PAYOUT_SUBMITTED,
        ledger_pb2.EVENT_TYPE_PAYOUT_REFERENCED,
    ):
        event = payout_event(payout, kind, bank_reference="trace 1")
        (result,) = await ledger.ingest(event)
        assert result.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    empty = await submit(ledger, "sub_1", payout_run_id=run.payout_run_id)
    assert empty.submission.payouts_count == 0
    again = await finished_run(ledger, request_id=unique("again"))
    assert (again.payouts_created, again.total_amount_minor) == (1, 10_000)
    second = await payout_of(ledger, "res_0000")
    assert [(item.type, item.amount_minor) for item in second.items] == [
        (ledger_pb2.ENTRY_TYPE_PAYOUT_REVERSAL, 10_000)
    ]
    await submit(ledger, "sub_2", payout_run_id=again.payout_run_id)
    status, reason, metadata = await refusal(cancel(ledger, second.payout_id))
    assert (status, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PAYOUT_MOVE_NOT_ALLOWED")
    assert metadata["state"] == "SUBMITTED"
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_submitted_payout_is_in_flight(ledger: RunningLedger) -> None:
    """No run pays its restaurant again until the bank has answered, nor its date once it paid."""
    await charge_all(ledger, 1)
    run = await finished_run(ledger)
    await submit(ledger, "sub_1", payout_run_id=run.payout_run_id)
    payout = await payout_of(ledger, "res_0000")
    await charge_all(ledger, 1, amount_minor=500)
    second = await finished_run(ledger, request_id=unique("again"))
    assert [(skipped.reason, skipped.count) for skipped in second.skipped] == [
        (ledger_pb2.SKIP_REASON_PAYOUT_IN_FLIGHT, 1)
    ]
    await ledger.ingest(payout_event(payout, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED))
    third = await finished_run(ledger, request_id=unique("again"))
    assert third.payouts_created == 1
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_ids_that_callers_have_taken_hold_nothing_up(ledger: RunningLedger) -> None:
    """An event of a caller may have the id that the service would give its own."""
    await charge_all(ledger, 2)
    run = await finished_run(ledger)
    submitted, canceled = [payout.payout_id for payout in await payouts_of(ledger)]
    await ledger.ingest(
        event_message(event_id=f"payout:{submitted}:submitted"),
        event_message(event_id=f"payout:{canceled}:canceled"),
    )
    assert (await cancel(ledger, canceled)).state == CANCELED
    found = await submit(ledger, "sub_1", payout_run_id=run.payout_run_id)
    assert found.submission.payouts_count == 1
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_callers_may_submit_and_cancel_by_events(ledger: RunningLedger) -> None:
    """Then the payout is in no submission."""
    await charge_all(ledger, 2)
    await finished_run(ledger)
    first, second = await payouts_of(ledger)
    submitted = payout_event(first, ledger_pb2.EVENT_TYPE_PAYOUT_SUBMITTED)
    results = await ledger.ingest(
        submitted, payout_event(second, ledger_pb2.EVENT_TYPE_PAYOUT_CANCELED), submitted
    )
    assert [result.status for result in results] == [1, 1, 2]
    shown = await payout_of(ledger, first.restaurant_id)
    assert (shown.state, shown.submission_id) == (SUBMITTED, "")
    assert shown.HasField("submitted_at")
    assert (await payout_of(ledger, second.restaurant_id)).state == CANCELED
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_racing_submissions_share_no_payout(ledger: RunningLedger) -> None:
    """Of one run, by run and by name, each payout is in exactly one; calls with one id agree."""
    await charge_all(ledger, 60)
    run = await finished_run(ledger)
    payout_ids = [payout.payout_id for payout in await payouts_of(ledger)]
    found = await asyncio.gather(
        *(
            submit(
                ledger,
                f"sub_{number % 8}",
                payout_run_id=run.payout_run_id,
                payouts_max=10 + number % 8,
            )
            for number in range(32)
        ),
        *(submit(ledger, f"named_{number}", payout_ids=payout_ids[:2]) for number in range(8)),
        return_exceptions=True,
    )
    made: dict[str, ledger_pb2.PayoutSubmission] = {}
    for response in found:
        if isinstance(response, aio.AioRpcError):
            assert reason_of(response) == "PAYOUTS_NOT_SUBMITTABLE"
            continue
        assert isinstance(response, ledger_pb2.SubmitPayoutsResponse)
        submission = response.submission
        assert made.setdefault(submission.submission_id, submission) == submission
    listed = [
        payout.payout_id
        for submission_id in made
        for payout in await payouts_of(ledger, submission_id=submission_id)
    ]
    assert sorted(listed) == sorted(payout_ids)
    assert sum(submission.payouts_count for submission in made.values()) == len(payout_ids)
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_racing_moves_leave_what_an_order_of_them_explains(
    ledger: RunningLedger, seed: int
) -> None:
    """64 callers submit, cancel, and book the bank's answers of one payout at once."""
    chance = random.Random(seed)
    await charge_all(ledger, 8)
    await finished_run(ledger)
    for place, payout in enumerate(await payouts_of(ledger)):
        paid = payout_event(payout, ledger_pb2.EVENT_TYPE_PAYOUT_PAID)
        failed = payout_event(payout, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED)
        calls: list[Callable[[], Awaitable[object]]] = [
            partial(submit, ledger, f"sub_{place}", payout_ids=[payout.payout_id]),
            partial(cancel, ledger, payout.payout_id),
            *([partial(ledger.ingest, paid)] if place % 3 else []),
            *([partial(ledger.ingest, failed)] if place % 2 else []),
        ]
        await asyncio.gather(*(chance.choice(calls)() for _ in range(64)), return_exceptions=True)
        shown = await payout_of(ledger, payout.restaurant_id)
        states = tuple(
            ledger_pb2.PayoutState.Name(move.state).removeprefix("PAYOUT_STATE_")
            for move in shown.history
        )
        assert states in {
            ("CREATED", "CANCELED"),
            *(
                (*begin, *end)
                for begin in (("CREATED",), ("CREATED", "SUBMITTED"))
                for end in (
                    (),
                    ("PAID",),
                    ("FAILED",),
                    ("PAID", "RETURNED"),
                    ("FAILED", "RETURNED"),
                )
            ),
        } - {("CREATED",)}
        assert (shown.submission_id != "") == ("SUBMITTED" in states)
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_payouts_are_listed_by_what_the_bank_has_done(ledger: RunningLedger) -> None:
    """By currency, period, states, submission, and age without an answer; filters add up."""
    await charge_all(ledger, 4)
    await ledger.ingest(event_message(restaurant_id="res_usd", currency="USD"))
    run = await finished_run(ledger)
    await finished_run(ledger, currency="USD")
    latest, *payouts = await payouts_of(ledger)
    assert latest.currency == "USD"
    await submit(ledger, "sub_1", payout_ids=[payouts[0].payout_id, payouts[1].payout_id])
    await ledger.ingest(payout_event(payouts[1], ledger_pb2.EVENT_TYPE_PAYOUT_PAID))
    await cancel(ledger, payouts[2].payout_id)
    everything = {payout.payout_id: payout for payout in await payouts_of(ledger)}
    assert everything[payouts[1].payout_id].HasField("answered_at")

    async def found(**fields: Any) -> set[str]:
        return {payout.payout_id for payout in await payouts_of(ledger, **fields)}

    ids = [payout.payout_id for payout in payouts]
    assert await found(currency="USD") == {latest.payout_id}
    assert await found(end_at=latest.created_at) == set(ids)
    assert await found(start_at=latest.created_at) == {latest.payout_id}
    assert await found(states=[SUBMITTED, CANCELED]) == {ids[0], ids[2]}
    assert await found(submission_id="sub_1") == {ids[0], ids[1]}
    assert await found(submission_id="sub_1", states=[PAID]) == {ids[1]}
    assert await found(unanswered_since=latest.created_at) == {ids[0], ids[3]}
    assert await found(
        payout_run_id=run.payout_run_id, currency="PEN", unanswered_since=latest.created_at
    ) == {ids[0], ids[3]}
    pages = ledger_pb2.ListPayoutsRequest(submission_id="sub_1", page_size=1)
    page = await ledger.stub.ListPayouts(pages)
    pages.page_token = page.next_page_token
    rest = await ledger.stub.ListPayouts(pages)
    assert [*page.payouts, *rest.payouts] == await payouts_of(ledger, submission_id="sub_1")
    assert await refusal(
        ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest(submission_id="sub_2"))
    ) == (grpc.StatusCode.NOT_FOUND, "SUBMISSION_NOT_FOUND", {"submission_id": "sub_2"})
