"""Profiles: what callers may set of a restaurant or an account, and how they change it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import Field, replace
from typing import Any, ClassVar, Protocol, TypeVar

from ledger.errors import FieldViolation

ETAG_LENGTH = 32


class HasMetadata(Protocol):
    """A dataclass with metadata."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def metadata(self) -> Mapping[str, str]: ...


Profile = TypeVar("Profile", bound=HasMetadata)


def changed(
    profile: Profile, given: Profile, fields: Set[str], keys: Mapping[str, Set[str]]
) -> Profile:
    """Returns `profile` with the values that `given` has in `fields` and in single keys of maps.

    `keys` has the keys by the name of the map, such as metadata. A key that `given` lacks is
    removed.
    """
    values: dict[str, Any] = {name: getattr(given, name) for name in fields}
    for name, named in keys.items():
        if named:
            kept = {key: value for key, value in getattr(profile, name).items() if key not in named}
            new = {key: value for key, value in getattr(given, name).items() if key in named}
            values[name] = kept | new
    return replace(profile, **values)


def etag_of(*state: object) -> str:
    """Names a state, whose parts JSON can hold; the same on every server."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:ETAG_LENGTH]


def within(message: str, violations: Iterable[FieldViolation]) -> list[FieldViolation]:
    """The violations of a profile that is a field of the request: `name` is `restaurant.name`."""
    return [FieldViolation(f"{message}.{found.field}", found.description) for found in violations]
