"""The columns of events, their parameters and their values."""

from uuid import UUID

from support.events import processor_event

from ledger.application.ports.events import Posting
from ledger.domain.events import EVENT_FIELDS
from ledger.infrastructure.postgres import event_ledger
from ledger.infrastructure.postgres.event_columns import EVENT_COLUMNS, VALUE_OF


def test_parameters_of_many_events_are_those_of_one() -> None:
    """The INSERT of many events makes all values of a column at once."""
    event = processor_event(fee_minor=7, reference="ref_1", metadata={"order": "1"})
    posting = Posting(event, b"fingerprint", str(UUID(int=1)))
    arguments = event_ledger.insert_arguments([posting], UUID(int=2), maturity_days=7)
    columns = [column for column in EVENT_COLUMNS if column not in ("batch_id", "payout_id")]
    expected = [VALUE_OF[column](posting) for column in columns]
    assert len({str(value) for value in expected}) == len(columns), "two columns look alike"
    assert [value for (value,) in arguments[: len(columns)]] == expected
    assert arguments[len(columns) : len(columns) + 2] == (UUID(int=2), 7)


def test_every_field_of_an_event_has_a_column() -> None:
    assert set(EVENT_FIELDS) <= set(EVENT_COLUMNS)
    assert VALUE_OF.keys() == set(EVENT_COLUMNS) - {"batch_id"}
