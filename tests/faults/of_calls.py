"""Callers that go away, do not wait, or are too many."""

import asyncio
import time

from support.events import event_message
from support.waiting import until

from faults.callers import Caller
from faults.catalogue import fault
from faults.journal import Call, Reply
from faults.load import Mix, load_on
from faults.servers import ServerProcess
from faults.stage import Stage

_IDLE_IN_TRANSACTION = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'ledger'
  AND state LIKE 'idle in transaction%'
"""


@fault("F19", "calls cancelled half-way")
async def cancelled(stage: Stage) -> None:
    """Every first attempt is cancelled after 0 to 6 ms: booked events are duplicates afterwards."""
    await _impatient(stage, Mix(cancel_range_seconds=(0.0, 0.006)))


@fault("F20", "deadlines that pass half-way")
async def deadlines(stage: Stage) -> None:
    """Every first attempt has 1 to 20 ms."""
    await _impatient(stage, Mix(timeout_range_seconds=(0.001, 0.02)))


async def _impatient(stage: Stage, mix: Mix) -> None:
    (server,) = await stage.servers(1)
    async with load_on(stage.load(server, mix=mix)) as load:
        await load.acknowledged(stage.size(5_000, 200), timeout_seconds=120)

    async def no_session_is_idle() -> bool:
        return await stage.query(_IDLE_IN_TRANSACTION) == [(0,)]

    await until(no_session_is_idle, 30)
    unknown = {call.event_id for call in stage.journal.calls if call.reply is Reply.UNKNOWN}
    created = {call.event_id for call in stage.journal.calls if call.reply is Reply.CREATED}
    booked = len((unknown & stage.journal.acknowledged_at.keys()) - created)
    assert unknown
    stage.note(f"{len(unknown)} events left half-way, {booked} of them had been booked")


@fault("F38", "ten times as many calls as it can take")
async def overload(stage: Stage) -> None:
    """Calls far above the peak: the server responds, refuses or is late, and stays small."""
    server = await stage.server()
    async with load_on(
        stage.load(server, mix=Mix(callers=64, repeat_share=0, read_share=0))
    ) as load:
        await load.acknowledged(200)
        began, acked = time.monotonic(), len(stage.journal.ack_instants)
        await asyncio.sleep(stage.size(5, 1))
        peak = (len(stage.journal.ack_instants) - acked) / (time.monotonic() - began)
    rss_bytes = server.rss_bytes
    seconds = stage.size(20, 2)
    calls = await _flood(stage, server, calls_per_second=10 * peak, seconds=seconds)
    grown_bytes = server.rss_bytes - rss_bytes
    booked = [call for call in calls if call.reply is Reply.CREATED]
    span = max(call.ended_at for call in booked) - min(call.sent_at for call in booked)
    stage.note(
        f"best {peak:.0f} calls/s; {len(calls) / seconds:.0f}/s came, "
        f"{len(booked) / span:.0f}/s booked, "
        f"memory grew by {max(grown_bytes, 0) >> 20} MiB; replies: {dict(stage.journal.codes)}"
    )
    assert grown_bytes < 300 << 20
    caller = stage.caller(server)
    await caller.send_until_known(event_message(event_id="afterwards"))


async def _flood(
    stage: Stage, server: ServerProcess, *, calls_per_second: float, seconds: float
) -> list[Call]:
    """Sends at a rate, without waiting for earlier calls."""
    callers = [Caller(server.address, stage.journal) for _ in range(8)]
    loop = asyncio.get_running_loop()
    began, number = loop.time(), 0
    tasks: list[asyncio.Task[Call]] = []
    while loop.time() < began + seconds:
        while number < (loop.time() - began) * calls_per_second:
            event = event_message(event_id=f"flood_{number}", restaurant_id=f"flood_{number % 50}")
            tasks.append(asyncio.create_task(callers[number % 8].send(event, timeout_seconds=5)))
            number += 1
            if number % 100 == 0:
                break
        await asyncio.sleep(0)
    calls = await asyncio.gather(*tasks)
    for caller in callers:
        await caller.close()
    return calls
