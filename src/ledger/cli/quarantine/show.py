"""`ledger quarantine show`: a payload with its headers, its moves and its body."""

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.output import print_json, print_line, print_table
from ledger.cli.parameters import address_option, json_option
from ledger.cli.quarantine.views import (
    body_lines,
    headers_table,
    json_of_payload,
    moves_table,
    payload_table,
)
from ledger.v1 import ledger_pb2

HELP = """
Show a delivery that could not be booked: its headers, its moves and its body,
indented if it is JSON. Control characters are escaped.

The call log has who looked at it: bodies may hold personal data.
"""


@click.command(help=HELP)
@click.argument("payload", metavar="PAYLOAD", help="The payload's id.")
@json_option
@address_option
def show(payload: str, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    with connect(settings) as ledger:
        request = ledger_pb2.GetQuarantinedRequest(quarantine_id=payload)
        found = ledger.service.GetQuarantined(request).payload
    if json:
        print_json(json_of_payload(found, whole=True))
        return
    print_table(payload_table(found))
    if found.headers:
        print_table(headers_table(found))
    print_table(moves_table(found))
    for line in body_lines(found.body):
        print_line(line)
