"""Shows a stored event with what it posted."""

from ledger.application.ports.events import EventLedger, StoredEntry, StoredEvent
from ledger.errors import EventNotFound


async def get_event(ledger: EventLedger, event_id: str) -> tuple[StoredEvent, list[StoredEntry]]:
    """The event and its entries by position, once they are safe: by it callers find out what became of an event.

    Raises EventNotFound, DatabaseUnavailable, DatabaseTimeout.
    Two statements see the same: events and entries are stored together and never change.
    """
    stored = (await ledger.stored([event_id], once_safe=True)).get(event_id)
    if stored is None:
        raise EventNotFound(event_id)
    return stored, await ledger.entries(stored)
