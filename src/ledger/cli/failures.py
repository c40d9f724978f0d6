"""How a command fails: lines on standard error, and an exit status that scripts can rely on."""

import sys
from collections.abc import Iterable
from contextvars import ContextVar
from enum import IntEnum


class ExitStatus(IntEnum):
    """What a command exits with; `ledger --help` shows them."""

    DONE = 0
    # The server or the database refused, or the books are broken.
    REFUSED = 1
    # The command line, a setting or a file is wrong. click exits with the same status.
    USAGE = 2
    # No response, or the server is busy: the same command may be run again.
    UNREACHABLE = 3
    # A payment or an operation on it was declined: an answer, not an error.
    DECLINED = 4
    # By Ctrl-C: 128 and the number of SIGINT, as in shells.
    INTERRUPTED = 130


class CommandFailure(Exception):
    """Ends the command: the first line says why, further lines give details."""

    def __init__(self, *lines: str, exit_status: ExitStatus = ExitStatus.REFUSED) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.exit_status = exit_status


def missing_package(name: str) -> str:
    """The error that a package of an extra, which the command needs, is not installed."""
    return (
        f"the `ledger` command needs the Python package {name}, which is not installed: install"
        " this package with its extras server and embedded"
    )


# Whether `report` writes log lines, as in a server that logs JSON.
_REPORTS_ARE_LOGGED: ContextVar[bool] = ContextVar("_REPORTS_ARE_LOGGED", default=False)


def log_reports() -> None:
    """Makes `report` write log lines from now on, so that standard error has one format only."""
    _REPORTS_ARE_LOGGED.set(True)


def report(label: str, lines: Iterable[str]) -> None:
    """Writes lines to standard error, the first one after `label`, the others indented.

    After `log_reports` it writes one log line instead, at the level `label`: `error` or `warning`.
    """
    if _REPORTS_ARE_LOGGED.get():
        import structlog

        first, *others = lines
        particulars = {"particulars": others} if others else {}
        getattr(structlog.get_logger("ledger"), label)(first, **particulars)
        return
    for number, line in enumerate(lines):
        sys.stderr.write(
            f"{label}: {printable(line)}\n" if number == 0 else f"  {printable(line)}\n"
        )
    sys.stderr.flush()


def printable(text: str) -> str:
    """`text` with every character escaped that could control a terminal or break a line."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
