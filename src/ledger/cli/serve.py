"""`ledger serve`: runs the server."""

import asyncio
import json
import re
import shlex
import signal

from ledger.cli.configuration import AddressOption, load_settings
from ledger.cli.demo_file import DEMO_FILE, read_demo_lines
from ledger.cli.failures import ExitStatus, report
from ledger.cli.invocation import command_line, from_here
from ledger.cli.output import print_line
from ledger.observability import configure_logging
from ledger.settings import Settings

HELP = """
Run the server until Ctrl-C or SIGTERM, which let the calls under way end.

With LEDGER_DATABASE_URL it keeps the books there, and refuses to start if the schema is not the newest (see `ledger migrate`).
Without, it starts an embedded PostgreSQL in LEDGER_DATA_DIR and brings its schema up to date itself.
"""

# The address follows, and nothing else: the first line on standard output, for programs that wait for it.
READY_PREFIX = "ledger serves gRPC on "


def serve(address: AddressOption = None) -> None:
    settings = load_settings(address)
    # Imported when needed: the database's libraries take longer to load than most other commands take in all.
    from ledger.bootstrap import new_event_loop, open_database, run_server
    from ledger.cli.database_failures import database_failures

    configure_logging(settings.log_format, settings.log_level)
    with (
        database_failures(settings.database_url, unreachable=ExitStatus.REFUSED),
        open_database(settings) as database,
    ):

        def on_ready(listening_address: str) -> None:
            _announce(settings, listening_address, database.description)
            if database.attached:
                report(
                    "warning",
                    ["another process runs the embedded PostgreSQL and will stop it; this server loses its database then"],
                )

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(run_server(settings, database, on_ready=on_ready))
        # Being told to stop once more must not cut the stop of the embedded PostgreSQL short.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def _announce(settings: Settings, listening_address: str, database: str) -> None:
    """Tells where the server is, and what to try next in words that can be copied."""
    default_address = Settings.model_fields["grpc_address"].default
    # 0.0.0.0 and its like are all addresses of this machine, and none that can be called everywhere.
    address = re.sub(r"^(0\.0\.0\.0|\[::\]|\*):", "127.0.0.1:", listening_address)
    option = [] if address == default_address else ["--address", address]
    example = read_demo_lines()[0]
    restaurant_id, currency = str(example["restaurant_id"]), str(example["currency"])
    print_line(f"{READY_PREFIX}{listening_address}")
    print_line(f"the books are in {database}")
    print_line()
    print_line("To try it, in another terminal:")
    print_line(f"  {command_line('ingest', from_here(DEMO_FILE), *option)}")
    print_line(f"  {command_line('balance', restaurant_id, currency, *option)}")
    if settings.reflection:
        request = shlex.quote(json.dumps({"restaurant_id": restaurant_id, "currency": currency}))
        print_line(f"  grpcurl -plaintext -d {request} {address} ledger.v1.LedgerService/GetBalance")
