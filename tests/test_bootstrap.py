"""How the parts are put together."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from ledger.bootstrap.database import (
    WATCH_SESSIONS,
    Engines,
    connections_of_a_server,
    embedded_connections,
    pool_sizes,
)
from ledger.settings import Settings


@pytest.mark.parametrize(
    ("workers", "pool_size", "connections"),
    [(1, 10, 200), (8, 10, 346), (16, 20, 802), (64, 200, 14578)],
)
def test_embedded_database_has_room_for_all_workers(
    workers: int, pool_size: int, connections: int
) -> None:
    """For all their pools, and 50 connections more."""
    assert (
        embedded_connections(
            Settings(_env_file=None, workers=workers, database_pool_size=pool_size)
        )
        == connections
    )


ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [
    {},
    {"ingest_concurrency": 7, "database_pool_size": 31, "long_read_pool_size": 13},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_server_opens_the_connections_of_its_pools(settings: dict[str, int]) -> None:
    """And one more, which watches the host."""
    configured = Settings(_env_file=None, **settings)  # type: ignore[arg-type]
    engines = Engines.of("postgresql+asyncpg://localhost/ledger", configured)
    pools = [
        engine.pool
        for field in fields(engines)
        if isinstance(engine := getattr(engines, field.name), AsyncEngine)
    ]
    assert len(pools) == len(pool_sizes(configured))
    sizes = [pool.size() for pool in pools if isinstance(pool, QueuePool)]
    assert sum(sizes) + WATCH_SESSIONS == connections_of_a_server(configured)


@pytest.mark.parametrize("settings", SETTINGS)
def test_documented_formula_gives_the_connections_of_a_server(settings: dict[str, int]) -> None:
    """The one of docs/operations/servers.md."""
    text = (ROOT / "docs" / "operations" / "servers.md").read_text(encoding="utf-8")
    found = re.search(r"^ +\(([A-Z_0-9 x+]+)\) x workers x hosts$", text, re.MULTILINE)
    assert found is not None
    configured = Settings(_env_file=None, **settings)  # type: ignore[arg-type]
    total = 0
    for summand in found[1].split(" + "):
        factor, _, name = summand.rpartition(" x ")
        value = int(name) if name.isdigit() else getattr(configured, name[7:].lower())
        total += int(factor or 1) * value
    assert total == connections_of_a_server(configured)
