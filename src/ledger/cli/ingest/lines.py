"""Reads one line of a file of events: a JSON object, in the spellings that processors use.

This module checks what a line needs to become a message. Only the server checks whether the message
is a valid event.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.instants import INSTANT_RULE, parse_instant
from ledger.domain.events import PAYOUT_EVENT_TYPES
from ledger.domain.money import INT64_MAX, INT64_MIN
from ledger.errors import FieldViolation
from ledger.v1 import ledger_pb2

_TYPE_PREFIX = "EVENT_TYPE_"
_MINOR_RULE = "must be a whole number of minor units, written without point, exponent or quotes"
_METADATA_RULE = "must be an object of strings, numbers, true or false"

# charge_succeeded, CHARGE_SUCCEEDED and EVENT_TYPE_CHARGE_SUCCEEDED, and so on for each type.
_TYPE_BY_SPELLING = {
    spelling: number
    for name, number in ledger_pb2.EventType.items()
    if number
    for spelling in (name, name.removeprefix(_TYPE_PREFIX), name.removeprefix(_TYPE_PREFIX).lower())
}
_PAYOUT_EVENT_TYPES = {_TYPE_BY_SPELLING[event_type.value] for event_type in PAYOUT_EVENT_TYPES}

# The names that a field of the message may have in a line.
_NAMES_BY_FIELD = {
    "event_id": ("event_id",),
    "type": ("event_type", "type"),
    "restaurant_id": ("restaurant_id",),
    "currency": ("currency",),
    "amount_minor": ("amount", "amount_cents", "amount_minor"),
    "fee_minor": ("fee", "fee_cents", "fee_minor"),
    "occurred_at": ("occurred_at",),
    "payout_id": ("payout_id",),
    "reference": ("reference",),
    "metadata": ("metadata",),
}
_REQUIRED = ("event_id", "type", "restaurant_id", "currency", "amount_minor", "occurred_at")
_KNOWN_NAMES = frozenset(name for names in _NAMES_BY_FIELD.values() for name in names)


class InvalidLine(Exception):
    """A line that cannot be an event.

    `event_id` is empty if the line has none. A violation of the whole line has an empty field.
    """

    def __init__(self, violations: list[FieldViolation], event_id: str = "") -> None:
        super().__init__(
            "; ".join(f"{found.field} {found.description}".strip() for found in violations)
        )
        self.violations = tuple(violations)
        self.event_id = event_id


class _Fraction(str):
    """A JSON number with a point or an exponent, kept as text: it never becomes a float."""

    __slots__ = ()


def parse_event_line(
    line: str, *, ignore_unknown_fields: bool = False
) -> ledger_pb2.ProcessorEvent:
    """Parses the event in `line`. A field that is null counts as absent.

    Takes a missing reference from `metadata.payment_id`, and the missing payout id of a payout
    event from `metadata.payout_id`. Raises InvalidLine with all violations of the line's fields.
    """
    fields = _parse_object(line)
    violations: list[FieldViolation] = []
    if not ignore_unknown_fields:
        violations += [
            FieldViolation(name, "is not a field of an event")
            for name in fields
            if name not in _KNOWN_NAMES
        ]
    values = {field: _read_field(field, fields, violations) for field in _NAMES_BY_FIELD}
    if violations:
        event_id = fields.get("event_id")
        raise InvalidLine(violations, event_id if isinstance(event_id, str) else "")
    metadata = values["metadata"] or {}
    payout_id = values["payout_id"]
    if not payout_id and values["type"] in _PAYOUT_EVENT_TYPES:
        payout_id = metadata.get("payout_id")
    return ledger_pb2.ProcessorEvent(
        event_id=values["event_id"],
        type=values["type"],
        restaurant_id=values["restaurant_id"],
        currency=values["currency"],
        amount_minor=values["amount_minor"],
        fee_minor=values["fee_minor"],
        occurred_at=values["occurred_at"],
        payout_id=payout_id,
        reference=values["reference"] or metadata.get("payment_id", ""),
        metadata=metadata,
    )


def _parse_object(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(
            line,
            object_pairs_hook=_object_of,
            parse_float=_Fraction,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise InvalidLine([FieldViolation("", "is nested too deeply")]) from None
    except json.JSONDecodeError as error:
        raise InvalidLine(
            [FieldViolation("", f"is not JSON: {error.msg} at character {error.pos + 1}")]
        ) from None
    except ValueError as error:
        raise InvalidLine(
            [FieldViolation("", f"is not JSON that can be an event: {error}")]
        ) from None
    if not isinstance(parsed, dict):
        raise InvalidLine([FieldViolation("", "must be a JSON object")])
    return parsed


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of `pairs`. Raises ValueError for two values of one name: json keeps the last."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members and (type(members[name]), members[name]) != (type(value), value):
            raise ValueError(f"{name!r} is there twice, with different values")
        members[name] = value
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _read_field(field: str, fields: Mapping[str, Any], violations: list[FieldViolation]) -> Any:
    """The value of the message's `field`, by any of its names; None if it is absent or invalid."""
    read = _READERS[field]
    present = [name for name in _NAMES_BY_FIELD[field] if fields.get(name) is not None]
    if not present and field in _REQUIRED:
        violations.append(FieldViolation(_NAMES_BY_FIELD[field][0], "is missing"))
    values: dict[str, Any] = {}
    for name in present:
        try:
            values[name] = read(fields[name])
        except ValueError as error:
            violations.append(FieldViolation(name, str(error)))
    if not values:
        return None
    first, *others = values
    for name in others:
        if values[name] != values[first]:
            violations.append(FieldViolation(name, f"contradicts {first}, which is the same field"))
    return values[first]


def _read_text(value: Any) -> str:
    if not isinstance(value, str) or isinstance(value, _Fraction):
        raise ValueError("must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a character (a lone surrogate)") from None
    return value


def _read_type(value: Any) -> int:
    number = _TYPE_BY_SPELLING.get(_read_text(value))
    if number is None:
        known = ", ".join(
            name.removeprefix(_TYPE_PREFIX).lower()
            for name, number in ledger_pb2.EventType.items()
            if number
        )
        raise ValueError(f"is not a type of event; these are: {known}")
    return number


def _read_minor(value: Any) -> int:
    # JSON's true is an int to Python.
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(_MINOR_RULE)
    if not INT64_MIN <= value <= INT64_MAX:
        raise ValueError("must fit 64 bits")
    return value


def _read_instant(value: Any) -> Timestamp:
    if not isinstance(value, str) or isinstance(value, _Fraction):
        raise ValueError(INSTANT_RULE)
    return parse_instant(value)


def _read_metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(_METADATA_RULE)
    metadata = {}
    for key, item in value.items():
        if item is None:
            continue
        if not isinstance(item, str | int):
            raise ValueError(f"{_METADATA_RULE}; {key!r} is not")
        try:
            # A fraction keeps the text that it has in the line.
            metadata[_read_text(key)] = str(item) if isinstance(item, _Fraction) else _text_of(item)
        except ValueError as error:
            raise ValueError(f"{key!r} {error}") from None
    return metadata


def _text_of(item: str | int) -> str:
    return _read_text(item) if isinstance(item, str) else json.dumps(item)


_READERS: dict[str, Callable[[Any], Any]] = {
    "event_id": _read_text,
    "type": _read_type,
    "restaurant_id": _read_text,
    "currency": _read_text,
    "amount_minor": _read_minor,
    "fee_minor": _read_minor,
    "occurred_at": _read_instant,
    "payout_id": _read_text,
    "reference": _read_text,
    "metadata": _read_metadata,
}
