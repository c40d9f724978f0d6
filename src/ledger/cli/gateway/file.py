"""`ledger gateway init` and `schema`: an example of the file, and its JSON Schema."""

import sys
from pathlib import Path

import click

from ledger import gateway
from ledger.cli.gateway.parameters import DEFAULT_FILE, gateway_failures

# A file of the package: no library that reads the gateway's file is needed to show it.
EXAMPLE = Path(gateway.__file__).with_name("gateway.example.toml")

INIT_HELP = f"""
Print an example of the gateway's file, with an endpoint of each processor and
what each line means: `ledger gateway init > {DEFAULT_FILE}`.
"""
SCHEMA_HELP = f"""
Print the JSON Schema of the gateway's file, for editors that check a file while
it is written: `ledger gateway schema > gateway.schema.json`, and as the first
line of {DEFAULT_FILE}: #:schema gateway.schema.json
"""


@click.command(help=INIT_HELP)
def init() -> None:
    sys.stdout.write(EXAMPLE.read_text(encoding="utf-8"))
    sys.stdout.flush()


@click.command(help=SCHEMA_HELP)
def schema() -> None:
    with gateway_failures():
        from ledger.gateway.configuration import schema_text

        sys.stdout.write(schema_text())
        sys.stdout.flush()
