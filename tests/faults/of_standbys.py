"""Missing synchronous standbys: no event is acknowledged that only one machine has."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc import aio
from support.events import event_message
from support.running import execute_alone
from support.waiting import POLL_SECONDS, until

from faults.callers import Caller
from faults.catalogue import fault
from faults.journal import Reply
from faults.load import Mix, load_on
from faults.stage import Stage
from ledger.v1 import ledger_pb2

# Bookings that wait for the standby: the sealer of a server may be waiting as well.
_WAITING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'ledger' AND wait_event = 'SyncRep'
  AND query NOT LIKE '%ledger_seals%'
"""
_ACKED = (Reply.CREATED, Reply.DUPLICATE)

# A commit with a write, and how many such commits wait for the standby.
_PROBE = "SELECT FROM pg_logical_emit_message(true, 'probe', '')"
_PROBES_WAITING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE '%''probe''%' AND pid <> pg_backend_pid()
  AND wait_event = 'SyncRep'
"""


@asynccontextmanager
async def standby_gone(stage: Stage) -> AsyncIterator[None]:
    """Commits wait for a standby that does not exist, from the block's beginning to its end."""
    await stage.cluster.configure(synchronous_standby_names="absent")
    try:
        await commits_wait(stage)
        yield
    finally:
        await stage.cluster.configure(synchronous_standby_names=None)


async def commits_wait(stage: Stage) -> None:
    """Commits until a commit waits: the checkpointer passes the setting on with a delay."""
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        while True:
            probe = group.create_task(execute_alone(stage.database.migration_url, _PROBE))
            while not probe.done():
                if await stage.query(_PROBES_WAITING):
                    # This ends the wait; the commit itself stays.
                    await stage.query(
                        f"SELECT pg_cancel_backend(pid) FROM ({_PROBES_WAITING}) AS probes"
                    )
                    return
                await asyncio.sleep(POLL_SECONDS)


@fault("F33", "the synchronous standby is gone")
async def sync_standby_gone(stage: Stage) -> None:
    """Writes wait: no event is acknowledged, calls end at their deadlines; then all works again."""
    server = await stage.server()
    async with load_on(
        stage.load(server, mix=Mix(callers=8, timeout_seconds=2, repeat_share=0))
    ) as load:
        await load.acknowledged(200)
        async with standby_gone(stage):
            began = time.monotonic()
            await until(lambda: _a_booking_waits(stage), 30)
            seconds = stage.size(8, 3)
            await asyncio.sleep(seconds)
            # Commits under way when the setting arrived may still be acknowledged.
            silently = sum(
                call.sent_at >= began and call.reply in _ACKED for call in stage.journal.calls
            )
            late = stage.journal.codes
        await load.acknowledged(200)
    stage.note(
        f"{seconds} s without a standby: {silently} acknowledged,"
        f" {late['DEADLINE_EXCEEDED']} DEADLINE_EXCEEDED"
    )
    assert silently == 0
    stage.gap_within(seconds + 5)


async def _a_booking_waits(stage: Stage) -> bool:
    return await stage.query(_WAITING) != []


async def _code_of_showing(
    caller: Caller, event_id: str, *, timeout_seconds: float
) -> grpc.StatusCode:
    """The status of a call of GetEvent."""
    try:
        await caller.stub.GetEvent(
            ledger_pb2.GetEventRequest(event_id=event_id), timeout=timeout_seconds
        )
    except aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@fault("F34", "a commit cut off while it waits for the standby")
async def duplicate_of_unsafe(stage: Stage) -> None:
    """A booking whose commit was cut off before a standby had it is visible and not safe.

    Until a standby has it, a repeat must not be a duplicate, and GetEvent must not show it.
    """
    server = await stage.server()
    caller = stage.caller(server)
    await caller.send_until_known(event_message(event_id="before"))
    # In a failover, or by an administrator, the session ends, or only its wait. PostgreSQL reports
    # the end of the wait as a success with a warning.
    ways = ["pg_terminate_backend", "pg_cancel_backend"]
    stage.chance.shuffle(ways)
    for way in ways[: stage.size(2, 1)]:
        await _cut_off(stage, caller, way)


async def _cut_off(stage: Stage, caller: Caller, way: str) -> None:
    event = event_message(event_id=f"unsafe_{way}")
    async with standby_gone(stage):
        call = asyncio.create_task(caller.send(event, timeout_seconds=60))
        await until(lambda: _a_booking_waits(stage), 30)
        assert not call.done(), "acknowledged while only one machine has it"
        await stage.query(f"SELECT {way}(pid) FROM ({_WAITING}) AS waiting")

        async def visible() -> bool:
            return (
                await stage.query(
                    "SELECT 1 FROM processor_events WHERE event_id = :id", id=event.event_id
                )
                != []
            )

        await until(visible, 30)
        shown = asyncio.create_task(_code_of_showing(caller, event.event_id, timeout_seconds=5))
        repeat = await caller.send(event, timeout_seconds=5)
        assert repeat.reply is Reply.UNKNOWN, f"{repeat.reply.value} while only one machine has it"
        assert await shown is grpc.StatusCode.DEADLINE_EXCEEDED, (
            "shown while only one machine has it"
        )
        assert not call.done(), "acknowledged while only one machine has it"
    # The server has tried again by now, and may have given up.
    assert (await call).reply in (Reply.CREATED, Reply.UNKNOWN)
    assert await _code_of_showing(caller, event.event_id, timeout_seconds=30) is grpc.StatusCode.OK
    assert (await caller.send_until_known(event)).reply in _ACKED
