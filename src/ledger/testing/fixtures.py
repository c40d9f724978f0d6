"""The fixture of pytest: put `pytest_plugins = ["ledger.testing.fixtures"]` into `conftest.py`."""

from collections.abc import Iterator

import pytest

from ledger.testing.server import LedgerServer


@pytest.fixture
def ledger_server() -> Iterator[LedgerServer]:
    """A server with empty books, for one test alone."""
    with LedgerServer() as server:
        yield server
