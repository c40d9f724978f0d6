"""The entries that a payout counted and none before it did, on PostgreSQL.

They are in two parts, each a range of an index. What matured between the cut-offs of the payout
before and of this one, whenever it was recorded, is new in this payout. Of all else, new is what
the payout before did not see.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.ports.events import StoredEntry
from ledger.application.ports.pages import Page
from ledger.application.ports.payout_entries import PayoutEntryPlace
from ledger.domain.posting_rules import EntryType
from ledger.errors import PayoutEntriesUnknown
from ledger.infrastructure.postgres.counted_entries import stay_of, was_seen
from ledger.infrastructure.postgres.event_ledger import stored_entry
from ledger.infrastructure.postgres.sessions.driver import Row
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.sessions.fence import IS_REPLICATED, Fence
from ledger.infrastructure.postgres.sessions.horizon import (
    FIRST_HORIZON,
    next_txid,
    oldest_open_txid,
)

# The payout $1 and the one of its balance account before it, "b", if there is one.
_PAYOUT = f"""payouts AS p
CROSS JOIN LATERAL {stay_of("p")} AS stay
LEFT JOIN payouts AS b
  ON b.balance_account_id = p.balance_account_id AND b.sequence = p.sequence - 1
CROSS JOIN LATERAL {stay_of("b")} AS stay_before"""

SELECT_PAYOUT = f"""
SELECT p.counted_snapshot IS NULL AS is_unknown, b.payout_id AS before_id,
       b.counted_snapshot IS NULL AS is_before_unknown, {IS_REPLICATED}
FROM payouts AS p
LEFT JOIN payouts AS b
  ON b.balance_account_id = p.balance_account_id AND b.sequence = p.sequence - 1
WHERE p.payout_id = $1
"""

_ENTRY = """e.transaction_id, e.position, e.entry_type, e.debit_account, e.credit_account,
       e.amount_minor, a.restaurant_id, a.account_id, a.currency, e.available_at, e.occurred_at,
       e.recorded_at, e.event_id, e.payout_id, e.payment_id,
       e.recorded_txid::text::bigint AS recorded_txid"""
_IS_LISTED = """'restaurant_payable' IN (e.debit_account, e.credit_account)
    AND e.entry_type <> 'PAYOUT_RESERVE' AND ($2::text[] IS NULL OR e.entry_type = ANY ($2))"""

# The first $3 of the entries that matured between the two cut-offs, after the place ($4 to $7).
SELECT_MATURED = f"""
SELECT {_ENTRY}
FROM {_PAYOUT}
JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
CROSS JOIN LATERAL (
  SELECT e.* FROM ledger_entries AS e
  WHERE e.balance_account_id = p.balance_account_id
    AND e.available_at > COALESCE(b.cutoff_at, '-infinity') AND e.available_at <= p.cutoff_at
    AND {was_seen("e", "p", "stay")} AND {_IS_LISTED}
    AND ($4::timestamptz IS NULL
      OR e.available_at >= $4 AND (e.available_at, e.recorded_txid, e.transaction_id, e.position)
         > ($4, $5::text::xid8, $6::uuid, $7::smallint))
  ORDER BY e.available_at, e.recorded_txid, e.transaction_id, e.position
  LIMIT $3
) AS e
WHERE p.payout_id = $1
ORDER BY e.available_at, e.recorded_txid, e.transaction_id, e.position
"""

# The first $3 of the other entries, after the place ($4 to $6). In one stay of the books, those
# that the payout before saw and this one did not are outside of a range of txids.
SELECT_OTHERS = f"""
SELECT {_ENTRY}
FROM {_PAYOUT}
JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
CROSS JOIN LATERAL (
  SELECT CASE WHEN b.payout_id IS NOT NULL AND stay.began_at = stay_before.began_at
              THEN {oldest_open_txid("b.counted_snapshot")} ELSE {FIRST_HORIZON} END AS from_txid,
         CASE WHEN stay.began_at = '-infinity'
                OR (b.payout_id IS NOT NULL AND stay.began_at = stay_before.began_at)
              THEN {next_txid("p.counted_snapshot")} ELSE '18446744073709551615'::xid8 END
           AS to_txid
  OFFSET 0
) AS range
CROSS JOIN LATERAL (
  SELECT e.* FROM ledger_entries AS e
  WHERE e.balance_account_id = p.balance_account_id
    AND e.recorded_txid >= GREATEST(range.from_txid, $4::text::xid8)
    AND e.recorded_txid < range.to_txid
    AND (e.available_at IS NULL OR e.available_at <= COALESCE(b.cutoff_at, '-infinity'))
    AND {was_seen("e", "p", "stay")}
    AND (b.payout_id IS NULL OR NOT {was_seen("e", "b", "stay_before")}) AND {_IS_LISTED}
    AND ($4::text IS NULL OR (e.recorded_txid, e.transaction_id, e.position)
         > ($4::text::xid8, $5::uuid, $6::smallint))
  ORDER BY e.recorded_txid, e.transaction_id, e.position
  LIMIT $3
) AS e
WHERE p.payout_id = $1
ORDER BY e.recorded_txid, e.transaction_id, e.position
"""


class PostgresPayoutEntries:
    """Implements `ledger.application.ports.payout_entries.PayoutEntries`."""

    def __init__(self, engine: AsyncEngine, fence: Fence) -> None:
        self._engine = engine
        self._fence = fence

    async def page(
        self,
        payout_id: UUID,
        entry_types: frozenset[EntryType],
        after: PayoutEntryPlace | None,
        page_size: int,
    ) -> Page[StoredEntry, PayoutEntryPlace] | None:
        types = [entry_type.value for entry_type in entry_types] or None
        limit = page_size + 1
        rows: list[Row] = []
        # Which entries a payout counted never changes, so no snapshot need hold for both parts.
        async with autocommit(self._engine) as connection:
            payout = await connection.fetchrow(SELECT_PAYOUT, payout_id)
            if payout is None:
                return None
            if payout["is_unknown"]:
                raise PayoutEntriesUnknown(str(payout_id))
            if payout["before_id"] is not None and payout["is_before_unknown"]:
                raise PayoutEntriesUnknown(str(payout["before_id"]))
            if after is None or after.matured_at is not None:
                place: tuple[datetime | str | UUID | int | None, ...] = (None, None, None, None)
                if after is not None:
                    place = (
                        after.matured_at,
                        str(after.recorded_txid),
                        after.transaction_id,
                        after.position,
                    )
                rows += await connection.fetch(SELECT_MATURED, payout_id, types, limit, *place)
                after = None
            matured = len(rows)
            if matured < limit:
                place = (None, None, None)
                if after is not None:
                    place = (str(after.recorded_txid), after.transaction_id, after.position)
                rows += await connection.fetch(
                    SELECT_OTHERS, payout_id, types, limit - matured, *place
                )
        await self._fence.wait([payout])
        next_place = None
        if len(rows) > page_size:
            last = rows[page_size - 1]
            next_place = PayoutEntryPlace(
                last["available_at"] if page_size <= matured else None,
                last["recorded_txid"],
                last["transaction_id"],
                last["position"],
            )
        return Page([stored_entry(row) for row in rows[:page_size]], next_place)
