"""Offers a server ten times what it can take, and reports what becomes of the work, its memory and its health checks.

The callers write HTTP/2 frames by themselves (RFC 9113; headers as RFC 7541): a caller made of a gRPC library would need more
processor time for a call than the server does, and nobody could be overloaded on one machine. They are open-loop: a call is due
at its time whatever became of those before it, and counts from then on, also while it waits for a stream of its connection.

Prints a table, writes `.bench/overload.json`, and exits with 1 when an expectation is not met. Run by `make overload`.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table

from ledger.infrastructure.postgres.embedded import EmbeddedPostgres
from ledger.infrastructure.postgres.engine import APPLICATION_ROLE
from ledger.infrastructure.postgres.migrations import create_database, migrate
from ledger.v1 import ledger_pb2

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".bench" / "overload.json"
DATABASE = "overload"
READY_PREFIX = "ledger serves gRPC on "
SERVICE = "ledger.v1.LedgerService"
RESTAURANTS = 100
HEALTH_SECONDS = 0.1
SAMPLE_SECONDS = 0.1
# What is asked of the server; the first is wanted, the others are promised.
GOODPUT_RATIO_MIN = 0.8
HEALTH_FAILURES_MAX = 0
RECOVERY_SECONDS_MAX = 5.0

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
REFUSED_STREAM = 7
RETRY_SECONDS = 0.1
WINDOW_MAX = 2**31 - 1
# No header table, so that trailers can be read without state, and binary trailers as they are.
SETTINGS_PAYLOAD = (1).to_bytes(2) + (0).to_bytes(4) + (0xFE03).to_bytes(2) + (1).to_bytes(4)


@dataclass(frozen=True, slots=True)
class Plan:
    """One process of callers: `rate` calls a second in all, or as many at once as `at_once` says if it is 0."""

    address: str
    number: int
    connections: int
    seconds: float
    rate: float
    at_once: int
    deadline_seconds: float


@dataclass(slots=True)
class Told:
    """What the callers of a process were told: outcomes by name, the latencies of what was booked, and its numbers."""

    offered: int = 0
    refused_streams: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    booked_at: list[float] = field(default_factory=list)
    booked: list[int] = field(default_factory=list)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def header_blocks() -> tuple[bytes, bytes]:
    """The headers of a connection's first call, which puts them into the header table, and of all others, which name them.

    The timeout is not among them: it is what is left of the deadline when a call is sent.
    """
    headers = {
        ":path": f"/{SERVICE}/IngestEvent",
        ":authority": "overload",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    first = b"\x83\x86" + b"".join(
        b"\x40" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in headers.items()
    )
    # The table begins at 62 with what was put there last.
    return first, b"\x83\x86" + bytes(0x80 | 62 + len(headers) - 1 - place for place in range(len(headers)))


class Events:
    """Serialized requests that differ in their event ids, which have one length."""

    def __init__(self, process: int) -> None:
        self._prefix = f"over.{process:02d}."
        event = ledger_pb2.ProcessorEvent(
            event_id=self.event_id(0),
            type=ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
            restaurant_id=f"over_{process % RESTAURANTS}",
            currency="PEN",
            amount_minor=1_000,
            fee_minor=50,
        )
        event.occurred_at.FromDatetime(datetime.now(UTC) - timedelta(days=1))
        raw = ledger_pb2.IngestEventRequest(event=event).SerializeToString()
        self._before, self._after = raw.split(self.event_id(0).encode())
        self._length = b"\0" + len(raw).to_bytes(4)

    def event_id(self, number: int) -> str:
        return f"{self._prefix}{number:09d}"

    def message(self, number: int) -> bytes:
        return self._length + self._before + self.event_id(number).encode() + self._after


class Caller(asyncio.Protocol):
    """One connection. It keeps to the server's limits of streams and of bytes, as every client does."""

    def __init__(self, plan: Plan, events: Events, told: Told) -> None:
        self._events = events
        self._told = told
        self._deadline_seconds = plan.deadline_seconds
        self._first, self._block = header_blocks()
        self._buffer = bytearray()
        self._stream = 1
        self._streams_max = 100
        self._window = 65_535
        self._received = 0
        self._paused = False
        self._hold_until = 0.0
        self._due: deque[tuple[float, int]] = deque()
        self._open: dict[int, tuple[float, int]] = {}
        self.transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(transport)
        self.transport = transport
        transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, SETTINGS_PAYLOAD) + self._more(WINDOW_MAX - 65_535)
        )

    def connection_lost(self, _: Exception | None) -> None:
        self.closed = True
        for stream in list(self._open):
            self._end(stream, "connection lost")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.send()

    @property
    def waiting(self) -> int:
        """Calls without an outcome."""
        return len(self._due) + len(self._open)

    def call(self, due_at: float, number: int) -> None:
        """A call is due."""
        self._due.append((due_at, number))

    def send(self) -> None:
        """Sends what may be sent."""
        if self.transport is None or self.closed:
            return
        sent = bytearray()
        now = time.monotonic()
        while self._due and now - self._due[0][0] > self._deadline_seconds:
            self._due.popleft()
            self._told.outcomes["DEADLINE_EXCEEDED unsent"] += 1
        while self._due and not self._paused and len(self._open) < self._streams_max and now > self._hold_until:
            due_at, number = self._due[0]
            message = self._events.message(number)
            if self._window < len(message):
                break
            self._due.popleft()
            self._window -= len(message)
            block, self._first = self._first or self._block, b""
            left = f"{max(1, round((due_at + self._deadline_seconds - now) * 1000))}m".encode()
            block += b"\0\x0cgrpc-timeout" + bytes([len(left)]) + left
            sent += frame(HEADERS, END_HEADERS, self._stream, block) + frame(DATA, END_STREAM, self._stream, message)
            self._open[self._stream] = (due_at, number)
            self._stream += 2
        if sent:
            self.transport.write(bytes(sent))

    def expire(self) -> None:
        """Resets the streams of calls whose deadline has passed, as clients do."""
        now = time.monotonic()
        for stream in [stream for stream, (due_at, _) in self._open.items() if now - due_at > self._deadline_seconds]:
            if self.transport is not None and not self.closed:
                self.transport.write(frame(RESET, 0, stream, (8).to_bytes(4)))
            self._end(stream, "DEADLINE_EXCEEDED unanswered")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        place = 0
        while len(self._buffer) - place >= 9:
            size = int.from_bytes(self._buffer[place : place + 3])
            if len(self._buffer) - place < 9 + size:
                break
            kind, flags = self._buffer[place + 3], self._buffer[place + 4]
            stream = int.from_bytes(self._buffer[place + 5 : place + 9])
            self._take(kind, flags, stream, bytes(self._buffer[place + 9 : place + 9 + size]))
            place += 9 + size
        del self._buffer[:place]
        self.send()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self.transport is None:
            return
        if kind == SETTINGS and not flags & ACK:
            for place in range(0, len(payload), 6):
                if payload[place : place + 2] == b"\0\3":
                    self._streams_max = min(int.from_bytes(payload[place + 2 : place + 6]), 10_000)
            self.transport.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.transport.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload)
        elif kind == DATA:
            self._received += len(payload)
            if self._received > 2**24:
                self.transport.write(self._more(self._received))
                self._received = 0
        elif kind == HEADERS and flags & END_STREAM:
            self._end(stream, outcome_of(payload))
        elif kind == RESET and int.from_bytes(payload) == REFUSED_STREAM and stream in self._open:
            # The service config that we recommend says when to try again.
            self._due.appendleft(self._open.pop(stream))
            self._hold_until = time.monotonic() + RETRY_SECONDS
            self._told.refused_streams += 1
        elif kind == RESET:
            self._end(stream, f"reset {int.from_bytes(payload)}")
        elif kind == GOAWAY:
            self._told.outcomes["goaway"] += 1

    def _end(self, stream: int, outcome: str) -> None:
        if stream not in self._open:
            return
        due_at, number = self._open.pop(stream)
        self._told.outcomes[outcome] += 1
        if outcome == "OK":
            now = time.monotonic()
            self._told.latencies.append(now - due_at)
            self._told.booked_at.append(now)
            self._told.booked.append(number)

    @staticmethod
    def _more(size: int) -> bytes:
        return frame(WINDOW_UPDATE, 0, 0, size.to_bytes(4))


def outcome_of(trailers: bytes) -> str:
    """OK, or the number of the status; a refusal is only called by its name if it tells what it has to."""
    place = trailers.find(b"grpc-status") + len(b"grpc-status") + 1
    status = int(trailers[place : place + trailers[place - 1]])
    if status == 0:
        return "OK"
    if status == 8 and b"QUEUE_FULL" in trailers and b"google.rpc.RetryInfo" in trailers:
        return "RESOURCE_EXHAUSTED QUEUE_FULL"
    if status == 4:
        return "DEADLINE_EXCEEDED answered"
    return f"status {status}"


async def call_all(plan: Plan) -> Told:
    """Carries out the plan and waits for what is open at its end."""
    told = Told()
    events = Events(plan.number)
    host, port = plan.address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    callers = [
        (await loop.create_connection(lambda: Caller(plan, events, told), host, int(port)))[1] for _ in range(plan.connections)
    ]
    # The server's own settings come first, so that nobody goes beyond them.
    await asyncio.sleep(0.2)
    began = time.monotonic()
    while (now := time.monotonic()) - began < plan.seconds:
        if plan.rate:
            while told.offered < (now - began) * plan.rate:
                callers[told.offered % len(callers)].call(began + told.offered / plan.rate, told.offered)
                told.offered += 1
        else:
            for caller in callers:
                while caller.waiting < plan.at_once:
                    caller.call(now, told.offered)
                    told.offered += 1
        for caller in callers:
            caller.expire()
            caller.send()
        await asyncio.sleep(0.002)
    while any(caller.waiting for caller in callers) and time.monotonic() < began + plan.seconds + plan.deadline_seconds + 1:
        for caller in callers:
            caller.expire()
            caller.send()
        await asyncio.sleep(0.01)
    told.outcomes["never answered"] += sum(caller.waiting for caller in callers)
    for caller in callers:
        if caller.transport is not None:
            caller.transport.close()
    return told


async def callers(plans: list[Plan]) -> list[Told]:
    """Carries out the plans, each in a process of its own."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--plan", json.dumps(asdict(plan)), stdout=asyncio.subprocess.PIPE, limit=2**30
        )
        for plan in plans
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    if any(process.returncode for process in processes):
        raise RuntimeError("callers failed")
    return [Told(**{**json.loads(stdout), "outcomes": Counter(json.loads(stdout)["outcomes"])}) for stdout, _ in outputs]


@dataclass(slots=True)
class Watched:
    """What was seen of the server from outside while it was under load."""

    rss_mib: list[float] = field(default_factory=list)
    health_seconds: list[float] = field(default_factory=list)
    health_failures: list[str] = field(default_factory=list)


def rss_mib(pid: int) -> float:
    """The memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the server is gone")


async def watch(address: str, pid: int, watched: Watched) -> None:
    """Asks for the health all the time, on a connection of its own, and looks at the memory."""

    async def memory() -> None:
        while True:
            watched.rss_mib.append(rss_mib(pid))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def health(service: str) -> None:
        async with aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while True:
                began = time.monotonic()
                try:
                    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
                    if answer.status != health_pb2.HealthCheckResponse.SERVING:
                        watched.health_failures.append(f"{service!r}: {answer.status}")
                except aio.AioRpcError as error:
                    watched.health_failures.append(f"{service!r}: {error.code().name}")
                watched.health_seconds.append(time.monotonic() - began)
                await asyncio.sleep(HEALTH_SECONDS)

    await asyncio.gather(memory(), health(""), health(SERVICE))


@contextmanager
def serving(postgres: EmbeddedPostgres, log: Path, settings: dict[str, str]) -> Iterator[tuple[str, int]]:
    """A server as a process of its own: its address and its process id."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")} | {
        "LEDGER_DATABASE_URL": postgres.url(user=APPLICATION_ROLE, database=DATABASE),
        "LEDGER_GRPC_ADDRESS": "127.0.0.1:0",
        **settings,
    }
    with log.open("w") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-m", "ledger", "serve"], env=env, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        try:
            if server.stdout is None:
                raise RuntimeError("standard output is not piped")
            first_line = server.stdout.readline()
            if not first_line.startswith(READY_PREFIX):
                raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
            yield first_line.strip().removeprefix(READY_PREFIX), server.pid
        finally:
            server.terminate()
            server.wait()
            if server.stdout is not None:
                server.stdout.close()


def rate_of(told: list[Told]) -> float:
    """Events booked a second, between the first and the last of them."""
    booked_at = sorted(at for some in told for at in some.booked_at)
    return (len(booked_at) - 1) / (booked_at[-1] - booked_at[0]) if len(booked_at) > 1 else 0.0


async def peak(address: str, numbers: Iterator[int], arguments: argparse.Namespace) -> tuple[float, list[Told], list[int]]:
    """What the server can book a second when nobody is refused."""
    chosen = [next(numbers) for _ in range(arguments.processes)]
    told = await callers(
        [Plan(address, number, arguments.connections, arguments.peak_seconds, 0, arguments.at_once, 30) for number in chosen]
    )
    return rate_of(told), told, chosen


async def first_answer(address: str, number: int) -> float:
    """Seconds until a call is answered with what it asked for."""
    began = time.monotonic()
    while True:
        told = await call_all(Plan(address, number, 1, 0.05, 0, 1, 1))
        if told.outcomes["OK"]:
            return time.monotonic() - began
        if time.monotonic() - began > 60:
            return 60.0


async def lost_events(postgres: EmbeddedPostgres, booked: list[str]) -> tuple[int, int]:
    """How many events are stored, and how many of those that were acknowledged are not."""
    url = postgres.url(user=postgres.superuser, database=DATABASE).replace("postgresql+asyncpg", "postgresql")
    connection = await asyncpg.connect(url)
    try:
        stored = {event_id for (event_id,) in await connection.fetch("SELECT event_id FROM processor_events")}
    finally:
        await connection.close()
    return len(stored), len(set(booked) - stored)


async def measure(postgres: EmbeddedPostgres, address: str, pid: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak, overload, recovery, peak again."""
    numbers = iter(range(100))
    # The first calls open connections and register restaurants.
    warm = await peak(address, numbers, argparse.Namespace(**{**vars(arguments), "peak_seconds": 1.0}))
    before = await peak(address, numbers, arguments)
    watched = Watched()
    idle_rss_mib = rss_mib(pid)
    watching = asyncio.create_task(watch(address, pid, watched))
    offered_rate = arguments.factor * before[0]
    chosen = [next(numbers) for _ in range(arguments.processes)]
    try:
        told = await callers(
            [
                Plan(
                    address,
                    number,
                    arguments.connections,
                    arguments.seconds,
                    offered_rate / arguments.processes,
                    0,
                    arguments.deadline,
                )
                for number in chosen
            ]
        )
        recovery = await first_answer(address, next(numbers))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    after = await peak(address, numbers, arguments)
    outcomes = sum((some.outcomes for some in told), Counter())
    latencies = sorted(latency for some in told for latency in some.latencies)
    booked = [
        Events(number).event_id(event)
        for some, numbered in ((warm[1], warm[2]), (before[1], before[2]), (told, chosen), (after[1], after[2]))
        for one, number in zip(some, numbered, strict=True)
        for event in one.booked
    ]
    stored, lost = await lost_events(postgres, booked)
    # What is booked in the last seconds' deadlines is not counted: nobody comes any more then.
    booked_at = sorted(at for some in told for at in some.booked_at)
    goodput = sum(at - booked_at[0] <= arguments.seconds for at in booked_at) / arguments.seconds
    health = sorted(watched.health_seconds)
    return {
        "peak_before": before[0],
        "peak_after": after[0],
        "offered_per_second": sum(some.offered for some in told) / arguments.seconds,
        "factor": sum(some.offered for some in told) / arguments.seconds / before[0],
        "goodput_per_second": goodput,
        "goodput_ratio": goodput / ((before[0] + after[0]) / 2),
        "refused_streams": sum(some.refused_streams for some in told),
        "outcomes": dict(outcomes.most_common()),
        "booked_p50_ms": statistics.median(latencies) * 1000 if latencies else None,
        "booked_p99_ms": latencies[int(len(latencies) * 0.99)] * 1000 if latencies else None,
        "rss_before_mib": idle_rss_mib,
        "rss_peak_mib": max(watched.rss_mib),
        "rss_after_mib": rss_mib(pid),
        "health_checks": len(health),
        "health_failures": watched.health_failures,
        "health_p50_ms": statistics.median(health) * 1000,
        "health_p99_ms": health[int(len(health) * 0.99)] * 1000,
        "health_max_ms": health[-1] * 1000,
        "recovery_seconds": recovery,
        "acknowledged": len(booked),
        "stored": stored,
        "lost": lost,
    }


EXPECTED_OUTCOMES = {"OK", "RESOURCE_EXHAUSTED QUEUE_FULL", "DEADLINE_EXCEEDED answered"}
EXPECTED_OUTCOMES |= {"DEADLINE_EXCEEDED unanswered", "DEADLINE_EXCEEDED unsent"}


def disappointments(result: dict[str, Any], *, goodput_ratio_min: float) -> list[str]:
    """What was expected and did not happen."""
    found = []
    if result["goodput_ratio"] < goodput_ratio_min:
        found.append(f"goodput fell to {result['goodput_ratio']:.0%} of the peak; {goodput_ratio_min:.0%} is wanted")
    if unexpected := {name: n for name, n in result["outcomes"].items() if n and name not in EXPECTED_OUTCOMES}:
        found.append(f"unexpected outcomes: {unexpected}")
    if len(result["health_failures"]) > HEALTH_FAILURES_MAX:
        found.append(f"health checks failed: {Counter(result['health_failures'])}")
    if result["recovery_seconds"] > RECOVERY_SECONDS_MAX:
        found.append(f"recovery took {result['recovery_seconds']:.1f} s")
    if result["lost"]:
        found.append(f"{result['lost']} acknowledged events are not stored")
    if result["audit"]:
        found.append("the audit found errors")
    return found


def show(result: dict[str, Any]) -> None:
    """The figures as a table."""
    table = Table("figure", "value")
    for name, value in result.items():
        table.add_row(name, f"{value:,.2f}" if isinstance(value, float) else str(value))
    Console(width=130).print(table)


def main() -> None:
    """Runs it all, or one process of callers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few seconds with a small queue, to see that it works")
    parser.add_argument("--seconds", type=float, default=None, help="how long the overload lasts (60)")
    parser.add_argument("--factor", type=float, default=10.0, help="how many times the peak is offered")
    parser.add_argument("--deadline", type=float, default=5.0, help="of the calls, in seconds")
    parser.add_argument("--processes", type=int, default=4, help="of callers")
    parser.add_argument("--connections", type=int, default=4, help="of each process")
    parser.add_argument("--at-once", type=int, default=100, help="calls of a connection while the peak is measured")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go as JSON")
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plan:
        told = asyncio.run(call_all(Plan(**json.loads(arguments.plan))))
        json.dump({part.name: getattr(told, part.name) for part in fields(told)}, sys.stdout)
        return
    settings = dict(item.split("=", 1) for item in arguments.set)
    if arguments.short:
        arguments.processes, arguments.peak_seconds, arguments.at_once = 2, 1.5, 30
        settings = {"LEDGER_INGEST_QUEUE_EVENTS": "300"} | settings
    else:
        arguments.peak_seconds = 8.0
    arguments.seconds = arguments.seconds or (4.0 if arguments.short else 60.0)
    folder = Path(tempfile.mkdtemp(prefix="ledger-overload-"))
    folder.chmod(0o755)
    log = folder / "server.log"
    try:
        with EmbeddedPostgres.start(folder / "postgres") as postgres:
            asyncio.run(create_database(postgres.url(user=postgres.superuser, database="postgres"), DATABASE))
            migrate(postgres.url(user=postgres.superuser, database=DATABASE))
            with serving(postgres, log, settings) as (address, pid):
                result = asyncio.run(measure(postgres, address, pid, arguments))
            environment = {"LEDGER_DATABASE_URL": postgres.url(user=postgres.superuser, database=DATABASE)}
            audit = subprocess.run(
                [sys.executable, "-m", "ledger", "verify"], env={**os.environ, **environment}, capture_output=True
            )
            result |= {"audit": audit.returncode, "log_lines": log.read_text().count("\n")}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result["disappointments"] = disappointments(result, goodput_ratio_min=0.0 if arguments.short else GOODPUT_RATIO_MIN)
    arguments.results.parent.mkdir(exist_ok=True)
    arguments.results.write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    sys.exit(1 if result["disappointments"] else 0)


if __name__ == "__main__":
    main()
