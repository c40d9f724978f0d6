"""Opens the file that a command reads, and shows on standard error how it goes on with it."""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import click

from ledger.cli.failures import CommandFailure, ExitStatus, printable
from ledger.cli.parameters import Decorator, WholeNumber

ERRORS_SHOWN = 20
_ID_LENGTH_SHOWN = 128


class ErrorCount(click.ParamType[int | None]):
    """How many refused lines to show; None means all."""

    name = "count"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        return None if value in (None, "all") else WholeNumber().convert(value, param, ctx)


def line_errors_option(noun: str) -> Callable[[Decorator], Decorator]:
    """Adds --errors, about lines of the kind `noun`."""
    return click.option(
        "--errors",
        metavar="NUMBER|all",
        type=ErrorCount(),
        default=ERRORS_SHOWN,
        help=f"How many {noun} to show in full.  [default: {ERRORS_SHOWN}]",
    )


class LineErrors:
    """Writes lines of a file that a person must look at to standard error, so many at most."""

    def __init__(
        self, source_name: str, noun: str, shown_max: int | None, write: Callable[[str], None]
    ) -> None:
        self.count = 0
        self._noun = noun
        self._source_name = source_name
        self._shown_max = shown_max
        self._write = write

    def add(self, number: int, line_id: str, text: str) -> None:
        """Counts a line, and writes it as FILE:LINE: id: text."""
        self.count += 1
        if self._shown_max is None or self.count <= self._shown_max:
            shown_id = printable(line_id[:_ID_LENGTH_SHOWN]) or "-"
            self._write(f"{self._source_name}:{number}: {shown_id}: {printable(text)}")

    def close(self) -> None:
        """Writes how many lines were not shown."""
        if self._shown_max is not None and self.count > self._shown_max:
            self._write(
                f"{self.count - self._shown_max} more {self._noun}; --errors all shows them"
            )


@contextmanager
def open_source(file: str) -> Iterator[tuple[BinaryIO, str]]:
    """Opens the file; yields it with its name for people. Raises CommandFailure if it cannot."""
    if file == "-":
        if sys.stdin is None:
            raise CommandFailure("there is no standard input to read", exit_status=ExitStatus.USAGE)
        yield sys.stdin.buffer, "<stdin>"
        return
    try:
        # Not by `with`: errors of the block are not errors of opening.
        source = Path(file).open("rb")  # noqa: SIM115
    except OSError as error:
        raise CommandFailure(
            f"cannot read {file}: {error.strerror}", exit_status=ExitStatus.USAGE
        ) from error
    with source:
        yield source, file


class Progress(Protocol):
    """Shows the progress of reading a file."""

    def show(self, bytes_read: int, booked: int, pace: str) -> None: ...

    def write(self, line: str) -> None: ...


class _NoBar:
    """Shows no progress, for a standard error that is no terminal."""

    def show(self, bytes_read: int, booked: int, pace: str) -> None:
        pass

    def write(self, line: str) -> None:
        write_error_line(line)


def write_error_line(line: str) -> None:
    """Writes a line to standard error."""
    sys.stderr.write(f"{line}\n")


@contextmanager
def progress_bar(source: BinaryIO) -> Iterator[Progress]:
    """Shows a bar on standard error during the block, if standard error is a terminal.

    Lines are written above the bar.
    """
    if not sys.stderr.isatty():
        yield _NoBar()
        return
    # Imported only for a terminal: rich takes longer to load than the rest of a command.
    from ledger.cli.ingest.bar import ingest_bar

    status = os.fstat(source.fileno())
    with ingest_bar(status.st_size if stat.S_ISREG(status.st_mode) else None) as bar:
        yield bar
