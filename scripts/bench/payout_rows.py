"""The rows of payout runs, against bare commits and against each other."""

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from google.type import date_pb2
from grpc import aio

from ledger.v1 import ledger_pb2, ledger_pb2_grpc
from scripts.bench import books
from scripts.bench.bench import Bench, Load
from scripts.bench.process_costs import cpu_seconds
from scripts.bench.report import row, with_costs
from scripts.bench.rows import Rows
from scripts.bench.servers import serving

CALLERS = 16
POLL_SECONDS = 0.005
TIMEOUT_SECONDS = 600
# How many times as long a run may take beside calls; from it follows how long to make calls.
SLOWER_MAX = 4

SEALED_SECONDS_MAX = 300

# Whether what was loaded last has yet to be sealed.
SELECT_IS_UNSEALED = """
SELECT EXISTS (
  SELECT FROM ledger_entries
  WHERE balance_account_id = (SELECT max(balance_account_id) FROM balance_accounts)
    AND recorded_txid::text::bigint
        >= COALESCE((SELECT end_txid FROM ledger_seals ORDER BY sequence DESC LIMIT 1), 0)
)
"""
SELECT_PAGES_READ = (
    "SELECT heap_blks_read FROM pg_statio_user_tables WHERE relname = 'ledger_entries'"
)


async def durable_commits(connection: Any, seconds: float) -> tuple[float, list[float]]:
    """Durable commits of one row a second in one session: the limit of one-by-one work."""
    await connection.execute("CREATE TABLE IF NOT EXISTS bench_commits (n bigint)")
    insert = await connection.prepare("INSERT INTO bench_commits VALUES ($1)")
    latencies: list[float] = []
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        at = time.monotonic()
        await insert.fetch(1)
        latencies.append(time.monotonic() - at)
    return len(latencies) / (time.monotonic() - began), latencies


@dataclass(frozen=True, slots=True)
class Paid:
    """A run that has ended; times by the clock of this process."""

    payout_run_id: str
    called_at: float
    responded_at: float
    ended_at: float

    @property
    def seconds(self) -> float:
        return self.ended_at - self.called_at


async def run_payouts(
    connection: Any, address: str, currency: str, restaurants: int, request_id: str = ""
) -> Paid:
    """Pays all restaurants of a currency. Raises WrongBooks unless each was paid all it has."""
    day = datetime.now(UTC).date()
    request = ledger_pb2.RunPayoutsRequest(
        currency=currency,
        as_of=date_pb2.Date(year=day.year, month=day.month, day=day.day),
        request_id=request_id,
    )
    state = await connection.prepare(
        "SELECT state FROM payout_runs WHERE payout_run_id = $1::text::uuid"
    )
    async with aio.insecure_channel(address) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        called_at = time.monotonic()
        run = (await stub.RunPayouts(request)).payout_run
        responded_at = time.monotonic()
        # Asks the database: the service would count the run's items each time.
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                if await state.fetchval(run.payout_run_id) == "SUCCEEDED":
                    break
                await asyncio.sleep(POLL_SECONDS)
        ended_at = time.monotonic()
        paid = (
            await stub.GetPayoutRun(ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id))
        ).payout_run
    if (paid.payouts_created, paid.total_amount_minor) != (
        restaurants,
        restaurants * books.AVAILABLE_MINOR,
    ):
        raise books.WrongBooks(
            f"{paid.payouts_created} of {restaurants} restaurants were paid,"
            f" {paid.total_amount_minor} in all"
        )
    return Paid(run.payout_run_id, called_at, responded_at, ended_at)


async def payouts(bench: Bench) -> Rows:
    """Runs of two sizes, and one beside calls that ingest."""
    few, many = bench.sizes.payout_restaurants
    for currency, restaurants in (("PEN", few), ("USD", many), ("EUR", few)):
        await books.load_restaurants(bench.connection, currency, restaurants, entries=True)
    # The books are new: autovacuum and the server would otherwise do this beside the first run. To
    # seal them takes as much of the database as a run.
    await bench.connection.execute("VACUUM (ANALYZE)")
    async with asyncio.timeout(SEALED_SECONDS_MAX):
        while await bench.connection.fetchval(SELECT_IS_UNSEALED):  # noqa: ASYNC110  # elsewhere
            await asyncio.sleep(1)
    await bench.connection.execute("CHECKPOINT")
    commits, latencies = await durable_commits(bench.connection, bench.sizes.seconds)
    yield row("bare single-row commit", commits, "commits/s", latencies=latencies)
    rates: dict[int, float] = {}
    for currency, restaurants in (("PEN", few), ("USD", many)):
        paid = await run_payouts(bench.connection, bench.service.address, currency, restaurants)
        rates[restaurants] = restaurants / paid.seconds
        wanted = ">= 10,000/s" if restaurants == few else None
        yield row(
            f"payout run of {restaurants:,}, call to end",
            rates[restaurants],
            "payouts/s",
            commits,
            wanted=wanted,
        )
        yield row(
            f"payout run of {restaurants:,}, worker alone",
            restaurants / (paid.ended_at - paid.responded_at),
            "payouts/s",
            commits,
        )
    yield row(
        f"payout run of {many:,} against {few:,}",
        rates[many],
        "payouts/s",
        rates[few],
        wanted=">= 1.0",
    )

    load = Load("IngestEvent", CALLERS)
    ingesting_alone = await bench.run(load, bench.service, bench.sizes.seconds)
    running = await bench.begin(
        load, bench.service, bench.sizes.seconds + SLOWER_MAX * few / rates[few]
    )
    await asyncio.sleep(running.interval.counts_from - time.monotonic())
    paid = await run_payouts(bench.connection, bench.service.address, "EUR", few)
    measured = await bench.end(running)
    if paid.ended_at > running.interval.ends_at:
        yield (
            f"the payout run of {few:,} beside IngestEvent took longer than the calls beside it:"
            " the next rows are too good"
        )
    during = [
        took
        for ended, took in zip(measured.ends, measured.latencies, strict=True)
        if paid.called_at <= ended < paid.ended_at
    ]
    paying = row(
        f"IngestEvent, {CALLERS} callers, while {few:,} are paid",
        len(during) / paid.seconds,
        "calls/s",
        ingesting_alone.rate,
        during,
    )
    yield with_costs(paying, measured, ingesting_alone)
    yield row(
        f"payout run of {few:,} beside IngestEvent", few / paid.seconds, "payouts/s", rates[few]
    )


async def payouts_spread(bench: Bench) -> Rows:
    """Runs of two sizes in books whose entries are spread, with few shared buffers.

    The books of the larger run do not fit into them. The cluster is another one than for the other
    rows, and its server does not seal: the CPU is that of the runs.
    """
    few, many = bench.sizes.payout_restaurants
    rates: dict[int, float] = {}
    async with books.cluster(books.SMALL_BUFFERS) as cluster:
        with serving(cluster, {"LEDGER_SEAL_INTERVAL_SECONDS": "0"}) as service:
            connection = await cluster.connect()
            try:
                for currency, restaurants in (("PEN", few), ("USD", many)):
                    await books.load_restaurants(
                        connection, currency, restaurants, entries=True, spread=True
                    )
                    await connection.execute("VACUUM (ANALYZE)")
                    await connection.execute("CHECKPOINT")
                    pids = service.pid, cluster.pid
                    before = [cpu_seconds(pid) for pid in pids]
                    pages_before = await connection.fetchval(SELECT_PAGES_READ)
                    paid = await run_payouts(connection, service.address, currency, restaurants)
                    after = [cpu_seconds(pid) for pid in pids]
                    server_s, database_s = (
                        None
                        if one is None or other is None
                        else round(1000 * (other - one) / restaurants, 6)
                        for one, other in zip(before, after, strict=True)
                    )
                    pages = await connection.fetchval(SELECT_PAGES_READ) - pages_before
                    rates[restaurants] = restaurants / paid.seconds
                    figure = row(
                        f"payout run of {restaurants:,}, spread entries",
                        rates[restaurants],
                        "payouts/s",
                        note=f"{pages / restaurants:.1f} pages of entries a payout were not in the"
                        " shared buffers",
                    )
                    yield replace(figure, cpu_server_s=server_s, cpu_database_s=database_s)
            finally:
                await connection.close()
    yield row(
        f"payout run of {many:,} against {few:,}, spread entries",
        rates[many],
        "payouts/s",
        rates[few],
        wanted=">= 0.95",
    )
