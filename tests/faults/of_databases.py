"""The database dies, is shut down at once, or stands still."""

import asyncio
import os
import signal
import time
from contextlib import suppress

from sqlalchemy.exc import DBAPIError
from support.events import event_message
from support.waiting import until

from faults.catalogue import fault
from faults.load import Load, Mix, load_on
from faults.stage import Stage


async def _restarted(stage: Stage, load: Load, number: signal.Signals) -> None:
    """Sends a signal to the postmaster under load and starts it again, in several rounds."""
    rounds = stage.size(3, 1)
    restart_seconds = []
    for _ in range(rounds):
        await load.acknowledged(200)
        await asyncio.sleep(stage.chance.uniform(0, 1))
        os.kill(stage.cluster.postmaster, number)
        restart_seconds.append(await stage.cluster.restart())
        await load.acknowledged(100)
    stage.note(f"{rounds} restarts, the database back within {max(restart_seconds):.1f} s")


@fault("F3", "kill -9 the postmaster")
async def kill_postmaster(stage: Stage) -> None:
    """It is started again as soon as its orphans have ended; the server reconnects by itself."""
    server = await stage.server()
    async with load_on(stage.load(server)) as load:
        await _restarted(stage, load, signal.SIGKILL)
    stage.gap_within(5)


@fault("F4", "kill -9 one backend")
async def kill_backend(stage: Stage) -> None:
    """PostgreSQL resets every session and recovers; the pool reconnects by itself."""
    server = await stage.server()
    rounds = stage.size(5, 1)
    back_seconds = []

    async def database_responds() -> bool:
        with suppress(DBAPIError, OSError):
            return await stage.query("SELECT 1") == [(1,)]
        return False

    def killed() -> bool:
        """Kills a backend. Returns whether there was one."""
        with suppress(ProcessLookupError, IndexError):
            os.kill(stage.chance.choice(stage.cluster.children("ledger_app")), signal.SIGKILL)
            return True
        return False

    async def sessions_reset(checkpointers: list[int]) -> None:
        """Waits for the reset, which may begin after the kill: it starts another such process."""
        await until(lambda: stage.cluster.children("checkpointer") not in ([], checkpointers), 60)

    async with load_on(stage.load(server)) as load:
        for _ in range(rounds):
            await load.acknowledged(100)
            await asyncio.sleep(stage.chance.uniform(0, 1))
            checkpointers = stage.cluster.children("checkpointer")
            began = time.monotonic()
            await until(killed, 60)
            await sessions_reset(checkpointers)
            await until(database_responds, 60)
            back_seconds.append(time.monotonic() - began)
            await load.acknowledged(100)
    stage.note(
        f"{rounds} backends killed, the database itself back within {max(back_seconds):.1f} s"
    )
    stage.gap_within(1)


@fault("F5", "immediate shutdown of the database")
async def immediate_shutdown(stage: Stage) -> None:
    """SIGQUIT: the database writes nothing more, and the next start recovers."""
    server = await stage.server()
    async with load_on(stage.load(server)) as load:
        await _restarted(stage, load, signal.SIGQUIT)
    stage.gap_within(5)


@fault("F6", "SIGSTOP the database")
async def freeze_database(stage: Stage) -> None:
    """Freezes some processes, then all for a second, then all for longer than callers wait."""
    server = await stage.server()
    long_seconds = stage.size(12, 3)
    async with load_on(stage.load(server, mix=Mix(callers=64, timeout_seconds=2))) as load:
        await load.acknowledged(500)
        rss_bytes = server.rss_bytes
        for kind in ("walwriter", "checkpointer"):
            (pid,) = stage.cluster.children(kind)
            os.kill(pid, signal.SIGSTOP)
            await load.acknowledged(200)
            os.kill(pid, signal.SIGCONT)
        for seconds in (1, long_seconds):
            stage.cluster.signal_all(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            grown_bytes = server.rss_bytes - rss_bytes
            stage.cluster.signal_all(signal.SIGCONT)
            await load.acknowledged(200, timeout_seconds=50)
    stage.note(
        f"{long_seconds} s still, the server's memory grew by {max(grown_bytes, 0) >> 20} MiB"
    )
    assert grown_bytes < 200 << 20
    assert set(stage.journal.codes) <= {
        "OK",
        "ALREADY_EXISTS",
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
    }
    stage.gap_within(long_seconds + 5)


@fault("F41", "sequences that jump after a crash")
async def sequence_jump(stage: Stage) -> None:
    """A crash leaves a gap in the ids of balance accounts, and nothing depends on gaps."""
    caller = stage.caller(await stage.server())
    numbers: list[int] = []
    for name in ("before", "after"):
        for place in range(5):
            restaurant_id = f"jump_{name}_{place}"
            event = event_message(event_id=f"evt_{restaurant_id}", restaurant_id=restaurant_id)
            await caller.send_until_known(event)
        numbers = [
            row[0]
            for row in await stage.query(
                "SELECT balance_account_id FROM balance_accounts ORDER BY created_at"
            )
        ]
        if name == "before":
            os.kill(stage.cluster.postmaster, signal.SIGKILL)
            await stage.cluster.restart()
    assert len(numbers) == 10
    assert numbers == sorted(numbers)
    stage.note(f"account numbers {numbers[4]} before and {numbers[5]} after the crash")
    # Otherwise there was no gap to test.
    assert numbers[5] > numbers[4] + 1
