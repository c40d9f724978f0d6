"""Certificates, tokens and keys from files, which are read again when they change.

A new file that is unusable changes nothing. A file of callers that is missing or empty admits no
caller: an operator who removes it expects that.
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
# Far more than such files hold. It keeps a wrong path from filling the memory.
FILE_BYTES_MAX = 4 * 1024 * 1024

_log = structlog.get_logger("ledger.security")


class FileUnusable(Exception):
    """A file of the configuration is missing or invalid.

    The text names the file and the reason, and shows no secrets.
    """


class FileMissingOrEmpty(FileUnusable):
    """A file does not exist, or lists nothing."""


class ReloadedFiles(Generic[T]):
    """`value` is what `read` returned when the files were last usable."""

    def __init__(
        self,
        paths: Sequence[Path],
        read: Callable[[], T],
        *,
        admit_none: Callable[[], T] | None = None,
    ) -> None:
        """`admit_none` returns the value that admits no caller, for files that list callers.

        Raises FileUnusable, as `read` does.
        """
        self._paths = tuple(paths)
        self._read = read
        self._admit_none = admit_none
        # Taken before reading: a file that changes while it is read is read again.
        self._seen = self._state()
        self.value: T = read()

    def reload(self, *, forced: bool = False) -> bool:
        """Reads the files if they have changed or if `forced`. True if there is a new value.

        Logs an unusable file.
        """
        state = self._state()
        if state == self._seen and not forced:
            return False
        # Also for an unusable file, so that it is logged once and not at every poll.
        self._seen = state
        names = [str(path) for path in self._paths]
        try:
            try:
                self.value = self._read()
            except FileMissingOrEmpty as error:
                if self._admit_none is None:
                    raise
                self.value = self._admit_none()
                _log.error(
                    "a file is missing or empty: it admits no caller", files=names, why=str(error)
                )
                return True
        except FileUnusable as error:
            _log.error(
                "a new file is unusable: the old contents stay in force",
                files=names,
                why=str(error),
            )
            return False
        _log.info("files were read again", files=names)
        return True

    def _state(self) -> tuple[object, ...]:
        return tuple(_state_of(path) for path in self._paths)


class Reloader:
    """Reads several files again when they change, and then calls `on_change`."""

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

    @property
    def has_files(self) -> bool:
        """Whether there is any file to read again."""
        return bool(self._files)

    def start(self) -> None:
        """Looks for changed files every POLL_SECONDS."""
        if self._files:
            self._polling.start()

    def stop(self) -> None:
        """Ends the polling."""
        self._polling.cancel()

    def reload(self, *, forced: bool = False) -> None:
        """Reads the files that have changed, or all of them if `forced`.

        Logs an unusable file, which keeps its old value or admits no caller: see the module.
        """
        # A list and no generator: `any` would skip the files after the first change.
        if any([file.reload(forced=forced) for file in self._files]):
            self._on_change()

    async def _poll(self) -> None:
        self.reload()


def read_file(path: Path) -> bytes:
    """The contents of a small file that only root and the server's user may change.

    Raises FileUnusable.
    """
    try:
        with path.open("rb") as file:
            _check_safe(path, os.fstat(file.fileno()))
            contents = file.read(FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileMissingOrEmpty(f"cannot read {path}: {error.strerror}") from error
    except OSError as error:
        raise FileUnusable(f"cannot read {path}: {error.strerror}") from error
    if len(contents) > FILE_BYTES_MAX:
        raise FileUnusable(f"{path} is larger than {FILE_BYTES_MAX} bytes")
    return contents


def _check_safe(path: Path, status: os.stat_result) -> None:
    """Raises FileUnusable if another user may write the file: that user could admit callers."""
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FileUnusable(f"{path} may be written by others than its owner: run chmod go-w on it")
    if status.st_uid not in (0, os.geteuid()):
        raise FileUnusable(
            f"{path} belongs to the user {status.st_uid}: it must belong to root or to the "
            f"server's user {os.geteuid()}"
        )


def _state_of(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # Not the time alone: a file that a link or a rename replaces may have the time of the old one.
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode, status.st_uid
