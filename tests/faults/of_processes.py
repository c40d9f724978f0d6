"""Servers that die, stop, freeze, run out of room, or have a wrong clock."""

import asyncio
import os
import resource
import signal
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from grpc import aio
from support.sessions import locked, waiting_sessions

from faults.callers import Caller
from faults.catalogue import fault
from faults.load import Mix, load_on
from faults.paying import charge_restaurants, finished, paid_once, start_run
from faults.stage import Skipped, Stage

# The timeout of callers that a server must not keep waiting, generous for a busy machine.
PATIENCE_SECONDS = 30.0


@fault("F1", "kill -9 a server under load")
async def kill_server(stage: Stage) -> None:
    """The only server is killed at random instants and started again, in several rounds."""
    server = await stage.server()
    ready_seconds = []
    rounds = stage.size(20, 1)
    # Clients see a killed server at once: no call waits for its deadline.
    async with load_on(stage.load(server, mix=Mix(timeout_seconds=PATIENCE_SECONDS))) as load:
        for _ in range(rounds):
            await load.acknowledged(1)
            await asyncio.sleep(stage.chance.uniform(0, stage.size(3, 1)))
            await server.kill()
            ready_seconds.append(await server.start())
        await load.acknowledged(100)
    await stage.sealed_more()
    stage.note(f"{rounds} kills, ready again within {max(ready_seconds):.1f} s")
    assert set(stage.journal.codes) <= {"OK", "ALREADY_EXISTS", "UNAVAILABLE"}, stage.journal.codes
    stage.gap_within(3)


@fault("F2", "SIGTERM under load: drain")
async def drain(stage: Stage) -> None:
    """Two servers stop in turn: accepted calls get a response; one repeat elsewhere is enough."""
    servers = await stage.servers(2)
    exit_seconds = []
    async with load_on(stage.load(*servers, mix=Mix(timeout_seconds=PATIENCE_SECONDS))) as load:
        for server in servers * stage.size(3, 1):
            # Until callers are back at the earlier server: channels avoid a failed one at first.
            await load.acknowledged(1000)
            began = time.monotonic()
            server.signal(signal.SIGTERM)
            assert await asyncio.wait_for(server.process.wait(), 20) == 0
            exit_seconds.append(time.monotonic() - began)
            await load.acknowledged(50)
            await server.start()
    assert load.attempts_max <= 2, f"{load.attempts_max} attempts were needed"
    # On a busy machine the library may cancel a call that arrives as the server stops listening.
    codes = stage.journal.codes
    assert set(codes) <= {"OK", "ALREADY_EXISTS", "UNAVAILABLE", "CANCELLED"}, codes
    stage.note(
        f"{len(exit_seconds)} stops, exit within {max(exit_seconds):.1f} s, one repeat was enough"
    )
    stage.note(f"{codes['UNAVAILABLE']} calls UNAVAILABLE, {codes['CANCELLED']} CANCELLED")
    stage.gap_within(1)


@fault("F7", "SIGSTOP a server under load")
async def freeze_server(stage: Stage) -> None:
    """One of two servers freezes: callers wait one deadline at most; then it wakes up."""
    frozen, other = await stage.servers(2)
    seconds = stage.size(20, 2)
    async with load_on(stage.load(frozen, other, mix=Mix(timeout_seconds=1))) as load:
        await load.acknowledged(200)
        frozen.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        await load.acknowledged(100)
        frozen.signal(signal.SIGCONT)
        await load.acknowledged(100)
    stage.note(f"{seconds} s frozen")
    stage.gap_within(1)


@fault("F7b", "SIGSTOP a server in the middle of a payout page")
async def freeze_payouts(stage: Stage) -> None:
    """A server freezes with restaurants locked: another one soon pays them."""
    restaurants = 600
    frozen, other = await stage.servers(2)
    await charge_restaurants(stage.caller(other), restaurants)
    async with AsyncExitStack() as locks:
        gate = await locks.enter_async_context(
            locked(stage.database, "LOCK TABLE payouts IN SHARE ROW EXCLUSIVE MODE")
        )
        payout_run_id = await start_run(stage.caller(frozen))
        await waiting_sessions(stage.database, "payouts")
        frozen.signal(signal.SIGSTOP)
        await gate.rollback()
    began = time.monotonic()
    try:
        await finished(stage.caller(other), payout_run_id, timeout_seconds=40)
        stage.note(f"the page was free after {time.monotonic() - began:.1f} s")
    finally:
        frozen.signal(signal.SIGCONT)
        await finished(stage.caller(other), payout_run_id)
        await paid_once(stage, restaurants)


@fault("F17", "clocks that are wrong, and step")
async def wrong_clocks(stage: Stage) -> None:
    """Servers' clocks are wrong or step back: bookings and dates follow the database."""
    library = find_faketime()
    began_at = datetime.now(UTC)
    step = stage.folder / "clock"
    step.write_text("+0")
    faked = {
        "LD_PRELOAD": str(library),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }
    behind = await stage.server(env=faked | {"FAKETIME": "-1d"})
    ahead = await stage.server(env=faked | {"FAKETIME": "+1d"})
    stepping = await stage.server(env=faked | {"FAKETIME_TIMESTAMP_FILE": str(step)})
    async with load_on(stage.load(behind, ahead, stepping)) as load:
        await load.acknowledged(300)
        step.write_text("-3600")
        await load.acknowledged(300)
    ((first, last),) = await stage.query(
        "SELECT min(recorded_at), max(recorded_at) FROM ledger_entries"
    )
    assert (
        began_at - timedelta(seconds=1) <= first <= last <= datetime.now(UTC) + timedelta(seconds=1)
    )
    caller = stage.caller(behind)
    await charge_restaurants(caller, 20)
    await finished(caller, await start_run(caller))
    await paid_once(stage, 20)
    refused = await start_run_refused(stage.caller(ahead), days_ahead=1)
    stage.note(
        "clocks of servers -1 day, +1 day, -1 h under load;"
        f" a run for tomorrow by a server a day ahead: {refused}"
    )
    assert refused == "INVALID_ARGUMENT"


async def start_run_refused(caller: Caller, *, days_ahead: int) -> str:
    """The status that a run for a later date is refused with; OK if it is not."""
    try:
        await start_run(caller, days_ago=-days_ahead)
    except aio.AioRpcError as error:
        return error.code().name
    return "OK"


def find_faketime() -> Path:
    """libfaketime, for programs with threads. Raises Skipped."""
    named = os.environ.get("FAKETIME_LIBRARY")
    candidates = (
        [Path(named)] if named else sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    )
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise Skipped(
        "libfaketime is not on this machine (package libfaketime, or FAKETIME_LIBRARY names it)"
    )


@fault("F37", "limits of file descriptors and memory")
async def limits(stage: Stage) -> None:
    """No more descriptors, then no memory: the server refuses or ends; the next start is clean."""
    if not hasattr(resource, "prlimit"):
        raise Skipped("this system cannot change the limits of a running process")
    # The status of a call for which the server has no memory.
    stage.journal.forgiven_codes.add(grpc.StatusCode.INTERNAL)
    server = await stage.server()
    mix = Mix(callers=64)
    async with load_on(stage.load(server, mix=mix)) as load:
        await load.acknowledged(200)
        used = server.descriptors
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used, hard))
        # Every load has separate connections, and there are none left.
        crowd = stage.load(server, mix=Mix(callers=32, timeout_seconds=1))
        crowd.start()
        await load.acknowledged(200)
        await asyncio.sleep(stage.size(5, 1))
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
        await crowd.stop()
        await load.acknowledged(200)
        resource.prlimit(
            server.pid,
            resource.RLIMIT_AS,
            (server.address_space_bytes + (1 << 20), resource.RLIM_INFINITY),
        )
        await asyncio.sleep(stage.size(10, 2))
        ended = not server.runs
        await server.kill()
        await server.start()
        await load.acknowledged(200)
    internal = stage.journal.codes["INTERNAL"]
    stage.note(
        f"at most {used} descriptors; without memory it {'ended' if ended else 'went on'},"
        f" {internal} calls INTERNAL"
    )


@fault("F26", "a foreign transaction that never ends")
async def foreign_transaction(stage: Stage) -> None:
    """A foreign transaction stays open: bookings and balances are not affected."""
    server = await stage.server()
    async with (
        load_on(stage.load(server)) as load,
        locked(stage.database, "SELECT pg_current_xact_id()"),
    ):
        await load.acknowledged(stage.size(5_000, 300), timeout_seconds=120)
        await asyncio.sleep(stage.size(20, 0))
        await load.acknowledged(200)
        assert await server.health() == "SERVING"
    stage.note("snapshots, which stop during it, are not part of this")
    stage.gap_within(1)
