"""Limits the requests that are received at once, when only their headers are known.

Once a read begins, the library accepts the whole message, up to 4 MiB; before that a call takes the
first window of its stream, 16 KiB. So a request is read only after its caller is known, and only a
few at a time.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from grpc import aio

from ledger.errors import LedgerError, MalformedMessage, QueueFull, RequestTooLarge, RequestTooSlow

# How long a request may take to arrive: 4 MiB over 1 Mbit/s take 34 seconds. Only an idle server
# waits that long.
RECEIVE_SECONDS = 120.0
# How long it may take at least while other calls wait for a place: 256 KiB over 4 Mbit/s, and 4 MiB
# over 8 Mbit/s. With 0.5 seconds for batches, none of sixteen callers with 10 Mbit/s each ever got
# a response: each waiting batch ended another one.
PATIENCE_SECONDS, LARGE_PATIENCE_SECONDS = 0.5, 4.2
WATCH_SECONDS, BUSY_WATCH_SECONDS = 1.0, 0.1
# When a read returns no message because the library refused the call or its client gave up, the
# library ends the call within this time.
END_SECONDS = 0.1

# How long a call beyond its connection's share may have its place while other calls wait.
CROWD_PATIENCE_SECONDS = 0.1

# A smaller request is parsed at once: it takes at most 10 ms.
TURN_BYTES_MIN = 512 * 1024
# Of the places for large messages: open, idle streams must not keep batches out.
KEPT_FOR_BATCHES = 2

# A stream sets this. It is awaited with the size of each request before the request is parsed: as a
# message it may take far more memory.
ROOM_TO_PARSE: ContextVar[Callable[[int], Awaitable[None]] | None] = ContextVar(
    "ROOM_TO_PARSE", default=None
)


class Incoming(Protocol):
    """A call whose request is to be read."""

    context: aio.ServicerContext[Any, Any]

    async def refuse(self, error: LedgerError) -> None:
        """Ends the call with the status of `error`. The read of its request then raises."""


class LargeTurns:
    """Lets one large request be parsed in each round of the event loop.

    Parsing and decoding one takes up to 50 ms. Eight in one round would hold up every other call by
    400 ms, at each of its steps.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def turn(self, size_bytes: int) -> None:
        """Returns when a request of `size_bytes` may be parsed."""
        if size_bytes > TURN_BYTES_MIN:
            async with self._lock:
                await asyncio.sleep(0)


class LargePlaces:
    """Places for messages of MESSAGE_BYTES_MAX that have not arrived whole.

    A batch has one while it is received, and a stream while it is open: a stream that waits for its
    next message looks the same as a slow one. KEPT_FOR_BATCHES places are not for streams.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._kept = min(KEPT_FOR_BATCHES, places - 1)
        self._streams = 0
        self._batches = 0
        self.on_free: Callable[[], None] = lambda: None

    @property
    def has_room_for_batch(self) -> bool:
        """Whether there is a free place."""
        return self._streams + self._batches < self._places

    def begin_batch(self) -> None:
        """Takes a place for a batch."""
        self._batches += 1

    def end_batch(self) -> None:
        """Frees the place: the batch has arrived, or was given up."""
        self._batches -= 1

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Takes a place while the block runs. Raises QueueFull if there is none for a stream."""
        if not self.has_room_for_batch or self._streams >= self._places - self._kept:
            raise QueueFull
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1
            self.on_free()


class Receiving:
    """Receives the requests of some methods, `places` at a time, while up to `waiting_max` wait.

    Waiting calls get places by connection in turn. When the line is full, a new call takes the
    place in line of the last call of the connection with the most there.

    While calls wait, requests that take longer than `patience_seconds` are given up, those of the
    connection with the most first. So a client that sends slowly, or nothing, holds up others for
    at most that long. Requests beyond their connection's equal share of the places are given up
    after `crowd_patience_seconds`. Example: with 8 places and calls of two connections, each may
    keep 4.
    """

    def __init__(
        self,
        places: int,
        waiting_max: int,
        patience_seconds: float = PATIENCE_SECONDS,
        crowd_patience_seconds: float = CROWD_PATIENCE_SECONDS,
        *,
        large: LargePlaces | None = None,
        turns: LargeTurns | None = None,
    ) -> None:
        """With `large` each call also takes one of those places.

        With `turns` it keeps its place until its turn to be parsed.
        """
        self._turns = turns
        self._places = places
        self._large = large
        if large is not None:
            large.on_free = self._hand_out
        self._crowd_patience_seconds = crowd_patience_seconds
        # Calls that hold a place: until their request is read, or they end.
        self._placed: set[Incoming] = set()
        self._waiting_max = waiting_max
        self._patience_seconds = patience_seconds
        # The time at which each began to be read, the oldest first.
        self._reading: dict[Incoming, float] = {}
        # By connection. The first connection is the next to get a place.
        self._waiting: dict[str, dict[Incoming, asyncio.Future[None]]] = {}
        self._waiting_calls = 0
        self._watch: asyncio.TimerHandle | None = None
        # Tasks that end calls; asyncio keeps no reference to them.
        self._refusals: set[asyncio.Task[None]] = set()

    async def read(self, call: Incoming, bytes_max: int) -> bytes:
        """The only request of `call`.

        Raises QueueFull, RequestTooLarge, and MalformedMessage if there is no request.
        """
        raw = await self.read_next(call)
        if raw is None:
            await asyncio.sleep(END_SECONDS)
            raise MalformedMessage
        if len(raw) > bytes_max:
            raise RequestTooLarge(bytes_max)
        return raw

    async def read_next(self, call: Incoming) -> bytes | None:
        """The next request of `call`, None at the end. Raises QueueFull."""
        try:
            if self._waiting or not self._has_place():
                await self._wait_for_place(call)
            else:
                self._place(call)
            raw: Any = await call.context.read()
            # It has arrived, so it can no longer be given up as slow.
            self._reading.pop(call, None)
            if self._turns is not None and raw is not aio.EOF:
                await self._turns.turn(len(raw))
        finally:
            self._reading.pop(call, None)
            if call in self._placed:
                self._placed.remove(call)
                if self._large is not None:
                    self._large.end_batch()
            if self._waiting:
                self._hand_out()
        return None if raw is aio.EOF else raw

    def _has_place(self) -> bool:
        return len(self._placed) < self._places and (
            self._large is None or self._large.has_room_for_batch
        )

    def _place(self, call: Incoming) -> None:
        self._reading[call] = time.monotonic()
        self._placed.add(call)
        if self._large is not None:
            self._large.begin_batch()
        # A call that was given up frees its place late. This timer then hands the place out.
        if self._watch is None or self._waiting:
            self._look_again(BUSY_WATCH_SECONDS if self._waiting else WATCH_SECONDS)

    async def _wait_for_place(self, call: Incoming) -> None:
        connection = call.context.peer()
        if self._waiting_calls >= self._waiting_max:
            self._make_room(connection)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(connection, {})[call] = turn
        self._waiting_calls += 1
        self._look_again(BUSY_WATCH_SECONDS)
        try:
            await turn
        finally:
            self._waiting_calls -= 1
            line = self._waiting.get(connection, {})
            if line.pop(call, None) is not None and not line:
                del self._waiting[connection]

    def _make_room(self, connection: str) -> None:
        """Refuses the last call in line of the connection with the most.

        Raises QueueFull if `connection` would then have as many. Without this, two connections of
        an attacker could fill the line of health checks for good.
        """
        crowd = max(self._waiting.values(), key=len, default={})
        if len(crowd) <= len(self._waiting.get(connection, {})) + 1:
            raise QueueFull
        turn = crowd.pop(next(reversed(crowd)))
        if not turn.done():
            turn.set_exception(QueueFull())

    def _hand_out(self) -> None:
        """Gives free places to waiting calls."""
        while self._waiting and self._has_place():
            connection = next(iter(self._waiting))
            line = self._waiting.pop(connection)
            call = next(iter(line))
            turn = line.pop(call)
            if line:
                self._waiting[connection] = line
            if not turn.done():
                self._place(call)
                turn.set_result(None)

    def _look_again(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._watch is not None:
            if self._watch.when() <= loop.time() + seconds:
                return
            self._watch.cancel()
        self._watch = loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Gives up requests that take too long.

        While the event loop stood still nothing could arrive, so that time does not count.
        """
        late_seconds = (
            0.0 if self._watch is None else asyncio.get_running_loop().time() - self._watch.when()
        )
        self._watch = None
        if late_seconds > BUSY_WATCH_SECONDS:
            self._reading = {call: since + late_seconds for call, since in self._reading.items()}
        now = time.monotonic()
        ages = {call: now - since for call, since in self._reading.items()}
        for call in [call for call, age in ages.items() if age > RECEIVE_SECONDS]:
            del ages[call]
            self._give_up(call, RequestTooSlow())
        if self._waiting:
            crowd = self._beyond_their_share()
            impatient = [
                call
                for call, age in ages.items()
                if age > (self._crowd_patience_seconds if call in crowd else self._patience_seconds)
            ]
            for call in _of_the_busiest(impatient)[: self._waiting_calls]:
                self._give_up(call, QueueFull())
            self._hand_out()
        if self._reading:
            self._look_again(BUSY_WATCH_SECONDS if self._waiting else WATCH_SECONDS)

    def _beyond_their_share(self) -> set[Incoming]:
        """The oldest requests of each connection beyond an equal share of the places.

        Empty if every connection in line already has its share.
        """
        of_connection: dict[str, list[Incoming]] = {connection: [] for connection in self._waiting}
        for call in self._reading:
            of_connection.setdefault(call.context.peer(), []).append(call)
        share = max(1, self._places // len(of_connection))
        if all(len(of_connection[connection]) >= share for connection in self._waiting):
            return set()
        return {
            call for calls in of_connection.values() for call in calls[: max(0, len(calls) - share)]
        }

    def _give_up(self, call: Incoming, error: LedgerError) -> None:
        del self._reading[call]
        refusal = asyncio.create_task(call.refuse(error))
        self._refusals.add(refusal)
        refusal.add_done_callback(self._refusals.discard)


def _of_the_busiest(calls: list[Incoming]) -> list[Incoming]:
    """The calls, those of the connection with the most first, else in their order."""
    connections = {call: call.context.peer() for call in calls}
    calls_of = Counter(connections.values())
    return sorted(calls, key=lambda call: -calls_of[connections[call]])
