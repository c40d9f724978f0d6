"""Writes a new migration: `new_revision.py "what it does"`; prints its path.

Alembic compares a temporary PostgreSQL at the newest revision with
`ledger.infrastructure.postgres.schema.tables` and writes the difference. Add by hand what only the
database knows: CHECK constraints, comments, triggers, grants.
"""

import asyncio
import subprocess
import sys
from contextlib import redirect_stdout

from alembic.operations.ops import MigrationScript
from alembic.script import ScriptDirectory

# Beside this script; mypy does not look there.
from dump_schema import migrated_database  # type: ignore[import-not-found]
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from alembic import command
from ledger.infrastructure.postgres.schema.migrations import head_revision
from ledger.infrastructure.postgres.schema.schema_moves import alembic_config


async def write_revision(url: str, message: str) -> str:
    """Writes the migration after the newest one; returns its path. `url` has the newest schema."""
    engine = create_async_engine(url, poolclass=NullPool)
    # Only the migrations have the comments; without this each new migration would drop them all.
    engine.dialect.supports_comments = False

    def compare(connection: Connection) -> str:
        config = alembic_config()
        config.attributes["connection"] = connection
        number = f"{int(head_revision()) + 1:04}"
        # Alembic prints its progress; our standard output is the path alone.
        with redirect_stdout(sys.stderr):
            command.revision(
                config,
                message,
                autogenerate=True,
                rev_id=number,
                process_revision_directives=_name_imports,
            )
        return ScriptDirectory.from_config(config).get_revision(number).path

    try:
        async with engine.connect() as connection:
            return await connection.run_sync(compare)
    finally:
        await engine.dispose()


def _name_imports(_context: object, _revision: object, directives: list[MigrationScript]) -> None:
    """Adds the imports that the statements need."""
    (script,) = directives
    script.imports.add("from alembic import op")
    if script.upgrade_ops is not None and not script.upgrade_ops.is_empty():
        script.imports.add("import sqlalchemy as sa")


def main() -> int:
    if len(sys.argv) != 2 or not sys.argv[1].strip():
        print('usage: new_revision.py "what it does"', file=sys.stderr)
        return 2
    with migrated_database() as url:
        path = asyncio.run(write_revision(url, sys.argv[1].strip()))
    for tidy in (["check", "--quiet", "--fix", "--select", "I"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *tidy, path], check=True)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
