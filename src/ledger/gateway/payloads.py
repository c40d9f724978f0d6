"""Reads JSON that a processor sent: numbers exactly, and every field checked as it is taken."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NoReturn


class Malformed(Exception):
    """The payload is not what it should be; the text names the field and what was found."""


class Payload:
    """A JSON object and where it stands in the delivery, for messages: `data.object`."""

    __slots__ = ("path", "values")

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self.values = values
        self.path = path

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        """A string, or an integer as its digits. Absent or null: `default`, else Malformed."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, str) and is_unicode(value):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise self._wrong(name, "a text", value)

    def integer(self, name: str, default: int | None = None) -> int:
        """An integer of JSON. Absent or null: `default`, else Malformed."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self._wrong(name, "an integer", value)

    def decimal(self, name: str, default: Decimal | None = None) -> Decimal:
        """A number of JSON, exactly as written. Absent or null: `default`, else Malformed."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            return Decimal(value)
        raise self._wrong(name, "a number", value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """A boolean of JSON. Absent or null: `default`, else Malformed."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool):
            return value
        raise self._wrong(name, "true or false", value)

    def instant(self, name: str) -> datetime:
        """An instant of ISO 8601 with its offset, in UTC. Absent or anything else: Malformed."""
        text = self.text(name)
        try:
            found = datetime.fromisoformat(text)
            if found.tzinfo is None:
                raise ValueError("no offset")
            return found.astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise Malformed(f"{self._at(name)} is no instant with an offset") from error

    def child(self, name: str) -> "Payload":
        """An object of JSON. Absent or anything else: Malformed."""
        value = self.values.get(name)
        if isinstance(value, dict):
            return Payload(value, self._at(name))
        raise self._wrong(name, "an object", value)

    def children(self, name: str) -> Iterator["Payload"]:
        """The objects of an array; none if it is absent or null. Anything else: Malformed."""
        value = self.values.get(name)
        if value is None:
            return
        if not isinstance(value, list):
            raise self._wrong(name, "an array", value)
        for number, element in enumerate(value):
            if not isinstance(element, dict):
                raise self._wrong(f"{name}[{number}]", "an object", element)
            yield Payload(element, self._at(f"{name}[{number}]"))

    def texts(self, name: str) -> Mapping[str, str]:
        """An object whose values are texts, as metadata is; others are left out."""
        value = self.values.get(name)
        if not isinstance(value, dict):
            return {}
        return {
            key: text
            for key, text in value.items()
            if isinstance(text, str) and is_unicode(key) and is_unicode(text)
        }

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _wrong(self, name: str, wanted: str, value: object) -> Malformed:
        found = "is missing" if value is None else f"is {type(value).__name__}"
        return Malformed(f"{self._at(name)} must be {wanted}; it {found}")


def is_unicode(text: str) -> bool:
    """Whether it can be sent on: JSON's escapes can name half of a character, UTF-8 cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def parse(body: bytes) -> Payload:
    """The JSON object of a body in UTF-8. Raises Malformed.

    Numbers with a point are Decimal. NaN, infinity and a name that stands twice are refused: two
    readers of such a body may see different amounts.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_float=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_without_repeats,
        )
    # ArithmeticError: an exponent beyond those of Decimal.
    except (UnicodeDecodeError, ValueError, ArithmeticError, RecursionError) as error:
        raise Malformed("the body is not JSON in UTF-8") from error
    if not isinstance(value, dict):
        raise Malformed("the body is not a JSON object")
    return Payload(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return values
