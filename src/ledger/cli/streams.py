"""Makes the standard streams safe to write to: closed, full, or with a poor encoding."""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO


class OutputLost(OSError):
    """Standard output cannot be written, as on a full disk."""


class _Output(io.TextIOWrapper):
    """Standard output. Raises OutputLost; BrokenPipeError if the reader has closed it."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(error.errno, error.strerror) from error

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(error.errno, error.strerror) from error


class _Errors(io.TextIOWrapper):
    """Standard error. If it cannot be written, the text is lost, and the command goes on."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def prepare_streams() -> None:
    """Replaces the standard streams of this process by safe ones. Call it once."""
    # The next file to be opened would get the number of a closed stream, and receive its text.
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # Open as long as the process runs.
            stream = Path(os.devnull).open("r" if name == "stdin" else "w")  # noqa: SIM115
            setattr(sys, name, stream)
    for name, kind in (("stdout", _Output), ("stderr", _Errors)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream = _as(kind, stream)
            setattr(sys, name, stream)
            # Python's first stream is detached and cannot be used any more.
            setattr(sys, f"__{name}__", stream)


def _as(kind: type[io.TextIOWrapper], stream: io.TextIOWrapper) -> io.TextIOWrapper:
    encoding, is_by_line, is_at_once = stream.encoding, stream.line_buffering, stream.write_through
    # A character that the encoding lacks is written as its number.
    return kind(
        stream.detach(),
        encoding,
        "backslashreplace",
        line_buffering=is_by_line,
        write_through=is_at_once,
    )


def text_file(path: Path) -> TextIO:
    """A new file for text in UTF-8, whose writing raises OutputLost. Raises OSError."""
    return _Output(path.open("wb"), "utf-8")


def drop_unwritten_text() -> None:
    """Drops text that the streams could not write. Python would try again at exit, and fail."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        try:
            # Not `stream.flush()`: that of standard error hides errors.
            io.TextIOWrapper.flush(stream)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
