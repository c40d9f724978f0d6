"""Update masks: which fields of a profile a request changes, and which keys of its maps."""

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple, TypeVar

UPDATE_PATHS_MAX = 1000

Value = TypeVar("Value")


class UpdateMask(NamedTuple):
    """The fields that a mask names, and the single keys of each map."""

    fields: frozenset[str]
    keys: Mapping[str, frozenset[str]]
    is_valid: bool

    def named(self, name: str, given: Mapping[str, Value]) -> dict[str, Value]:
        """What the mask names of `given`, which is the map `name` in the request."""
        if name in self.fields:
            return dict(given)
        return {key: given[key] for key in self.keys[name] & given.keys()}


def decode_update_mask(
    paths: Sequence[str], changeable: Set[str], maps: Sequence[str] = ("metadata",)
) -> UpdateMask:
    """The mask with these paths. Single keys may be named of `maps`.

    Not valid if it has more than UPDATE_PATHS_MAX, names a field that is not among `changeable`, or
    names all of a map and single keys of it as well.
    """
    keys = {
        name: frozenset(
            path.removeprefix(f"{name}.") for path in paths if path.startswith(f"{name}.")
        )
        for name in maps
    }
    fields = frozenset(
        path for path in paths if not path.startswith(tuple(f"{name}." for name in maps))
    )
    return UpdateMask(
        fields,
        keys,
        len(paths) <= UPDATE_PATHS_MAX
        and fields <= changeable
        and not any(name in fields and keys[name] for name in maps),
    )


def update_mask_rule(*fields: str) -> str:
    """What a mask may name, for people: `fields` beside metadata."""
    return (
        f"must have at most {UPDATE_PATHS_MAX} paths: {', '.join(fields)}, and either metadata"
        " or metadata.KEY"
    )
