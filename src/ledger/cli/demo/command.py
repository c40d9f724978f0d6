"""`ledger demo`: shows the service at work."""

import click

HELP = """
Show the service at work on a temporary server and database.

It books the 70 events of the package, books them again, and shows the balances,
one event with its entries, and a contradiction that is refused. Then it pays
out the restaurants: a plan, a run for each currency, a payout with its items,
one that the bank carries out, and one that fails and is paid by another run.
Then it opens accounts and pays between them: a transfer, a hold that is
captured in part, a payment to a restaurant, a decline. Finally it audits the
books. It compares what it shows with what it must be.

Exit status: 0 if everything is right, 1 otherwise.
"""


@click.command(help=HELP)
def demo() -> None:
    # Imported here: `--help` must not wait for these.
    from ledger.cli.demo.demonstration import demonstrate

    demonstrate()
