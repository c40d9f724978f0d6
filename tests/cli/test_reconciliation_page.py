"""docs/reconciliation.md: its commands do what it shows, and it names every layout and outcome."""

from pathlib import Path

import pytest
from support.audit import assert_books_in_order
from support.running import RunningLedger
from support.walks import DOCS, walk

from ledger.cli.reconcile.views import OUTCOME_WORDS
from ledger.reconciliation.built_in import LAYOUTS
from ledger.reconciliation.layouts import Kind


async def test_walk_does_what_the_page_shows(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every command in its order, with its output and its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEDGER_GRPC_ADDRESS", ledger.address)
    await walk("reconciliation.md", ledger)
    await assert_books_in_order(ledger.database)


def test_page_names_all_layouts_kinds_and_outcomes() -> None:
    page = (DOCS / "reconciliation.md").read_text(encoding="utf-8")
    assert [layout.name for layout in LAYOUTS if f"| `{layout.name}` |" not in page] == []
    assert [kind.value for kind in Kind if f"`{kind.value}`" not in page] == []
    assert [word for word in OUTCOME_WORDS.values() if f"| {word} |" not in page] == []
