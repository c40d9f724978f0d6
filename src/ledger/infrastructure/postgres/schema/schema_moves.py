"""Alembic's part of a migration: the steps from one revision to another."""

from typing import Any

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from alembic import command
from ledger.infrastructure.postgres.schema.failures import CannotMigrate
from ledger.infrastructure.postgres.schema.tables import metadata
from ledger.resources import resource


def alembic_config() -> Config:
    """Alembic's configuration, for the migrations of a checkout or of an installed wheel."""
    config = Config()
    config.set_main_option("script_location", str(resource("alembic")))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.set_main_option("path_separator", "os")
    return config


def schema_revision(connection: Connection) -> str | None:
    """The revision of the database's schema; None when there is no schema."""
    revision = MigrationContext.configure(connection).get_current_revision()
    connection.commit()
    return revision


def move_schema(connection: Connection, revision: str) -> None:
    """Moves the schema to `revision`. Raises CannotMigrate.

    Up, each step is a transaction: if one fails, the steps before it stay, and the next call
    continues from there. Down is one transaction: if a step is refused, nothing has changed.
    """
    before = schema_revision(connection)
    config = alembic_config()
    config.attributes["connection"] = connection
    try:
        if revision == "base" or (before is not None and _is_older(config, revision, before)):
            command.downgrade(config, revision)
        else:
            config.attributes["transaction_per_migration"] = True
            command.upgrade(config, revision)
    except CommandError as error:
        raise CannotMigrate(
            f"cannot move the schema from revision {before or 'none'} to {revision}: {error}"
        ) from error


def run_environment(context: Any) -> None:
    """Runs migrations on the connection in the configuration; offline, prints their SQL.

    alembic/env.py only calls this.
    """
    if context.is_offline_mode():
        context.configure(
            dialect_name="postgresql", target_metadata=metadata, transaction_per_migration=True
        )
    else:
        connection = context.config.attributes.get("connection")
        if connection is None:
            raise RuntimeError(
                "alembic opens no connection here: use `make migrate` and `make revision`"
            )
        context.configure(
            connection=connection,
            target_metadata=metadata,
            transaction_per_migration=context.config.attributes.get(
                "transaction_per_migration", False
            ),
        )
    with context.begin_transaction():
        context.run_migrations()


def _is_older(config: Config, revision: str, than: str) -> bool:
    """Whether `revision` comes before the revision `than`."""
    if revision in ("head", than):
        return False
    lineage = ScriptDirectory.from_config(config).iterate_revisions(than, "base")
    return revision in {script.revision for script in lineage}
