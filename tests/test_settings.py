"""Settings: what is set, what is documented, and what is refused."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from ledger.database_url import shown_url
from ledger.settings import Settings

EXAMPLE = Path(__file__).resolve().parents[1] / ".env.example"

DRIVER = "postgresql+asyncpg://"


def test_example_names_every_setting_once_and_no_other() -> None:
    """The example is the complete list of settings."""
    names = [
        line.partition("=")[0]
        for line in EXAMPLE.read_text().splitlines()
        if line.startswith("LEDGER_")
    ]
    assert sorted(names) == sorted(f"LEDGER_{name.upper()}" for name in Settings.model_fields)


def test_example_has_the_descriptions_of_the_settings() -> None:
    """Word for word: there is one text about each setting."""
    blocks = re.findall(r"((?:^# .*\n)+)LEDGER_(\w+)=", EXAMPLE.read_text(), re.MULTILINE)
    shown = {
        name.lower(): " ".join(re.sub("^# ", "", text, flags=re.M).split()) for text, name in blocks
    }
    described = {name: field.description for name, field in Settings.model_fields.items()}
    assert shown == described


def test_example_shows_the_defaults() -> None:
    """A copy of the example changes nothing."""
    assert Settings(_env_file=EXAMPLE) == Settings(_env_file=None)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("", ""),
        ("postgresql://u:p%40ss@h:5433/d", "postgresql+asyncpg://u:p%40ss@h:5433/d"),
        ("postgres://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgresql://u@h/d?sslmode=require", "postgresql+asyncpg://u@h/d?ssl=require"),
        ("postgresql+asyncpg://u@/d?host=/run/pg", "postgresql+asyncpg://u@/d?host=%2Frun%2Fpg"),
        ("postgresql://u:p,w/%2C@h/d", "postgresql+asyncpg://u:p%2Cw%2F%2C@h/d"),
        ("postgresql://u:p,w@h1,h2:5433/d", f"{DRIVER}u:p%2Cw@/d?host=h1%2Ch2&port=5432%2C5433"),
        ("postgresql://h1:6000,[::1]:6001/d", f"{DRIVER}/d?host=h1%2C%3A%3A1&port=6000%2C6001"),
        ("postgresql://u@[::1]:6001/d", f"{DRIVER}u@[::1]:6001/d"),
        ("postgresql://u@%2Frun%2Fpg/d", f"{DRIVER}u@/d?host=%2Frun%2Fpg"),
        (
            "postgresql://u@/d?host=/run/a,/run/b",
            f"{DRIVER}u@/d?host=%2Frun%2Fa%2C%2Frun%2Fb&port=5432%2C5432",
        ),
        (
            "postgresql://u@/d?host=h1,::1&port=6000",
            f"{DRIVER}u@/d?host=h1%2C%3A%3A1&port=6000%2C6000",
        ),
        ("postgresql:///d?port=6000", f"{DRIVER}:6000/d"),
        ("postgresql://u@:6000/d", f"{DRIVER}u@:6000/d"),
        ("postgresql://u@h/d?port=6000", f"{DRIVER}u@h:6000/d"),
        ("postgresql://u@/d?host=h1:6000&host=h2", f"{DRIVER}u@/d?host=h1%2Ch2&port=6000%2C5432"),
        (
            "postgresql://u@h1,h2/d?target_session_attrs=any&connect_timeout=3",
            f"{DRIVER}u@/d?connect_timeout=3&host=h1%2Ch2&port=5432%2C5432"
            "&target_session_attrs=any",
        ),
    ],
)
def test_database_url_may_have_any_usual_spelling(given: str, used: str) -> None:
    """It becomes a URL for the driver, and keeps its password."""
    assert Settings(_env_file=None, database_url=given).database_url == used


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEDGER_DATABASE_URL", "mysql://u@h/d"),
        ("LEDGER_DATABASE_URL", "not a url"),
        ("LEDGER_MIGRATION_DATABASE_URL", "postgresql://without/another"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h:port/d"),
        ("LEDGER_DATABASE_URL", "postgresql://u:p@ss@h/d"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h/d?channel_binding=require"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h1,,h2/d"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h1,h1/d"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h1,h2:0/d"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h1,::1/d"),
        ("LEDGER_DATABASE_URL", "postgresql://u:p@ss@h1,h2/d"),
        ("LEDGER_DATABASE_URL", "postgresql://u:p@ss/word@h1,h2/d"),
        ("LEDGER_DATABASE_URL", "postgresql://u:p@ss?ssl=w@h/d"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h:65536/d"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h/d?port=abc"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h/d?port=1,2"),
        ("LEDGER_DATABASE_URL", "postgresql://u@/d?port=1,2"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h:1/d?port=2"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h/d?sslmode=on"),
        ("LEDGER_DATABASE_URL", "postgresql://u@/d?host=h1,h2,h3&port=1,2"),
        ("LEDGER_DATABASE_URL", "postgresql://u@/d?host=h1:1,h2&port=2"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h1,h2/d?target_session_attrs=standby"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h1,h2/d?connect_timeout=0"),
        ("LEDGER_DATABASE_URL", "postgresql://u@h1,h2/d?connect_timeout=2s"),
        ("LEDGER_GRPC_ADDRESS", "50051"),
        ("LEDGER_GRPC_ADDRESS", "127.0.0.1:99999"),
        ("LEDGER_MATURITY_DAYS", "-1"),
        ("LEDGER_MATURITY_DAYS", "366"),
        ("LEDGER_MATURITY_DAYS", "1.5"),
        ("LEDGER_UNKNOWN_RESTAURANTS", "ignore"),
        ("LEDGER_LOG_FORMAT", "xml"),
        ("LEDGER_DATABASE_POOL_SIZE", "0"),
    ],
)
def test_bad_value_of_a_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """No default replaces it."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as raised:
        Settings(_env_file=None)
    assert name.removeprefix("LEDGER_").lower() in str(raised.value)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://u:p@h1,[::1]:6001/d", "postgresql://u:***@h1:5432,[::1]:6001/d"),
        (
            "postgresql://u:several@h1,h2/d?sslmode=require",
            "postgresql://u:***@h1:5432,h2:5432/d?ssl=require",
        ),
        ("postgresql://u:p@h:6000/d", "postgresql://u:***@h:6000/d"),
        (
            "postgresql://u:p@/d?host=/run/a,/run/b",
            "postgresql://u:***@/d?host=%2Frun%2Fa%2C%2Frun%2Fb&port=5432%2C5432",
        ),
    ],
)
def test_database_url_is_shown_as_it_was_written(given: str, shown: str) -> None:
    """With all hosts, and without the password."""
    assert shown_url(Settings(_env_file=None, database_url=given).database_url) == shown


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ~ in `.env` is the home directory, as in the README."""
    monkeypatch.setenv("HOME", "/home/operator")
    assert Settings(_env_file=None, data_dir="~/books").data_dir == Path("/home/operator/books")
