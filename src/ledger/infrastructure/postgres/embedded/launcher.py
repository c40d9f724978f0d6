"""Starts PostgreSQL's programs, which end when this process ends.

If this process runs as root, they run as an unprivileged account.
"""

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

RUN_TIMEOUT_SECONDS = 120.0
# The launcher's exit status if the account cannot enter the data directory.
_DIRECTORY_CLOSED = 77

# Arguments: the parent's pid, uid, gid, directory, program and its arguments. The order of the
# steps matters: the kernel forgets PDEATHSIG when the credentials change, and a parent that died
# before the prctl sends no signal. Imports come first, because the account may not be able to read
# the standard library.
_LAUNCHER_SOURCE = f"""
import ctypes, os, signal, subprocess, sys, time
parent, uid, gid, directory, *command = sys.argv[1:]
prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
if uid:
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
os.chdir("/")
for step in directory.split("/"):
    try:
        os.chdir(step or ".")
    except OSError:
        print(os.path.join(os.getcwd(), step), file=sys.stderr)
        sys.exit({_DIRECTORY_CLOSED})
signal.signal(signal.SIGINT, signal.SIG_DFL)
if prctl is not None:
    if prctl(1, ctypes.c_ulong(signal.SIGINT), 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != int(parent):
        sys.exit("the parent is gone")
    os.execv(command[0], command)
server = subprocess.Popen(command, close_fds=False)
for number in (signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, lambda number, _: server.send_signal(number))
while server.poll() is None:
    if os.getppid() != int(parent):
        server.send_signal(signal.SIGINT)
    time.sleep(0.1)
sys.exit(server.returncode)
"""


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot run; the message gives the reason and a remedy."""


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    uid: int
    gid: int


def account_for(cluster: Path) -> Account | None:
    """The account that PostgreSQL runs as, or None for our own.

    For root it is the cluster's owner, or else an account that every system has.
    """
    if os.geteuid() != 0:
        return None
    if cluster.exists() and cluster.stat().st_uid != 0:
        owner = cluster.stat()
        return Account(f"uid {owner.st_uid}", owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedPostgresError(
        "PostgreSQL refuses to run as root, and there is no account postgres or nobody to run it. "
        "Run the service as an ordinary user, or set LEDGER_DATABASE_URL to a running server."
    )


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts programs as the account, in the data directory.

    They inherit the lock, and end when this process ends.
    """

    data_dir: Path
    account: Account | None
    lock: int

    def start(self, command: Sequence[str | Path], output: IO[bytes]) -> subprocess.Popen[bytes]:
        uid, gid = (
            (str(self.account.uid), str(self.account.gid)) if self.account is not None else ("", "")
        )
        # Nothing else of the service's environment: it has secrets, and PG* variables would reach
        # the server.
        kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
        environment = {name: os.environ[name] for name in kept if name in os.environ} | {
            "LC_ALL": "C",
            "TZ": "UTC",
        }
        launch = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            _LAUNCHER_SOURCE,
            str(os.getpid()),
            uid,
            gid,
            str(self.data_dir),
        ]
        return subprocess.Popen(
            [*launch, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(self.lock,),
            # Ctrl-C in the terminal is for the service, which stops the database last.
            start_new_session=True,
        )

    def run(self, command: Sequence[str | Path]) -> tuple[int, str]:
        """A program's exit status and its output.

        Raises EmbeddedPostgresError if the account cannot enter the data directory.
        """
        with tempfile.TemporaryFile() as output:
            process = self.start(command, output)
            try:
                status = process.wait(RUN_TIMEOUT_SECONDS)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            output.seek(0)
            printed = output.read().decode(errors="replace").strip()
        if status == _DIRECTORY_CLOSED and self.account is not None:
            raise EmbeddedPostgresError(
                f"PostgreSQL refuses to run as root, so it runs as {self.account.name}, "
                f"which cannot enter {printed}. Set LEDGER_DATA_DIR (now {self.data_dir}) "
                f"to a directory it can reach, such as {default_data_dir()}."
            )
        return status, printed


def default_data_dir() -> Path:
    """The data directory if none is configured.

    For root it is one that the unprivileged account can enter.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/ledger")
    # The XDG specification says to ignore relative paths.
    configured = Path(os.environ.get("XDG_DATA_HOME", ""))
    try:
        return (
            configured if configured.is_absolute() else Path.home() / ".local" / "share"
        ) / "ledger"
    except RuntimeError as error:
        raise EmbeddedPostgresError(
            "There is no home directory to keep data in: set LEDGER_DATA_DIR."
        ) from error
