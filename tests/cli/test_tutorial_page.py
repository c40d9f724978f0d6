"""docs/tutorial.md: its commands do what it shows."""

from contextlib import closing
from pathlib import Path

import pytest
from support.audit import assert_books_in_order
from support.ports import held_port, port_of
from support.running import RunningLedger
from support.walks import walk


async def test_walk_does_what_the_page_shows(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every command in its order, with a gateway beside the server, and Python's programs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEDGER_GRPC_ADDRESS", ledger.address)
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with closing(held_port()) as holder:
        gateway = f"127.0.0.1:{port_of(holder)}"
        addresses = {"127.0.0.1:50051": ledger.address, "127.0.0.1:8480": gateway}
        await walk("tutorial.md", ledger, addresses=addresses)
    await assert_books_in_order(ledger.database)
