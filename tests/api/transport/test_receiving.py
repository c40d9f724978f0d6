"""Receiving requests: a limited number at a time, connections in turn, each for a limited time."""

import asyncio
import time
from contextlib import ExitStack
from typing import Any

import pytest
from grpc import aio
from support.waiting import DEADLINE_SECONDS, run_ready_tasks, until

from ledger.api.transport import receiving
from ledger.api.transport.receiving import (
    KEPT_FOR_BATCHES,
    TURN_BYTES_MIN,
    LargePlaces,
    LargeTurns,
    Receiving,
)
from ledger.errors import LedgerError, MalformedMessage, QueueFull, RequestTooLarge, RequestTooSlow
from ledger.limits import MESSAGE_BYTES_MAX

BYTES_MAX = 100


class Call:
    """A call whose request arrives when the test says so."""

    def __init__(self, connection: str = "one") -> None:
        self.context: Any = self
        self.connection = connection
        self.is_read = False
        self.refused_with: LedgerError | None = None
        self._message: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def peer(self) -> str:
        return self.connection

    async def read(self) -> object:
        self.is_read = True
        return await self._message

    def send(self, message: object) -> None:
        self._message.set_result(message)

    async def refuse(self, error: LedgerError) -> None:
        self.refused_with = error
        self.fail()

    def fail(self) -> None:
        self._message.set_exception(aio.AbortError())


def start(receives: Receiving, *calls: Call) -> list[asyncio.Task[bytes]]:
    """Starts calls: their requests are being read, or wait to be read."""
    return [asyncio.create_task(receives.read(call, BYTES_MAX)) for call in calls]


async def test_calls_beyond_the_places_are_not_read_before_there_is_room() -> None:
    """The place of a request that has arrived goes to the next call."""
    receives = Receiving(places=1, waiting_max=1)
    first, second = Call(), Call()
    reading = start(receives, first, second)
    await run_ready_tasks()
    assert (first.is_read, second.is_read) == (True, False)
    first.send(b"one")
    assert await reading[0] == b"one"
    await run_ready_tasks()
    assert second.is_read
    second.send(b"two")
    assert await reading[1] == b"two"


async def test_call_beyond_the_waiting_limit_is_refused_at_once() -> None:
    """QueueFull. A waiting call that its client gives up makes room again."""
    receives = Receiving(places=1, waiting_max=1)
    reading = start(receives, Call(), Call())
    await run_ready_tasks()
    with pytest.raises(QueueFull):
        await receives.read(Call(), BYTES_MAX)
    reading[1].cancel()
    await run_ready_tasks()
    third = Call()
    reading += start(receives, third)
    await run_ready_tasks()
    reading[0].cancel()
    await run_ready_tasks()
    assert third.is_read
    reading[2].cancel()


async def test_full_queue_has_room_for_a_connection_with_fewer_calls() -> None:
    """The last waiting call of the connection with the most calls is refused instead.

    That does not happen for a connection that has as many calls.
    """
    receives = Receiving(places=1, waiting_max=4, patience_seconds=DEADLINE_SECONDS)
    crowd, fair, other = [Call("crowd") for _ in range(4)], Call("fair"), Call("other")
    reading = start(receives, *crowd, fair)
    await run_ready_tasks()
    newcomer = asyncio.create_task(receives.read(other, BYTES_MAX))
    await run_ready_tasks()
    with pytest.raises(QueueFull):
        await reading[3]
    assert not newcomer.done()
    with pytest.raises(QueueFull):
        await receives.read(Call("other"), BYTES_MAX)
    for call in (crowd[0], crowd[1], fair, other):
        await until(lambda call=call: call.is_read, DEADLINE_SECONDS)
        call.send(b"")
    assert await newcomer == b""
    for task in reading:
        task.cancel()


async def test_connections_take_turns() -> None:
    """The only call of another connection comes before the second one of the first."""
    receives = Receiving(places=1, waiting_max=10)
    holder, crowd, other = Call(), [Call("crowd") for _ in range(3)], Call("other")
    reading = start(receives, holder, *crowd, other)
    await run_ready_tasks()
    reading[0].cancel()
    await run_ready_tasks()
    crowd[0].send(b"")
    await run_ready_tasks()
    assert (other.is_read, crowd[1].is_read) == (True, False)
    for task in reading:
        task.cancel()


async def test_slow_call_makes_room_for_a_waiting_one() -> None:
    """The connection with the most calls loses one first; the task of that call ends, too."""
    receives = Receiving(places=3, waiting_max=10, patience_seconds=0.0)
    slow = [Call("slow"), Call("fair"), Call("slow")]
    reading = start(receives, *slow)
    await run_ready_tasks()
    waiting = Call("new")
    reading += start(receives, waiting)
    await until(lambda: waiting.is_read, DEADLINE_SECONDS)
    assert [isinstance(call.refused_with, QueueFull) for call in slow] == [True, False, False]
    with pytest.raises(aio.AbortError):
        await reading[0]
    for task in reading[1:]:
        task.cancel()


async def test_silent_calls_make_room_one_after_the_other() -> None:
    """Each gets a place only once the call before it has ended, after it was given up."""
    receives = Receiving(places=1, waiting_max=10, patience_seconds=0.0)
    calls = [Call(str(number)) for number in range(5)]
    reading = start(receives, *calls)
    last = calls[-1]
    await until(lambda: last.is_read, DEADLINE_SECONDS)
    last.send(b"last")
    assert await reading[-1] == b"last"
    for task in reading[:-1]:
        with pytest.raises(aio.AbortError):
            await task


async def test_connection_with_many_calls_makes_room_for_another_soon() -> None:
    """Only its calls beyond its share are given up before their time, the oldest first."""
    receives = Receiving(
        3, waiting_max=10, patience_seconds=DEADLINE_SECONDS, crowd_patience_seconds=0.0
    )
    crowd = [Call("crowd") for _ in range(4)]
    reading = start(receives, *crowd)
    other = Call("other")
    reading += start(receives, other)
    await until(lambda: other.is_read, DEADLINE_SECONDS)
    assert [isinstance(call.refused_with, QueueFull) for call in crowd] == [
        True,
        True,
        False,
        False,
    ]
    for task in reading:
        task.cancel()


async def test_streams_and_batches_share_places_for_large_messages() -> None:
    """Streams keep their places while they are open, and leave some to batches.

    A batch that waits for a place gets it from a stream.
    """
    large = LargePlaces(KEPT_FOR_BATCHES + 2)
    receives = Receiving(places=10, waiting_max=10, large=large)
    with ExitStack() as streams:
        for _ in range(2):
            streams.enter_context(large.stream())
        with pytest.raises(QueueFull), large.stream():
            raise AssertionError("admitted")
        batches = [Call() for _ in range(KEPT_FOR_BATCHES + 1)]
        reading = start(receives, *batches)
        await run_ready_tasks()
        assert [batch.is_read for batch in batches] == [True] * KEPT_FOR_BATCHES + [False]
    await run_ready_tasks()
    assert batches[-1].is_read
    for task in reading:
        task.cancel()
    await run_ready_tasks()
    with large.stream(), large.stream():
        pass


async def test_place_for_a_large_message_is_free_once_its_call_has_ended() -> None:
    """Not when the server gives the call up: the bytes stay in memory until the call has ended."""
    large = LargePlaces(KEPT_FOR_BATCHES + 1)
    receives = Receiving(places=10, waiting_max=10, patience_seconds=0.0, large=large)
    slow = [Call() for _ in range(KEPT_FOR_BATCHES + 1)]
    ended = asyncio.Event()

    async def refuse(error: LedgerError) -> None:
        await ended.wait()
        slow[0].refused_with = error
        slow[0].fail()

    slow[0].refuse = refuse  # type: ignore[method-assign]
    waiting = Call()
    reading = start(receives, *slow, waiting)
    await run_ready_tasks()
    with pytest.raises(QueueFull), large.stream():
        raise AssertionError("admitted")
    ended.set()
    await until(lambda: waiting.is_read, DEADLINE_SECONDS)
    assert isinstance(slow[0].refused_with, QueueFull)
    for task in reading:
        task.cancel()


async def test_one_large_request_is_parsed_per_round() -> None:
    """Large requests that arrive at once: other tasks have a turn of the event loop in between.

    The requests keep their places until then.
    """
    large = LargePlaces(KEPT_FOR_BATCHES + 3)
    receives = Receiving(places=3, waiting_max=10, large=large, turns=LargeTurns())
    calls = [Call() for _ in range(3)]
    rounds, parsed_in = 0, list[int]()

    async def parsed(call: Call) -> None:
        await receives.read(call, TURN_BYTES_MIN + 1)
        parsed_in.append(rounds)

    tasks = [asyncio.create_task(parsed(call)) for call in calls]
    await run_ready_tasks()
    for call in calls:
        call.send(bytes(TURN_BYTES_MIN + 1))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(parsed_in) < len(calls):
            rounds += 1
            await asyncio.sleep(0)
    assert len(set(parsed_in)) == len(calls)
    await asyncio.gather(*tasks)


async def test_time_while_the_server_stands_still_does_not_count() -> None:
    """A request that arrived while the event loop was busy is read, even if others wait."""
    receives = Receiving(places=1, waiting_max=1)
    first, second = Call(), Call()
    reading = start(receives, first, second)
    await run_ready_tasks()
    asyncio.get_running_loop().call_soon(lambda: time.sleep(2 * receiving.PATIENCE_SECONDS))
    asyncio.get_running_loop().call_later(2 * receiving.PATIENCE_SECONDS, first.send, b"one")
    await until(lambda: reading[0].done(), DEADLINE_SECONDS)
    assert await reading[0] == b"one"
    assert first.refused_with is None
    second.send(b"two")
    assert await reading[1] == b"two"


def test_times_are_long_enough_for_the_largest_request() -> None:
    """At 1 Mbit/s if the server is idle, and at 8 Mbit/s while other calls wait.

    With less time, more callers than places would make each other's batches fail for ever.
    """
    megabits = MESSAGE_BYTES_MAX * 8 / 1_000_000
    assert megabits / 1 < receiving.RECEIVE_SECONDS
    assert megabits / 8 < receiving.LARGE_PATIENCE_SECONDS


async def test_request_must_arrive_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if no other call waits."""
    monkeypatch.setattr(receiving, "RECEIVE_SECONDS", 0.0)
    monkeypatch.setattr(receiving, "WATCH_SECONDS", 0.0)
    slow = Call()
    (reading,) = start(Receiving(places=3, waiting_max=10), slow)
    with pytest.raises(aio.AbortError):
        await asyncio.wait_for(reading, DEADLINE_SECONDS)
    assert isinstance(slow.refused_with, RequestTooSlow)


async def test_size_of_a_request_is_limited_by_its_method(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call without a request is malformed."""
    monkeypatch.setattr(receiving, "END_SECONDS", 0.0)
    receives = Receiving(places=3, waiting_max=10)
    large, none = Call(), Call()
    large.send(bytes(BYTES_MAX + 1))
    none.send(aio.EOF)
    with pytest.raises(RequestTooLarge):
        await receives.read(large, BYTES_MAX)
    with pytest.raises(MalformedMessage):
        await receives.read(none, BYTES_MAX)
