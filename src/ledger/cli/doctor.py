"""`ledger doctor`: checks whether the database is fit for a server."""

import click

from ledger.cli.failures import ExitStatus
from ledger.cli.output import Table, counted, print_json, print_line, print_table
from ledger.cli.parameters import json_option

HELP = """
Check whether a server can run on the database, and show what to do if it
cannot. It writes nothing.

It makes the checks that `ledger serve` makes when it starts: sessions,
encoding, durability, writes, settings, schema, subscriptions, privileges,
triggers, sequences, transaction numbers and clocks. `ledger verify` checks
whether the books are right.

The database is that of LEDGER_DATABASE_URL, else the embedded one in
LEDGER_DATA_DIR; a server may be running on it.

Exit status: 0 if nothing is broken, 1 if something is, 2 for a bad setting, 3
if the database cannot be reached.
"""


@click.command(help=HELP)
@json_option
def doctor(json: bool) -> None:
    # Imported here: the database's libraries take longer to load than most commands run.
    from ledger.cli.configuration import load_settings
    from ledger.observability import configure_logging

    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    from ledger.bootstrap.books import examine_database
    from ledger.cli.database_failures import database_failures
    from ledger.infrastructure.postgres.verification.doctor import Fitness

    with database_failures(settings.database_url):
        conditions = examine_database(settings)
    broken = sum(condition.fitness is Fitness.BROKEN for condition in conditions)
    warnings = sum(condition.fitness is Fitness.WARNING for condition in conditions)
    if json:
        print_json(
            {
                "broken": broken,
                "warnings": warnings,
                "checks": [
                    {
                        "check": condition.check,
                        "status": condition.fitness.value,
                        "detail": condition.detail,
                        "remedy": condition.remedy,
                    }
                    for condition in conditions
                ],
            }
        )
    else:
        table = Table(("status", "check", "found", "what to do"))
        for condition in conditions:
            table.add(condition.fitness.value, condition.check, condition.detail, condition.remedy)
        print_table(table)
        found = f"{broken or 'nothing'} broken, {counted(warnings, 'warning')}"
        print_line(f"{len(conditions)} checks, {found}")
    if broken:
        raise click.exceptions.Exit(ExitStatus.REFUSED)
