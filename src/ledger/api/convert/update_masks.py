"""Update masks: which fields of a profile a request changes, and which keys of its metadata."""

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

UPDATE_PATHS_MAX = 1000
_METADATA = "metadata"
_METADATA_PREFIX = f"{_METADATA}."


class UpdateMask(NamedTuple):
    """The fields that a mask names, and the single keys of the metadata."""

    fields: frozenset[str]
    metadata_keys: frozenset[str]
    is_valid: bool

    def metadata_of(self, given: Mapping[str, str]) -> dict[str, str]:
        """What the mask names of the metadata in the request."""
        if _METADATA in self.fields:
            return dict(given)
        return {key: given[key] for key in self.metadata_keys & given.keys()}


def decode_update_mask(paths: Sequence[str], changeable: Set[str]) -> UpdateMask:
    """The mask with these paths.

    Not valid if it has more than UPDATE_PATHS_MAX, names a field that is not among `changeable`, or
    names all metadata and single keys as well.
    """
    keys = frozenset(
        path.removeprefix(_METADATA_PREFIX) for path in paths if path.startswith(_METADATA_PREFIX)
    )
    fields = frozenset(path for path in paths if not path.startswith(_METADATA_PREFIX))
    return UpdateMask(
        fields,
        keys,
        len(paths) <= UPDATE_PATHS_MAX
        and fields <= changeable
        and not (_METADATA in fields and keys),
    )


def update_mask_rule(*fields: str) -> str:
    """What a mask may name, for people: `fields` beside metadata."""
    return (
        f"must have at most {UPDATE_PATHS_MAX} paths: {', '.join(fields)}, and either metadata"
        " or metadata.KEY"
    )
