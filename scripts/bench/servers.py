"""Server processes, always on a free port: a forgotten server would silently share the calls."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from ledger.cli.serve.ready_line import READY_PREFIX
from ledger.settings import Settings
from scripts.bench import empty_handler
from scripts.bench.books import AVAILABLE_MINOR, Cluster
from scripts.bench.process_costs import has_loaded

ROOT = Path(__file__).resolve().parents[2]
STOP_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: the service, which books events, or the empty handler, which does not."""

    address: str
    pid: int
    books_events: bool


@contextmanager
def serving(cluster: Cluster, extra: Mapping[str, str] | None = None) -> Iterator[Server]:
    """The service on the cluster, with more settings in `extra`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")} | {
        "LEDGER_DATABASE_URL": cluster.application_url,
        "LEDGER_GRPC_ADDRESS": "127.0.0.1:0",
        "LEDGER_LOG_LEVEL": "warning",
        **(extra or {}),
    }
    # In a directory without a `.env`, which would change what is measured.
    with running(
        [sys.executable, "-m", "ledger", "serve"], READY_PREFIX, env, cluster.data_dir
    ) as (address, pid):
        yield Server(address, pid, books_events=True)


def workers_can_be_set() -> bool:
    """Whether this version of the service can run as several processes."""
    return "workers" in Settings.model_fields


@contextmanager
def serving_empty(*, uvloop: bool) -> Iterator[Server]:
    """The empty handler, as a server."""
    command = [
        sys.executable,
        "-m",
        empty_handler.__name__,
        "--available-minor",
        str(AVAILABLE_MINOR),
    ]
    if uvloop:
        command.append("--uvloop")
    with running(command, empty_handler.READY_PREFIX, dict(os.environ), ROOT) as (address, pid):
        yield Server(address, pid, books_events=False)


def uses_uvloop(server: Server) -> bool:
    """Whether a server runs on uvloop; the empty handler then does so too."""
    loaded = has_loaded(server.pid, "uvloop")
    return find_spec("uvloop") is not None if loaded is None else loaded


@contextmanager
def running(
    command: Sequence[str],
    ready_prefix: str,
    env: Mapping[str, str],
    directory: Path,
    *,
    stderr: TextIO | None = None,
) -> Iterator[tuple[str, int]]:
    """Runs a process whose first line names its address; yields the address and the pid."""
    process = subprocess.Popen(
        command,
        env=env,
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    try:
        if process.stdout is None or process.stdin is None:
            raise RuntimeError("standard input and output are not piped")
        first_line = process.stdout.readline()
        if not first_line.startswith(ready_prefix):
            raise RuntimeError(f"{' '.join(command)} did not start")
        yield first_line.strip().removeprefix(ready_prefix), process.pid
    finally:
        process.terminate()
        try:
            process.communicate(timeout=STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
