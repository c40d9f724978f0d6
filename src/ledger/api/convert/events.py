"""Converts between the contract's messages and the domain.

Every rule about the shape of a request is in `convert` or in the domain.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from sys import getsizeof

from ledger.api.access.authorization import REFUSED_EVENT_TYPES
from ledger.api.convert.batches import EVENTS
from ledger.api.convert.enums import by_number
from ledger.api.convert.identifiers import require_ids
from ledger.api.convert.instants import (
    decode_instant,
    encode_instant,
    encode_optional_instant,
    write_microseconds,
)
from ledger.api.errors import status_of
from ledger.application.ingest.event_batch import Booked, IngestOutcome, IngestStatus
from ledger.application.ports.events import StoredEntry, StoredEvent
from ledger.application.preview_event import EventPreview
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import (
    EVENT_FIELDS,
    EventType,
    ProcessorEvent,
    event_violations,
    later_violations,
)
from ledger.domain.posting_rules import EntryType
from ledger.errors import (
    EventTypeUnknown,
    FieldViolation,
    InvalidRequest,
    LedgerError,
    ScopeMissing,
)
from ledger.v1 import ledger_pb2

# The contract's numbers and the domain's words have the same names; a name without its pair fails
# here, at import.
EVENT_TYPES = by_number(
    ledger_pb2.EventType, "EVENT_TYPE_", EventType, "src/ledger/domain/events.py"
)
# An event to book, or the error of one that is rejected.
DecodedEvent = ProcessorEvent | InvalidRequest | EventTypeUnknown | ScopeMissing

# The memory, at most, of an event without its texts, of an entry of its metadata, and of the error
# of a rejected event.
_EVENT_BYTES, _ENTRY_BYTES, _REJECTED_EVENT_BYTES = 600, 150, 4096
# In larger messages the size of each text is measured, which takes 2 µs an event.
_EXACT_BYTES_MIN = 256 * 1024

_EVENT_FIELD_ORDER = {
    field.name: field.number for field in ledger_pb2.ProcessorEvent.DESCRIPTOR.fields
}
if _EVENT_FIELD_ORDER.keys() != set(EVENT_FIELDS):
    raise TypeError("ProcessorEvent has other fields in the contract than in the domain")
# The fields that are alike in the contract and the domain.
_FIELDS_ALIKE = [
    field for field in EVENT_FIELDS if field not in ("type", "occurred_at", "available_at")
]
_EVENT_TYPE_NUMBERS = {
    event_type: ledger_pb2.EventType.Value(f"EVENT_TYPE_{event_type.name}")
    for event_type in EventType
}
ENTRY_TYPE_NUMBERS = {
    entry_type: ledger_pb2.EntryType.Value(f"ENTRY_TYPE_{entry_type.name}")
    for entry_type in EntryType
}
_LEDGER_ACCOUNT_NUMBERS = {
    account: ledger_pb2.LedgerAccount.Value(f"LEDGER_ACCOUNT_{account.name}")
    for account in LedgerAccount
}
_STATUS_NUMBERS = {
    IngestStatus.CREATED: ledger_pb2.INGEST_STATUS_CREATED,
    IngestStatus.DUPLICATE: ledger_pb2.INGEST_STATUS_DUPLICATE,
}
# The length of a transaction id, and the bytes before it in a response with one of them.
_ID_BYTES = 36
_BOOKED_HEADS = {
    status: ledger_pb2.StreamEventsResponse(
        result=ledger_pb2.IngestResult(status=number, transaction_id="0" * _ID_BYTES)
    ).SerializeToString()[:-_ID_BYTES]
    for status, number in _STATUS_NUMBERS.items()
}


def decode_event(
    message: ledger_pb2.ProcessorEvent, now: datetime, place: int | None = None
) -> ProcessorEvent:
    """The event in `message`: the field `event` of a request, or the one at `place` in `events`.

    Raises ScopeMissing when the caller may not send events of its type; EventTypeUnknown without
    looking at other fields, as the rules of an unknown type are not known either; InvalidRequest
    with every offending field, each with its path.
    """
    type_number = message.type
    if (scope := REFUSED_EVENT_TYPES.get().get(type_number)) is not None:
        raise ScopeMissing(scope)
    violations: list[FieldViolation] = []
    # Each field is read once: the message makes a new value every time.
    event_id, restaurant_id, currency = message.event_id, message.restaurant_id, message.currency
    amount_minor, fee_minor = message.amount_minor, message.fee_minor
    payout_id, reference = message.payout_id, message.reference
    processor_fee_minor = message.processor_fee_minor
    bank_reference, failure_code = message.bank_reference, message.failure_code
    failure_text = message.failure_text
    event_type = EVENT_TYPES.get(type_number)
    if event_type is None:
        if type_number != ledger_pb2.EVENT_TYPE_UNSPECIFIED:
            raise EventTypeUnknown(_path(place, "type"), type_number)
        violations.append(FieldViolation("type", "must be one of the event types"))
    occurred_at = None
    if not message.HasField("occurred_at"):
        violations.append(FieldViolation("occurred_at", "must be set"))
    else:
        occurred_at = decode_instant(message.occurred_at)
        if occurred_at is None:
            violations.append(FieldViolation("occurred_at", "must be a valid timestamp"))
    available_at = None
    if message.HasField("available_at"):
        available_at = decode_instant(message.available_at)
        if available_at is None:
            violations.append(FieldViolation("available_at", "must be a valid timestamp"))
    # An empty one is not copied: that takes longer than to read all other fields.
    metadata = dict(message.metadata) if message.metadata else {}
    violations += event_violations(
        event_id=event_id,
        type=event_type,
        restaurant_id=restaurant_id,
        currency=currency,
        amount_minor=amount_minor,
        fee_minor=fee_minor,
        occurred_at=occurred_at,
        payout_id=payout_id,
        reference=reference,
        metadata=metadata,
        now=now,
    )
    if (
        available_at is not None
        or processor_fee_minor
        or bank_reference
        or failure_code
        or failure_text
        or event_type is EventType.PAYOUT_REFERENCED
    ):
        violations += later_violations(
            type=event_type,
            occurred_at=occurred_at,
            available_at=available_at,
            processor_fee_minor=processor_fee_minor,
            bank_reference=bank_reference,
            failure_code=failure_code,
            failure_text=failure_text,
        )
    if violations or event_type is None or occurred_at is None:
        violations.sort(key=lambda found: _EVENT_FIELD_ORDER[found.field])
        raise InvalidRequest(
            [FieldViolation(_path(place, found.field), found.description) for found in violations]
        )
    return ProcessorEvent(
        event_id,
        event_type,
        restaurant_id,
        currency,
        amount_minor,
        fee_minor,
        occurred_at,
        payout_id,
        reference,
        metadata,
        available_at,
        processor_fee_minor,
        bank_reference,
        failure_code,
        failure_text,
    )


def _path(place: int | None, field: str) -> str:
    return f"event.{field}" if place is None else f"events[{place}].{field}"


def decode_ingest_event(
    request: ledger_pb2.IngestEventRequest | ledger_pb2.PreviewEventRequest, now: datetime
) -> ProcessorEvent:
    """The event to book or to preview. Raises as decode_event."""
    if not request.HasField("event"):
        raise InvalidRequest([FieldViolation("event", "must be set")])
    return decode_event(request.event, now)


def decode_batch(request: ledger_pb2.BatchIngestEventsRequest, now: datetime) -> list[DecodedEvent]:
    """The events to book, and errors in the places of the others.

    Raises InvalidRequest for too few or too many.
    """
    return _decode_events(request.events, now)


def decode_stream_request(
    request: ledger_pb2.StreamEventsRequest, now: datetime
) -> list[DecodedEvent]:
    """The events of one request of a stream, and errors in the places of the others.

    The request has either `event` or `events`. Raises InvalidRequest.
    """
    if not request.HasField("event"):
        return _decode_events(request.events, now)
    if request.events:
        raise InvalidRequest([FieldViolation("events", "must be empty if event is set")])
    try:
        return [decode_event(request.event, now)]
    except (InvalidRequest, EventTypeUnknown, ScopeMissing) as error:
        return [error.with_traceback(None)]


def _decode_events(
    messages: Sequence[ledger_pb2.ProcessorEvent], now: datetime
) -> list[DecodedEvent]:
    EVENTS.check_number(len(messages))
    decoded: list[DecodedEvent] = []
    for place, message in enumerate(messages):
        try:
            decoded.append(decode_event(message, now, place))
        except (InvalidRequest, EventTypeUnknown, ScopeMissing) as error:
            # Without the traceback, which would keep the variables of this loop in memory.
            decoded.append(error.with_traceback(None))
    return decoded


def memory_bytes(decoded: Sequence[DecodedEvent], message_bytes: int) -> int:
    """The memory that the decoded events of a message of `message_bytes` take: one to sixteen times
    as much, far more for rejected events.
    """
    size_bytes = 0
    if message_bytes <= _EXACT_BYTES_MIN:
        # Texts take at most four bytes a character.
        for event in decoded:
            size_bytes += (
                _EVENT_BYTES + _ENTRY_BYTES * len(event.metadata)
                if isinstance(event, ProcessorEvent)
                else _REJECTED_EVENT_BYTES
            )
        return size_bytes + 4 * message_bytes
    for event in decoded:
        if isinstance(event, ProcessorEvent):
            texts = (
                event.event_id,
                event.restaurant_id,
                event.reference,
                event.payout_id,
                event.bank_reference,
                event.failure_code,
                event.failure_text,
                *event.metadata.values(),
            )
            size_bytes += _EVENT_BYTES + _ENTRY_BYTES * len(event.metadata)
            size_bytes += sum(map(getsizeof, event.metadata)) + sum(map(getsizeof, texts))
        else:
            size_bytes += _REJECTED_EVENT_BYTES
    return size_bytes


def encode_ingest_event(outcome: IngestOutcome) -> ledger_pb2.IngestEventResponse:
    """The response for one event. Raises the error if the outcome is one."""
    if isinstance(outcome, LedgerError):
        raise outcome
    return ledger_pb2.IngestEventResponse(
        status=_STATUS_NUMBERS[outcome.status], transaction_id=outcome.transaction_id
    )


def encode_results(outcomes: Iterable[IngestOutcome]) -> ledger_pb2.BatchIngestEventsResponse:
    """The response for several events, with a result or an error for each, in their order."""
    response = ledger_pb2.BatchIngestEventsResponse()
    for outcome in outcomes:
        _write_result(response.results.add(), outcome)
    return response


def encode_stream_response(
    outcomes: Sequence[IngestOutcome], *, is_single: bool
) -> ledger_pb2.StreamEventsResponse:
    """The response for one request of a stream, which had `event` if `is_single`, else `events`."""
    response = ledger_pb2.StreamEventsResponse()
    if is_single:
        (outcome,) = outcomes
        _write_result(response.result, outcome)
    else:
        for outcome in outcomes:
            _write_result(response.results.add(), outcome)
    return response


def stream_response_bytes(outcomes: Sequence[IngestOutcome], *, is_single: bool) -> bytes:
    """What encode_stream_response returns, as bytes; four times as fast for a booked event."""
    if is_single and isinstance(booked := outcomes[0], Booked):
        transaction_id = booked.transaction_id.encode()
        if len(transaction_id) == _ID_BYTES:
            return _BOOKED_HEADS[booked.status] + transaction_id
    return encode_stream_response(outcomes, is_single=is_single).SerializeToString()


def _write_result(message: ledger_pb2.IngestResult, outcome: IngestOutcome) -> None:
    """Writes an outcome into an empty message, in place: see `write_entry`."""
    if isinstance(outcome, Booked):
        message.status = _STATUS_NUMBERS[outcome.status]
        message.transaction_id = outcome.transaction_id
    else:
        message.error.CopyFrom(status_of(outcome))


def decode_event_id(request: ledger_pb2.GetEventRequest) -> str:
    """Returns the requested id. Raises InvalidRequest."""
    require_ids({"event_id": request.event_id})
    return request.event_id


def encode_processor_event(event: ProcessorEvent) -> ledger_pb2.ProcessorEvent:
    """A stored event."""
    return ledger_pb2.ProcessorEvent(
        type=_EVENT_TYPE_NUMBERS[event.type],
        occurred_at=encode_instant(event.occurred_at),
        available_at=encode_optional_instant(event.available_at),
        **{field: getattr(event, field) for field in _FIELDS_ALIKE},
    )


def encode_event(stored: StoredEvent, entries: list[StoredEntry]) -> ledger_pb2.GetEventResponse:
    """A stored event with its entries."""
    response = ledger_pb2.GetEventResponse(
        event=encode_processor_event(stored.event),
        transaction_id=stored.transaction_id,
        recorded_at=encode_instant(stored.recorded_at),
    )
    for entry in entries:
        write_entry(response.entries.add(), entry)
    return response


def encode_preview(event: ProcessorEvent, preview: EventPreview) -> ledger_pb2.PreviewEventResponse:
    """What the event would do."""
    response = ledger_pb2.PreviewEventResponse(
        status=_STATUS_NUMBERS[preview.status],
        registers_restaurant=preview.registers_restaurant,
        transaction_id=preview.transaction_id,
        payout_state=ledger_pb2.PAYOUT_STATE_UNSPECIFIED
        if preview.payout_state is None
        else ledger_pb2.PayoutState.Value(f"PAYOUT_STATE_{preview.payout_state.name}"),
    )
    for stored in preview.stored_entries:
        write_entry(response.entries.add(), stored)
    for position, entry in enumerate(preview.entries, start=1):
        response.entries.add(
            position=position,
            type=ENTRY_TYPE_NUMBERS[entry.rule.entry_type],
            debit_account=_LEDGER_ACCOUNT_NUMBERS[entry.rule.debit],
            credit_account=_LEDGER_ACCOUNT_NUMBERS[entry.rule.credit],
            amount_minor=entry.amount_minor,
            restaurant_id=event.restaurant_id,
            currency=event.currency,
            available_at=encode_optional_instant(entry.available_at),
            occurred_at=encode_instant(event.occurred_at),
            event_id=event.event_id,
            payout_id=event.payout_id,
        )
    return response


def write_entry(message: ledger_pb2.LedgerEntry, entry: StoredEntry) -> None:
    """Writes a ledger entry into an empty message.

    In place: making a message and then copying it takes twice as long.
    """
    message.transaction_id = str(entry.transaction_id)
    message.position = entry.position
    message.type = ENTRY_TYPE_NUMBERS[entry.entry_type]
    message.debit_account = _LEDGER_ACCOUNT_NUMBERS[entry.debit]
    message.credit_account = _LEDGER_ACCOUNT_NUMBERS[entry.credit]
    message.amount_minor = entry.amount_minor
    if entry.restaurant_id is not None:
        message.restaurant_id = entry.restaurant_id
    message.currency = entry.currency
    if entry.available_at_microseconds is not None:
        write_microseconds(message.available_at, entry.available_at_microseconds)
    if entry.occurred_at_microseconds is not None:
        write_microseconds(message.occurred_at, entry.occurred_at_microseconds)
    write_microseconds(message.recorded_at, entry.recorded_at_microseconds)
    if entry.event_id is not None:
        message.event_id = entry.event_id
    if entry.payout_id is not None:
        message.payout_id = str(entry.payout_id)
    if entry.payment_id is not None:
        message.payment_id = entry.payment_id
    if entry.account_id is not None:
        message.account_id = entry.account_id
