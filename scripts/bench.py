"""Measures the service on a PostgreSQL of its own with durable commits, each figure beside its limit of the same run.

Prints a table and writes `.bench/latest.json`. Run by `make bench`; `make bench-short` only shows that it works.
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from google.type import date_pb2
from grpc import aio
from rich.console import Console
from rich.table import Table

from ledger.infrastructure.postgres.embedded import EmbeddedPostgres
from ledger.infrastructure.postgres.engine import APPLICATION_ROLE
from ledger.infrastructure.postgres.migrations import create_database, migrate
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".bench" / "latest.json"
DATABASE = "bench"
CALLERS = 16
READY_PREFIX = "ledger serves gRPC on "
POLL_SECONDS = 0.005
TIMEOUT_SECONDS = 600
# As somebody would who runs 100,000 restaurants: the entries that a run reads fit into memory. Durable, by the server's defaults.
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "4GB"}

# 20 entries a restaurant: nine matured charges with their fees, a refund, an adjustment. The events are left out: no payout reads
# them.
LOAD = (
    "INSERT INTO restaurants (restaurant_id) SELECT $1::text || '_' || n FROM generate_series(1, $2::integer) AS n",
    """INSERT INTO balance_accounts (restaurant_id, currency)
       SELECT $1::text || '_' || n, $1 FROM generate_series(1, $2::integer) AS n""",
    """INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type, debit_account, credit_account,
                                   amount_minor, available_at, occurred_at, event_id)
       SELECT a.balance_account_id, gen_random_uuid(), 1, e.entry_type, e.debit_account, e.credit_account, e.amount_minor,
              CASE WHEN e.entry_type IN ('CHARGE', 'FEE') THEN now() - interval '3 days' END, now() - interval '10 days',
              a.restaurant_id || '_' || n
       FROM balance_accounts AS a
       CROSS JOIN LATERAL (
         SELECT n, 'CHARGE', 'processor_clearing', 'restaurant_payable', 1000 + n FROM generate_series(1, 9) AS n
         UNION ALL SELECT n, 'FEE', 'restaurant_payable', 'platform_fees', 50 FROM generate_series(1, 9) AS n
         UNION ALL SELECT 10, 'REFUND', 'restaurant_payable', 'processor_clearing', 500
         UNION ALL SELECT 11, 'ADJUSTMENT_CREDIT', 'adjustments', 'restaurant_payable', 70
       ) AS e (n, entry_type, debit_account, credit_account, amount_minor)
       WHERE a.currency = $1 AND $2::integer > 0
       ORDER BY a.balance_account_id""",
)


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, what it is measured against, and the latencies behind it where there are any."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    ratio: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    restaurants: tuple[int, int]
    seconds: float


FULL = Sizes((10_000, 100_000), 5.0)
SHORT = Sizes((500, 2_000), 1.0)


def row(name: str, value: float, unit: str, limit: float | None = None, latencies: list[float] | None = None) -> Row:
    """A row with its ratio and percentiles; `latencies` in seconds."""
    cuts = statistics.quantiles(latencies, n=100) if latencies and len(latencies) > 1 else None
    return Row(
        name,
        round(value, 1),
        unit,
        None if limit is None else round(limit, 1),
        round(value / limit, 3) if limit else None,
        round(cuts[49] * 1000, 3) if cuts else None,
        round(cuts[98] * 1000, 3) if cuts else None,
    )


async def connect(postgres: EmbeddedPostgres) -> Any:
    """A bare connection as superuser."""
    url = postgres.url(user=postgres.superuser, database=DATABASE)
    return await asyncpg.connect(url.replace("postgresql+asyncpg", "postgresql"), command_timeout=TIMEOUT_SECONDS)


async def load(connection: Any, currency: str, restaurants: int) -> None:
    """Registers restaurants with 20 entries each, in a currency of their own."""
    for statement in LOAD:
        await connection.execute(statement, currency, restaurants)


async def durable_commits(connection: Any, seconds: float) -> tuple[float, list[float]]:
    """How often a second one session can store one row durably: the limit of whatever commits one thing at a time."""
    await connection.execute("CREATE TABLE IF NOT EXISTS bench_commits (n bigint)")
    insert = await connection.prepare("INSERT INTO bench_commits VALUES ($1)")
    latencies: list[float] = []
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        at = time.monotonic()
        await insert.fetch(1)
        latencies.append(time.monotonic() - at)
    return len(latencies) / (time.monotonic() - began), latencies


async def run_payouts(connection: Any, address: str, currency: str, restaurants: int) -> tuple[float, float, float]:
    """Pays all restaurants of a currency; when the call was made, when it was answered, and when the run had ended."""
    day = datetime.now(UTC).date()
    request = ledger_pb2.RunPayoutsRequest(
        currency=currency, as_of=date_pb2.Date(year=day.year, month=day.month, day=day.day)
    )  # fmt: skip
    state = await connection.prepare("SELECT state FROM payout_runs WHERE payout_run_id = $1::text::uuid")
    async with aio.insecure_channel(address) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        called_at = time.monotonic()
        run = (await stub.RunPayouts(request)).payout_run
        answered_at = time.monotonic()
        # Asked of the database: the service would count the items of the run each time.
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                if await state.fetchval(run.payout_run_id) == "SUCCEEDED":
                    break
                await asyncio.sleep(POLL_SECONDS)
        ended_at = time.monotonic()
        told = (await stub.GetPayoutRun(ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id))).payout_run
    if told.payouts_created != restaurants:
        raise RuntimeError(f"{told.payouts_created} of {restaurants} restaurants were paid")
    return called_at, answered_at, ended_at


async def ingest(address: str, seconds: float) -> None:
    """Calls IngestEvent from 16 callers and prints when each call ended and how long it took, as JSON."""
    calls: list[tuple[float, float]] = []
    prefix = f"bench.{os.getpid()}.{time.time_ns()}"
    occurred_at = datetime.now(UTC) - timedelta(days=1)
    ends_at = time.monotonic() + seconds

    async def caller(number: int, stub: Any) -> None:
        place = 0
        while (began := time.monotonic()) < ends_at:
            place += 1
            event = ledger_pb2.ProcessorEvent(
                event_id=f"{prefix}.{number}.{place}",
                type=ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
                restaurant_id=f"ingest_{(number * 131 + place) % 1000}",
                currency="PEN",
                amount_minor=1_000,
                fee_minor=50,
            )
            event.occurred_at.FromDatetime(occurred_at)
            await stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
            ended = time.monotonic()
            calls.append((ended, ended - began))

    async with aio.insecure_channel(address) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        await asyncio.gather(*(caller(number, stub) for number in range(CALLERS)))
    json.dump(calls, sys.stdout)


async def start_ingest(address: str, seconds: float) -> asyncio.subprocess.Process:
    """The callers of IngestEvent, as a process of their own."""
    return await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--ingest", address, "--seconds", str(seconds), stdout=subprocess.PIPE
    )


async def calls_of(process: asyncio.subprocess.Process) -> list[tuple[float, float]]:
    """What the callers measured."""
    stdout, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("the callers of IngestEvent failed")
    return [(ended, took) for ended, took in json.loads(stdout)]


def rate_between(calls: list[tuple[float, float]], since: float, until: float) -> tuple[float, list[float]]:
    """Calls a second that ended in an interval, and their latencies."""
    latencies = [took for ended, took in calls if since <= ended < until]
    return len(latencies) / (until - since), latencies


@contextmanager
def serving(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A server as a process of its own; its address."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")} | {
        "LEDGER_DATABASE_URL": postgres.url(user=APPLICATION_ROLE, database=DATABASE),
        "LEDGER_GRPC_ADDRESS": "127.0.0.1:0",
        "LEDGER_LOG_LEVEL": "warning",
    }
    server = subprocess.Popen([sys.executable, "-m", "ledger", "serve"], env=env, stdout=subprocess.PIPE, text=True)
    try:
        if server.stdout is None:
            raise RuntimeError("standard output is not piped")
        first_line = server.stdout.readline()
        if not first_line.startswith(READY_PREFIX):
            raise RuntimeError("the server did not start")
        yield first_line.strip().removeprefix(READY_PREFIX)
    finally:
        server.terminate()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


async def measure(postgres: EmbeddedPostgres, address: str, sizes: Sizes) -> list[Row]:
    """All figures, in the order of the table."""
    connection = await connect(postgres)
    few, many = sizes.restaurants
    try:
        for currency, restaurants in (("PEN", few), ("USD", many), ("EUR", few)):
            await load(connection, currency, restaurants)
        await connection.execute("CHECKPOINT")
        commits, latencies = await durable_commits(connection, sizes.seconds)
        rows = [row("bare single-row commit", commits, "commits/s", latencies=latencies)]
        rates: dict[int, float] = {}
        for currency, restaurants in (("PEN", few), ("USD", many)):
            called_at, answered_at, ended_at = await run_payouts(connection, address, currency, restaurants)
            rates[restaurants] = restaurants / (ended_at - called_at)
            rows.append(row(f"payout run of {restaurants:,}, call to end", rates[restaurants], "payouts/s", commits))
            rows.append(
                row(f"payout run of {restaurants:,}, worker alone", restaurants / (ended_at - answered_at), "payouts/s", commits)
            )
        rows.append(row(f"payout run of {many:,} against {few:,}", rates[many], "payouts/s", rates[few]))

        # The first calls register the restaurants.
        await calls_of(await start_ingest(address, 1.0))
        calls = await calls_of(await start_ingest(address, sizes.seconds))
        ended = [at for at, _ in calls]
        alone, latencies = rate_between(calls, min(ended), max(ended))
        rows.append(row(f"IngestEvent, {CALLERS} callers, alone", alone, "calls/s", latencies=latencies))
        process = await start_ingest(address, sizes.seconds + 2 * few / 5_000)
        # The callers need a moment to start.
        stored = await connection.fetchval("SELECT count(*) FROM processor_events")
        while True:
            if await connection.fetchval("SELECT count(*) FROM processor_events") > stored + 100:
                break
        called_at, _, ended_at = await run_payouts(connection, address, "EUR", few)
        during, latencies = rate_between(await calls_of(process), called_at, ended_at)
        rows.append(row(f"IngestEvent, while {few:,} are paid", during, "calls/s", alone, latencies))
        rows.append(
            row(f"payout run of {few:,} beside IngestEvent", few / (ended_at - called_at), "payouts/s", rates[few])
        )  # fmt: skip
    finally:
        await connection.close()
    return rows


def show(rows: list[Row]) -> None:
    """Prints the table."""
    table = Table("measure", "value", "unit", "limit", "ratio", "p50 ms", "p99 ms")
    for figure in rows:
        measured = ("" if cell is None else f"{cell:,}" for cell in (figure.limit, figure.ratio, figure.p50_ms, figure.p99_ms))
        table.add_row(figure.name, f"{figure.value:,}", figure.unit, *measured)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--ingest", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=1.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ingest:
        asyncio.run(ingest(arguments.ingest, arguments.seconds))
        return
    data_dir = Path(tempfile.mkdtemp(prefix="ledger-bench-"))
    # As root the server runs as another account, which has to pass through.
    data_dir.chmod(0o755)
    try:
        with EmbeddedPostgres.start(data_dir, parameters=SETTINGS) as postgres:
            asyncio.run(create_database(postgres.url(user=postgres.superuser, database="postgres"), DATABASE))
            migrate(postgres.url(user=postgres.superuser, database=DATABASE))
            with serving(postgres) as address:
                rows = asyncio.run(measure(postgres, address, SHORT if arguments.short else FULL))
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([asdict(figure) for figure in rows], indent=2) + "\n", encoding="utf-8")
    show(rows)


if __name__ == "__main__":
    main()
