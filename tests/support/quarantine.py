"""Deliveries for the quarantine, and calls about them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from ledger.v1 import ledger_pb2
from support.dates import timestamp
from support.events import unique
from support.running import RunningLedger

QUARANTINED = ledger_pb2.QUARANTINE_STATE_QUARANTINED
RETRY_REQUESTED = ledger_pb2.QUARANTINE_STATE_RETRY_REQUESTED
PARKED = ledger_pb2.QUARANTINE_STATE_PARKED
RELEASED = ledger_pb2.QUARANTINE_STATE_RELEASED
DISCARDED = ledger_pb2.QUARANTINE_STATE_DISCARDED


def from_now(**period: float) -> Timestamp:
    """An instant so far from now; negative: in the past."""
    return timestamp(datetime.now(UTC) + timedelta(**period))


def delivery(**fields: Any) -> ledger_pb2.QuarantinePayloadRequest:
    """A delivery whose body no other one has, with the fields that are given instead."""
    return ledger_pb2.QuarantinePayloadRequest(
        **{
            "endpoint": "shop",
            "processor": "stripe",
            "kind": "charge.succeeded",
            "body": b'{"id": "%s"}' % unique("dlv").encode(),
            "headers": {"stripe-signature": "t=1,v1=ab"},
            "query": "a=1",
            "reason": "UNKNOWN_RESTAURANT",
            "detail": "the account acct_9 has no restaurant",
            "received_at": from_now(seconds=-1),
            **fields,
        }
    )


async def quarantined(ledger: RunningLedger, **fields: Any) -> ledger_pb2.QuarantinedPayload:
    """Quarantines a delivery that no other one equals, and returns the payload."""
    response = await ledger.stub.QuarantinePayload(delivery(**fields))
    assert response.status == ledger_pb2.QUARANTINE_STATUS_CREATED
    return response.payload


async def payload_of(ledger: RunningLedger, quarantine_id: str) -> ledger_pb2.QuarantinedPayload:
    """The payload with its body and its moves."""
    request = ledger_pb2.GetQuarantinedRequest(quarantine_id=quarantine_id)
    return (await ledger.stub.GetQuarantined(request)).payload


async def resolve(
    ledger: RunningLedger,
    payload: ledger_pb2.QuarantinedPayload,
    outcome: ledger_pb2.QuarantineState.ValueType,
    **fields: Any,
) -> ledger_pb2.QuarantinedPayload:
    """Records what became of a try of the payload as it stood."""
    request = ledger_pb2.ResolveQuarantinedRequest(
        **{
            "quarantine_id": payload.quarantine_id,
            "move_number": payload.move_number,
            "outcome": outcome,
            **fields,
        }
    )
    return (await ledger.stub.ResolveQuarantined(request)).payload


async def discard(
    ledger: RunningLedger, quarantine_id: str, reason: str = "a test of the processor"
) -> ledger_pb2.QuarantinedPayload:
    request = ledger_pb2.DiscardQuarantinedRequest(quarantine_id=quarantine_id, reason=reason)
    return (await ledger.stub.DiscardQuarantined(request)).payload


async def retry(ledger: RunningLedger, **fields: Any) -> ledger_pb2.RetryQuarantinedResponse:
    return await ledger.stub.RetryQuarantined(ledger_pb2.RetryQuarantinedRequest(**fields))


async def listed(ledger: RunningLedger, **fields: Any) -> list[ledger_pb2.QuarantinedPayload]:
    """All pages of a list."""
    found: list[ledger_pb2.QuarantinedPayload] = []
    token = ""
    while True:
        request = ledger_pb2.ListQuarantinedRequest(page_token=token, **fields)
        page = await ledger.stub.ListQuarantined(request)
        found += page.payloads
        token = page.next_page_token
        if not token:
            return found
