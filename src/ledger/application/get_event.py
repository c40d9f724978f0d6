"""Returns a stored event and its entries."""

from ledger.application.ports.events import EventLedger, StoredEntry, StoredEvent
from ledger.errors import EventNotFound


async def get_event(ledger: EventLedger, event_id: str) -> tuple[StoredEvent, list[StoredEntry]]:
    """Returns the event and its entries by position, once they are durable.

    Callers use it to find out whether an event was booked. Two queries cannot disagree: an event
    and its entries are stored together and never change. Raises EventNotFound, DatabaseUnavailable,
    DatabaseTimeout.
    """
    stored = (await ledger.stored([event_id], once_safe=True)).get(event_id)
    if stored is None:
        raise EventNotFound(event_id)
    return stored, await ledger.entries(stored)
