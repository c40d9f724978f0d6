"""The server that the tests of a file treat badly."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.audit import assert_books_in_order
from support.processes import ServerProcess, server_process

from ledger.bootstrap.database import Database


@pytest.fixture(scope="module")
async def hostile(shared_database: Database) -> AsyncIterator[ServerProcess]:
    """The server that is badly treated.

    After all tests of the file it is still there, and its books are in order.
    """
    with tempfile.TemporaryDirectory(prefix="ledger-hostile-") as folder:
        async with server_process(shared_database, Path(folder) / "server.log") as running:
            await running.assert_well()
            yield running
            await running.assert_well()
            await assert_books_in_order(shared_database)
