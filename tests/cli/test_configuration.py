"""Settings on the command line."""

import pytest

from ledger.cli.configuration import load_settings
from ledger.cli.failures import CommandFailure, ExitStatus


def test_address_of_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the environment's, which is the default."""
    monkeypatch.setenv("LEDGER_GRPC_ADDRESS", "127.0.0.1:1")
    assert load_settings().grpc_address == "127.0.0.1:1"
    assert load_settings("127.0.0.1:2").grpc_address == "127.0.0.1:2"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("GRPC_ADDRESS", "nowhere", "LEDGER_GRPC_ADDRESS must be host:port or unix:path (it is 'nowhere')"),
        ("MATURITY_DAYS", "soon", "LEDGER_MATURITY_DAYS must be a whole number (it is 'soon')"),
        ("MATURITY_DAYS", "1.5", "LEDGER_MATURITY_DAYS must be a whole number (it is '1.5')"),
        ("MATURITY_DAYS", "-1", "LEDGER_MATURITY_DAYS must be at least 0 (it is '-1')"),
        ("MATURITY_DAYS", "366", "LEDGER_MATURITY_DAYS must be at most 365 (it is '366')"),
        ("REFLECTION", "perhaps", "LEDGER_REFLECTION must be true or false (it is 'perhaps')"),
        ("SHUTDOWN_GRACE_SECONDS", "long", "LEDGER_SHUTDOWN_GRACE_SECONDS must be a number (it is 'long')"),
        ("LOG_FORMAT", "xml", "LEDGER_LOG_FORMAT must be 'console' or 'json' (it is 'xml')"),
        ("DATABASE_URL", "mysql://me:secret@host/db", "LEDGER_DATABASE_URL must begin with postgresql://"),
    ],
)
def test_bad_setting_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str) -> None:
    """The variable's name, what it must be, and what it is unless that may hold a password."""
    monkeypatch.setenv(f"LEDGER_{name}", value)
    with pytest.raises(CommandFailure) as caught:
        load_settings()
    assert caught.value.lines == (line,)
    assert caught.value.exit_status is ExitStatus.USAGE


def test_each_bad_setting_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, so that nobody has to try again and again."""
    monkeypatch.setenv("LEDGER_MATURITY_DAYS", "x")
    monkeypatch.setenv("LEDGER_LOG_LEVEL", "x")
    with pytest.raises(CommandFailure) as caught:
        load_settings("nowhere")
    head, *lines = caught.value.lines
    assert head == "3 settings are not as they must be:"
    assert [line.split()[0] for line in lines] == ["--address", "LEDGER_MATURITY_DAYS", "LEDGER_LOG_LEVEL"]
