"""Offers a server ten times what it can take; reports bookings, refusals, memory and health checks.

Prints a table, writes `.bench/overload.json`, and exits with 1 if an expectation is not met.
`make overload` runs it.
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
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table

from ledger.cli.serve.ready_line import READY_PREFIX
from ledger.infrastructure.postgres.embedded import EmbeddedPostgres
from ledger.infrastructure.postgres.schema.migrations import create_database, migrate
from ledger.infrastructure.postgres.sessions.engine import APPLICATION_ROLE
from scripts.bench.process_costs import resident_bytes
from scripts.bench.servers import running
from scripts.overload.callers import (
    ENOUGH_OPEN,
    HELD_BACK,
    OK,
    QUEUE_FULL,
    ROOT,
    SERVICE,
    Events,
    Manners,
    Plan,
    Results,
    call_all,
    call_in_processes,
)

RESULTS = ROOT / ".bench" / "overload.json"
DATABASE = "overload"
HEALTH_SECONDS = 0.1
HEALTH_TIMEOUT_SECONDS = 5.0
SAMPLE_SECONDS = 0.1
# What is expected. The first is an aim; the service promises the others.
GOODPUT_RATIO_MIN = 0.8
HEALTH_FAILURES_MAX = 0
RECOVERY_SECONDS_MAX = 5.0
# How long the short form waits: it shows that everything works, on a machine that may be slow.
PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class Watched:
    """The server under load as seen from outside: samples of memory, and health checks."""

    rss_mib: list[float] = field(default_factory=list)
    health_seconds: list[float] = field(default_factory=list)
    health_failures: list[str] = field(default_factory=list)


def rss_mib(pid: int) -> float:
    """The resident memory of a process and its children."""
    size_bytes = resident_bytes(pid)
    if not size_bytes:
        raise RuntimeError("the server is gone, or this system has no /proc")
    return size_bytes / 2**20


async def watch(address: str, pid: int, watched: Watched, health_timeout_seconds: float) -> None:
    """Checks the health again and again, on separate connections, and samples the memory."""

    async def memory() -> None:
        while True:
            watched.rss_mib.append(rss_mib(pid))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def health(service: str) -> None:
        async with aio.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while True:
                began = time.monotonic()
                try:
                    response = await stub.Check(
                        health_pb2.HealthCheckRequest(service=service),
                        timeout=health_timeout_seconds,
                    )
                    if response.status != health_pb2.HealthCheckResponse.SERVING:
                        watched.health_failures.append(f"{service!r}: {response.status}")
                except aio.AioRpcError as error:
                    watched.health_failures.append(f"{service!r}: {error.code().name}")
                watched.health_seconds.append(time.monotonic() - began)
                await asyncio.sleep(HEALTH_SECONDS)

    await asyncio.gather(memory(), health(""), health(SERVICE))


@contextmanager
def serving(
    postgres: EmbeddedPostgres, log: Path, settings: dict[str, str]
) -> Iterator[tuple[str, int]]:
    """A server process: its address and its process id."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")} | {
        "LEDGER_DATABASE_URL": postgres.url(user=APPLICATION_ROLE, database=DATABASE),
        "LEDGER_GRPC_ADDRESS": "127.0.0.1:0",
        **settings,
    }
    # In a directory without a `.env`, which would change what is measured.
    command = [sys.executable, "-m", "ledger", "serve"]
    with (
        log.open("w") as stderr,
        running(command, READY_PREFIX, env, log.parent, stderr=stderr) as address_and_pid,
    ):
        yield address_and_pid


def rate_of(results: list[Results]) -> float:
    """Events booked a second, from the first to the last."""
    booked_at = sorted(at for some in results for at in some.booked_at)
    return (len(booked_at) - 1) / (booked_at[-1] - booked_at[0]) if len(booked_at) > 1 else 0.0


async def peak(
    address: str, numbers: Iterator[int], arguments: argparse.Namespace
) -> tuple[float, list[Results], list[int]]:
    """What the server books a second when it refuses nothing; the results, and their numbers."""
    chosen = [next(numbers) for _ in range(arguments.processes)]
    results = await call_in_processes(
        [
            Plan(
                address,
                number,
                arguments.connections,
                arguments.peak_seconds,
                0,
                arguments.peak_open // arguments.connections,
                30,
            )
            for number in chosen
        ]
    )
    return rate_of(results), results, chosen


async def recovery_seconds(address: str, number: int) -> float | None:
    """Seconds until a call succeeds; None if none does."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_SECONDS:
        results = await call_all(Plan(address, number, 1, 0.05, 0, 1, 1))
        if results.outcomes[OK]:
            return time.monotonic() - began
    return None


async def lost_events(postgres: EmbeddedPostgres, booked: list[str]) -> tuple[int, int]:
    """How many events are stored, and how many acknowledged ones are not."""
    url = postgres.url(user=postgres.superuser, database=DATABASE).replace(
        "postgresql+asyncpg", "postgresql"
    )
    connection = await asyncpg.connect(url)
    try:
        stored = {
            event_id
            for (event_id,) in await connection.fetch("SELECT event_id FROM processor_events")
        }
    finally:
        await connection.close()
    return len(stored), len(set(booked) - stored)


async def measure(
    postgres: EmbeddedPostgres, address: str, pid: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measures the peak, the overload, the recovery, and the peak again."""
    numbers = iter(range(100))
    # The first calls open connections and register restaurants.
    warm = await peak(
        address, numbers, argparse.Namespace(**{**vars(arguments), "peak_seconds": 1.0})
    )
    before = await peak(address, numbers, arguments)
    watched = Watched()
    idle_rss_mib = rss_mib(pid)
    watching = asyncio.create_task(watch(address, pid, watched, arguments.health_timeout))
    offered_rate = arguments.factor * before[0]
    chosen = [next(numbers) for _ in range(arguments.processes)]
    try:
        results = await call_in_processes(
            [
                Plan(
                    address,
                    number,
                    arguments.connections,
                    arguments.seconds,
                    offered_rate / arguments.processes,
                    arguments.open_max,
                    arguments.deadline,
                    Manners(arguments.manners),
                    arguments.patience,
                )
                for number in chosen
            ]
        )
        recovery = await recovery_seconds(address, next(numbers))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    after = await peak(address, numbers, arguments)
    outcomes = sum((some.outcomes for some in results), Counter())
    latencies = sorted(latency for some in results for latency in some.latencies)
    booked = [
        Events(number).event_id(event)
        for some, numbered in (
            (warm[1], warm[2]),
            (before[1], before[2]),
            (results, chosen),
            (after[1], after[2]),
        )
        for one, number in zip(some, numbered, strict=True)
        for event in one.booked
    ]
    stored, lost = await lost_events(postgres, booked)
    seconds = max(some.seconds for some in results)
    # The last seconds do not count: no new calls come then.
    booked_at = sorted(at for some in results for at in some.booked_at)
    goodput = sum(at - booked_at[0] <= seconds for at in booked_at) / seconds
    health = sorted(watched.health_seconds)
    return {
        "peak_before": before[0],
        "peak_after": after[0],
        "manners": arguments.manners,
        "offered_per_second": sum(some.offered for some in results) / seconds,
        "factor": sum(some.offered for some in results) / seconds / before[0],
        "sent_per_second": sum(some.sent for some in results) / seconds,
        "callers_cores": sum(some.processor_seconds for some in results) / seconds,
        "goodput_per_second": goodput,
        "goodput_ratio": goodput / ((before[0] + after[0]) / 2),
        "refused_streams": sum(some.refused_streams for some in results),
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


EXPECTED_OUTCOMES = {OK, QUEUE_FULL, HELD_BACK, ENOUGH_OPEN}
EXPECTED_OUTCOMES |= {
    "DEADLINE_EXCEEDED answered",
    "DEADLINE_EXCEEDED unanswered",
    "DEADLINE_EXCEEDED unsent",
}


def unmet_expectations(result: dict[str, Any], *, is_short: bool) -> list[str]:
    """A sentence for each; the short form expects nothing that depends on speed."""
    found = []
    if result["goodput_ratio"] < GOODPUT_RATIO_MIN and not is_short:
        found.append(
            f"goodput fell to {result['goodput_ratio']:.0%} of the peak;"
            f" {GOODPUT_RATIO_MIN:.0%} is wanted"
        )
    if unexpected := {
        name: n for name, n in result["outcomes"].items() if n and name not in EXPECTED_OUTCOMES
    }:
        found.append(f"unexpected outcomes: {unexpected}")
    if len(result["health_failures"]) > HEALTH_FAILURES_MAX:
        found.append(f"health checks failed: {Counter(result['health_failures'])}")
    if (recovery := result["recovery_seconds"]) is None:
        found.append(f"no call succeeded for {PATIENCE_SECONDS:.0f} s afterwards")
    elif recovery > RECOVERY_SECONDS_MAX and not is_short:
        found.append(f"recovery took {recovery:.1f} s")
    if result["lost"]:
        found.append(f"{result['lost']} acknowledged events are not stored")
    if result["audit"]:
        found.append("the audit found errors")
    return found


def show(result: dict[str, Any]) -> None:
    """Prints the figures as a table."""
    table = Table("figure", "value")
    for name, value in result.items():
        table.add_row(name, f"{value:,.2f}" if isinstance(value, float) else str(value))
    Console(width=130).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--short",
        action="store_true",
        help="a few seconds with a small queue, to see that it works",
    )
    parser.add_argument(
        "--seconds", type=float, default=None, help="how long the overload lasts (60)"
    )
    parser.add_argument(
        "--factor", type=float, default=10.0, help="how many times the peak is offered (10)"
    )
    parser.add_argument(
        "--deadline", type=float, default=5.0, help="the deadline of a call, in seconds (5)"
    )
    parser.add_argument(
        "--manners",
        choices=list(Manners),
        default=Manners.CONSIDERATE,
        help="the manners of the callers (considerate)",
    )
    parser.add_argument("--processes", type=int, default=2, help="processes of callers (2)")
    parser.add_argument(
        "--connections", type=int, default=32, help="connections of each process (32)"
    )
    parser.add_argument(
        "--open-max",
        type=int,
        default=100,
        help="calls that a connection has open at most (100); queueing callers ignore it",
    )
    parser.add_argument(
        "--peak-open",
        type=int,
        default=128,
        help="calls that a process has open while the peak is measured (128)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="where the figures go as JSON"
    )
    arguments = parser.parse_args()
    settings = dict(item.split("=", 1) for item in arguments.set)
    if arguments.short:
        # The queue holds the calls of the peak and one more, so that a machine with one slow core
        # refuses some, too: six calls come while one is being booked.
        arguments.connections, arguments.peak_open, arguments.peak_seconds = 2, 2, 1.5
        queue_calls = arguments.peak_open * arguments.processes + 1
        settings = {"LEDGER_INGEST_QUEUE_CALLS": str(queue_calls)} | settings
    else:
        arguments.peak_seconds = 8.0
    arguments.seconds = arguments.seconds or (4.0 if arguments.short else 60.0)
    # Callers that queue never see a refusal.
    is_patient = arguments.short and arguments.manners != Manners.QUEUEING
    arguments.patience = PATIENCE_SECONDS if is_patient else 0.0
    arguments.health_timeout = PATIENCE_SECONDS if arguments.short else HEALTH_TIMEOUT_SECONDS
    folder = Path(tempfile.mkdtemp(prefix="ledger-overload-"))
    folder.chmod(0o755)
    log = folder / "server.log"
    try:
        with EmbeddedPostgres.start(folder / "postgres") as postgres:
            asyncio.run(
                create_database(
                    postgres.url(user=postgres.superuser, database="postgres"), DATABASE
                )
            )
            migrate(postgres.url(user=postgres.superuser, database=DATABASE))
            with serving(postgres, log, settings) as (address, pid):
                result = asyncio.run(measure(postgres, address, pid, arguments))
            environment = {
                "LEDGER_DATABASE_URL": postgres.url(user=postgres.superuser, database=DATABASE)
            }
            audit = subprocess.run(
                [sys.executable, "-m", "ledger", "verify"],
                env={**os.environ, **environment},
                capture_output=True,
            )
            result |= {"audit": audit.returncode, "log_lines": log.read_text().count("\n")}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result["disappointments"] = unmet_expectations(result, is_short=arguments.short)
    arguments.results.parent.mkdir(exist_ok=True)
    arguments.results.write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    sys.exit(1 if result["disappointments"] else 0)


if __name__ == "__main__":
    main()
