"""The modules that a command loads at its start, and Ctrl-C while it loads them."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.commands import run_process
from support.waiting import DEADLINE_SECONDS

from ledger.addresses import DEFAULT_ADDRESS, is_address
from ledger.cli.client_settings import ClientSettings, load_client_settings
from ledger.cli.completion import VARIABLE
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.settings import Settings

# Each takes longer to load than a call takes.
HEAVY = (
    "sqlalchemy",
    "asyncpg",
    "alembic",
    "cryptography",
    "rich",
    "structlog",
    "pydantic",
    "pydantic_settings",
    "uvloop",
)
# Runs a command and prints what it loaded, on standard error.
LOADED = """
import json, os, sys
leave = os._exit
def print_loaded(status):
    os.write(2, json.dumps(sorted(name for name in sys.modules if "." not in name)).encode())
    leave(status)
os._exit = print_loaded
from ledger.__main__ import main
main()
"""
# Runs a command, and prints whether the interpreter shuts down normally after it.
TAKEN_APART = """
import atexit, sys
atexit.register(lambda: print("taken apart", file=sys.stderr))
from ledger.__main__ import main
main()
"""
# Shows the help of each command, and prints which of the named modules each has loaded.
HELPED = """
import contextlib, io, json, sys
from ledger.cli.app import COMMANDS, root
from ledger.cli.command_tree import every_command
loaded = {}
for path, _ in every_command(COMMANDS):
    before, shown = set(sys.modules), io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        root.main([*path, "--help"], standalone_mode=False)
    assert shown.getvalue().startswith("Usage: "), path
    loaded[" ".join(path)] = sorted(set(sys.argv[1:]) & (set(sys.modules) - before))
print(json.dumps(loaded))
"""
# Runs a command, and presses Ctrl-C when it begins to load a module.
INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
MODULE = sys.argv[1]
class Pressing:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000): pass
sys.meta_path.insert(0, Pressing())
from ledger.__main__ import main
del sys.argv[1]
main()
"""


async def python(
    program: str, *arguments: str, env: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Runs a program without our variables but `env`; returns its status and what it wrote."""
    # Any variable LEDGER_… that is no setting of a client makes a command check all settings.
    others = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", program, *arguments),
        env={**others, **(env or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
    return process.returncode or 0, stdout.decode(), stderr.decode()


async def test_command_without_a_database_ends_at_once() -> None:
    """With complete output. A command that has opened a database may have to clean up."""
    status, stdout, stderr = await python(TAKEN_APART, "settings", "--json")
    assert (status, stderr) == (ExitStatus.DONE, "")
    assert len(stdout.splitlines()) == len(Settings.model_fields)


@pytest.mark.parametrize(
    ("arguments", "also"),
    [
        (("--help",), ("grpc", "google")),
        (("--version",), ("grpc", "google")),
        (("payouts", "--help"), ("grpc", "google")),
        (("completion", "bash"), ("grpc", "google")),
        (("payouts", "run", "--help"), ("grpc",)),
        (("balance", "res_1", "PEN", "--address", "127.0.0.1:1"), ()),
    ],
    ids=lambda value: " ".join(value),
)
async def test_command_loads_only_what_it_needs(
    tmp_path: Path, arguments: tuple[str, ...], also: tuple[str, ...]
) -> None:
    """Help and version load no library of the server or of calls; a call none of the server."""
    _, _, stderr = await python(LOADED, *arguments)
    loaded = json.loads(stderr.splitlines()[-1])
    assert "click" in loaded
    assert [name for name in (*HEAVY, *also) if name in loaded] == []


async def test_help_of_any_command_loads_no_library_of_calls_or_of_the_server() -> None:
    """Not even that of a command which needs them once it runs."""
    status, stdout, stderr = await python(HELPED, *HEAVY, "grpc")
    assert (status, stderr) == (0, "")
    loaded = json.loads(stdout)
    assert "serve" in loaded
    assert {path: names for path, names in loaded.items() if names} == {}


@pytest.mark.parametrize("words", ["ledger pay", "ledger payouts run --", "ledger report q1 "])
async def test_completion_loads_no_library_of_calls_or_of_the_server(words: str) -> None:
    """The shell waits for it at each press of the tab key."""
    number = str(len(words.split(" ")) - 1)
    asked = {VARIABLE: "bash_complete", "COMP_WORDS": words, "COMP_CWORD": number}
    status, _, stderr = await python(LOADED, env=asked)
    loaded = json.loads(stderr.splitlines()[-1])
    assert status == 0
    assert [name for name in (*HEAVY, "grpc") if name in loaded] == []


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("click", ("--help",)),
        ("ledger.cli.app", ("--version",)),
        ("importlib.metadata", ("--version",)),
        ("ledger.cli.balance", ("balance", "res_1", "PEN")),
        ("google.protobuf", ("balance", "res_1", "PEN")),
        ("grpc", ("balance", "res_1", "PEN", "--address", "127.0.0.1:1")),
        ("pydantic", ("settings",)),
        ("ledger.bootstrap", ("verify",)),
    ],
)
async def test_interruption_while_loading_ends_cleanly(
    module: str, arguments: tuple[str, ...]
) -> None:
    """Status 130 and nothing written, wherever it comes."""
    assert await python(INTERRUPTED, module, *arguments) == (ExitStatus.INTERRUPTED, "", "")


async def test_ignored_interruption_stays_ignored(tmp_path: Path) -> None:
    """A shell starts background processes that way."""
    program = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + INTERRUPTED.replace(
        "signal.signal(signal.SIGINT, signal.default_int_handler)", ""
    )
    status, stdout, _ = await python(program, "click", "--version")
    assert (status, stdout[:7]) == (0, "ledger ")


async def test_ascii_terminal_gets_ascii() -> None:
    """No UnicodeEncodeError, whatever a value holds."""
    env = {"PYTHONIOENCODING": "ascii", "LANG": "C", "LEDGER_JWT_ISSUER": "Café"}
    outcome = await run_process("settings", env=env)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "| LEDGER_JWT_ISSUER " in outcome.stdout
    assert "Caf\\xe9" in outcome.stdout
    outcome = await run_process("settings", "--jsön", env=env)
    assert outcome.status == ExitStatus.USAGE
    assert "--js\\xf6n" in outcome.stderr


def test_default_of_a_client_is_that_of_the_settings() -> None:
    """A client does not load all settings if only its own are set."""
    assert load_client_settings() == ClientSettings()
    whole = Settings(_env_file=None)
    assert {field: getattr(whole, field) for field in ClientSettings.__slots__} == {
        field: getattr(ClientSettings(), field) for field in ClientSettings.__slots__
    }


def test_settings_of_a_client_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A value in the environment beats the file, unless empty; the command line beats both."""
    (tmp_path / ".env").write_text(
        "LEDGER_GRPC_ADDRESS=127.0.0.1:1\nLEDGER_CLIENT_TOKEN_FILE=mine\n"
    )
    monkeypatch.setenv("LEDGER_CLIENT_TOKEN_FILE", "")
    assert load_client_settings() == ClientSettings("127.0.0.1:1", client_token_file=Path("mine"))
    monkeypatch.setenv("LEDGER_GRPC_ADDRESS", "127.0.0.1:2")
    assert load_client_settings().grpc_address == "127.0.0.1:2"
    assert load_client_settings("127.0.0.1:3").grpc_address == "127.0.0.1:3"
    # With any other setting the command reads all of them, with the same result.
    monkeypatch.setenv("LEDGER_MATURITY_DAYS", "3")
    assert load_client_settings() == ClientSettings("127.0.0.1:2", client_token_file=Path("mine"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "LEDGER_GRPC_ADDRESS",
            "http://127.0.0.1:50051",
            "LEDGER_GRPC_ADDRESS must be host:port or unix:path",
        ),
        (
            "LEDGER_GRPC_ADDRESS",
            "127.0.0.1:65536",
            "LEDGER_GRPC_ADDRESS must be host:port with a port up to 65535",
        ),
        (
            "LEDGER_CLIENT_TOKEN_FILE",
            "~nosuchuser/x",
            "LEDGER_CLIENT_TOKEN_FILE must not begin with the home directory",
        ),
        ("LEDGER_LOG_FORMAT", "xml", "LEDGER_LOG_FORMAT must be 'console' or 'json'"),
        ("LEDGER_GRPC_ADRESS", "127.0.0.1:1", "LEDGER_GRPC_ADRESS is not a setting"),
    ],
)
def test_bad_settings_of_a_client_are_reported(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    """As to every command."""
    monkeypatch.setenv(name, value)
    with pytest.raises(CommandFailure) as caught:
        load_client_settings()
    assert caught.value.lines[0].startswith(says)
    assert caught.value.exit_status is ExitStatus.USAGE


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        (DEFAULT_ADDRESS, True),
        ("[::1]:50051", True),
        ("*:0", True),
        ("unix:/run/ledger.sock", True),
        ("dns:///ledger.house:50051", True),
        ("http://127.0.0.1:50051", False),
        ("https://ledger:443", False),
        ("grpc://ledger:443", False),
        ("127.0.0.1", False),
        ("127.0.0.1:99999", False),
    ],
)
def test_address_is_no_url(address: str, is_one: bool) -> None:
    """gRPC would look up the whole URL as a name, and not find it."""
    assert is_address(address) is is_one


def test_signal_of_an_interruption_is_the_shells() -> None:
    """128 and the signal's number."""
    assert 128 + signal.SIGINT == ExitStatus.INTERRUPTED
