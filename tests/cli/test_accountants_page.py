"""docs/accountants.md: its commands do what it shows, and its tables are those of the code."""

import re
from pathlib import Path

import pytest
from support.running import RunningLedger
from support.walks import DOCS, walk

from ledger.cli.accounting.names import component_of
from ledger.domain.chart_of_accounts import CLASS_OF

PAGE = DOCS / "accountants.md"


async def test_walk_does_what_the_page_shows(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every command in its order, in the current month. hledger need not be installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEDGER_GRPC_ADDRESS", ledger.address)
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    await walk("accountants.md", ledger, month="2026-11")


def test_every_ledger_account_is_in_the_table_of_classes() -> None:
    """Each in the row of its class, in the order of the chart."""
    page = PAGE.read_text(encoding="utf-8")
    for account_class in CLASS_OF.values():
        accounts = [f"`{account}`" for account, of in CLASS_OF.items() if of is account_class]
        assert f"\n| `{account_class.capitalize()}` | {', '.join(accounts)} |\n" in page


def test_examples_of_names_are_right() -> None:
    examples = re.findall(r"`([^`]+)` is `([^`]+)` \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(examples) == 4
    for id_, component in examples:
        assert component_of(id_) == component
