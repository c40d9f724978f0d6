"""Reads the fields of one line of a file: a JSON object, checked for what a message needs.

Only the server checks whether the message is valid.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.instants import INSTANT_RULE, parse_instant
from ledger.domain.money import INT64_MAX, INT64_MIN
from ledger.errors import FieldViolation

_MINOR_RULE = "must be a whole number of minor units, written without point, exponent or quotes"
# No more digits than 64 bits have.
_QUOTED_NUMBER = re.compile("-?[0-9]{1,19}")
_METADATA_RULE = "must be an object of strings, numbers, true or false"


class InvalidLine(Exception):
    """A line that cannot become a message.

    `line_id` is the id of what the line is about, empty if it has none. A violation of the whole
    line has an empty field.
    """

    def __init__(self, violations: list[FieldViolation], line_id: str = "") -> None:
        super().__init__(
            "; ".join(f"{found.field} {found.description}".strip() for found in violations)
        )
        self.violations = tuple(violations)
        self.line_id = line_id


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the message: the names that it may have in a line, and the reader of its value.

    Under a name that ends in `_minor`, as the contract has it, a whole number may be in quotes: the
    JSON of the contract and of this command's output has 64-bit numbers so.
    """

    names: tuple[str, ...]
    read: Callable[[Any], Any]
    is_required: bool = False


class _Fraction(str):
    """A JSON number with a point or an exponent, kept as text: it never becomes a float."""

    __slots__ = ()


def parse_object(line: str) -> dict[str, Any]:
    """The members of the JSON object in `line`. Raises InvalidLine."""
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


def read_fields(
    line: Mapping[str, Any],
    fields: Mapping[str, Field],
    noun: str,
    *,
    ignore_unknown_fields: bool = False,
) -> dict[str, Any]:
    """The values of a line by the message's fields, None where one is absent. Null is absent.

    `noun` is what the line is, such as `an event`; the first of `fields` is its id. Raises
    InvalidLine with all violations.
    """
    violations: list[FieldViolation] = []
    known = {name for field in fields.values() for name in field.names}
    if not ignore_unknown_fields:
        violations += [
            FieldViolation(name, f"is not a field of {noun}") for name in line if name not in known
        ]
    values = {name: _read_field(field, line, violations) for name, field in fields.items()}
    if violations:
        line_id = line.get(next(iter(fields)))
        raise InvalidLine(violations, line_id if isinstance(line_id, str) else "")
    return values


def _read_field(field: Field, line: Mapping[str, Any], violations: list[FieldViolation]) -> Any:
    """The value of the field, by any of its names; None if it is absent or invalid."""
    present = [name for name in field.names if line.get(name) is not None]
    if not present and field.is_required:
        violations.append(FieldViolation(field.names[0], "is missing"))
    values: dict[str, Any] = {}
    for name in present:
        value = line[name]
        if (
            field.read is read_minor
            and name.endswith("_minor")
            and isinstance(value, str)
            and _QUOTED_NUMBER.fullmatch(value)
        ):
            value = int(value)
        try:
            values[name] = field.read(value)
        except ValueError as error:
            violations.append(FieldViolation(name, str(error)))
    if not values:
        return None
    first, *others = values
    for name in others:
        if values[name] != values[first]:
            violations.append(FieldViolation(name, f"contradicts {first}, which is the same field"))
    return values[first]


def read_text(value: Any) -> str:
    """A string. Raises ValueError with the rule."""
    if not isinstance(value, str) or isinstance(value, _Fraction):
        raise ValueError("must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a character (a lone surrogate)") from None
    return value


def read_minor(value: Any) -> int:
    """A whole number of minor units. Raises ValueError with the rule."""
    # JSON's true is an int to Python.
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(_MINOR_RULE)
    if not INT64_MIN <= value <= INT64_MAX:
        raise ValueError("must fit 64 bits")
    return value


def read_instant(value: Any) -> Timestamp:
    """An instant. Raises ValueError with the rule."""
    if not isinstance(value, str) or isinstance(value, _Fraction):
        raise ValueError(INSTANT_RULE)
    return parse_instant(value)


def read_metadata(value: Any) -> dict[str, str]:
    """An object of strings, numbers, true or false, as texts. Raises ValueError with the rule."""
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
            metadata[read_text(key)] = str(item) if isinstance(item, _Fraction) else _text_of(item)
        except ValueError as error:
            raise ValueError(f"{key!r} {error}") from None
    return metadata


def _text_of(item: str | int) -> str:
    return read_text(item) if isinstance(item, str) else json.dumps(item)
