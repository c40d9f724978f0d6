"""The audit, for tests that moved money."""

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ledger.bootstrap import Database
from ledger.infrastructure.postgres.audit import audit


async def assert_books_in_order(database: Database) -> None:
    """Audits the books and fails on any error; warnings are facts about the events, which tests may well bring about."""
    engine = create_async_engine(database.migration_url, poolclass=NullPool)
    try:
        report = await audit(engine)
    finally:
        await engine.dispose()
    assert report.checks
    assert report.errors == ()
