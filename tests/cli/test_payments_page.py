"""docs/payments.md: its commands do what it shows."""

from pathlib import Path

import pytest
from support.audit import assert_books_in_order
from support.running import RunningLedger
from support.walks import walk


async def test_walk_does_what_the_page_shows(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every command in its order, with its output and its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEDGER_GRPC_ADDRESS", ledger.address)
    await walk("payments.md", ledger)
    await assert_books_in_order(ledger.database)
