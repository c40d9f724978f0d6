"""`ledger gateway check`: what stored payloads would become, and whether the file is right."""

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ledger.cli.events.views import json_of_event
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.gateway.parameters import (
    config_option,
    config_path,
    gateway_failures,
    read_payload,
)
from ledger.cli.output import JsonValue, counted, print_json_lines, print_line
from ledger.cli.parameters import json_lines_option
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.gateway.booking import Problem, Route
    from ledger.gateway.configuration import Configuration
    from ledger.gateway.explaining import Explanation

HELP = """
Show what stored payloads would become: the events with their fields, what would
be ignored, and what would be quarantined, with the reasons. Each PAYLOAD is the
body of a post, byte by byte. Nothing is sent to the ledger.

Without PAYLOAD it only checks the gateway's file, and lists its endpoints.

With --header the signature is checked as well. A signature has a time: an old
one is refused as too old.

Exit status: 0 if everything would be booked or ignored; 1 if anything would be
quarantined, or a signature is refused; 2 for a bad file.
"""


@click.command(help=HELP)
@click.argument(
    "payloads",
    metavar="[PAYLOAD]...",
    nargs=-1,
    help="Files, each with the body of a post.",
)
@config_option
@click.option(
    "--endpoint",
    metavar="NAME",
    help="The endpoint that gets it.  [default: the only one of the file]",
)
@click.option(
    "--header",
    "headers",
    metavar="NAME:VALUE",
    multiple=True,
    help="A header of the post; may be repeated.",
)
@click.option("--query", metavar="QUERY", default="", help="What followed the ? of the URL.")
@json_lines_option
def check(
    payloads: tuple[str, ...],
    config: Path,
    endpoint: str | None,
    headers: tuple[str, ...],
    query: str,
    json: bool,
) -> None:
    given = dict(map(_header, headers))
    with gateway_failures():
        from ledger.gateway.configuration import load

        configuration = load(config_path(config))
        if not payloads:
            _list(configuration, json=json)
            return
        route = _route(configuration, endpoint)
        bodies = [(payload, read_payload(Path(payload))) for payload in payloads]
        explained = asyncio.run(_explain_all(route, bodies, given, query))
    wrong = 0
    for payload, explanation in explained:
        wrong += not explanation.is_booked_whole or bool(explanation.refusal)
        if json:
            print_json_lines([{"payload": payload, **_json_of(explanation, bool(given))}])
        else:
            for line in _lines_of(payload, explanation, bool(given)):
                print_line(line)
    if wrong:
        raise CommandFailure(f"{counted(wrong, 'payload')} would not be booked whole")


async def _explain_all(
    route: "Route", bodies: list[tuple[str, bytes]], headers: Mapping[str, str], query: str
) -> "list[tuple[str, Explanation]]":
    from ledger.gateway.deliveries import Delivery
    from ledger.gateway.explaining import explain

    return [
        (
            payload,
            await explain(
                route, Delivery(body, headers, query, datetime.now(UTC)), is_signed=bool(headers)
            ),
        )
        for payload, body in bodies
    ]


def _list(configuration: "Configuration", *, json: bool) -> None:
    for name, route in sorted(configuration.routes.items()):
        if json:
            print_json_lines(
                [
                    {
                        "endpoint": name,
                        "processor": route.processor_name,
                        "mode": route.endpoint.mode,
                        "path": f"/hooks/{name}",
                        "secrets": [secret.name for secret in route.endpoint.secrets],
                        "restaurant_by": route.endpoint.restaurant.by,
                        "commission": route.endpoint.fees.commission,
                    }
                ]
            )
        else:
            print_line(
                f"/hooks/{name}  {route.processor_name}, {route.endpoint.mode};"
                f" restaurant by {route.endpoint.restaurant.by},"
                f" commission: {route.endpoint.fees.commission}"
            )


def _route(configuration: "Configuration", endpoint: str | None) -> "Route":
    if endpoint is None and len(configuration.routes) == 1:
        return next(iter(configuration.routes.values()))
    if endpoint is None or endpoint not in configuration.routes:
        names = ", ".join(sorted(configuration.routes))
        raise CommandFailure(
            f"--endpoint must be one of the file's: {names}", exit_status=ExitStatus.USAGE
        )
    return configuration.routes[endpoint]


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition(":")
    if not separator or not name.strip():
        raise CommandFailure(
            f"--header is NAME:VALUE, such as X-Signature:abc (it is {text!r})",
            exit_status=ExitStatus.USAGE,
        )
    return name.strip().lower(), value.strip()


def _signature_of(explanation: "Explanation", is_signed: bool) -> str:
    if not is_signed:
        return "not checked: no --header is given"
    if explanation.refusal:
        return f"refused: {explanation.refusal}"
    return f"accepted, by the secret {explanation.secret}"


def _lines_of(payload: str, explanation: "Explanation", is_signed: bool) -> Iterator[str]:
    from ledger.gateway.booking import Problem
    from ledger.gateway.deliveries import Ignored

    yield payload
    yield f"  signature {_signature_of(explanation, is_signed)}"
    for part in explanation.parts:
        if isinstance(part, ledger_pb2.ProcessorEvent):
            shown = json_of_event(part)
            currency = shown.pop("currency")
            amount = shown["amount"] or shown["amount_minor"]
            yield f"  books {shown.pop('type')} {amount} {currency}"
            for name in _FIELDS:
                value = shown.get(name)
                is_zero = shown.get(f"{name}_minor") == "0" and name != "fee"
                if value not in (None, "") and not is_zero:
                    yield f"    {name}: {value}"
        elif isinstance(part, Ignored):
            alert = ", which people should see" if part.is_alert else ""
            yield f"  ignores {part.kind}: {part.why}{alert}"
        elif isinstance(part, Problem):
            yield f"  {_verb(part)} {part.kind or 'the delivery'}: {part.reason}: {part.detail}"
        else:
            yield (
                f"  books {part.kind} of {part.amount_minor} minor units {part.currency},"
                f" event {part.event_id}; the rest depends on {part.on} in the ledger"
            )


# The fields of an event that the lines show, in this order.
_FIELDS = (
    "event_id",
    "restaurant_id",
    "fee",
    "processor_fee",
    "reference",
    "occurred_at",
    "available_at",
    "payout_id",
    "bank_reference",
    "failure_code",
    "failure_text",
)


def _json_of(explanation: "Explanation", is_signed: bool) -> dict[str, JsonValue]:
    from ledger.gateway.booking import Problem
    from ledger.gateway.deliveries import Ignored

    parts: list[JsonValue] = []
    for part in explanation.parts:
        if isinstance(part, ledger_pb2.ProcessorEvent):
            parts.append({"outcome": "books", "event": json_of_event(part)})
        elif isinstance(part, Ignored):
            parts.append(
                {
                    "outcome": "ignores",
                    "kind": part.kind,
                    "why": part.why,
                    "is_alert": part.is_alert,
                }
            )
        elif isinstance(part, Problem):
            parts.append(
                {
                    "outcome": _verb(part),
                    "kind": part.kind or None,
                    "reason": part.reason,
                    "detail": part.detail,
                }
            )
        else:
            parts.append(
                {
                    "outcome": "books",
                    "event_id": part.event_id,
                    "type": part.kind,
                    "amount_minor": str(part.amount_minor),
                    "currency": part.currency,
                    "depends_on": part.on,
                }
            )
    return {
        "signature": _signature_of(explanation, is_signed).split(":")[0].split(",")[0],
        "secret": explanation.secret or None,
        "parts": parts,
    }


def _verb(problem: "Problem") -> str:
    return "parks" if problem.may_come else "quarantines"
