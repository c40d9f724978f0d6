"""Commands read settings from the environment and from `.env`: tests see neither the developer's nor each other's."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.settings import Settings


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"LEDGER_{field.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _no_terminal_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs are as wide everywhere, and in no colours, which CI asks for by these variables."""
    for name in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def enterable_folder() -> Iterator[Path]:
    """A temporary folder which everybody can enter, unlike pytest's own: for root PostgreSQL runs as another account."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
