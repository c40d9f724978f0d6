"""Health of the process and of the services, also at a separate address."""

import asyncio
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2
from sqlalchemy.engine import make_url
from support.certificates import HERE, Authority
from support.events import event_message, request_of, unique
from support.health import (
    NOT_SERVING,
    SERVICE,
    SERVICES,
    SERVING,
    health_of,
    health_stub,
    listed_services,
    until_serving,
)
from support.raising import ping_well, raising_service
from support.running import RunningLedger, execute_alone, running_ledger
from support.statuses import details_of, reason_of
from support.waiting import DEADLINE_SECONDS, until

from ledger.api.server import Server
from ledger.api.transport.listening import AddressUnavailable
from ledger.bootstrap.database import Database
from ledger.errors import LedgerError
from ledger.v1 import ledger_pb2, ledger_pb2_grpc


async def test_health_covers_process_and_services(shared_ledger: RunningLedger) -> None:
    """`""` and the name of each service are SERVING; an unknown service is NOT_FOUND."""
    assert await health_of(shared_ledger, "") == SERVING
    await until_serving(shared_ledger)
    with pytest.raises(aio.AioRpcError) as caught:
        await health_of(shared_ledger, "ledger.v1.Nothing")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_watch_gets_not_serving_when_the_server_stops(database: Database) -> None:
    """Every open health watch gets NOT_SERVING before it ends, and none delays the stop."""
    async with running_ledger(database) as ledger:
        await until_serving(ledger)
        watches = [
            health_stub(ledger.channel).Watch(health_pb2.HealthCheckRequest(service=service))
            for service in ("", *SERVICES, *[SERVICE] * 7)
        ]
        for watch in watches:
            assert (await watch.read()).status == SERVING
        async with asyncio.timeout(DEADLINE_SECONDS):
            await ledger.server.stop(2 * DEADLINE_SECONDS)
        for watch in watches:
            statuses = []
            with pytest.raises(aio.AioRpcError) as caught:
                while True:
                    statuses.append((await watch.read()).status)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert statuses == [NOT_SERVING]


async def test_cancelled_watch_leaves_the_server_well(
    shared_ledger: RunningLedger,
) -> None:
    """The server drops cancelled watches and serves on; the next watch works."""
    await until_serving(shared_ledger)
    for _ in range(5):
        watch = health_stub(shared_ledger.channel).Watch(
            health_pb2.HealthCheckRequest(service=SERVICE)
        )
        assert (await watch.read()).status == SERVING
        watch.cancel()
    await until_serving(shared_ledger)


async def test_readiness_follows_the_database(database: Database, server_url: str) -> None:
    """In an outage: NOT_SERVING and UNAVAILABLE, soon.

    After it: SERVING, and calls succeed, without a restart.
    """
    name = make_url(database.migration_url).database
    assert name
    async with running_ledger(database) as ledger:
        event = event_message(restaurant_id=unique("res"))
        await ledger.stub.IngestEvent(request_of(event))
        await execute_alone(server_url, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        try:
            await execute_alone(
                server_url,
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
            )
            calls: list[Callable[[], Any]] = [
                lambda: ledger.stub.IngestEvent(request_of(), timeout=30),
                lambda: ledger.stub.BatchIngestEvents(
                    ledger_pb2.BatchIngestEventsRequest(events=[event_message()]), timeout=30
                ),
                lambda: ledger.stub.GetEvent(
                    ledger_pb2.GetEventRequest(event_id=event.event_id), timeout=30
                ),
                lambda: ledger.stub.GetBalance(
                    ledger_pb2.GetBalanceRequest(restaurant_id=event.restaurant_id, currency="PEN"),
                    timeout=30,
                ),
                lambda: ledger.stub.PutRestaurant(
                    ledger_pb2.PutRestaurantRequest(restaurant_id="res"), timeout=30
                ),
                lambda: ledger.stub.GetRestaurant(
                    ledger_pb2.GetRestaurantRequest(restaurant_id="res"), timeout=30
                ),
                lambda: ledger.stub.ListRestaurants(
                    ledger_pb2.ListRestaurantsRequest(), timeout=30
                ),
                lambda: ledger.stub.ListEntries(
                    ledger_pb2.ListEntriesRequest(
                        restaurant_id=event.restaurant_id, currency="PEN"
                    ),
                    timeout=30,
                ),
                lambda: ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest(), timeout=30),
            ]
            for call in calls:
                started_at = asyncio.get_running_loop().time()
                with pytest.raises(aio.AioRpcError) as caught:
                    await call()
                assert asyncio.get_running_loop().time() - started_at < 15
                assert (caught.value.code(), reason_of(caught.value)) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "DATABASE_UNAVAILABLE",
                )
                assert details_of(caught.value)["RetryInfo"].retry_delay.ToTimedelta() > timedelta(
                    0
                )
                assert name not in f"{caught.value.details()} {caught.value.debug_error_string()}"

            async def not_ready() -> bool:
                return await health_of(ledger) == NOT_SERVING

            await until(not_ready, what="NOT_SERVING without a database")
            assert await health_of(ledger, "") == SERVING, "the process is alive"
        finally:
            await execute_alone(server_url, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")

        await until_serving(ledger)
        repeated = await ledger.stub.IngestEvent(request_of(event))
        assert repeated.status == ledger_pb2.INGEST_STATUS_DUPLICATE


@pytest.mark.parametrize(
    "failure",
    [LedgerError("away"), RuntimeError("secret dsn"), OSError("away"), KeyError("defect")],
    ids=lambda error: type(error).__name__,
)
async def test_readiness_outlives_any_failure_of_the_ping(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is NOT_SERVING while the ping raises anything, and SERVING again afterwards."""
    monkeypatch.setattr("ledger.api.server.PING_INTERVAL_SECONDS", 0.01)
    failing = False

    async def ping() -> None:
        if failing:
            raise failure

    server = Server(raising_service(failure), address="127.0.0.1:0", reflect=False, ping=ping)
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = health_stub(channel)
            request = health_pb2.HealthCheckRequest(service=SERVICE)

            async def got(status: int) -> bool:
                return int((await stub.Check(request)).status) == status

            await until(lambda: got(SERVING), what="SERVING at first")
            failing = True
            await until(
                lambda: got(NOT_SERVING), what=f"NOT_SERVING while the ping raises {failure!r}"
            )
            failing = False
            await until(lambda: got(SERVING), what="SERVING afterwards")
    finally:
        await server.stop(0)


# Health at a separate address


async def test_health_can_have_a_separate_address(database: Database, tmp_path: Path) -> None:
    """Beside a server with TLS: the health of the service in plaintext, until it stops.

    The address serves nothing else.
    """
    authority = Authority()
    authority.issue(*HERE).write(tmp_path / "server.pem", tmp_path / "server.key")
    settings: dict[str, Any] = {
        "tls_certificate_file": tmp_path / "server.pem",
        "tls_key_file": tmp_path / "server.key",
    }
    async with running_ledger(database, health_address="127.0.0.1:0", **settings) as ledger:
        address = f"127.0.0.1:{ledger.server.health_port}"
        async with aio.insecure_channel(address) as channel:
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            watch = health_stub(channel).Watch(request)
            assert (await watch.read()).status == SERVING
            assert (
                await health_stub(channel).Check(health_pb2.HealthCheckRequest())
            ).status == SERVING
            with pytest.raises(aio.AioRpcError) as caught:
                await ledger_pb2_grpc.LedgerServiceStub(channel).IngestEvent(request_of())
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            with pytest.raises(aio.AioRpcError) as caught:
                await listed_services(address)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            stopping = asyncio.create_task(ledger.server.stop(10))
            assert (await watch.read()).status == NOT_SERVING
            await asyncio.wait_for(stopping, DEADLINE_SECONDS)


async def test_health_address_that_is_taken_is_refused(
    shared_ledger: RunningLedger, tmp_path: Path
) -> None:
    """Also if the server itself has taken it: calls and health checks cannot share an address.

    After the refusal the other address is free again.
    """
    service = raising_service(ValueError())
    with pytest.raises(AddressUnavailable, match=re.escape(shared_ledger.address)):
        Server(
            service,
            address="127.0.0.1:0",
            health_address=shared_ledger.address,
            reflect=False,
            ping=ping_well,
        )
    path = f"unix:{tmp_path}/l.sock"
    with pytest.raises(AddressUnavailable, match=re.escape(path)):
        Server(service, address=path, health_address=path, reflect=False, ping=ping_well)
    with pytest.raises(AddressUnavailable, match=re.escape(shared_ledger.address)):
        Server(
            service,
            address=shared_ledger.address,
            health_address=path,
            reflect=False,
            ping=ping_well,
        )
    server = Server(service, address=path, reflect=False, ping=ping_well)
    await server.start()
    await server.stop(0)
