"""`ledger migrate`, each test on a separate database."""

import pytest
from support.commands import run_command
from support.running import query

from ledger.bootstrap.database import Database
from ledger.cli.failures import ExitStatus
from ledger.infrastructure.postgres.schema.migrations import (
    head_revision,
)


async def test_empty_database_gets_the_newest_schema(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output names both revisions. A second call has nothing to do."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", empty_url)
    outcome = await run_command("migrate")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert outcome.stdout == f"the schema was brought from revision none to {head_revision()}\n"
    outcome = await run_command("migrate")
    assert (outcome.status, outcome.stdout) == (
        0,
        f"the schema is up to date: it has revision {head_revision()}\n",
    )


async def test_schema_moves_down_and_up_again(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the given revision. The URL for migrations goes before the other."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
    monkeypatch.setenv("LEDGER_MIGRATION_DATABASE_URL", empty_url)
    await run_command("migrate")
    outcome = await run_command("migrate", "--revision", "0001")
    assert outcome.stdout == f"the schema was brought from revision {head_revision()} to 0001\n"
    outcome = await run_command("migrate", "--revision", "base")
    assert outcome.stdout == "the schema was brought from revision 0001 to none\n"
    outcome = await run_command("migrate")
    assert outcome.stdout == f"the schema was brought from revision none to {head_revision()}\n"


async def test_unknown_revision_is_reported(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 1, in one line."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", database.migration_url)
    outcome = await run_command("migrate", "--revision", "nonsense")
    assert outcome.status == ExitStatus.REFUSED
    assert (
        outcome.stderr
        == f"error: cannot move the schema from revision {head_revision()} to nonsense: "
        "Can't locate revision identified by 'nonsense'\n"
    )


async def test_schema_of_a_later_version_is_reported(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database of a later version is not changed: status 1, and both revisions are named."""
    await query(database.migration_url, "UPDATE alembic_version SET version_num = '9999'")
    monkeypatch.setenv("LEDGER_DATABASE_URL", database.migration_url)
    outcome = await run_command("migrate")
    assert outcome.status == ExitStatus.REFUSED
    assert outcome.stderr.startswith("error: cannot move the schema from revision 9999 to head: ")


async def test_unreachable_database_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 3, for deployments that try again."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/books")
    outcome = await run_command("migrate")
    assert outcome.status == ExitStatus.UNREACHABLE
    assert "secret" not in outcome.stderr
