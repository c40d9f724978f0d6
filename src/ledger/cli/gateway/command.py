"""`ledger gateway`: runs the webhook gateway."""

from pathlib import Path

import click

from ledger.cli.gateway.parameters import config_option
from ledger.cli.parameters import address_option

HELP = """
Run the webhook gateway until Ctrl-C or SIGTERM. It takes the posts of payment
processors by HTTP at /hooks/NAME, and books what they report with the server of
the ledger at LEDGER_GRPC_ADDRESS.

FILE names the endpoints, their processors and secrets; `ledger gateway init`
prints an example. It is read again when it changes, and at SIGHUP.

Exit status: 0 after a stop; 1 if it cannot serve; 2 for a bad setting or file.
"""


@click.command(help=HELP)
@config_option
@address_option
def serve(config: Path, address: str | None) -> None:
    # Imported here: `--help` must not wait for these.
    from ledger.cli.gateway.parameters import gateway_failures

    with gateway_failures():
        from ledger.cli.gateway.serving import serve_until_stopped

        serve_until_stopped(config, address)
