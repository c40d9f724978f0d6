"""The entries that a payout counted."""

from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from ledger.application.ports.events import StoredEntry
from ledger.application.ports.pages import Page
from ledger.domain.posting_rules import EntryType


class PayoutEntryPlace(NamedTuple):
    """A place in the entries of a payout: those that matured between two cut-offs come first, by
    `matured_at`, which is None in the part of all others.
    """

    matured_at: datetime | None
    recorded_txid: int
    transaction_id: UUID
    position: int


class PayoutEntries(Protocol):
    """Reads what payouts counted."""

    async def page(
        self,
        payout_id: UUID,
        entry_types: frozenset[EntryType],
        after: PayoutEntryPlace | None,
        page_size: int,
    ) -> Page[StoredEntry, PayoutEntryPlace] | None:
        """At most `page_size` entries after the place, of some types or, without any, all; None for
        an unknown payout.

        Raises PayoutEntriesUnknown, DatabaseUnavailable, DatabaseTimeout.
        """
        ...
