"""The columns of events, their parameters and their values."""

from datetime import timedelta
from uuid import UUID

from support.events import OCCURRED_AT, processor_event

from ledger.application.ports.events import Posting
from ledger.domain.events import EVENT_FIELDS, LATER_FIELDS, EventType
from ledger.infrastructure.postgres import event_ledger
from ledger.infrastructure.postgres.event_columns import EVENT_COLUMNS, VALUE_OF


def test_parameters_of_many_events_are_those_of_one() -> None:
    """The INSERT of many events makes all values of a column at once."""
    event = processor_event(
        fee_minor=7,
        reference="ref_1",
        metadata={"order": "1"},
        available_at=OCCURRED_AT + timedelta(days=1),
        processor_fee_minor=3,
    )
    posting = Posting(event, b"fingerprint", str(UUID(int=1)))
    statement, arguments = event_ledger.insert_statement([posting], UUID(int=2), maturity_days=7)
    assert statement == event_ledger.INSERT_EVENTS_WITH_TERMS
    left_out = {"batch_id", "payout_id", *LATER_FIELDS}
    columns = [column for column in EVENT_COLUMNS if column not in left_out]
    columns += ["available_at", "processor_fee_minor"]
    expected = [VALUE_OF[column](posting) for column in columns]
    assert len({str(value) for value in expected}) == len(columns), "two columns look alike"
    assert [value for (value,) in arguments[: len(columns)]] == expected
    assert arguments[len(columns) : len(columns) + 2] == (UUID(int=2), 7)


def test_events_without_later_fields_have_the_shorter_statement() -> None:
    """It neither writes nor reads their columns; events of the platform have one of their own."""
    first, second = (processor_event(), processor_event(processor_fee_minor=1))
    own = processor_event(EventType.PROCESSOR_SETTLED, restaurant_id="")
    for events, expected in (
        ([first], event_ledger.INSERT_EVENTS),
        ([second], event_ledger.INSERT_EVENTS_WITH_TERMS),
        ([first, second], event_ledger.INSERT_EVENTS_WITH_TERMS),
        ([own], event_ledger.INSERT_PLATFORM_EVENTS),
    ):
        postings = [Posting(event, b"", str(UUID(int=1))) for event in events]
        found, _ = event_ledger.insert_statement(postings, UUID(int=2), maturity_days=7)
        assert found == expected


def test_every_field_of_an_event_has_a_column() -> None:
    assert set(EVENT_FIELDS) <= set(EVENT_COLUMNS)
    assert VALUE_OF.keys() == set(EVENT_COLUMNS) - {"batch_id"}
