"""`ledger quarantine discard`: ends payloads that will not be booked."""

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.output import print_json_lines, print_table
from ledger.cli.parameters import address_option, json_lines_option
from ledger.cli.quarantine.views import json_of_payload, payloads_table
from ledger.v1 import ledger_pb2

HELP = """
End deliveries that will never be booked, for a reason that you give. They stay
stored, and repeats of them stay discarded. There is no way back.
"""


@click.command(help=HELP)
@click.argument(
    "payloads", metavar="PAYLOAD...", nargs=-1, required=True, help="The ids of the payloads."
)
@click.option(
    "--reason", metavar="WORDS", required=True, help="Why they will not be booked, for people."
)
@json_lines_option
@address_option
def discard(payloads: tuple[str, ...], reason: str, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    with connect(settings) as ledger:
        for payload in dict.fromkeys(payloads):
            request = ledger_pb2.DiscardQuarantinedRequest(quarantine_id=payload, reason=reason)
            discarded = ledger.service.DiscardQuarantined(request).payload
            # One after the other: those before a refusal are discarded, and shown as that.
            if json:
                print_json_lines([json_of_payload(discarded)])
            else:
                print_table(payloads_table([discarded]))
