"""Kinds of knowledge about PostgreSQL that one module holds."""

import re
from pathlib import Path

import ledger.infrastructure.postgres

FOLDER = Path(ledger.infrastructure.postgres.__file__).parent

SNAPSHOT_FUNCTION = re.compile(r"\bpg_(current_snapshot|snapshot_\w+|visible_in_snapshot)\b")


def modules_with(pattern: re.Pattern[str]) -> set[str]:
    """The modules of PostgreSQL's part whose text has the pattern."""
    found = {
        str(path.relative_to(FOLDER))
        for path in FOLDER.rglob("*.py")
        if pattern.search(path.read_text())
    }
    assert found, "the pattern finds nothing, so the rule holds of nothing"
    return found


def test_horizon_alone_names_the_functions_on_database_snapshots() -> None:
    """What is final, and whose numbers are compared, is decided in one module."""
    assert modules_with(SNAPSHOT_FUNCTION) == {"sessions/horizon.py"}
