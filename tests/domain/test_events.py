"""When events are valid, and when two of them are the same."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from support.events import processor_event

from ledger.domain.events import (
    BUSINESS_FIELDS,
    OCCURRED_AT_MIN,
    EventType,
    differing_fields,
    event_violations,
    fingerprint,
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


def test_fingerprint_never_changes() -> None:
    """Stored fingerprints must stay valid for ever."""
    event = processor_event(event_id="evt_1", reference="pay_1", fee_minor=500)
    assert (
        fingerprint(event).hex()
        == "a026b971cce3a694adbd11fb8e27ce8a5c10b9c0ebd493f846b382a248121c94"
    )


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
    values = {name: getattr(event, name) for name in (*BUSINESS_FIELDS, "event_id", "metadata")}
    found = event_violations(**(values | changes), now=NOW)
    assert [violation.field for violation in found] == fields
