"""Synchronous replication: what is acknowledged is safe on the standby, the repeat of an event included."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.events import event_message
from support.running import RunningLedger, execute_alone, running_ledger

from ledger.bootstrap import DATABASE_NAME, Database
from ledger.infrastructure.postgres.embedded import EmbeddedPostgres
from ledger.infrastructure.postgres.engine import APPLICATION_ROLE, autocommit
from ledger.infrastructure.postgres.event_ledger import PostgresEventLedger
from ledger.infrastructure.postgres.migrations import create_database, migrate_async
from ledger.v1 import ledger_pb2

DEADLINE_SECONDS = 20.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedPostgres]:
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
    async with running_ledger(Database(cluster.url(user=APPLICATION_ROLE, database=DATABASE_NAME), owner_url)) as running:
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


async def waiting_sessions(ledger: RunningLedger) -> int:
    """How many sessions wait for the standby."""
    ((count,),) = await ledger.query("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
    return int(count)


async def send(ledger: RunningLedger, event: ledger_pb2.ProcessorEvent) -> ledger_pb2.IngestEventResponse:
    """Books an event."""
    return await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))


async def test_duplicate_is_acknowledged_only_once_its_original_is_safe(ledger: RunningLedger) -> None:
    """While the standby is missing a repeat waits, as the first time would; reading the event does not."""
    event = event_message()
    first = await send(ledger, event)
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        waits = False
        while not waits:
            # The server's sessions hear of the setting a moment later, and then the repeat waits.
            repeat = asyncio.create_task(send(ledger, event))
            while not repeat.done() and not waits:
                await asyncio.sleep(0.01)
                waits = await waiting_sessions(ledger) > 0
        read = await ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event.event_id))
        assert read.transaction_id == first.transaction_id
        assert not repeat.done()
    async with asyncio.timeout(DEADLINE_SECONDS):
        answer = await repeat
        assert (answer.status, answer.transaction_id) == (ledger_pb2.INGEST_STATUS_DUPLICATE, first.transaction_id)
        assert (await send(ledger, event)).status == ledger_pb2.INGEST_STATUS_DUPLICATE


async def test_without_a_standby_a_repeat_is_looked_up_without_writing(ledger: RunningLedger) -> None:
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
