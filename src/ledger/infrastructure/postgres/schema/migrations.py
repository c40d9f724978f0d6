"""Brings a database to the newest schema, and tells which schema it has."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import sqlalchemy.exc
import structlog
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ledger.infrastructure.postgres.schema.mending import mend, take_over
from ledger.infrastructure.postgres.sessions.engine import OWNER_ROLE, connect
from ledger.infrastructure.postgres.sessions.errors import database_errors
from ledger.infrastructure.postgres.sessions.hosts import Hosts
from ledger.resources import resource

# The only one that holds every text that callers may send.
ENCODING = "UTF8"
# Whoever comes after a migration that waits for a lock waits behind it: so it gives way soon, sooner than
# PostgreSQL looks for deadlocks, and tries again.
LOCK_TIMEOUT_SECONDS = 0.3
LOCK_PAUSE_SECONDS = (0.3, 1.0)
# For how long: the transactions of servers are shorter.
LOCKS_WAIT_SECONDS = 120
# lock_not_available, deadlock_detected.
_LOCK_SQLSTATES = ("55P03", "40P01")
# For another server that is migrating.
MIGRATION_WAIT_SECONDS = 120
MIGRATION_POLL_SECONDS = 0.1
# Two servers that start at once migrate one after the other. Any constant does, as long as nothing else uses it.
_ADVISORY_LOCK_KEY = 0x6C65646765720001

T = TypeVar("T")

_log = structlog.get_logger("ledger")


def head_revision() -> str:
    """The newest revision that this code knows. Their files' names begin with them, and sort as they follow each other."""
    return max(path.name for path in resource("alembic", "versions").glob("[0-9]*_*.py")).partition(
        "_"
    )[0]


async def current_revision(engine: AsyncEngine) -> str | None:
    """The revision of the database's schema; None when there is no schema.

    Raises DatabaseUnavailable, and MayNotRead if the role may not read it.
    """
    with database_errors():
        async with aclosing(await connect(engine)) as connection:
            try:
                revision: str | None = await connection.scalar(
                    text("SELECT version_num FROM alembic_version")
                )
            except sqlalchemy.exc.ProgrammingError as error:
                if getattr(error.orig, "sqlstate", None) == "42501":
                    raise MayNotRead("SELECT on alembic_version") from error
                await connection.rollback()
                # A schema that the role may not use is left out of its path.
                if schema := await connection.scalar(text(SELECT_CLOSED_SCHEMA)):
                    raise MayNotRead(f"USAGE on schema {schema}") from error
                return None
            return revision


# The schema of the books, if the role may not use it. Only the catalog shows it.
SELECT_CLOSED_SCHEMA = """
SELECT n.nspname::text
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_class AS e ON e.relnamespace = c.relnamespace AND e.relname = 'ledger_entries'
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = 'alembic_version' AND NOT has_schema_privilege(n.oid, 'USAGE')
ORDER BY n.nspname
LIMIT 1
"""

# Who of the roles may not use the schema that the database, or the role that migrates, has first on its path.
SELECT_SHUT_OUT = """
SELECT array_agg(r.rolname::text ORDER BY r.rolname)
FROM pg_catalog.pg_roles AS r
WHERE r.rolname IN ('ledger_app', 'ledger_read') AND NOT has_schema_privilege(r.oid, current_schema(), 'USAGE')
"""


GRANT_USAGE = """
DO $$ BEGIN
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO ledger_app, ledger_read', current_schema());
END $$
"""


class MayNotRead(Exception):
    """The role may not read a table: the privilege that it lacks."""


class CannotMigrate(Exception):
    """The schema cannot be moved to the revision asked for, or from the one that the database has."""


def _log_mended(sentence: str) -> None:
    _log.warning("mended what a move of the books had left", what=sentence)


def migrate(
    url: str, revision: str = "head", *, on_mended: Callable[[str], None] = _log_mended
) -> tuple[str | None, str | None]:
    """Creates the roles and moves the schema to `revision`, up or down; the revisions before and after. Not from an event loop.

    At the newest schema it mends what a restore or replication left: owners, privileges, triggers
    and sequences; `on_mended` is told of each in a sentence. `url` logs in as a superuser, or as a
    member of ledger_owner once the roles exist. On repeat nothing changes. Each step is a transaction;
    killed anywhere, the next call goes on. Raises CannotMigrate, DatabaseUnavailable.
    """
    return asyncio.run(migrate_async(url, revision, on_mended=on_mended))


async def migrate_async(
    url: str, revision: str = "head", *, on_mended: Callable[[str], None] = _log_mended
) -> tuple[str | None, str | None]:
    """As `migrate`, from within an event loop."""
    # Loaded when needed: Alembic takes an eighth of the time that a server takes to load, and most servers migrate nothing.
    from ledger.infrastructure.postgres.schema.schema_moves import move_schema, schema_revision

    engine = create_async_engine(
        url, poolclass=NullPool, async_creator=Hosts(url, target="read-write").connect
    )
    try:
        with database_errors():
            async with aclosing(await connect(engine)) as connection:
                await _wait_for_other_migrations(connection)
                for sentence in await _giving_way(connection, lambda: _prepare(connection)):
                    on_mended(sentence)
                await connection.execute(text(f"SET ROLE {OWNER_ROLE}"))
                await connection.commit()
                before = await connection.run_sync(schema_revision)
                await _giving_way(connection, lambda: connection.run_sync(move_schema, revision))
                after = await connection.run_sync(schema_revision)
                if after == head_revision():
                    for sentence in await _giving_way(connection, lambda: mend(connection)):
                        on_mended(sentence)
                return before, after
    finally:
        await engine.dispose()


async def _wait_for_other_migrations(connection: AsyncConnection) -> None:
    """Takes the lock of migrations, which belongs to the session. Raises CannotMigrate.

    Asks again and again: a statement that waits has a snapshot, for whose end an index waits that another
    migration builds concurrently.
    """
    deadline = time.monotonic() + MIGRATION_WAIT_SECONDS
    while True:
        taken = await connection.scalar(
            text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_LOCK_KEY}
        )
        await connection.commit()
        if taken:
            return
        if time.monotonic() > deadline:
            raise CannotMigrate(
                f"another migration has been running for {MIGRATION_WAIT_SECONDS} s"
            )
        await asyncio.sleep(MIGRATION_POLL_SECONDS)


async def _giving_way(connection: AsyncConnection, step: Callable[[], Awaitable[T]]) -> T:
    """Does a step and commits it, again and again while others hold the locks that it needs.

    Raises CannotMigrate if they do for LOCKS_WAIT_SECONDS.
    """
    deadline = time.monotonic() + LOCKS_WAIT_SECONDS
    while True:
        try:
            await connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))
            await connection.commit()
            done = await step()
            await connection.commit()
        except (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.PendingRollbackError) as told:
            error = _cause(told)
            await connection.rollback()
            if getattr(error.orig, "sqlstate", None) not in _LOCK_SQLSTATES:
                raise error from None
            if time.monotonic() > deadline:
                raise CannotMigrate(
                    f"other sessions have held a lock that is needed for {LOCKS_WAIT_SECONDS} s: end those whose"
                    " transactions are long (pg_stat_activity, xact_start), and run it again, which goes on"
                ) from error
        else:
            return done
        await asyncio.sleep(random.uniform(*LOCK_PAUSE_SECONDS))  # noqa: S311


def _cause(error: BaseException) -> sqlalchemy.exc.DBAPIError:
    """What the database said: SQLAlchemy tells of a session that was lost only that it must be rolled back."""
    while not isinstance(error, sqlalchemy.exc.DBAPIError):
        if error.__context__ is None:
            raise error
        error = error.__context__
    return error


async def create_database(server_url: str, name: str) -> None:
    """Creates the database `name` on a server whose superuser `server_url` logs in as, unless it exists."""
    engine = create_async_engine(server_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            exists = await connection.scalar(
                text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}
            )
            if not exists:
                quoted = connection.dialect.identifier_preparer.quote(name)
                try:
                    await connection.execute(text(f"CREATE DATABASE {quoted}"))
                except sqlalchemy.exc.DBAPIError as error:
                    if getattr(error.orig, "sqlstate", None) not in ("42P04", "23505"):
                        raise  # these two say that another process created it just now
    finally:
        await engine.dispose()


def database_url(url: str, *, database: str | None = None, user: str | None = None) -> str:
    """`url` with another database or user."""
    parsed = make_url(url)
    if database is not None:
        parsed = parsed.set(database=database)
    if user is not None:
        parsed = parsed.set(username=user, password=None)
    return parsed.render_as_string(hide_password=False)


async def _prepare(connection: AsyncConnection) -> list[str]:
    """Roles, the right of the owner to create tables, and its tables.

    Only what is missing, so that a lesser role than superuser will do. Returns what was mended.
    """
    encoding = await connection.scalar(text("SELECT current_setting('server_encoding')"))
    if encoding != ENCODING and not await connection.scalar(
        text("SELECT to_regclass('processor_events') IS NOT NULL")
    ):
        raise CannotMigrate(
            f"the database has the encoding {encoding}, which cannot keep every text: create it with ENCODING '{ENCODING}'"
            " TEMPLATE template0"
        )
    existing = await connection.scalar(
        text(
            "SELECT count(*) FROM pg_roles WHERE rolname IN ('ledger_owner', 'ledger_app', 'ledger_read')"
        )
    )
    if existing != 3:
        await connection.exec_driver_sql(resource("sql", "roles.sql").read_text())
    # The schema that the database, or the role that migrates, has first on its path.
    granted: list[str] = []
    if await connection.scalar(text("SELECT current_schema() IS NULL")):
        raise CannotMigrate(
            "the role that migrates may use no schema of its path: LEDGER_MIGRATION_DATABASE_URL must name a superuser,"
            " or a member of ledger_owner"
        )
    if not await connection.scalar(
        text(f"SELECT has_schema_privilege('{OWNER_ROLE}', current_schema(), 'CREATE')")
    ):
        await connection.execute(
            text(
                f"DO $$ BEGIN EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO {OWNER_ROLE}', current_schema()); END $$"
            )
        )
        await connection.execute(text(GRANT_USAGE))
    elif shut_out := await connection.scalar(text(SELECT_SHUT_OUT)):
        await connection.execute(text(GRANT_USAGE))
        # Who may not grant it is only warned.
        if await connection.scalar(text(SELECT_SHUT_OUT)):
            raise CannotMigrate(
                f"{' and '.join(shut_out)} may not use the schema of the books, and the role that migrates cannot grant it: "
                "as a superuser, GRANT USAGE ON SCHEMA … TO ledger_app, ledger_read"
            )
        granted.append(f"granted {' and '.join(shut_out)} the use of the schema")
    if await connection.scalar(text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")):
        return [*granted, *await take_over(connection)]
    return granted
