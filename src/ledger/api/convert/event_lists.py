"""Between the contract's ListEvents and lists of events, both ways."""

from collections.abc import Sequence

from ledger.api.convert.events import EVENT_TYPES, encode_processor_event, write_entry
from ledger.api.convert.instants import encode_instant
from ledger.api.convert.paging import (
    Listing,
    Paging,
    PlaceFormat,
    fitting,
    read_number,
)
from ledger.api.convert.payouts import encode_payout
from ledger.api.convert.statements import check_page_size, decode_period, described_instants
from ledger.application.list_events import EventsPage
from ledger.application.ports.event_lists import EventPlace, EventQuery
from ledger.domain.fields import ID_RULE, REFERENCE_RULE, is_id, is_reference
from ledger.domain.money import CURRENCY_RULE, is_currency
from ledger.errors import FieldViolation, InvalidRequest
from ledger.v1 import ledger_pb2

# Microseconds until the year 5138, and more database transactions than any cluster has had.
_NUMBER_MAX = 10**17


def decode_event_query(request: ledger_pb2.ListEventsRequest) -> EventQuery:
    """Which events to list. Raises InvalidRequest, which names a negative page size as well."""
    violations: list[FieldViolation] = []
    if request.restaurant_id and not is_id(request.restaurant_id):
        violations.append(FieldViolation("restaurant_id", f"{ID_RULE}, or be empty"))
    if not is_reference(request.reference):
        violations.append(FieldViolation("reference", REFERENCE_RULE))
    numbers = set(request.types)
    if not numbers <= EVENT_TYPES.keys():
        violations.append(FieldViolation("types", "must be among the event types"))
    if request.currency and not is_currency(request.currency):
        violations.append(FieldViolation("currency", f"{CURRENCY_RULE}, or be empty"))
    start_at, end_at = decode_period(request, violations)
    if request.event_id_prefix and not is_id(request.event_id_prefix):
        violations.append(FieldViolation("event_id_prefix", f"{ID_RULE}, or be empty"))
    elif request.event_id_prefix and request.reference:
        violations.append(FieldViolation("event_id_prefix", "must be empty if reference is set"))
    check_page_size(request, violations)
    if violations:
        raise InvalidRequest(violations)
    return EventQuery(
        restaurant_id=request.restaurant_id or None,
        reference=request.reference or None,
        types=frozenset(EVENT_TYPES[number] for number in numbers),
        currency=request.currency or None,
        start_at=start_at,
        end_at=end_at,
        event_id_prefix=request.event_id_prefix or None,
    )


def event_listing(query: EventQuery) -> Listing[EventPlace]:
    """The events that `query` selects."""
    described = (
        "ListEvents",
        query.restaurant_id or "",
        query.reference or "",
        ",".join(sorted(query.types)),
        query.currency or "",
        *described_instants(query.start_at, query.end_at),
        query.event_id_prefix or "",
    )
    return Listing(described, EVENT_PLACE)


def encode_events_page(
    paging: Paging[EventPlace], page: EventsPage
) -> ledger_pb2.ListEventsResponse:
    """A page of events, which ends early rather than be larger than clients take. The payouts and
    what is beside the events is less than 1 MiB.
    """
    places = {item.stored.event.event_id: item.place for item in page.items}
    messages: list[ledger_pb2.ListedEvent] = []
    for stored, _ in page.items:
        message = ledger_pb2.ListedEvent(
            event=encode_processor_event(stored.event),
            transaction_id=stored.transaction_id,
            recorded_at=encode_instant(stored.recorded_at),
        )
        for counted in page.entries.get(stored.event.event_id, ()):
            entry = message.entries.add(
                counted_by_payout_id="" if counted.payout_id is None else str(counted.payout_id),
                is_payout_unknown=counted.is_unknown,
            )
            write_entry(entry.entry, counted.entry)
        messages.append(message)
    kept, next_place = fitting(
        messages, page.next_place, lambda message: places[message.event.event_id]
    )
    named = {entry.counted_by_payout_id for message in kept for entry in message.entries}
    return ledger_pb2.ListEventsResponse(
        events=kept,
        payouts=[
            encode_payout(payout) for payout in page.payouts if str(payout.payout_id) in named
        ],
        next_page_token=paging.next_page_token(next_place),
    )


def _write_place(place: EventPlace) -> Sequence[str]:
    return str(place.number), place.event_id


def _read_place(texts: Sequence[str]) -> EventPlace:
    number, event_id = texts
    if event_id and not is_id(event_id):
        raise ValueError("not an id")
    return EventPlace(read_number(number, 0, _NUMBER_MAX), event_id)


EVENT_PLACE = PlaceFormat(2, _write_place, _read_place)
