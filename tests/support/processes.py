"""A server as a separate process on a test database; tests read its memory and log."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ledger.api.transport.receiving import RECEIVE_SECONDS
from ledger.bootstrap.database import Database
from ledger.cli.serve.ready_line import READY_PREFIX
from ledger.v1 import ledger_pb2, ledger_pb2_grpc
from support.commands import INTERRUPTIBLE, TIMEOUT_SECONDS
from support.events import event_message, unique
from support.running import COUNT_EVERYTHING, query, role_settings

SERVICE = "ledger.v1.LedgerService"
# Less than a server waits for a request that does not arrive: a call that ends within it is not
# behind such a request, and was not given up as one.
SERVED_SECONDS = RECEIVE_SECONDS - 20.0


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A `ledger serve` that is ready."""

    pid: int
    address: str
    database: Database
    log: Path

    def rss_mib(self) -> float:
        """Its resident memory."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def log_bytes(self) -> int:
        """The size of its log."""
        return self.log.stat().st_size

    async def counts(self) -> tuple[Any, ...]:
        """How many rows the tables have."""
        return (await query(self.database.migration_url, COUNT_EVERYTHING))[0]

    async def assert_well(self) -> None:
        """Asserts that the server is alive and ready, and books an event of a new client."""
        # A separate connection: a channel would share one that the server refused.
        async with aio.insecure_channel(
            self.address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            for service in ("", SERVICE):
                response = await health.Check(
                    health_pb2.HealthCheckRequest(service=service), timeout=SERVED_SECONDS
                )
                assert response.status == health_pb2.HealthCheckResponse.SERVING
            event = event_message(event_id=unique("well"), restaurant_id="well")
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            booked = await stub.IngestEvent(
                ledger_pb2.IngestEventRequest(event=event), timeout=SERVED_SECONDS
            )
            assert booked.status == ledger_pb2.INGEST_STATUS_CREATED


@asynccontextmanager
async def server_process(
    database: Database, log: Path, *, program: str = INTERRUPTIBLE, **settings: str
) -> AsyncIterator[ServerProcess]:
    """A server on a free port, terminated at the end; `program` runs the command."""
    env = {
        "LEDGER_DATABASE_URL": database.url,
        "LEDGER_GRPC_ADDRESS": "127.0.0.1:0",
        "LEDGER_REQUIRE_DURABLE_DATABASE": "false",
        **role_settings(database),
        **{f"LEDGER_{name.upper()}": value for name, value in settings.items()},
    }
    with log.open("w") as stderr:
        process = await _start(program, env, stderr)
        try:
            if process.stdout is None:
                raise RuntimeError("standard output is not piped")
            first_line = await asyncio.wait_for(process.stdout.readline(), TIMEOUT_SECONDS)
            if not first_line:
                raise RuntimeError(f"the server did not start: see its log, {log.name}")
            yield ServerProcess(
                process.pid, _address_in(first_line.decode().strip()), database, log
            )
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), TIMEOUT_SECONDS)


def _address_in(first_line: str) -> str:
    """The address in the line of a server that is ready: a sentence, or JSON if its log is."""
    if first_line.startswith(READY_PREFIX):
        return first_line.removeprefix(READY_PREFIX)
    address: str = json.loads(first_line)["address"]
    return address


async def _start(program: str, env: dict[str, str], stderr: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        "serve",
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )
