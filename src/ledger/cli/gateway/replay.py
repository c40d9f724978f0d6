"""`ledger gateway replay`: books deliveries again, from the quarantine or from files."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.gateway.parameters import (
    config_option,
    config_path,
    gateway_failures,
    read_payload,
)
from ledger.cli.output import counted, print_json_lines, print_line
from ledger.cli.parameters import FileName, address_option, json_lines_option

if TYPE_CHECKING:
    from ledger.gateway.books import RemoteBooks
    from ledger.gateway.configuration import Configuration
    from ledger.gateway.deliveries import Delivery
    from ledger.gateway.replaying import Replayed

HELP = """
Book deliveries of the quarantine again, by the gateway's file as it is now:
those with the IDs given, or all that --reason and --endpoint leave, or --all.
What is booked already stays as it is, so a replay may be repeated.

With --payload it books the bodies of posts from files, without looking at their
signatures: what was missed in an outage, or exported from a dashboard.

`ledger quarantine retry` asks the gateways that run to do the same.

Exit status: 0 if nothing is left; 1 if anything could not be booked; 3 if the
server of the ledger does not answer.
"""


@click.command(help=HELP)
@click.argument(
    "quarantine_ids", metavar="[ID]...", nargs=-1, help="The ids of payloads of the quarantine."
)
@config_option
@click.option("--reason", metavar="WORDS", default="", help="Those with this reason.")
@click.option("--endpoint", metavar="NAME", default="", help="Those of this endpoint.")
@click.option("--all", "takes_all", is_flag=True, help="All that are open.")
@click.option(
    "--payload",
    "payloads",
    metavar="FILE",
    type=FileName(),
    multiple=True,
    help="Book the body of a post from a file, for --endpoint; may be repeated.",
)
@click.option("--query", metavar="QUERY", default="", help="What followed the ? of its URL.")
@click.option("--dry-run", is_flag=True, help="Show what would become of each; write nothing.")
@json_lines_option
@address_option
def replay(
    quarantine_ids: tuple[str, ...],
    config: Path,
    reason: str,
    endpoint: str,
    takes_all: bool,
    payloads: tuple[Path, ...],
    query: str,
    dry_run: bool,
    json: bool,
    address: str | None,
) -> None:
    ways = (
        bool(quarantine_ids),
        bool(payloads),
        takes_all,
        bool(reason or endpoint) and not payloads,
    )
    if sum(ways) != 1 or (payloads and (reason or not endpoint)):
        raise CommandFailure(
            "give IDs, or --reason and --endpoint, or --all, or --payload with --endpoint",
            exit_status=ExitStatus.USAGE,
        )
    with gateway_failures():
        from ledger.gateway.configuration import load

        configuration = load(config_path(config))
        if payloads and endpoint not in configuration.routes:
            names = ", ".join(sorted(configuration.routes))
            raise CommandFailure(
                f"--endpoint must be one of the file's: {names}", exit_status=ExitStatus.USAGE
            )

        from ledger.cli.configuration import load_settings
        from ledger.cli.gateway.books import run_with_books
        from ledger.gateway.deliveries import Delivery
        from ledger.observability import configure_logging
        from ledger.settings import LogLevel

    # What became of each delivery is printed: the log has no more than what went wrong.
    configure_logging(load_settings(address).log_format, LogLevel.WARNING)
    deliveries = [
        (str(path), Delivery(read_payload(path), {}, query, datetime.now(UTC))) for path in payloads
    ]

    async def run(books: "RemoteBooks") -> int:
        count = left = 0
        async for replayed in _replayed(
            configuration,
            books,
            quarantine_ids,
            deliveries,
            reason=reason,
            endpoint=endpoint,
            is_dry=dry_run,
        ):
            count += 1
            left += not replayed.is_settled
            _print(replayed, json=json)
        if not count and not json:
            print_line("no deliveries to replay")
        return left

    left = run_with_books(load_client_settings(address), run, is_dry=dry_run)
    if left:
        raise CommandFailure(f"{counted(left, 'delivery', 'deliveries')} could not be booked")


async def _replayed(
    configuration: "Configuration",
    books: "RemoteBooks",
    quarantine_ids: Sequence[str],
    deliveries: "Sequence[tuple[str, Delivery]]",
    *,
    reason: str,
    endpoint: str,
    is_dry: bool,
) -> "AsyncIterator[Replayed]":
    from ledger.gateway.replaying import open_ids, replay_files, replay_quarantined

    if deliveries:
        found = replay_files(configuration.routes[endpoint], books, deliveries, is_dry=is_dry)
    else:
        found = replay_quarantined(
            configuration.routes,
            books,
            quarantine_ids or await open_ids(books, endpoint=endpoint, reason=reason),
            is_dry=is_dry,
            give_up_after=timedelta(hours=configuration.retries.give_up_after_hours),
        )
    try:
        async for replayed in found:
            yield replayed
    finally:
        await configuration.close()


def _print(replayed: "Replayed", *, json: bool) -> None:
    problem = replayed.problem
    if json:
        print_json_lines(
            [
                {
                    "delivery": replayed.name,
                    "endpoint": replayed.endpoint,
                    "outcome": replayed.outcome,
                    "event_ids": [*replayed.event_ids],
                    "reason": None if problem is None else problem.reason,
                    "detail": None if problem is None else problem.detail,
                }
            ]
        )
        return
    line = f"{replayed.name} {replayed.endpoint}: {replayed.outcome}"
    if replayed.event_ids:
        line += f" {', '.join(replayed.event_ids)}"
    if problem is not None:
        line += f": {problem.reason}: {problem.detail}"
    print_line(line)
