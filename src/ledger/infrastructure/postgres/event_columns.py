"""The columns of processor_events that servers write: their order, types and values.

This list follows from the fields of ProcessorEvent. Both INSERTs of events, and the SELECT that
reads them back, follow from this list.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from ledger.application.ports.events import Posting
from ledger.domain.events import (
    BUSINESS_FIELDS,
    EVENT_FIELDS,
    LATER_DEFAULTS,
    EventType,
    ProcessorEvent,
)
from ledger.infrastructure.postgres.sessions.driver import Row

EVENT_COLUMNS = (
    "event_id",
    "fingerprint",
    "transaction_id",
    "batch_id",
    *BUSINESS_FIELDS,
    "metadata",
)

_TYPES = {
    "fingerprint": "bytea",
    "transaction_id": "uuid",
    "amount_minor": "bigint",
    "fee_minor": "bigint",
    "occurred_at": "timestamptz",
    "available_at": "timestamptz",
    "processor_fee_minor": "bigint",
}


def metadata_json(metadata: Mapping[str, str]) -> str:
    """The metadata of an event as a JSON object."""
    return json.dumps(dict(metadata)) if metadata else "{}"


def stored_value(value: Any) -> Any:
    """The value of a later field as its column has it: NULL stands for an absent one."""
    return value or None


def _later_value_of(field: str) -> Callable[[Posting], Any]:
    return lambda posting: stored_value(getattr(posting.event, field))


# How the value of a column is read from a posting. Of all columns but batch_id, which belongs to
# the attempt.
VALUE_OF: Mapping[str, Callable[[Posting], Any]] = {
    "fingerprint": attrgetter("fingerprint"),
    "transaction_id": attrgetter("transaction_id"),
    **{field: attrgetter(f"event.{field}") for field in EVENT_FIELDS},
    "metadata": lambda posting: metadata_json(posting.event.metadata),
    **{field: _later_value_of(field) for field in LATER_DEFAULTS},
}


def event_of(row: Row) -> ProcessorEvent:
    """The event in a row that has its columns."""
    later: dict[str, Any] = {
        field: row[field] or absent for field, absent in LATER_DEFAULTS.items()
    }
    return ProcessorEvent(
        event_id=row["event_id"],
        type=EventType(row["type"]),
        restaurant_id=row["restaurant_id"],
        currency=row["currency"],
        amount_minor=row["amount_minor"],
        fee_minor=row["fee_minor"],
        occurred_at=row["occurred_at"],
        payout_id=row["payout_id"] or "",
        reference=row["reference"],
        metadata=row["metadata"],
        **later,
    )


def listed(columns: Iterable[str]) -> str:
    """The columns, separated by commas."""
    return ", ".join(columns)


def array_parameters(columns: Iterable[str]) -> str:
    """Parameters from $1 on for `unnest`, one array for each column. Metadata is JSON text."""
    return ", ".join(
        f"${number}::{_TYPES.get(column, 'text')}[]" for number, column in enumerate(columns, 1)
    )


def unless_all(default: object, values: Sequence[Any]) -> Sequence[Any]:
    """`values`, or nothing if all are the default, which SQL then puts in: the driver looks at each
    element of an array several times.
    """
    return () if values.count(default) == len(values) else values


def first_if_all(values: Sequence[Any]) -> Sequence[Any]:
    """`values`, or the first alone if all are the same: SQL then takes it for the others."""
    return values[:1] if values.count(values[0]) == len(values) else values
