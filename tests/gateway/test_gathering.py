"""Events of posts at the same time go to the ledger together, and each gets its own outcome."""

import asyncio
from typing import Any, cast

import grpc
import pytest
from google.rpc import status_pb2
from support.events import event_message
from support.waiting import run_ready_tasks

from ledger.client import LedgerError, TooSlow, Unavailable
from ledger.gateway.allowances import Allowance
from ledger.gateway.gathering import CALLS_MAX, EVENTS_MAX, GatheredEvents
from ledger.v1 import ledger_pb2

CREATED = ledger_pb2.INGEST_STATUS_CREATED


class HeldStub:
    """A stub whose calls wait until a test lets them go."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.timeouts: list[float] = []
        self.gate = asyncio.Event()
        self.failure: LedgerError | None = None
        self.wrong: set[str] = set()

    async def IngestEvent(self, request: Any, **_: Any) -> ledger_pb2.IngestEventResponse:
        await self._called([request.event.event_id])
        return ledger_pb2.IngestEventResponse(status=CREATED)

    async def BatchIngestEvents(
        self, request: Any, *, timeout: float, **_: Any
    ) -> ledger_pb2.BatchIngestEventsResponse:
        self.timeouts.append(timeout)
        ids = [event.event_id for event in request.events]
        await self._called(ids)
        results = [
            ledger_pb2.IngestResult(error=status_pb2.Status(code=3, message="wrong"))
            if event_id in self.wrong
            else ledger_pb2.IngestResult(status=CREATED, transaction_id=event_id)
            for event_id in ids
        ]
        return ledger_pb2.BatchIngestEventsResponse(results=results)

    async def _called(self, ids: list[str]) -> None:
        self.calls.append(ids)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure


def gathered_by(stub: HeldStub) -> GatheredEvents:
    return GatheredEvents(cast("Any", stub))


async def ingest_all(gathered: GatheredEvents, ids: list[str]) -> "list[asyncio.Task[Any]]":
    """Tasks that book events with these ids, all of them begun."""
    tasks = [
        asyncio.create_task(
            gathered.ingest(event_message(event_id=event_id), Allowance.of(event_id, 8))
        )
        for event_id in ids
    ]
    await run_ready_tasks()
    return tasks


async def test_a_post_alone_has_a_call_of_its_own() -> None:
    stub = HeldStub()
    stub.gate.set()
    (task,) = await ingest_all(gathered_by(stub), ["a"])
    assert (await task).status == CREATED
    assert stub.calls == [["a"]]


async def test_posts_during_calls_go_together_and_no_batch_is_too_large() -> None:
    stub, ids = HeldStub(), [str(number) for number in range(CALLS_MAX + EVENTS_MAX + 3)]
    tasks = await ingest_all(gathered_by(stub), ids)
    assert len(stub.calls) == CALLS_MAX
    stub.gate.set()
    assert {outcome.status for outcome in await asyncio.gather(*tasks)} == {CREATED}
    assert [len(call) for call in stub.calls] == [*[1] * CALLS_MAX, EVENTS_MAX, 3]
    assert sorted(event_id for call in stub.calls for event_id in call) == sorted(ids)


async def test_one_events_error_is_its_own() -> None:
    stub = HeldStub()
    stub.wrong = {"3"}
    tasks = await ingest_all(gathered_by(stub), ["1", "2", "3", "4"])
    stub.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(outcome, LedgerError) for outcome in outcomes] == [False, False, True, False]
    error = outcomes[2]
    assert isinstance(error, LedgerError)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_failed_call_fails_all_of_its_events_and_no_later_one() -> None:
    stub = HeldStub()
    stub.failure = Unavailable("away", code=grpc.StatusCode.UNAVAILABLE)
    gathered = gathered_by(stub)
    tasks = await ingest_all(gathered, ["1", "2", "3", "4"])
    stub.gate.set()
    for task in tasks:
        with pytest.raises(Unavailable):
            await task
    stub.failure = None
    (task,) = await ingest_all(gathered, ["5"])
    assert (await task).status == CREATED


async def test_a_post_that_is_given_up_takes_no_other_with_it() -> None:
    stub = HeldStub()
    tasks = await ingest_all(gathered_by(stub), ["1", "2", "3", "4"])
    tasks[2].cancel()
    await run_ready_tasks()
    stub.gate.set()
    assert (await tasks[3]).status == CREATED
    assert ["4"] in stub.calls


async def test_a_post_with_little_time_left_fails_alone() -> None:
    """The call waits for the others as long as they may."""
    stub = HeldStub()
    gathered = gathered_by(stub)
    await ingest_all(gathered, ["1", "2"])
    late = asyncio.create_task(
        gathered.ingest(event_message(event_id="3"), Allowance.of("late", 0))
    )
    (other,) = await ingest_all(gathered, ["4"])
    with pytest.raises(TooSlow) as failure:
        await late
    assert failure.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    stub.gate.set()
    assert (await other).status == CREATED
    assert stub.timeouts[-1] > 1


async def test_a_call_that_is_cut_off_is_no_defect_of_its_events() -> None:
    """The gateway stops: their processors send them again."""
    stub = HeldStub()
    gathered = gathered_by(stub)
    tasks = await ingest_all(gathered, ["1", "2", "3"])
    for task in tasks[:CALLS_MAX]:
        task.cancel()
    await run_ready_tasks()
    for batch in list(gathered._batches):
        batch.cancel()
    with pytest.raises(Unavailable):
        await tasks[2]
