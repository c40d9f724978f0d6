"""Where a report goes: standard output, or a file that appears when it is whole."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import BinaryIO

from ledger.cli.failures import CommandFailure, ExitStatus


@contextmanager
def text_output(path: Path | None) -> Iterator[None]:
    """What the block prints goes to `path`, as UTF-8; without a path, to standard output."""
    if path is None:
        yield
        # Now, so that a full disk sets the exit status.
        sys.stdout.flush()
        return
    with _whole_file(path) as part, part.open("w", encoding="utf-8") as file, redirect_stdout(file):
        yield


@contextmanager
def binary_output(path: Path | None) -> Iterator[BinaryIO]:
    """A stream to `path`; without a path, to standard output unless that is a terminal."""
    if path is None:
        if sys.stdout.isatty():
            raise CommandFailure(
                "Parquet is not for terminals: name a file with --output",
                exit_status=ExitStatus.USAGE,
            )
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with _whole_file(path) as part, part.open("wb") as file:
        yield file


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path` that replaces it at the end, and is removed if the block raises."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except (ConnectionError, TimeoutError):
        # Of the database, not of the file.
        raise
    except OSError as error:
        raise CommandFailure(f"{path} could not be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
