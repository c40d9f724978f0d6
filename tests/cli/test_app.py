"""The `ledger` command as a whole."""

import asyncio
import os
import re
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from support.commands import TIMEOUT_SECONDS, run_command, run_process
from support.events import event_message
from support.running import RunningLedger

from ledger.cli import balance
from ledger.cli.app import COMMANDS, WHAT_COMMANDS_NEED, names_that_need, run
from ledger.cli.command_tree import Leaf, Needs, every_command
from ledger.cli.failures import ExitStatus

EVERY = every_command(COMMANDS)
CLI_PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def command_of(leaf: Leaf) -> click.Command:
    """The command, loaded."""
    module, _, function = leaf.function.partition(":")
    found: click.Command = getattr(import_module(f"ledger.cli.{module}"), function)
    return found


async def test_id_that_looks_like_an_option_gets_a_hint() -> None:
    """Ids may begin with a hyphen."""
    outcome = await run_command("balance", "-dash", "PEN")
    assert outcome.status == ExitStatus.USAGE
    assert (
        outcome.stderr.splitlines()[1]
        == "  write a value that begins with - after --, behind all options"
    )
    assert "after --" not in (await run_command("balance", "res_1", "PEN", "--nowhere")).stderr


async def test_missing_value_is_reported_with_its_choices_on_one_line() -> None:
    """Not with the library's line ends and tabs, which are shown as their escapes."""
    outcome = await run_command("completion")
    assert outcome.status == ExitStatus.USAGE
    assert (
        outcome.stderr.splitlines()[0]
        == "error: missing argument 'SHELL'. Choose from: bash, zsh, fish"
    )


async def test_help_names_every_command() -> None:
    """It also explains settings and the exit status."""
    outcome = await run_command("--help")
    assert outcome.status == 0
    for name, entry in COMMANDS.items():
        assert (f"  {name} " in outcome.stdout) == (not entry.hidden)
    assert "LEDGER_GRPC_ADDRESS" in outcome.stdout
    assert "Exit status" in outcome.stdout


def test_help_and_documentation_list_what_each_command_needs() -> None:
    """The three lists follow from the table of commands; docs/cli.md has the same ones."""
    documentation = CLI_PAGE.read_text(encoding="utf-8").replace("`", "")
    for needs in (Needs.DATABASE, Needs.NOTHING):
        *names, last = names_that_need(needs)
        listed = f"{', '.join(names)} and {last} "
        assert listed in WHAT_COMMANDS_NEED
        assert listed in " ".join(documentation.split())


@pytest.mark.parametrize(
    ("path", "leaf"), [(path, leaf) for path, leaf in EVERY if not leaf.hidden], ids=str
)
def test_commands_that_call_a_server_take_its_address(path: tuple[str, ...], leaf: Leaf) -> None:
    """The others take none; `serve` has the option because it is the server."""
    takes_address = "address" in {option.name for option in command_of(leaf).params}
    needs = Needs.NOTHING if leaf.needs is Needs.NOTHING else COMMANDS[path[0]].needs
    assert takes_address == (needs is Needs.SERVER or path == ("serve",))


@pytest.mark.parametrize(
    "arguments", [("settings",), ("token", "me", "read"), ("completion", "zsh")]
)
async def test_commands_that_need_nothing_work_without_a_database(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """Here neither the database nor the server can be reached."""
    assert COMMANDS[arguments[0]].needs is Needs.NOTHING
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://ledger@127.0.0.1:1/none")
    monkeypatch.setenv("LEDGER_GRPC_ADDRESS", "127.0.0.1:1")
    assert (await run_command(*arguments)).status == 0


@pytest.mark.parametrize("path", [(), *(path for path, _ in EVERY), ("payouts",)], ids=" ".join)
async def test_each_command_has_help_that_fits_a_terminal(path: tuple[str, ...]) -> None:
    """In 80 columns, by -h as by --help, in words for people."""
    outcome = await run_command(*path, "--help")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert outcome == await run_command(*path, "-h")
    assert max(map(len, outcome.stdout.splitlines())) <= 80
    assert not re.search(
        r"<bool>|\{[A-Z]+\}|<=x<=|\*\*|\bTEXT\b(?! +The name)|INTEGER|FLOAT", outcome.stdout
    )


@pytest.mark.parametrize(
    ("path", "leaf"), [(path, leaf) for path, leaf in EVERY if not leaf.hidden], ids=str
)
def test_options_have_one_grammar(path: tuple[str, ...], leaf: Leaf) -> None:
    """One name takes one kind of value everywhere, and every shown option has a help text."""
    for option in command_of(leaf).params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help
            assert option.is_flag or option.metavar == METAVARS[option.opts[0]], option.opts
        elif isinstance(option, click.Argument):
            assert option.help


METAVARS = {
    "--payload": "FILE",
    "--endpoint": "NAME",
    "--header": "NAME:VALUE",
    "--query": "QUERY",
    "--config": "FILE",
    "--account": "ACCOUNT",
    "--format": "FORMAT",
    "--output": "FILE",
    "--since": "DATE",
    "--about": "ID",
    "--address": "HOST:PORT",
    "--amount": "AMOUNT",
    "--as-of": "DATE",
    "--before": "DATE",
    "--breaks": "NUMBER|all",
    "--date-tolerance": "DURATION",
    "--decimal-mark": "MARK",
    "--layout": "NAME",
    "--mapping": "FILE",
    "--prefix": "PREFIX",
    "--timezone": "ZONE",
    "--kind": "KIND",
    "--at": "INSTANT",
    "--batch-size": "NUMBER",
    "--currency": "CURRENCY",
    "--days": "NUMBER",
    "--errors": "NUMBER|all",
    "--etag": "ETAG",
    "--expect": "HASH",
    "--expires-at": "INSTANT",
    "--expires-in": "DURATION",
    "--fee": "AMOUNT",
    "--font": "FILE",
    "--from": "INSTANT",
    "--maturity-days": "DAYS",
    "--metadata": "KEY=VALUE",
    "--method": "NAME",
    "--min-amount": "AMOUNT",
    "--min-amount-minor": "NUMBER",
    "--month": "MONTH",
    "--name": "TEXT",
    "--occurred-at": "INSTANT",
    "--operation-id": "ID",
    "--overdraft": "AMOUNT|unlimited",
    "--payee": "ACCOUNT",
    "--payer": "ACCOUNT",
    "--payment": "PAYMENT",
    "--reference": "REFERENCE",
    "--remove-metadata": "KEY",
    "--request-id": "ID",
    "--restaurant": "RESTAURANT",
    "--revision": "REVISION",
    "--run": "RUN",
    "--state": "STATE",
    "--timeout-seconds": "SECONDS",
    "--to": "INSTANT",
    "--type": "TYPE",
    "--until": "INSTANT",
    "--workers": "NUMBER",
    "--reason": "WORDS",
    "--min-balance": "CURRENCY=AMOUNT",
    "--remove-min-balance": "CURRENCY",
    "--restaurants-file": "FILE",
    "--bank-reference": "REFERENCE",
    "--code": "CODE",
    "--payout": "PAYOUT",
    "--submission": "SUBMISSION",
    "--submit": "SUBMISSION",
    "--text": "SENTENCE",
    "--max": "NUMBER",
    "--older-than": "DURATION",
    "--processor": "NAME",
}
# They show nothing, or have a format that others define.
WITHOUT_JSON = {
    ("serve",),
    ("demo",),
    ("completion",),
    ("payouts", "export"),
    ("gateway", "serve"),
    ("gateway", "init"),
    ("gateway", "schema"),
}


def test_every_command_that_shows_something_has_json() -> None:
    """By the option --json."""
    without = {
        path
        for path, leaf in EVERY
        if not leaf.hidden and "json" not in {option.name for option in command_of(leaf).params}
    }
    assert without == WITHOUT_JSON


def test_every_command_is_in_the_documentation() -> None:
    """By its group or its name."""
    text = CLI_PAGE.read_text(encoding="utf-8")
    for path, leaf in EVERY:
        assert leaf.hidden or re.search(rf"\b{path[-1]}\b", text), path


@pytest.mark.parametrize(
    ("arguments", "same"),
    [
        (("restaurants", "get", "res_1"), ("restaurants", "show", "res_1")),
        (
            ("balance", "res_1", "PEN", "--as-of", "2026-01-01T00:00:00Z"),
            ("balance", "res_1", "PEN", "--at", "2026-01-01"),
        ),
        (
            ("statement", "res_1", "PEN", "--type", "ENTRY_TYPE_FEE"),
            ("statement", "res_1", "PEN", "--type", "fee"),
        ),
    ],
    ids=str,
)
async def test_old_spellings_still_work(
    shared_ledger: RunningLedger, arguments: tuple[str, ...], same: tuple[str, ...]
) -> None:
    """They print what the new ones print."""
    await shared_ledger.ingest(event_message(restaurant_id="res_1", fee_minor=3))
    address = ("--address", shared_ledger.address)
    outcome = await run_command(*arguments, *address)
    assert outcome.status == 0
    assert outcome == await run_command(*same, *address)


@pytest.mark.parametrize("position", ["before", "after"])
async def test_address_may_be_before_or_after_the_command(
    shared_ledger: RunningLedger, position: str
) -> None:
    """The one after it wins."""
    here, nowhere = ("--address", shared_ledger.address), ("--address", "127.0.0.1:1")
    command = ("restaurants", "list")
    arguments = (*here, *command) if position == "before" else (*nowhere, *command, *here)
    assert (await run_command(*arguments)).status == 0


async def test_url_is_no_address() -> None:
    """Status 2, and not the status of an unreachable server."""
    outcome = await run_command("balance", "res_1", "PEN", "--address", "http://127.0.0.1:50051")
    assert outcome.status == ExitStatus.USAGE
    assert (
        outcome.stderr
        == "error: --address must be host:port or unix:path (it is 'http://127.0.0.1:50051')\n"
    )


@pytest.mark.parametrize(
    ("words", "place", "completed"),
    [
        ("ledger pay", 1, ["payouts", "payments"]),
        (
            "ledger payouts ",
            2,
            ["run", "show", "list", "runs", "cancel", "submit", "paid", "failed", "reference"],
        ),
        ("ledger payouts list --state r", 4, ["returned"]),
        ("ledger balance res_1 PEN --a", 4, ["--at", "--address"]),
        ("ledger restaurants g", 2, []),
    ],
)
async def test_shells_complete(words: str, place: int, completed: list[str]) -> None:
    """Commands, options and words, but no old spellings."""
    env = {"_LEDGER_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    outcome = await run_process(env=env)
    assert (outcome.status, outcome.stderr) == (0, "")
    # Without a completion click prints an empty line.
    found = [line.partition(",")[2] for line in outcome.stdout.splitlines() if line]
    assert found[: len(completed)] == completed
    # Without an expected word there is none at all.
    assert completed or found == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_is_printed_for_each_shell(shell: str) -> None:
    """A script that calls the command."""
    outcome = await run_command("completion", shell)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert f"_LEDGER_COMPLETE={shell}_complete" in outcome.stdout


async def test_closed_output_is_no_defect() -> None:
    """As with `head`: status 1, since not all was written, and no error text."""
    reader, writer = os.pipe()
    os.close(reader)
    command = ("-m", "ledger", "completion", "bash")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=writer, stderr=asyncio.subprocess.PIPE
    )
    os.close(writer)
    _, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    assert (process.returncode, stderr) == (ExitStatus.REFUSED, b"")


async def test_version_is_the_packages() -> None:
    """For bug reports."""
    assert (await run_command("--version")).stdout == f"ledger {version('ledger-service')}\n"


@pytest.mark.parametrize(
    "arguments", [("frobnicate",), ("balance",), ("serve", "--frobnicate"), ("restaurants", "drop")]
)
async def test_unknown_words_are_usage_errors(arguments: tuple[str, ...]) -> None:
    """Status 2."""
    assert (await run_command(*arguments)).status == ExitStatus.USAGE


async def test_bad_settings_are_reported_by_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 2 and the variable's name, never a traceback."""
    monkeypatch.setenv("LEDGER_LOG_FORMAT", "xml")
    for arguments in (
        ("serve",),
        ("migrate",),
        ("verify",),
        ("balance", "res_1", "PEN"),
        ("restaurants", "list"),
    ):
        outcome = await run_command(*arguments)
        assert outcome.status == ExitStatus.USAGE
        assert (
            outcome.stderr == "error: LEDGER_LOG_FORMAT must be 'console' or 'json' (it is 'xml')\n"
        )


def _defect(_: object) -> None:
    raise KeyError("an unexpected case")


async def test_defect_is_reported_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, which names the error."""
    monkeypatch.setattr(balance, "load_client_settings", _defect)
    outcome = await run_command("balance", "res_1", "PEN")
    assert outcome.status == ExitStatus.REFUSED
    assert outcome.stderr.splitlines()[0] == "error: unexpected KeyError: 'an unexpected case'"
    assert "Traceback" not in outcome.stdout + outcome.stderr


def test_interruption_has_the_status_of_shells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C anywhere."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(balance, "load_client_settings", interrupt)
    assert run(["balance", "res_1", "PEN"]) == ExitStatus.INTERRUPTED


@pytest.mark.parametrize(("missing", "command"), [("click", "--help"), ("sqlalchemy", "migrate")])
async def test_missing_extra_is_reported_in_one_line(
    tmp_path: Path, missing: str, command: str
) -> None:
    """What to install, and status 1: without any extra, and with that of the gateway alone."""
    # A package in the way that fails to import as a missing one does.
    text = f"No module named {missing}"
    (tmp_path / f"{missing}.py").write_text(
        f"raise ModuleNotFoundError({text!r}, name={missing!r})"
    )
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    outcome = await run_process(command, env={"PYTHONPATH": os.pathsep.join(filter(None, paths))})
    assert outcome.status == 1
    assert outcome.stderr.startswith(
        f"error: the `ledger` command needs the Python package {missing}"
    )
    assert "with its extras server and embedded" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


@pytest.mark.parametrize("stream", [0, 1, 2])
async def test_closed_standard_stream_does_no_harm(stream: int) -> None:
    """A script may close it. No file that the command opens gets its number."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$0" -m ledger completion bash {stream}>&-', sys.executable),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    assert (process.returncode, stderr) == (ExitStatus.DONE, b"")
    assert (stdout == b"") == (stream == 1)


@pytest.mark.parametrize("at_once", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "arguments", ["settings", "settings --json", "--help", "payouts", "completion bash"]
)
async def test_output_that_cannot_be_written_is_reported_in_one_line(
    arguments: str, at_once: str
) -> None:
    """As on a full disk; never as a defect, and with the status of a refusal."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$0" -m ledger {arguments} >/dev/full', sys.executable),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": at_once},
    )
    _, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    assert stderr == b"error: the output could not be written: No space left on device\n"
    assert process.returncode == ExitStatus.REFUSED


@pytest.mark.parametrize("at_once", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("completion bash", ExitStatus.DONE),
        ("settings --unheard-of", ExitStatus.USAGE),
        ("balance res_1 PEN --address 127.0.0.1:1", ExitStatus.UNREACHABLE),
    ],
)
async def test_errors_that_cannot_be_written_leave_the_exit_status(
    arguments: str, status: int, at_once: str
) -> None:
    """Scripts rely on it: after a 1 instead of a 3 they would not retry."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$0" -m ledger {arguments} 2>/dev/full', sys.executable),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": at_once},
    )
    await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    assert process.returncode == status
