"""`ledger settings`."""

import json
from pathlib import Path

import pytest
from support.commands import run_command

from ledger.cli.settings_shown import without_password
from ledger.settings import Settings

SECRET = "hunter2"


async def test_every_setting_is_shown_with_its_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An option goes before the environment, that before the file, and that before the default."""
    (tmp_path / ".env").write_text(
        "LEDGER_MATURITY_DAYS=3\nLEDGER_LOG_LEVEL=error\nLEDGER_OPEN_CALLS=\n"
    )
    monkeypatch.setenv("LEDGER_LOG_LEVEL", "debug")
    outcome = await run_command("--address", "127.0.0.1:7", "settings", "--json")
    assert (outcome.status, outcome.stderr) == (0, "")
    rows = {
        row["name"]: (row["value"], row["source"])
        for row in map(json.loads, outcome.stdout.splitlines())
    }
    assert set(rows) == {f"LEDGER_{field.upper()}" for field in Settings.model_fields}
    assert rows["LEDGER_GRPC_ADDRESS"] == ("127.0.0.1:7", "option")
    assert rows["LEDGER_LOG_LEVEL"] == ("debug", "environment")
    assert rows["LEDGER_MATURITY_DAYS"] == ("3", ".env")
    assert rows["LEDGER_OPEN_CALLS"] == ("1000", "default")
    assert rows["LEDGER_REQUIRE_DURABLE_DATABASE"] == ("true", "default")
    assert rows["LEDGER_SEAL_INTERVAL_SECONDS"] == ("10", "default")
    table = await run_command("settings")
    assert "│ LEDGER_LOG_LEVEL " in table.stdout


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+asyncpg://me@host/books", "postgresql://me@host/books"),
        (
            f"postgresql+asyncpg://me:{SECRET}@host:5432/books",
            "postgresql://me:***@host:5432/books",
        ),
        (
            f"postgresql+asyncpg://me:{SECRET}%40:x@host/books?ssl=require",
            "postgresql://me:***@host/books?ssl=require",
        ),
        (f"postgresql+asyncpg://:{SECRET}@host/books", "postgresql://:***@host/books"),
        (
            f"postgresql+asyncpg:///books?host=/tmp&password={SECRET}&user=me",
            "postgresql:///books?host=/tmp&password=***&user=me",
        ),
        (f"postgresql+asyncpg://me:{SECRET}@a,b/books", "postgresql://me:***@a,b/books"),
        ("", ""),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    """At any place of a URL."""
    assert without_password(url) == shown


async def test_password_of_the_database_is_in_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as a table nor as JSON."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", f"postgresql://me:{SECRET}@127.0.0.1:1/books")
    for form in ((), ("--json",)):
        outcome = await run_command("settings", *form)
        assert outcome.status == 0
        assert "me:***@127.0.0.1:1/books" in outcome.stdout
        assert SECRET not in outcome.stdout
