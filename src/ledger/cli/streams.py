"""The standard streams of a process: what happens where they are closed, full, or lack a character."""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path


class OutputLost(OSError):
    """Standard output took no more, as on a full disk."""


class _Output(io.TextIOWrapper):
    """Standard output. A reader who went away stays a BrokenPipeError."""

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
    """Standard error. What it does not take is lost: that stops no work and changes no exit status."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def prepare_streams() -> None:
    """Makes the streams of this process safe to use, whatever its caller gave it. Call it once."""
    # A file that is opened next would get the number of a closed stream, and with it what is written there.
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open("r" if name == "stdin" else "w")  # noqa: SIM115  # for as long as the process
            setattr(sys, name, stream)
    for name, kind in (("stdout", _Output), ("stderr", _Errors)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream = _as(kind, stream)
            setattr(sys, name, stream)
            # The stream that Python began with can be used no more.
            setattr(sys, f"__{name}__", stream)


def _as(kind: type[io.TextIOWrapper], stream: io.TextIOWrapper) -> io.TextIOWrapper:
    encoding, is_by_line, is_at_once = stream.encoding, stream.line_buffering, stream.write_through
    # A character that the encoding lacks is shown as its number.
    return kind(
        stream.detach(),
        encoding,
        "backslashreplace",
        line_buffering=is_by_line,
        write_through=is_at_once,
    )


def settle_streams() -> None:
    """Drops what the streams have not taken. Python would try again at its end, and fail by that."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        try:
            # Not by its own method: those of standard error tell nothing.
            io.TextIOWrapper.flush(stream)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
