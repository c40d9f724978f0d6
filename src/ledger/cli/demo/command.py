"""`ledger demo`: shows the service at work."""

import click

HELP = """
Show the service at work on a server and a database of its own, which are gone
afterwards.

It books the 70 events that come with the package, books them again, shows the
balances, one event with its entries, and a contradiction that is refused. Then
it pays the restaurants out: a plan, a run for each currency, a payout with what
it consists of, one that the bank carries out, and one that fails and is paid by
another run. At last it audits the books. What it shows is compared with what
the file itself adds up to.

Exit status: 0 if everything was as it must be, 1 otherwise.
"""


@click.command(help=HELP)
def demo() -> None:
    # Imported when needed: help needs none of it.
    from ledger.cli.demo.demonstration import demonstrate

    demonstrate()
