"""An embedded PostgreSQL server, for trying the service and for its tests.

The lock stands for the server. We flock `postgres.lock` in the data directory before we touch
anything there, and pass the open file to initdb and postgres, which pass it on to their children.
We close our copy once the server accepts connections. So the lock is held exactly as long as one
process of the cluster lives: nothing has to be deleted by hand after a crash, the next start waits
for backends that outlive a killed postmaster (so nothing else retries), and a forked worker of ours
cannot hold the lock of a server that is gone. A process that does not get the lock attaches to the
server.

The server dies with its parent. On Linux the kernel ends it (PR_SET_PDEATHSIG), even after SIGKILL,
so there is no keeper process that could be killed first. Without prctl (macOS) the launcher stays
and watches its own parent.

Root runs PostgreSQL as an unprivileged account, which owns the cluster and nothing else. No
permission above the data directory is ever changed.
"""

import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote

from ledger.infrastructure.postgres.embedded.binaries import (
    find_bin_dir,
    reachable_bin_dir,
    version_of,
)
from ledger.infrastructure.postgres.embedded.launcher import (
    Account,
    EmbeddedPostgresError,
    Launcher,
    account_for,
)
from ledger.limits import SOCKET_PATH_BYTES_MAX

_START_TIMEOUT_SECONDS = 120.0  # crash recovery replays up to max_wal_size, 1 GB
_POLL_SECONDS = 0.005
_LOG_BYTES_MAX = 4 * 1024 * 1024
_LOG_TAIL_BYTES = 2048
_PORT = 5432
_SOCKET_NAME = f".s.PGSQL.{_PORT}"

# A caller may override these.
_PARAMETERS = {
    "fsync": "on",
    "full_page_writes": "on",
    "max_connections": "200",
    "max_prepared_transactions": "0",
    "synchronous_commit": "on",
}


class EmbeddedPostgres:
    """A running server: ours until `stop()`, or another process's that we attached to.

    An attached server goes away when its owner stops it.
    """

    superuser: str = "postgres"

    def __init__(self, socket_dir: Path, server: subprocess.Popen[bytes] | None) -> None:
        self.attached = server is None
        self._socket_dir = socket_dir
        self._server = server
        self._owner_pid = os.getpid()

    @classmethod
    def start(cls, data_dir: Path, *, parameters: Mapping[str, str] = {}) -> Self:
        """Starts the server of `data_dir`, or attaches to another process's; creates the cluster.

        `parameters` are PostgreSQL settings; they do not change a server that is attached to.
        Returns when SQL can be sent: about half a second on first use. Raises
        EmbeddedPostgresError, also when called outside the main thread: for PDEATHSIG the end of
        the thread that started a program is the end of its parent.
        """
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedPostgresError(
                "The embedded PostgreSQL must be started from the main thread: "
                "it ends with the thread that started it."
            )
        try:
            return cls._attach_or_own(data_dir.resolve(), parameters)
        except (OSError, subprocess.SubprocessError) as error:
            raise EmbeddedPostgresError(
                f"The embedded PostgreSQL cannot run in {data_dir}: {error}. "
                "Set LEDGER_DATA_DIR to a directory of your own, "
                "or LEDGER_DATABASE_URL to a running server."
            ) from error

    @classmethod
    def _attach_or_own(cls, data_dir: Path, parameters: Mapping[str, str]) -> Self:
        bin_dir = find_bin_dir()
        version = version_of(bin_dir)
        cluster = data_dir / f"pg{re.split(r'[^0-9]', version)[0]}"
        account = account_for(cluster)
        _create_data_dir(data_dir, account)
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while True:
            # Asked first, so that we also attach to a server that was started by hand on this
            # cluster.
            socket_dir = _accepting_socket_dir(cluster)
            if socket_dir is not None:
                return cls(socket_dir, None)
            lock = _try_lock(data_dir / "postgres.lock")
            if lock is not None:
                break
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"Another process holds {data_dir}, and its PostgreSQL accepted no connection "
                    f"for {_START_TIMEOUT_SECONDS:.0f} s. See postgres.log there, or set "
                    "LEDGER_DATA_DIR to another place."
                )
            time.sleep(4 * _POLL_SECONDS)
        try:
            launcher = Launcher(data_dir, account, lock)
            bin_dir = reachable_bin_dir(launcher, bin_dir, version)
            _create_cluster(launcher, bin_dir, cluster)
            _forget_dead_server(cluster)
            socket_dir = _choose_socket_dir(data_dir, cluster, account)
            return cls(socket_dir, _serve(launcher, bin_dir, cluster, socket_dir, parameters))
        finally:
            os.close(lock)

    def url(self, *, user: str, database: str) -> str:
        """The SQLAlchemy URL of `database` for `user`.

        It names the port, because asyncpg would otherwise obey PGPORT.
        """
        authority = f"{quote(user, safe='')}@/{quote(database, safe='')}"
        return f"postgresql+asyncpg://{authority}?host={quote(str(self._socket_dir))}&port={_PORT}"

    def stop(self) -> None:
        """Ends all sessions and shuts down.

        Does nothing when attached, when repeated, and in a forked child.
        """
        server, self._server = self._server, None
        if server is None or os.getpid() != self._owner_pid:
            return
        _shut_down(server)
        if not _is_cluster(self._socket_dir):
            _remove_socket_dir(self._socket_dir)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _create_data_dir(data_dir: Path, account: Account | None) -> None:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Root stays the owner of the directory: the account may pass through, and cannot replace the
    # files that root opens there by links. A directory that was in use before keeps its
    # permissions.
    if account is not None and not any(data_dir.iterdir()):
        data_dir.chmod(0o711)


def _try_lock(path: Path) -> int | None:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _accepting_socket_dir(cluster: Path) -> Path | None:
    """The socket directory of the cluster's server; None while no server would accept a session."""
    try:
        lines = os.fsdecode((cluster / "postmaster.pid").read_bytes()).splitlines()
    except FileNotFoundError:
        return None
    # Lines: pid, cluster, start time, port, socket directory, listen address, shared memory,
    # status.
    if len(lines) < 8 or lines[7].strip() != "ready":
        return None
    # A whole session at once (startup message, terminate), read to its end, so that the server logs
    # no complaint.
    body = struct.pack("!I", 196608) + b"user\0postgres\0database\0postgres\0\0"
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(Path(lines[4]) / f".s.PGSQL.{lines[3]}"))
            connection.sendall(struct.pack("!I", len(body) + 4) + body + b"X\0\0\0\4")
            while received := connection.recv(4096):
                answer += received
    except OSError:
        return None
    # 57P03 (cannot_connect_now) is a server that is starting or stopping; any other error is one
    # that works.
    return Path(lines[4]) if answer and b"C57P03\0" not in answer else None


def has_cluster(data_dir: Path) -> bool:
    """Whether there is a cluster of any version in `data_dir`."""
    return any(_is_cluster(path) for path in data_dir.glob("pg*"))


def _is_cluster(directory: Path) -> bool:
    return (directory / "PG_VERSION").exists()


def _create_cluster(launcher: Launcher, bin_dir: Path, cluster: Path) -> None:
    """Runs initdb in another directory and then renames it.

    So a directory with a cluster's name always holds a whole cluster.
    """
    for cut_short in launcher.data_dir.glob("new-pg*"):
        shutil.rmtree(cut_short)
    if _is_cluster(cluster):
        return
    others = [
        path
        for path in launcher.data_dir.glob("pg*")
        if path.name[2:].isdigit() and _is_cluster(path)
    ]
    if others:
        raise EmbeddedPostgresError(
            f"{others[0]} was made by another major version than {bin_dir} ({cluster.name}), "
            "which cannot read it. Set LEDGER_PG_BIN to the old version, upgrade with pg_upgrade, "
            "or set LEDGER_DATA_DIR to start empty."
        )
    new = launcher.data_dir / f"new-{cluster.name}"
    new.mkdir(mode=0o700)
    if launcher.account is not None:
        os.chown(new, launcher.account.uid, launcher.account.gid)
    command: list[str | Path]
    command = [
        bin_dir / "initdb",
        f"--pgdata={new}",
        "--username=postgres",
        "--auth=trust",
        "--data-checksums",
    ]
    # Needs no locale of the system, so that every machine sorts and folds the same.
    command += ["--encoding=UTF8", "--locale=C"]
    if int(cluster.name[2:]) >= 17:
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    status, printed = launcher.run(command)
    if status != 0:
        shutil.rmtree(new, ignore_errors=True)
        raise EmbeddedPostgresError(
            f"initdb could not create {cluster}: {printed[-_LOG_TAIL_BYTES:]}"
        )
    new.rename(cluster)
    directory = os.open(launcher.data_dir, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _forget_dead_server(cluster: Path) -> None:
    """Removes the pid file of a crashed server.

    PostgreSQL would believe the file once another program has that pid.
    """
    try:
        lines = os.fsdecode((cluster / "postmaster.pid").read_bytes()).splitlines()
    except FileNotFoundError:
        return
    # We hold the lock, so no server that we started is alive. One that was started by hand works in
    # the cluster's directory; where that cannot be checked, PostgreSQL's own check decides. Its
    # shared memory keeps two servers apart in any case.
    try:
        if not Path("/proc").is_dir() or Path(f"/proc/{abs(int(lines[0]))}/cwd").samefile(cluster):
            return
    except (FileNotFoundError, ProcessLookupError, IndexError, ValueError):
        pass
    except PermissionError:
        return
    # The file beside the socket first: with postmaster.pid gone, a second try would not come here
    # again.
    (cluster / f"{_SOCKET_NAME}.lock").unlink(missing_ok=True)
    (cluster / "postmaster.pid").unlink()


def _choose_socket_dir(data_dir: Path, cluster: Path, account: Account | None) -> Path:
    """The cluster's directory, if its path can be a socket's, or else a private temporary one.

    The path may be too long for a socket, or have a character that separates parts of a URL.
    """
    # Names the temporary directory, so that the next start removes one that a kill left behind.
    link = data_dir / "socket"
    if link.is_symlink():
        _remove_socket_dir(link.readlink())
        link.unlink()
    if len(os.fsencode(cluster / _SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX and not set(
        str(cluster)
    ) & set(',:"@'):
        return cluster
    socket_dir = Path(tempfile.mkdtemp(prefix="ledger-"))
    if account is not None:
        os.chown(socket_dir, account.uid, account.gid)
    link.symlink_to(socket_dir)
    return socket_dir


def _remove_socket_dir(socket_dir: Path) -> None:
    for name in (_SOCKET_NAME, f"{_SOCKET_NAME}.lock"):
        (socket_dir / name).unlink(missing_ok=True)
    if socket_dir.is_dir():
        socket_dir.rmdir()


def _serve(
    launcher: Launcher,
    bin_dir: Path,
    cluster: Path,
    socket_dir: Path,
    parameters: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Runs postgres in the foreground, and waits until it accepts connections or ends."""
    # These override the others, because the rest of this module relies on them.
    fixed = {
        "listen_addresses": "",
        "logging_collector": "off",
        "port": str(_PORT),
        "unix_socket_directories": str(socket_dir),
        "unix_socket_permissions": "0700",
    }
    settings = {**_PARAMETERS, **parameters, **fixed}
    path = launcher.data_dir / "postgres.log"
    if path.exists() and path.stat().st_size > _LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0) as log:
        log_start = log.seek(0, os.SEEK_END)
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        server = launcher.start([bin_dir / "postgres", "-D", cluster, *arguments], log)
        try:
            deadline = time.monotonic() + _START_TIMEOUT_SECONDS
            while _accepting_socket_dir(cluster) is None:
                failure = None
                if server.poll() is not None:
                    failure = f"PostgreSQL ended at once (status {server.returncode})"
                elif time.monotonic() > deadline:
                    failure = (
                        f"PostgreSQL accepted no connection for {_START_TIMEOUT_SECONDS:.0f} s"
                    )
                if failure is not None:
                    log.seek(max(log_start, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
                    printed = log.read().decode(errors="replace").strip()
                    raise EmbeddedPostgresError(f"{failure}. The end of {path}:\n{printed}")
                time.sleep(_POLL_SECONDS)
        except BaseException:
            _shut_down(server)
            raise
    return server


def _shut_down(server: subprocess.Popen[bytes]) -> None:
    """Shuts down fast, or at once if the checkpoint takes too long.

    Both keep the committed rows.
    """
    for number, patience_seconds in ((signal.SIGINT, 60), (signal.SIGQUIT, 15)):
        server.send_signal(number)
        try:
            server.wait(patience_seconds)
            return
        except subprocess.TimeoutExpired:
            continue
    server.kill()
    server.wait()
