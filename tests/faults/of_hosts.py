"""Servers with several database hosts: the primary freezes or is cut off, and is deposed."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from grpc import aio
from support.dates import date_message, days_ago

from faults.callers import Caller
from faults.catalogue import fault
from faults.load import Load, Mix, load_on
from faults.of_recoveries import database_name, synchronous_standby, take_over
from faults.proxy import BLACKHOLE, CLEAR, fault_proxy
from faults.servers import ServerProcess
from faults.stage import Stage
from ledger.infrastructure.postgres.sessions.engine import APPLICATION_ROLE
from ledger.v1 import ledger_pb2

ASK_SECONDS = 0.02
# The statuses that callers may get while the primary changes.
PASSING = {
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
}


async def servers_of_hosts(
    stage: Stage, hosts: Sequence[str | int], count: int
) -> list[ServerProcess]:
    """Servers that know the database's hosts: directories of sockets, or ports of this machine."""
    words = [
        (str(host), "5432") if isinstance(host, str) else ("127.0.0.1", str(host)) for host in hosts
    ]
    names, ports = (",".join(part) for part in zip(*words, strict=True))
    url = f"postgresql://{APPLICATION_ROLE}@/{database_name(stage)}?host={names}&port={ports}"
    return list(
        await asyncio.gather(
            *(stage.server(env={"LEDGER_DATABASE_URL": url}) for _ in range(count))
        )
    )


@asynccontextmanager
async def asking(stage: Stage, servers: Sequence[ServerProcess]) -> AsyncIterator[None]:
    """Reads acknowledged events from every server and plans runs, until the block ends."""
    tasks = [asyncio.create_task(_ask_on(stage, stage.caller(server))) for server in servers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def _ask_on(stage: Stage, caller: Caller) -> None:
    yesterday = days_ago(1)
    as_of = date_message(yesterday)
    plan = ledger_pb2.RunPayoutsRequest(currency="PEN", as_of=as_of, dry_run=True)
    while True:
        acknowledged = list(stage.journal.acknowledged_at)[-50:]
        try:
            await caller.stub.RunPayouts(plan, timeout=2)
            if acknowledged:
                event_id = stage.chance.choice(acknowledged)
                await caller.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event_id), timeout=2)
        except aio.AioRpcError as error:
            if error.code() not in PASSING:
                stage.journal.violations.append(
                    f"a call to {caller.address} ended with {error.code().name}: {error.details()}"
                )
        await asyncio.sleep(ASK_SECONDS)


async def _booking_after_take_over(stage: Stage, load: Load, standby: Path) -> None:
    """Promotes the standby, waits for bookings, and notes how long they took to come."""
    began = time.monotonic()
    await take_over(stage, standby)
    took_seconds = time.monotonic() - began
    while not any(instant > began for instant in stage.journal.ack_instants):
        await load.acknowledged(1)
    first = min(instant for instant in stage.journal.ack_instants if instant > began)
    stage.note(
        f"promoted within {took_seconds:.2f} s,"
        f" acknowledged again {first - began:.2f} s after the promotion began"
    )


@fault("F30", "the primary stands still, is deposed, and wakes up")
async def frozen_primary(stage: Stage) -> None:
    """Servers follow the promoted standby with all their sessions.

    The old primary wakes up and still believes that it is the primary. No server uses it again, not
    even a new one.
    """
    standby = await synchronous_standby(stage)
    old = stage.cluster
    hosts = [str(old.socket.parent), str(standby)]
    servers = await servers_of_hosts(stage, hosts, 2)
    try:
        async with (
            load_on(stage.load(*servers, mix=Mix(callers=16, timeout_seconds=3))) as load,
            asking(stage, servers),
        ):
            await load.acknowledged(stage.size(2_000, 200))
            old.signal_all(signal.SIGSTOP)
            await asyncio.sleep(stage.chance.uniform(0, stage.size(6, 1)))
            await _booking_after_take_over(stage, load, standby)
            await load.acknowledged(stage.size(1_000, 100))
            old.signal_all(signal.SIGCONT)
            late = await servers_of_hosts(stage, hosts, 1)
            async with load_on(stage.load(*late)) as late_load, asking(stage, late):
                await late_load.acknowledged(stage.size(1_000, 100))
            await load.acknowledged(stage.size(1_000, 100))
    finally:
        # So that it can be stopped.
        old.signal_all(signal.SIGCONT)
    stage.gap_within(10)


@fault("F31", "the servers are cut off from the primary, and its standby takes over")
async def partition(stage: Stage) -> None:
    """The network to the primary swallows everything; the standby is promoted.

    With the network back, both believe that they are the primary.
    """
    standby = await synchronous_standby(stage)
    networks = [
        await stage.exits.enter_async_context(fault_proxy(socket, seed=stage.seed))
        for socket in (stage.cluster.socket, standby / stage.cluster.socket.name)
    ]
    servers = await servers_of_hosts(stage, [network.port for network in networks], 2)
    async with (
        load_on(stage.load(*servers, mix=Mix(callers=16, timeout_seconds=3))) as load,
        asking(stage, servers),
    ):
        await load.acknowledged(stage.size(2_000, 200))
        networks[0].condition = BLACKHOLE
        await asyncio.sleep(stage.chance.uniform(0, stage.size(6, 1)))
        await _booking_after_take_over(stage, load, standby)
        networks[0].condition = CLEAR
        await load.acknowledged(stage.size(2_000, 200))
    stage.gap_within(10)
