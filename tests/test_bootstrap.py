"""How the parts are put together."""

import subprocess
import sys

import pytest

from ledger.bootstrap.database import embedded_connections
from ledger.settings import Settings


@pytest.mark.parametrize(
    ("workers", "pool_size", "connections"),
    [(1, 10, 200), (8, 10, 274), (16, 20, 658), (64, 200, 14002)],
)
def test_embedded_database_has_room_for_all_workers(
    workers: int, pool_size: int, connections: int
) -> None:
    """All their pools, and 50 for others."""
    assert (
        embedded_connections(
            Settings(_env_file=None, workers=workers, database_pool_size=pool_size)
        )
        == connections
    )


def test_server_that_migrates_nothing_does_without_alembic() -> None:
    """It is an eighth of the time that each worker takes to load."""
    loading = "import sys; import ledger.bootstrap, ledger.cli.database_failures; print('alembic' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", loading], capture_output=True, text=True, check=True
    )
    assert (loaded.stdout, loaded.stderr) == ("False\n", "")
