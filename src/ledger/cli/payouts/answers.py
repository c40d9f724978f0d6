"""`ledger payouts paid`, `failed` and `reference`: books what the bank says about a payout."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.output import print_json, print_line
from ledger.cli.parameters import Instant, address_option, json_option
from ledger.cli.payouts.views import json_of_payout, payout_state
from ledger.cli.words import amount_of, word_of
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.client import Ledger

PAID_HELP = """
Book that the bank carried out a payout. May be repeated: it is booked once.
"""
FAILED_HELP = """
Book that the bank refused a payout, or returned it after it was paid. Its
amount is available again at once. May be repeated: it is booked once.
"""
REFERENCE_HELP = """
Book what the bank calls a payout, such as a trace id, if it became known after
the answer. The latest reference is shown; the state stays. May be repeated: each
reference is booked once.
"""


def _parameters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the parameters that the commands share."""
    at = click.option(
        "--occurred-at",
        metavar="INSTANT",
        type=Instant(),
        help="When the bank did it.  [default: now; on repeat, the time of the first call]",
    )
    return click.argument("payout_id", metavar="PAYOUT", help="The payout's id.")(
        at(json_option(address_option(function)))
    )


_bank_reference_option = click.option(
    "--bank-reference",
    metavar="REFERENCE",
    default="",
    help="What the bank calls the payout, such as a trace id.",
)


@click.command(help=PAID_HELP)
@_bank_reference_option
@_parameters
def paid(
    payout_id: str,
    bank_reference: str,
    occurred_at: Timestamp | None,
    json: bool,
    address: str | None,
) -> None:
    said = Said(ledger_pb2.EVENT_TYPE_PAYOUT_PAID, bank_reference)
    _book(payout_id, said, occurred_at, json=json, address=address)


@click.command(help=FAILED_HELP)
@click.option("--code", metavar="CODE", default="", help="Why, in the bank's code, such as AC04.")
@click.option("--text", metavar="SENTENCE", default="", help="Why, in the bank's words.")
@_bank_reference_option
@_parameters
def failed(
    payout_id: str,
    code: str,
    text: str,
    bank_reference: str,
    occurred_at: Timestamp | None,
    json: bool,
    address: str | None,
) -> None:
    said = Said(ledger_pb2.EVENT_TYPE_PAYOUT_FAILED, bank_reference, code, text)
    _book(payout_id, said, occurred_at, json=json, address=address)


@click.command(help=REFERENCE_HELP)
@_parameters
@click.argument(
    "bank_reference",
    metavar="REFERENCE",
    help="What the bank calls the payout, such as a trace id.",
)
def reference(
    payout_id: str,
    bank_reference: str,
    occurred_at: Timestamp | None,
    json: bool,
    address: str | None,
) -> None:
    said = Said(ledger_pb2.EVENT_TYPE_PAYOUT_REFERENCED, bank_reference)
    _book(payout_id, said, occurred_at, json=json, address=address)


@dataclass(frozen=True, slots=True)
class Said:
    """What the bank said about a payout."""

    event_type: ledger_pb2.EventType.ValueType
    bank_reference: str = ""
    failure_code: str = ""
    failure_text: str = ""

    def event_id(self, payout_id: str) -> str:
        """The id of the event about the payout. A reference has one of its own for each of them."""
        name = ledger_pb2.EventType.Name(self.event_type).removeprefix("EVENT_TYPE_").lower()
        if self.event_type != ledger_pb2.EVENT_TYPE_PAYOUT_REFERENCED:
            return f"cli.{name}.{payout_id}"
        digest = hashlib.sha256(self.bank_reference.encode()).hexdigest()
        return f"cli.{name}.{payout_id}.{digest[:32]}"


def settle(
    ledger: "Ledger",
    payout: ledger_pb2.Payout,
    said: Said,
    occurred_at: Timestamp | None = None,
) -> tuple[str, ledger_pb2.IngestEventResponse]:
    """Sends the event of what the bank said of `payout`. Returns the event's id and the response.

    The id follows from the payout, so the event is booked once; a repeat is a DUPLICATE. Without
    `occurred_at` a new event has the current time, and a repeat has the time of the stored event:
    with another time it would be a conflict. Raises LedgerError.
    """
    from ledger.client import LedgerError

    event = ledger_pb2.ProcessorEvent(
        event_id=said.event_id(payout.payout_id),
        type=said.event_type,
        restaurant_id=payout.restaurant_id,
        currency=payout.currency,
        amount_minor=payout.amount_minor,
        occurred_at=occurred_at or _now(),
        payout_id=payout.payout_id,
        bank_reference=said.bank_reference,
        failure_code=said.failure_code,
        failure_text=said.failure_text,
    )
    request = ledger_pb2.IngestEventRequest(event=event)
    try:
        return event.event_id, ledger.service.IngestEvent(request)
    except LedgerError as error:
        if occurred_at is not None or error.reason != "EVENT_ID_REUSED":
            raise
    # If anything else differs from the stored event, the server refuses it again.
    stored = ledger.get_event(event.event_id).event
    event.occurred_at.CopyFrom(stored.occurred_at)
    return event.event_id, ledger.ingest(event)


def _book(
    payout_id: str,
    said: Said,
    occurred_at: Timestamp | None,
    *,
    json: bool,
    address: str | None,
) -> None:
    """Books what the bank said about a payout, and prints the payout."""
    settings = load_client_settings(address)
    request = ledger_pb2.GetPayoutRequest(payout_id=payout_id)
    with connect(settings) as ledger:
        event_id, response = settle(
            ledger, ledger.service.GetPayout(request).payout, said, occurred_at
        )
        payout = ledger.service.GetPayout(request).payout
    status = word_of(ledger_pb2.IngestStatus, response.status)
    if json:
        print_json(
            {
                "status": status,
                "event_id": event_id,
                "transaction_id": response.transaction_id,
                "payout": json_of_payout(payout),
            }
        )
        return
    amount = f"{amount_of(payout.amount_minor, payout.currency)} {payout.currency}"
    print_line(f"{status}: event {event_id}, transaction id {response.transaction_id}")
    print_line(
        f"payout {payout.payout_id} of {amount} to {payout.restaurant_id} is"
        f" {payout_state(payout.state)}"
    )
    if payout.bank_reference:
        print_line(f"bank reference {payout.bank_reference}")


def _now() -> Timestamp:
    now = Timestamp()
    now.FromDatetime(datetime.now(UTC))
    return now
