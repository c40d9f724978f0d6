"""A server whose queue is full: which calls are refused, which wait, and which are not affected."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from support.books import stored_ids
from support.events import event_message, unique
from support.running import RunningLedger, running_ledger
from support.statuses import reason_of, response_or_error, retry_seconds_of
from support.waiting import DEADLINE_SECONDS, until

from ledger.api.metrics import NoCallMetrics
from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.sessions import engine
from ledger.metrics import Metrics
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

QUEUE_EVENTS = 20
GROUP_EVENTS = 5

CREATED = ledger_pb2.INGEST_STATUS_CREATED


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bookings wait for a lock as long as a test holds it, on any machine."""
    monkeypatch.setattr("ledger.application.ingest.contended_groups.CONTENTION_SECONDS", 3600.0)
    monkeypatch.setattr("ledger.application.attempts.ATTEMPTS_MAX", 1000)


@asynccontextmanager
async def locked_events(database: Database) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Holds a lock, in another session, that bookings wait for and readers do not.

    Yields a function that releases it.
    """
    engine = create_async_engine(database.migration_url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.execute(text("LOCK TABLE processor_events IN EXCLUSIVE MODE"))
            yield connection.rollback
            await connection.rollback()
    finally:
        await engine.dispose()


class CountedRefusals(NoCallMetrics):
    """Counts the calls that were refused under load."""

    calls = 0

    def refused_under_load(self, method: str, reason: str) -> None:
        self.calls += 1


@asynccontextmanager
async def stalled_ledger(
    database: Database, restaurant_id: str, *, metrics: Metrics | None = None
) -> AsyncIterator[tuple[RunningLedger, Callable[[], Awaitable[None]]]]:
    """A server with a small queue and a restaurant; yields it and a function that lets it book.

    Until then its bookings wait for a lock.
    """
    async with running_ledger(
        database,
        metrics=metrics,
        ingest_queue_events=QUEUE_EVENTS,
        ingest_group_events=GROUP_EVENTS,
        ingest_concurrency=1,
        # A sealer would wait for the lock as well, and the tests would take it for a booking.
        seal_interval_seconds=0,
    ) as ledger:
        await ledger.ingest(event_message(restaurant_id=restaurant_id))
        async with locked_events(database) as release:
            yield ledger, release


def send(
    ledger: RunningLedger, event: ledger_pb2.ProcessorEvent, timeout: float | None = None
) -> Any:
    """A call that books one event."""
    return ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event), timeout=timeout)


async def until_blocked(ledger: RunningLedger, seconds: float = 0.0) -> None:
    """Returns once a booking has waited for the lock for that many seconds."""

    async def blocked() -> bool:
        rows = await ledger.query(
            "SELECT 1 FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock' "
            "AND clock_timestamp() - query_start >= make_interval(secs => :seconds)",
            seconds=seconds,
        )
        return bool(rows)

    await until(blocked)


async def test_full_queue_refuses_calls_at_once_and_stores_nothing(database: Database) -> None:
    """RESOURCE_EXHAUSTED with QUEUE_FULL and RetryInfo, for single calls and batches.

    Health checks and reads still get their responses.
    """
    restaurant_id = unique("res")
    events = [event_message(restaurant_id=restaurant_id) for _ in range(QUEUE_EVENTS + 30)]
    async with stalled_ledger(database, restaurant_id) as (ledger, release):
        calls = {
            event.event_id: asyncio.ensure_future(response_or_error(send(ledger, event)))
            for event in events
        }

        async def refused() -> bool:
            return sum(call.done() for call in calls.values()) == 30

        await until(refused)
        waiting = {event_id: call for event_id, call in calls.items() if not call.done()}
        batch = await response_or_error(
            ledger.stub.BatchIngestEvents(ledger_pb2.BatchIngestEventsRequest(events=events[:2]))
        )
        refusals = [batch, *(call.result() for call in calls.values() if call.done())]
        assert {(error.code(), reason_of(error)) for error in refusals} == {
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        }
        # The delays differ, so that the clients do not all return at the same moment.
        delays = {retry_seconds_of(error) for error in refusals}
        assert len(delays) > 10
        assert min(delays) >= 0.5
        assert max(delays) <= 1.5
        health: Any = health_pb2_grpc.HealthStub(ledger.channel)

        async def serving() -> bool:
            request = health_pb2.HealthCheckRequest(service="ledger.v1.LedgerService")
            response = await health.Check(request, timeout=DEADLINE_SECONDS)
            return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

        await until(serving)
        assert (await ledger.balance(restaurant_id)).available_minor == 10_000
        await release()
        responses = await asyncio.gather(*waiting.values())
        assert [response.status for response in responses] == [CREATED] * QUEUE_EVENTS
        stored = await stored_ids(ledger, restaurant_id)
        assert len(stored) == 1 + QUEUE_EVENTS
        assert waiting.keys() <= stored
        again = [event for event in events if event.event_id not in waiting]
        assert (await send(ledger, again[0])).status == CREATED


async def test_channel_with_the_service_config_retries_by_itself(database: Database) -> None:
    """A channel with the shipped service config waits as the refusal says, then succeeds."""
    restaurant_id = unique("res")
    refusals = CountedRefusals()
    async with stalled_ledger(database, restaurant_id, metrics=Metrics(calls=refusals)) as (
        ledger,
        release,
    ):
        calls = [
            send(ledger, event_message(restaurant_id=restaurant_id))
            for _ in range(QUEUE_EVENTS + 1)
        ]

        async def refused() -> bool:
            return any(call.done() for call in calls)

        await until(refused)
        (first,) = [call for call in calls if call.done()]
        pushback = dict(await first.trailing_metadata())["grpc-retry-pushback-ms"]
        assert 500 <= int(pushback) <= 1500
        config = files("ledger.v1").joinpath("service_config.json").read_text()
        async with aio.insecure_channel(
            ledger.address, options=[("grpc.service_config", config)]
        ) as channel:
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            patient = stub.IngestEvent(
                ledger_pb2.IngestEventRequest(event=event_message(restaurant_id=restaurant_id)),
                timeout=DEADLINE_SECONDS,
            )

            async def refused_too() -> bool:
                # It may have been tried again already.
                return refusals.calls >= 2

            await until(refused_too)
            await release()
            assert (await patient).status == CREATED


async def test_stream_waits_where_calls_are_refused(database: Database) -> None:
    """A stream waits instead of being refused; its events are booked as soon as there is room."""
    restaurant_id = unique("res")
    async with stalled_ledger(database, restaurant_id) as (ledger, release):
        filling = ledger_pb2.BatchIngestEventsRequest(
            events=[event_message(restaurant_id=restaurant_id) for _ in range(QUEUE_EVENTS)]
        )
        batch = asyncio.ensure_future(response_or_error(ledger.stub.BatchIngestEvents(filling)))
        await until_blocked(ledger)
        streamed = [
            ledger_pb2.StreamEventsRequest(
                events=[event_message(restaurant_id=restaurant_id) for _ in range(10)]
            )
            for _ in range(10)
        ]
        call: Any = ledger.stub.StreamEvents(iter(streamed))
        responses = asyncio.ensure_future(_all(call))
        error = await response_or_error(send(ledger, event_message()))
        assert (error.code(), reason_of(error)) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "QUEUE_FULL",
        )
        assert not responses.done()
        await release()
        assert {result.status for response in await responses for result in response.results} == {
            CREATED
        }
        assert {result.status for result in (await batch).results} == {CREATED}


async def _all(call: Any) -> list[ledger_pb2.StreamEventsResponse]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return [response async for response in call]


async def test_call_with_too_short_a_deadline_is_refused_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEADLINE_TOO_SHORT, with nothing stored, behind groups that are known to take long.

    A call with a longer deadline is admitted.
    """
    # The server learns nothing from the duration of a group that gives up waiting for a lock.
    monkeypatch.setattr("ledger.bootstrap.database.GROUP_LOCK_TIMEOUT_SECONDS", 120)
    monkeypatch.setattr(engine, "STATEMENT_TIMEOUT_SECONDS", 120)
    monkeypatch.setattr(engine, "COMMAND_TIMEOUT_SECONDS", 120)
    restaurant_id = unique("res")
    async with stalled_ledger(database, restaurant_id) as (ledger, release):
        slow = asyncio.ensure_future(
            response_or_error(send(ledger, event_message(restaurant_id=restaurant_id)))
        )
        # This group takes long, so the server expects that the next ones do.
        await until_blocked(ledger, seconds=0.5)
        await release()
        assert (await slow).status == CREATED
        async with locked_events(database) as release:
            waiting = [
                asyncio.ensure_future(
                    response_or_error(send(ledger, event_message(restaurant_id=restaurant_id)))
                )
                for _ in range(2 * GROUP_EVENTS)
            ]
            refused: list[str] = []

            async def too_short() -> bool:
                # Until the other calls have arrived, this one is admitted and its deadline passes.
                event = event_message(restaurant_id=restaurant_id)
                error = await response_or_error(send(ledger, event, timeout=0.2))
                assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                if rpc_status.from_call(error) is None:
                    return False
                assert reason_of(error) == "DEADLINE_TOO_SHORT"
                refused.append(event.event_id)
                return True

            await until(too_short)
            waiting.append(
                asyncio.ensure_future(
                    response_or_error(
                        send(
                            ledger,
                            event_message(restaurant_id=restaurant_id),
                            timeout=DEADLINE_SECONDS,
                        )
                    )
                )
            )
            await release()
            responses = await asyncio.gather(*waiting)
        assert [response.status for response in responses] == [CREATED] * (2 * GROUP_EVENTS + 1)
        assert (await stored_ids(ledger, restaurant_id)).isdisjoint(refused)
