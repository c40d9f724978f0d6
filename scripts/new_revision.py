"""Writes a new migration: `new_revision.py "what it does"`; prints its path.

Alembic compares a temporary PostgreSQL at the newest revision with
`ledger.infrastructure.postgres.schema.tables` and writes the difference. Add by hand what only the
database knows: CHECK constraints, comments, triggers, grants.
"""

import asyncio
import io
import subprocess
import sys
from contextlib import redirect_stdout

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.operations.ops import MigrationScript, ModifyTableOps, OpContainer
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

        def keep_sql(
            _context: object, _revision: object, directives: list[MigrationScript]
        ) -> None:
            """Keeps the statements for `script.py.mako`."""
            (script,) = directives
            config.attributes["upgrade"] = sql_literal(script.upgrade_ops)
            config.attributes["downgrade"] = sql_literal(script.downgrade_ops)

        config.attributes["connection"] = connection
        number = f"{int(head_revision()) + 1:04}"
        # Alembic prints its progress; our standard output is the path alone.
        with redirect_stdout(sys.stderr):
            command.revision(
                config,
                message,
                autogenerate=True,
                rev_id=number,
                process_revision_directives=keep_sql,
            )
        return ScriptDirectory.from_config(config).get_revision(number).path

    try:
        async with engine.connect() as connection:
            return await connection.run_sync(compare)
    finally:
        await engine.dispose()


def sql_literal(operations: OpContainer | None) -> str:
    """The operations as SQL: a Python tuple of texts, as migrations have them."""
    buffer = io.StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": buffer}
    )
    to_invoke = [] if operations is None else list(operations.ops)
    while to_invoke:
        operation = to_invoke.pop(0)
        if isinstance(operation, ModifyTableOps):
            to_invoke[:0] = operation.ops
        else:
            Operations(context).invoke(operation)
    # Alembic ends each statement so.
    statements = buffer.getvalue().split(";\n\n")
    texts = [statement.strip() for statement in statements if statement.strip()]
    return "(" + "".join(f'\n    """\n{text}\n""",' for text in texts) + ("\n)" if texts else ")")


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
