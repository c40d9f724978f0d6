"""Lists of events on PostgreSQL.

No index has the events of a restaurant, or all events by time, in their order: each event would pay
for it. A restaurant's events are found through its entries, which the primary key has in the order
of txids; all events through windows of time, for which there is a BRIN index; those of a reference
through the bloom filters of another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.ports.event_lists import (
    CountedEntry,
    EventPlace,
    EventQuery,
    ListedEvent,
)
from ledger.application.ports.pages import Page
from ledger.domain.events import OCCURRED_AT_MIN, UNIX_EPOCH, microseconds
from ledger.domain.fields import after_prefix
from ledger.domain.payouts import Payout
from ledger.infrastructure.postgres.counted_entries import FIRST_PAYOUT_THAT_COUNTED
from ledger.infrastructure.postgres.event_ledger import (
    BOOKS_OF_EVENT,
    SELECT_EVENTS_AND_REPLICATION,
    stored_entry,
    stored_event,
)
from ledger.infrastructure.postgres.payouts import select_payouts
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.sessions.fence import Fence
from ledger.infrastructure.postgres.statement_marks import (
    first_mark_from,
    last_mark_before,
    newest_mark,
)

# A page looks through so many events at most, which lie together in the order of time.
SCANNED_MAX = 20_000
# Those of an id prefix, or of the entries of a restaurant, lie anywhere: each takes a look-up.
LOOKED_UP_MAX = 4_000
# A page of a restaurant without other filters looks through so many entries for each event.
_ENTRIES_AN_EVENT = 4
# The first window of time, which is made larger and smaller as events are found.
_WINDOW = timedelta(milliseconds=100)
_MICROSECOND = timedelta(microseconds=1)
_WINDOW_MAX = timedelta(days=36_500)

# The planner takes a BRIN index of values in no order to read the whole table, and so would rather
# scan that.
USE_INDEXES = "SET LOCAL enable_seqscan = off"

# The filters of every list below, on the event "v".
_IS_WANTED = """($1::text IS NULL OR v.restaurant_id = $1)
      AND ($2::text[] IS NULL OR v.type = ANY ($2))
      AND ($3::text IS NULL OR v.currency = $3)
      AND ($4::timestamptz IS NULL OR v.recorded_at >= $4)
      AND ($5::timestamptz IS NULL OR v.recorded_at < $5)"""

# Events of the ids in [$8, $9) after $7, in that order: the first $6 that pass the filters, among
# the first $10 of all.
SELECT_BY_ID = f"""
WITH seen AS MATERIALIZED (
  SELECT v.event_id, {_IS_WANTED} AS is_wanted
  FROM processor_events AS v
  WHERE v.event_id > $7 AND v.event_id >= $8 AND v.event_id < $9
  ORDER BY v.event_id
  LIMIT $10
)
SELECT ARRAY(SELECT event_id FROM seen WHERE is_wanted ORDER BY event_id LIMIT $6) AS event_ids,
       (SELECT count(*) FROM seen) AS seen_count, (SELECT max(event_id) FROM seen) AS last_id
"""

# Events of the reference $7, latest first, before the place ($8, $9).
SELECT_BY_REFERENCE = f"""
SELECT v.event_id, v.recorded_at
FROM processor_events AS v
WHERE v.reference = $7 AND {_IS_WANTED}
  AND (v.recorded_at, v.event_id) < (COALESCE($8::timestamptz, 'infinity'), $9::text)
ORDER BY v.recorded_at DESC, v.event_id DESC
LIMIT $6
"""

# Events recorded in [$7, $8), latest first, before the place ($9, $10): the first $6 of those that
# pass the filters. If there are more than $11 of all, the result is of no use.
SELECT_BY_TIME = f"""
WITH seen AS MATERIALIZED (
  SELECT v.event_id, v.recorded_at, {_IS_WANTED} AS is_wanted
  FROM processor_events AS v
  WHERE v.recorded_at >= $7 AND v.recorded_at < $8
  LIMIT $11::bigint + 1
),
wanted AS (
  SELECT event_id, recorded_at
  FROM seen
  WHERE is_wanted AND (recorded_at, event_id) < (COALESCE($9::timestamptz, 'infinity'), $10::text)
  ORDER BY recorded_at DESC, event_id DESC
  LIMIT $6
)
SELECT (SELECT count(*) FROM seen) AS seen_count,
       ARRAY(SELECT event_id FROM wanted ORDER BY recorded_at DESC, event_id DESC) AS event_ids,
       ARRAY(SELECT recorded_at FROM wanted ORDER BY recorded_at DESC, event_id DESC)
         AS recorded_ats
"""

# The events of the restaurant $1 in the order of their txids, latest first, before the place
# ($7, $8), none of which has a txid above $10. They are found by their entries, and those that
# posted none by the payouts that they are about. Statement marks show which entries of an account
# were not recorded in the period. Of each part of an account that is left, about $9 entries are
# read at most: `reach_txid` is the txid that is read last, NULL if all were read.
_OF_ACCOUNT = "a.balance_account_id"
_LATE_END = "$5::timestamptz + newest.late_by_max"
_OF_BOOK = "e.balance_account_id = b.balance_account_id AND e.recorded_txid <= $10::text::xid8"
SELECT_OF_RESTAURANT = f"""
WITH book AS MATERIALIZED (
  SELECT a.balance_account_id, COALESCE(low.horizon, '0'::xid8) AS low,
         COALESCE(above.horizon, newest.horizon) AS above, GREATEST(low.horizon, newest.horizon,
         '0'::xid8) AS unknown
  FROM balance_accounts AS a
  LEFT JOIN LATERAL {newest_mark(_OF_ACCOUNT)} AS newest ON true
  LEFT JOIN LATERAL {first_mark_from(_OF_ACCOUNT, _LATE_END)} AS above
    ON true
  LEFT JOIN LATERAL {last_mark_before(_OF_ACCOUNT, "$4::timestamptz")} AS low ON true
  WHERE a.restaurant_id = $1 AND ($3::text IS NULL OR a.currency = $3)
),
part AS MATERIALIZED (
  SELECT balance_account_id, unknown AS from_txid, '18446744073709551615'::xid8 AS to_txid FROM book
  UNION ALL
  SELECT balance_account_id, low, above FROM book WHERE above > low
),
reach AS MATERIALIZED (
  SELECT max(reached.recorded_txid) AS txid
  FROM part AS b
  CROSS JOIN LATERAL (
    SELECT e.recorded_txid FROM ledger_entries AS e
    WHERE {_OF_BOOK} AND e.recorded_txid >= b.from_txid AND e.recorded_txid < b.to_txid
    ORDER BY e.recorded_txid DESC
    OFFSET $9::bigint - 1 LIMIT 1
  ) AS reached
),
found AS (
  SELECT e.event_id
  FROM reach
  CROSS JOIN part AS b
  CROSS JOIN LATERAL (
    SELECT e.event_id FROM ledger_entries AS e
    WHERE {_OF_BOOK} AND e.recorded_txid >= GREATEST(b.from_txid, reach.txid)
      AND e.recorded_txid < b.to_txid AND e.event_id IS NOT NULL
  ) AS e
  UNION
  SELECT v.event_id
  FROM book AS b
  JOIN payouts AS p ON p.balance_account_id = b.balance_account_id
  JOIN processor_events AS v ON v.payout_id = p.payout_id::text
)
SELECT v.event_id, v.recorded_txid::text::bigint AS recorded_txid,
       reach.txid::text::bigint AS reach_txid
FROM reach
LEFT JOIN LATERAL (
  SELECT v.event_id, v.recorded_txid
  FROM found
  CROSS JOIN LATERAL (
    SELECT * FROM processor_events AS v WHERE v.event_id = found.event_id OFFSET 0
  ) AS v
  WHERE {_IS_WANTED} AND (reach.txid IS NULL OR v.recorded_txid >= reach.txid)
    AND (v.recorded_txid, v.event_id) < ($7::text::xid8, $8::text)
  ORDER BY v.recorded_txid DESC, v.event_id DESC
  LIMIT $6
) AS v ON true
"""
_TXID_MAX = 2**63 - 1

# The entries of the events $1, each with the first payout that counted it. Of each event, the txid
# leads into the primary key of its entries.
SELECT_ENTRIES = f"""
SELECT e.transaction_id, e.position, e.entry_type, e.debit_account, e.credit_account,
       e.amount_minor, a.restaurant_id, a.account_id, a.currency, e.available_at, e.occurred_at,
       e.recorded_at, e.event_id, e.payout_id, e.payment_id,
       counted.payout_id AS counted_by_payout_id, counted.is_unknown
FROM processor_events AS v
CROSS JOIN LATERAL {BOOKS_OF_EVENT} AS a
JOIN ledger_entries AS e
  ON e.balance_account_id = a.balance_account_id
 AND e.recorded_txid = v.recorded_txid
 AND e.transaction_id = v.transaction_id
LEFT JOIN LATERAL {FIRST_PAYOUT_THAT_COUNTED} AS counted
  ON 'restaurant_payable' IN (e.debit_account, e.credit_account)
WHERE v.event_id = ANY ($1::text[])
ORDER BY e.event_id, e.position
"""


@dataclass(frozen=True, slots=True)
class _Keys:
    """The ids of the events of a page with their places, and the place after which the list goes on
    if the page has read no further; None if it has read all.
    """

    places: Sequence[EventPlace]
    reach: EventPlace | None = None


class PostgresEventLists:
    """Implements `ledger.application.ports.event_lists.EventLists`."""

    def __init__(
        self,
        engine: AsyncEngine,
        fence: Fence,
        *,
        scanned_max: int = SCANNED_MAX,
        looked_up_max: int = LOOKED_UP_MAX,
    ) -> None:
        """A page looks through at most `scanned_max` events, or looks up `looked_up_max`."""
        self._engine = engine
        self._fence = fence
        self._scanned_max = scanned_max
        self._looked_up_max = looked_up_max

    async def page(
        self, query: EventQuery, after: EventPlace | None, page_size: int
    ) -> Page[ListedEvent, EventPlace]:
        async with autocommit(self._engine) as connection, connection.transaction(readonly=True):
            await connection.execute(USE_INDEXES)
            keys = await self._keys(connection, query, after, page_size + 1)
            wanted = keys.places[:page_size]
            rows = await connection.fetch(
                SELECT_EVENTS_AND_REPLICATION, [place.event_id for place in wanted]
            )
        await self._fence.wait(rows)
        by_id = {row["event_id"]: stored_event(row) for row in rows}
        items = [ListedEvent(by_id[place.event_id], place) for place in wanted]
        next_place = wanted[-1] if len(keys.places) > page_size else keys.reach
        return Page(items, next_place)

    async def entries(
        self, event_ids: Sequence[str]
    ) -> tuple[Mapping[str, list[CountedEntry]], list[Payout]]:
        found: dict[str, list[CountedEntry]] = {event_id: [] for event_id in event_ids}
        # One database snapshot, in which every payout that an entry names is there.
        async with (
            autocommit(self._engine) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            for row in await connection.fetch(SELECT_ENTRIES, list(event_ids)):
                found[row["event_id"]].append(
                    CountedEntry(
                        stored_entry(row), row["counted_by_payout_id"], bool(row["is_unknown"])
                    )
                )
            payout_ids = {entry.payout_id for entries in found.values() for entry in entries} - {
                None
            }
            rows, payouts = await select_payouts(connection, sorted(filter(None, payout_ids)))
        await self._fence.wait(rows)
        return found, payouts

    async def _keys(
        self, connection: Connection, query: EventQuery, after: EventPlace | None, limit: int
    ) -> _Keys:
        if query.event_id_prefix is not None:
            return await self._by_id(connection, query, after, limit)
        if query.reference is not None:
            return await _by_reference(connection, query, after, limit)
        if query.restaurant_id is not None:
            return await self._of_restaurant(connection, query, after, limit)
        return await self._by_time(connection, query, after, limit)

    async def _by_id(
        self, connection: Connection, query: EventQuery, after: EventPlace | None, limit: int
    ) -> _Keys:
        prefix = query.event_id_prefix or ""
        scanned_max = self._looked_up_max if _is_filtered(query) else limit
        row = await connection.fetchrow(
            SELECT_BY_ID,
            *_filters(query),
            limit,
            "" if after is None else after.event_id,
            prefix,
            after_prefix(prefix),
            scanned_max,
        )
        if row is None:
            raise RuntimeError("a query of constants has a row")
        places = [EventPlace(0, event_id) for event_id in row["event_ids"]]
        has_more = row["seen_count"] == scanned_max
        return _Keys(places, EventPlace(0, row["last_id"]) if has_more else None)

    async def _of_restaurant(
        self, connection: Connection, query: EventQuery, after: EventPlace | None, limit: int
    ) -> _Keys:
        place = after or EventPlace(_TXID_MAX, "")
        scanned_max = self._looked_up_max if query.types else _ENTRIES_AN_EVENT * limit
        rows = await connection.fetch(
            SELECT_OF_RESTAURANT,
            *_filters(query),
            limit,
            str(place.number),
            place.event_id,
            min(scanned_max, self._looked_up_max),
            # Without an id, all events of the txid are before the place.
            str(place.number if place.event_id else place.number - 1),
        )
        reach = None if not rows else rows[0]["reach_txid"]
        places = [
            EventPlace(row["recorded_txid"], row["event_id"])
            for row in rows
            if row["event_id"] is not None
        ]
        return _Keys(places, None if reach is None else EventPlace(reach, ""))

    async def _by_time(
        self, connection: Connection, query: EventQuery, after: EventPlace | None, limit: int
    ) -> _Keys:
        """Looks at one window of time after the other, back from the place."""
        floor = max(query.start_at or OCCURRED_AT_MIN, OCCURRED_AT_MIN)
        place: tuple[datetime | None, str] = (None, "")
        if after is None:
            end = await connection.fetchval("SELECT ledger_now() + interval '1 second'")
        else:
            end = _instant(after)
            place = (end, after.event_id)
            # Among equal instants the id decides.
            end += _MICROSECOND if after.event_id else timedelta(0)
        end = end if query.end_at is None else min(end, query.end_at)
        places: list[EventPlace] = []
        window = _WINDOW
        scanned = 0
        while len(places) < limit and scanned < self._scanned_max and end > floor:
            start = max(floor, end - window)
            # The events of one instant cannot be taken apart.
            bound = self._scanned_max if window > _MICROSECOND else 2**62
            row = await connection.fetchrow(
                SELECT_BY_TIME, *_filters(query), limit - len(places), start, end, *place, bound
            )
            if row is None:
                raise RuntimeError("a query of constants has a row")
            if row["seen_count"] > bound:
                window = max(window / 16, _MICROSECOND)
                continue
            places += [
                EventPlace(microseconds(recorded_at), event_id)
                for event_id, recorded_at in zip(row["event_ids"], row["recorded_ats"], strict=True)
            ]
            scanned += row["seen_count"]
            end = start
            if row["seen_count"] * 16 < self._scanned_max:
                window = min(window * 4, _WINDOW_MAX)
        return _Keys(places, EventPlace(microseconds(end), "") if end > floor else None)


async def _by_reference(
    connection: Connection, query: EventQuery, after: EventPlace | None, limit: int
) -> _Keys:
    rows = await connection.fetch(
        SELECT_BY_REFERENCE,
        *_filters(query),
        limit,
        query.reference,
        None if after is None else _instant(after),
        "" if after is None else after.event_id,
    )
    return _Keys([EventPlace(microseconds(row["recorded_at"]), row["event_id"]) for row in rows])


def _filters(query: EventQuery) -> tuple[object, ...]:
    return (
        query.restaurant_id,
        [event_type.value for event_type in query.types] or None,
        query.currency,
        query.start_at,
        query.end_at,
    )


def _is_filtered(query: EventQuery) -> bool:
    return any(value is not None for value in _filters(query))


def _instant(place: EventPlace) -> datetime:
    return UNIX_EPOCH + timedelta(microseconds=place.number)
