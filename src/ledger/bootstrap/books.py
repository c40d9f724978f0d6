"""Opens the books for commands that work without a server."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.bootstrap.database import Database, open_database
from ledger.domain.audit import AuditReport, Verification, VerificationReport
from ledger.domain.seals import ChainReport, HeadAt
from ledger.infrastructure.postgres.embedded import (
    EmbeddedPostgresError,
    default_data_dir,
    has_cluster,
)
from ledger.infrastructure.postgres.sessions.engine import (
    EITHER_ROLE,
    OWNER_ROLE,
    create_engine,
)
from ledger.infrastructure.postgres.sessions.hosts import Hosts
from ledger.infrastructure.postgres.verification.audit import audit
from ledger.infrastructure.postgres.verification.doctor import (
    DURABLE,
    RESTRICTED,
    Condition,
    examine,
)
from ledger.infrastructure.postgres.verification.heads import head_at
from ledger.infrastructure.postgres.verification.seal_audit import verify_chain
from ledger.infrastructure.postgres.verification.start_checks import check_schema
from ledger.infrastructure.postgres.verification.verifications import (
    newest_verifications,
    verify_books,
)
from ledger.settings import Settings

T = TypeVar("T")


def examine_database(settings: Settings) -> tuple[Condition, ...]:
    """Checks whether the configured or embedded database is fit for a server. Writes nothing.

    Call it in the main thread, outside an event loop. Raises EmbeddedPostgresError,
    DatabaseUnavailable.
    """
    not_required = set()
    if not settings.require_durable_database:
        not_required.add(DURABLE)
    if not settings.require_restricted_role:
        not_required.add(RESTRICTED)

    async def work_on(database: Database) -> tuple[Condition, ...]:
        engine = create_engine(database.url, pool_size=2)
        try:
            return await examine(engine, not_required=frozenset(not_required))
        finally:
            await engine.dispose()

    _refuse_to_make_books(settings)
    with open_database(settings, newest_schema=False) as database:
        return asyncio.run(work_on(database))


def audit_books(settings: Settings) -> AuditReport:
    """Audits the books of the configured or embedded database. Writes nothing.

    Call it in the main thread, outside an event loop. Raises SchemaMismatch,
    EmbeddedPostgresError, DatabaseUnavailable, DatabaseTimeout.
    """
    return on_books(settings, partial(audit, payout_answer_days=settings.payout_answer_days))


def verify_configured_books(settings: Settings, *, whole: bool) -> VerificationReport:
    """Checks what is new since the latest verification, or whole books, and stores that it did.

    The rest is as for `audit_books`.
    """
    return on_books(
        settings,
        partial(verify_books, whole=whole, payout_answer_days=settings.payout_answer_days),
    )


def stored_verifications(settings: Settings, count: int) -> list[Verification]:
    """The latest verifications that were stored, newest first. The rest is as for `audit_books`."""
    return on_books(settings, lambda engine: newest_verifications(engine, count))


def sealed_head(settings: Settings, at: datetime | None) -> HeadAt:
    """The head of the chain at an instant, or now. The rest is as for `audit_books`."""
    return on_books(settings, lambda engine: head_at(engine, at))


def verify_seals(settings: Settings, expected_hash: bytes | None) -> ChainReport:
    """Recomputes the chain of seals. The rest is as for `audit_books`."""
    return on_books(settings, lambda engine: verify_chain(engine, expected_hash))


def on_books(
    settings: Settings, work: Callable[[AsyncEngine], Awaitable[T]], *, as_owner: bool = False
) -> T:
    """Runs `work` on the existing books of the configured or embedded database.

    Creates no books. `work` has a session of ledger_app, or of ledger_read if the login may not act
    as ledger_app. With `as_owner`, for commands that remove rows, it has two sessions of the role
    that owns the tables, on the host that takes writes. Call it in the main thread, outside an
    event loop. Raises SchemaMismatch, EmbeddedPostgresError, DatabaseUnavailable, and what `work`
    raises.
    """

    async def work_on(database: Database) -> T:
        if as_owner:
            engine = create_engine(
                Hosts(database.migration_url, target="read-write"), pool_size=2, role=OWNER_ROLE
            )
        else:
            engine = create_engine(database.url, pool_size=1, role=EITHER_ROLE)
        try:
            await check_schema(engine)
            return await work(engine)
        finally:
            await engine.dispose()

    _refuse_to_make_books(settings)
    with open_database(settings) as database:
        return asyncio.run(work_on(database))


def _refuse_to_make_books(settings: Settings) -> None:
    """Raises EmbeddedPostgresError if opening the embedded database would make a new one."""
    data_dir = settings.data_dir or default_data_dir()
    if not settings.database_url and not has_cluster(data_dir):
        raise EmbeddedPostgresError(
            f"there are no books in {data_dir}: LEDGER_DATA_DIR says where they are"
        )
