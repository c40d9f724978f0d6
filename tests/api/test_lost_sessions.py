"""Database sessions that end during each kind of call, as in a failover of the database."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import grpc
import pytest
from grpc import aio
from structlog.testing import capture_logs
from support.dates import date_message, days_ago
from support.events import event_message, unique
from support.running import RunningLedger, running_ledger
from support.waiting import DEADLINE_SECONDS, until

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.sessions.hosts import Hosts, abort
from ledger.v1 import ledger_pb2

ROUNDS = 25
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def calls_of(
    ledger: RunningLedger, restaurant_id: str, event_id: str
) -> list[Callable[[], Awaitable[object]]]:
    """A call of each kind that uses the database."""
    yesterday = days_ago(1)
    as_of = date_message(yesterday)
    stub, pb = ledger.stub, ledger_pb2

    def run(*, dry_run: bool) -> Awaitable[object]:
        return stub.RunPayouts(
            pb.RunPayoutsRequest(
                currency="PEN", as_of=as_of, dry_run=dry_run, request_id=unique("run")
            )
        )

    return [
        lambda: stub.IngestEvent(
            pb.IngestEventRequest(event=event_message(restaurant_id=restaurant_id))
        ),
        lambda: ledger.ingest(
            event_message(restaurant_id=unique("res")), event_message(restaurant_id=restaurant_id)
        ),
        lambda: stub.GetEvent(pb.GetEventRequest(event_id=event_id)),
        lambda: ledger.balance(restaurant_id),
        lambda: stub.ListEntries(
            pb.ListEntriesRequest(restaurant_id=restaurant_id, currency="PEN")
        ),
        lambda: run(dry_run=True),
        lambda: run(dry_run=False),
        lambda: stub.ListPayouts(pb.ListPayoutsRequest(restaurant_id=restaurant_id)),
        lambda: stub.PutRestaurant(pb.PutRestaurantRequest(restaurant_id=restaurant_id)),
        lambda: stub.ListRestaurants(pb.ListRestaurantsRequest()),
    ]


async def test_call_whose_session_ends_is_retryable(
    shared_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever point of the call the session ends, and without a line in the log."""
    hosts: list[Hosts] = []
    start = Hosts.start

    def started(self: Hosts) -> None:
        hosts.append(self)
        start(self)

    monkeypatch.setattr(Hosts, "start", started)
    async with running_ledger(shared_database) as ledger:
        restaurant_id = unique("res")
        event = event_message(restaurant_id=restaurant_id)
        await ledger.ingest(event)
        codes: Counter[grpc.StatusCode] = Counter()
        over = asyncio.Event()

        async def call_on(call: Callable[[], Awaitable[object]]) -> None:
            while not over.is_set():
                try:
                    await call()
                    codes[grpc.StatusCode.OK] += 1
                except aio.AioRpcError as error:
                    codes[error.code()] += 1
                await asyncio.sleep(0)

        def more_calls_ended(calls: int) -> bool:
            return codes.total() > calls

        def all_sessions_are_in_the_pool() -> bool:
            return ledger.engine.pool.status().endswith("Current Checked out connections: 0")

        with capture_logs() as lines:
            callers = [
                asyncio.create_task(call_on(call))
                for call in calls_of(ledger, restaurant_id, event.event_id)
            ]
            async with asyncio.timeout(DEADLINE_SECONDS):
                for number in range(ROUNDS):
                    for connection in hosts[0].sessions:
                        abort(connection)
                    # Lets the calls go on to different points.
                    for _ in range(number % 50):
                        await asyncio.sleep(0)
                    await until(partial(more_calls_ended, codes.total()), DEADLINE_SECONDS)
                over.set()
                await asyncio.gather(*callers)
        # The pool loses no session; the server's background workers use some now and then.
        await until(all_sessions_are_in_the_pool, DEADLINE_SECONDS)
    assert set(codes) <= EXPECTED
    assert codes[grpc.StatusCode.OK] > 0
    assert codes[grpc.StatusCode.UNAVAILABLE] > 0
    assert [line for line in lines if line["log_level"] == "error"] == []
