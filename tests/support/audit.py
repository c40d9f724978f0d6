"""The audit, for tests that moved money."""

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ledger.bootstrap.database import Database
from ledger.domain.audit import AuditReport
from ledger.infrastructure.postgres.verification.audit import audit
from support.in_memory import MemoryLedger, faults_of


async def assert_books_in_order(database: Database | MemoryLedger) -> None:
    """Audits the books and fails on any error.

    Warnings are facts about the events, which tests may well bring about.
    """
    if isinstance(database, MemoryLedger):
        assert faults_of(database.books) == []
        return
    report = await audit_of(database)
    assert report.checks
    assert not report.errors, "\n".join(
        f"{error.check}: {error.entity} {error.detail}" for error in report.errors
    )


async def audit_of(database: Database) -> AuditReport:
    """The whole audit of a database, run as the superuser."""
    engine = create_async_engine(database.migration_url, poolclass=NullPool)
    try:
        return await audit(engine)
    finally:
        await engine.dispose()
