"""A network that fails on command: a proxy whose condition can change at any time."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.ports import held_port, port_of

CHUNK_BYTES = 65536
# SO_LINGER of 0 s: a close sends RST instead of FIN and drops what was under way.
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Condition:
    """What the network does with further bytes, on open connections too.

    Held bytes arrive late, as from a network that retransmits; only a reset loses them.
    """

    # The delay of each chunk is drawn from this range, in both directions.
    delay_seconds: tuple[float, float] = (0.0, 0.0)
    fragment_bytes: int = CHUNK_BYTES
    passes_requests: bool = True
    passes_replies: bool = True


CLEAR = Condition()
BLACKHOLE = Condition(passes_requests=False, passes_replies=False)
REPLIES_SWALLOWED = Condition(passes_replies=False)


@dataclass(eq=False)
class _Connection:
    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    pumps: list[asyncio.Task[None]] = field(default_factory=list)

    def reset(self) -> None:
        for writer in (self.near, self.far):
            plug = writer.get_extra_info("socket")
            if plug is not None and plug.family != socket.AF_UNIX:
                with suppress(OSError):
                    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


class FaultProxy:
    """Listens on a TCP port and passes on to `target`: host and port, or a unix socket's path."""

    def __init__(self, target: tuple[str, int] | Path, *, seed: int) -> None:
        # Held also while the proxy refuses: no other process may get it.
        self._port = held_port()
        self._target = target
        self._chance = random.Random(seed)
        self._condition = CLEAR
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        # Bytes from the target that were held back.
        self.held_reply_bytes = 0

    @property
    def port(self) -> int:
        return port_of(self._port)

    @property
    def condition(self) -> Condition:
        return self._condition

    @condition.setter
    def condition(self, condition: Condition) -> None:
        self._condition = condition
        self._changed.set()
        self._changed = asyncio.Event()

    def lead_to(self, target: tuple[str, int] | Path) -> None:
        """Changes the target of new connections."""
        self._target = target

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def accept(self) -> None:
        """Accepts connections, always on the same port. Does nothing if it does already."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def refuse(self) -> None:
        """Refuses new connections; open ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def reset(self) -> int:
        """Cuts off every open connection, both ways, by RST over TCP. Returns how many."""
        connections, self._connections = self._connections, set()
        for connection in connections:
            connection.reset()
        return len(connections)

    async def close(self) -> None:
        self.refuse()
        pumps = [pump for connection in self._connections for pump in connection.pumps]
        self.reset()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        self._port.close()

    async def _serve(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self._target, Path):
                far_reader, far = await asyncio.open_unix_connection(self._target)
            else:
                far_reader, far = await asyncio.open_connection(*self._target)
        except OSError:
            near.transport.abort()
            return
        connection = _Connection(near, far)
        self._connections.add(connection)
        connection.pumps = [
            asyncio.create_task(self._pump(near_reader, far, is_reply=False)),
            asyncio.create_task(self._pump(far_reader, near, is_reply=True)),
        ]
        await asyncio.wait(connection.pumps, return_when=asyncio.FIRST_EXCEPTION)
        self._connections.discard(connection)
        for pump in connection.pumps:
            pump.cancel()
        for writer in (near, far):
            writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        """Passes one direction on. Raises EOFError at its end, which ends the whole connection."""
        with suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                while chunk:
                    await self._wait_until_passing(len(chunk), is_reply=is_reply)
                    size = self._condition.fragment_bytes
                    writer.write(chunk[:size])
                    await writer.drain()
                    chunk = chunk[size:]
        raise EOFError

    async def _wait_until_passing(self, size: int, *, is_reply: bool) -> None:
        shortest, longest = self._condition.delay_seconds
        if longest:
            await asyncio.sleep(self._chance.uniform(shortest, longest))
        counted = False
        while not (self._condition.passes_replies if is_reply else self._condition.passes_requests):
            if is_reply and not counted:
                self.held_reply_bytes += size
                counted = True
            await self._changed.wait()


@asynccontextmanager
async def fault_proxy(target: tuple[str, int] | Path, *, seed: int) -> AsyncIterator[FaultProxy]:
    """A proxy that accepts connections; closes all at the end."""
    proxy = FaultProxy(target, seed=seed)
    await proxy.accept()
    try:
        yield proxy
    finally:
        await proxy.close()
