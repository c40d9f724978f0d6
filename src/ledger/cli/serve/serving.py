"""Runs the server of `ledger serve`: one process, or several and their supervisor."""

import asyncio
import signal
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from ledger.cli.configuration import load_settings, warn_of_unknown_settings
from ledger.cli.failures import log_reports, report
from ledger.cli.output import JsonValue, print_json_lines, print_line
from ledger.cli.serve.first_calls import first_calls
from ledger.cli.serve.ready_line import READY_PREFIX
from ledger.observability import configure_logging
from ledger.settings import LogFormat, Settings

if TYPE_CHECKING:
    from ledger.bootstrap.database import Database


def serve_until_stopped(address: str | None, workers: int | None) -> None:
    """Serves until stopped; `address` and `workers`, if given, override the settings.

    Raises CommandFailure.
    """
    settings = load_settings(address, workers=workers)
    # Imported here: bad settings are reported before the database's libraries are loaded.
    from ledger.bootstrap.server import check_security
    from ledger.cli.database_failures import database_failures

    configure_logging(settings.log_format, settings.log_level)
    if settings.log_format is LogFormat.JSON:
        log_reports()
    warn_of_unknown_settings()
    with database_failures(settings.database_url):
        check_security(settings)
        if settings.workers == 1:
            _serve_alone(settings)
        else:
            _serve_with_workers(settings)


def _serve_alone(settings: Settings) -> None:
    from ledger.bootstrap.database import open_database
    from ledger.bootstrap.server import run_server
    from ledger.event_loops import new_event_loop
    from ledger.metrics import served_metrics

    with open_database(settings) as database:

        def on_ready(address: str, health_address: str) -> None:
            _announce(settings, address, health_address, database)

        with (
            served_metrics(settings) as metrics,
            asyncio.Runner(loop_factory=new_event_loop) as runner,
        ):
            runner.run(run_server(settings, database, on_ready=on_ready, metrics=metrics))
            # A second signal must not interrupt the stop of the embedded PostgreSQL.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)


def _serve_with_workers(settings: Settings) -> None:
    from ledger.bootstrap.database import open_database
    from ledger.bootstrap.server import check_database
    from ledger.cli.serve.supervisor import Supervisor, reserved_address, worker_environment
    from ledger.metrics import summed_metrics

    with (
        reserved_address(settings.grpc_address) as address,
        reserved_address(settings.health_address)
        if settings.health_address
        else nullcontext("") as health_address,
        open_database(settings) as database,
    ):
        # Each worker checks the same; here a failure is reported once and ends the command.
        asyncio.run(check_database(settings, database))
        with summed_metrics(settings) as metrics:
            environment = worker_environment(settings, address, health_address, database)

            def on_ready() -> None:
                _announce(settings, address, health_address, database)

            asyncio.run(Supervisor(settings, environment, on_ready=on_ready, metrics=metrics).run())


def _announce(settings: Settings, address: str, health_address: str, database: "Database") -> None:
    """Prints the server's address and what to try next.

    The server goes on if the reader has closed the output, as `head` does.
    """
    with suppress(OSError):
        _print_ready(settings, address, health_address, database)
    _warn_if_attached(database)


def _print_ready(
    settings: Settings, address: str, health_address: str, database: "Database"
) -> None:
    if settings.log_format is LogFormat.JSON:
        ready: dict[str, JsonValue] = {
            "event": "ready",
            "address": address,
            "books": database.description,
        }
        print_json_lines([ready | {"health_address": health_address} if health_address else ready])
        return
    print_line(f"{READY_PREFIX}{address}")
    if health_address:
        print_line(f"and health checks alone, in plaintext, on {health_address}")
    print_line(f"the books are in {database.description}")
    print_line()
    for line in first_calls(settings, address):
        print_line(line)


def _warn_if_attached(database: "Database") -> None:
    if database.attached:
        report(
            "warning",
            [
                "another process runs the embedded PostgreSQL and will stop it;"
                " then this server loses its database"
            ],
        )
