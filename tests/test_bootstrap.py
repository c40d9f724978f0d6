"""What a server asks of its database before it serves."""

import socket
from collections.abc import AsyncIterator
from contextlib import closing

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from support.running import query

from ledger.api.server import AddressUnavailable
from ledger.bootstrap import Database, NotDurable, check_durability, embedded_connections, told_metrics
from ledger.infrastructure.postgres.engine import create_engine
from ledger.infrastructure.postgres.migrations import database_url
from ledger.settings import Settings


@pytest.fixture
async def engine(database: Database) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database.url, pool_size=1)
    yield engine
    await engine.dispose()


async def test_database_that_does_not_sync_is_refused(engine: AsyncEngine, database: Database) -> None:
    """The server of these tests forgets on power loss, unless it is one that somebody administers: it says so itself."""
    ((fsync,),) = await query(database.migration_url, "SELECT current_setting('fsync')")
    if fsync == "on":
        pytest.skip("this server syncs")
    with pytest.raises(NotDurable, match="fsync = off"):
        await check_durability(engine)


@pytest.mark.parametrize("value", ["off", "local"])
async def test_database_that_commits_asynchronously_is_refused(
    engine: AsyncEngine, database: Database, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """A setting of the database alone is seen as well."""
    name = database_url(database.url).rpartition("/")[2].partition("?")[0]
    await query(database.migration_url, f"ALTER DATABASE {name} SET synchronous_commit = {value}")
    # What the server of these tests cannot meet is left out.
    monkeypatch.setattr("ledger.bootstrap.DURABLE_VALUES", {"synchronous_commit": ("on", "remote_apply")})
    with pytest.raises(NotDurable, match=f"synchronous_commit = {value}"):
        await check_durability(engine)


@pytest.mark.parametrize(("workers", "pool_size", "connections"), [(1, 10, 200), (8, 10, 210), (16, 20, 530), (64, 200, 13490)])
def test_embedded_database_has_room_for_all_workers(workers: int, pool_size: int, connections: int) -> None:
    """All their pools, and 50 for others."""
    assert embedded_connections(Settings(_env_file=None, workers=workers, database_pool_size=pool_size)) == connections


def test_metrics_address_that_is_taken_is_refused() -> None:
    """By the server that comes second; the first goes on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = Settings(_env_file=None, metrics_address=address)
        with pytest.raises(AddressUnavailable, match=f"cannot serve the metrics at {address}"), told_metrics(settings):
            pass
