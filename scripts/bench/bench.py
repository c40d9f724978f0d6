"""What every measure uses: servers, database, sizes, and processes that make load."""

import asyncio
import json
import math
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from scripts.bench import bare_statement, books, load_generator
from scripts.bench.books import Booked
from scripts.bench.jobs import READY, Interval, Outcome
from scripts.bench.measured import Measured
from scripts.bench.process_costs import cpu_seconds, resident_bytes
from scripts.bench.servers import ROOT, Server
from scripts.bench.wire import PAYMENT_METHODS

# What the methods book.
BOOKED = dict.fromkeys(("IngestEvent", "BatchIngestEvents", "StreamEvents"), Booked.EVENTS)
BOOKED |= dict.fromkeys(PAYMENT_METHODS, Booked.PAYMENTS)
# The restaurants of the events, named after their currency; they begin without entries.
INGEST_CURRENCY = "BRL"
# Restaurants with 20 entries each, whose balances are read.
BALANCE_CURRENCY = "CLP"
RESTAURANTS = 1_000
# Between the command and the load, so that all processes have received it.
LEAD_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Load:
    """Calls of one method by `callers` at once; `field` is the request's field of `events`.

    For payments the accounts are as many as `restaurants`.
    """

    method: str
    callers: int
    events: int = 1
    field: str = "event"
    in_flight: int = 1
    currency: str = INGEST_CURRENCY
    restaurants: int = RESTAURANTS
    # The only restaurant of the load; empty for all.
    restaurant: str = ""
    # Whether each call authorises a payment, and its caller captures it by another call.
    captures: bool = False
    # The only payer of the load; empty for all accounts.
    payer: str = ""
    # The account whose balance is read.
    account: str = ""
    available_minor: int = 0
    # Instants in microseconds since 1970, each with what was available then; empty for now.
    moments: tuple[tuple[int, int], ...] = ()
    channels: int = 1
    # Callers of the bench's own, which cost little, instead of gRPC's.
    raw: bool = False

    @property
    def booked(self) -> Booked | None:
        """What its calls book, on a server that does."""
        return Booked.CAPTURES if self.captures else BOOKED.get(self.method)

    def by(self, callers: int) -> Self:
        """The same load by another number of callers."""
        return replace(self, callers=callers)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long and how large measures are: `seconds` is for each side of a comparison."""

    seconds: float
    rounds: int
    warm_up_seconds: float
    payout_restaurants: tuple[int, int]
    long_account_entries: int
    size_events: int

    @property
    def slice_seconds(self) -> float:
        return self.seconds / self.rounds


class Worker:
    """A process that makes load, and its pipe."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, module: str) -> Self:
        """Starts one of this package's programs."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )

    async def prepare(self, job: dict[str, Any]) -> None:
        """Returns when the process is ready for the interval."""
        self._write(job)
        if await self._read_line() != READY:
            raise RuntimeError("a process that makes load does not report that it is ready")

    def begin(self, interval: Interval) -> None:
        """Starts the prepared load."""
        self._write([interval.begins_at, interval.counts_from, interval.ends_at])

    async def outcome(self) -> Outcome:
        """The outcome of the interval, once it has ended."""
        header = json.loads(await self._read_line())
        times = array("d")
        times.frombytes(await self._stdout.readexactly(header["bytes"]))
        half = len(times) // 2
        return Outcome(times[:half], times[half:], header["acknowledged"], header["ran_dry_at"])

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
            await self._process.communicate()

    def _write(self, message: object) -> None:
        if self._process.stdin is None:
            raise RuntimeError("standard input is not piped")
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    @property
    def _stdout(self) -> asyncio.StreamReader:
        if self._process.stdout is None:
            raise RuntimeError("standard output is not piped")
        return self._process.stdout

    async def _read_line(self) -> bytes:
        line = await self._stdout.readline()
        if not line:
            raise RuntimeError("a process that makes load has failed; its error is above")
        return line


@dataclass(slots=True)
class Bench:
    """The servers, the database and the load. Counts what was acknowledged in the whole run."""

    cluster: books.Cluster
    connection: Any
    service: Server
    empty: Server
    sizes: Sizes
    generators: list[Worker]
    statement: Worker
    acknowledged: Counter[Booked] = field(default_factory=Counter)
    prefixes: int = 0
    loaded: set[str] = field(default_factory=set)

    @classmethod
    async def open(
        cls,
        stack: AsyncExitStack,
        cluster: books.Cluster,
        service: Server,
        empty: Server,
        sizes: Sizes,
        processes: int,
    ) -> Self:
        """Connects and starts the processes that make load; the stack ends them."""
        connection = await cluster.connect()
        stack.push_async_callback(connection.close)
        workers = []
        for module in [load_generator.__name__] * processes + [bare_statement.__name__]:
            workers.append(await Worker.start(module))
            stack.push_async_callback(workers[-1].stop)
        await books.load_restaurants(connection, INGEST_CURRENCY, RESTAURANTS, entries=False)
        return cls(cluster, connection, service, empty, sizes, workers[:-1], workers[-1])

    async def run(self, load: Load, server: Server, seconds: float | None = None) -> Measured:
        """Makes load for one slice, and checks that the books have what was acknowledged.

        What the empty handler acknowledged must not be there. Raises WrongBooks.
        """
        running = await self.begin(load, server, seconds)
        return await self.end(running)

    async def begin(
        self,
        load: Load,
        server: Server,
        seconds: float | None = None,
        workers: Sequence[Worker] | None = None,
    ) -> "Running":
        """Starts load and returns; by `workers` instead of the usual processes."""
        # No more processes than callers, and each caller in one of them. One process of the bench's
        # own callers keeps several servers busy.
        workers = self.generators if workers is None else workers
        workers = workers[: 1 if load.raw else load.callers]
        callers = [
            load.callers // len(workers) + (place < load.callers % len(workers))
            for place in range(len(workers))
        ]
        prefix = self._new_prefix()
        jobs = [
            {
                **asdict(load),
                "callers": share,
                "address": server.address,
                "prefix": f"{prefix}.{place}",
            }
            for place, share in enumerate(callers)
        ]
        return await self._begin(workers, jobs, prefix, load.events, server, load.booked, seconds)

    async def run_statement(self, events: int, connections: int) -> Measured:
        """Makes load with the bare SQL statement for one slice. Raises WrongBooks."""
        prefix = self._new_prefix()
        job = {
            "url": self.cluster.application_url,
            "events": events,
            "connections": connections,
            "prefix": prefix,
            "currency": INGEST_CURRENCY,
            "restaurants": RESTAURANTS,
            "seconds": self.sizes.slice_seconds + self.sizes.warm_up_seconds,
        }
        return await self.end(
            await self._begin([self.statement], [job], prefix, events, None, Booked.EVENTS, None)
        )

    async def end(self, running: "Running") -> Measured:
        """Waits for the end of the interval; returns the figures of the load. Raises WrongBooks."""
        outcomes = [await worker.outcome() for worker in running.workers]
        cpu_s, resident_before, resident_after = await running.costs
        acknowledged = sum(outcome.acknowledged for outcome in outcomes)
        if running.booked is not None:
            is_stored = running.server is None or running.server.books_events
            stored = acknowledged if is_stored else 0
            await books.check_stored(self.connection, running.booked, running.prefix, stored)
            self.acknowledged[running.booked] += stored
        counts_from = running.interval.counts_from
        counts_to = min(
            [
                running.interval.ends_at,
                *(outcome.ran_dry_at for outcome in outcomes if outcome.ran_dry_at),
            ]
        )
        responses = [
            pair for outcome in outcomes for pair in zip(outcome.ends, outcome.took, strict=True)
        ]
        if not any(counts_from <= ended < counts_to for ended, _ in responses):
            # On a busy machine calls overrun the interval: their times still count, their costs do
            # not.
            counts_from, counts_to = (
                running.interval.begins_at,
                math.nextafter(max(ended for ended, _ in responses), math.inf),
            )
            cpu_s = dict.fromkeys(cpu_s)
        counted = [(ended, took) for ended, took in responses if counts_from <= ended < counts_to]
        return Measured(
            counts_to - counts_from,
            [took for _, took in counted],
            running.events,
            cpu_s,
            resident_before,
            resident_after,
            [ended for ended, _ in counted],
        )

    def _new_prefix(self) -> str:
        self.prefixes += 1
        return f"{books.EVENT_PREFIX}{self.prefixes}"

    async def _begin(
        self,
        workers: Sequence[Worker],
        jobs: Sequence[dict[str, Any]],
        prefix: str,
        events: int,
        server: Server | None,
        booked: Booked | None,
        seconds: float | None,
    ) -> "Running":
        async with asyncio.TaskGroup() as preparing:
            for worker, job in zip(workers, jobs, strict=True):
                preparing.create_task(worker.prepare(job))
        begins_at = time.monotonic() + LEAD_SECONDS
        counts_from = begins_at + self.sizes.warm_up_seconds
        interval = Interval(
            begins_at,
            counts_from,
            counts_from + (self.sizes.slice_seconds if seconds is None else seconds),
        )
        for worker in workers:
            worker.begin(interval)
        costs = asyncio.create_task(self._costs(interval, workers, server))
        return Running(workers, interval, prefix, events, server, booked, costs)

    async def _costs(
        self, interval: Interval, workers: Sequence[Worker], server: Server | None
    ) -> tuple[dict[str, float | None], int | None, int | None]:
        """CPU of all sides in the interval, and the server's memory before and after."""
        whose = {
            "server": [] if server is None else [server.pid],
            "database": [self.cluster.pid],
            "load": [worker.pid for worker in workers],
        }

        def spent() -> dict[str, float | None]:
            return {name: _sum([cpu_seconds(pid) for pid in pids]) for name, pids in whose.items()}

        def resident() -> int | None:
            return None if server is None else resident_bytes(server.pid)

        await asyncio.sleep(interval.counts_from - time.monotonic())
        before, resident_before = spent(), resident()
        await asyncio.sleep(interval.ends_at - time.monotonic())
        after = spent()
        cpu = {name: _difference(after[name], before[name]) for name in whose}
        return cpu, resident_before, resident()


@dataclass(frozen=True, slots=True)
class Running:
    """Load under way."""

    workers: Sequence[Worker]
    interval: Interval
    prefix: str
    events: int
    server: Server | None
    # What its method books, on a server that does.
    booked: Booked | None
    costs: asyncio.Task[tuple[dict[str, float | None], int | None, int | None]]


Measure = Callable[[], Awaitable[Measured]]


async def interleaved(
    rounds: int, limits: Sequence[Measure], measure: Measure
) -> tuple[list[Measured], Measured]:
    """Limits and measure in turn, limits first and last: so the drift of a machine cancels out."""
    of_limits: list[list[Measured]] = [[] for _ in limits]
    measured: list[Measured] = []
    for turn in range(rounds + 1):
        for place, limit in enumerate(limits):
            of_limits[place].append(await limit())
        if turn < rounds:
            measured.append(await measure())
    return [Measured.together(slices) for slices in of_limits], Measured.together(measured)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
