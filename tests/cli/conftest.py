"""Hides the developer's settings from the tests, and those of one test from the others.

Commands read settings from the environment and from `.env`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.folders import folder_for_all

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
def enterable_folder(starts_postgres: None) -> Iterator[Path]:
    """A temporary folder that PostgreSQL can enter."""
    with folder_for_all() as folder:
        yield folder
