"""`ledger migrate`: brings the database to the newest schema."""

import asyncio
from typing import Annotated

import typer

from ledger.cli.configuration import load_settings
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.output import print_line
from ledger.observability import configure_logging
from ledger.settings import Settings

HELP = """
Bring the database to the newest schema, or to another revision, up or down. On repeat nothing changes.

The database is that of LEDGER_MIGRATION_DATABASE_URL, else of LEDGER_DATABASE_URL, else the embedded one in LEDGER_DATA_DIR,
which every `ledger serve` brings to the newest schema by itself. The role must be a superuser, or a member of ledger_owner.

Exit status: 0 if the database has the schema, 1 if it cannot be moved there, 2 for a bad setting, 3 if it cannot be reached.
"""


def migrate(
    revision: Annotated[
        str, typer.Option("--revision", metavar="REVISION", help="The revision to move to; base is an empty schema.")
    ] = "head",
) -> None:
    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    # Imported when needed: the database's libraries take longer to load than most other commands take in all.
    from alembic.util import CommandError

    from ledger.cli.database_failures import database_failures

    with database_failures(settings.url_for_migrations, unreachable=ExitStatus.UNREACHABLE):
        try:
            before, after = move_schema(settings, revision)
        except CommandError as error:
            raise CommandFailure(f"cannot move the schema to revision {revision}: {error}") from error
    if before == after:
        print_line(f"the schema is up to date: it has revision {_shown(after)}")
    else:
        print_line(f"the schema was brought from revision {_shown(before)} to {_shown(after)}")


def move_schema(settings: Settings, revision: str) -> tuple[str | None, str | None]:
    """Migrates the configured database, or the embedded one; returns the revisions before and after.

    Raises DatabaseUnavailable, EmbeddedPostgresError, alembic's CommandError for a revision that cannot be moved to.
    """
    from ledger.bootstrap import DATABASE_NAME
    from ledger.cli.embedded_server import embedded_server
    from ledger.infrastructure.postgres.engine import create_engine
    from ledger.infrastructure.postgres.migrations import OWNER_ROLE, create_database, current_revision, migrate_async

    async def move(url: str) -> tuple[str | None, str | None]:
        before = await migrate_async(url, revision)
        engine = create_engine(url, pool_size=1, role=OWNER_ROLE)
        try:
            return before, await current_revision(engine)
        finally:
            await engine.dispose()

    with embedded_server(settings) as postgres:
        if postgres is None:
            return asyncio.run(move(settings.url_for_migrations))
        asyncio.run(create_database(postgres.url(user=postgres.superuser, database="postgres"), DATABASE_NAME))
        return asyncio.run(move(postgres.url(user=postgres.superuser, database=DATABASE_NAME)))


def _shown(revision: str | None) -> str:
    return revision or "none"
