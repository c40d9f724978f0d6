"""Moves a database to the newest schema, and reads which schema it has."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import asyncpg
import structlog
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ledger.infrastructure.postgres.schema.failures import CannotMigrate, MayNotRead
from ledger.infrastructure.postgres.schema.mending import mend, take_over
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import (
    OWNER_ROLE,
    autocommit,
    connect,
    driver_of,
)
from ledger.infrastructure.postgres.sessions.errors import database_errors, sqlstate_of
from ledger.infrastructure.postgres.sessions.hosts import Hosts
from ledger.resources import resource

# The only encoding that holds every text that callers may send.
ENCODING = "UTF8"
# Other sessions queue behind a migration that waits for a lock. So it gives up soon, before
# PostgreSQL looks for deadlocks, and tries again.
LOCK_TIMEOUT_SECONDS = 0.3
LOCK_PAUSE_SECONDS = (0.3, 1.0)
# Longer than any transaction of a server.
LOCKS_WAIT_SECONDS = 120
# lock_not_available, deadlock_detected.
_LOCK_SQLSTATES = ("55P03", "40P01")
# For another server that is migrating.
MIGRATION_WAIT_SECONDS = 120
MIGRATION_POLL_SECONDS = 0.1
# The lock that lets one server migrate at a time. Any constant that nothing else uses.
_ADVISORY_LOCK_KEY = 0x6C65646765720001
# duplicate_database, and the unique_violation of a race: another process has just created it.
_DATABASE_EXISTS_SQLSTATES = ("42P04", "23505")

T = TypeVar("T")

_log = structlog.get_logger("ledger")


def head_revision() -> str:
    """The newest revision that this code knows.

    The names of the migrations' files begin with their revisions, which sort in their order.
    """
    names = [path.name for path in resource("alembic", "versions").glob("[0-9]*_*.py")]
    return max(names).partition("_")[0]


async def current_revision(engine: AsyncEngine) -> str | None:
    """The revision of the database's schema; None when there is no schema.

    Raises DatabaseUnavailable, and MayNotRead if the role may not read it.
    """
    async with autocommit(engine) as connection:
        try:
            revision: str | None = await connection.fetchval(
                "SELECT version_num FROM alembic_version"
            )
        except asyncpg.InsufficientPrivilegeError as error:
            raise MayNotRead("SELECT on alembic_version") from error
        except asyncpg.SyntaxOrAccessError as error:
            # PostgreSQL leaves a schema out of the path if the role may not use it.
            if schema := await connection.fetchval(SELECT_CLOSED_SCHEMA):
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

# The roles of servers and reports that may not use the first schema of the path. The path is that
# of the database, or of the role that migrates.
SELECT_ROLES_WITHOUT_USAGE = """
SELECT array_agg(r.rolname::text ORDER BY r.rolname)
FROM pg_catalog.pg_roles AS r
WHERE r.rolname IN ('ledger_app', 'ledger_read')
  AND NOT has_schema_privilege(r.oid, current_schema(), 'USAGE')
"""

SELECT_OWNER_MAY_CREATE = f"SELECT has_schema_privilege('{OWNER_ROLE}', current_schema(), 'CREATE')"

GRANT_USAGE = """
DO $$ BEGIN
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO ledger_app, ledger_read', current_schema());
END $$
"""

GRANT_CREATE = f"""
DO $$ BEGIN
  EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO {OWNER_ROLE}', current_schema());
END $$
"""


def _log_mended(sentence: str) -> None:
    _log.warning("mended what a move of the books had left", what=sentence)


def migrate(
    url: str, revision: str = "head", *, on_mended: Callable[[str], None] = _log_mended
) -> tuple[str | None, str | None]:
    """Creates the roles and moves the schema to `revision`, up or down. Not from an event loop.

    Returns the revisions before and after. At the newest schema it also mends what a restore or
    replication left: owners, privileges, triggers and sequences, and calls `on_mended` with a
    sentence for each. `url` logs in as a superuser or, once the roles exist, as a member of
    ledger_owner. On repeat nothing changes. Each step is a transaction: after a kill at any point
    the next call continues. Raises CannotMigrate, DatabaseUnavailable.
    """
    return asyncio.run(migrate_async(url, revision, on_mended=on_mended))


async def migrate_async(
    url: str, revision: str = "head", *, on_mended: Callable[[str], None] = _log_mended
) -> tuple[str | None, str | None]:
    """As `migrate`, from within an event loop."""
    # Loaded when needed: Alembic takes an eighth of the time that a server takes to load, and most
    # servers migrate nothing.
    from ledger.infrastructure.postgres.schema.schema_moves import move_schema, schema_revision

    engine = create_async_engine(
        url, poolclass=NullPool, async_creator=Hosts(url, target="read-write").connect
    )
    try:
        with database_errors():
            async with aclosing(await connect(engine)) as pooled:
                connection = await driver_of(pooled)
                await _wait_for_other_migrations(connection)
                for sentence in await _retry_on_locks(connection, lambda: _prepare(connection)):
                    on_mended(sentence)
                await connection.execute(f"SET ROLE {OWNER_ROLE}")
                before = await pooled.run_sync(schema_revision)
                await _retry_on_locks(connection, lambda: _move(pooled, move_schema, revision))
                after = await pooled.run_sync(schema_revision)
                if after == head_revision():
                    for sentence in await _retry_on_locks(connection, lambda: _mend(connection)):
                        on_mended(sentence)
                return before, after
    finally:
        await engine.dispose()


async def _wait_for_other_migrations(connection: Connection) -> None:
    """Takes the lock of migrations, which belongs to the session. Raises CannotMigrate.

    Polls instead of waiting in one statement: a statement that waits holds a database snapshot,
    and a migration that builds an index concurrently waits for that snapshot to end.
    """
    deadline = time.monotonic() + MIGRATION_WAIT_SECONDS
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _ADVISORY_LOCK_KEY):
        if time.monotonic() > deadline:
            raise CannotMigrate(
                f"another migration has been running for {MIGRATION_WAIT_SECONDS} s"
            )
        await asyncio.sleep(MIGRATION_POLL_SECONDS)


async def _retry_on_locks(connection: Connection, step: Callable[[], Awaitable[T]]) -> T:
    """Does a step, one transaction, and repeats it while other sessions lock what it needs.

    Raises CannotMigrate if they do so for LOCKS_WAIT_SECONDS.
    """
    deadline = time.monotonic() + LOCKS_WAIT_SECONDS
    while True:
        try:
            await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
            return await step()
        except (DBAPIError, PendingRollbackError, asyncpg.PostgresError) as raised:
            error = _cause(raised)
            if sqlstate_of(error) not in _LOCK_SQLSTATES:
                raise error from None
            if time.monotonic() > deadline:
                raise CannotMigrate(
                    f"other sessions have held a lock that is needed for {LOCKS_WAIT_SECONDS} s:"
                    " end those whose transactions are long (pg_stat_activity, xact_start), and"
                    " run it again, which goes on"
                ) from error
        await asyncio.sleep(random.uniform(*LOCK_PAUSE_SECONDS))  # noqa: S311


def _cause(error: BaseException) -> BaseException:
    """The database's error behind `error`.

    SQLAlchemy may report only that a lost session needs a rollback.
    """
    while not isinstance(error, (DBAPIError, asyncpg.PostgresError)):
        if error.__context__ is None:
            raise error
        error = error.__context__
    return error


async def _move(pooled: AsyncConnection, move_schema: Callable[..., None], revision: str) -> None:
    try:
        await pooled.run_sync(move_schema, revision)
        await pooled.commit()
    except (DBAPIError, PendingRollbackError):
        await pooled.rollback()
        raise


async def _mend(connection: Connection) -> list[str]:
    async with connection.transaction():
        return await mend(connection)


async def create_database(server_url: str, name: str) -> None:
    """Creates the database `name`, unless it exists. `server_url` must log in as a superuser.

    Raises the driver's or the network's error as it is: asyncpg.PostgresError, OSError.
    """
    engine = create_async_engine(server_url, poolclass=NullPool)
    try:
        async with autocommit(engine) as connection:
            if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
                return
            quoted = await connection.fetchval("SELECT quote_ident($1)", name)
            try:
                await connection.execute(f"CREATE DATABASE {quoted}")
            except asyncpg.PostgresError as error:
                if sqlstate_of(error) not in _DATABASE_EXISTS_SQLSTATES:
                    raise
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


async def _prepare(connection: Connection) -> list[str]:
    """Creates the roles, lets the owner create tables, and makes it the owner of existing tables.

    Does only what is missing, so that a role with fewer rights than a superuser is enough.
    Returns what it mended.
    """
    async with connection.transaction():
        encoding = await connection.fetchval("SELECT current_setting('server_encoding')")
        if encoding != ENCODING and not await connection.fetchval(
            "SELECT to_regclass('processor_events') IS NOT NULL"
        ):
            raise CannotMigrate(
                f"the database has the encoding {encoding}, which cannot keep every text: create it"
                f" with ENCODING '{ENCODING}' TEMPLATE template0"
            )
        existing = await connection.fetchval(
            "SELECT count(*) FROM pg_roles"
            " WHERE rolname IN ('ledger_owner', 'ledger_app', 'ledger_read')"
        )
        if existing != 3:
            await connection.execute(resource("sql", "roles.sql").read_text())
        if await connection.fetchval("SELECT current_schema() IS NULL"):
            raise CannotMigrate(
                "the role that migrates may use no schema of its path:"
                " LEDGER_MIGRATION_DATABASE_URL must name a superuser, or a member of ledger_owner"
            )
        mended: list[str] = []
        if not await connection.fetchval(SELECT_OWNER_MAY_CREATE):
            await connection.execute(GRANT_CREATE)
            await connection.execute(GRANT_USAGE)
        elif without_usage := await connection.fetchval(SELECT_ROLES_WITHOUT_USAGE):
            await connection.execute(GRANT_USAGE)
            # PostgreSQL only warns a role that may not grant it.
            if await connection.fetchval(SELECT_ROLES_WITHOUT_USAGE):
                raise CannotMigrate(
                    f"{' and '.join(without_usage)} may not use the schema of the books, and the"
                    " role that migrates cannot grant it: as a superuser, GRANT USAGE ON SCHEMA …"
                    " TO ledger_app, ledger_read"
                )
            mended.append(f"granted {' and '.join(without_usage)} the use of the schema")
        if await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
            mended += await take_over(connection)
        return mended
