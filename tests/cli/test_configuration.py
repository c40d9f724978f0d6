"""Settings on the command line."""

from pathlib import Path

import pytest

from ledger.cli.configuration import load_settings, unknown_settings, warn_of_unknown_settings
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.options_given import take_options


def test_address_of_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the environment's, which is the default."""
    monkeypatch.setenv("LEDGER_GRPC_ADDRESS", "127.0.0.1:1")
    assert load_settings().grpc_address == "127.0.0.1:1"
    assert load_settings("127.0.0.1:2").grpc_address == "127.0.0.1:2"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "GRPC_ADDRESS",
            "nowhere",
            "LEDGER_GRPC_ADDRESS must be host:port or unix:path (it is 'nowhere')",
        ),
        (
            "MATURITY_DAYS",
            "soon",
            "LEDGER_MATURITY_DAYS must be a whole number, in the digits 0 to 9 (it is 'soon')",
        ),
        (
            "MATURITY_DAYS",
            "1.5",
            "LEDGER_MATURITY_DAYS must be a whole number, in the digits 0 to 9 (it is '1.5')",
        ),
        (
            "MATURITY_DAYS",
            "1_0",
            "LEDGER_MATURITY_DAYS must be a whole number, in the digits 0 to 9 (it is '1_0')",
        ),
        (
            "MATURITY_DAYS",
            "3.0",
            "LEDGER_MATURITY_DAYS must be a whole number, in the digits 0 to 9 (it is '3.0')",
        ),
        (
            "SHUTDOWN_GRACE_SECONDS",
            "1e1",
            "LEDGER_SHUTDOWN_GRACE_SECONDS must be a number such as 30 or 0.5 (it is '1e1')",
        ),
        ("MATURITY_DAYS", "-1", "LEDGER_MATURITY_DAYS must be at least 0 (it is '-1')"),
        ("MATURITY_DAYS", "366", "LEDGER_MATURITY_DAYS must be at most 365 (it is '366')"),
        ("REFLECTION", "perhaps", "LEDGER_REFLECTION must be true or false (it is 'perhaps')"),
        (
            "SHUTDOWN_GRACE_SECONDS",
            "long",
            "LEDGER_SHUTDOWN_GRACE_SECONDS must be a number such as 30 or 0.5 (it is 'long')",
        ),
        ("LOG_FORMAT", "xml", "LEDGER_LOG_FORMAT must be 'console' or 'json' (it is 'xml')"),
        ("WORKERS", "0", "LEDGER_WORKERS must be at least 1 (it is '0')"),
        ("METRICS_ADDRESS", "9464", "LEDGER_METRICS_ADDRESS must be host:port (it is '9464')"),
        (
            "DATABASE_URL",
            "mysql://me:secret@host/db",
            "LEDGER_DATABASE_URL must begin with postgresql://",
        ),
        (
            "DATABASE_URL",
            "postgresql://me:se@cret@host/db",
            "LEDGER_DATABASE_URL must have %40 for an @ in the password, or no password:"
            " then PGPASSWORD is used",
        ),
    ],
)
def test_bad_setting_is_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    """The variable's name, what it must be, and what it is unless that may hold a password."""
    monkeypatch.setenv(f"LEDGER_{name}", value)
    with pytest.raises(CommandFailure) as caught:
        load_settings()
    assert caught.value.lines == (line,)
    assert caught.value.exit_status is ExitStatus.USAGE


def test_number_may_have_blanks_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that programs write often end a line with one."""
    monkeypatch.setenv("LEDGER_MATURITY_DAYS", " 10\r\n")
    monkeypatch.setenv("LEDGER_SHUTDOWN_GRACE_SECONDS", "0.5 ")
    settings = load_settings()
    assert (settings.maturity_days, settings.shutdown_grace_seconds) == (10, 0.5)


def test_each_bad_setting_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, so that one correction is enough."""
    monkeypatch.setenv("LEDGER_MATURITY_DAYS", "x")
    monkeypatch.setenv("LEDGER_LOG_LEVEL", "x")
    with pytest.raises(CommandFailure) as caught:
        load_settings("nowhere")
    head, *lines = caught.value.lines
    assert head == "3 settings are wrong:"
    assert [line.split()[0] for line in lines] == [
        "--address",
        "LEDGER_MATURITY_DAYS",
        "LEDGER_LOG_LEVEL",
    ]


def test_bad_number_of_workers_is_reported_by_its_option() -> None:
    """Not by the variable, which is not set."""
    with pytest.raises(CommandFailure, match="--workers must be at least 1") as caught:
        load_settings(workers=0)
    assert caught.value.exit_status is ExitStatus.USAGE


def test_bad_file_of_an_option_is_reported_by_it(request: pytest.FixtureRequest) -> None:
    """Options before the name of a command are settings too; shells do not expand ~ in quotes."""
    request.addfinalizer(take_options)
    take_options(client_token_file=Path("~nosuchuser/token"))
    with pytest.raises(CommandFailure) as caught:
        load_settings()
    assert caught.value.lines == (
        "--token-file must not begin with the home directory of a user that has none"
        " (it is '~nosuchuser/token')",
    )
    assert caught.value.exit_status is ExitStatus.USAGE


@pytest.mark.parametrize(
    ("name", "value", "unknown"),
    [
        ("LEDGER_WORKERS", "2", False),
        ("ledger_workers", "2", False),
        ("LEDGER_WORKER", "2", True),
        ("LEDGER_GRPC_PORT", "50051", True),
        ("LEDGER_PG_BIN", "/usr/lib/postgresql/18/bin", False),
        ("LEDGER_TEST_DATABASE_URL", "postgresql://h/d", False),
        ("LEDGER_SERVICE_HOST", "10.0.0.1", False),
        ("LEDGER_POSTGRES_SERVICE_PORT_5432", "5432", False),
        ("LEDGER_PORT", "tcp://10.0.0.1:50051", False),
        ("LEDGER_PORT_50051_TCP_ADDR", "10.0.0.1", False),
        ("PATH", "/bin", False),
    ],
)
def test_unknown_setting_is_found(name: str, value: str, unknown: bool) -> None:
    """A name that nothing reads, except those that Kubernetes adds."""
    assert unknown_settings({name: value}) == ([name] if unknown else [])


def test_unknown_settings_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A misspelt LEDGER_DATABASE_URL would otherwise serve an empty database.

    Those of the file as those of the environment; each with the nearest setting, if there is one.
    """
    (tmp_path / ".env").write_text("LEDGER_DATABSE_URL=postgresql://h/d\n")
    monkeypatch.setenv("LEDGER_XYZZY", "1")
    with pytest.raises(CommandFailure) as caught:
        load_settings()
    assert caught.value.lines == (
        "LEDGER_DATABSE_URL is not a setting: did you mean LEDGER_DATABASE_URL?",
        "LEDGER_XYZZY is not a setting: `.env.example` lists them all",
        "LEDGER_ALLOW_UNKNOWN_SETTINGS=true ignores them",
    )
    assert caught.value.exit_status is ExitStatus.USAGE


def test_unknown_setting_is_named_beside_a_bad_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once: the operator mends both before the next start."""
    monkeypatch.setenv("LEDGER_MATURITY_DAYS", "x")
    monkeypatch.setenv("LEDGER_LOG_LEVLE", "debug")
    with pytest.raises(CommandFailure) as caught:
        load_settings()
    head, *lines = caught.value.lines
    assert head == "2 settings are wrong:"
    assert [line.split()[0] for line in lines] == ["LEDGER_MATURITY_DAYS", "LEDGER_LOG_LEVLE"]


def test_unknown_settings_may_be_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are ignored then; the server warns of each."""
    monkeypatch.setenv("LEDGER_ALLOW_UNKNOWN_SETTINGS", "true")
    monkeypatch.setenv("LEDGER_MATURITY_DAY", "3")
    assert load_settings().maturity_days == 7
    warn_of_unknown_settings()
    assert capsys.readouterr().err.splitlines() == [
        "warning: LEDGER_MATURITY_DAY is not a setting: did you mean LEDGER_MATURITY_DAYS?",
    ]
