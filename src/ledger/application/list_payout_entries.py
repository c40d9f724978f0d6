"""Returns the entries that a payout counted, which add up to its items."""

from uuid import UUID

from ledger.application.ports.events import StoredEntry
from ledger.application.ports.pages import Page
from ledger.application.ports.payout_entries import PayoutEntries, PayoutEntryPlace
from ledger.domain.posting_rules import EntryType
from ledger.errors import PayoutNotFound


async def list_payout_entries(
    entries: PayoutEntries,
    payout_id: UUID,
    entry_types: frozenset[EntryType],
    after: PayoutEntryPlace | None,
    page_size: int,
) -> Page[StoredEntry, PayoutEntryPlace]:
    """Returns the entries that the payout counted and none before it did.

    Raises PayoutNotFound; PayoutEntriesUnknown if it or the payout before it was created before the
    ledger kept what payouts count; DatabaseUnavailable, DatabaseTimeout.
    """
    page = await entries.page(payout_id, entry_types, after, page_size)
    if page is None:
        raise PayoutNotFound(str(payout_id))
    return page
