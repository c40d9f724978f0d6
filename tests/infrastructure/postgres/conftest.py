"""Fixtures of the tests of PostgreSQL."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from support.books import SMALL_POOL

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.sessions.engine import create_engine


@pytest.fixture
async def engine(shared_database: Database) -> AsyncIterator[AsyncEngine]:
    """An engine whose pool is so small that a lost connection is soon noticed."""
    engine = create_engine(shared_database.url, pool_size=SMALL_POOL)
    yield engine
    await engine.dispose()
