"""`ledger seals head`: the head of the chain of seals, now or at an instant."""

from datetime import UTC
from typing import TYPE_CHECKING

import click

from ledger.cli.output import counted, instant_text, print_json, print_line
from ledger.cli.parameters import Instant, json_option

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

HEAD_HELP = """
Show the head of the chain of seals, now or at an instant of the past, and how
many rows that were recorded before it are not sealed. Compare the head with the
one that was kept elsewhere; `ledger verify --chain --expect HEAD` proves that
everything sealed by then is unchanged. This command recomputes nothing.

The database is that of LEDGER_DATABASE_URL, else the embedded one in
LEDGER_DATA_DIR; a server may be running on it.

Exit status: 0 if everything recorded before the instant is sealed, 1 if not, 2
for a bad setting, 3 if the database cannot be reached.
"""


@click.command(help=HEAD_HELP)
@click.option(
    "--at",
    metavar="INSTANT",
    type=Instant(),
    help="The instant, such as the first one of this month.  [default: now]",
)
@json_option
def head(at: "Timestamp | None", json: bool) -> None:
    from ledger.bootstrap.books import sealed_head
    from ledger.cli.configuration import load_settings
    from ledger.cli.database_failures import database_failures
    from ledger.cli.failures import ExitStatus
    from ledger.observability import configure_logging

    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    with database_failures(settings.database_url):
        found = sealed_head(settings, None if at is None else at.ToDatetime(tzinfo=UTC))
    if json:
        print_json(
            {
                "hash": found.head.hash.hex() if found.head else None,
                "sequence": found.head.sequence if found.head else None,
                "sealed_at": instant_text(found.head.sealed_at) if found.head else None,
                "rows_not_sealed": found.unsealed_count,
            }
        )
    else:
        if found.head is None:
            print_line("nothing was sealed")
        else:
            print_line(f"head: {found.head.hash.hex()}")
            print_line(f"seal {found.head.sequence}, made at {instant_text(found.head.sealed_at)}")
        print_line(f"not sealed yet: {counted(found.unsealed_count, 'row')}")
    if found.unsealed_count:
        raise click.exceptions.Exit(ExitStatus.REFUSED)
