"""Hides the developer's settings from the tests, and the settings of a test from the others.

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
    """Outputs have the same width everywhere and no colors, which CI sets by these variables."""
    for name in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def enterable_folder(starts_postgres: None) -> Iterator[Path]:
    """A temporary folder that PostgreSQL can enter."""
    with folder_for_all() as folder:
        yield folder
