"""Events for tests: valid unless a test says otherwise."""

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from ledger.api.convert.instants import encode_instant
from ledger.domain.events import EventType, ProcessorEvent
from ledger.v1 import ledger_pb2

# Long past, so that everything has matured unless a test says otherwise.
OCCURRED_AT = datetime(2025, 12, 1, 10, 0, tzinfo=UTC)

_numbers = count(1)


def unique(prefix: str) -> str:
    """An id that no other test uses."""
    return f"{prefix}_{next(_numbers):06d}"


def timestamp(instant: datetime) -> Timestamp:
    """The instant as a message."""
    return encode_instant(instant)


def event_message(
    type: int = ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
    *,
    event_id: str | None = None,
    restaurant_id: str = "res_001",
    currency: str = "PEN",
    amount_minor: int = 10_000,
    fee_minor: int = 0,
    occurred_at: datetime = OCCURRED_AT,
    payout_id: str = "",
    reference: str = "",
    metadata: Mapping[str, str] | None = None,
    available_at: datetime | None = None,
    processor_fee_minor: int = 0,
    bank_reference: str = "",
    failure_code: str = "",
    failure_text: str = "",
) -> ledger_pb2.ProcessorEvent:
    """A valid event as a caller sends it, with a new id unless one is given."""
    return ledger_pb2.ProcessorEvent(
        event_id=unique("evt") if event_id is None else event_id,
        type=type,  # type: ignore[arg-type]
        restaurant_id=restaurant_id,
        currency=currency,
        amount_minor=amount_minor,
        fee_minor=fee_minor,
        occurred_at=timestamp(occurred_at),
        payout_id=payout_id,
        reference=reference,
        metadata=metadata or {},
        available_at=None if available_at is None else timestamp(available_at),
        processor_fee_minor=processor_fee_minor,
        bank_reference=bank_reference,
        failure_code=failure_code,
        failure_text=failure_text,
    )


def request_of(event: ledger_pb2.ProcessorEvent | None = None) -> ledger_pb2.IngestEventRequest:
    """A request to book an event."""
    return ledger_pb2.IngestEventRequest(event=event_message() if event is None else event)


def processor_event(type: EventType = EventType.CHARGE_SUCCEEDED, **fields: Any) -> ProcessorEvent:
    """A valid event of the domain, with a new id unless one is given."""
    values: dict[str, Any] = {
        "event_id": fields.pop("event_id", None) or unique("evt"),
        "restaurant_id": "res_001",
        "currency": "PEN",
        "amount_minor": 10_000,
        "fee_minor": 0,
        "occurred_at": OCCURRED_AT,
        "payout_id": "",
        "reference": "",
        "metadata": {},
    }
    return ProcessorEvent(type=type, **(values | fields))
