"""Lists of stored events, with what payouts have counted of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from ledger.application.ports.events import StoredEntry, StoredEvent
from ledger.application.ports.pages import Page
from ledger.domain.events import EventType
from ledger.domain.payouts import Payout


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events to list; None, or no types, is any. `reference` and `event_id_prefix` exclude
    each other.
    """

    restaurant_id: str | None
    reference: str | None
    types: frozenset[EventType]
    currency: str | None
    start_at: datetime | None
    end_at: datetime | None
    event_id_prefix: str | None

    @property
    def is_of_a_restaurant(self) -> bool:
        """Whether the list is in the order of a restaurant's entries."""
        return (
            self.restaurant_id is not None
            and self.reference is None
            and self.event_id_prefix is None
        )


class EventPlace(NamedTuple):
    """A place in a list of events.

    `number` is the txid of the event in the list of a restaurant, 0 with a prefix, and otherwise
    the event's `recorded_at` in microseconds. An empty id is the place after all events of a larger
    number.
    """

    number: int
    event_id: str


class ListedEvent(NamedTuple):
    """A stored event, and its place in the list."""

    stored: StoredEvent
    place: EventPlace


class CountedEntry(NamedTuple):
    """An entry, with the first payout that counted it. `is_unknown`: perhaps an earlier payout did,
    of which the ledger does not know what it counted.
    """

    entry: StoredEntry
    payout_id: UUID | None
    is_unknown: bool


class EventLists(Protocol):
    """Reads lists of events. What it returns is as durable as the database makes any commit.

    All methods raise DatabaseUnavailable and DatabaseTimeout.
    """

    async def page(
        self, query: EventQuery, after: EventPlace | None, page_size: int
    ) -> Page[ListedEvent, EventPlace]:
        """At most `page_size` events after the place. It may hold fewer, or none, and have a next
        place, once it has looked through as many events as a page may.
        """
        ...

    async def entries(
        self, event_ids: Sequence[str]
    ) -> tuple[Mapping[str, list[CountedEntry]], list[Payout]]:
        """The entries of events by event id, in the order of their positions, and the payouts that
        counted them, by their ids.
        """
        ...
