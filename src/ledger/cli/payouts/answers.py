"""`ledger payouts paid` and `failed`: books what the bank answers."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.output import print_json, print_line
from ledger.cli.parameters import Instant, address_option, json_option
from ledger.cli.payouts.views import json_of_payout, payout_state
from ledger.cli.refusals import refusal_of_call
from ledger.cli.words import amount_of, word_of
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.v1 import ledger_pb2_grpc

PAID_HELP = """
Book that the bank carried out a payout. May be repeated: it is booked once.
"""
FAILED_HELP = """
Book that the bank refused a payout, or returned it after it was paid. Its
amount is available again at once. May be repeated: it is booked once.
"""


def _parameters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the parameters that both commands share."""
    at = click.option(
        "--occurred-at",
        metavar="INSTANT",
        type=Instant(),
        help="When the bank did it.  [default: now; on repeat, the time of the first call]",
    )
    return click.argument("payout_id", metavar="PAYOUT", help="The payout's id.")(
        at(json_option(address_option(function)))
    )


@click.command(help=PAID_HELP)
@_parameters
def paid(payout_id: str, occurred_at: Timestamp | None, json: bool, address: str | None) -> None:
    _book_answer(
        payout_id, ledger_pb2.EVENT_TYPE_PAYOUT_PAID, occurred_at, json=json, address=address
    )


@click.command(help=FAILED_HELP)
@_parameters
def failed(payout_id: str, occurred_at: Timestamp | None, json: bool, address: str | None) -> None:
    _book_answer(
        payout_id, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED, occurred_at, json=json, address=address
    )


def settle(
    stub: "ledger_pb2_grpc.LedgerServiceStub",
    payout: ledger_pb2.Payout,
    event_type: ledger_pb2.EventType.ValueType,
    occurred_at: Timestamp | None = None,
) -> tuple[str, ledger_pb2.IngestEventResponse]:
    """Sends the event of `event_type` for `payout`. Returns the event's id and the response.

    The id follows from the payout, so the event is booked once; a repeat is a DUPLICATE. Without
    `occurred_at` a new event has the current time, and a repeat has the time of the stored event:
    with another time it would be a conflict. Raises grpc.RpcError.
    """
    import grpc

    name = ledger_pb2.EventType.Name(event_type).removeprefix("EVENT_TYPE_").lower()
    event = ledger_pb2.ProcessorEvent(
        event_id=f"cli.{name}.{payout.payout_id}",
        type=event_type,
        restaurant_id=payout.restaurant_id,
        currency=payout.currency,
        amount_minor=payout.amount_minor,
        occurred_at=occurred_at or _now(),
        payout_id=payout.payout_id,
    )
    request = ledger_pb2.IngestEventRequest(event=event)
    try:
        return event.event_id, stub.IngestEvent(request)
    except grpc.RpcError as error:
        if occurred_at is not None or refusal_of_call(error).reason != "EVENT_ID_REUSED":
            raise
    # If anything else differs from the stored event, the server refuses it again.
    stored = stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event.event_id)).event
    event.occurred_at.CopyFrom(stored.occurred_at)
    return event.event_id, stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))


def _book_answer(
    payout_id: str,
    event_type: ledger_pb2.EventType.ValueType,
    occurred_at: Timestamp | None,
    *,
    json: bool,
    address: str | None,
) -> None:
    """Books the bank's answer to a payout as an event of `event_type`, and prints the payout."""
    settings = load_client_settings(address)
    request = ledger_pb2.GetPayoutRequest(payout_id=payout_id)
    with connect(settings) as stub:
        event_id, response = settle(stub, stub.GetPayout(request).payout, event_type, occurred_at)
        payout = stub.GetPayout(request).payout
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


def _now() -> Timestamp:
    now = Timestamp()
    now.FromDatetime(datetime.now(UTC))
    return now
