"""The row of statements: a long account from its first page to its last."""

import time
from dataclasses import replace

from grpc import aio

from ledger.v1 import ledger_pb2, ledger_pb2_grpc
from scripts.bench import books
from scripts.bench.bench import Bench
from scripts.bench.process_costs import cpu_seconds
from scripts.bench.report import row
from scripts.bench.rows import LONG_CURRENCY, Rows

PAGE_ENTRIES = 1_000
# As a batch writes them.
ENTRIES_A_TRANSACTION = 1_000
SECONDS_MAX = 30.0


async def statement(bench: Bench) -> Rows:
    """One caller reads all pages of an account for the first time, against the time wanted."""
    entries = bench.sizes.long_account_entries
    restaurant_id = f"statement_{entries}"
    await books.load_long_account(
        bench.connection, restaurant_id, LONG_CURRENCY, entries, ENTRIES_A_TRANSACTION
    )
    await bench.connection.execute("VACUUM (ANALYZE) ledger_entries")
    request = ledger_pb2.ListEntriesRequest(
        restaurant_id=restaurant_id, currency=LONG_CURRENCY, page_size=PAGE_ENTRIES
    )
    took: list[float] = []
    found = 0
    cpu_before = _cpu(bench)
    began = time.monotonic()
    async with aio.insecure_channel(bench.service.address) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        while not took or request.page_token:
            page_began = time.monotonic()
            page = await stub.ListEntries(request)
            took.append(time.monotonic() - page_began)
            found += len(page.entries)
            request.page_token = page.next_page_token
    seconds = time.monotonic() - began
    server_s, database_s, load_s = (
        None if before is None or after is None else round(1000 * (after - before) / entries, 6)
        for before, after in zip(cpu_before, _cpu(bench), strict=True)
    )
    if found != entries or page.closing_balance_minor != entries * books.LONG_ACCOUNT_ENTRY_MINOR:
        raise books.WrongBooks(
            f"{found} of {entries} entries are in the statement, up to {page.closing_balance_minor}"
        )
    half = len(took) // 2
    first_ms = 1000 * sum(took[:half]) / max(1, half)
    second_ms = 1000 * sum(took[half:]) / (len(took) - half)
    halves = f"{first_ms:.1f} and {second_ms:.1f} ms"
    figure = row(
        f"ListEntries, {entries:,} entries in pages of {PAGE_ENTRIES:,}",
        seconds,
        "s",
        SECONDS_MAX,
        took,
        wanted="<= 1",
        note=f"the first page took {1000 * took[0]:.0f} ms;"
        f" a page of the first and the second half {halves}",
    )
    # CPU of server and database with their background work, such as sealing what was loaded.
    yield replace(figure, cpu_server_s=server_s, cpu_database_s=database_s, cpu_load_s=load_s)


def _cpu(bench: Bench) -> tuple[float | None, float | None, float]:
    """CPU seconds of the server, the database, and this process, which is the caller."""
    return cpu_seconds(bench.service.pid), cpu_seconds(bench.cluster.pid), time.process_time()
