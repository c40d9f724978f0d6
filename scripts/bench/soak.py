"""Mixed load for minutes, and how much the server's memory grows."""

import asyncio
import time
from dataclasses import asdict, dataclass

from grpc import aio

from ledger.v1 import ledger_pb2, ledger_pb2_grpc
from scripts.bench import books, load_generator, report
from scripts.bench.bench import Bench, Load, Worker
from scripts.bench.measured import MIB
from scripts.bench.payout_rows import run_payouts
from scripts.bench.process_costs import resident_bytes
from scripts.bench.rows import BALANCE, load_balances, streams_missing

MINUTES = 10.0
SAMPLE_SECONDS = 10.0
# After this the pools are full and every kind of call was made: later growth is a leak.
SETTLED_SECONDS = 60.0
GROWTH_PERCENT_WANTED = 5.0
PAYOUT_CURRENCY = "PEN"
PAYOUT_RESTAURANTS = 1_000
PAYOUT_SECONDS = 30.0
MIX = (
    Load("IngestEvent", 32),
    BALANCE.by(8),
    Load("ListEntries", 2),
    Load("BatchIngestEvents", 1, events=100, field="events"),
)
STREAM = Load("StreamEvents", 1, in_flight=100)


@dataclass(frozen=True, slots=True)
class Sample:
    """The server's resident memory at a number of seconds after the load began."""

    after_seconds: float
    resident_mib: float


def growth_percent(samples: list[Sample], settled_seconds: float) -> float:
    """Growth from the first sample after the server had settled to the last, in percent."""
    settled = next(sample for sample in samples if sample.after_seconds >= settled_seconds)
    return round((samples[-1].resident_mib / settled.resident_mib - 1) * 100, 2)


async def sample_memory(bench: Bench, seconds: float, every_seconds: float) -> list[Sample]:
    """Samples and prints the memory until the time is up."""
    began, samples = time.monotonic(), list[Sample]()
    while True:
        resident = resident_bytes(bench.service.pid)
        if resident is None:
            raise RuntimeError("this system has no /proc, which a soak needs")
        after = time.monotonic() - began
        samples.append(Sample(round(after, 1), round(resident / MIB, 2)))
        print(f"{after:6.0f} s  {resident / MIB:8.1f} MiB", flush=True)
        if after + every_seconds > seconds + 1:
            return samples
        await asyncio.sleep(every_seconds)


async def pay_repeatedly(bench: Bench, seconds: float, every_seconds: float) -> int:
    """Pays restaurants and books every payout as failed, in turn; returns how many payouts."""
    ends_at, runs = time.monotonic() + seconds, 0
    async with aio.insecure_channel(bench.service.address) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        while time.monotonic() < ends_at:
            paid = await run_payouts(
                bench.connection,
                bench.service.address,
                PAYOUT_CURRENCY,
                PAYOUT_RESTAURANTS,
                f"soak-{runs}",
            )
            runs += 1
            request = ledger_pb2.ListPayoutsRequest(
                payout_run_id=paid.payout_run_id, page_size=PAYOUT_RESTAURANTS
            )
            payouts = (await stub.ListPayouts(request)).payouts
            events = [failed(payout) for payout in payouts]
            results = (
                await stub.BatchIngestEvents(ledger_pb2.BatchIngestEventsRequest(events=events))
            ).results
            if any(result.status != ledger_pb2.INGEST_STATUS_CREATED for result in results):
                raise books.WrongBooks("the event that a payout failed was not booked")
            await asyncio.sleep(min(every_seconds, max(0.0, ends_at - time.monotonic())))
    return runs * PAYOUT_RESTAURANTS


def failed(payout: ledger_pb2.Payout) -> ledger_pb2.ProcessorEvent:
    """The event that reports that a payout has failed."""
    event = ledger_pb2.ProcessorEvent(
        event_id=f"soak.{payout.payout_id}",
        type=ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
        restaurant_id=payout.restaurant_id,
        currency=payout.currency,
        amount_minor=payout.amount_minor,
        payout_id=payout.payout_id,
    )
    event.occurred_at.GetCurrentTime()
    return event


async def measure(bench: Bench, facts: dict[str, str], minutes: float) -> None:
    """Makes the mixed load; prints the memory, and its growth after the server had settled."""
    seconds = minutes * 60
    settled_seconds = min(SETTLED_SECONDS, seconds / 2)
    every_seconds = min(SAMPLE_SECONDS, seconds / 6)
    await load_balances(bench)
    await books.load_restaurants(
        bench.connection, PAYOUT_CURRENCY, PAYOUT_RESTAURANTS, entries=True
    )
    loads = list(MIX)
    if (reason := await streams_missing(bench)) is None:
        loads.append(STREAM)
    else:
        print(f"StreamEvents: left out, {reason}")
    workers = [await Worker.start(load_generator.__name__) for _ in loads]
    try:
        running = [
            await bench.begin(load, bench.service, seconds, [worker])
            for load, worker in zip(loads, workers, strict=True)
        ]
        async with asyncio.TaskGroup() as beside:
            sampling = beside.create_task(sample_memory(bench, seconds, every_seconds))
            paying = beside.create_task(
                pay_repeatedly(bench, seconds, min(PAYOUT_SECONDS, seconds / 3))
            )
        measured = [await bench.end(part) for part in running]
    finally:
        for worker in workers:
            await worker.stop()
    await books.check_entries(bench.connection, bench.acknowledged)
    samples, growth = sampling.result(), growth_percent(sampling.result(), settled_seconds)
    rates = {load.method: round(part.rate, 1) for load, part in zip(loads, measured, strict=True)}
    content = {
        "facts": facts,
        "minutes": minutes,
        "growth_percent": growth,
        "growth_percent_wanted": GROWTH_PERCENT_WANTED,
        "rates": rates,
        "payouts": paying.result(),
        "samples": [asdict(sample) for sample in samples],
    }
    path = report.write("soak.json", content)
    shown = ", ".join(f"{method} {rate:,}/s" for method, rate in rates.items())
    print(f"{shown}, {paying.result():,} payouts")
    events = bench.acknowledged[books.Booked.EVENTS]
    print(f"all {events:,} acknowledged events are in the books with their entries")
    print(
        f"memory grew by {growth} % after the first {settled_seconds:.0f} s"
        f" (wanted: < {GROWTH_PERCENT_WANTED} %); {path}"
    )
