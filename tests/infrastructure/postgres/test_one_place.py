"""Kinds of knowledge about PostgreSQL that one module holds."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import ledger

SOURCE = Path(ledger.__file__).parent
FOLDER = SOURCE / "infrastructure" / "postgres"

SNAPSHOT_FUNCTION = re.compile(r"\bpg_(current_snapshot|snapshot_\w+|visible_in_snapshot)\b")

# What of SQLAlchemy composes or runs statements, or a connection that can.
STATEMENT_NAMES = {
    *("text", "select", "insert", "update", "delete", "func"),
    *("Connection", "AsyncConnection", "AsyncSession", "Session"),
}
USES = {
    # Alembic's connection.
    "schema/schema_moves.py": {"Connection"},
    "schema/migrations.py": {"AsyncConnection"},
    # Expressions of indexes, which Alembic compares with the database.
    "schema/tables.py": {"text"},
    # The pool.
    "sessions/engine.py": {"AsyncConnection"},
}


def modules() -> Iterator[tuple[str, str]]:
    """Each module of the service: its place in PostgreSQL's part, or in src, and its text."""
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(FOLDER if path.is_relative_to(FOLDER) else SOURCE)
        yield str(name), path.read_text()


def names_of_sqlalchemy(text: str) -> set[str]:
    """The names that a module imports from SQLAlchemy."""
    if "sqlalchemy" not in text:
        return set()
    return {
        name.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy"
        for name in node.names
    }


def test_horizon_alone_names_the_functions_on_database_snapshots() -> None:
    """What is final, and whose numbers are compared, is decided in one module."""
    found = {name for name, text in modules() if SNAPSHOT_FUNCTION.search(text)}
    assert found == {"sessions/horizon.py"}


def test_statements_run_through_the_driver_alone() -> None:
    """SQLAlchemy keeps the pool, describes the tables and runs Alembic; it runs no statement."""
    found = {name: names_of_sqlalchemy(text) & STATEMENT_NAMES for name, text in modules()}
    assert {name: names for name, names in found.items() if names} == USES
    assert not [name for name, text in modules() if "exec_driver_sql" in text]
