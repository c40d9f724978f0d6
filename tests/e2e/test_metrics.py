"""The metrics page of a server that has worked, as Prometheus reads it."""

import asyncio
import json
import urllib.request
from pathlib import Path

import pytest
from grpc import aio
from prometheus_client.parser import text_string_to_metric_families
from support.commands import TIMEOUT_SECONDS
from support.dates import date_message, days_ago
from support.events import event_message, unique
from support.processes import ServerProcess, server_process
from support.running import query
from support.waiting import POLL_SECONDS

from ledger.bootstrap.database import Database
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

RESTAURANTS, CHARGES_EACH = 3, 5


async def page_of(server: ServerProcess) -> dict[str, float]:
    """The samples without labels, and those with one by its value."""
    # Libraries write lines that are no JSON.
    lines = [
        json.loads(line)
        for line in server.log.read_text().splitlines()
        if line.startswith("{") and line.endswith("}")
    ]
    (address,) = [line["address"] for line in lines if line["event"] == "serving metrics"]

    def read() -> str:
        with urllib.request.urlopen(
            f"http://{address}/metrics", timeout=TIMEOUT_SECONDS
        ) as response:
            page: str = response.read().decode()
            return page

    families = text_string_to_metric_families(await asyncio.to_thread(read))
    samples = [sample for family in families for sample in family.samples if len(sample.labels) < 2]
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


async def pay_out(stub: "ledger_pb2_grpc.LedgerServiceAsyncStub") -> ledger_pb2.PayoutRun:
    """Starts a payout run of today and waits for its end."""
    today = days_ago(0)
    request = ledger_pb2.RunPayoutsRequest(currency="PEN", as_of=date_message(today))
    run = (await stub.RunPayouts(request)).payout_run
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while run.state == ledger_pb2.PAYOUT_RUN_STATE_RUNNING:
            await asyncio.sleep(POLL_SECONDS)
            run = (
                await stub.GetPayoutRun(
                    ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id)
                )
            ).payout_run
    return run


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_page_shows_what_was_done(database: Database, tmp_path: Path, workers: str) -> None:
    """The counts of events, balances, payouts and snapshots are those of the books.

    With several workers they are the sums of all.
    """
    settings = {
        "metrics_address": "127.0.0.1:0",
        "log_format": "json",
        "snapshot_tail_entries": "1",
        "workers": workers,
    }
    async with server_process(database, tmp_path / "log", **settings) as server:
        before = await page_of(server)
        counters = (
            "ledger_payouts_made_total",
            "ledger_snapshots_made_total",
            "ledger_group_size_sum ingest",
        )
        assert [before[name] for name in counters] == [0, 0, 0]
        restaurants = [unique("res") for _ in range(RESTAURANTS)]
        events = [
            event_message(restaurant_id=restaurant)
            for restaurant in restaurants
            for _ in range(CHARGES_EACH)
        ]
        async with aio.insecure_channel(server.address) as channel:
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            await stub.BatchIngestEvents(ledger_pb2.BatchIngestEventsRequest(events=events))
            reads = 0
            async with asyncio.timeout(TIMEOUT_SECONDS):
                # Until there is a snapshot, which open transactions may delay for some seconds.
                while await query(
                    database.migration_url, "SELECT count(*) FROM balance_snapshots"
                ) == [(0,)]:
                    for restaurant in restaurants:
                        await stub.GetBalance(
                            ledger_pb2.GetBalanceRequest(restaurant_id=restaurant, currency="PEN")
                        )
                        reads += 1
                    await asyncio.sleep(POLL_SECONDS)
            run = await pay_out(stub)
        assert run.payouts_created == RESTAURANTS
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                page = await page_of(server)
                ((snapshots, payouts),) = await query(
                    database.migration_url,
                    "SELECT (SELECT count(*) FROM balance_snapshots),"
                    " (SELECT count(*) FROM payouts)",
                )
                got = (page["ledger_snapshots_made_total"], page["ledger_payouts_made_total"])
                if got == (snapshots, payouts):
                    break
                # Snapshots are made in the background.
                await asyncio.sleep(POLL_SECONDS)
        assert payouts == RESTAURANTS
        assert page["ledger_group_size_sum ingest"] == len(events)
        assert page["ledger_group_size_sum balance"] == reads
        assert page["ledger_queue_events"] == 0
