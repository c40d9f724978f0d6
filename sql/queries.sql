-- The reports about the books, each a query with a name. None of them writes.
--
-- `ledger report` runs one of them. psql runs all of them in one read-only transaction, with the
-- parameters as variables. Those with a default may be left out:
--
--   psql -X -v ON_ERROR_STOP=1 -v currency=PEN -v restaurant_id=res_001 -f sql/queries.sql
--
--   currency             q1_balances, q3_payout_eligibility, account_balances, restaurants_in_red: an
--                        ISO 4217 code
--   until_at             q2_top_restaurants: the instant at which the seven days end,
--                        exclusive; default: now
--   as_of                q3_payout_eligibility: the date to pay out by, in the settlement time
--                        zone; default: today there
--   begins_at            q3_payout_eligibility: the instant at which that date begins there
--   ends_at              q3_payout_eligibility: the instant at which the next date begins there
--   settlement_timezone  for psql alone, if those three are left out: an IANA zone, by PostgreSQL's
--                        zone table, whose version may differ from the servers'; default: UTC
--   min_amount_minor     q3_payout_eligibility: the least that is paid, in minor units; default: 0
--   restaurant_id        payout_history: the restaurant; default: none
--   about                calls: only those that name this id; default: all
--   method               calls: only those of this method, such as RunPayouts; default: all
--   recorded_from        calls: recorded at or after this instant; default: a day ago
--   recorded_before      calls: recorded before this instant; default: now
--
-- A line `-- query: name` opens a query. The comment below it says what it returns. The statement
-- ends with the first semicolon that ends a line. :'name' is a parameter: psql quotes its value,
-- the program binds it. Amounts are in minor units of the row's currency. Sums of bigint are
-- numeric and cannot overflow.

\if :{?until_at}
\else
\set until_at now
\endif
\if :{?settlement_timezone}
\else
\set settlement_timezone UTC
\endif
\if :{?min_amount_minor}
\else
\set min_amount_minor 0
\endif
\if :{?restaurant_id}
\else
\set restaurant_id ''
\endif
\if :{?about}
\else
\set about ''
\endif
\if :{?method}
\else
\set method ''
\endif
\if :{?recorded_from}
\else
\set recorded_from yesterday
\endif
\if :{?recorded_before}
\else
\set recorded_before now
\endif
\if :{?as_of}
\else
SELECT (ledger_now() AT TIME ZONE :'settlement_timezone')::date AS as_of
\gset
\endif
\if :{?begins_at}
\else
SELECT :'as_of'::date::timestamp AT TIME ZONE :'settlement_timezone' AS begins_at
\gset
\endif
\if :{?ends_at}
\else
SELECT (:'as_of'::date + 1)::timestamp AT TIME ZONE :'settlement_timezone' AS ends_at
\gset
\endif

BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;

-- query: q1_balances
-- The balances of every restaurant in a currency, as GetBalance returns them; zeros for a
-- restaurant without an account in it. Entries mature by the database's clock; GetBalance goes by
-- the time of the books, which differs only while that clock is behind the latest record.
--
-- The sums are made for all accounts at once, not account by account: PostgreSQL then reads the
-- entries of a rare currency by the primary key of ledger_entries, and the whole table where most
-- entries are wanted.
WITH sums AS (
  SELECT m.balance_account_id,
         sum(m.signed_minor) FILTER (
           WHERE m.ledger_account = 'restaurant_payable'
             AND (m.available_at IS NULL OR m.available_at <= now())) AS available_minor,
         sum(m.signed_minor) FILTER (
           WHERE m.ledger_account = 'restaurant_payable' AND m.available_at > now())
           AS pending_minor,
         sum(m.signed_minor) FILTER (WHERE m.ledger_account = 'payout_reserved')
           AS reserved_minor,
         sum(m.signed_minor) FILTER (WHERE m.ledger_account = 'dispute_hold') AS disputed_minor,
         max(m.occurred_at) AS last_event_at
  FROM balance_accounts AS a
  JOIN ledger_movements AS m ON m.balance_account_id = a.balance_account_id
  WHERE a.currency = :'currency'::text AND a.restaurant_id IS NOT NULL
  GROUP BY m.balance_account_id
)
SELECT r.restaurant_id, r.name, COALESCE(sums.available_minor, 0) AS available_minor,
       COALESCE(sums.pending_minor, 0) AS pending_minor,
       COALESCE(sums.reserved_minor, 0) AS reserved_minor,
       COALESCE(sums.disputed_minor, 0) AS disputed_minor, sums.last_event_at
FROM restaurants AS r
LEFT JOIN balance_accounts AS a ON a.restaurant_id = r.restaurant_id
  AND a.currency = :'currency'::text
LEFT JOIN sums ON sums.balance_account_id = a.balance_account_id
ORDER BY r.restaurant_id;

-- query: q2_top_restaurants
-- The ten restaurants of each currency with the highest net revenue of seven days: charges less
-- fees less refunds, by the time at which they happened. What accounts paid to restaurants counts
-- as charged, and what went back to them as refunded, by the time at which it was recorded. Fees
-- are those of charges and payments and those assessed alone, not those of disputes. The share is
-- in percent of the net revenue of all restaurants of the currency, rounded half away from zero to
-- two digits; NULL where that sum is not positive. Equal revenues have equal ranks. If more than
-- ten qualify, the first ids are shown.
WITH movement AS (
  SELECT e.balance_account_id,
         count(*) FILTER (WHERE e.entry_type IN ('CHARGE', 'PAYMENT', 'TRANSFER_IN'))
           AS charges_count,
         COALESCE(sum(e.amount_minor) FILTER (
           WHERE e.entry_type IN ('CHARGE', 'PAYMENT', 'TRANSFER_IN')), 0) AS charged_minor,
         count(*) FILTER (WHERE e.entry_type = 'FEE') AS fees_count,
         COALESCE(sum(e.amount_minor) FILTER (WHERE e.entry_type = 'FEE'), 0) AS fees_minor,
         count(*) FILTER (WHERE e.entry_type IN ('REFUND', 'REFUND_OUT')) AS refunds_count,
         COALESCE(sum(e.amount_minor) FILTER (WHERE e.entry_type IN ('REFUND', 'REFUND_OUT')), 0)
           AS refunded_minor
  FROM ledger_entries AS e
  WHERE COALESCE(e.occurred_at, e.recorded_at) >= :'until_at'::timestamptz - interval '168 hours'
    AND COALESCE(e.occurred_at, e.recorded_at) < :'until_at'::timestamptz
    -- An event is recorded at most five minutes before it occurs, so this line leaves out nothing
    -- that the lines above let in. It is here for an index on recorded_at, if there is one.
    AND e.recorded_at >= :'until_at'::timestamptz - interval '168 hours' - interval '6 minutes'
    AND e.entry_type IN ('CHARGE', 'PAYMENT', 'TRANSFER_IN', 'FEE', 'REFUND', 'REFUND_OUT')
    -- Not what one account pays another.
    AND 'restaurant_payable' IN (e.debit_account, e.credit_account)
  GROUP BY e.balance_account_id
),
revenue AS (
  SELECT a.currency, a.restaurant_id, m.charges_count, m.charged_minor, m.fees_count, m.fees_minor,
         m.refunds_count,
         m.refunded_minor, m.charged_minor - m.fees_minor - m.refunded_minor AS net_minor
  FROM movement AS m
  JOIN balance_accounts AS a ON a.balance_account_id = m.balance_account_id
),
ranked AS (
  SELECT revenue.*,
         rank() OVER (PARTITION BY currency ORDER BY net_minor DESC) AS rank,
         row_number() OVER (PARTITION BY currency ORDER BY net_minor DESC, restaurant_id) AS place,
         sum(net_minor) OVER (PARTITION BY currency) AS total_minor
  FROM revenue
)
SELECT currency, rank, restaurant_id, charges_count, charged_minor, fees_count, fees_minor,
       refunds_count, refunded_minor,
       net_minor, CASE WHEN total_minor > 0 THEN round(100 * net_minor / total_minor, 2) END
         AS share_percent
FROM ranked
WHERE place <= 10
ORDER BY currency, place;

-- query: q3_payout_eligibility
-- What a payout run would do now, restaurant by restaurant: what it would pay, or why it would skip
-- the restaurant. If several reasons hold, the first in the order of SkipReason in
-- ledger.domain.payouts is shown. No rows for a date in the future, which a run rejects. The
-- cut-off is the date's last microsecond, or now if that is earlier. What may be paid is the sum of
-- all entries on restaurant_payable that need not mature or had matured by then, or by now if that
-- is less. Of it stays what the restaurant's minimum retains. A restaurant without an account in the
-- currency is in no run.
WITH moment AS MATERIALIZED (SELECT ledger_now() AS now_at),
terms AS (
  SELECT :'as_of'::date AS as_of, :'min_amount_minor'::bigint AS min_amount_minor, moment.now_at,
         LEAST(:'ends_at'::timestamptz - interval '1 microsecond', moment.now_at) AS cutoff_at
  FROM moment
  WHERE :'begins_at'::timestamptz <= moment.now_at
),
-- For all accounts at once, for the reason given at q1_balances.
payable AS (
  SELECT m.balance_account_id,
         LEAST(sum(m.signed_minor),
               COALESCE(sum(m.signed_minor) FILTER (
                 WHERE m.available_at IS NULL OR m.available_at <= terms.cutoff_at), 0))
           AS amount_minor
  FROM terms
  JOIN balance_accounts AS a ON a.currency = :'currency'::text AND a.restaurant_id IS NOT NULL
  JOIN ledger_movements AS m ON m.balance_account_id = a.balance_account_id
  WHERE m.ledger_account = 'restaurant_payable'
    AND (m.available_at IS NULL OR m.available_at <= terms.now_at)
  GROUP BY m.balance_account_id
),
account AS (
  SELECT a.balance_account_id, a.restaurant_id, r.active,
         r.payout_hold_reason IS NOT NULL
           AND COALESCE(r.payout_hold_until, 'infinity') > terms.now_at AS is_on_hold,
         LEAST(COALESCE((r.min_balance_minor ->> a.currency)::bigint, 0),
               GREATEST(COALESCE(payable.amount_minor, 0), 0)) AS retained_minor,
         terms.as_of, terms.cutoff_at,
         terms.min_amount_minor,
         in_flight.payout_id AS in_flight_payout_id, same_date.payout_id AS same_date_payout_id,
         latest.cutoff_at AS latest_cutoff_at, COALESCE(payable.amount_minor, 0) AS amount_minor
  FROM terms
  JOIN balance_accounts AS a ON a.currency = :'currency'::text
  JOIN restaurants AS r ON r.restaurant_id = a.restaurant_id
  -- Each at most one row, by a unique index. A restaurant with neither is eligible.
  LEFT JOIN payouts AS in_flight
    ON in_flight.balance_account_id = a.balance_account_id
    AND in_flight.state IN ('CREATED', 'SUBMITTED')
  LEFT JOIN payouts AS same_date
    ON same_date.balance_account_id = a.balance_account_id AND same_date.as_of = terms.as_of
    AND same_date.state IN ('CREATED', 'SUBMITTED', 'PAID')
  LEFT JOIN LATERAL (
    SELECT p.cutoff_at FROM payouts AS p
    WHERE p.balance_account_id = a.balance_account_id
    ORDER BY p.sequence DESC LIMIT 1
  ) AS latest ON true
  LEFT JOIN payable ON payable.balance_account_id = a.balance_account_id
),
verdict AS (
  SELECT account.*,
         CASE
           WHEN NOT active THEN 'INACTIVE'
           WHEN is_on_hold THEN 'ON_HOLD'
           WHEN in_flight_payout_id IS NOT NULL THEN 'PAYOUT_IN_FLIGHT'
           WHEN same_date_payout_id IS NOT NULL THEN 'ALREADY_PAID'
           WHEN latest_cutoff_at > cutoff_at THEN 'CUTOFF_BEFORE_LATEST_PAYOUT'
           WHEN amount_minor < 1 THEN 'NOTHING_AVAILABLE'
           WHEN amount_minor < min_amount_minor THEN 'BELOW_MINIMUM'
           WHEN amount_minor - retained_minor < GREATEST(min_amount_minor, 1) THEN 'MIN_BALANCE'
         END AS skip_reason
  FROM account
)
SELECT restaurant_id,
       CASE WHEN skip_reason IS NULL THEN 'PAYOUT_CREATED' ELSE 'SKIPPED' END AS outcome,
       skip_reason,
       CASE WHEN skip_reason IS NULL THEN amount_minor - retained_minor ELSE 0 END AS pays_minor,
       amount_minor AS payable_minor, cutoff_at,
       COALESCE(in_flight_payout_id, same_date_payout_id) AS live_payout_id, retained_minor
FROM verdict
ORDER BY restaurant_id;

-- query: q4_integrity
-- What is wrong with the books, at a glance: one row for each anomaly, errors first. The whole
-- audit, with what guards the books, is sql/invariants.sql.
--
-- A check that the audit has as well has the same name; a test breaks the books and compares the
-- two. The checks are written again here, because this is one statement that psql and `ledger
-- report` run like the others, and each sum is made once for several checks. The audit runs a
-- statement for each check.
WITH net AS (
  SELECT balance_account_id,
         sum(signed_minor) FILTER (WHERE ledger_account = 'restaurant_payable') AS payable_minor,
         sum(signed_minor) FILTER (WHERE ledger_account = 'payout_reserved') AS reserved_minor,
         sum(signed_minor) FILTER (WHERE ledger_account = 'dispute_hold') AS disputed_minor,
         sum(signed_minor) FILTER (WHERE ledger_account = 'account_held') AS held_minor,
         COALESCE(-sum(signed_minor) FILTER (
           WHERE side = 'debit' AND ledger_account IS NOT NULL), 0) AS debits_minor,
         COALESCE(sum(signed_minor) FILTER (
           WHERE side = 'credit' AND ledger_account IS NOT NULL), 0) AS credits_minor
  FROM ledger_movements
  GROUP BY balance_account_id
),
account AS (
  SELECT net.*, COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                         net.balance_account_id::text) AS name,
         a.balance_account_id IS NULL AS is_orphaned
  FROM net
  LEFT JOIN balance_accounts AS a ON a.balance_account_id = net.balance_account_id
),
posted AS (
  SELECT v.event_id, v.type, count(e.event_id) AS entries_count
  FROM processor_events AS v
  LEFT JOIN ledger_entries AS e ON e.event_id = v.event_id
  GROUP BY v.event_id, v.type
),
reserve AS (
  SELECT payout_id, count(*) AS entries_count, sum(amount_minor) AS amount_minor
  FROM ledger_entries
  WHERE entry_type = 'PAYOUT_RESERVE'
  GROUP BY payout_id
),
itemised AS (
  SELECT payout_id, sum(amount_minor) AS amount_minor FROM payout_items GROUP BY payout_id
),
in_flight AS (
  SELECT balance_account_id, sum(amount_minor) AS amount_minor
  FROM payouts
  WHERE state IN ('CREATED', 'SUBMITTED')
  GROUP BY balance_account_id
),
holding AS (
  SELECT payer_balance_account_id AS balance_account_id,
         sum(amount_minor - captured_minor) AS held_minor
  FROM payments
  WHERE state IN ('AUTHORIZED', 'PARTIALLY_CAPTURED')
  GROUP BY payer_balance_account_id
),
charged AS (
  SELECT restaurant_id, currency, reference,
         COALESCE(sum(amount_minor) FILTER (WHERE type = 'charge_succeeded'), 0) AS charged_minor,
         sum(amount_minor) FILTER (WHERE type = 'refund_succeeded') AS refunded_minor
  FROM processor_events
  WHERE type IN ('charge_succeeded', 'refund_succeeded') AND reference <> ''
  GROUP BY restaurant_id, currency, reference
),
anomaly (check_name, severity, entity, detail) AS (
  SELECT 'entries_have_an_event', 'ERROR', 'entry ' || e.transaction_id || '/' || e.position,
         format('%s of %s: event %s is not stored', e.entry_type, e.amount_minor,
                COALESCE(e.event_id, '(none)'))
  FROM ledger_entries AS e
  LEFT JOIN processor_events AS v ON v.event_id = e.event_id
  WHERE v.event_id IS NULL
    AND (e.event_id IS NOT NULL OR (e.payment_id IS NULL AND e.entry_type <> 'PAYOUT_RESERVE'))
  UNION ALL
  SELECT 'entries_have_a_balance_account', 'ERROR', 'account ' || name,
         'has entries and does not exist'
  FROM account
  WHERE is_orphaned
  UNION ALL
  SELECT 'payout_entries_have_a_payout', 'ERROR', 'entry ' || e.transaction_id || '/' || e.position,
         format('%s of %s: payout %s does not exist', e.entry_type, e.amount_minor,
                COALESCE(e.payout_id::text, '(none)'))
  FROM ledger_entries AS e
  LEFT JOIN payouts AS p ON p.payout_id = e.payout_id
  WHERE (e.payout_id IS NOT NULL OR e.entry_type LIKE 'PAYOUT\_%') AND p.payout_id IS NULL
  UNION ALL
  SELECT 'events_have_entries', 'ERROR', 'event ' || event_id,
         format('a %s event that posted nothing', type)
  FROM posted AS n
  -- Nor does a payment that came after the failure of its payout, and occurred no later.
  WHERE entries_count = 0 AND type NOT IN ('payout_submitted', 'payout_referenced') AND NOT EXISTS (
    SELECT FROM processor_events AS v
    JOIN processor_events AS f ON f.payout_id = v.payout_id AND f.type = 'payout_failed'
      AND f.occurred_at >= v.occurred_at
    JOIN ledger_entries AS r ON r.event_id = f.event_id AND r.entry_type = 'PAYOUT_REVERSAL'
    WHERE v.event_id = n.event_id AND v.type = 'payout_paid')
  UNION ALL
  SELECT 'payouts_have_one_reserve', 'ERROR', 'payout ' || p.payout_id,
         format('of %s has %s reserves of %s', p.amount_minor, COALESCE(r.entries_count, 0),
                COALESCE(r.amount_minor, 0))
  FROM payouts AS p
  LEFT JOIN reserve AS r ON r.payout_id = p.payout_id
  WHERE (r.entries_count, r.amount_minor) IS DISTINCT FROM (1::bigint, p.amount_minor::numeric)
  UNION ALL
  SELECT 'payout_items_add_up', 'ERROR', 'payout ' || p.payout_id,
         format('of %s has items of %s, leaves %s and the payout before left %s', p.amount_minor,
                COALESCE(i.amount_minor, 0), COALESCE(p.retained_minor, 0),
                COALESCE(p.retained_before_minor, 0))
  FROM payouts AS p
  LEFT JOIN itemised AS i ON i.payout_id = p.payout_id
  WHERE i.amount_minor IS DISTINCT FROM
    p.amount_minor::numeric + COALESCE(p.retained_minor, 0) - COALESCE(p.retained_before_minor, 0)
  UNION ALL
  SELECT 'debits_equal_credits', 'ERROR', 'account ' || name,
         format('debits are %s, credits %s', debits_minor, credits_minor)
  FROM account
  WHERE debits_minor <> credits_minor
  UNION ALL
  SELECT 'reserved_is_in_payouts', 'ERROR', 'account ' || n.name,
         format('payout_reserved is %s, the payouts in flight are %s',
                COALESCE(n.reserved_minor, 0), COALESCE(f.amount_minor, 0))
  FROM account AS n
  LEFT JOIN in_flight AS f ON f.balance_account_id = n.balance_account_id
  WHERE COALESCE(n.reserved_minor, 0) <> COALESCE(f.amount_minor, 0)
  UNION ALL
  SELECT 'held_is_in_payments', 'ERROR', 'account ' || n.name,
         format('account_held is %s, its payments hold %s', COALESCE(n.held_minor, 0),
                COALESCE(h.held_minor, 0))
  FROM account AS n
  LEFT JOIN holding AS h ON h.balance_account_id = n.balance_account_id
  WHERE COALESCE(n.held_minor, 0) <> COALESCE(h.held_minor, 0)
  UNION ALL
  SELECT 'interaccount_nets_to_zero', 'ERROR', 'transaction ' || transaction_id,
         format('leaves %s on interaccount', sum(signed_minor))
  FROM ledger_movements
  WHERE ledger_account = 'interaccount'
  GROUP BY transaction_id
  HAVING sum(signed_minor) <> 0
  UNION ALL
  SELECT 'payable_is_not_negative', 'WARNING', 'account ' || name,
         format('available and pending are %s together', payable_minor)
  FROM account
  WHERE payable_minor < 0
  UNION ALL
  SELECT 'dispute_hold_is_not_negative', 'WARNING', 'account ' || name,
         format('dispute_hold is %s', disputed_minor)
  FROM account
  WHERE disputed_minor < 0
  UNION ALL
  SELECT 'refunds_stay_within_their_charge', 'WARNING',
         'reference ' || restaurant_id || '/' || currency || '/' || reference,
         format('charged %s, refunded %s', charged_minor, refunded_minor)
  FROM charged
  WHERE refunded_minor > charged_minor
)
SELECT check_name, severity, entity, detail
FROM anomaly
ORDER BY severity, check_name, entity, detail;

-- query: account_balances
-- What every account in a currency has available and held, as GetAccountBalance returns it, with
-- its overdraft and its state. Without an overdraft limit the account may go below zero by any
-- amount.
WITH sums AS (
  SELECT m.balance_account_id,
         sum(m.signed_minor) FILTER (WHERE m.ledger_account = 'account_funds') AS available_minor,
         sum(m.signed_minor) FILTER (WHERE m.ledger_account = 'account_held') AS held_minor
  FROM balance_accounts AS a
  JOIN ledger_movements AS m ON m.balance_account_id = a.balance_account_id
  WHERE a.currency = :'currency'::text AND a.account_id IS NOT NULL
  GROUP BY m.balance_account_id
)
SELECT h.account_id, h.name, h.state, COALESCE(sums.available_minor, 0) AS available_minor,
       COALESCE(sums.held_minor, 0) AS held_minor, h.overdraft_limit_minor
FROM accounts AS h
JOIN balance_accounts AS a ON a.account_id = h.account_id
LEFT JOIN sums ON sums.balance_account_id = a.balance_account_id
WHERE h.currency = :'currency'::text
ORDER BY h.account_id;

-- query: payout_history
-- The payouts of a restaurant in all currencies, latest first, each with what it consists of: a row
-- for each item that is not 0. The items add up to what it pays and leaves in the account, less what
-- the payout before left there. A payout that was paid and then returned has both instants;
-- submitted_at is by the database's clock.
SELECT a.currency, p.sequence, p.payout_id, p.payout_run_id, p.as_of, p.cutoff_at, p.created_at,
       p.state, p.amount_minor,
       i.entry_type AS item_type, i.amount_minor AS item_minor, bank.paid_at, bank.failed_at,
       bank.submitted_at, COALESCE(p.retained_minor, 0) AS retained_minor,
       COALESCE(p.retained_before_minor, 0) AS retained_before_minor
FROM balance_accounts AS a
JOIN payouts AS p ON p.balance_account_id = a.balance_account_id
LEFT JOIN payout_items AS i ON i.payout_id = p.payout_id AND i.amount_minor <> 0
CROSS JOIN LATERAL (
  SELECT max(v.occurred_at) FILTER (WHERE v.type = 'payout_paid') AS paid_at,
         max(v.occurred_at) FILTER (WHERE v.type = 'payout_failed') AS failed_at,
         max(v.recorded_at) FILTER (WHERE v.type = 'payout_submitted') AS submitted_at
  FROM processor_events AS v
  WHERE v.payout_id = p.payout_id::text
) AS bank
WHERE a.restaurant_id = :'restaurant_id'::text
ORDER BY a.currency, p.sequence DESC, i.entry_type;

-- query: restaurants_in_red
-- The restaurants of a currency that owe the platform, as ListBalances has them: what they have
-- available and pending is below zero together. The longest in the red come first. `since` is the
-- instant from which it has been below zero without a break, by the recording of entries.
-- `entry_type` and `cause_id`, an event, a payout or a payment, name the entry that took most at that
-- instant; `taken_minor` is what the entries of its type have taken since, less what they gave.
WITH moment AS MATERIALIZED (SELECT ledger_now() AS now_at),
-- For all accounts at once, for the reason given at q1_balances.
red AS MATERIALIZED (
  SELECT m.balance_account_id,
         COALESCE(sum(m.signed_minor) FILTER (
           WHERE m.available_at IS NULL OR m.available_at <= moment.now_at), 0) AS available_minor,
         COALESCE(sum(m.signed_minor) FILTER (WHERE m.available_at > moment.now_at), 0)
           AS pending_minor
  FROM moment
  JOIN balance_accounts AS a ON a.currency = :'currency'::text AND a.restaurant_id IS NOT NULL
  JOIN ledger_movements AS m ON m.balance_account_id = a.balance_account_id
  WHERE m.ledger_account = 'restaurant_payable'
  GROUP BY m.balance_account_id
  HAVING sum(m.signed_minor) < 0
),
movement AS MATERIALIZED (
  SELECT m.balance_account_id, m.recorded_at, m.entry_type, m.signed_minor, m.event_id,
         m.payout_id, m.payment_id
  FROM red
  JOIN ledger_movements AS m ON m.balance_account_id = red.balance_account_id
  WHERE m.ledger_account = 'restaurant_payable'
),
-- Entries of one instant count together.
balance AS (
  SELECT balance_account_id, recorded_at,
         sum(sum(signed_minor)) OVER (PARTITION BY balance_account_id ORDER BY recorded_at)
           AS balance_minor
  FROM movement
  GROUP BY balance_account_id, recorded_at
),
last_good AS (
  SELECT balance_account_id,
         COALESCE(max(recorded_at) FILTER (WHERE balance_minor >= 0), '-infinity') AS recorded_at
  FROM balance
  GROUP BY balance_account_id
),
debt AS (
  SELECT balance.balance_account_id, min(balance.recorded_at) AS since
  FROM balance
  JOIN last_good ON last_good.balance_account_id = balance.balance_account_id
    AND balance.recorded_at > last_good.recorded_at
  GROUP BY balance.balance_account_id
),
cause AS (
  SELECT DISTINCT ON (m.balance_account_id) m.*
  FROM debt
  JOIN movement AS m ON m.balance_account_id = debt.balance_account_id
    AND m.recorded_at = debt.since
  ORDER BY m.balance_account_id, m.signed_minor, m.entry_type, m.event_id, m.payout_id, m.payment_id
)
SELECT a.restaurant_id, r.name, red.available_minor, red.pending_minor, debt.since,
       floor(date_part('epoch', moment.now_at - debt.since) / 86400)::bigint AS days_count,
       cause.entry_type, -taken.signed_minor AS taken_minor,
       COALESCE(cause.event_id, cause.payout_id::text, cause.payment_id) AS cause_id
FROM moment
CROSS JOIN red
JOIN debt ON debt.balance_account_id = red.balance_account_id
JOIN cause ON cause.balance_account_id = red.balance_account_id
CROSS JOIN LATERAL (
  SELECT sum(m.signed_minor) AS signed_minor
  FROM movement AS m
  WHERE m.balance_account_id = red.balance_account_id AND m.entry_type = cause.entry_type
    AND m.recorded_at >= debt.since
) AS taken
JOIN balance_accounts AS a ON a.balance_account_id = red.balance_account_id
JOIN restaurants AS r ON r.restaurant_id = a.restaurant_id
ORDER BY debt.since, a.restaurant_id;

-- query: calls
-- Who called what, latest first: the rows of the call log that name an id or a method. `what` has
-- the subject of the call as JSON. Rows in archives are not here.
SELECT recorded_at, identity, credential, method, outcome, what::text AS what, peer, request_id
FROM audit_log
WHERE recorded_at >= :'recorded_from'::timestamptz
  AND recorded_at < :'recorded_before'::timestamptz
  AND (:'method'::text = '' OR regexp_replace(method, '^.*/', '') = :'method'::text)
  AND (:'about'::text = '' OR EXISTS (
    SELECT FROM jsonb_each_text(what) AS named WHERE named.value = :'about'::text))
ORDER BY audit_id DESC;

COMMIT;
