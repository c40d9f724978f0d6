"""The embedded PostgreSQL of a command, where the database is not configured."""

from collections.abc import Iterator
from contextlib import contextmanager

from ledger.infrastructure.postgres.embedded import EmbeddedPostgres, default_data_dir
from ledger.settings import Settings


@contextmanager
def embedded_server(settings: Settings) -> Iterator[EmbeddedPostgres | None]:
    """The embedded server, started if it is not running, and stopped at the end if so; None if a database is configured.

    `ledger.bootstrap.open_database` attaches to it inside the block. From the main thread. Raises EmbeddedPostgresError.
    """
    if settings.url_for_migrations:
        yield None
        return
    with EmbeddedPostgres.start(settings.data_dir or default_data_dir()) as postgres:
        yield postgres
