"""Runs the gateway of `ledger gateway`."""

import asyncio
from contextlib import suppress
from pathlib import Path

from ledger.cli.client_settings import load_client_settings
from ledger.cli.configuration import load_settings
from ledger.cli.failures import log_reports
from ledger.cli.gateway.books import open_ledger
from ledger.cli.gateway.parameters import config_path
from ledger.cli.output import print_json_lines, print_line
from ledger.event_loops import new_event_loop
from ledger.gateway.books import RemoteBooks
from ledger.gateway.configuration import Configuration, load
from ledger.gateway.server import Listening, serve
from ledger.observability import configure_logging
from ledger.settings import LogFormat, Settings

# The first line on standard output is this and the URL. With LEDGER_LOG_FORMAT=json that line is an
# object with the field `url`.
READY_PREFIX = "ledger gateway takes posts on "


def serve_until_stopped(config: Path, address: str | None) -> None:
    """Serves until stopped. Raises CommandFailure, ConfigurationError and AddressTaken."""
    settings = load_settings(address)
    configuration = load(config_path(config))
    configure_logging(settings.log_format, settings.log_level)
    if settings.log_format is LogFormat.JSON:
        log_reports()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(settings, config_path(config), configuration))


async def _serve(settings: Settings, path: Path, configuration: Configuration) -> None:
    def on_ready(listening: Listening) -> None:
        # The gateway goes on if the reader has closed the output.
        with suppress(OSError):
            _print_ready(settings, listening, configuration)

    async with open_ledger(load_client_settings(settings.grpc_address)) as ledger:
        await serve(path, configuration, RemoteBooks(ledger.service), on_ready=on_ready)


def _print_ready(settings: Settings, listening: Listening, configuration: Configuration) -> None:
    url = f"{listening.scheme}://{listening.address}"
    if settings.log_format is LogFormat.JSON:
        print_json_lines(
            [
                {
                    "event": "ready",
                    "url": url,
                    "private_address": listening.private_address,
                    "ledger": settings.grpc_address,
                    "endpoints": [*sorted(configuration.routes)],
                }
            ]
        )
        return
    print_line(f"{READY_PREFIX}{url}")
    if listening.private_address:
        print_line(f"and shows metrics and health on http://{listening.private_address}")
    print_line(f"it books with the ledger at {settings.grpc_address}")
    for name, route in sorted(configuration.routes.items()):
        print_line(f"  {url}/hooks/{name}  {route.processor_name}, {route.endpoint.mode}")
