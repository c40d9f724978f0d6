"""What is read from files and read again when they change: certificates, tokens, keys.

A new file that cannot be used changes nothing. A file that says who may call and that is gone or
empty lets nobody in: whoever removes it expects that.
"""

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from ledger.repeating import Repeating

T = TypeVar("T")

POLL_SECONDS = 2.0
# Nobody keeps more in such a file by intention.
FILE_BYTES_MAX = 4 * 1024 * 1024

_log = structlog.get_logger("ledger.security")


class FileUnusable(Exception):
    """A file of the configuration is missing, or not as it must be. The text says which and why, without its secrets."""


class NamesNobody(FileUnusable):
    """A file is gone or has nothing in it."""


class ReloadedFiles(Generic[T]):
    """`value` is what `read` made of the files when they were last as they must be."""

    def __init__(
        self, paths: Sequence[Path], read: Callable[[], T], *, nobody: Callable[[], T] | None = None
    ) -> None:
        """`nobody` makes the value that lets nobody in, for files that say who may call. Raises FileUnusable, as `read` does."""
        self._paths = tuple(paths)
        self._read = read
        self._nobody = nobody
        # Before reading: what changes meanwhile is read again.
        self._seen = self._state()
        self.value: T = read()

    def reload(self, *, forced: bool = False) -> bool:
        """Reads the files if they have changed since, or in any case; whether there is a new value. Logs why not."""
        state = self._state()
        if state == self._seen and not forced:
            return False
        # Also when it is broken, so that it is told once and not every time.
        self._seen = state
        names = [str(path) for path in self._paths]
        try:
            try:
                self.value = self._read()
            except NamesNobody as error:
                if self._nobody is None:
                    raise
                self.value = self._nobody()
                _log.error(
                    "a file is gone or empty: nobody is let in by it", files=names, why=str(error)
                )
                return True
        except FileUnusable as error:
            _log.error(
                "a new file cannot be used, the old contents stay in force",
                files=names,
                why=str(error),
            )
            return False
        _log.info("files were read again", files=names)
        return True

    def _state(self) -> tuple[object, ...]:
        return tuple(_state_of(path) for path in self._paths)


class Reloader:
    """Looks after several files. `on_change` is called when one of them has a new value."""

    def __init__(
        self, files: Sequence["ReloadedFiles[Any]"], *, on_change: Callable[[], None]
    ) -> None:
        self._files = tuple(files)
        self._on_change = on_change
        self._polling = Repeating(
            "reading changed files again",
            self._poll,
            every_seconds=POLL_SECONDS,
            begins_at_once=False,
            has_jitter=False,
        )

    def start(self) -> None:
        """Begins to look every POLL_SECONDS."""
        if self._files:
            self._polling.start()

    def stop(self) -> None:
        """Looks no more."""
        self._polling.cancel()

    def reload(self, *, forced: bool = False) -> None:
        """Reads what has changed, or all of it."""
        # A list, as each of them is to be looked at.
        if any([file.reload(forced=forced) for file in self._files]):
            self._on_change()

    async def _poll(self) -> None:
        self.reload()


def read_file(path: Path) -> bytes:
    """The contents of a small file that nobody but root and the server's user may change. Raises FileUnusable."""
    try:
        with path.open("rb") as file:
            _check_safe(path, os.fstat(file.fileno()))
            contents = file.read(FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NamesNobody(f"cannot read {path}: {error.strerror}") from error
    except OSError as error:
        raise FileUnusable(f"cannot read {path}: {error.strerror}") from error
    if len(contents) > FILE_BYTES_MAX:
        raise FileUnusable(f"{path} is larger than {FILE_BYTES_MAX} bytes")
    return contents


def _check_safe(path: Path, status: os.stat_result) -> None:
    """Raises FileUnusable. Whoever may write into the file could let themselves in."""
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FileUnusable(f"{path} may be written by others than its owner: run chmod go-w on it")
    if status.st_uid not in (0, os.geteuid()):
        raise FileUnusable(
            f"{path} belongs to the user {status.st_uid}: it must belong to root or to the server's user {os.geteuid()}"
        )


def _state_of(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # Whoever replaces a file by a link or a rename may keep the time of the old one.
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode, status.st_uid
