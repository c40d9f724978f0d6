"""The rows of gRPC calls: each measure and its limit."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from grpc import StatusCode, aio

from ledger.v1 import ledger_pb2, ledger_pb2_grpc
from scripts.bench import books
from scripts.bench.bench import (
    BALANCE_CURRENCY,
    INGEST_CURRENCY,
    RESTAURANTS,
    Bench,
    Load,
    interleaved,
)
from scripts.bench.measured import Measured
from scripts.bench.report import Row, load_row, p50_row, row
from scripts.bench.servers import serving, workers_can_be_set
from scripts.bench.wire import has_field, path_of, requests_of

BATCH_EVENTS = 1_000
BATCH_CALLERS = 4
# A connection for each process of gRPC's callers.
RAW_CHANNELS = 2
STREAMS = 4
STREAM_EVENTS_IN_FLIGHT = 2_000
CONNECTIONS = (1, 2, 3, 4)
LONG_CURRENCY = "MXN"
SHORT_ACCOUNT_ENTRIES = 100
SNAPSHOT_DEADLINE_SECONDS = 20.0
SNAPSHOT_POLL_SECONDS = 0.25
# Slower reads are measured once.
SLOW_SECONDS = 0.5
WORKERS = 2
# The kernel spreads connections at random: with this many each process gets some.
WORKER_CHANNELS = 8
WORKERS_CALLERS = (16, 64, 256)
BALANCE_ENTRIES = f", {books.ENTRIES_A_RESTAURANT} entries each"
BATCH = Load("BatchIngestEvents", BATCH_CALLERS, events=BATCH_EVENTS, field="events")
BALANCE = Load(
    "GetBalance",
    64,
    currency=BALANCE_CURRENCY,
    restaurants=RESTAURANTS,
    available_minor=books.AVAILABLE_MINOR,
)

Rows = AsyncIterator[Row | str]


async def against_empty(bench: Bench, load: Load) -> tuple[Measured, Measured]:
    """A load on the empty handler and on the service, in turn."""
    (limit,), measured = await interleaved(
        bench.sizes.rounds,
        [partial(bench.run, load, bench.empty)],
        partial(bench.run, load, bench.service),
    )
    return limit, measured


async def register_restaurants(bench: Bench) -> None:
    """Makes the load once, unmeasured: its first events register the restaurants."""
    await bench.run(Load("IngestEvent", 64), bench.service, bench.sizes.seconds / 4)


async def ingest(bench: Bench, callers: int, wanted: str | None) -> Row:
    limit, measured = await against_empty(bench, Load("IngestEvent", callers))
    return load_row(f"IngestEvent, {callers} callers", measured, "calls/s", limit, wanted=wanted)


async def ingest_64(bench: Bench) -> Rows:
    yield await ingest(bench, 64, ">= 0.8")


async def ingest_16(bench: Bench) -> Rows:
    yield await ingest(bench, 16, ">= 0.6")


async def ingest_256(bench: Bench) -> Rows:
    yield await ingest(bench, 256, None)


async def raw(bench: Bench, load: Load, wanted: str, entries: str = "") -> Row:
    """A load by the bench's own callers, on as many connections as gRPC's callers have."""
    cheap = replace(load, raw=True, channels=min(RAW_CHANNELS, load.callers))
    limit, measured = await against_empty(bench, cheap)
    callers = "one raw caller" if load.callers == 1 else f"{load.callers} raw callers"
    return load_row(f"{load.method}, {callers}{entries}", measured, "calls/s", limit, wanted=wanted)


async def ingest_64_raw(bench: Bench) -> Rows:
    yield await raw(bench, Load("IngestEvent", 64), ">= 0.85")


async def ingest_16_raw(bench: Bench) -> Rows:
    yield await raw(bench, Load("IngestEvent", 16), ">= 0.7")


async def ingest_alone_raw(bench: Bench) -> Rows:
    yield await alone_row(bench, "IngestEvent p50, one raw caller", "<= 1.3", raw=True)


async def balance_64_raw(bench: Bench) -> Rows:
    await load_balances(bench)
    yield await raw(bench, BALANCE, ">= 0.95", BALANCE_ENTRIES)


async def balance_16_raw(bench: Bench) -> Rows:
    await load_balances(bench)
    yield await raw(bench, BALANCE.by(16), ">= 0.95", BALANCE_ENTRIES)


async def ingest_workers(bench: Bench) -> Rows:
    """Two server processes against one, with the same callers on the same connections."""
    if not workers_can_be_set():
        yield "IngestEvent with several processes: left out, this version has no LEDGER_WORKERS"
        return
    load = Load("IngestEvent", 64, channels=WORKER_CHANNELS)
    with serving(bench.cluster, {"LEDGER_WORKERS": str(WORKERS)}) as several:
        (limit,), measured = await interleaved(
            bench.sizes.rounds,
            [partial(bench.run, load, bench.service)],
            partial(bench.run, load, several),
        )
    yield load_row(
        f"IngestEvent, 64 callers, {WORKERS} workers against 1", measured, "calls/s", limit
    )


async def ingest_workers_raw(bench: Bench) -> Rows:
    """The same by raw callers, few and many."""
    if not workers_can_be_set():
        yield "IngestEvent with several processes: left out, this version has no LEDGER_WORKERS"
        return
    with serving(bench.cluster, {"LEDGER_WORKERS": str(WORKERS)}) as several:
        for callers in WORKERS_CALLERS:
            load = Load("IngestEvent", callers, channels=WORKER_CHANNELS, raw=True)
            (limit,), measured = await interleaved(
                bench.sizes.rounds,
                [partial(bench.run, load, bench.service)],
                partial(bench.run, load, several),
            )
            figure = load_row(
                f"IngestEvent, {callers} raw callers, {WORKERS} workers against 1",
                measured,
                "calls/s",
                limit,
                wanted=">= 1.0",
            )
            database_s = limit.cpu_per_thousand("database")
            yield replace(figure, note=f"db with one worker: {database_s}")


async def batch(bench: Bench) -> Rows:
    """Against the SQL statement alone, on as many connections as make it fastest."""
    tried = {
        connections: await bench.run_statement(BATCH_EVENTS, connections)
        for connections in CONNECTIONS
    }
    best = max(tried, key=lambda connections: tried[connections].rate)
    (limit,), measured = await interleaved(
        bench.sizes.rounds,
        [partial(bench.run_statement, BATCH_EVENTS, best)],
        partial(bench.run, BATCH, bench.service),
    )
    rates = ", ".join(
        f"{connections}: {tried[connections].rate:,.0f}" for connections in CONNECTIONS
    )
    note = f"the statement alone by connections: {rates} events/s; {best} are the limit"
    yield load_row(
        f"BatchIngestEvents of {BATCH_EVENTS:,}, {BATCH_CALLERS} callers",
        measured,
        "events/s",
        limit,
        wanted=">= 0.8",
        note=note,
    )


async def stream(bench: Bench) -> Rows:
    """Against batches; one event a message, and many."""
    async for found in streams(bench, raw=False):
        yield found


async def stream_raw(bench: Bench) -> Rows:
    """The same by raw callers: gRPC's, in Python, cost more than the server does."""
    async for found in streams(bench, raw=True):
        yield found


async def streams(bench: Bench, *, raw: bool) -> Rows:
    if (reason := await streams_missing(bench)) is not None:
        yield f"StreamEvents: left out, {reason}"
        return
    one = Load(
        "StreamEvents",
        STREAMS,
        in_flight=STREAM_EVENTS_IN_FLIGHT,
        channels=RAW_CHANNELS if raw else 1,
        raw=raw,
    )
    loads = {"1 event a message": one}
    if has_field("StreamEventsRequest", "events"):
        loads["100 events a message"] = replace(
            one, events=100, field="events", in_flight=STREAM_EVENTS_IN_FLIGHT // 100
        )
    else:
        yield "StreamEvents, 100 events a message: left out, no StreamEventsRequest.events"
    for name, load in loads.items():
        (limit,), measured = await interleaved(
            bench.sizes.rounds,
            [partial(bench.run, BATCH, bench.service)],
            partial(bench.run, load, bench.service),
        )
        yield load_row(
            f"StreamEvents, {STREAMS} {'raw ' if raw else ''}streams, {name}",
            measured,
            "events/s",
            limit,
            wanted=">= 0.5",
        )


async def streams_missing(bench: Bench) -> str | None:
    """Why StreamEvents cannot be measured, from a call of it; None if it can."""
    event = ledger_pb2.ProcessorEvent(
        event_id=f"probe.{time.time_ns()}",
        type=ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
        restaurant_id=f"{INGEST_CURRENCY}_1",
        currency=INGEST_CURRENCY,
        amount_minor=1,
    )
    event.occurred_at.FromDatetime(datetime.now(UTC))
    async with aio.insecure_channel(bench.service.address) as channel:
        call = ledger_pb2_grpc.LedgerServiceStub(channel).StreamEvents(
            iter([ledger_pb2.StreamEventsRequest(event=event)])
        )
        try:
            async for _ in call:
                pass
        except aio.AioRpcError as error:
            if error.code() is StatusCode.UNIMPLEMENTED:
                return "the server returns UNIMPLEMENTED"
            raise
    return None


async def balance_64(bench: Bench) -> Rows:
    await load_balances(bench)
    limit, measured = await against_empty(bench, BALANCE)
    yield load_row(
        f"GetBalance, 64 callers{BALANCE_ENTRIES}", measured, "calls/s", limit, wanted=">= 0.8"
    )


async def load_balances(bench: Bench) -> None:
    """Registers the restaurants whose balances are read, once."""
    if BALANCE_CURRENCY not in bench.loaded:
        await books.load_restaurants(bench.connection, BALANCE_CURRENCY, RESTAURANTS, entries=True)
        await bench.connection.execute("ANALYZE")
        bench.loaded.add(BALANCE_CURRENCY)


async def long_account(bench: Bench, entries: int) -> Load:
    """One caller that reads the balance of an account with `entries` entries, which it makes."""
    restaurant_id = f"long_{entries}"
    if restaurant_id not in bench.loaded:
        await books.load_long_account(bench.connection, restaurant_id, LONG_CURRENCY, entries)
        # As autovacuum would have done by the time of a read.
        await bench.connection.execute("VACUUM (ANALYZE) ledger_entries")
        bench.loaded.add(restaurant_id)
    return Load(
        "GetBalance",
        1,
        currency=LONG_CURRENCY,
        restaurant=restaurant_id,
        available_minor=entries * books.LONG_ACCOUNT_ENTRY_MINOR,
    )


async def read_until_fast(bench: Bench, load: Load, fast_seconds: float) -> float:
    """Reads a balance until a snapshot makes it fast, or a deadline passes.

    Returns the latency of the last read in seconds, also if the service gave that read up.
    """
    job = asdict(load)
    request = requests_of(job).take(1)
    deadline = time.monotonic() + min(SNAPSHOT_DEADLINE_SECONDS, 10 * bench.sizes.seconds)
    async with aio.insecure_channel(bench.service.address) as channel:
        read: Any = channel.unary_unary(path_of(job))
        while True:
            began = time.monotonic()
            try:
                await read(request)
            except aio.AioRpcError as error:
                if error.code() is not StatusCode.UNAVAILABLE:
                    raise
            took = time.monotonic() - began
            if took <= fast_seconds or time.monotonic() > deadline:
                return took
            await asyncio.sleep(SNAPSHOT_POLL_SECONDS)


async def balance_of_long_account(bench: Bench) -> Rows:
    """The p50 of one caller: an account with very many entries against one with few."""
    few = await long_account(bench, SHORT_ACCOUNT_ENTRIES)
    many = await long_account(bench, bench.sizes.long_account_entries)
    yield await long_against_short(bench, few, many)


async def long_against_short(bench: Bench, few: Load, many: Load) -> Row:
    """The balance of an account with `long_account_entries` against one with a hundred."""
    first = await bench.run(few, bench.service)
    # Single reads are slower than consecutive ones; without a snapshot a hundred times as slow.
    fast_seconds = 5 * first.p50_ms / 1000
    took = await read_until_fast(bench, many, fast_seconds)
    entries = bench.sizes.long_account_entries
    name = f"{many.method} p50, {entries:,} entries against {SHORT_ACCOUNT_ENTRIES}"
    note = (
        None
        if took <= fast_seconds
        else "reads did not become fast before the deadline: no snapshot was made"
    )
    if took > SLOW_SECONDS:
        return row(
            name,
            took * 1000,
            "ms",
            first.p50_ms,
            wanted="<= 1.2",
            note=f"{note}; only one read was measured",
        )
    (limit,), measured = await interleaved(
        bench.sizes.rounds,
        [partial(bench.run, few, bench.service)],
        partial(bench.run, many, bench.service),
    )
    return p50_row(name, measured, limit.p50_ms, wanted="<= 1.2", note=note)


async def alone(bench: Bench) -> Rows:
    yield await alone_row(bench, "IngestEvent p50, one caller", "<= 1.4")


async def alone_row(bench: Bench, name: str, wanted: str, *, raw: bool = False) -> Row:
    """The p50 of one caller against the sum of its parts."""
    load = Load("IngestEvent", 1, raw=raw)
    (call, statement), measured = await interleaved(
        bench.sizes.rounds,
        [partial(bench.run, load, bench.empty), partial(bench.run_statement, 1, 1)],
        partial(bench.run, load, bench.service),
    )
    return p50_row(
        name,
        measured,
        call.p50_ms + statement.p50_ms,
        wanted=wanted,
        note=f"the limit is an empty call's {call.p50_ms:.3f} ms and"
        f" the bare statement's {statement.p50_ms:.3f} ms",
    )


# By the names for --only.
CALL_ROWS: dict[str, Callable[[Bench], Rows]] = {
    "ingest-64": ingest_64,
    "ingest-16": ingest_16,
    "ingest-256": ingest_256,
    "ingest-64-raw": ingest_64_raw,
    "ingest-16-raw": ingest_16_raw,
    "ingest-alone-raw": ingest_alone_raw,
    "ingest-workers": ingest_workers,
    "ingest-workers-raw": ingest_workers_raw,
    "ingest-alone": alone,
    "balance-64": balance_64,
    "balance-64-raw": balance_64_raw,
    "balance-16-raw": balance_16_raw,
    "balance-long": balance_of_long_account,
    "batch": batch,
    "stream": stream,
    "stream-raw": stream_raw,
}
