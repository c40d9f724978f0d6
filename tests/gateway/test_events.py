"""What of a fact goes into an event: money exactly, the rest as far as the ledger takes it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.gateway import OCCURRED_AT

from ledger.domain.fields import METADATA_BYTES_MAX, is_metadata, is_reference
from ledger.gateway.deliveries import Fact
from ledger.gateway.events import event_of, passed_on
from ledger.gateway.reasons import CannotBook
from ledger.v1 import ledger_pb2

CHARGE = ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED
PAYOUT_FAILED = ledger_pb2.EVENT_TYPE_PAYOUT_FAILED


def made(event_type: "ledger_pb2.EventType.ValueType" = CHARGE, **fields: Any) -> Any:
    """The event of a fact with these fields."""
    facts: dict[str, Any] = {
        "event_id": "x:1",
        "type": event_type,
        "amount_minor": 1000,
        "currency": "PEN",
        "occurred_at": OCCURRED_AT,
    }
    return event_of(Fact(**{**facts, **fields}), restaurant_id="r", fee_minor=5, endpoint="e")


@pytest.mark.parametrize("reference", ["ñandú", "x" * 256, "a\nb"])
def test_a_reference_that_the_ledger_does_not_take_is_metadata(reference: str) -> None:
    event = made(reference=reference)
    assert event.reference == ""
    assert event.metadata["reference"] == reference[:255]


def test_metadata_fits_and_the_gateways_own_comes_first() -> None:
    metadata = {"large": "x" * METADATA_BYTES_MAX, "nul": "a\x00b", "small": "kept"}
    event = made(metadata=metadata)
    assert dict(event.metadata) == {"gateway_endpoint": "e", "small": "kept"}
    assert is_metadata(dict(event.metadata))


def test_money_is_available_no_earlier_than_it_occurred() -> None:
    event = made(available_at=OCCURRED_AT - timedelta(days=1))
    assert event.available_at.ToDatetime(tzinfo=UTC) == OCCURRED_AT
    later = datetime(2026, 3, 8, tzinfo=UTC)
    assert made(available_at=later).available_at.ToDatetime(tzinfo=UTC) == later
    assert not made(ledger_pb2.EVENT_TYPE_DISPUTE_WON, available_at=later).HasField("available_at")


def test_a_processors_fee_is_kept_where_its_event_has_no_field_for_it() -> None:
    assert made(processor_fee_minor=7).processor_fee_minor == 7
    won = made(ledger_pb2.EVENT_TYPE_DISPUTE_WON, processor_fee_minor=7)
    assert (won.processor_fee_minor, won.metadata["processor_fee_minor"]) == (0, "7")


def test_a_banks_answer_is_kept_as_the_ledger_takes_it() -> None:
    event = made(
        PAYOUT_FAILED, failure_code="could not", failure_text="process\nit", bank_reference="é"
    )
    assert (event.failure_code, event.failure_text) == ("", "could not process it")
    assert is_reference(event.bank_reference)
    assert made(PAYOUT_FAILED, failure_code="R03").failure_code == "R03"
    assert made(bank_reference="b", failure_code="R03").failure_code == ""


@pytest.mark.parametrize("event_id", ["", "with blanks", "x" * 129, "é"])
def test_an_id_that_the_ledger_does_not_take_is_for_people(event_id: str) -> None:
    """To change an id would book its fact twice."""
    with pytest.raises(CannotBook, match="is no event id"):
        made(event_id=event_id)


def test_amounts_beyond_all_bounds_are_the_ledgers_to_refuse() -> None:
    assert made(amount_minor=10**30).amount_minor == 2**63 - 1


def test_a_fee_is_passed_on_to_a_restaurant_alone() -> None:
    event = made(ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_ASSESSED)
    borne = passed_on(event)
    assert borne is not None
    assert (borne.event_id, borne.type) == ("x:1:passed-on", ledger_pb2.EVENT_TYPE_FEE_ASSESSED)
    event.restaurant_id = ""
    assert passed_on(event) is None
    assert passed_on(made()) is None
