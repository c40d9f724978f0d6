"""Commands read settings from the environment and from `.env`: tests see neither the developer's nor each other's."""

from pathlib import Path

import pytest

from ledger.settings import Settings


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"LEDGER_{field.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)
