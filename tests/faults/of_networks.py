"""A network between server and database that resets, swallows, delays and splits."""

import asyncio
import time

from support.events import event_message
from support.waiting import until

from faults.catalogue import fault
from faults.journal import Reply
from faults.load import Mix, load_on
from faults.proxy import BLACKHOLE, CLEAR, REPLIES_SWALLOWED, Condition
from faults.stage import Stage


@fault("F10", "connection reset between query and reply")
async def lost_reply(stage: Stage) -> None:
    """A commit whose reply is lost: the server's repeat is CREATED, a caller's DUPLICATE."""
    network = await stage.network()
    server = await stage.server(through=network)
    caller = stage.caller(server)
    tries, stored_without_reply = stage.size(10, 3), 0
    for number in range(tries):
        # With a known restaurant and a prepared statement the booking is one message.
        first = [
            event_message(event_id=f"first_{number}_{place}", restaurant_id=f"lost_{number}")
            for place in range(24)
        ]
        await asyncio.gather(*(caller.send_until_known(event) for event in first))
        event = event_message(
            event_id=f"lost_{number}", restaurant_id=f"lost_{number}", fee_minor=10
        )
        network.condition = REPLIES_SWALLOWED
        call = asyncio.create_task(caller.send(event, timeout_seconds=30))
        stored_without_reply += await _stored(stage, event.event_id)
        assert network.reset() > 0
        network.condition = CLEAR
        assert (await call).reply is Reply.CREATED
        assert (await caller.send(event)).reply is Reply.DUPLICATE
    # Where the statement had to be prepared first, it was not stored either.
    assert stored_without_reply > 0
    rounds = stage.size(20, 2)
    async with load_on(stage.load(server)) as load:
        for _ in range(rounds):
            await load.acknowledged(50)
            network.condition = REPLIES_SWALLOWED
            await asyncio.sleep(stage.chance.uniform(0, 0.2))
            network.reset()
            network.condition = CLEAR
    stage.note(
        f"{stored_without_reply} of {tries} stored without a reply and then CREATED;"
        f" {rounds} resets under load"
    )
    stage.gap_within(2)


async def _stored(stage: Stage, event_id: str) -> bool:
    """Waits up to 10 seconds for an event. Returns whether it is stored."""

    async def stored() -> bool:
        return (
            await stage.query(
                "SELECT 1 FROM processor_events WHERE event_id = :event_id", event_id=event_id
            )
            != []
        )

    try:
        await until(stored, 10)
    except TimeoutError:
        return False
    return True


@fault("F11", "the network swallows everything")
async def blackhole(stage: Stage) -> None:
    """Nothing arrives: calls end at their deadlines, health reports it, and all recovers."""
    network = await stage.network()
    server = await stage.server(through=network)
    caller = stage.caller(server)
    timeout_seconds = 3.0
    async with load_on(
        stage.load(server, mix=Mix(callers=32, timeout_seconds=timeout_seconds))
    ) as load:
        await load.acknowledged(300)
        network.condition = BLACKHOLE
        began = time.monotonic()
        lonely = asyncio.create_task(
            caller.send(event_message(event_id="no_deadline"), timeout_seconds=None)
        )

        async def not_serving() -> bool:
            return await server.health() == "NOT_SERVING"

        await until(not_serving, 60)
        stage.note(f"NOT_SERVING after {time.monotonic() - began:.1f} s")
        await asyncio.sleep(max(0.0, began + stage.size(60, 5) - time.monotonic()))
        refuse_seconds = stage.size(5, 1)
        network.refuse()
        network.reset()
        await asyncio.sleep(refuse_seconds)
        network.condition = CLEAR
        await network.accept()
        healed_at = time.monotonic()
        await load.acknowledged(200, timeout_seconds=60)
        stage.note(
            f"200 acknowledged {time.monotonic() - healed_at:.1f} s after the network was back"
        )
    call = await asyncio.wait_for(lonely, 60)
    stage.note(
        f"a call without deadline ended after {call.ended_at - call.sent_at:.1f} s"
        f" as {call.code.name}"
    )
    longest = max(
        one.ended_at - one.sent_at for one in stage.journal.calls if one.event_id != "no_deadline"
    )
    assert longest < timeout_seconds + 5, (
        f"a call with a deadline of {timeout_seconds} s took {longest:.1f} s"
    )


@fault("F12", "a slow network in small pieces")
async def slow_network(stage: Stage) -> None:
    """Delays of 5 to 200 ms, then pieces of 7 bytes: everything is slower, nothing is wrong."""
    network = await stage.network()
    server = await stage.server(through=network)
    rss_bytes = server.rss_bytes
    conditions = {
        "5 to 200 ms": Condition(delay_seconds=(0.005, 0.2)),
        "pieces of 7 bytes": Condition(fragment_bytes=7),
        "both, 1 ms": Condition(delay_seconds=(0.0, 0.001), fragment_bytes=100),
    }
    async with load_on(stage.load(server, mix=Mix(callers=64, timeout_seconds=10))) as load:
        for name, condition in conditions.items():
            await load.acknowledged(100)
            network.condition = condition
            began, places = time.monotonic(), len(stage.journal.calls)
            await load.acknowledged(stage.size(300, 50), timeout_seconds=120)
            times = sorted(call.ended_at - call.sent_at for call in stage.journal.calls[places:])
            p99_ms = 1000 * times[int(len(times) * 0.99)]
            stage.note(
                f"{name}: {len(times) / (time.monotonic() - began):.0f} calls/s,"
                f" p99 {p99_ms:.0f} ms"
            )
            network.condition = CLEAR
    assert server.rss_bytes - rss_bytes < 200 << 20
    assert set(stage.journal.codes) <= {
        "OK",
        "ALREADY_EXISTS",
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
    }
