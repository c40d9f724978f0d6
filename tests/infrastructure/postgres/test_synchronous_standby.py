"""Synchronous replication: what is acknowledged is safe on the standby, repeats and most of what is
read included.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from grpc import aio
from support.dates import date_message, days_ago
from support.events import event_message, unique
from support.running import RunningLedger, execute_alone, running_ledger

from ledger.bootstrap.database import DATABASE_NAME, Database
from ledger.errors import DatabaseUnavailable
from ledger.infrastructure.postgres.embedded import EmbeddedPostgres
from ledger.infrastructure.postgres.event_ledger import PostgresEventLedger
from ledger.infrastructure.postgres.schema.migrations import create_database, migrate_async
from ledger.infrastructure.postgres.sessions.engine import (
    APPLICATION_ROLE,
    autocommit,
    create_engine,
)
from ledger.infrastructure.postgres.sessions.fence import EMIT_MESSAGE
from ledger.v1 import ledger_pb2

DEADLINE_SECONDS = 60.0
# What readers wait with.
FENCE = "pg_logical_emit_message"

T = TypeVar("T")


@pytest.fixture(scope="module")
def cluster(starts_postgres: None) -> Iterator[EmbeddedPostgres]:
    """A server of these tests' own: what is set here holds for all databases of a server."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-tests-"))
    folder.chmod(0o755)
    try:
        with EmbeddedPostgres.start(folder, parameters={"fsync": "off"}) as postgres:
            yield postgres
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
async def ledger(cluster: EmbeddedPostgres) -> AsyncIterator[RunningLedger]:
    """A server on it."""
    owner_url = cluster.url(user=cluster.superuser, database=DATABASE_NAME)
    await create_database(cluster.url(user=cluster.superuser, database="postgres"), DATABASE_NAME)
    await migrate_async(owner_url)
    async with running_ledger(
        Database(cluster.url(user=APPLICATION_ROLE, database=DATABASE_NAME), owner_url)
    ) as running:
        yield running


@asynccontextmanager
async def missing_standby(ledger: RunningLedger) -> AsyncIterator[None]:
    """Commits have to wait for a standby that is not there."""
    url = ledger.database.migration_url
    await execute_alone(url, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    try:
        await ledger.query("SELECT pg_reload_conf()")
        yield
    finally:
        await execute_alone(url, "ALTER SYSTEM RESET synchronous_standby_names")
        await ledger.query("SELECT pg_reload_conf()")


async def waiting_sessions(ledger: RunningLedger, statement: str = "") -> int:
    """How many sessions wait for the standby, with a statement that has these words."""
    ((count,),) = await ledger.query(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND strpos(query, "
        ":words) > 0",
        words=statement,
    )
    return int(count)


async def until_it_waits(
    ledger: RunningLedger, call: Callable[[], Awaitable[T]], statement: str = ""
) -> "asyncio.Task[T]":
    """Makes a call until it waits for the standby: the server's sessions hear of the setting a
    moment later.
    """
    while True:
        task = asyncio.ensure_future(call())
        while not task.done():
            await asyncio.sleep(0.01)
            if await waiting_sessions(ledger, statement) and not task.done():
                return task
        task.result()


async def send(
    ledger: RunningLedger, event: ledger_pb2.ProcessorEvent
) -> ledger_pb2.IngestEventResponse:
    """Books an event."""
    return await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))


async def test_duplicate_is_acknowledged_only_once_its_original_is_safe(
    ledger: RunningLedger,
) -> None:
    """While the standby is missing a repeat waits, as the first time would."""
    event = event_message()
    first = await send(ledger, event)
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        repeat = await until_it_waits(ledger, lambda: send(ledger, event), "processor_events")
        assert not repeat.done()
    async with asyncio.timeout(DEADLINE_SECONDS):
        answer = await repeat
        assert (answer.status, answer.transaction_id) == (
            ledger_pb2.INGEST_STATUS_DUPLICATE,
            first.transaction_id,
        )
        assert (await send(ledger, event)).status == ledger_pb2.INGEST_STATUS_DUPLICATE


async def test_without_a_standby_a_repeat_is_looked_up_without_writing(
    ledger: RunningLedger,
) -> None:
    """There is nothing to wait for, and so nothing is written into the log for it."""
    event = event_message()
    await send(ledger, event)
    books = PostgresEventLedger(lambda: autocommit(ledger.engine), maturity_days=7)

    async def log_position() -> Any:
        return (await ledger.query("SELECT pg_current_wal_insert_lsn()::text"))[0][0]

    async with asyncio.timeout(DEADLINE_SECONDS):
        before = None
        # The database itself writes something now and then.
        while before != await log_position():
            before = await log_position()
            for _ in range(5):
                assert event.event_id in await books.stored([event.event_id], once_safe=True)


class Read:
    """What may be read of an event, of a run that has paid it, and of the payout."""

    def __init__(
        self,
        ledger: RunningLedger,
        event: ledger_pb2.ProcessorEvent,
        run: ledger_pb2.PayoutRun,
        payout_id: str,
    ) -> None:
        self._ledger = ledger
        self._requests: dict[str, Message] = {
            "GetEvent": ledger_pb2.GetEventRequest(event_id=event.event_id),
            "RunPayouts": run_request(),
            "GetPayoutRun": ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id),
            "ListPayoutRunItems": ledger_pb2.ListPayoutRunItemsRequest(
                payout_run_id=run.payout_run_id
            ),
            "GetPayout": ledger_pb2.GetPayoutRequest(payout_id=payout_id),
            "ListPayouts": ledger_pb2.ListPayoutsRequest(payout_run_id=run.payout_run_id),
            "GetBalance": ledger_pb2.GetBalanceRequest(
                restaurant_id=event.restaurant_id, currency=event.currency
            ),
            "ListEntries": ledger_pb2.ListEntriesRequest(
                restaurant_id=event.restaurant_id, currency=event.currency
            ),
            "GetRestaurant": ledger_pb2.GetRestaurantRequest(restaurant_id=event.restaurant_id),
            "ListRestaurants": ledger_pb2.ListRestaurantsRequest(),
        }

    async def __call__(self, method: str) -> Message:
        answer: Message = await getattr(self._ledger.stub, method)(self._requests[method])
        return answer


def run_request() -> ledger_pb2.RunPayoutsRequest:
    """The same run every time."""
    day = days_ago(1)
    return ledger_pb2.RunPayoutsRequest(
        currency="PEN",
        as_of=date_message(day),
        request_id="the_run",
    )


@pytest.fixture(scope="module")
async def read(ledger: RunningLedger) -> Read:
    event = event_message(restaurant_id="res_paid")
    await send(ledger, event)
    async with asyncio.timeout(DEADLINE_SECONDS):
        run = (await ledger.stub.RunPayouts(run_request())).payout_run
        while run.state != ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED:
            await asyncio.sleep(0.01)
            run = (
                await ledger.stub.GetPayoutRun(
                    ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id)
                )
            ).payout_run
    payouts = (
        await ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest(restaurant_id="res_paid"))
    ).payouts
    return Read(ledger, event, run, payouts[0].payout_id)


FENCED = [
    "GetEvent",
    "RunPayouts",
    "GetPayoutRun",
    "ListPayoutRunItems",
    "GetPayout",
    "ListPayouts",
]
UNFENCED = ["GetBalance", "ListEntries", "GetRestaurant", "ListRestaurants"]


@pytest.mark.parametrize("method", FENCED)
async def test_what_somebody_acts_on_is_shown_only_once_it_is_safe(
    ledger: RunningLedger, read: Read, method: str
) -> None:
    """Whoever asks what became of an event, or whom to pay, waits for the standby, and is then told
    what was told before.
    """
    before = await read(method)
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        waiting = await until_it_waits(ledger, lambda: read(method), FENCE)
        assert not waiting.done()
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await waiting == before


async def cut_off(ledger: RunningLedger) -> set[int]:
    """Ends the wait of all who wait for the standby, and not their sessions: to PostgreSQL a
    warning and success. Returns who.
    """
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    return {
        pid
        for (pid, _) in await ledger.query(
            f"SELECT pid, pg_cancel_backend(pid) FROM ({waiting}) AS waiting"
        )
    }


async def refused(ledger: RunningLedger, call: "asyncio.Task[Any]") -> grpc.StatusCode:
    """How a call ends whose waits are cut off: it may wait beside the server's workers, and after
    them.
    """
    while not call.done():
        await cut_off(ledger)
        await asyncio.sleep(0.01)
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_booking_whose_wait_is_cut_off_is_not_acknowledged(ledger: RunningLedger) -> None:
    """It is stored and not safe: the server looks it up, which waits in its turn, and then tells
    what it did.
    """
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        booking = await until_it_waits(
            ledger, lambda: send(ledger, event_message()), "INSERT INTO processor_events"
        )
        gone = await cut_off(ledger)
        words = (
            "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND strpos(query, "
            "'processor_events') > 0"
        )
        while not {pid for (pid,) in await ledger.query(words)} - gone:
            assert not booking.done(), "told while one machine alone has it"
            await asyncio.sleep(0.01)
        assert not booking.done(), "told while one machine alone has it"
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert (await booking).status == ledger_pb2.INGEST_STATUS_CREATED


@pytest.mark.parametrize("method", FENCED)
async def test_reader_whose_wait_is_cut_off_is_told_nothing(
    ledger: RunningLedger, read: Read, method: str
) -> None:
    """But to ask again."""
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        waiting = await until_it_waits(ledger, lambda: read(method), FENCE)
        assert await refused(ledger, waiting) is grpc.StatusCode.UNAVAILABLE


async def test_restaurant_whose_wait_is_cut_off_is_not_acknowledged(ledger: RunningLedger) -> None:
    """It is there and not safe, and may be put again."""
    restaurant_id = unique("res")

    async def put() -> ledger_pb2.PutRestaurantResponse:
        return await ledger.stub.PutRestaurant(
            ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id)
        )

    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        waiting = await until_it_waits(ledger, put, "COMMIT")
        assert await refused(ledger, waiting) is grpc.StatusCode.UNAVAILABLE
    async with asyncio.timeout(DEADLINE_SECONDS):
        await put()


async def test_wait_that_is_cut_off_is_told_of_whatever_the_database_says_of_warnings(
    ledger: RunningLedger,
) -> None:
    """A setting of the database by which its sessions hear of errors alone does not make the commit
    look safe.
    """
    await execute_alone(
        ledger.database.migration_url,
        f"ALTER DATABASE {DATABASE_NAME} SET client_min_messages = error",
    )
    engine = create_engine(ledger.database.url, pool_size=1)

    async def write() -> None:
        async with autocommit(engine) as connection:
            await connection.execute(EMIT_MESSAGE)

    try:
        async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
            waiting = await until_it_waits(ledger, write, FENCE)
            while not waiting.done():
                await cut_off(ledger)
                await asyncio.sleep(0.01)
            with pytest.raises(DatabaseUnavailable):
                await waiting
    finally:
        await engine.dispose()
        await execute_alone(
            ledger.database.migration_url,
            f"ALTER DATABASE {DATABASE_NAME} RESET client_min_messages",
        )


async def test_readers_that_wait_leave_connections_to_those_that_do_not(
    ledger: RunningLedger, read: Read
) -> None:
    """However many wait for the standby, with a single session: more than the pool has.

    The others are answered meanwhile.
    """
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        first = await until_it_waits(ledger, lambda: read("GetEvent"), FENCE)
        others = [asyncio.create_task(read(method)) for method in FENCED * 5]
        for method in UNFENCED * 5:
            await read(method)
        assert await waiting_sessions(ledger, FENCE) == 1
        assert not any(call.done() for call in [first, *others])
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.gather(first, *others)


async def test_what_is_not_there_is_told_without_waiting(ledger: RunningLedger, read: Read) -> None:
    """NOT_FOUND says nothing that a standby could know better."""
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        waiting = await until_it_waits(ledger, lambda: read("GetEvent"), FENCE)
        with pytest.raises(aio.AioRpcError) as caught:
            await ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id="evt_absent"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        with pytest.raises(aio.AioRpcError) as caught:
            await ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest(restaurant_id="res_absent"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    async with asyncio.timeout(DEADLINE_SECONDS):
        await waiting


async def test_without_a_standby_readers_write_nothing(ledger: RunningLedger, read: Read) -> None:
    """There is nothing to wait for, and so nothing is written into the log for it."""

    async def log_position() -> Any:
        return (await ledger.query("SELECT pg_current_wal_insert_lsn()::text"))[0][0]

    async with asyncio.timeout(DEADLINE_SECONDS):
        before = None
        # The database and the server's workers write something now and then.
        while before != await log_position():
            before = await log_position()
            for method in FENCED:
                await read(method)
