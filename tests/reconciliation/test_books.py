"""What events moved at the processor."""

import pytest
from support.reports import booked

from ledger.domain.events import EventType
from ledger.reconciliation.books import EXPECTED_TYPES, FEE_TYPES, SIGNS, type_of
from ledger.reconciliation.layouts import Kind


def test_every_type_of_event_is_one_of_the_contract() -> None:
    types = {event_type.value for event_type in EventType}
    assert set(SIGNS) <= types
    assert set(EXPECTED_TYPES) <= set(SIGNS)
    assert set(FEE_TYPES) <= set(EXPECTED_TYPES)


@pytest.mark.parametrize(
    ("event_type", "fees", "sums"),
    [
        ("charge_succeeded", (100, 30), (1000, 30, 970)),
        ("refund_succeeded", (0, 5), (-1000, 5, -1005)),
        ("dispute_opened", (1500, 0), (-1000, 1500, -2500)),
        ("dispute_won", (0, 0), (1000, 0, 1000)),
        ("dispute_lost", (0, 0), (0, 0, 0)),
        ("processor_fee_assessed", (0, 0), (0, 1000, -1000)),
        ("processor_fee_refunded", (0, 0), (0, -1000, 1000)),
        ("processor_settled", (0, 0), (-1000, 0, -1000)),
        ("fee_assessed", (0, 0), (0, 0, 0)),
    ],
)
def test_gross_cost_and_net(
    event_type: str, fees: tuple[int, int], sums: tuple[int, int, int]
) -> None:
    fee_minor, processor_fee_minor = fees
    event = booked("x", event_type, fee_minor=fee_minor, processor_fee_minor=processor_fee_minor)
    assert (event.gross_minor, event.cost_minor, event.net_minor) == sums


def test_lines_stand_for_types_by_their_direction() -> None:
    assert type_of(Kind.FEE, -1) == "processor_fee_assessed"
    assert type_of(Kind.FEE, 1) == "processor_fee_refunded"
    assert type_of(Kind.PAYOUT, -1) == "processor_settled"
    assert type_of(Kind.PAYOUT, 1) == "processor_settlement_debited"
    assert type_of(Kind.OTHER, 1) == ""
