"""The SQL files of the project, run by psql."""

import subprocess
from pathlib import Path

import pytest
from sqlalchemy import make_url

from ledger.infrastructure.postgres.embedded import EmbeddedPostgresError, find_bin_dir
from ledger.resources import resource


def run_file(url: str, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a file of `sql/` as the head of the file says. Skips the test without psql."""
    try:
        program = find_bin_dir() / "psql"
    except EmbeddedPostgresError as error:
        pytest.skip(str(error))
    if not program.is_file():
        pytest.skip(f"there is no psql in {program.parent}")
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    options = ("-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", *arguments, "-d", address)
    command: list[str | Path] = [program, *options, "-f", resource("sql", name)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)
