"""Seals the books without a server."""

import asyncio

from ledger.application.seal_ledger import LedgerSealer
from ledger.infrastructure.postgres.seals import PostgresSealedBooks
from ledger.infrastructure.postgres.sessions.engine import create_engine
from support.running import query
from support.waiting import DEADLINE_SECONDS

# How many events and entries are sealed, and how many there are.
COUNTS = """
SELECT (SELECT COALESCE(sum(events_count), 0)::int FROM ledger_seals),
       (SELECT COALESCE(sum(entries_count), 0)::int FROM ledger_seals),
       (SELECT count(*)::int FROM processor_events), (SELECT count(*)::int FROM ledger_entries)
"""


async def seal(url: str) -> None:
    """Seals every final row."""
    engine = create_engine(url, pool_size=1)
    try:
        sealer = LedgerSealer(PostgresSealedBooks(engine))
        while await sealer.seal_next():
            pass
    finally:
        await engine.dispose()


async def seal_everything(url: str, *, timeout_seconds: float = DEADLINE_SECONDS) -> None:
    """Seals everything that is booked.

    A transaction of another session may delay this for a moment.
    """
    async with asyncio.timeout(timeout_seconds):
        while True:
            await seal(url)
            ((events_sealed, entries_sealed, events, entries),) = await query(url, COUNTS)
            if (events_sealed, entries_sealed) == (events, entries):
                return
            await asyncio.sleep(0.02)
