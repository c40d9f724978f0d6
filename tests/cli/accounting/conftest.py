"""Books with three months of random entries."""

import random
from datetime import timedelta

import pytest
from support.histories import WrittenEntry, history, utc, write_history

from ledger.bootstrap.database import Database

# Five hours behind UTC, so that months begin at 05:00 UTC.
ZONE = "America/Lima"


@pytest.fixture
async def written(
    database: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> list[WrittenEntry]:
    """The entries of September to November 2025 in Lima, in the configured books."""
    entries = history(random.Random(seed), 150, utc(2025, 9, 1, 5), timedelta(days=91))
    await write_history(database, entries)
    monkeypatch.setenv("LEDGER_DATABASE_URL", database.url)
    monkeypatch.setenv("LEDGER_SETTLEMENT_TIMEZONE", ZONE)
    return entries
