"""The row of the size of the books: bytes by part, and what large books cost to keep and read."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from google.type import date_pb2
from grpc import aio

from ledger.v1 import ledger_pb2, ledger_pb2_grpc
from scripts.bench import books, mixed_events
from scripts.bench.bench import Bench
from scripts.bench.measured import MIB
from scripts.bench.mixed_events import MixedEvents, restaurant
from scripts.bench.process_costs import cpu_seconds, private_bytes, resident_bytes
from scripts.bench.report import Row, row
from scripts.bench.rows import BATCH_CALLERS, Rows
from scripts.bench.servers import Server, serving

DATABASE = "size"
PAGE_ENTRIES = 1_000
PAGES_MAX = 50
READS = 500
TIMEOUT_SECONDS = 3600
POLL_SECONDS = 0.2
REPORT_SECONDS = 10.0

# What has a row for each event. Its parts are shown one by one, the other tables whole.
LARGE_TABLES = ("processor_events", "ledger_entries")
# The newest rows are in the last pages: a look at all would cost more than sealing them.
SELECT_NEWEST_TXID = """
SELECT max(recorded_txid::text::bigint) FROM processor_events
WHERE ctid >= (
  SELECT format('(%s,0)', greatest(0, pg_relation_size('processor_events')
                                      / current_setting('block_size')::bigint - 1000))::tid
)
"""
SELECT_SEALED_BEFORE = "SELECT COALESCE(max(end_txid), 0) FROM ledger_seals"
# The tables of the books: each one's heap with its maps, its indexes, and what is out of line.
SELECT_PARTS = """
SELECT t.relname AS table_name, 'rows' AS part,
       pg_table_size(t.oid) - COALESCE(pg_total_relation_size(NULLIF(t.reltoastrelid, 0)), 0)
         AS bytes
FROM pg_class AS t
WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace
UNION ALL
SELECT t.relname, 'out of line', pg_total_relation_size(t.reltoastrelid)
FROM pg_class AS t
WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace AND t.reltoastrelid <> 0
UNION ALL
SELECT t.relname, x.relname, pg_total_relation_size(x.oid)
FROM pg_class AS t
JOIN pg_index AS i ON i.indrelid = t.oid
JOIN pg_class AS x ON x.oid = i.indexrelid
WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace
ORDER BY 1, 2
"""
SELECT_CHECKPOINTS = (
    "SELECT num_timed AS timed, num_requested AS requested, buffers_written AS buffers,"
    " write_time AS write_ms, sync_time AS sync_ms FROM pg_stat_checkpointer"
)
SELECT_CHECKPOINTS_BEFORE_17 = (
    "SELECT checkpoints_timed AS timed, checkpoints_req AS requested,"
    " buffers_checkpoint AS buffers, checkpoint_write_time AS write_ms,"
    " checkpoint_sync_time AS sync_ms FROM pg_stat_bgwriter"
)
# The view lags behind while sessions are open; the position in the log does not.
SELECT_WAL = """
SELECT wal_records, wal_fpi, pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS wal_bytes
FROM pg_stat_wal
"""
SELECT_RUNNING = "SELECT EXISTS (SELECT FROM payout_runs WHERE state <> 'SUCCEEDED')"
SELECT_COUNTS = """
SELECT (SELECT count(*) FROM processor_events) AS events,
       (SELECT count(*) FROM ledger_entries WHERE event_id IS NOT NULL) AS entries
"""
# In a mixed order, which is the same each time.
SELECT_ACCOUNTS = """
SELECT restaurant_id FROM balance_accounts WHERE restaurant_id IS NOT NULL
ORDER BY md5(restaurant_id) LIMIT $1
"""
SELECT_TEMP_BYTES = "SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()"


@dataclass(slots=True)
class Costs:
    """What a piece of work took: seconds, CPU seconds of both sides, and the most memory."""

    seconds: float = 0.0
    server_s: float | None = None
    server_mib: float | None = None
    database_s: float | None = None
    database_mib: float | None = None


async def size(bench: Bench) -> Rows:
    """Books events of all kinds in a database of their own; measures the database and its uses."""
    events = bench.sizes.size_events
    cluster = await bench.cluster.with_database(DATABASE)
    connection = await cluster.connect()
    sized = _Sized(replace(bench, cluster=cluster, connection=connection), events)
    try:
        empty = await parts_of(connection)
        await connection.execute("CHECKPOINT")
        log_position = await sized.log_position()
        with sized.starting() as (server, started_s):
            yield row("start with empty books", 1000 * started_s, "ms")
            async for found in sized.build(server.address, server.pid):
                yield found
        yield await sized.log(log_position)
        async for found in sized.vacuum(empty):
            yield found
        with sized.starting() as (server, started_again_s):
            yield row(
                f"start with {events:,} events", 1000 * started_again_s, "ms", 1000 * started_s
            )
            async for found in sized.read(server.address):
                yield found
            async for found in sized.pay(server.address, server.pid):
                yield found
        async for found in sized.verify():
            yield found
    finally:
        await connection.close()


class _Sized:
    """The measures of one database of many events, in their order."""

    def __init__(self, bench: Bench, events: int) -> None:
        self._bench = bench
        self._connection = bench.connection
        self._events = events

    @contextmanager
    def starting(self) -> Iterator[tuple[Server, float]]:
        """The service on the database, and how many seconds it took to start."""
        began = time.monotonic()
        # A short pause between seals, so that nobody waits for the last one.
        with serving(self._bench.cluster, {"LEDGER_SEAL_INTERVAL_SECONDS": "1"}) as server:
            yield server, time.monotonic() - began

    async def build(self, address: str, pid: int) -> Rows:
        """Books the events, and waits until they are sealed."""
        costs = await self._costs(lambda: self._ingest(address), pid)
        booked = replace(
            row("events booked in batches, mixed", self._events / costs.seconds, "events/s"),
            note=mixed_events.MIX,
        )
        yield self._with_cpu(booked, costs)
        # While events come, a part of them is sealed.
        sealing = await self._costs(self._until_sealed, pid)
        yield self._with_cpu(row("the rest sealed", sealing.seconds, "s"), sealing)
        counts = await self._connection.fetchrow(SELECT_COUNTS)
        expected = self._events, mixed_events.entries_of(self._events)
        if tuple(counts) != expected:
            raise books.WrongBooks(f"{tuple(counts)} events and entries are there, not {expected}")

    async def log(self, before: tuple[Any, Any]) -> Row:
        """What was logged since, and the checkpoints, when no server has a session."""
        wal_before, checkpoints_before = before
        wal, checkpoints = await self.log_position()
        records, pages, written = (
            wal[name] - wal_before[name] for name in ("wal_records", "wal_fpi", "wal_bytes")
        )
        timed, requested, buffers, write_ms, sync_ms = (
            checkpoints[name] - checkpoints_before[name]
            for name in ("timed", "requested", "buffers", "write_ms", "sync_ms")
        )
        return replace(
            row("bytes an event: WAL", float(written) / self._events, "bytes"),
            note=f"{records:,} records, {pages:,} whole pages; {timed + requested} checkpoints,"
            f" {requested} of them requested, wrote {buffers:,} buffers in"
            f" {write_ms / 1000:.1f} s and {sync_ms / 1000:.1f} s of flushes",
        )

    async def vacuum(self, empty: Mapping[str, int]) -> Rows:
        """The size by parts, after a VACUUM and before it, less that of empty books."""
        before = _more(await parts_of(self._connection), empty)
        costs = await self._costs(
            lambda: self._connection.execute("VACUUM (ANALYZE)", timeout=TIMEOUT_SECONDS)
        )
        after = _more(await parts_of(self._connection), empty)
        yield self._with_cpu(row("VACUUM (ANALYZE)", costs.seconds, "s"), costs)
        for name, size_bytes in after.items():
            each = row(
                f"bytes an event: {name}",
                size_bytes / self._events,
                "bytes",
                before.get(name, 0) / self._events,
            )
            if each.value:
                yield each
        total = row(
            "bytes an event: all",
            sum(after.values()) / self._events,
            "bytes",
            sum(before.values()) / self._events,
        )
        entries = mixed_events.entries_of(self._events)
        database_bytes = await self._connection.fetchval(
            "SELECT pg_database_size(current_database())"
        )
        yield replace(
            total,
            note=f"after a VACUUM against before it; {self._events:,} events with {entries:,}"
            f" entries; the database has {database_bytes:,} bytes",
        )

    async def read(self, address: str) -> Rows:
        """One caller: balances of all sizes of accounts, and the largest account's statement."""
        await self._connection.execute("CHECKPOINT")
        async with aio.insecure_channel(address) as channel:
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            # The same accounts twice: the first read of each has no snapshot.
            first, again = await self._read_balances(stub), await self._read_balances(stub)
            yield row("GetBalance p50, first of an account", _p50_ms(first), "ms", None, first)
            yield row("GetBalance p50, later of an account", _p50_ms(again), "ms", None, again)
            pages = await self._read_statement(stub)
        yield replace(
            row("ListEntries p50, largest account", _p50_ms(pages), "ms", None, pages),
            note=f"pages of {PAGE_ENTRIES:,}; the first took {1000 * pages[0]:.0f} ms",
        )

    async def pay(self, address: str, pid: int) -> Rows:
        """One run over all restaurants."""
        costs = await self._costs(lambda: self._run_payouts(address), pid)
        number = mixed_events.RESTAURANTS
        paid = await self._connection.fetchval("SELECT count(*) FROM payouts")
        yield replace(
            row(f"payout run of {number:,}", number / costs.seconds, "restaurants/s"),
            cpu_server_s=_thousandth(costs.server_s, number),
            cpu_database_s=_thousandth(costs.database_s, number),
            note=f"{paid:,} were paid",
        )
        parts = await parts_of(self._connection)
        for name in ("balance_snapshots", "statement_marks", "payout tables"):
            yield row(f"bytes a restaurant: {name}", parts.get(name, 0) / number, "bytes")

    async def verify(self) -> Rows:
        """Audits the books and the chain of seals."""
        for words in (("verify",), ("verify", "--chain")):
            temporary_before = await self._connection.fetchval(SELECT_TEMP_BYTES)
            usage: list[float] = []

            async def run(words: Sequence[str] = words, usage: list[float] = usage) -> None:
                usage += await asyncio.to_thread(self._command, words)

            costs = await self._costs(run)
            costs.server_s, resident_mib = usage
            temporary = await self._connection.fetchval(SELECT_TEMP_BYTES) - temporary_before
            found = self._with_cpu(row(f"ledger {' '.join(words)}", costs.seconds, "s"), costs)
            yield replace(
                found,
                resident_after_mib=round(resident_mib, 1),
                note=f"CPU {costs.server_s:.1f} s of the command and {costs.database_s or 0:.1f} s"
                f" of the database; {resident_mib:.0f} MiB of the command, and"
                f" {costs.database_mib or 0:.0f} MiB of the database beside shared memory, at most;"
                f" {temporary / MIB:,.0f} MiB of temporary files",
            )

    async def _ingest(self, address: str) -> None:
        batches = MixedEvents(self._events).batches()
        created = ledger_pb2.INGEST_STATUS_CREATED
        booked, reported_at = 0, time.monotonic()

        async def call(method: Any) -> None:
            nonlocal booked, reported_at
            for request, events in batches:
                response = ledger_pb2.BatchIngestEventsResponse.FromString(await method(request))
                wrong = [each for each in response.results if each.status != created]
                if wrong or len(response.results) != events:
                    raise books.WrongBooks(f"not all events were created: {wrong[:1]}")
                booked += events
                if time.monotonic() - reported_at >= REPORT_SECONDS:
                    reported_at = time.monotonic()
                    print(f"{booked:,} of {self._events:,} events", file=sys.stderr, flush=True)

        async with aio.insecure_channel(address) as channel, asyncio.TaskGroup() as callers:
            method: Any = channel.unary_unary("/ledger.v1.LedgerService/BatchIngestEvents")
            for _ in range(BATCH_CALLERS):
                callers.create_task(call(method))

    async def _until_sealed(self) -> None:
        newest = await self._connection.fetchval(SELECT_NEWEST_TXID)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while (  # noqa: ASYNC110  # it happens in another process
                await self._connection.fetchval(SELECT_SEALED_BEFORE) <= newest
            ):
                await asyncio.sleep(POLL_SECONDS)

    async def _read_balances(self, stub: Any) -> list[float]:
        took: list[float] = []
        for account in await self._connection.fetch(SELECT_ACCOUNTS, READS):
            request = ledger_pb2.GetBalanceRequest(
                restaurant_id=account["restaurant_id"], currency=mixed_events.CURRENCY
            )
            began = time.monotonic()
            await stub.GetBalance(request)
            took.append(time.monotonic() - began)
        return took

    async def _read_statement(self, stub: Any) -> list[float]:
        request = ledger_pb2.ListEntriesRequest(
            restaurant_id=restaurant(0), currency=mixed_events.CURRENCY, page_size=PAGE_ENTRIES
        )
        took: list[float] = []
        while not took or (request.page_token and len(took) < PAGES_MAX):
            began = time.monotonic()
            page = await stub.ListEntries(request)
            took.append(time.monotonic() - began)
            request.page_token = page.next_page_token
        return took

    async def _run_payouts(self, address: str) -> None:
        day = datetime.now(UTC).date()
        request = ledger_pb2.RunPayoutsRequest(
            currency=mixed_events.CURRENCY,
            as_of=date_pb2.Date(year=day.year, month=day.month, day=day.day),
        )
        async with aio.insecure_channel(address) as channel:
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            await stub.RunPayouts(request)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while await self._connection.fetchval(SELECT_RUNNING):  # noqa: ASYNC110  # as above
                    await asyncio.sleep(POLL_SECONDS)

    def _command(self, words: Sequence[str]) -> tuple[float, float]:
        """Runs a command of the ledger; returns its CPU seconds and the most memory, in MiB."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "ledger", *words],
            cwd=self._bench.cluster.data_dir,
            env=env | {"LEDGER_DATABASE_URL": self._bench.cluster.application_url},
            stdout=subprocess.PIPE,
            text=True,
        )
        if process.stdout is None:
            raise RuntimeError("standard output is not piped")
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise books.WrongBooks(f"ledger {' '.join(words)} fails:\n{output}")
        # Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / MIB

    async def _costs(self, work: Callable[[], Awaitable[object]], pid: int | None = None) -> Costs:
        """Does the work; returns what it took, with the CPU of the process `pid`."""
        database = self._bench.cluster.pid
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, private_bytes(database) or 0)
                await asyncio.sleep(POLL_SECONDS)

        watching = asyncio.create_task(watch())
        before, server_before = cpu_seconds(database), pid and cpu_seconds(pid)
        began = time.monotonic()
        try:
            await work()
        finally:
            watching.cancel()
        seconds = time.monotonic() - began
        after, server_after = cpu_seconds(database), pid and cpu_seconds(pid)
        resident = pid and resident_bytes(pid)
        return Costs(
            seconds,
            None if server_after is None or server_before is None else server_after - server_before,
            None if resident is None else round(resident / MIB, 1),
            None if after is None or before is None else after - before,
            most / MIB or None,
        )

    def _with_cpu(self, figure: Row, costs: Costs) -> Row:
        return replace(
            figure,
            cpu_server_s=_thousandth(costs.server_s, self._events),
            cpu_database_s=_thousandth(costs.database_s, self._events),
            resident_after_mib=costs.server_mib,
        )

    async def log_position(self) -> tuple[Any, Any]:
        """What was logged so far, and the checkpoints so far."""
        version = self._connection.get_server_version().major
        return (
            await self._connection.fetchrow(SELECT_WAL),
            await self._connection.fetchrow(
                SELECT_CHECKPOINTS if version >= 17 else SELECT_CHECKPOINTS_BEFORE_17
            ),
        )


async def parts_of(connection: Any) -> dict[str, int]:
    """Bytes by part of the books, the largest first."""
    found: dict[str, int] = {}
    for table, part, size_bytes in await connection.fetch(SELECT_PARTS):
        if table in LARGE_TABLES:
            name = part if part.startswith(table) else f"{table}, {part}"
        elif table.startswith(("payout", "archived_run")):
            name = "payout tables"
        else:
            name = table
        found[name] = found.get(name, 0) + size_bytes
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def _more(parts: Mapping[str, int], empty: Mapping[str, int]) -> dict[str, int]:
    return {name: size_bytes - empty.get(name, 0) for name, size_bytes in parts.items()}


def _thousandth(seconds: float | None, number: int) -> float | None:
    return None if seconds is None else round(1000 * seconds / number, 4)


def _p50_ms(latencies: Sequence[float]) -> float:
    return 1000 * sorted(latencies)[len(latencies) // 2]
