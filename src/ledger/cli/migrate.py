"""`ledger migrate`: brings the database to the newest schema."""

import click

from ledger.cli.output import print_json, print_line
from ledger.cli.parameters import json_option

HELP = """
Bring the database to the newest schema, or to another revision, up or down. On
repeat nothing changes.

At the newest schema it also mends what a restore or a replication may leave:
owners, privileges that are missing, triggers that are not on as they were made,
and sequences behind their tables.

The database is that of LEDGER_MIGRATION_DATABASE_URL, else of
LEDGER_DATABASE_URL, else the embedded one in LEDGER_DATA_DIR, which every
`ledger serve` brings to the newest schema by itself. The role must be a
superuser, or a member of ledger_owner.

Exit status: 0 if the database has the schema, 1 if it cannot be moved there, 2
for a bad setting, 3 if it cannot be reached.
"""


@click.command(help=HELP)
@click.option(
    "--revision",
    metavar="REVISION",
    default="head",
    help="The revision to move to; base is an empty schema.  [default: head]",
)
@json_option
def migrate(revision: str, json: bool) -> None:
    # Imported here: the database's libraries take longer to load than most commands run.
    from ledger.cli.configuration import load_settings
    from ledger.observability import configure_logging

    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    from ledger.bootstrap.database import open_database
    from ledger.cli.database_failures import database_failures
    from ledger.infrastructure.postgres.schema.migrations import migrate as move_schema

    mended: list[str] = []
    with (
        database_failures(settings.url_for_migrations),
        open_database(settings, newest_schema=False) as database,
    ):
        before, after = move_schema(database.migration_url, revision, on_mended=mended.append)
    if json:
        print_json({"revision_before": before, "revision": after, "mended": [*mended]})
        return
    for sentence in mended:
        print_line(f"mended: {sentence}")
    if before == after:
        print_line(f"the schema is up to date: it has revision {_shown(after)}")
    else:
        print_line(f"the schema was brought from revision {_shown(before)} to {_shown(after)}")


def _shown(revision: str | None) -> str:
    return revision or "none"
