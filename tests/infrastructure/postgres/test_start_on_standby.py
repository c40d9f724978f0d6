"""A server that starts on a standby: NOT_SERVING until the standby is promoted."""

import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from faults.pairs import Pair, primary_and_standby
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.commands import run_process
from support.events import event_message
from support.processes import SERVICE, server_process
from support.running import query, running_ledger
from support.waiting import DEADLINE_SECONDS, until

from ledger.bootstrap.database import Database
from ledger.cli.failures import ExitStatus
from ledger.infrastructure.postgres.snapshots import begin_stay_if_moved
from ledger.infrastructure.postgres.verification.doctor import CHECKS
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

WRITES = "writes are taken"


@pytest.fixture
def pair(starts_postgres: None) -> Iterator[Pair]:
    with primary_and_standby() as pair:
        yield pair


async def test_server_on_a_standby_serves_after_its_promotion(pair: Pair, tmp_path: Path) -> None:
    """It needs no restart.

    Until then it refuses writes, and serves reads only if its URL allows a standby. The doctor
    names the one check that fails there.
    """
    await pair.primary.make_template()
    primary, standby = pair.directories
    async with running_ledger(
        Database(pair.url(primary), pair.url(primary, user="postgres"))
    ) as ledger:
        (booked,) = await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=900))
        assert booked.transaction_id
        await begin_stay_if_moved(ledger.engine)
    there = pair.url(standby, user="postgres")

    async def has_come() -> bool:
        return await query(there, "SELECT count(*) FROM ledger_stays") == [(1,)]

    await until(has_come, DEADLINE_SECONDS)
    urls = {
        "as any server": pair.url(standby),
        "any host": pair.url(standby, options="&target_session_attrs=any"),
    }
    examined = await run_process(
        *("doctor", "--json"),
        env={"LEDGER_DATABASE_URL": urls["any host"], "LEDGER_REQUIRE_DURABLE_DATABASE": "false"},
    )
    assert examined.status == ExitStatus.DONE, examined.stdout
    got = {check["check"]: check for check in json.loads(examined.stdout)["checks"]}
    assert got.keys() == CHECKS.keys()
    assert [
        name
        for name, check in got.items()
        if check["status"] != "ok" and "fsync" not in check["detail"]
    ] == [WRITES]
    assert "a standby" in got[WRITES]["detail"]
    async with AsyncExitStack() as stack:
        servers = {
            name: await stack.enter_async_context(
                server_process(Database(url, there), tmp_path / f"log of {name}")
            )
            for name, url in urls.items()
        }
        channels = {
            name: await stack.enter_async_context(aio.insecure_channel(server.address))
            for name, server in servers.items()
        }

        async def serves(name: str) -> bool:
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            health: Any = health_pb2_grpc.HealthStub(channels[name])
            got = await health.Check(request, timeout=DEADLINE_SECONDS)
            return bool(got.status == health_pb2.HealthCheckResponse.SERVING)

        for name, channel in channels.items():
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            assert not await serves(name)
            with pytest.raises(aio.AioRpcError) as refused:
                await stub.IngestEvent(
                    ledger_pb2.IngestEventRequest(event=event_message()), timeout=DEADLINE_SECONDS
                )
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            asked = stub.GetBalance(
                ledger_pb2.GetBalanceRequest(restaurant_id="res_1", currency="PEN"),
                timeout=DEADLINE_SECONDS,
            )
            if name == "any host":
                assert (await asked).available_minor == 900
            else:
                with pytest.raises(aio.AioRpcError) as refused:
                    await asked
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        pair.promote()
        for name, server in servers.items():
            await until(partial(serves, name), DEADLINE_SECONDS)
            await server.assert_well()
    # The stay continues, as the standby has the numbers of the primary, so its snapshots count.
    assert await query(there, "SELECT number FROM ledger_stays") == [(1,)]
