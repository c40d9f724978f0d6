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
    """Outputs are as wide everywhere, and in no colours: CI asks for some by these variables, which Typer reads once."""
    for name in ("COLUMNS", "FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", None)


@pytest.fixture
def enterable_folder() -> Iterator[Path]:
    """A temporary folder which everybody can enter, unlike pytest's own: for root PostgreSQL runs as another account."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
