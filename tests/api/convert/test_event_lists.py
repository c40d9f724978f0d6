"""Lists of events, as requests and responses have them."""

from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.events import processor_event
from support.violations import violations_of

from ledger.api.convert.event_lists import decode_event_query, encode_events_page, event_listing
from ledger.api.convert.page_tokens import PageTokens
from ledger.api.convert.paging import PAGE_BYTES_MAX, Paging
from ledger.application.list_events import EventsPage
from ledger.application.ports.event_lists import CountedEntry, EventPlace, EventQuery, ListedEvent
from ledger.application.ports.events import StoredEntry, StoredEvent
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import UNIX_EPOCH, EventType
from ledger.domain.fields import ID_RULE, REFERENCE_RULE
from ledger.domain.money import CURRENCY_RULE
from ledger.domain.payout_states import PayoutState
from ledger.domain.payouts import Payout
from ledger.domain.posting_rules import EntryType
from ledger.v1 import ledger_pb2

TOKENS = PageTokens([b"k" * 32])
IDS = [UUID(int=number) for number in range(1, 6)]
EVERYTHING = EventQuery(None, None, frozenset(), None, None, None, None)


def listed(event_id: str, **fields: Any) -> ListedEvent:
    event = processor_event(event_id=event_id, restaurant_id="res_1", **fields)
    stored = StoredEvent(event, b"", str(IDS[0]), IDS[1], UNIX_EPOCH + timedelta(seconds=5))
    return ListedEvent(stored, EventPlace(5_000_000, event_id))


def entry_of(event_id: str, position: int) -> StoredEntry:
    return StoredEntry(
        transaction_id=IDS[0],
        position=position,
        entry_type=EntryType.CHARGE,
        debit=LedgerAccount.PROCESSOR_CLEARING,
        credit=LedgerAccount.RESTAURANT_PAYABLE,
        amount_minor=7,
        restaurant_id="res_1",
        currency="PEN",
        available_at_microseconds=None,
        occurred_at_microseconds=0,
        recorded_at_microseconds=5_000_000,
        event_id=event_id,
        payout_id=None,
    )


def payout(payout_id: UUID) -> Payout:
    day = date(2026, 1, 31)
    return Payout(
        payout_id,
        IDS[0],
        "res_1",
        "PEN",
        7,
        day,
        UNIX_EPOCH,
        PayoutState.CREATED,
        IDS[0],
        UNIX_EPOCH,
    )


def test_query_is_decoded() -> None:
    """What is not set selects everything; an instant that is set, though empty, is 1970."""
    assert decode_event_query(ledger_pb2.ListEventsRequest()) == EVERYTHING
    request = ledger_pb2.ListEventsRequest(
        restaurant_id="res_1",
        reference="pay 1",
        types=[
            ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLED,
            ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
            ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLED,
        ],
        currency="PEN",
        start_at=Timestamp(),
        end_at=Timestamp(seconds=1, nanos=2_999),
    )
    assert decode_event_query(request) == EventQuery(
        "res_1",
        "pay 1",
        frozenset({EventType.CHARGE_SUCCEEDED, EventType.PROCESSOR_SETTLED}),
        "PEN",
        UNIX_EPOCH,
        UNIX_EPOCH + timedelta(seconds=1, microseconds=2),
        None,
    )
    by_prefix = decode_event_query(ledger_pb2.ListEventsRequest(event_id_prefix="stripe:"))
    assert (by_prefix.event_id_prefix, by_prefix.reference) == ("stripe:", None)


def test_every_wrong_field_is_reported() -> None:
    request = ledger_pb2.ListEventsRequest(
        restaurant_id="res 1",
        reference="\n",
        currency="pen",
        start_at=Timestamp(nanos=-1),
        end_at=Timestamp(nanos=10**9),
        event_id_prefix="a b",
        page_size=-1,
    )
    request.types.extend([0, 99])  # type: ignore[list-item]
    assert violations_of(decode_event_query, request) == [
        ("restaurant_id", f"{ID_RULE}, or be empty"),
        ("reference", REFERENCE_RULE),
        ("types", "must be among the event types"),
        ("currency", f"{CURRENCY_RULE}, or be empty"),
        ("start_at", "must be a valid timestamp"),
        ("end_at", "must be a valid timestamp"),
        ("event_id_prefix", f"{ID_RULE}, or be empty"),
        ("page_size", "must not be negative"),
    ]


def test_reference_and_prefix_exclude_each_other() -> None:
    request = ledger_pb2.ListEventsRequest(reference="pay_1", event_id_prefix="stripe:")
    assert violations_of(decode_event_query, request) == [
        ("event_id_prefix", "must be empty if reference is set")
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"restaurant_id": "res_1"},
        {"reference": "res_1"},
        {"types": frozenset({EventType.CHARGE_SUCCEEDED})},
        {"currency": "PEN"},
        {"start_at": UNIX_EPOCH},
        {"end_at": UNIX_EPOCH},
        {"event_id_prefix": "res_1"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_token_is_of_one_query(other: dict[str, Any]) -> None:
    """Each filter is part of it."""
    token = Paging(TOKENS, event_listing(EVERYTHING), 1, "").next_page_token(EventPlace(1, "evt"))
    query = EventQuery(
        **{name: other.get(name, getattr(EVERYTHING, name)) for name in EventQuery.__slots__}
    )
    assert violations_of(Paging, TOKENS, event_listing(query), 1, token)[0][0] == "page_token"


def test_page_has_the_entries_and_the_payouts_that_counted_them() -> None:
    """An entry that no payout counted names none."""
    items = [listed("evt_1"), listed("evt_2")]
    entries = {
        "evt_1": [
            CountedEntry(entry_of("evt_1", 1), IDS[2], is_unknown=False),
            CountedEntry(entry_of("evt_1", 2), None, is_unknown=True),
        ]
    }
    page = EventsPage(items, items[-1].place, entries, [payout(IDS[2])])
    paging = Paging(TOKENS, event_listing(EVERYTHING), 2, "")
    response = encode_events_page(paging, page)
    first, second = response.events
    assert (first.event.event_id, first.transaction_id) == ("evt_1", str(IDS[0]))
    assert first.recorded_at == Timestamp(seconds=5)
    assert [
        (entry.entry.position, entry.counted_by_payout_id, entry.is_payout_unknown)
        for entry in first.entries
    ] == [(1, str(IDS[2]), False), (2, "", True)]
    assert not second.entries
    assert [found.payout_id for found in response.payouts] == [str(IDS[2])]
    after = Paging(TOKENS, event_listing(EVERYTHING), 2, response.next_page_token).after
    assert after == EventPlace(5_000_000, "evt_2")


def test_page_of_large_events_ends_early() -> None:
    """Its token continues after its last event, and it has only the payouts of its entries."""
    metadata = {f"key_{number}": "v" * 500 for number in range(50)}
    items = [listed(f"evt_{number:03}", metadata=metadata) for number in range(200)]
    entries = {
        "evt_000": [CountedEntry(entry_of("evt_000", 1), IDS[2], is_unknown=False)],
        "evt_199": [CountedEntry(entry_of("evt_199", 1), IDS[3], is_unknown=False)],
    }
    paging = Paging(TOKENS, event_listing(EVERYTHING), 1000, "")
    response = encode_events_page(
        paging, EventsPage(items, None, entries, [payout(IDS[2]), payout(IDS[3])])
    )
    assert 0 < len(response.events) < len(items)
    assert response.ByteSize() <= PAGE_BYTES_MAX + 1024
    after = Paging(TOKENS, event_listing(EVERYTHING), 1000, response.next_page_token).after
    assert after == items[len(response.events) - 1].place
    assert [found.payout_id for found in response.payouts] == [str(IDS[2])]
