"""The `ledger` command as a whole."""

import os
from importlib.metadata import version
from pathlib import Path

import pytest
from support.commands import run_command, run_process

from ledger.cli import balance
from ledger.cli.app import run
from ledger.cli.failures import ExitStatus

COMMANDS = (
    "serve",
    "migrate",
    "ingest",
    "balance",
    "statement",
    "payouts",
    "restaurants",
    "verify",
    "report",
    "settings",
    "token",
    "demo",
    "completion",
)


async def test_help_names_every_command() -> None:
    """And where settings come from, and what the exit status says."""
    outcome = await run_command("--help")
    assert outcome.status == 0
    for command in COMMANDS:
        assert f" {command} " in outcome.stdout
    assert "LEDGER_GRPC_ADDRESS" in outcome.stdout
    assert "Exit status" in outcome.stdout


@pytest.mark.parametrize("command", [*((command,) for command in COMMANDS), ("restaurants", "put"), ("restaurants", "list")])
async def test_each_command_has_help(command: tuple[str, ...]) -> None:
    """Of more than its name."""
    outcome = await run_command(*command, "--help")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert len(outcome.stdout.splitlines()) > 8


async def test_version_is_the_packages() -> None:
    """For bug reports."""
    assert (await run_command("--version")).stdout == f"ledger {version('ledger-service')}\n"


@pytest.mark.parametrize("arguments", [("frobnicate",), ("balance",), ("serve", "--frobnicate"), ("restaurants", "drop")])
async def test_unknown_words_are_usage_errors(arguments: tuple[str, ...]) -> None:
    """Status 2."""
    assert (await run_command(*arguments)).status == ExitStatus.USAGE


async def test_bad_settings_are_told_by_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 2 and the variable's name, never a traceback."""
    monkeypatch.setenv("LEDGER_LOG_FORMAT", "xml")
    for arguments in (("serve",), ("migrate",), ("verify",), ("balance", "res_1", "PEN"), ("restaurants", "list")):
        outcome = await run_command(*arguments)
        assert outcome.status == ExitStatus.USAGE
        assert outcome.stderr == "error: LEDGER_LOG_FORMAT must be 'console' or 'json' (it is 'xml')\n"


def _defect(_: object) -> None:
    raise KeyError("nobody thought of this")


async def test_defect_is_told_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with a traceback, but with the way to get one."""
    monkeypatch.setattr(balance, "load_client_settings", _defect)
    outcome = await run_command("balance", "res_1", "PEN")
    assert outcome.status == ExitStatus.REFUSED
    assert outcome.stderr.splitlines()[0] == "error: unexpected KeyError: 'nobody thought of this'"
    assert "Traceback" not in outcome.stdout + outcome.stderr


def test_interruption_has_the_status_of_shells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C anywhere."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(balance, "load_client_settings", interrupt)
    assert run(["balance", "res_1", "PEN"]) == ExitStatus.INTERRUPTED


async def test_missing_extra_is_told_in_one_line(tmp_path: Path) -> None:
    """What to install, and status 1."""
    missing = "click"
    # A package in the way that fails to import as a missing one does.
    text = f"No module named {missing}"
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError({text!r}, name={missing!r})")
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    outcome = await run_process("--help", env={"PYTHONPATH": os.pathsep.join(filter(None, paths))})
    assert outcome.status == 1
    assert outcome.stderr.startswith(f"error: the `ledger` command needs the Python package {missing}")
    assert "with its extras server and embedded" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
