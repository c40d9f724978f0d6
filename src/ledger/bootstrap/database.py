"""The configured database or the embedded one, and a server's pools of sessions."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Self, get_args

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.grouped_balances import GROUPS_AT_ONCE_MAX
from ledger.application.payments.pay import SESSIONS_MAX as PAYMENT_SESSIONS_MAX
from ledger.database_url import shown_url
from ledger.errors import DatabaseUnavailable
from ledger.infrastructure.postgres.embedded import EmbeddedPostgres, default_data_dir
from ledger.infrastructure.postgres.schema.migrations import create_database, migrate
from ledger.infrastructure.postgres.sessions.engine import (
    APPLICATION_ROLE,
    GROUP_LOCK_TIMEOUT_SECONDS,
    LOCK_TIMEOUT_SECONDS,
    autocommit,
    create_engine,
    keeps_session,
)
from ledger.infrastructure.postgres.sessions.hosts import Hosts
from ledger.settings import Settings

DATABASE_NAME = "ledger"

# How many sessions the embedded PostgreSQL accepts: this many more than those of the workers, and
# at least this many.
EMBEDDED_SESSIONS_SPARE = 50
EMBEDDED_SESSIONS_MIN = 200
# The session of `Hosts` that watches a host.
WATCH_SESSIONS = 1


@dataclass(frozen=True, slots=True)
class Database:
    """Where the books are: `url` for servers, `migration_url` for migrations.

    `embedded_in` is the data directory of an embedded PostgreSQL. `attached` is true if another
    process started that PostgreSQL, and will stop it.
    """

    url: str
    migration_url: str
    embedded_in: str | None = None
    attached: bool = False

    @property
    def description(self) -> str:
        """Where the database is, for people and without the password."""
        if self.embedded_in is not None:
            return f"embedded PostgreSQL in {self.embedded_in}"
        return shown_url(self.url)


@contextmanager
def open_database(settings: Settings, *, newest_schema: bool = True) -> Iterator[Database]:
    """Yields the configured database, or an embedded one.

    Starts the embedded PostgreSQL if it is not running, and then stops it at the end. Migrates it,
    because it has no other administrator, unless `newest_schema` is false. Call it in the main
    thread, outside an event loop. Raises EmbeddedPostgresError, DatabaseUnavailable, CannotMigrate.
    """
    if settings.database_url:
        yield Database(settings.database_url, settings.url_for_migrations)
        return
    data_dir = settings.data_dir or default_data_dir()
    with EmbeddedPostgres.start(
        data_dir, parameters={"max_connections": str(embedded_connections(settings))}
    ) as postgres:
        owner_url = postgres.url(user=postgres.superuser, database=DATABASE_NAME)
        asyncio.run(
            create_database(
                postgres.url(user=postgres.superuser, database="postgres"), DATABASE_NAME
            )
        )
        if newest_schema:
            migrate(owner_url)
        application_url = postgres.url(user=APPLICATION_ROLE, database=DATABASE_NAME)
        yield Database(application_url, owner_url, str(data_dir), postgres.attached)


Pool = Literal["groups", "ingest", "payments", "balances", "long_reads", "other", "ping"]


def pool_sizes(settings: Settings) -> Mapping[Pool, int]:
    """How many sessions each pool may open. docs/operations/servers.md has the table."""
    return {
        "groups": settings.ingest_concurrency,
        "ingest": settings.ingest_pool_size,
        "payments": PAYMENT_SESSIONS_MAX,
        # Groups of balances of restaurants, and as many of balances of accounts.
        "balances": 2 * GROUPS_AT_ONCE_MAX,
        "long_reads": settings.long_read_pool_size,
        "other": settings.database_pool_size,
        "ping": 1,
    }


@dataclass(frozen=True, slots=True)
class Engines:
    """The sessions of a server, all on the host that takes writes.

    Each kind of work has a separate pool, so that no kind can take the sessions of another.
    `groups` books single calls, `ingest` batches, `payments` decides payments. `ping` is separate
    so that a server whose sessions are all in use does not look like one without a database.
    """

    groups: AsyncEngine
    ingest: AsyncEngine
    payments: AsyncEngine
    balances: AsyncEngine
    long_reads: AsyncEngine
    other: AsyncEngine
    ping: AsyncEngine
    hosts: Hosts

    @classmethod
    def of(cls, url: str, settings: Settings) -> Self:
        """The engines of a database. They connect at their first use."""
        hosts = Hosts(url, target="read-write")

        sizes = pool_sizes(settings)

        def engine(pool: Pool, *, lock_timeout_seconds: int = LOCK_TIMEOUT_SECONDS) -> AsyncEngine:
            return create_engine(
                hosts, pool_size=sizes[pool], lock_timeout_seconds=lock_timeout_seconds
            )

        return cls(
            groups=engine("groups", lock_timeout_seconds=GROUP_LOCK_TIMEOUT_SECONDS),
            ingest=engine("ingest"),
            payments=engine("payments", lock_timeout_seconds=GROUP_LOCK_TIMEOUT_SECONDS),
            balances=engine("balances"),
            long_reads=engine("long_reads"),
            other=engine("other"),
            ping=engine("ping"),
            hosts=hosts,
        )

    async def dispose(self) -> None:
        """Closes all sessions."""
        for pool in get_args(Pool):
            await getattr(self, pool).dispose()


def connections_of_a_server(settings: Settings) -> int:
    """How many connections a server process opens to a host, at most."""
    return sum(pool_sizes(settings).values()) + WATCH_SESSIONS


def embedded_connections(settings: Settings) -> int:
    """How many connections the embedded PostgreSQL accepts: those of all workers, and some more."""
    return max(
        EMBEDDED_SESSIONS_MIN,
        settings.workers * connections_of_a_server(settings) + EMBEDDED_SESSIONS_SPARE,
    )


async def ping(engine: AsyncEngine) -> None:
    """Checks that a server can work with the database. Raises DatabaseUnavailable if not."""
    async with autocommit(engine) as connection:
        if not await keeps_session(connection):
            raise DatabaseUnavailable(
                "a connection pooler before the database does not keep sessions"
            )
        if await connection.fetchval("SELECT current_setting('transaction_read_only')") == "on":
            raise DatabaseUnavailable("the database takes no writes: a standby, or made read-only")
