"""`ledger serve --workers`: several processes that are one server to its callers."""

import asyncio
import errno
import json
import os
import re
import signal
import socket
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from support.audit import assert_books_in_order
from support.commands import TIMEOUT_SECONDS, start_process
from support.events import event_message, unique
from support.folders import names_in
from support.running import query, role_settings
from support.waiting import until

from ledger.api.server import Server
from ledger.api.transport.listening import AddressUnavailable
from ledger.bootstrap.database import Database
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.serve.supervisor import (
    FAILED_STARTS_MAX,
    Supervisor,
    reserved_address,
    worker_environment,
)
from ledger.settings import Settings
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

CHANNELS = 24


@dataclass
class RunningWorkers:
    """A supervisor whose workers serve."""

    process: asyncio.subprocess.Process
    address: str
    health_address: str
    lines: list[dict[str, Any]]
    reading: "asyncio.Task[None]"
    plain_lines: list[str] = field(default_factory=list)

    def pids(self) -> dict[int, int]:
        """The process last started as each worker."""
        return {
            line["worker"]: line["pid"] for line in self.lines if line["event"] == "worker started"
        }

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        return [
            line for line in self.lines if line["event"] == event and fields.items() <= line.items()
        ]

    async def metrics(self) -> dict[str, float]:
        """The samples of the metrics page by name and labels, with the labels in order."""
        (line,) = self.logged("serving metrics")

        def read() -> str:
            with urllib.request.urlopen(
                f"http://{line['address']}/metrics", timeout=TIMEOUT_SECONDS
            ) as response:
                page: str = response.read().decode()
                return page

        families = text_string_to_metric_families(await asyncio.to_thread(read))
        return {
            sample.name
            + "".join(
                f",{name}={value}" for name, value in sorted(sample.labels.items())
            ): sample.value
            for family in families
            for sample in family.samples
        }

    async def ended(self) -> int:
        """Waits until all writers of standard error have ended; returns the supervisor's status."""
        await asyncio.wait_for(self.reading, TIMEOUT_SECONDS)
        return await asyncio.wait_for(self.process.wait(), TIMEOUT_SECONDS)


@asynccontextmanager
async def workers_on(database: Database, **settings: str) -> AsyncIterator[RunningWorkers]:
    """Two workers at a free port; killed at the end if they still run."""
    env = {
        "LEDGER_DATABASE_URL": database.url,
        "LEDGER_GRPC_ADDRESS": "127.0.0.1:0",
        "LEDGER_HEALTH_ADDRESS": "127.0.0.1:0",
        "LEDGER_LOG_FORMAT": "json",
        "LEDGER_METRICS_ADDRESS": "127.0.0.1:0",
        # A sealer would wait for the locks of these tests too, and be counted as a call.
        "LEDGER_SEAL_INTERVAL_SECONDS": "0",
        # The PostgreSQL of the tests runs without fsync.
        "LEDGER_REQUIRE_DURABLE_DATABASE": "false",
        **role_settings(database),
    }
    process = await start_process("serve", "--workers", "2", env=env | settings)
    lines: list[dict[str, Any]] = []
    plain_lines: list[str] = []

    async def read() -> None:
        assert process.stderr is not None
        async for raw in process.stderr:
            if raw.startswith(b"{"):
                lines.append(json.loads(raw))
            else:
                plain_lines.append(raw.decode())

    reading = asyncio.create_task(read())
    try:
        assert process.stdout is not None
        first = (await asyncio.wait_for(process.stdout.readline(), TIMEOUT_SECONDS)).decode()
        assert first, (plain_lines, lines)
        ready = json.loads(first)
        yield RunningWorkers(
            process, ready["address"], ready["health_address"], lines, reading, plain_lines
        )
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(process.wait(), TIMEOUT_SECONDS)
        await asyncio.wait_for(reading, TIMEOUT_SECONDS)


@asynccontextmanager
async def stubs_of(address: str, count: int) -> AsyncIterator[list[Any]]:
    """Clients with a connection each: the workers share connections, not calls."""
    async with AsyncExitStack() as stack:
        options = (("grpc.use_local_subchannel_pool", 1),)
        channels = [
            await stack.enter_async_context(aio.insecure_channel(address, options=options))
            for _ in range(count)
        ]
        yield [ledger_pb2_grpc.LedgerServiceStub(channel) for channel in channels]


async def ingest_until_it_ends(stub: Any, event: ledger_pb2.ProcessorEvent) -> int:
    """Sends an event until the call does not end with UNAVAILABLE. Returns the status."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            try:
                response = await stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
            except aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.02)
            else:
                return int(response.status)


@pytest.fixture(scope="module")
async def workers(shared_database: Database) -> AsyncIterator[RunningWorkers]:
    """Workers for the tests of this module that leave them alive."""
    async with workers_on(
        shared_database, LEDGER_WORKRES="3", LEDGER_ALLOW_UNKNOWN_SETTINGS="true"
    ) as running:
        yield running


async def test_workers_are_one_server(workers: RunningWorkers) -> None:
    """Ready once all serve. Each serves some connections, and the metrics are sums of all."""
    # Standard error is read beside standard output.
    await until(lambda: set(workers.pids()) == {1, 2}, what="two workers")
    await until(
        lambda: (
            {line["worker"] for line in workers.logged("serving: the database answers")} == {1, 2}
        ),
        what="both serve",
    )
    restaurant_id = unique("res")
    before = Counter(await workers.metrics())
    async with stubs_of(workers.address, CHANNELS) as stubs:
        events = [event_message(restaurant_id=restaurant_id) for _ in range(4 * CHANNELS)]
        statuses = await asyncio.gather(*map(ingest_until_it_ends, cycle(stubs), events))
    assert set(statuses) == {ledger_pb2.INGEST_STATUS_CREATED}
    metrics = await workers.metrics()
    method = "grpc_method=IngestEvent,grpc_service=ledger.v1.LedgerService"
    for counted in (
        f"grpc_server_handled_total,grpc_code=OK,{method}",
        f"grpc_server_handling_seconds_count,{method}",
    ):
        assert metrics[counted] - before[counted] == len(events)
    assert metrics[f"grpc_server_in_flight,{method}"] == 0
    for worker in ("supervisor", "1", "2"):
        assert metrics[f"process_resident_memory_bytes,worker={worker}"] > 0


async def test_misspelt_setting_is_warned_of(workers: RunningWorkers) -> None:
    """With the setting that was meant, once and not by every worker; and the server starts."""
    (line,) = workers.logged("LEDGER_WORKRES is not a setting: did you mean LEDGER_WORKERS?")
    assert line["level"] == "warning"
    assert "worker" not in line


async def test_json_log_has_only_json(workers: RunningWorkers) -> None:
    """Whatever a worker or the supervisor writes."""
    await until(
        lambda: len(workers.logged("serving: the database answers")) >= 2, what="both serve"
    )
    assert workers.plain_lines == []


async def test_no_other_server_gets_the_address_of_workers(workers: RunningWorkers) -> None:
    """Another server there fails, alone or with workers, although the workers share the port."""
    with pytest.raises(AddressUnavailable, match=re.escape(workers.address)):
        service = ledger_pb2_grpc.LedgerServiceServicer()  # type: ignore[abstract]
        Server(service, address=workers.address, reflect=False, ping=_ping_well)
    with (
        pytest.raises(AddressUnavailable, match=re.escape(workers.address)),
        reserved_address(workers.address),
    ):
        pass


async def test_health_address_is_shared_by_the_workers(workers: RunningWorkers) -> None:
    """Each new connection reaches a worker that serves; no other process can use the address."""
    request = health_pb2.HealthCheckRequest(service="ledger.v1.LedgerService")
    for _ in range(4):
        async with aio.insecure_channel(
            workers.health_address, options=(("grpc.use_local_subchannel_pool", 1),)
        ) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            response = await stub.Check(request, timeout=TIMEOUT_SECONDS)
            assert response.status == health_pb2.HealthCheckResponse.SERVING
    with (
        pytest.raises(AddressUnavailable, match=re.escape(workers.health_address)),
        reserved_address(workers.health_address),
    ):
        pass


async def _ping_well() -> None:
    """A database that responds."""


async def test_worker_that_is_killed_is_replaced(
    workers: RunningWorkers, shared_database: Database
) -> None:
    """Its calls are repeated and booked once; its counts stay in the sum, its open calls do not."""
    restaurant_id = unique("res")
    killed = workers.pids()[1]
    ended_calls = 0

    async def send(stub: Any) -> int:
        nonlocal ended_calls
        created = 0
        # Until well after the kill, so that calls meet it.
        while len(workers.logged("worker started", worker=1)) < 2 or created < 20:
            await ingest_until_it_ends(
                stub, event_message(restaurant_id=restaurant_id, amount_minor=1)
            )
            created += 1
            ended_calls += 1
        return created

    async with stubs_of(workers.address, CHANNELS) as stubs:
        sending = [asyncio.create_task(send(stub)) for stub in stubs]
        await until(lambda: ended_calls > 2 * CHANNELS, what="calls")
        before = await workers.metrics()
        os.kill(killed, signal.SIGKILL)
        sent = sum(await asyncio.gather(*sending))
    (ended,) = workers.logged("worker ended; another one will replace it")
    assert {"worker": 1, "pid": killed, "ended_by": "SIGKILL"}.items() <= ended.items()
    await until(
        lambda: len(workers.logged("serving: the database answers", worker=1)) == 2,
        what="the new worker serves",
    )
    assert workers.pids()[1] != killed
    stored = (
        "SELECT count(*), sum(amount_minor) FROM processor_events"
        " WHERE restaurant_id = :restaurant_id"
    )
    assert await query(shared_database.migration_url, stored, restaurant_id=restaurant_id) == [
        (sent, sent)
    ]
    after = await workers.metrics()
    method = "grpc_method=IngestEvent,grpc_service=ledger.v1.LedgerService"
    handled = f"grpc_server_handled_total,grpc_code=OK,{method}"
    assert after[handled] > before[handled]
    assert after[f"grpc_server_in_flight,{method}"] == 0
    assert after["ledger_worker_ends_total"] == 1
    await assert_books_in_order(shared_database)


async def test_hangup_ends_no_process(workers: RunningWorkers) -> None:
    """SIGHUP ends neither the supervisor nor a worker."""
    pids = workers.pids()
    workers.process.send_signal(signal.SIGHUP)
    for pid in pids.values():
        os.kill(pid, signal.SIGHUP)
    async with stubs_of(workers.address, CHANNELS) as stubs:
        await asyncio.gather(*(ingest_until_it_ends(stub, event_message()) for stub in stubs))
    assert workers.pids() == pids


@asynccontextmanager
async def call_under_way(
    workers: RunningWorkers, database: Database
) -> AsyncIterator["asyncio.Task[int]"]:
    """A call that waits for a lock until the block ends."""
    engine = create_async_engine(database.migration_url, poolclass=NullPool)
    try:
        async with stubs_of(workers.address, 1) as (stub,), engine.connect() as connection:
            await ingest_until_it_ends(stub, event_message(restaurant_id="res_stop"))
            await connection.execute(text("LOCK TABLE processor_events IN EXCLUSIVE MODE"))
            call = asyncio.create_task(
                ingest_until_it_ends(stub, event_message(restaurant_id="res_stop"))
            )
            waiting = (
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database()"
            )
            async with asyncio.timeout(TIMEOUT_SECONDS):
                # The database sends no event to wait for.
                while not await query(database.migration_url, waiting):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            yield call
            assert not call.done()
            await connection.rollback()
            assert await call == ledger_pb2.INGEST_STATUS_CREATED
    finally:
        await engine.dispose()


async def test_stop_lets_calls_end(database: Database) -> None:
    """After one or two signals open calls get their response; then all end, with status 0."""
    # Not the workers of the module: other tests of the module may run after this one.
    async with workers_on(database) as workers:
        async with call_under_way(workers, database):
            workers.process.send_signal(signal.SIGTERM)
            await until(
                lambda: {line.get("worker") for line in workers.logged("stopping")} >= {1, 2},
                what="the workers stop",
            )
            workers.process.send_signal(signal.SIGINT)
        assert await workers.ended() == 0
    assert {(line["worker"], line["ended_by"]) for line in workers.logged("worker ended")} == {
        (1, "exit status 0"),
        (2, "exit status 0"),
    }
    stored = "SELECT count(*) FROM processor_events WHERE restaurant_id = 'res_stop'"
    assert await query(database.migration_url, stored) == [(2,)]


async def test_workers_end_with_their_supervisor(database: Database, tmp_path: Path) -> None:
    """After its kill there is no process and no file. Open calls get their response."""
    async with workers_on(database, TMPDIR=str(tmp_path)) as workers:
        assert len(names_in(tmp_path)) == 1
        async with call_under_way(workers, database):
            workers.process.kill()
            await until(
                lambda: {line.get("worker") for line in workers.logged("stopping")} >= {1, 2},
                what="the workers stop",
            )
        # Standard error ends when the last process that has it does.
        assert await workers.ended() == -signal.SIGKILL
    assert names_in(tmp_path) == []


# Without processes


@pytest.fixture
def _signals_restored() -> Iterator[None]:
    """Restores the signal handlers that a supervisor replaces."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals_restored")
async def test_supervisor_gives_up_when_no_worker_starts() -> None:
    """After some tries, with a line that says so, and without ever having been ready."""
    settings = Settings(_env_file=None, workers=2)
    ready: list[None] = []
    # No Python starts in such an environment.
    environment = {"PYTHONHOME": "/nowhere"}
    supervisor = Supervisor(
        settings, environment, on_ready=lambda: ready.append(None), metrics=None
    )
    with pytest.raises(
        CommandFailure, match=f"the workers do not start: {FAILED_STARTS_MAX} in a row"
    ):
        await asyncio.wait_for(supervisor.run(), TIMEOUT_SECONDS)
    assert ready == []


@pytest.mark.usefixtures("_signals_restored")
async def test_program_that_cannot_be_started_is_a_failed_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is retried with a line in the log each time, and given up in the end."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    supervisor = Supervisor(
        Settings(_env_file=None, workers=2), {}, on_ready=lambda: None, metrics=None
    )
    with (
        structlog.testing.capture_logs() as lines,
        pytest.raises(CommandFailure, match="the workers do not start"),
    ):
        await asyncio.wait_for(supervisor.run(), TIMEOUT_SECONDS)
    # The other worker may be trying when the one gives up.
    tries = [line["event"] for line in lines].count("a worker cannot be started")
    assert FAILED_STARTS_MAX <= tries <= FAILED_STARTS_MAX + 1


@pytest.mark.usefixtures("_signals_restored")
@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("socket.socketpair", OSError(errno.EMFILE, os.strerror(errno.EMFILE))),
        ("asyncio.create_subprocess_exec", RuntimeError("can't start new thread")),
    ],
)
async def test_machine_that_has_no_room_is_a_failed_start(
    monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    """For a socket, a thread or a process: else the workers that serve would end too."""

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(place, refuse)
    supervisor = Supervisor(
        Settings(_env_file=None, workers=2), {}, on_ready=lambda: None, metrics=None
    )
    with pytest.raises(
        CommandFailure, match=f"the workers do not start: {FAILED_STARTS_MAX} in a row"
    ):
        await asyncio.wait_for(supervisor.run(), TIMEOUT_SECONDS)


@pytest.mark.usefixtures("_signals_restored")
@pytest.mark.parametrize(
    ("of_workers", "of_supervisor"),
    [
        (ExitStatus.UNREACHABLE, ExitStatus.UNREACHABLE),
        (ExitStatus.REFUSED, ExitStatus.REFUSED),
        (70, ExitStatus.REFUSED),
    ],
)
async def test_supervisor_that_gives_up_has_the_status_of_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_workers: int, of_supervisor: ExitStatus
) -> None:
    """After UNREACHABLE a later try of the same command may succeed."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nexit {int(of_workers)}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    supervisor = Supervisor(
        Settings(_env_file=None, workers=2), os.environ, on_ready=lambda: None, metrics=None
    )
    with pytest.raises(CommandFailure, match="the workers do not start") as caught:
        await asyncio.wait_for(supervisor.run(), TIMEOUT_SECONDS)
    assert caught.value.exit_status is of_supervisor


async def test_worker_without_its_database_ends_with_status_3() -> None:
    """The supervisor reads the status."""
    environment = {
        "LEDGER_DATABASE_URL": "postgresql://me:secret@127.0.0.1:1/books",
        "LEDGER_GRPC_ADDRESS": "127.0.0.1:0",
    }
    ours, its = socket.socketpair()
    with ours, its:
        command = (
            "-m",
            "ledger",
            "serve-worker",
            "--number",
            "1",
            "--supervisor",
            str(its.fileno()),
        )
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            env={**os.environ, **environment},
            pass_fds=(its.fileno(),),
            stderr=asyncio.subprocess.PIPE,
        )
        _, stderr = await asyncio.wait_for(worker.communicate(), TIMEOUT_SECONDS)
    assert worker.returncode == ExitStatus.UNREACHABLE
    assert stderr.startswith(
        b"error: the database postgresql://me:***@127.0.0.1:1/books cannot be reached"
    )


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "0.0.0.0:0", "[::]:0"])
async def test_reserved_address_can_be_shared(address: str) -> None:
    """By as many servers as share ports on purpose, whatever the library makes of the address."""
    if "[" in address and not socket.has_dualstack_ipv6():
        pytest.skip("this system has no IPv6")
    with reserved_address(address) as reserved:
        service = ledger_pb2_grpc.LedgerServiceServicer()  # type: ignore[abstract]
        servers = [
            Server(service, address=reserved, reflect=False, ping=_ping_well, share_port=True)
            for _ in range(2)
        ]
        assert {server.port for server in servers} == {int(reserved.rpartition(":")[2])}
        for server in servers:
            await server.start()
        async with stubs_of(re.sub(r"^.*:", "127.0.0.1:", reserved), 1) as (stub,):
            with pytest.raises(aio.AioRpcError) as caught:
                await stub.GetPayout(ledger_pb2.GetPayoutRequest())
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        for server in servers:
            await server.stop(0)


def test_reserved_address_has_one_port_and_one_owner() -> None:
    """A free port is chosen once; no other process can use it until the end."""
    with reserved_address("localhost:0") as address:
        assert re.fullmatch(r"localhost:[1-9][0-9]*", address)
        with pytest.raises(AddressUnavailable, match=address), reserved_address(address):
            pass
    with reserved_address(address) as again:
        assert again == address


def test_address_of_another_machine_is_refused() -> None:
    """At once, and not by each worker."""
    address = "192.0.2.1:1"
    with pytest.raises(AddressUnavailable, match=re.escape(address)), reserved_address(address):
        pass


def test_socket_file_is_refused() -> None:
    """It cannot be shared as a port can."""
    with (
        pytest.raises(CommandFailure, match="cannot share unix:"),
        reserved_address("unix:/tmp/ledger.sock"),
    ):
        pass


def test_worker_has_the_settings_of_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unchanged, except the addresses and the database role; and no other variable like one."""
    monkeypatch.setenv("LEDGER_MIGRATION_DATABASE_URL", "postgresql://owner:secret@h/d")
    monkeypatch.setenv("LEDGER_WORKRES", "3")
    monkeypatch.setenv("OTHER", "kept")
    settings = Settings(
        _env_file=None,
        database_url="postgresql://me:p%40ss@h:1/d?sslmode=require",
        workers=3,
        reflection=False,
    )
    database = Database(settings.database_url, settings.url_for_migrations)
    environment = worker_environment(settings, "127.0.0.1:7", "127.0.0.1:8", database)
    assert environment["OTHER"] == "kept"
    assert "LEDGER_WORKRES" not in environment
    monkeypatch.delenv("LEDGER_MIGRATION_DATABASE_URL")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    changes = {
        "grpc_address": "127.0.0.1:7",
        "health_address": "127.0.0.1:8",
        "migration_database_url": "",
    }
    assert Settings(_env_file=None) == settings.model_copy(update=changes)
