"""Pages of lists, and the places after which lists go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

Item = TypeVar("Item")
Place = TypeVar("Place")


class CreationPlace(NamedTuple):
    """A place in a list in the order of creation. The id decides among equal instants."""

    created_at: datetime
    identifier: UUID


@dataclass(frozen=True, slots=True)
class Page(Generic[Item, Place]):
    """A part of a list. `next_place` is the place of its last item, None on the last page."""

    items: Sequence[Item]
    next_place: Place | None

    @classmethod
    def cut(
        cls, found: Sequence[Item], page_size: int, place_of: Callable[[Item], Place]
    ) -> Page[Item, Place]:
        """The first `page_size` items of `found`, which has one more if more follow."""
        items = found[:page_size]
        return Page(items, place_of(items[-1]) if len(found) > page_size else None)
