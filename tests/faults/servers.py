"""`ledger serve` processes: killed, stopped and started again at the same address."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.health import SERVICE
from support.ports import held_port, port_of

from ledger.bootstrap.database import Database
from ledger.cli.serve.ready_line import READY_PREFIX

READY_SECONDS = 60.0


class Limit(Protocol):
    """A limit on a server."""

    def command(self, *command: str) -> tuple[str, ...]:
        """The command, started within the limit."""
        ...


@dataclass(frozen=True, slots=True)
class DescriptorLimit:
    """A limit on open files and connections."""

    descriptors: int

    def command(self, *command: str) -> tuple[str, ...]:
        return ("/bin/sh", "-c", 'ulimit -n "$0" && exec "$@"', str(self.descriptors), *command)


class ServerProcess:
    """One server at one address; its log goes to a file."""

    def __init__(
        self,
        database_url: str,
        log: Path,
        *,
        durable: bool,
        env: Mapping[str, str],
        within: Limit | None = None,
    ) -> None:
        # Held also while the server is down: no other process may get it before the next start.
        self._port = held_port()
        self.address = f"127.0.0.1:{port_of(self._port)}"
        self.log = log
        self._within = within
        self._process: asyncio.subprocess.Process | None = None
        self._env = {
            "LEDGER_DATABASE_URL": database_url,
            "LEDGER_REQUIRE_DURABLE_DATABASE": str(durable).lower(),
            "LEDGER_GRPC_ADDRESS": self.address,
            "LEDGER_LOG_LEVEL": "warning",
            "LEDGER_SHUTDOWN_GRACE_SECONDS": "10",
            # Short, so that it seals during each fault.
            "LEDGER_SEAL_INTERVAL_SECONDS": "0.5",
            **env,
        }

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def process(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the server was not started")
        return self._process

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def rss_bytes(self) -> int:
        """Its resident memory."""
        return self._pages(1)

    @property
    def rss_bytes_max(self) -> int:
        """Its largest resident memory since its start, or since `forget_rss_max`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024

    def forget_rss_max(self) -> None:
        """Starts `rss_bytes_max` anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def address_space_bytes(self) -> int:
        """Its address space."""
        return self._pages(0)

    def _pages(self, column: int) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[column]) * os.sysconf(
            "SC_PAGE_SIZE"
        )

    @property
    def descriptors(self) -> int:
        """How many files and connections it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def start(self, env: Mapping[str, str] = {}) -> float:
        """Starts it and waits until it is ready; the seconds. Raises RuntimeError if it ends."""
        began = time.monotonic()
        command: tuple[str, ...] = (sys.executable, "-m", "ledger", "serve")
        if self._within is not None:
            command = self._within.command(*command)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                # Not where a .env may lie.
                cwd=self.log.parent,
                env={**os.environ, **self._env, **env},
            )
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), READY_SECONDS)
        if not line.decode().startswith(READY_PREFIX):
            await self._process.wait()
            raise RuntimeError(f"the server did not start: {self.log.read_text()[-1000:]}")
        return time.monotonic() - began

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL; returns when it has ended. Does nothing if it has."""
        if self.runs:
            self.process.kill()
        if self._process is not None:
            await self._process.communicate()

    def leave(self) -> None:
        """Gives the port back."""
        self._port.close()

    async def health(self) -> str:
        """Its health: SERVING, NOT_SERVING; empty without a response."""
        async with aio.insecure_channel(self.address) as channel:
            return await _health(channel, 2)


async def health_of_newcomer(address: str, timeout_seconds: float) -> str:
    """The health of the server at an address, on a new connection; empty without a response."""
    async with aio.insecure_channel(
        address, options=(("grpc.use_local_subchannel_pool", 1),)
    ) as channel:
        return await _health(channel, timeout_seconds)


async def _health(channel: aio.Channel, timeout_seconds: float) -> str:
    health: Any = health_pb2_grpc.HealthStub(channel)  # typed for synchronous channels only
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    try:
        response = await health.Check(request, timeout=timeout_seconds)
    except aio.AioRpcError:
        return ""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


@asynccontextmanager
async def new_server(
    database: Database,
    folder: Path,
    *,
    durable: bool,
    url: str | None = None,
    env: Mapping[str, str] = {},
    within: Limit | None = None,
) -> AsyncIterator[ServerProcess]:
    """Runs a server on a database, at `url` if given. Kills it at the end if it still runs."""
    log = folder / f"server-{time.monotonic_ns()}.log"
    server = ServerProcess(url or database.url, log, durable=durable, env=env, within=within)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()
        server.leave()
