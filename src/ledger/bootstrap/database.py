"""The configured database or the embedded one, and the connections of a server to it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.get_balance import GROUPS_AT_ONCE_MAX
from ledger.database_url import shown_url
from ledger.errors import DatabaseUnavailable
from ledger.infrastructure.postgres.embedded import EmbeddedPostgres, default_data_dir
from ledger.infrastructure.postgres.schema.migrations import create_database, migrate
from ledger.infrastructure.postgres.sessions.engine import (
    APPLICATION_ROLE,
    GROUP_LOCK_TIMEOUT_SECONDS,
    autocommit,
    create_engine,
    keeps_session,
)
from ledger.infrastructure.postgres.sessions.hosts import Hosts
from ledger.settings import Settings

DATABASE_NAME = "ledger"


# The embedded server's: how many it has for others than the workers, such as `ledger verify`; and how many it has at least.
EMBEDDED_CONNECTIONS_SPARE = 50


EMBEDDED_CONNECTIONS_MIN = 200


@dataclass(frozen=True, slots=True)
class Database:
    """Where the books are: as the server opens them, and as migrations do.

    `embedded_in` names the data directory, if any; `attached` tells that another process runs the embedded server, and will
    stop it.
    """

    url: str
    migration_url: str
    embedded_in: str | None = None
    attached: bool = False

    @property
    def description(self) -> str:
        """For people: where the database is, without password."""
        if self.embedded_in is not None:
            return f"embedded PostgreSQL in {self.embedded_in}"
        return shown_url(self.url)


@contextmanager
def open_database(settings: Settings, *, newest_schema: bool = True) -> Iterator[Database]:
    """The configured database, or an embedded one, started if it is not running, and stopped at the end if so.

    The embedded one is brought to the newest schema unless the caller does not want it; nobody else administers it. From the
    main thread and outside an event loop. Raises EmbeddedPostgresError, DatabaseUnavailable, CannotMigrate.
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


@dataclass(frozen=True, slots=True)
class Engines:
    """The connections of a server, in pools of their own, so that no kind of call can take them from another, and all of them on
    the host that takes writes.

    `groups` books single calls, `ingest` batches. `ping` is apart so that a server whose connections are all busy is not taken
    for one without a database.
    """

    groups: AsyncEngine
    ingest: AsyncEngine
    balances: AsyncEngine
    long_reads: AsyncEngine
    other: AsyncEngine
    ping: AsyncEngine
    hosts: Hosts

    @classmethod
    def of(cls, url: str, settings: Settings) -> Self:
        """The engines of a database; they connect at their first use."""
        hosts = Hosts(url, target="read-write")
        return cls(
            groups=create_engine(
                hosts,
                pool_size=settings.ingest_concurrency,
                lock_timeout_seconds=GROUP_LOCK_TIMEOUT_SECONDS,
            ),
            ingest=create_engine(hosts, pool_size=settings.ingest_pool_size),
            balances=create_engine(hosts, pool_size=GROUPS_AT_ONCE_MAX),
            long_reads=create_engine(hosts, pool_size=settings.long_read_pool_size),
            other=create_engine(hosts, pool_size=settings.database_pool_size),
            ping=create_engine(hosts, pool_size=1),
            hosts=hosts,
        )

    async def dispose(self) -> None:
        """Closes all connections."""
        for engine in (
            self.groups,
            self.ingest,
            self.balances,
            self.long_reads,
            self.other,
            self.ping,
        ):
            await engine.dispose()


def embedded_connections(settings: Settings) -> int:
    """How many connections the embedded server takes: those of each worker, and some for others."""
    return max(
        EMBEDDED_CONNECTIONS_MIN,
        settings.workers * connections_of_a_server(settings) + EMBEDDED_CONNECTIONS_SPARE,
    )


def connections_of_a_server(settings: Settings) -> int:
    """How many connections a server process opens to a host, at the most; two of them to see whether it is well."""
    of_events = settings.ingest_concurrency + settings.ingest_pool_size
    of_reads = GROUPS_AT_ONCE_MAX + settings.long_read_pool_size + settings.database_pool_size
    return of_events + of_reads + 2


async def ping(engine: AsyncEngine) -> None:
    """Asks the database for a sign of life. Raises DatabaseUnavailable when there is none a server could work with."""
    async with autocommit(engine) as connection:
        if not await keeps_session(connection):
            raise DatabaseUnavailable(
                "a connection pooler before the database does not keep sessions"
            )
        if await connection.fetchval("SELECT current_setting('transaction_read_only')") == "on":
            raise DatabaseUnavailable("the database takes no writes: a standby, or made read-only")
