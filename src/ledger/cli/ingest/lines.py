"""Reads one line of a file of events: a JSON object, in the spellings that processors use."""

from typing import Any

from ledger.cli.ingest.fields import (
    Field,
    parse_object,
    read_fields,
    read_instant,
    read_metadata,
    read_minor,
    read_text,
)
from ledger.domain.events import (
    OPTIONAL_RESTAURANT_EVENT_TYPES,
    PAYOUT_EVENT_TYPES,
    PLATFORM_EVENT_TYPES,
)
from ledger.v1 import ledger_pb2

_TYPE_PREFIX = "EVENT_TYPE_"

# charge_succeeded, CHARGE_SUCCEEDED and EVENT_TYPE_CHARGE_SUCCEEDED, and so on for each type.
_TYPE_BY_SPELLING = {
    spelling: number
    for name, number in ledger_pb2.EventType.items()
    if number
    for spelling in (name, name.removeprefix(_TYPE_PREFIX), name.removeprefix(_TYPE_PREFIX).lower())
}
_PLATFORM_EVENT_TYPES = {
    _TYPE_BY_SPELLING[event_type.value]
    for event_type in PLATFORM_EVENT_TYPES | OPTIONAL_RESTAURANT_EVENT_TYPES
}
_PAYOUT_EVENT_TYPES = {_TYPE_BY_SPELLING[event_type.value] for event_type in PAYOUT_EVENT_TYPES}


def parse_event_line(
    line: str, *, ignore_unknown_fields: bool = False
) -> ledger_pb2.ProcessorEvent:
    """Parses the event in `line`. A field that is null counts as absent.

    Takes a missing reference from `metadata.payment_id`, and the missing payout id of a payout
    event from `metadata.payout_id`. Raises InvalidLine with all violations of the line's fields.
    """
    members = parse_object(line)
    types = [_TYPE_BY_SPELLING.get(str(members.get(name))) for name in _FIELDS["type"].names]
    fields = _FIELDS_OF_PLATFORM if _PLATFORM_EVENT_TYPES.intersection(types) else _FIELDS
    values = read_fields(members, fields, "an event", ignore_unknown_fields=ignore_unknown_fields)
    metadata = values["metadata"] or {}
    payout_id = values["payout_id"]
    if not payout_id and values["type"] in _PAYOUT_EVENT_TYPES:
        payout_id = metadata.get("payout_id")
    return ledger_pb2.ProcessorEvent(
        event_id=values["event_id"],
        type=values["type"],
        restaurant_id=values["restaurant_id"],
        currency=values["currency"],
        amount_minor=values["amount_minor"],
        fee_minor=values["fee_minor"],
        occurred_at=values["occurred_at"],
        payout_id=payout_id,
        reference=values["reference"] or metadata.get("payment_id", ""),
        metadata=metadata,
        available_at=values["available_at"],
        processor_fee_minor=values["processor_fee_minor"],
        bank_reference=values["bank_reference"],
        failure_code=values["failure_code"],
        failure_text=values["failure_text"],
    )


def _read_type(value: Any) -> int:
    number = _TYPE_BY_SPELLING.get(read_text(value))
    if number is None:
        known = ", ".join(
            name.removeprefix(_TYPE_PREFIX).lower()
            for name, number in ledger_pb2.EventType.items()
            if number
        )
        raise ValueError(f"is not a type of event; these are: {known}")
    return number


_FIELDS = {
    "event_id": Field(("event_id",), read_text, is_required=True),
    "type": Field(("event_type", "type"), _read_type, is_required=True),
    "restaurant_id": Field(("restaurant_id",), read_text, is_required=True),
    "currency": Field(("currency",), read_text, is_required=True),
    "amount_minor": Field(("amount", "amount_cents", "amount_minor"), read_minor, is_required=True),
    "fee_minor": Field(("fee", "fee_cents", "fee_minor"), read_minor),
    "occurred_at": Field(("occurred_at",), read_instant, is_required=True),
    "payout_id": Field(("payout_id",), read_text),
    "reference": Field(("reference",), read_text),
    "metadata": Field(("metadata",), read_metadata),
    "available_at": Field(("available_at", "available_on"), read_instant),
    "processor_fee_minor": Field(
        ("processor_fee", "processor_fee_cents", "processor_fee_minor"), read_minor
    ),
    "bank_reference": Field(("bank_reference",), read_text),
    "failure_code": Field(("failure_code",), read_text),
    "failure_text": Field(("failure_text",), read_text),
}
# Events that may belong to the platform.
_FIELDS_OF_PLATFORM = _FIELDS | {"restaurant_id": Field(("restaurant_id",), read_text)}
