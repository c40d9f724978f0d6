"""Runs a server for the demonstration: a process on a free port, with a temporary directory."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

from ledger.cli.failures import CommandFailure
from ledger.cli.serve.ready_line import READY_PREFIX
from ledger.client.channels import channel_options
from ledger.settings import Settings
from ledger.v1 import ledger_pb2

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 30.0
_POLL_SECONDS = 0.02
_LOG_LINES_SHOWN = 10
_BOOKS = "books"


@contextmanager
def demo_data_dir() -> Iterator[Path]:
    """A temporary directory; the end of the block removes it."""
    data_dir = Path(tempfile.mkdtemp(prefix="ledger-demo-"))
    try:
        # As root, the embedded PostgreSQL runs as another account, which must enter the directory.
        data_dir.chmod(0o755)
        yield data_dir
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


@contextmanager
def demo_server(data_dir: Path) -> Iterator[str]:
    """Runs a server during the block, with its books in `data_dir`; yields its address.

    Raises CommandFailure with the end of the server's log if it does not start.
    """
    output, log = data_dir / "server.out", data_dir / "server.log"
    with output.open("wb") as stdout, log.open("wb") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-m", "ledger", "serve"],
            env=_environment(data_dir),
            # There is no .env here, which could name another database.
            cwd=data_dir,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            # Ctrl-C in a terminal reaches the whole process group. The demonstration ends its
            # server by itself; if both got the signal, it would wait for a server that is gone.
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        address = _wait_for_address(server, output, log, deadline)
        _wait_until_serving(server, address, log, deadline)
        yield address
    finally:
        _stop(server)


def _environment(data_dir: Path) -> Mapping[str, str]:
    """The user's environment, without settings that could name another database."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LEDGER_") or name == "LEDGER_PG_BIN"
    }
    return kept | {"LEDGER_GRPC_ADDRESS": "127.0.0.1:0", "LEDGER_DATA_DIR": str(data_dir / _BOOKS)}


def demo_settings(data_dir: Path) -> Settings:
    """The settings of a command that opens the database of the server in `data_dir`."""
    return Settings(
        _env_file=None, database_url="", migration_database_url="", data_dir=data_dir / _BOOKS
    )


def _wait_for_address(
    server: "subprocess.Popen[bytes]", output: Path, log: Path, deadline: float
) -> str:
    """Returns the address that the server announces."""
    while time.monotonic() < deadline:
        first, newline, _ = output.read_text(encoding="utf-8").partition("\n")
        if newline and first.startswith(READY_PREFIX):
            return first.removeprefix(READY_PREFIX)
        if server.poll() is not None:
            raise CommandFailure(
                f"the server ended with status {server.returncode} before it was ready",
                *_last_lines(log),
            )
        time.sleep(_POLL_SECONDS)
    raise CommandFailure(
        f"the server was not ready within {START_TIMEOUT_SECONDS:.0f} s", *_last_lines(log)
    )


def _wait_until_serving(
    server: "subprocess.Popen[bytes]", address: str, log: Path, deadline: float
) -> None:
    request = health_pb2.HealthCheckRequest(
        service=ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"].full_name
    )
    with grpc.insecure_channel(address, options=channel_options()) as channel:
        # The stub of grpc_health has no types.
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        while time.monotonic() < deadline and server.poll() is None:
            try:
                response = check(request, timeout=max(deadline - time.monotonic(), _POLL_SECONDS))
            except grpc.RpcError:
                response = health_pb2.HealthCheckResponse()
            if response.status == health_pb2.HealthCheckResponse.SERVING:
                return
            time.sleep(_POLL_SECONDS)
    raise CommandFailure(f"the server at {address} does not become healthy", *_last_lines(log))


def _last_lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES_SHOWN:]


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """Stops the server. Signals are ignored from here on, since cleaning up is short."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    server.terminate()
    try:
        server.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        # Its PostgreSQL ends with it.
        server.kill()
        server.wait()
