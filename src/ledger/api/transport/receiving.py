"""What bounds the requests that are being received, before anything is known of them but their headers.

The library grants a message its whole size, up to 4 MiB, as soon as it is asked to read it; what is not read yet costs the first
window of its stream, 64 KiB. So a call is read only after its caller is known, and only so many at a time.
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

# How long a request may take once it is read: 4 MiB over 1 Mbit/s take 34 seconds. Only an idle
# server waits so long.
RECEIVE_SECONDS = 120.0
# How long it has for sure while others wait for a place: 256 KiB over 4 Mbit/s, and 4 MiB over
# 8 Mbit/s. With 0.5 seconds for batches, sixteen callers with 10 Mbit/s each only gave up each
# other's batches: none of them was answered, ever.
PATIENCE_SECONDS, LARGE_PATIENCE_SECONDS = 0.5, 4.2
WATCH_SECONDS, BUSY_WATCH_SECONDS = 1.0, 0.1
# The library ends a call that it refused, or that its caller gave up, a moment after the read has
# ended without a message.
END_SECONDS = 0.1

# A call that takes a place beyond the share of its connection has it for so long, if others wait.
CROWD_PATIENCE_SECONDS = 0.1

# A smaller request is parsed at once: it takes some 10 ms at the most.
TURN_BYTES_MIN = 512 * 1024
# Of the places for large messages, so that streams that are open and idle keep no batch out.
KEPT_FOR_BATCHES = 2


# What reads a stream of requests waits for before it has one parsed, by its bytes: as a message it
# may take far more.
ROOM_TO_PARSE: ContextVar[Callable[[int], Awaitable[None]] | None] = ContextVar(
    "ROOM_TO_PARSE", default=None
)


class Incoming(Protocol):
    """A call whose request is to be read."""

    context: aio.ServicerContext[Any, Any]

    async def refuse(self, error: LedgerError) -> None:
        """Ends the call with the status of `error`; what reads its request raises then."""


class LargeTurns:
    """Lets large requests that have arrived be parsed one in each round of the event loop.

    To parse and decode one takes up to 50 ms. Eight of them at once would hold up every other call by
    as much as all of them take, at each of its steps.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def turn(self, size_bytes: int) -> None:
        """Returns when a request of so many bytes may be parsed."""
        if size_bytes > TURN_BYTES_MIN:
            async with self._lock:
                await asyncio.sleep(0)


class LargePlaces:
    """Places for messages of MESSAGE_BYTES_MAX that are not whole: each open stream has one, and each batch while it is received.

    A stream that waits for its next message cannot be told from one that is slow. So it has its place
    for as long as it is open; some are kept for batches.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._kept = min(KEPT_FOR_BATCHES, places - 1)
        self._streams = 0
        self._batches = 0
        self.on_free: Callable[[], None] = lambda: None

    @property
    def has_room_for_batch(self) -> bool:
        """Whether one more batch may be received."""
        return self._streams + self._batches < self._places

    def begin_batch(self) -> None:
        """A batch is being received."""
        self._batches += 1

    def end_batch(self) -> None:
        """It has arrived, or was given up."""
        self._batches -= 1

    @contextmanager
    def stream(self) -> Iterator[None]:
        """A stream is open while the block runs. Raises QueueFull if there is no place for it."""
        if not self.has_room_for_batch or self._streams >= self._places - self._kept:
            raise QueueFull
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1
            self.on_free()


class Receiving:
    """Reads the requests of some methods, `places` at a time; `waiting_max` others wait, a connection's in turn with another's.
    A call that finds the line full takes the place of the last of the connection that has the most in it.

    While some wait, those that take longer than `patience_seconds` are given up, first of the connection that has the most. So
    a caller that sends slowly or nothing at all holds up others for that long at the most. What a
    connection has beyond its share of the places is given up after `crowd_patience_seconds`, if others wait.
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
        """With `large` each call also takes one of those places; with `turns` it keeps it until it is its turn."""
        self._turns = turns
        self._places = places
        self._large = large
        if large is not None:
            large.on_free = self._hand_out
        self._crowd_patience_seconds = crowd_patience_seconds
        # Those that may have something received: until it is read, or gone.
        self._placed: set[Incoming] = set()
        self._waiting_max = waiting_max
        self._patience_seconds = patience_seconds
        # Since when, the oldest first.
        self._reading: dict[Incoming, float] = {}
        # By connection; the next one's turn is the first.
        self._waiting: dict[str, dict[Incoming, asyncio.Future[None]]] = {}
        self._waiting_calls = 0
        self._watch: asyncio.TimerHandle | None = None
        # What ends calls is kept until it is done.
        self._refusals: set[asyncio.Task[None]] = set()

    async def read(self, call: Incoming, bytes_max: int) -> bytes:
        """The only request of `call`. Raises QueueFull, RequestTooLarge, MalformedMessage if there is none."""
        raw = await self.read_next(call)
        if raw is None:
            await asyncio.sleep(END_SECONDS)
            raise MalformedMessage
        if len(raw) > bytes_max:
            raise RequestTooLarge(bytes_max)
        return raw

    async def read_next(self, call: Incoming) -> bytes | None:
        """The next request of `call`, None if there is none. Raises QueueFull."""
        try:
            if self._waiting or not self._has_place():
                await self._turn(call)
            else:
                self._place(call)
            raw: Any = await call.context.read()
            # It has arrived, so it is not slow any more.
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
        # A place may be free long after what had it was given up, when nothing else is looked at.
        if self._watch is None or self._waiting:
            self._look_again(BUSY_WATCH_SECONDS if self._waiting else WATCH_SECONDS)

    async def _turn(self, call: Incoming) -> None:
        """Returns once the call has a place."""
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

        Raises QueueFull if `connection` would have as many then. Without this two connections of a
        stranger could fill the line of health checks for good.
        """
        crowd = max(self._waiting.values(), key=len, default={})
        if len(crowd) <= len(self._waiting.get(connection, {})) + 1:
            raise QueueFull
        turn = crowd.pop(next(reversed(crowd)))
        if not turn.done():
            turn.set_exception(QueueFull())

    def _hand_out(self) -> None:
        """Gives the places that are free to those that wait."""
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
        """Gives up what has taken too long.

        While the event loop stood still nothing could arrive: that time counts for nobody.
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
        """What connections receive beyond an equal share of the places, the oldest, while another one waits."""
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
    """The calls of the connection with the most first, each connection's in their order."""
    connections = {call: call.context.peer() for call in calls}
    numbers = Counter(connections.values())
    return sorted(calls, key=lambda call: -numbers[connections[call]])
