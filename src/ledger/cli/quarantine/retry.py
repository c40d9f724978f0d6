"""`ledger quarantine retry`: has a gateway try payloads again."""

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.output import counted, print_json_lines, print_line
from ledger.cli.parameters import address_option, json_lines_option
from ledger.v1 import ledger_pb2

HELP = """
Have a gateway try deliveries again that could not be booked: those that you
name, or those of --endpoint, with --reason, or --all. Those that are settled
stay as they are.

The server only marks them. A gateway that serves their endpoint takes them up
within seconds; `ledger quarantine list` shows what became of them.
"""


@click.command(help=HELP)
@click.argument(
    "payloads", metavar="[PAYLOAD]...", nargs=-1, help="The ids of payloads, up to 1,000."
)
@click.option("--endpoint", metavar="NAME", default="", help="Those of this endpoint.")
@click.option("--reason", metavar="WORDS", default="", help="Those with this reason.")
@click.option("--all", "every", is_flag=True, help="All that are not settled.")
@click.option("--dry-run", is_flag=True, help="Show which they would be, and change nothing.")
@json_lines_option
@address_option
def retry(
    payloads: tuple[str, ...],
    endpoint: str,
    reason: str,
    every: bool,
    dry_run: bool,
    json: bool,
    address: str | None,
) -> None:
    if sum((bool(payloads), bool(endpoint or reason), every)) != 1:
        raise CommandFailure(
            "give payloads, or --endpoint and --reason, or --all, and nothing else",
            exit_status=ExitStatus.USAGE,
        )
    settings = load_client_settings(address)
    request = ledger_pb2.RetryQuarantinedRequest(
        quarantine_ids=payloads, endpoint=endpoint, reason=reason, all=every, dry_run=dry_run
    )
    requested = 0
    with connect(settings) as ledger:
        while True:
            response = ledger.service.RetryQuarantined(request)
            requested += len(response.quarantine_ids)
            for quarantine_id in response.quarantine_ids:
                if json:
                    print_json_lines([{"quarantine_id": quarantine_id}])
                else:
                    print_line(quarantine_id)
            # What no longer fits would come again and again in a dry run.
            if dry_run or not response.left_count or not response.quarantine_ids:
                break
    if json:
        return
    more = f", and {response.left_count} more" if dry_run and response.left_count else ""
    verb = "would be" if dry_run else "will be"
    print_line(f"{counted(requested, 'payload')}{more} {verb} tried again")
    if response.unchanged_count:
        print_line(f"{counted(response.unchanged_count, 'payload')} unchanged")
