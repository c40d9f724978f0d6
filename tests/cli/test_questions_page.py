"""docs/questions.md: its commands do what it shows."""

from pathlib import Path

import pytest
from support.audit import assert_books_in_order
from support.running import running_ledger
from support.walks import walk

from ledger.bootstrap.database import Database


async def test_walk_does_what_the_page_shows(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every command in its order, with its output, on a server that keeps a call log."""
    monkeypatch.chdir(tmp_path)
    async with running_ledger(database, audit_log=True) as ledger:
        monkeypatch.setenv("LEDGER_GRPC_ADDRESS", ledger.address)
        monkeypatch.setenv("LEDGER_DATABASE_URL", database.url)
        await walk("questions.md", ledger, month="2026-11")
    await assert_books_in_order(database)
