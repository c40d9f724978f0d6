"""The file of a unix socket.

One server has it at a time. A new server replaces the socket of a dead one, and a server that stops
removes only the socket that it made.
"""

import errno
import fcntl
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote

from ledger.limits import SOCKET_PATH_BYTES_MAX

PREFIX = "unix:"
LOCK_SUFFIX = ".lock"


class SocketTaken(Exception):
    """Another server listens at the path, or a file that is no socket has that name."""


class UnixSocket:
    """A claim on the path of `address`, which is unix:path as gRPC reads it.

    The library listens at `bind_address`, a name beside the path, and `publish` moves the socket to
    the path. So the library never touches the path itself: it unlinks without a check, both when it
    binds and when it stops.
    """

    def __init__(self, address: str) -> None:
        """Takes the lock beside the path. The system releases it when the process ends.

        Raises SocketTaken, OSError.
        """
        self._path = _path_of(address)
        self._own: tuple[int, int] | None = None
        if len(os.fsencode(self._path)) > SOCKET_PATH_BYTES_MAX:
            raise OSError(
                errno.ENAMETOOLONG,
                f"longer than {SOCKET_PATH_BYTES_MAX} bytes",
                os.fspath(self._path),
            )
        self._bound = _name_beside(self._path, f".{os.getpid()}")
        self.bind_address = PREFIX + quote(os.fspath(self._bound))
        self._lock = _locked(self._path.with_name(self._path.name + LOCK_SUFFIX))
        try:
            _refuse_what_is_in_use(self._path)
        except BaseException:
            os.close(self._lock)
            raise

    def publish(self) -> None:
        """Moves the bound socket to the path, over the socket of a dead server. Raises OSError."""
        status = self._bound.stat()
        self._bound.rename(self._path)
        self._own = (status.st_dev, status.st_ino)

    def release(self) -> None:
        """Removes the socket if it is still ours, and gives up the lock.

        The lock file stays. If it were removed, two servers could each lock a file of that name.
        """
        with suppress(FileNotFoundError):
            status = self._path.lstat()
            if (status.st_dev, status.st_ino) == self._own:
                self._path.unlink()
        os.close(self._lock)


def _path_of(address: str) -> Path:
    text = unquote(address.removeprefix(PREFIX))
    return Path(text.removeprefix("//") if text.startswith("///") else text)


def _name_beside(path: Path, suffix: str) -> Path:
    """The path with `suffix` at its end, shortened if it would be too long for a socket."""
    beside = path.with_name(path.name + suffix)
    if len(os.fsencode(beside)) <= SOCKET_PATH_BYTES_MAX:
        return beside
    kept = os.fsencode(path.name)[: max(0, len(os.fsencode(path.name)) - len(suffix))]
    return path.with_name(kept.decode(errors="ignore") + suffix)


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise SocketTaken("another server listens there") from error
    return descriptor


def _refuse_what_is_in_use(path: Path) -> None:
    """Raises SocketTaken if a server without a lock listens there, or if the file is no socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketTaken("there is a file of that name which is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A full queue of connections also means that a server listens: do not wait for it.
        probe.setblocking(False)
        if probe.connect_ex(os.fspath(path)) in {errno.ECONNREFUSED, errno.ENOENT}:
            return
    raise SocketTaken("another server listens there")
