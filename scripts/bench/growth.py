"""How cost grows: each series varies one number and keeps the others."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from fnmatch import fnmatch

from scripts.bench import books, report
from scripts.bench.bench import Bench, Load
from scripts.bench.payout_rows import run_payouts
from scripts.bench.plot import Series, svg
from scripts.bench.rows import (
    BALANCE,
    SLOW_SECONDS,
    WORKER_CHANNELS,
    load_balances,
    long_account,
    read_until_fast,
)
from scripts.bench.servers import serving, workers_can_be_set

RESTAURANTS = {1_000: "PEN", 10_000: "USD", 100_000: "EUR"}
ENTRIES = (100, 1_000, 10_000, 100_000, 1_000_000)
CALLERS = (1, 4, 16, 64, 256)
WORKERS = (1, 2, 3, 4)
CALLS_PER_SECOND = "calls/s"
# Reads no slower than this do not get faster.
FAST_SECONDS = 0.002


async def restaurants(bench: Bench) -> list[Series]:
    """Payout runs over more restaurants, and events spread over them."""
    payouts, calls = [], []
    for number, currency in RESTAURANTS.items():
        await books.load_restaurants(bench.connection, currency, number, entries=True)
        await bench.connection.execute("CHECKPOINT")
        paid = await run_payouts(bench.connection, bench.service.address, currency, number)
        payouts.append((number, number / paid.seconds))
        load = Load("IngestEvent", 64, currency=currency, restaurants=number)
        calls.append((number, (await bench.run(load, bench.service, bench.sizes.seconds)).rate))
    return [
        Series("Payout run", "restaurants", "payouts/s", payouts),
        Series(
            "IngestEvent, 64 callers", "restaurants the events are about", CALLS_PER_SECOND, calls
        ),
    ]


async def entries(bench: Bench) -> list[Series]:
    """One caller that reads the balance of longer and longer accounts."""
    points = []
    for number in ENTRIES:
        load = await long_account(bench, number)
        took = await read_until_fast(bench, load, FAST_SECONDS)
        slow = took > SLOW_SECONDS
        points.append(
            (number, took * 1000 if slow else (await bench.run(load, bench.service)).p50_ms)
        )
    return [Series("GetBalance p50, one caller", "entries of the account", "ms", points)]


async def callers(bench: Bench) -> list[Series]:
    """More and more callers at once."""
    await load_balances(bench)
    found: list[Series] = []
    for method, load in {"IngestEvent": Load("IngestEvent", 1), "GetBalance": BALANCE}.items():
        measured = {
            number: await bench.run(load.by(number), bench.service, bench.sizes.seconds)
            for number in CALLERS
        }
        found += [
            Series(
                method,
                "callers",
                CALLS_PER_SECOND,
                [(number, part.rate) for number, part in measured.items()],
            ),
            Series(
                f"{method} p50",
                "callers",
                "ms",
                [(number, part.p50_ms) for number, part in measured.items()],
            ),
        ]
    return found


async def workers(bench: Bench) -> list[Series]:
    """More and more server processes on one database."""
    if not workers_can_be_set():
        print("workers: left out, this version has no LEDGER_WORKERS")
        return []
    points = []
    for number in WORKERS:
        with serving(bench.cluster, {"LEDGER_WORKERS": str(number)}) as server:
            load = Load("IngestEvent", 64, channels=WORKER_CHANNELS)
            points.append((number, (await bench.run(load, server, bench.sizes.seconds)).rate))
    return [Series("IngestEvent, 64 callers", "server processes", CALLS_PER_SECOND, points)]


# By the names for --only.
SERIES: dict[str, Callable[[Bench], Awaitable[list[Series]]]] = {
    "restaurants": restaurants,
    "entries": entries,
    "callers": callers,
    "workers": workers,
}


async def measure(bench: Bench, facts: dict[str, str], only: str) -> None:
    """Measures the series that `only` matches; writes them as JSON and as curves."""
    found: list[Series] = []
    for name, series in SERIES.items():
        if fnmatch(name, only):
            for curve in await series(bench):
                found.append(curve)
                points = ", ".join(f"{x:,}: {y:,.3f}" for x, y in curve.points)
                print(f"{curve.name} ({curve.unit}) by {curve.x_label}: {points}", flush=True)
    await books.check_entries(bench.connection, bench.acknowledged)
    path = report.write(
        "growth.json", {"facts": facts, "series": [asdict(curve) for curve in found]}
    )
    if found:
        path.with_suffix(".svg").write_text(svg(found), encoding="utf-8")
    print(f"written to {path} and {path.with_suffix('.svg').name}")
