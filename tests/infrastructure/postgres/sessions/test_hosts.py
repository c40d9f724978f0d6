"""Several hosts: which one is used, what a silent one costs, and how a deposed one is left."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from faults.clusters import TEMPLATE
from faults.pairs import Pair, primary_and_standby
from faults.proxy import fault_proxy
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs
from support.health import SERVICE
from support.running import RunningLedger, query, running_ledger
from support.waiting import DEADLINE_SECONDS, until

from ledger.api import server
from ledger.application import run_payouts
from ledger.bootstrap.database import Database, Engines
from ledger.cli.database_failures import database_failures
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.database_url import driver_url
from ledger.errors import DatabaseUnavailable
from ledger.infrastructure.postgres.schema.migrations import head_revision, migrate_async
from ledger.infrastructure.postgres.sessions import outages
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import (
    KeptConnections,
    autocommit,
    create_engine,
)
from ledger.infrastructure.postgres.sessions.hosts import Address, Hosts, HostUnavailable
from ledger.settings import Settings


class Pairs:
    """Gives tests the same pair, and a new one after a test that promoted the standby.

    Several processes share the tests of a module, in any order.
    """

    def __init__(self, exits: ExitStack) -> None:
        self._exits = exits
        self._pair: Pair | None = None

    async def one(self) -> Pair:
        """A pair with the schema of the books on both."""
        if self._pair is None or self._pair.is_promoted:
            self._exits.close()
            self._pair = self._exits.enter_context(primary_and_standby())
            await self._pair.primary.make_template()
        return self._pair


@pytest.fixture(scope="module")
def pairs(starts_postgres: None) -> Iterator[Pairs]:
    with ExitStack() as exits:
        yield Pairs(exits)


@pytest.fixture
async def pair(pairs: Pairs) -> Pair:
    return await pairs.one()


@asynccontextmanager
async def silent_host(path: Path) -> AsyncIterator[Path]:
    """A directory with a socket that accepts connections and never responds, like a hung host."""
    path.mkdir()  # noqa: ASYNC240
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path / ".s.PGSQL.5432"))
        listener.listen()
        yield path
    finally:
        listener.close()


def directory_of(connection: Connection) -> Path:
    """The directory of the socket that a session uses."""
    transport = connection._transport  # type: ignore[attr-defined]
    return Path(transport.get_extra_info("peername")).parent


async def place_of(hosts: Hosts) -> Path:
    """The host of a new session."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        connection = await hosts.connect()
        connection.terminate()
    return directory_of(connection)


async def test_session_is_on_the_host_that_takes_writes(pair: Pair) -> None:
    """At any place of the list, and for any number of concurrent calls."""
    primary, standby = pair.directories
    for order in ((primary, standby), (standby, primary)):
        hosts = Hosts(pair.url(*order))
        assert set(await asyncio.gather(*(place_of(hosts) for _ in range(5)))) == {primary}


async def test_environment_names_hosts_as_for_libpq(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a URL that names no host, or does not say what a host must be."""
    primary, standby = pair.directories
    monkeypatch.setenv("PGHOST", f"{standby},{primary}")
    monkeypatch.setenv("PGPORT", "5432")
    url = f"postgresql+asyncpg://ledger_app@/{TEMPLATE}"
    assert await place_of(Hosts(url)) == primary
    monkeypatch.setenv("PGHOST", str(standby))
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "read-write")
    with pytest.raises(HostUnavailable, match="is a standby"):
        await place_of(Hosts(url))


def test_port_of_a_url_without_a_host_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with libpq, with or without PGHOST: another port may have other books."""
    monkeypatch.delenv("PGHOST", raising=False)
    monkeypatch.setenv("PGPORT", "6000")
    for url in ("postgresql+asyncpg:///books?port=6001", "postgresql+asyncpg://:6001/books"):
        assert Hosts(driver_url(url)).addresses == (Address(None, 6001),)
    monkeypatch.setenv("PGHOST", "h1,h2")
    assert Hosts(driver_url("postgresql:///books?port=6001")).addresses == (
        Address("h1", 6001),
        Address("h2", 6001),
    )
    assert Hosts(driver_url("postgresql:///books")).addresses == (
        Address("h1", 6000),
        Address("h2", 6000),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGHOST", "h1,h1"),
        ("PGPORT", "none"),
        ("PGPORT", "65536"),
        ("PGTARGETSESSIONATTRS", "standby"),
    ],
)
def test_bad_environment_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """The command ends with USAGE and the name of the variable, and reports no defect."""
    monkeypatch.setenv("PGHOST", "h1")
    monkeypatch.setenv(name, value)
    with pytest.raises(CommandFailure, match=name) as caught, database_failures(""):
        Hosts("postgresql+asyncpg:///books")
    assert caught.value.exit_status is ExitStatus.USAGE


async def test_name_that_no_host_can_have_is_reported() -> None:
    """Its lookup fails in another way than that of an unknown name."""
    with pytest.raises(HostUnavailable, match=r"^a\.\.b:5432: no host can have that name$"):
        await Hosts(driver_url("postgresql://a..b/books")).connect()


async def test_only_host_may_be_a_standby_for_reads(pair: Pair) -> None:
    """A report or an audit may run on a standby. A server may not, and logs the reason."""
    _, standby = pair.directories
    assert await place_of(Hosts(pair.url(standby))) == standby
    with pytest.raises(HostUnavailable, match=f"^{standby}:5432: is a standby$"):
        await place_of(Hosts(pair.url(standby), target="read-write"))
    assert (
        await place_of(
            Hosts(pair.url(standby, options="&target_session_attrs=any"), target="read-write")
        )
        == standby
    )


async def test_silent_host_does_not_hide_those_after_it(pair: Pair, tmp_path: Path) -> None:
    """Nor does each new connection wait for it."""
    async with silent_host(tmp_path / "silent") as silent:
        hosts = Hosts(pair.url(silent, *pair.directories, options="&connect_timeout=60"))
        for _ in range(20):
            assert await place_of(hosts) == pair.directories[0]


async def test_host_that_refuses_does_not_hide_the_others(pair: Pair, tmp_path: Path) -> None:
    """Such as a standby that does not have the database yet.

    If no host can be used, its refusal is the error.
    """
    refusal = b"SFATAL\0VFATAL\0C3D000\0Mdatabase is missing\0\0"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)
        writer.write(b"E" + (len(refusal) + 4).to_bytes(4) + refusal)
        writer.close()

    async with await asyncio.start_unix_server(refuse, tmp_path / ".s.PGSQL.5432"):
        for _ in range(5):
            assert (
                await place_of(Hosts(pair.url(tmp_path, *pair.directories))) == pair.directories[0]
            )
        with pytest.raises(asyncpg.InvalidCatalogNameError, match="database is missing"):
            await place_of(Hosts(pair.url(tmp_path, pair.directories[1])))


async def test_each_host_is_named_with_its_reason(pair: Pair, tmp_path: Path) -> None:
    """If no host can be used."""
    async with silent_host(tmp_path / "silent") as silent:
        url = pair.url(silent, tmp_path, pair.directories[1], options="&connect_timeout=1")
        with pytest.raises(HostUnavailable) as raised:
            await place_of(Hosts(url))
    assert set(str(raised.value).split("; ")) == {
        f"{silent}:5432: no answer within 1 s",
        f"{tmp_path}:5432: No such file or directory",
        f"{pair.directories[1]}:5432: is a standby",
    }


async def test_only_host_is_named_with_its_reason(tmp_path: Path, pair: Pair) -> None:
    """The users of a pool get the reason."""
    engine = create_engine(pair.url(tmp_path), pool_size=1)
    try:
        with pytest.raises(DatabaseUnavailable) as raised:
            async with autocommit(engine):
                pass
        assert f"{tmp_path}:5432: No such file or directory" in str(raised.value.__cause__)
    finally:
        await engine.dispose()


async def test_migrations_find_the_host_that_takes_writes(pair: Pair, tmp_path: Path) -> None:
    """Past a silent host and a standby."""
    async with silent_host(tmp_path / "silent") as silent:
        url = pair.url(silent, *pair.directories[::-1], user="postgres")
        assert await migrate_async(url) == (head_revision(), head_revision())


async def test_peers_that_vanish_are_noticed(pair: Pair) -> None:
    """The kernel watches TCP connections: with the driver's defaults it would wait for hours."""
    async with fault_proxy(pair.primary.socket, seed=1) as network:
        hosts = Hosts(
            f"postgresql+asyncpg://ledger_app@127.0.0.1:{network.port}/{TEMPLATE}?ssl=disable"
        )
        async with asyncio.timeout(DEADLINE_SECONDS):
            connection = await hosts.connect()
        plug = connection._transport.get_extra_info("socket")
        assert plug.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert plug.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        connection.terminate()


async def test_outage_is_logged_once_and_its_end_with_its_duration(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names the host and the cause.

    Workers that fail repeatedly during the outage add none.
    """
    monkeypatch.setattr(run_payouts, "POLL_SECONDS", 0.05)
    failures: list[outages.Outages] = []
    worker_failed = outages.Outages.worker_failed

    def count(self: outages.Outages, what: str, error: BaseException) -> None:
        failures.append(self)
        worker_failed(self, what, error)

    monkeypatch.setattr(outages.Outages, "worker_failed", count)
    async with fault_proxy(pair.primary.socket, seed=1) as network:
        host = f"127.0.0.1:{network.port}"
        url = f"postgresql+asyncpg://ledger_app@{host}/{TEMPLATE}?ssl=disable"
        with capture_logs() as lines:
            async with running_ledger(Database(url, pair.url(user="postgres"))):

                def logged() -> list[str]:
                    return [
                        line["event"] for line in lines if line["log_level"] in ("warning", "error")
                    ]

                network.refuse()
                network.reset()
                await until(
                    lambda: "the database is away" in logged() and len(failures) > 10,
                    DEADLINE_SECONDS,
                )
                await network.accept()
                await until(lambda: "the database is back" in logged(), DEADLINE_SECONDS)
                # The failures that waited for the watch to find the outage.
                await until(lambda: not failures[0].delayed_lines, DEADLINE_SECONDS)
    assert logged() == ["the database is away", "the database is back"]
    away, back = (line for line in lines if line["event"] in logged())
    assert away["cause"].startswith(f"{host}: ")
    assert (back["host"], back["seconds"] > 0) == (host, True)


async def test_frequent_failure_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it repeats before it is known whether the database is away."""
    monkeypatch.setattr(outages, "LINE_DELAY_SECONDS", 0.01)
    outage_log = outages.Outages()
    with capture_logs() as lines:
        for _ in range(1000):
            outage_log.worker_failed(
                "gathering broke", DatabaseUnavailable("the connection was lost")
            )
        assert outage_log.delayed_lines == 1
        await until(lambda: not outage_log.delayed_lines, DEADLINE_SECONDS)
        outage_log.worker_failed("gathering broke", DatabaseUnavailable("the connection was lost"))
        assert outage_log.delayed_lines == 0
    assert [line["event"] for line in lines] == ["gathering broke"]


async def test_lasting_outage_is_logged_rarely() -> None:
    """The wait doubles each time, and the line has the duration."""
    now = 1000.0
    outage_log = outages.Outages(clock=lambda: now)
    with capture_logs() as lines:
        for _ in range(2 * 3600):
            outage_log.began("h1:5432: Connection refused")
            now += 1.0
        outage_log.ended("h1:5432")
        outage_log.ended("h1:5432")
    assert [line.get("seconds") for line in lines] == [
        None,
        60.0,
        180.0,
        420.0,
        900.0,
        1860.0,
        3780.0,
        7200.0,
    ]
    assert {line["event"] for line in lines[1:-1]} == {"the database is still away"}


async def test_worker_failure_is_logged_without_an_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with a full disk: logged in full at once, and then rarely."""
    monkeypatch.setattr(outages, "LINE_DELAY_SECONDS", 0.0)
    outage_log = outages.Outages()
    with capture_logs() as lines:
        for _ in range(3):
            outage_log.worker_failed(
                "sealing must wait for the database", DatabaseUnavailable("SQLSTATE 53100")
            )
            await until(lambda: len(lines) == 1, DEADLINE_SECONDS)
        outage_log.worker_failed("sealing failed unexpectedly", ZeroDivisionError())
    assert [line["event"] for line in lines] == [
        "sealing must wait for the database",
        "sealing failed unexpectedly",
    ]


async def test_all_pools_of_a_server_share_their_hosts(pair: Pair) -> None:
    """So all sessions of a server can be ended at once when a host is deposed."""
    engines = Engines.of(pair.url(), Settings(_env_file=None, database_url=pair.url()))
    pools = [
        pool
        for field in fields(engines)
        if isinstance(pool := getattr(engines, field.name), AsyncEngine)
    ]
    assert len(pools) > 3
    try:
        for pool in pools:
            async with autocommit(pool):
                pass
        assert len(engines.hosts.sessions) == len(pools)
    finally:
        await engines.dispose()


async def test_deposed_host_is_left_and_not_used_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary hangs and its standby takes over.

    Sessions in use end at once, idle ones with them, in every pool. When the old primary wakes up,
    it still believes that it takes writes.
    """
    monkeypatch.setattr(server, "PING_INTERVAL_SECONDS", 0.1)
    old, new = pair.directories
    hosts = Hosts(pair.url())
    engines = [create_engine(hosts, pool_size=2) for _ in range(2)]
    kept = KeptConnections(engines[0])
    hosts.start()
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            async with kept.autocommit() as idle:
                assert directory_of(idle) == old
            in_use = [asyncio.create_task(sleep(engine)) for engine in engines]
            await until(lambda: sleeping(pair, 2), DEADLINE_SECONDS)
            pair.freeze()
            # A server that knows only the standby takes no calls until that is promoted.
            async with running_ledger(
                Database(pair.url(new), pair.url(new, user="postgres"))
            ) as ledger:
                assert await health_of(ledger) == health_pb2.HealthCheckResponse.NOT_SERVING
                pair.promote()
                await until(lambda: serves(ledger), DEADLINE_SECONDS)
            for task in in_use:
                with pytest.raises(DatabaseUnavailable):
                    await task
            assert idle.is_closed()
            pair.thaw()
            # A process that knows only the old primary would use it.
            assert await place_of(Hosts(pair.url(old), target="read-write")) == old
            for engine in engines:
                async with autocommit(engine) as connection:
                    assert directory_of(connection) == new
            async with kept.autocommit() as connection:
                assert directory_of(connection) == new
            # A process that has just started asks all hosts.
            assert await place_of(Hosts(pair.url(old, new))) == new
            # Not even if no other host is left.
            pair.stop_standby()
            with pytest.raises(
                HostUnavailable,
                match=f"{old}:5432: was deposed: it writes timeline 1, and the primary writes 2",
            ):
                while True:
                    await place_of(hosts)
    finally:
        await kept.close()
        for engine in engines:
            await engine.dispose()
        await hosts.stop()


async def health_of(ledger: RunningLedger) -> int:
    """The status in the server's health response."""
    # Its types know synchronous channels only.
    stub: Any = health_pb2_grpc.HealthStub(ledger.channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    return int(response.status)


async def serves(ledger: RunningLedger) -> bool:
    return await health_of(ledger) == health_pb2.HealthCheckResponse.SERVING


async def sleep(engine: AsyncEngine) -> None:
    """Keeps a session busy."""
    async with autocommit(engine) as connection:
        await connection.execute("SET statement_timeout = 0", timeout=DEADLINE_SECONDS)
        await connection.execute("SELECT pg_sleep(600)", timeout=600)


async def sleeping(pair: Pair, count: int) -> bool:
    """Whether `count` sessions are busy."""
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    return await query(pair.primary.superuser_url, asleep) == [(count,)]
