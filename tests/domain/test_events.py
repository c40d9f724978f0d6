"""When events are valid, and when two of them are the same."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from support.events import OCCURRED_AT, processor_event

from ledger.domain.events import (
    BUSINESS_FIELDS,
    EVENT_FIELDS,
    LATER_FIELDS,
    OCCURRED_AT_MIN,
    PAYOUT_EVENT_TYPES,
    EventType,
    ProcessorEvent,
    differing_fields,
    event_violations,
    fingerprint,
    later_violations,
    microseconds,
)
from ledger.domain.money import AMOUNT_MINOR_MAX

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

OTHER_VALUES: dict[str, Any] = {
    "type": EventType.FEE_ASSESSED,
    "restaurant_id": "res_002",
    "currency": "USD",
    "amount_minor": 10_001,
    "fee_minor": 1,
    "occurred_at": datetime(2025, 12, 1, 10, 0, 0, 1, tzinfo=UTC),
    "payout_id": "payout_1",
    "reference": "pay_1",
    "available_at": datetime(2025, 12, 1, 10, 0, tzinfo=UTC),
    "processor_fee_minor": 1,
    "bank_reference": "trace 1",
    "failure_code": "AC04",
    "failure_text": "account closed",
}


@pytest.mark.parametrize("field", BUSINESS_FIELDS)
def test_each_business_field_is_part_of_the_fingerprint(field: str) -> None:
    """An event that differs in it is another event, and the field is named."""
    event = processor_event()
    other = event._replace(**{field: OTHER_VALUES[field]})
    assert fingerprint(event) != fingerprint(other)
    assert differing_fields(event, other) == [field]


def test_metadata_is_not_part_of_the_fingerprint() -> None:
    """An event with other metadata is the same event."""
    event = processor_event(metadata={"a": "b"})
    other = event._replace(metadata={})
    assert fingerprint(event) == fingerprint(other)
    assert differing_fields(event, other) == []


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            processor_event(event_id="evt_1", reference="pay_1", fee_minor=500),
            "a026b971cce3a694adbd11fb8e27ce8a5c10b9c0ebd493f846b382a248121c94",
        ),
        (
            processor_event(EventType.PAYOUT_FAILED, payout_id="po_1", restaurant_id="res_9"),
            "90d55649b12c16535ba34a3c1ee64df392557811e112532e56ba6a6ff1438afd",
        ),
        (
            processor_event(EventType.DISPUTE_OPENED, reference="dp_1", fee_minor=150),
            "7ced3776b8f8f888ab09f32b037199469e4413be4b88d0db0dba6a3083502e88",
        ),
    ],
)
def test_fingerprint_never_changes(event: ProcessorEvent, expected: str) -> None:
    """Stored fingerprints must stay valid for ever. These are of before there were later fields."""
    assert fingerprint(event).hex() == expected


def test_events_with_later_fields_have_their_own_fingerprints() -> None:
    """No event without a later field has the fingerprint of one with it, however it is written."""
    event = processor_event()
    found = {
        fingerprint(event._replace(**later))
        for later in (
            {},
            {"available_at": event.occurred_at},
            {"processor_fee_minor": 1},
            {"available_at": event.occurred_at, "processor_fee_minor": 1},
            {"bank_reference": "a"},
            {"failure_code": "a"},
            {"failure_text": "a"},
            {"bank_reference": "a", "failure_code": "a"},
            {"reference": f"\n{microseconds(event.occurred_at)}\n0"},
        )
    }
    assert len(found) == 9


def test_same_instant_in_another_zone_is_the_same() -> None:
    """Microseconds since the epoch are compared, not the spelling of an instant."""
    event = processor_event()
    assert microseconds(event.occurred_at) == 1_764_583_200_000_000
    in_lima = event.occurred_at.astimezone(timezone(timedelta(hours=-5)))
    assert fingerprint(event._replace(occurred_at=in_lima)) == fingerprint(event)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({}, []),
        ({"fee_minor": 10_000}, []),
        ({"fee_minor": 10_001}, ["fee_minor"]),
        ({"fee_minor": -1}, ["fee_minor"]),
        ({"amount_minor": 0}, ["amount_minor"]),
        ({"amount_minor": -(2**63)}, ["amount_minor"]),
        ({"amount_minor": 10**12}, []),
        ({"amount_minor": 10**12 + 1}, ["amount_minor"]),
        ({"type": EventType.FEE_ASSESSED, "fee_minor": 1}, ["fee_minor"]),
        ({"type": EventType.REFUND_SUCCEEDED, "fee_minor": 1}, []),
        ({"occurred_at": OCCURRED_AT_MIN}, []),
        ({"occurred_at": OCCURRED_AT_MIN - timedelta(microseconds=1)}, ["occurred_at"]),
        ({"occurred_at": NOW + timedelta(minutes=5)}, []),
        ({"occurred_at": NOW + timedelta(minutes=5, microseconds=1)}, ["occurred_at"]),
        ({"payout_id": "payout_1"}, ["payout_id"]),
        ({"type": EventType.PAYOUT_PAID}, ["payout_id"]),
        ({"type": EventType.PAYOUT_PAID, "payout_id": "payout_1"}, []),
        ({"type": EventType.PAYOUT_PAID, "payout_id": "payout_1", "amount_minor": 2**63 - 1}, []),
        (
            {"type": EventType.PAYOUT_PAID, "payout_id": "payout_1", "amount_minor": 0},
            ["amount_minor"],
        ),
        ({"event_id": "a" * 128}, []),
        ({"event_id": "a" * 129}, ["event_id"]),
        ({"event_id": "evt_1\n"}, ["event_id"]),
        ({"reference": "~" * 255}, []),
        ({"reference": "~" * 256}, ["reference"]),
        ({"reference": "pay\n"}, ["reference"]),
        ({"reference": "é"}, ["reference"]),
        ({"metadata": {"k": "v" * 8191}}, []),
        ({"metadata": {"k": "v" * 8192}}, ["metadata"]),
        ({"metadata": {"k": "é" * 4096}}, ["metadata"]),
        ({"metadata": {"k\0": ""}}, ["metadata"]),
        # A dispute's fee is independent of its amount.
        ({"type": EventType.DISPUTE_OPENED, "amount_minor": 1, "fee_minor": 10**12}, []),
        (
            {"type": EventType.DISPUTE_OPENED, "amount_minor": 1, "fee_minor": 10**12 + 1},
            ["fee_minor"],
        ),
        ({"type": EventType.DISPUTE_OPENED, "fee_minor": -1}, ["fee_minor"]),
        ({"type": EventType.CHARGE_REVERSED, "fee_minor": 10_000}, []),
        ({"type": EventType.CHARGE_REVERSED, "fee_minor": 10_001}, ["fee_minor"]),
        ({"type": EventType.FEE_REFUNDED, "fee_minor": 1}, ["fee_minor"]),
        # The processor's instant, its fee, and events without a restaurant.
        ({"available_at": OCCURRED_AT}, []),
        ({"available_at": OCCURRED_AT + timedelta(days=400)}, []),
        ({"available_at": OCCURRED_AT + timedelta(days=400, microseconds=1)}, ["available_at"]),
        ({"available_at": OCCURRED_AT - timedelta(microseconds=1)}, ["available_at"]),
        ({"available_at": OCCURRED_AT, "occurred_at": None}, []),
        ({"type": None, "available_at": OCCURRED_AT}, []),
        *(
            ({"type": type, "available_at": OCCURRED_AT}, [])
            for type in (
                EventType.REFUND_SUCCEEDED,
                EventType.CHARGE_REVERSED,
                EventType.TAX_WITHHELD,
            )
        ),
        *(
            ({"type": type, "available_at": OCCURRED_AT}, ["available_at"])
            for type in (
                EventType.FEE_ASSESSED,
                EventType.REFUND_FAILED,
                EventType.DISPUTE_OPENED,
                EventType.TAX_WITHHOLDING_REVERSED,
                EventType.RESERVE_HELD,
            )
        ),
        ({"processor_fee_minor": 10**12}, []),
        ({"processor_fee_minor": 10**12 + 1}, ["processor_fee_minor"]),
        ({"processor_fee_minor": -1}, ["processor_fee_minor"]),
        ({"type": None, "processor_fee_minor": 1}, []),
        ({"type": EventType.DISPUTE_OPENED, "processor_fee_minor": 1}, []),
        ({"type": EventType.REFUND_SUCCEEDED, "processor_fee_minor": 1}, []),
        ({"type": EventType.CHARGE_REVERSED, "processor_fee_minor": 1}, ["processor_fee_minor"]),
        ({"type": EventType.DISPUTE_WON, "processor_fee_minor": 1}, ["processor_fee_minor"]),
        ({"bank_reference": "a"}, ["bank_reference"]),
        ({"failure_code": "a"}, ["failure_code"]),
        ({"failure_text": "a"}, ["failure_text"]),
        ({"type": None, "bank_reference": "a", "failure_code": "a", "failure_text": "a"}, []),
        *(
            ({"type": type, "payout_id": "payout_1", "bank_reference": "trace 1"}, [])
            for type in PAYOUT_EVENT_TYPES
        ),
        *(
            (
                {
                    "type": type,
                    "payout_id": "payout_1",
                    "bank_reference": "a",
                    "failure_code": "a",
                    "failure_text": "a",
                },
                [] if type is EventType.PAYOUT_FAILED else ["failure_code", "failure_text"],
            )
            for type in PAYOUT_EVENT_TYPES
        ),
        ({"type": EventType.PAYOUT_REFERENCED, "payout_id": "payout_1"}, ["bank_reference"]),
        *(
            ({"type": EventType.PAYOUT_FAILED, "payout_id": "payout_1"} | said, fields)
            for said, fields in (
                ({"bank_reference": "~" * 255}, []),
                ({"bank_reference": "~" * 256}, ["bank_reference"]),
                ({"bank_reference": "ñ"}, ["bank_reference"]),
                ({"bank_reference": "a\n"}, ["bank_reference"]),
                ({"failure_code": "aZ09._:-" * 8}, []),
                ({"failure_code": "a" * 65}, ["failure_code"]),
                ({"failure_code": "a b"}, ["failure_code"]),
                ({"failure_code": "a\n"}, ["failure_code"]),
                ({"failure_text": "cuenta cerrada: ñ " * 27}, []),
                ({"failure_text": "ñ" * 500}, []),
                ({"failure_text": "a" * 501}, ["failure_text"]),
                ({"failure_text": "a\tb"}, ["failure_text"]),
                ({"failure_text": "a\x85"}, ["failure_text"]),
            )
        ),
        *(
            ({"type": type, "restaurant_id": ""}, [])
            for type in (
                EventType.PROCESSOR_SETTLED,
                EventType.PROCESSOR_SETTLEMENT_DEBITED,
                EventType.PROCESSOR_FEE_ASSESSED,
                EventType.PROCESSOR_FEE_REFUNDED,
            )
        ),
        ({"type": EventType.PROCESSOR_SETTLED}, ["restaurant_id"]),
        ({"type": EventType.PROCESSOR_SETTLED, "restaurant_id": "a b"}, ["restaurant_id"]),
        ({"type": EventType.PROCESSOR_SETTLEMENT_DEBITED}, ["restaurant_id"]),
        ({"type": EventType.PROCESSOR_FEE_ASSESSED}, []),
        ({"type": EventType.PROCESSOR_FEE_ASSESSED, "restaurant_id": "a b"}, ["restaurant_id"]),
        ({"type": EventType.TOP_UP_RECEIVED, "restaurant_id": ""}, ["restaurant_id"]),
        ({"type": None, "restaurant_id": ""}, ["restaurant_id"]),
        # Without a type no type's limit applies, and every type needs an amount.
        ({"type": None, "amount_minor": AMOUNT_MINOR_MAX + 1}, []),
        ({"type": None, "amount_minor": 0}, ["amount_minor"]),
        (
            {"event_id": "", "currency": "pen", "amount_minor": 0},
            ["event_id", "currency", "amount_minor"],
        ),
    ],
)
def test_violations_name_the_wrong_fields(changes: dict[str, Any], fields: list[str]) -> None:
    """Each field once, in the order of the message. A valid event has no violation."""
    event = processor_event(event_id="evt_1")
    values = {name: getattr(event, name) for name in EVENT_FIELDS} | changes
    later = {name: values.pop(name) for name in LATER_FIELDS}
    found = event_violations(**values, now=NOW)
    found += later_violations(type=values["type"], occurred_at=values["occurred_at"], **later)
    assert [violation.field for violation in found] == fields
