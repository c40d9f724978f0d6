"""Where a report goes: standard output, or a file that appears when it is whole."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.streams import OutputLost, text_file


class Unwritten(Exception):
    """Standard output cannot be written: `error` is the OutputLost, or the BrokenPipeError.

    It is no OSError, which the block around a database session takes for one of the database.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _Bytes(RawIOBase):
    """A stream of bytes that raises OutputLost or BrokenPipeError, and closes nothing."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        try:
            return self._stream.write(content)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(error.errno, error.strerror) from error

    def flush(self) -> None:
        try:
            if not self._stream.closed:
                self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(error.errno, error.strerror) from error


@contextmanager
def text_output(path: Path | None) -> Iterator[None]:
    """What the block prints goes to `path`, as UTF-8; without a path, to standard output.

    Raises CommandFailure if the file cannot be written, Unwritten for standard output.
    """
    if path is None:
        with _standard_output():
            yield
            # Now, so that a full disk sets the exit status.
            sys.stdout.flush()
        return
    with _whole_file(path) as part, text_file(part) as file, redirect_stdout(file):
        yield


@contextmanager
def binary_output(path: Path | None) -> Iterator[RawIOBase]:
    """A stream to `path`; without a path, to standard output unless that is a terminal.

    Raises as `text_output` does.
    """
    if path is None:
        if sys.stdout.isatty():
            raise CommandFailure(
                "Parquet is not for terminals: name a file with --output",
                exit_status=ExitStatus.USAGE,
            )
        with _standard_output():
            stream = _Bytes(sys.stdout.buffer)
            yield stream
            stream.flush()
        return
    with _whole_file(path) as part, part.open("wb") as file:
        yield _Bytes(file)


@contextmanager
def _standard_output() -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, OutputLost) as error:
        raise Unwritten(error) from error


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path` that replaces it at the end, and is removed if the block raises."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # Sooner than a long reading, and told apart from the errors of a database.
        part.touch()
    except OSError as error:
        raise CommandFailure(f"{path} cannot be written: {error.strerror}") from None
    try:
        yield part
        _replace(path, part)
    except OutputLost as error:
        raise CommandFailure(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            part.unlink()


def _replace(path: Path, part: Path) -> None:
    try:
        part.replace(path)
    except OSError as error:
        raise OutputLost(error.errno, error.strerror) from error
