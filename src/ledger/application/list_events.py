"""Returns pages of stored events, with their entries and the payouts that counted these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ledger.application.ports.event_lists import (
    CountedEntry,
    EventLists,
    EventPlace,
    EventQuery,
    ListedEvent,
)
from ledger.application.ports.pages import Page
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.application.restaurants import get_restaurant
from ledger.domain.payouts import Payout


@dataclass(frozen=True, slots=True)
class EventsPage(Page[ListedEvent, EventPlace]):
    """Some events. `entries` are by event id, and `payouts` those that counted any of them."""

    entries: Mapping[str, Sequence[CountedEntry]]
    payouts: Sequence[Payout]


async def list_events(
    events: EventLists,
    begin: UnitOfWorkFactory,
    query: EventQuery,
    after: EventPlace | None,
    page_size: int,
    *,
    with_entries: bool,
) -> EventsPage:
    """Returns the events after the place `after`, or from the start if it is None.

    Raises RestaurantNotFound, DatabaseUnavailable, DatabaseTimeout.
    """
    page = await events.page(query, after, page_size)
    if not page.items and page.next_place is None and query.restaurant_id is not None:
        await get_restaurant(begin, query.restaurant_id)
    if not with_entries:
        return EventsPage(page.items, page.next_place, {}, ())
    event_ids = [item.stored.event.event_id for item in page.items]
    entries, payouts = await events.entries(event_ids)
    return EventsPage(page.items, page.next_place, entries, payouts)
