"""How a command ends when it cannot do what it was asked: lines on standard error, and a status that scripts can rely on."""

import sys
from collections.abc import Iterable
from contextvars import ContextVar
from enum import IntEnum


class ExitStatus(IntEnum):
    """What a command exits with; `ledger --help` shows them."""

    DONE = 0
    # The server, the database or the books said no.
    REFUSED = 1
    # The command line, a setting or a file is not as it must be. What the command-line parser exits with, too.
    USAGE = 2
    # Nobody answers, or has no time: the same command may be run again.
    UNREACHABLE = 3
    # By Ctrl-C, as shells have it.
    INTERRUPTED = 130


class CommandFailure(Exception):
    """The command ends here: the first line says why, further ones give particulars."""

    def __init__(self, *lines: str, exit_status: ExitStatus = ExitStatus.REFUSED) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.exit_status = exit_status


# Whether this invocation reports by its log, as a server that logs JSON does.
_REPORTS_ARE_LOGGED: ContextVar[bool] = ContextVar("_REPORTS_ARE_LOGGED", default=False)


def log_reports() -> None:
    """Makes `report` write log lines from here on, so that standard error holds one format only."""
    _REPORTS_ARE_LOGGED.set(True)


def report(label: str, lines: Iterable[str]) -> None:
    """Writes lines to standard error, the first one after `label`, the others indented.

    As one log line after `log_reports`; `label` is its level then, `error` or `warning`.
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
    """`text` with everything escaped that could steer a terminal or break a line."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
