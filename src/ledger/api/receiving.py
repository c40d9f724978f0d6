"""What bounds the requests that are being received, before anything is known of them but their headers.

The library grants a message its whole size, up to 4 MiB, as soon as it is asked to read it; what is not read yet costs the first
window of its stream, 64 KiB. So a call is read only after its caller is known, and only so many at a time.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
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

LARGE_BYTES_MAX = 4 * 1024 * 1024
SMALL_BYTES_MAX = 256 * 1024
_LARGE = {"BatchIngestEvents", "StreamEvents"}


# What reads a stream of requests waits for before it has one parsed, by its bytes: as a message it
# may take far more.
ROOM_TO_PARSE: ContextVar[Callable[[int], Awaitable[None]] | None] = ContextVar("ROOM_TO_PARSE", default=None)


class Incoming(Protocol):
    """A call whose request is to be read."""

    context: aio.ServicerContext[Any, Any]

    async def refuse(self, error: LedgerError) -> None:
        """Ends the call with the status of `error`; what reads its request raises then."""


def is_large(name: str) -> bool:
    """Whether requests of the method may be large: those with many events."""
    return name in _LARGE


class Receiving:
    """Reads the requests of some methods, `places` at a time; `waiting_max` others wait, a connection's in turn with another's.
    A call that finds the line full takes the place of the last of the connection that has the most in it.

    While some wait, those that take longer than `patience_seconds` are given up, first of the connection that has the most. So
    a caller that sends slowly or nothing at all holds up others for that long at the most.
    """

    def __init__(self, places: int, waiting_max: int, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._places = places
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
            if self._waiting or len(self._reading) >= self._places:
                await self._turn(call)
            else:
                self._reading[call] = time.monotonic()
                if self._watch is None:
                    self._look_again(WATCH_SECONDS)
            raw: Any = await call.context.read()
        finally:
            self._reading.pop(call, None)
            if self._waiting:
                self._hand_out()
        return None if raw is aio.EOF else raw

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
        while self._waiting and len(self._reading) < self._places:
            connection = next(iter(self._waiting))
            line = self._waiting.pop(connection)
            call = next(iter(line))
            turn = line.pop(call)
            if line:
                self._waiting[connection] = line
            if not turn.done():
                self._reading[call] = time.monotonic()
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
        late_seconds = 0.0 if self._watch is None else asyncio.get_running_loop().time() - self._watch.when()
        self._watch = None
        if late_seconds > BUSY_WATCH_SECONDS:
            self._reading = {call: since + late_seconds for call, since in self._reading.items()}
        now = time.monotonic()
        ages = {call: now - since for call, since in self._reading.items()}
        for call in [call for call, age in ages.items() if age > RECEIVE_SECONDS]:
            del ages[call]
            self._give_up(call, RequestTooSlow())
        if self._waiting:
            impatient = [call for call, age in ages.items() if age > self._patience_seconds]
            for call in _of_the_busiest(impatient)[: self._waiting_calls]:
                self._give_up(call, QueueFull())
            self._hand_out()
        if self._reading:
            self._look_again(BUSY_WATCH_SECONDS if self._waiting else WATCH_SECONDS)

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
