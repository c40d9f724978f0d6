"""`ledger serve`: runs the server."""

import click

from ledger.cli.parameters import WholeNumber, address_option
from ledger.limits import WORKERS_MAX

HELP = """
Run the server until Ctrl-C, SIGTERM or the end of its terminal. It finishes the
calls under way first. Without a terminal, SIGHUP makes it read certificates and
tokens again.

With LEDGER_DATABASE_URL it keeps the books in that database, and refuses to
start if the schema is not the newest (see `ledger migrate`). Without, it starts
an embedded PostgreSQL in LEDGER_DATA_DIR and migrates it.

One process uses one processor core. With --workers several processes serve at
the same address, and a process that dies is replaced.

Exit status: 0 after a stop; 1 if it cannot serve; 2 for a bad setting or file;
3 if the database cannot be reached at the start.
"""


@click.command(help=HELP)
@address_option
@click.option(
    "--workers",
    metavar="NUMBER",
    type=WholeNumber(1, WORKERS_MAX),
    help="Server processes that share the address.  [default: LEDGER_WORKERS]",
)
def serve(address: str | None, workers: int | None) -> None:
    # Imported here: `--help` must not wait for these.
    from ledger.cli.serve.serving import serve_until_stopped

    serve_until_stopped(address, workers)
