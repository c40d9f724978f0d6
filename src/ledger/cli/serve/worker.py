"""`ledger serve-worker`: runs a worker process. Only the supervisor of `ledger serve` calls it."""

import asyncio
import os
import signal
import socket
import threading
import time
from contextlib import suppress

import click

from ledger.cli.failures import ExitStatus
from ledger.cli.parameters import WholeNumber
from ledger.limits import LAST_CALLS_SECONDS_MAX

HELP = "Serve as one of the workers of `ledger serve --workers`, which starts this command itself."

# A worker sends this to its supervisor once it serves calls.
SERVING = b"s"
# How long a stop may take beyond the grace: for the last calls before the server stops listening,
# for queries under way, and for closing connections.
_STOP_MARGIN_SECONDS = 20.0 + LAST_CALLS_SECONDS_MAX


def stop_seconds_max(grace_seconds: float) -> float:
    """How long a worker may take to stop. After that it is ended by force."""
    return grace_seconds + _STOP_MARGIN_SECONDS


@click.command(help=HELP)
@click.option("--number", type=WholeNumber(), required=True, help="Which of the workers this is.")
@click.option(
    "--supervisor",
    "supervisor_fd",
    type=WholeNumber(),
    required=True,
    help="The file descriptor of the connection to the supervisor.",
)
def serve_worker(number: int, supervisor_fd: int) -> None:
    # Imported here: `--help` must not wait for these.
    from ledger.cli.configuration import load_settings
    from ledger.observability import configure_logging

    # SIGHUP asks the server to reload its certificates. Ignored until the server has loaded them.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # The supervisor has put every setting into the environment. A change of `.env` takes effect
    # with the next supervisor.
    settings = load_settings(env_file=None)
    connection = socket.socket(fileno=supervisor_fd)
    exit_after_seconds = stop_seconds_max(settings.shutdown_grace_seconds)
    orphaned = threading.Event()
    threading.Thread(
        target=_stop_without_supervisor,
        args=(connection, orphaned, exit_after_seconds),
        daemon=True,
    ).start()
    from ledger.bootstrap.database import Database
    from ledger.bootstrap.server import run_server
    from ledger.cli.database_failures import database_failures
    from ledger.event_loops import new_event_loop
    from ledger.metrics import worker_metrics

    configure_logging(settings.log_format, settings.log_level, worker=number)

    def on_ready(*_: str) -> None:
        # If the supervisor has ended, this worker is stopping already.
        with suppress(OSError):
            connection.sendall(SERVING)

    with database_failures(settings.database_url):
        database = Database(settings.database_url, settings.url_for_migrations)
        metrics = worker_metrics(settings)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(
                run_server(settings, database, on_ready=on_ready, metrics=metrics, share_port=True)
            )
    # Normally the supervisor removes the directory.
    if orphaned.is_set() and settings.metrics_address:
        from ledger.infrastructure.prometheus import remove_metrics_directory

        remove_metrics_directory()


def _stop_without_supervisor(
    connection: socket.socket, orphaned: threading.Event, exit_after_seconds: float
) -> None:
    """Waits for the end of the supervisor, then stops this process by SIGTERM.

    If the process still runs `exit_after_seconds` later, it exits at once. Runs in a separate
    thread.
    """
    with suppress(OSError):
        while connection.recv(1):
            pass
    orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(exit_after_seconds)
    os._exit(ExitStatus.REFUSED)
