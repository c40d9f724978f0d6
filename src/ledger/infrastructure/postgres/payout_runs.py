"""Payout runs on PostgreSQL. A run is rows, so any server continues it where another stopped."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime
from uuid import UUID

import asyncpg
import uuid_utils.compat
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.metrics import LedgerMetrics, NoWorkMetrics
from ledger.application.ports.balances import LongTails
from ledger.application.ports.pages import CreationPlace
from ledger.application.ports.payouts import (
    PageRejected,
    PayoutPage,
    PayoutRunQuery,
    Unanswered,
)
from ledger.domain.money import INT64_MAX, INT64_MIN
from ledger.domain.payout_states import PayoutState
from ledger.domain.payouts import (
    PayoutRun,
    PayoutRunItem,
    PayoutRunItemOutcome,
    PayoutRunKey,
    PayoutRunState,
    SkipReason,
    day_bounds,
)
from ledger.domain.posting_rules import PAYOUT_POSTING_RULES
from ledger.errors import (
    DatabaseContention,
    DatabaseTimeout,
    DataRejected,
    FieldViolation,
    InvalidRequest,
    RestaurantNotFound,
    TooManyPayoutRuns,
)
from ledger.infrastructure.postgres.archived_runs import (
    IS_ARCHIVED,
    live_or_archived_counts,
    refuse_archived,
)
from ledger.infrastructure.postgres.movements import signed_minor
from ledger.infrastructure.postgres.sessions.driver import Connection, Row
from ledger.infrastructure.postgres.sessions.engine import allow_seconds, autocommit
from ledger.infrastructure.postgres.sessions.fence import IS_REPLICATED, Fence
from ledger.infrastructure.postgres.sessions.horizon import DATABASE_SNAPSHOT, is_visible
from ledger.infrastructure.postgres.snapshots import (
    ENTRIES_MAX,
    NO_LONG_TAILS,
    latest_snapshot,
    matured_between,
    tail,
)
from ledger.limits import PAYOUT_RUNS_OPEN_DEFAULT
from ledger.zones import settlement_zone, zone_table_version

# For a statement over all restaurants of a currency, which takes longer than any other.
RUN_TIMEOUT_SECONDS = 120
# How many items a run gets when a worker finds none open: some pages of them.
ITEMS_MAX = 2_000

# The cut-off of a date that begins at $1 and ends at $2: its last microsecond, or now if that is
# earlier. No row if the date is in the future.
SELECT_CUTOFF = """
WITH moment AS MATERIALIZED (SELECT ledger_now() AS now_at)
SELECT LEAST($2::timestamptz - interval '1 microsecond', now_at) AS cutoff_at
FROM moment
WHERE $1::timestamptz <= now_at
"""

# Concurrent calls may each count one run too few, so a few runs more than $7 may be under way.
INSERT_RUN = """
INSERT INTO payout_runs (payout_run_id, currency, as_of, cutoff_at, min_amount_minor, request_id,
  zone_table_version, restaurants_named)
SELECT $1::uuid, $2::text, $3::date, $4::timestamptz, $5::bigint, $6::text, $8::text, $9::integer
WHERE (SELECT count(*) FROM payout_runs WHERE state = 'RUNNING') < $7
ON CONFLICT (currency, as_of, min_amount_minor, request_id) DO NOTHING
RETURNING payout_run_id
"""

# The restaurants of a run are those that have an account in this statement's database snapshot.
# Accounts that came from another cluster may have a txid that this snapshot does not show as
# visible. Up to the highest id of such an account (`moved`), every account that exists belongs to
# the run.
INSERT_PROGRESS = f"""
WITH moment AS MATERIALIZED (SELECT {DATABASE_SNAPSHOT} AS accounts_snapshot),
accounts AS (
  SELECT max(a.balance_account_id) AS last,
         max(a.balance_account_id)
           FILTER (WHERE NOT {is_visible("a.opened_txid", "m.accounts_snapshot")}) AS moved
  FROM moment AS m
  CROSS JOIN balance_accounts AS a
)
INSERT INTO payout_run_progress (payout_run_id, accounts_snapshot, moved_balance_account_id,
  last_balance_account_id)
SELECT $1, m.accounts_snapshot, COALESCE(a.moved, 0), COALESCE(a.last, 0)
FROM moment AS m
CROSS JOIN accounts AS a
"""

# The items of a run of named restaurants are few and written when it starts. It has no progress.
INSERT_NAMED_ITEMS = """
INSERT INTO payout_run_items (payout_run_id, restaurant_id, balance_account_id)
SELECT $1, restaurant_id, balance_account_id
FROM balance_accounts
WHERE currency = $2 AND restaurant_id = ANY ($3::text[])
"""

SELECT_UNKNOWN = """
SELECT named.restaurant_id
FROM unnest($1::text[]) AS named (restaurant_id)
WHERE NOT EXISTS (SELECT FROM restaurants AS r WHERE r.restaurant_id = named.restaurant_id)
ORDER BY named.restaurant_id COLLATE "C"
"""

# Runs as a short, separate transaction: its locks must not be held for a page.
WRITE_ITEMS = "SELECT write_payout_run_items($1, $2)"

SELECT_RUN_ID = """
SELECT payout_run_id
FROM payout_runs
WHERE currency = $1 AND as_of = $2 AND min_amount_minor = $3 AND request_id = $4
"""

SELECT_RUN = f"""
SELECT currency, as_of, cutoff_at, min_amount_minor, request_id, state, created_at, finished_at,
       restaurants_named, {IS_REPLICATED}
FROM payout_runs
WHERE payout_run_id = $1
"""

# Two conditions on the progress "p" of a run "r": whether items are yet to be written, and whether
# the account "a" belongs to the run. A run of named restaurants has no row of progress, nor has one
# that a server of an earlier revision started: all its items are written.
_HAS_MORE = "p.reached_balance_account_id < p.last_balance_account_id"
_IS_OF_THE_RUN = f"""a.currency = r.currency AND a.restaurant_id IS NOT NULL
  AND (a.opened_txid IS NULL OR a.balance_account_id <= p.moved_balance_account_id
       OR {is_visible("a.opened_txid", "p.accounts_snapshot")})"""

# Two sums and no join: with statistics older than the run, PostgreSQL may plan a join of a hundred
# thousand rows badly.
SELECT_ITEM_COUNTS = """
SELECT i.outcome, i.skip_reason, count(*) AS restaurants,
       CASE i.outcome
         WHEN 'PAYOUT_CREATED'
           THEN (SELECT sum(p.amount_minor) FROM payouts AS p WHERE p.payout_run_id = $1)
         ELSE 0
       END AS amount_minor
FROM payout_run_items AS i
WHERE i.payout_run_id = $1
GROUP BY i.outcome, i.skip_reason
"""

# The items may be archived. Accounts that have no item yet are counted as open in any case.
SELECT_PROGRESS = f"""
{live_or_archived_counts(SELECT_ITEM_COUNTS)}
UNION ALL
SELECT 'OPEN', NULL, ahead.restaurants, 0
FROM payout_run_progress AS p
JOIN payout_runs AS r ON r.payout_run_id = p.payout_run_id
CROSS JOIN LATERAL (
  SELECT count(*) AS restaurants
  FROM balance_accounts AS a
  WHERE a.balance_account_id > p.reached_balance_account_id
    AND a.balance_account_id <= p.last_balance_account_id
    AND {_IS_OF_THE_RUN}
) AS ahead
WHERE p.payout_run_id = $1 AND {_HAS_MORE}
"""

# A page of runs, latest first, after the run with created_at $1 and id $2; {filters} as in
# payouts.SELECT_PAGE.
SELECT_RUN_PAGE = f"""
SELECT payout_run_id, currency, as_of, cutoff_at, min_amount_minor, request_id, state, created_at,
       finished_at, restaurants_named, {IS_REPLICATED}
FROM payout_runs
WHERE (created_at, payout_run_id)
      < (COALESCE($1::timestamptz, 'infinity'),
        COALESCE($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
  {{filters}}
ORDER BY created_at DESC, payout_run_id DESC
LIMIT $3
"""


def _shown(outcome: str, skip_reason: str) -> str:
    """SQL, for FROM: the outcome and the skip reason of an item of the run "r" as callers see them.

    An item that was open when its run was canceled stays open in the table, and is shown as
    skipped.
    """
    is_left = f"{outcome} = 'OPEN' AND r.state = 'CANCELED'"
    return f"""(
    SELECT CASE WHEN {is_left} THEN 'SKIPPED' ELSE {outcome} END AS outcome,
           CASE WHEN {is_left} THEN 'CANCELED' ELSE {skip_reason} END AS skip_reason
  )"""


# An account without an item is shown as open. These accounts are read in the order of restaurants.
# `+ 0` keeps the planner from reading them in the order of their ids, in which every page would
# read all of them.
SELECT_RUN_ITEMS = f"""
WITH found AS (
  (
    SELECT i.restaurant_id, shown.outcome, shown.skip_reason, i.payout_id, i.available_minor,
           i.retained_minor
    FROM payout_run_items AS i
    JOIN payout_runs AS r ON r.payout_run_id = i.payout_run_id
    CROSS JOIN LATERAL {_shown("i.outcome", "i.skip_reason")} AS shown
    WHERE i.payout_run_id = $1 AND i.restaurant_id > $2 AND NOT {IS_ARCHIVED}
      AND ($3::text IS NULL OR $3 = shown.outcome)
    ORDER BY i.restaurant_id
    LIMIT $4
  )
  UNION ALL
  SELECT ahead.restaurant_id, shown.outcome, shown.skip_reason, NULL, NULL, NULL
  FROM payout_run_progress AS p
  JOIN payout_runs AS r ON r.payout_run_id = p.payout_run_id
  CROSS JOIN LATERAL {_shown("'OPEN'::text", "NULL")} AS shown
  CROSS JOIN LATERAL (
    SELECT a.restaurant_id
    FROM balance_accounts AS a
    WHERE a.restaurant_id > $2
      AND a.balance_account_id + 0 > p.reached_balance_account_id
      AND a.balance_account_id + 0 <= p.last_balance_account_id
      AND {_IS_OF_THE_RUN}
    ORDER BY a.restaurant_id
    LIMIT $4
  ) AS ahead
  WHERE p.payout_run_id = $1 AND {_HAS_MORE} AND NOT {IS_ARCHIVED}
    AND ($3::text IS NULL OR $3 = shown.outcome)
)
SELECT f.restaurant_id, f.outcome, f.skip_reason, f.payout_id,
       COALESCE(p.amount_minor, 0) AS amount_minor, f.available_minor, f.retained_minor,
       {IS_REPLICATED}
FROM (
  SELECT restaurant_id, outcome, skip_reason, payout_id, available_minor, retained_minor
  FROM found ORDER BY restaurant_id LIMIT $4
) AS f
LEFT JOIN payouts AS p ON p.payout_id = f.payout_id
ORDER BY f.restaurant_id
"""

# The index of payouts in flight has exactly these rows.
SELECT_UNANSWERED = """
SELECT a.currency, p.state, count(*) AS payouts,
       extract(epoch FROM now() - min(p.created_at))::float8 AS oldest_seconds
FROM payouts AS p
JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
WHERE p.state IN ('CREATED', 'SUBMITTED')
GROUP BY a.currency, p.state
"""

SELECT_RUNNING = (
    "SELECT payout_run_id FROM payout_runs WHERE state = 'RUNNING' ORDER BY created_at LIMIT 100"
)

# Whether the run is under way. Its row is locked until the page is committed, in the same way as
# the page's own rows lock it: a cancellation waits for that, and delays no page. The trigger
# check_run_is_under_way checks again once the page is written, and fails the page if the run has
# ended by then.
LOCK_RUN = "SELECT 1 FROM payout_runs WHERE payout_run_id = $1 AND state = 'RUNNING' FOR KEY SHARE"

IS_UNDER_WAY = "SELECT 1 FROM payout_runs WHERE payout_run_id = $1 AND state = 'RUNNING'"

# Claims open items after the account $3 that no other worker has claimed. They stay claimed until
# the transaction ends.
CLAIM_ITEMS = """
SELECT balance_account_id, restaurant_id
FROM payout_run_items
WHERE payout_run_id = $1 AND outcome = 'OPEN' AND balance_account_id > $3
ORDER BY balance_account_id
LIMIT $2
FOR NO KEY UPDATE SKIP LOCKED
"""

# A separate statement, so that the next one sees every payout that was created before these locks
# were taken. Ingest only needs the key of the row, and does not wait. Accounts that another session
# has locked are left out: one of them must not keep the rest of the page waiting.
LOCK_BALANCE_ACCOUNTS = """
SELECT balance_account_id
FROM balance_accounts
WHERE balance_account_id = ANY ($1::bigint[])
ORDER BY balance_account_id
FOR NO KEY UPDATE SKIP LOCKED
"""

_SIGNED = signed_minor("restaurant_payable")

# Decides the outcome of some balance accounts ("claimed") in a run with the terms "terms". A payout
# counts the sum of all entries on restaurant_payable that need not mature or had matured by the
# cut-off, with the reserves of earlier payouts. Of that it may pay no more than is available: a
# refund may have matured since the cut-off. What the restaurant's minimum retains is not paid.
#
# The lines of the account's snapshot hold what had matured when it was taken. What matured between
# then and the cut-off, or now, is added or taken away. An entry type is in the result if there is
# an entry of it, whatever its sum, with a snapshot or without.
#
# Everything is looked up in indexes from one row of an account, so the cost grows with the number
# of accounts and no faster. Hence the LATERALs with LIMIT 1: a join or an EXISTS may be planned as
# a hash table of all payouts or all their items, which grow for ever. A run that begins while they
# are few would keep that plan.
#
# Few restaurants have a minimum: without one, nothing is calculated for it.
_CLAIMED = "c.balance_account_id"
_RETAINED = """CASE WHEN r.minimum_minor > 0
           THEN LEAST(r.minimum_minor, GREATEST(sums.payable_minor, 0)) ELSE 0 END"""
VERDICT = f"""
moment AS MATERIALIZED (SELECT ledger_now() AS now_at),
verdict AS MATERIALIZED (
  SELECT c.*, a.restaurant_id, latest.payout_id AS latest_payout_id,
         COALESCE(latest.sequence, 0) + 1 AS sequence,
         COALESCE(latest.retained_minor, 0) AS retained_before_minor,
         sums.entry_types, sums.counted_minors, sums.counted_minor, sums.available_minor,
         sums.entries_read, sums.payable_minor, {_RETAINED} AS retained_minor,
         CASE WHEN r.minimum_minor > 0 THEN sums.payable_minor - {_RETAINED}
           ELSE sums.payable_minor END AS amount_minor,
         CASE
           WHEN NOT r.active THEN 'INACTIVE'
           WHEN r.is_on_hold THEN 'ON_HOLD'
           WHEN in_flight.found THEN 'PAYOUT_IN_FLIGHT'
           WHEN live.found THEN 'ALREADY_PAID'
           WHEN latest.cutoff_at > terms.cutoff_at THEN 'CUTOFF_BEFORE_LATEST_PAYOUT'
           WHEN sums.payable_minor < 1 THEN 'NOTHING_AVAILABLE'
           WHEN sums.payable_minor < terms.min_amount_minor THEN 'BELOW_MINIMUM'
           WHEN r.minimum_minor > 0
             AND sums.payable_minor - {_RETAINED} < GREATEST(terms.min_amount_minor, 1)
             THEN 'MIN_BALANCE'
         END AS skip_reason
  FROM claimed AS c
  CROSS JOIN terms
  CROSS JOIN moment
  CROSS JOIN LATERAL (
    SELECT restaurant_id FROM balance_accounts AS b
    WHERE b.balance_account_id = c.balance_account_id LIMIT 1
  ) AS a
  CROSS JOIN LATERAL (
    SELECT active,
           payout_hold_reason IS NOT NULL
             AND COALESCE(payout_hold_until, 'infinity') > moment.now_at AS is_on_hold,
           COALESCE((min_balance_minor ->> terms.currency)::bigint, 0) AS minimum_minor
    FROM restaurants AS r WHERE r.restaurant_id = a.restaurant_id LIMIT 1
  ) AS r
  LEFT JOIN LATERAL (
    SELECT payout_id, sequence, cutoff_at, retained_minor FROM payouts AS p
    WHERE p.balance_account_id = c.balance_account_id ORDER BY p.sequence DESC LIMIT 1
  ) AS latest ON true
  LEFT JOIN LATERAL (
    SELECT true AS found FROM payouts AS p
    WHERE p.balance_account_id = c.balance_account_id
      AND p.state IN ('CREATED', 'SUBMITTED') LIMIT 1
  ) AS in_flight ON true
  LEFT JOIN LATERAL (
    SELECT true AS found FROM payouts AS p
    WHERE p.balance_account_id = c.balance_account_id AND p.as_of = terms.as_of
      AND p.state IN ('CREATED', 'SUBMITTED', 'PAID') LIMIT 1
  ) AS live ON true
  LEFT JOIN LATERAL {latest_snapshot(_CLAIMED)} AS s ON true
  CROSS JOIN LATERAL (
    SELECT array_agg(t.entry_type) AS entry_types, array_agg(t.counted_minor) AS counted_minors,
           COALESCE(sum(t.counted_minor), 0) AS counted_minor,
           COALESCE(sum(t.available_minor), 0) AS available_minor,
           LEAST(COALESCE(sum(t.counted_minor), 0), COALESCE(sum(t.available_minor), 0))
             AS payable_minor,
           COALESCE(sum(t.entries_read), 0) AS entries_read
    FROM (
      SELECT e.entry_type,
             COALESCE(sum(e.signed_minor)
               FILTER (WHERE e.available_at IS NULL OR e.available_at <= terms.cutoff_at), 0)
               + COALESCE(sum(e.settled_minor), 0) + COALESCE(sum(e.counted_minor), 0)
                 AS counted_minor,
             COALESCE(sum(e.signed_minor)
               FILTER (WHERE e.available_at IS NULL OR e.available_at <= moment.now_at), 0)
               + COALESCE(sum(e.settled_minor), 0) + COALESCE(sum(e.available_minor), 0)
                 AS available_minor,
             count(*) FILTER (WHERE e.settled_minor IS NULL) AS entries_read
      FROM (
        SELECT e.entry_type, e.available_at, {_SIGNED} AS signed_minor,
               NULL::numeric AS settled_minor,
               NULL::bigint AS counted_minor, NULL::bigint AS available_minor
        FROM ledger_entries AS e
        WHERE {tail(_CLAIMED)}
          AND 'restaurant_payable' IN (e.debit_account, e.credit_account)
        UNION ALL
        SELECT l.entry_type, NULL, NULL, l.matured_minor, NULL, NULL
        FROM unnest(s.ledger_accounts, s.entry_types, s.matured_minors)
          AS l (ledger_account, entry_type, matured_minor)
        WHERE l.ledger_account = 'restaurant_payable'
        UNION ALL
        SELECT e.entry_type, NULL, NULL, NULL,
               {_SIGNED} * ((e.available_at <= terms.cutoff_at)::integer
                 - (e.available_at <= s.taken_at)::integer),
               {_SIGNED} * ((e.available_at <= moment.now_at)::integer
                 - (e.available_at <= s.taken_at)::integer)
        FROM ledger_entries AS e
        WHERE {matured_between(_CLAIMED, "s.taken_at", "terms.cutoff_at", "moment.now_at")}
          AND 'restaurant_payable' IN (e.debit_account, e.credit_account)
      ) AS e
      GROUP BY e.entry_type
    ) AS t
  ) AS sums
)
"""

# What was looked at, as a bigint. A sum that does not fit must not keep a restaurant from being
# skipped; if one is paid, it fits: the payout has what was available, which is no less.
_LOOKED_AT = f"""CASE WHEN v.skip_reason IS NULL THEN v.payable_minor
        ELSE LEAST(GREATEST(v.payable_minor, {INT64_MIN}), {INT64_MAX}) END"""

# Creates the payouts of claimed and locked accounts, with items and reserves, and closes the run's
# items of these accounts. An item of a payout is what that payout counts of an entry type, less
# what the account's previous payout counted, so the items add up to the amount and what stays in
# the account, less what the previous payout left there. The run's items are
# found by their place in the table: the claim has locked them, so they stay there, and other open
# items are not read.
#
# Returns the accounts of which more than $8 entries were read.
PAY = f"""
WITH terms AS (
  SELECT payout_run_id, currency, as_of, cutoff_at, min_amount_minor
  FROM payout_runs WHERE payout_run_id = $1
),
claimed AS MATERIALIZED (
  SELECT balance_account_id, payout_id, transaction_id
  FROM unnest($2::bigint[], $3::uuid[], $4::uuid[])
    AS c (balance_account_id, payout_id, transaction_id)
),
{VERDICT},
paid AS (
  INSERT INTO payouts (payout_id, payout_run_id, balance_account_id, sequence, amount_minor,
    available_minor, as_of, cutoff_at, transaction_id, retained_minor, retained_before_minor)
  SELECT v.payout_id, terms.payout_run_id, v.balance_account_id, v.sequence, v.amount_minor,
         v.available_minor, terms.as_of, terms.cutoff_at, v.transaction_id,
         v.counted_minor - v.amount_minor, v.retained_before_minor
  FROM verdict AS v
  CROSS JOIN terms
  WHERE v.skip_reason IS NULL
),
itemised AS (
  INSERT INTO payout_items (payout_id, entry_type, counted_minor, amount_minor)
  SELECT v.payout_id, c.entry_type, c.counted_minor,
         c.counted_minor - COALESCE(before.counted_minor, 0)
  FROM verdict AS v
  CROSS JOIN LATERAL unnest(v.entry_types, v.counted_minors) AS c (entry_type, counted_minor)
  LEFT JOIN LATERAL (
    SELECT counted_minor FROM payout_items AS i
    WHERE i.payout_id = v.latest_payout_id AND i.entry_type = c.entry_type
    LIMIT 1
  ) AS before ON true
  WHERE v.skip_reason IS NULL AND c.entry_type <> 'PAYOUT_RESERVE'
),
reserved AS (
  INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
    debit_account, credit_account, amount_minor, payout_id)
  SELECT balance_account_id, transaction_id, 1, $5, $6, $7, amount_minor, payout_id
  FROM verdict
  WHERE skip_reason IS NULL
),
closed AS (
  UPDATE payout_run_items AS i
  SET outcome = CASE WHEN v.skip_reason IS NULL THEN 'PAYOUT_CREATED' ELSE 'SKIPPED' END,
      skip_reason = v.skip_reason,
      payout_id = CASE WHEN v.skip_reason IS NULL THEN v.payout_id END,
      available_minor = {_LOOKED_AT}, retained_minor = v.retained_minor
  FROM verdict AS v
  CROSS JOIN LATERAL (
    SELECT o.ctid FROM payout_run_items AS o
    WHERE o.payout_run_id = $1 AND o.balance_account_id = v.balance_account_id
      AND o.outcome = 'OPEN' LIMIT 1
  ) AS claimed_item
  WHERE i.ctid = claimed_item.ctid
)
SELECT (SELECT count(*) FROM verdict WHERE skip_reason IS NULL) AS payouts_count,
       (SELECT COALESCE(sum(amount_minor), 0) FROM verdict WHERE skip_reason IS NULL) AS paid_minor,
       ARRAY(SELECT balance_account_id FROM verdict WHERE entries_read > $8
             ORDER BY balance_account_id) AS slow_accounts,
       ARRAY(SELECT entries_read FROM verdict WHERE entries_read > $8
             ORDER BY balance_account_id) AS slow_entries
"""

_PLANNED = f"""
WITH terms AS (
  SELECT $1::text AS currency, $2::date AS as_of, $3::timestamptz AS cutoff_at,
         $4::bigint AS min_amount_minor
),
claimed AS MATERIALIZED (
  SELECT balance_account_id FROM balance_accounts
  WHERE currency = $1 AND restaurant_id {{restaurants}}
),
{VERDICT}
"""

PLAN = f"""
{_PLANNED.format(restaurants="IS NOT NULL")}
SELECT CASE WHEN skip_reason IS NULL THEN 'PAYOUT_CREATED' ELSE 'SKIPPED' END AS outcome,
       skip_reason, count(*) AS restaurants,
       COALESCE(sum(amount_minor) FILTER (WHERE skip_reason IS NULL), 0) AS amount_minor
FROM verdict
GROUP BY 1, 2
"""

# The plan of named restaurants, one by one.
PLAN_ITEMS = f"""
{_PLANNED.format(restaurants="= ANY ($5::text[])")}
SELECT v.restaurant_id, v.skip_reason, 1 AS restaurants,
       CASE WHEN v.skip_reason IS NULL THEN 'PAYOUT_CREATED' ELSE 'SKIPPED' END AS outcome,
       NULL::uuid AS payout_id,
       CASE WHEN v.skip_reason IS NULL THEN v.amount_minor ELSE 0 END::bigint AS amount_minor,
       {_LOOKED_AT}::bigint AS available_minor, v.retained_minor::bigint AS retained_minor
FROM verdict AS v
ORDER BY v.restaurant_id
"""

GIVE_UP = """
UPDATE payout_run_items
SET outcome = 'SKIPPED', skip_reason = 'FAILED'
WHERE payout_run_id = $1 AND balance_account_id = $2 AND outcome = 'OPEN'
  AND EXISTS (SELECT FROM payout_runs WHERE payout_run_id = $1 AND state = 'RUNNING')
"""

CANCEL = """
UPDATE payout_runs
SET state = 'CANCELED', finished_at = ledger_now()
WHERE payout_run_id = $1 AND state = 'RUNNING'
RETURNING payout_run_id
"""

# Runs after CANCEL is committed, so that every page that ends from now on fails. Waits for the
# pages that had checked the run before.
WAIT_FOR_PAGES = "SELECT 1 FROM payout_runs WHERE payout_run_id = $1 FOR UPDATE"

# Ends the run if no item is open. Finding nothing to claim is not enough: what another worker has
# claimed may yet be rolled back. The trigger payout_runs_keep_going keeps the run while restaurants
# have no item yet.
FINISH = """
UPDATE payout_runs
SET state = 'SUCCEEDED', finished_at = ledger_now()
WHERE payout_run_id = $1 AND state = 'RUNNING'
  AND NOT EXISTS (SELECT FROM payout_run_items WHERE payout_run_id = $1 AND outcome = 'OPEN')
RETURNING payout_run_id
"""


class PostgresPayoutRuns:
    """Implements `ledger.application.ports.payouts.PayoutRuns`."""

    def __init__(
        self,
        engine: AsyncEngine,
        long_tails: LongTails = NO_LONG_TAILS,
        *,
        settlement_timezone: str,
        open_runs_max: int = PAYOUT_RUNS_OPEN_DEFAULT,
        fence: Fence | None = None,
        metrics: LedgerMetrics | None = None,
    ) -> None:
        """`settlement_timezone` is the IANA zone in which a date begins and ends.

        `open_runs_max` bounds the runs under way.
        """
        self._open_runs_max = open_runs_max
        self._metrics = metrics or NoWorkMetrics()
        self._engine = engine
        self._fence = fence or Fence(engine)
        self._long_tails = long_tails
        self._zone = settlement_zone(settlement_timezone)

    async def start(self, key: PayoutRunKey, payout_run_id: UUID) -> PayoutRun:
        # Looked up first: an insert that finds the run has moved the clock of the books by then, so
        # its commit would wait for a standby and hold the connection. The fence holds none.
        found = await self._run_id(key)
        if found is None:
            await self._insert(key, payout_run_id)
            found = await self._run_id(key)
        if found is None:
            raise TooManyPayoutRuns
        run = await self.get(found)
        if run is None:
            raise RuntimeError("the run was neither created nor found")
        return run

    async def _run_id(self, key: PayoutRunKey) -> UUID | None:
        async with autocommit(self._engine) as connection:
            found: UUID | None = await connection.fetchval(
                SELECT_RUN_ID,
                key.currency,
                key.as_of,
                key.min_amount_minor,
                _stored_request_id(key),
            )
        return found

    async def _insert(self, key: PayoutRunKey, payout_run_id: UUID) -> None:
        """Stores a new run, unless the limit is reached or the run exists by now."""
        async with autocommit(self._engine) as connection, connection.transaction():
            cutoff_at = await self._cutoff(connection, key.as_of)
            await _refuse_unknown(connection, key)
            created = await connection.fetchval(
                INSERT_RUN,
                payout_run_id,
                key.currency,
                key.as_of,
                cutoff_at,
                key.min_amount_minor,
                _stored_request_id(key),
                self._open_runs_max,
                zone_table_version(),
                len(key.restaurant_ids),
            )
            if created and key.restaurant_ids:
                await connection.execute(
                    INSERT_NAMED_ITEMS, payout_run_id, key.currency, key.restaurant_ids
                )
            elif created:
                await connection.execute(INSERT_PROGRESS, payout_run_id)

    async def plan(self, key: PayoutRunKey) -> PayoutRun:
        async with autocommit(self._engine) as connection, connection.transaction(readonly=True):
            await allow_seconds(connection, RUN_TIMEOUT_SECONDS)
            cutoff_at = await self._cutoff(connection, key.as_of)
            await _refuse_unknown(connection, key)
            named = key.restaurant_ids
            rows = await connection.fetch(
                PLAN_ITEMS if named else PLAN,
                key.currency,
                key.as_of,
                cutoff_at,
                key.min_amount_minor,
                *([named] if named else []),
                timeout=RUN_TIMEOUT_SECONDS,
            )
        plan = _run(None, key, cutoff_at, PayoutRunState.PLANNED, None, None, rows)
        if not named:
            return plan
        return replace(plan, restaurants_named=len(named), items=[_item(row) for row in rows])

    async def get(self, payout_run_id: UUID) -> PayoutRun | None:
        async with autocommit(self._engine) as connection:
            row = await connection.fetchrow(SELECT_RUN, payout_run_id)
            if row is None:
                return None
            progress = await connection.fetch(SELECT_PROGRESS, payout_run_id)
        await self._fence.wait([row])
        return _run_of(payout_run_id, row, progress)

    async def items(
        self, payout_run_id: UUID, outcome: PayoutRunItemOutcome | None, after: str, limit: int
    ) -> list[PayoutRunItem]:
        async with autocommit(self._engine) as connection:
            wanted = None if outcome is None else outcome.value
            rows = await connection.fetch(SELECT_RUN_ITEMS, payout_run_id, after, wanted, limit)
            if not rows:
                await refuse_archived(connection, payout_run_id)
        await self._fence.wait(rows)
        return [_item(row) for row in rows]

    async def page(
        self, query: PayoutRunQuery, before: CreationPlace | None, limit: int
    ) -> list[PayoutRun]:
        filters = {
            "currency": query.currency,
            "state": None if query.state is None else query.state.value,
        }
        given = [(column, value) for column, value in filters.items() if value is not None]
        conditions = " ".join(
            f"AND {column} = ${number}" for number, (column, _) in enumerate(given, start=4)
        )
        created_at, payout_run_id = before or (None, None)
        statement = SELECT_RUN_PAGE.format(filters=conditions)
        async with autocommit(self._engine) as connection:
            rows = await connection.fetch(
                statement, created_at, payout_run_id, limit, *[value for _, value in given]
            )
        await self._fence.wait(rows)
        return [_run_of(row["payout_run_id"], row, []) for row in rows]

    async def cancel(self, payout_run_id: UUID) -> bool:
        async with autocommit(self._engine) as connection:
            was_running = await connection.fetchval(CANCEL, payout_run_id) is not None
            await connection.fetchval(WAIT_FOR_PAGES, payout_run_id)
        return was_running

    async def unanswered(self) -> Unanswered:
        async with autocommit(self._engine) as connection:
            rows = await connection.fetch(SELECT_UNANSWERED)
        return {
            (row["currency"], PayoutState(row["state"])): (row["payouts"], row["oldest_seconds"])
            for row in rows
        }

    async def running(self) -> list[UUID]:
        async with autocommit(self._engine) as connection:
            return [row["payout_run_id"] for row in await connection.fetch(SELECT_RUNNING)]

    async def pay(self, payout_run_id: UUID, limit: int, after: int = 0) -> PayoutPage:
        # Another worker may claim the items first that this one has written.
        while True:
            page = await self._pay_open(payout_run_id, limit, after)
            if page or not await self._write_items(payout_run_id):
                return page

    async def _write_items(self, payout_run_id: UUID) -> int:
        """Writes the run's next open items and returns how many; 0 if others hold the locks."""
        # A worker makes its pages smaller after contention, and this contention is not about pages.
        with suppress(DatabaseContention):
            async with autocommit(self._engine) as connection:
                written: int = await connection.fetchval(WRITE_ITEMS, payout_run_id, ITEMS_MAX)
                return written
        return 0

    async def _pay_open(self, payout_run_id: UUID, limit: int, after: int) -> PayoutPage:
        """Like `pay`, for the items that are already written."""
        restaurants: dict[int, str] = {}
        accounts: list[int] = []
        paid: Row | None = None
        reserve = PAYOUT_POSTING_RULES[PayoutState.CREATED]
        try:
            async with autocommit(self._engine) as connection, connection.transaction():
                is_running = await connection.fetchval(LOCK_RUN, payout_run_id)
                claimed = (
                    await connection.fetch(CLAIM_ITEMS, payout_run_id, limit, after)
                    if is_running
                    else []
                )
                restaurants = {row["balance_account_id"]: row["restaurant_id"] for row in claimed}
                if restaurants:
                    locked = await connection.fetch(LOCK_BALANCE_ACCOUNTS, list(restaurants))
                    accounts = [row["balance_account_id"] for row in locked]
                if accounts:
                    paid = await connection.fetchrow(
                        PAY,
                        payout_run_id,
                        accounts,
                        [uuid_utils.compat.uuid7() for _ in accounts],
                        [uuid_utils.compat.uuid7() for _ in accounts],
                        reserve.entry_type.value,
                        reserve.debit.value,
                        reserve.credit.value,
                        self._long_tails.entries_max,
                    )
        except DatabaseTimeout:
            # A snapshot has more time. Without one the run would time out at this account again and
            # again.
            if len(accounts) == 1:
                self._long_tails.report([(accounts[0], ENTRIES_MAX)])
            raise
        except (DataRejected, asyncpg.UniqueViolationError) as error:
            # UniqueViolationError comes from the indexes that keep a restaurant from being paid
            # twice. As with a CHECK, the data of that restaurant is at fault.
            raise PageRejected(accounts, is_data=True) from error
        except asyncpg.PostgresError as error:
            # Perhaps this code and the schema do not fit: no restaurant may be skipped for that.
            if not accounts:
                raise
            if not await self._is_under_way(payout_run_id):
                return PayoutPage((), {}, 0, 0)
            raise PageRejected(accounts, is_data=False) from error
        if paid is not None:
            self._long_tails.report(zip(paid["slow_accounts"], paid["slow_entries"], strict=True))
            self._metrics.payouts_made(paid["payouts_count"])
        return PayoutPage(
            balance_account_ids=list(restaurants),
            locked={
                account: restaurants[account] for account in restaurants.keys() - set(accounts)
            },
            payouts_created=0 if paid is None else paid["payouts_count"],
            amount_minor=0 if paid is None else int(paid["paid_minor"]),
        )

    async def give_up(self, payout_run_id: UUID, balance_account_id: int) -> None:
        async with autocommit(self._engine) as connection:
            await connection.execute(GIVE_UP, payout_run_id, balance_account_id)

    async def _is_under_way(self, payout_run_id: UUID) -> bool:
        async with autocommit(self._engine) as connection:
            return await connection.fetchval(IS_UNDER_WAY, payout_run_id) is not None

    async def finish(self, payout_run_id: UUID) -> bool:
        async with autocommit(self._engine) as connection:
            return await connection.fetchval(FINISH, payout_run_id) is not None

    async def _cutoff(self, connection: Connection, as_of: date) -> datetime:
        cutoff_at: datetime | None = await connection.fetchval(
            SELECT_CUTOFF, *day_bounds(as_of, self._zone)
        )
        if cutoff_at is None:
            raise InvalidRequest([FieldViolation("as_of", "must not be in the future")])
        return cutoff_at


def _stored_request_id(key: PayoutRunKey) -> str:
    """The request id as the table has it: it also identifies the restaurants that the key names."""
    if not key.restaurant_ids:
        return key.request_id
    digest = hashlib.sha256("\n".join(key.restaurant_ids).encode()).hexdigest()
    return f"{key.request_id}#{digest}"


async def _refuse_unknown(connection: Connection, key: PayoutRunKey) -> None:
    """Raises RestaurantNotFound if the key names restaurants that are not registered."""
    if key.restaurant_ids:
        unknown = await connection.fetch(SELECT_UNKNOWN, key.restaurant_ids)
        if unknown:
            raise RestaurantNotFound(*[row["restaurant_id"] for row in unknown])


def _item(row: Row) -> PayoutRunItem:
    return PayoutRunItem(
        restaurant_id=row["restaurant_id"],
        outcome=PayoutRunItemOutcome(row["outcome"]),
        skip_reason=SkipReason(row["skip_reason"]) if row["skip_reason"] else None,
        payout_id=row["payout_id"],
        amount_minor=row["amount_minor"],
        available_minor=row["available_minor"],
        retained_minor=row["retained_minor"],
    )


def _run_of(payout_run_id: UUID, row: Row, progress: Sequence[Row]) -> PayoutRun:
    request_id, _, _ = row["request_id"].partition("#")
    key = PayoutRunKey(row["currency"], row["as_of"], row["min_amount_minor"], request_id)
    state = PayoutRunState(row["state"])
    run = _run(
        payout_run_id, key, row["cutoff_at"], state, row["created_at"], row["finished_at"], progress
    )
    return replace(run, restaurants_named=row["restaurants_named"])


def _run(
    payout_run_id: UUID | None,
    key: PayoutRunKey,
    cutoff_at: datetime,
    state: PayoutRunState,
    created_at: datetime | None,
    finished_at: datetime | None,
    progress: Sequence[Row],
) -> PayoutRun:
    counts: Counter[tuple[str, str | None]] = Counter()
    for row in progress:
        counts[row["outcome"], row["skip_reason"]] += int(row["restaurants"])
    total = sum(counts.values())
    left = counts.get((PayoutRunItemOutcome.OPEN.value, None), 0)
    skipped = {
        SkipReason(reason): count
        for (_, reason), count in sorted(counts.items(), key=str)
        if reason
    }
    if left and state is PayoutRunState.CANCELED:
        skipped[SkipReason.CANCELED] = left
    return PayoutRun(
        payout_run_id=payout_run_id,
        key=key,
        cutoff_at=cutoff_at,
        state=state,
        payouts_created=counts.get((PayoutRunItemOutcome.PAYOUT_CREATED.value, None), 0),
        total_amount_minor=sum(int(row["amount_minor"]) for row in progress),
        restaurants_considered=total - left,
        restaurants_total=total,
        skipped=skipped,
        created_at=created_at,
        finished_at=finished_at,
    )
