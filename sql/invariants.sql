-- The audit of the books: each invariant is a statement that returns rows only if it is broken.
--
-- `ledger verify` runs the statements in one read-only transaction. So does psql, which prints
-- nothing if the books are in order:
--
--   psql -X -q -At -v ON_ERROR_STOP=1 -f sql/invariants.sql
--
-- A line `-- check: name` opens a check. The comment below it says what the check proves. The
-- statement ends with the first semicolon that ends a line. Each row is (check_name, severity,
-- entity, detail). ERROR: the books are broken, or what guards them is. WARNING: the books are
-- right, and show something that an operator should look at. Any role that may read the tables can
-- run the file.
--
-- A line `-- scope: word` says what the check reads when `ledger verify` checks only what is new.
-- new: where a table's name is followed by a comment, as in `ledger_entries /* new */`, these rows
-- of it; ledger.infrastructure.postgres.verification.new_rows says what the words mean. Other
-- tables are looked up by key. small: the same as always. all: nothing; then a reason follows.
--
-- Sums of bigint are numeric and cannot overflow.

BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;

-- check: entries_follow_posting_rules
-- scope: new
-- Every event has exactly the entries of the posting rules: types, accounts, amounts, positions. An
-- entry of a fee exists if and only if that fee is above 0; the fee of a refund posts nothing. The
-- entries of payouts and payments have checks further below. The rules are those of
-- ledger.domain.posting_rules. A test compares the two.
WITH rule (event_type, position, entry_type, debit_account, credit_account, amount) AS (
  VALUES
    ('charge_succeeded', 1, 'CHARGE', 'processor_clearing', 'restaurant_payable', 'amount'),
    ('charge_succeeded', 2, 'FEE', 'restaurant_payable', 'platform_fees', 'fee'),
    ('charge_succeeded', 3, 'PROCESSOR_COST', 'processor_costs', 'processor_clearing',
     'processor_fee'),
    ('refund_succeeded', 1, 'REFUND', 'restaurant_payable', 'processor_clearing', 'amount'),
    ('refund_succeeded', 2, 'PROCESSOR_COST', 'processor_costs', 'processor_clearing',
     'processor_fee'),
    ('fee_assessed', 1, 'FEE', 'restaurant_payable', 'platform_fees', 'amount'),
    ('adjustment_credited', 1, 'ADJUSTMENT_CREDIT', 'adjustments', 'restaurant_payable', 'amount'),
    ('adjustment_debited', 1, 'ADJUSTMENT_DEBIT', 'restaurant_payable', 'adjustments', 'amount'),
    ('dispute_opened', 1, 'DISPUTE_HOLD', 'restaurant_payable', 'dispute_hold', 'amount'),
    ('dispute_opened', 2, 'DISPUTE_WITHDRAWAL', 'dispute_receivable', 'processor_clearing',
     'amount'),
    ('dispute_opened', 3, 'DISPUTE_FEE', 'restaurant_payable', 'processor_clearing', 'fee'),
    ('dispute_opened', 4, 'PROCESSOR_COST', 'processor_costs', 'processor_clearing',
     'processor_fee'),
    ('dispute_won', 1, 'DISPUTE_RELEASE', 'dispute_hold', 'restaurant_payable', 'amount'),
    ('dispute_won', 2, 'DISPUTE_REINSTATEMENT', 'processor_clearing', 'dispute_receivable',
     'amount'),
    ('dispute_lost', 1, 'DISPUTE_LOSS', 'dispute_hold', 'dispute_receivable', 'amount'),
    ('refund_failed', 1, 'REFUND_REVERSAL', 'processor_clearing', 'restaurant_payable', 'amount'),
    ('charge_reversed', 1, 'CHARGE_REVERSAL', 'restaurant_payable', 'processor_clearing', 'amount'),
    ('charge_reversed', 2, 'FEE_REVERSAL', 'platform_fees', 'restaurant_payable', 'fee'),
    ('fee_refunded', 1, 'FEE_REVERSAL', 'platform_fees', 'restaurant_payable', 'amount'),
    ('dispute_fee_refunded', 1, 'DISPUTE_FEE_REVERSAL', 'processor_clearing', 'restaurant_payable',
     'amount'),
    ('processor_fee_assessed', 1, 'PROCESSOR_COST', 'processor_costs', 'processor_clearing',
     'amount'),
    ('processor_fee_refunded', 1, 'PROCESSOR_COST_REVERSAL', 'processor_clearing',
     'processor_costs', 'amount'),
    ('tax_withheld', 1, 'TAX_WITHHELD', 'restaurant_payable', 'tax_withheld', 'amount'),
    ('tax_withholding_reversed', 1, 'TAX_WITHHELD_REVERSAL', 'tax_withheld', 'restaurant_payable',
     'amount'),
    ('reserve_held', 1, 'RESERVE_HOLD', 'restaurant_payable', 'reserve_hold', 'amount'),
    ('reserve_released', 1, 'RESERVE_RELEASE', 'reserve_hold', 'restaurant_payable', 'amount'),
    ('top_up_received', 1, 'TOP_UP', 'platform_cash', 'restaurant_payable', 'amount'),
    ('debt_written_off', 1, 'WRITE_OFF', 'bad_debt', 'restaurant_payable', 'amount'),
    ('processor_settled', 1, 'PROCESSOR_SETTLEMENT', 'platform_cash', 'processor_clearing',
     'amount'),
    ('processor_settlement_debited', 1, 'PROCESSOR_SETTLEMENT_DEBIT', 'processor_clearing',
     'platform_cash', 'amount')
),
-- Without a fee the entries behind it move up.
placed AS (
  SELECT rule.*, count(*) FILTER (WHERE amount = 'fee')
                   OVER (PARTITION BY event_type ORDER BY position) AS fees_before
  FROM rule
),
expected AS (
  SELECT v.event_id, r.entry_type, r.debit_account, r.credit_account,
         r.position - CASE WHEN v.fee_minor > 0 THEN 0 ELSE r.fees_before END AS position,
         CASE r.amount WHEN 'fee' THEN v.fee_minor WHEN 'processor_fee' THEN v.processor_fee_minor
                       ELSE v.amount_minor END AS amount_minor
  FROM processor_events /* new */ AS v
  JOIN placed AS r ON r.event_type = v.type
  WHERE CASE r.amount WHEN 'fee' THEN v.fee_minor > 0
                      WHEN 'processor_fee' THEN v.processor_fee_minor > 0 ELSE true END
),
posted AS (
  SELECT event_id, position, entry_type, debit_account, credit_account, amount_minor
  FROM ledger_entries /* new */
  WHERE event_id IS NOT NULL AND entry_type NOT LIKE 'PAYOUT\_%'
)
SELECT 'entries_follow_posting_rules' AS check_name, 'ERROR' AS severity,
       'event ' || COALESCE(x.event_id, p.event_id) AS entity,
       CASE
         WHEN p.event_id IS NULL THEN
           format('lacks its entry %s: %s, debit %s, credit %s, %s',
                  x.position, x.entry_type, x.debit_account, x.credit_account, x.amount_minor)
         WHEN x.event_id IS NULL THEN
           format('has an entry %s that no rule posts: %s, debit %s, credit %s, %s',
                  p.position, p.entry_type, p.debit_account, p.credit_account, p.amount_minor)
         ELSE
           format('entry %s is %s, debit %s, credit %s, %s;'
                  ' the rules say %s, debit %s, credit %s, %s',
                  p.position, p.entry_type, p.debit_account, p.credit_account, p.amount_minor,
                  x.entry_type, x.debit_account, x.credit_account, x.amount_minor)
       END AS detail
FROM expected AS x
FULL JOIN posted AS p ON p.event_id = x.event_id AND p.position = x.position
WHERE (p.entry_type, p.debit_account, p.credit_account, p.amount_minor)
      IS DISTINCT FROM (x.entry_type, x.debit_account, x.credit_account, x.amount_minor);

-- check: entries_are_posted_once
-- scope: new
-- No position of an event is posted twice, nor one of a transaction id of a payment.
SELECT 'entries_are_posted_once' AS check_name, 'ERROR' AS severity, 'event ' || event_id AS entity,
       format('%s entries have the position %s', count(*), position) AS detail
FROM ledger_entries /* new */
WHERE event_id IS NOT NULL
GROUP BY event_id, position
HAVING count(*) > 1
UNION ALL
SELECT 'entries_are_posted_once', 'ERROR', 'transaction ' || transaction_id,
       format('%s entries have the position %s', count(*), position)
FROM ledger_entries /* new */
WHERE payment_id IS NOT NULL
GROUP BY transaction_id, position
HAVING count(*) > 1;

-- check: entries_agree_with_their_event
-- scope: new
-- An entry has the transaction id, recorded_txid, occurred_at and recorded_at of its event: one
-- database transaction stored both.
SELECT 'entries_agree_with_their_event' AS check_name, 'ERROR' AS severity,
       'entry ' || e.transaction_id || '/' || e.position AS entity,
       format('differs from event %s in %s', v.event_id, concat_ws(', ',
         CASE WHEN e.transaction_id <> v.transaction_id THEN 'transaction_id' END,
         CASE WHEN e.recorded_txid <> v.recorded_txid THEN 'recorded_txid' END,
         CASE WHEN e.occurred_at IS DISTINCT FROM v.occurred_at THEN 'occurred_at' END,
         CASE WHEN e.recorded_at <> v.recorded_at THEN 'recorded_at' END)) AS detail
FROM ledger_entries /* new */ AS e
JOIN processor_events AS v ON v.event_id = e.event_id
WHERE (e.transaction_id, e.recorded_txid, e.occurred_at, e.recorded_at)
      IS DISTINCT FROM (v.transaction_id, v.recorded_txid, v.occurred_at, v.recorded_at);

-- check: entries_stand_in_the_account_of_their_event
-- scope: new
-- An entry stands in the balance account of its event's restaurant and currency, or in the
-- platform's if the event has no restaurant.
SELECT 'entries_stand_in_the_account_of_their_event' AS check_name, 'ERROR' AS severity,
       'entry ' || e.transaction_id || '/' || e.position AS entity,
       format('stands in %s; event %s is of %s/%s',
              COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                       '(platform)/' || a.currency),
              v.event_id, COALESCE(NULLIF(v.restaurant_id, ''), '(platform)'), v.currency)
         AS detail
FROM ledger_entries /* new */ AS e
JOIN processor_events AS v ON v.event_id = e.event_id
JOIN balance_accounts AS a ON a.balance_account_id = e.balance_account_id
WHERE (CASE WHEN a.account_id IS NULL THEN COALESCE(a.restaurant_id, '') END, a.currency)
      IS DISTINCT FROM (v.restaurant_id, v.currency);

-- check: entries_have_an_event
-- scope: new
-- An entry names the event or the payment that posted it, and that event is stored. Only a payout's
-- reserve names neither: none posted it. The entries of payments have checks further below.
SELECT 'entries_have_an_event' AS check_name, 'ERROR' AS severity,
       'entry ' || e.transaction_id || '/' || e.position AS entity,
       CASE WHEN e.event_id IS NULL THEN format('a %s names no event and no payment', e.entry_type)
            ELSE format('event %s is not stored', e.event_id) END AS detail
FROM ledger_entries /* new */ AS e
LEFT JOIN processor_events AS v ON v.event_id = e.event_id
WHERE v.event_id IS NULL
  AND (e.event_id IS NOT NULL OR (e.payment_id IS NULL AND e.entry_type <> 'PAYOUT_RESERVE'));

-- check: entries_have_a_balance_account
-- scope: new
-- An entry's balance account exists.
SELECT 'entries_have_a_balance_account' AS check_name, 'ERROR' AS severity,
       'entry ' || e.transaction_id || '/' || e.position AS entity,
       format('balance account %s does not exist', e.balance_account_id) AS detail
FROM ledger_entries /* new */ AS e
LEFT JOIN balance_accounts AS a ON a.balance_account_id = e.balance_account_id
WHERE a.balance_account_id IS NULL;

-- check: charges_mature_after_whole_days
-- scope: new
-- Of the entries of events without available_at, only those of charges have one, and it is 1 to 365
-- times 24 hours after occurred_at. For 0 days it is NULL. No column has the restaurant's maturity
-- days at the time of booking, so the number of days itself cannot be checked.
SELECT 'charges_mature_after_whole_days' AS check_name, 'ERROR' AS severity,
       'entry ' || e.transaction_id || '/' || e.position AS entity,
       format('a %s of a %s event is available at %s, having occurred at %s', e.entry_type, v.type,
              e.available_at, e.occurred_at)
         AS detail
FROM ledger_entries /* new */ AS e
JOIN processor_events AS v ON v.event_id = e.event_id
CROSS JOIN LATERAL (
  SELECT extract(epoch FROM e.available_at) - extract(epoch FROM e.occurred_at)
           AS maturity_seconds) AS m
WHERE e.available_at IS NOT NULL AND v.available_at IS NULL
  AND (v.type = 'charge_succeeded' AND e.entry_type IN ('CHARGE', 'FEE')
       AND m.maturity_seconds % 86400 = 0
       AND m.maturity_seconds BETWEEN 86400 AND 365 * 86400) IS NOT TRUE;

-- check: entries_are_available_as_the_processor_says
-- scope: new
-- The entries of an event with available_at have the same one, except the processor's cost, which
-- counts at once.
SELECT 'entries_are_available_as_the_processor_says' AS check_name, 'ERROR' AS severity,
       'entry ' || e.transaction_id || '/' || e.position AS entity,
       format('a %s is available at %s, its event %s says %s', e.entry_type,
              COALESCE(e.available_at::text, 'once'), v.event_id, v.available_at) AS detail
FROM processor_events /* new */ AS v
JOIN ledger_entries AS e ON e.event_id = v.event_id
WHERE v.available_at IS NOT NULL
  AND e.available_at IS DISTINCT FROM
      CASE WHEN e.entry_type <> 'PROCESSOR_COST' THEN v.available_at END;

-- check: fees_mature_with_their_charge
-- scope: new
-- The fee of a charge has the charge's available_at, so that what matures is always the net amount.
SELECT 'fees_mature_with_their_charge' AS check_name, 'ERROR' AS severity,
       'event ' || c.event_id AS entity,
       format('the charge is available at %s, its fee at %s',
              COALESCE(c.available_at::text, 'once'), COALESCE(f.available_at::text, 'once'))
                AS detail
FROM ledger_entries /* new */ AS c
JOIN ledger_entries /* new */ AS f ON f.event_id = c.event_id
WHERE c.entry_type = 'CHARGE' AND f.entry_type = 'FEE'
  AND f.available_at IS DISTINCT FROM c.available_at;

-- check: payout_events_have_a_payout
-- scope: new
-- A payout event names a payout that exists, spelled as the database spells it, and has its
-- restaurant, currency and amount.
SELECT 'payout_events_have_a_payout' AS check_name, 'ERROR' AS severity,
       'event ' || v.event_id AS entity,
       CASE
         WHEN p.payout_id IS NULL THEN
           format('a %s event of payout %s, which does not exist', v.type,
                  COALESCE(v.payout_id, '(none)'))
         ELSE
           format('%s of %s/%s, its payout %s is %s of %s/%s', v.amount_minor, v.restaurant_id,
                  v.currency,
                  p.payout_id, p.amount_minor, a.restaurant_id, a.currency)
       END AS detail
FROM processor_events /* new */ AS v
LEFT JOIN payouts /* touched */ AS p ON p.payout_id::text = v.payout_id
LEFT JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
WHERE (starts_with(v.type, 'payout_') OR v.payout_id IS NOT NULL)
  AND (v.restaurant_id, v.currency, v.amount_minor)
    IS DISTINCT FROM (a.restaurant_id, a.currency, p.amount_minor);

-- check: payout_entries_have_a_payout
-- scope: new
-- An entry of a payout names a payout that exists. If it has an event, the event names the same
-- payout.
SELECT 'payout_entries_have_a_payout' AS check_name, 'ERROR' AS severity,
       'entry ' || e.transaction_id || '/' || e.position AS entity,
       CASE
         WHEN p.payout_id IS NULL THEN
           format('a %s of payout %s, which does not exist', e.entry_type,
                  COALESCE(e.payout_id::text, '(none)'))
         ELSE format('a %s of payout %s, event %s is of payout %s', e.entry_type, e.payout_id,
                     v.event_id,
                     COALESCE(v.payout_id, '(none)'))
       END AS detail
FROM ledger_entries /* new */ AS e
LEFT JOIN payouts AS p ON p.payout_id = e.payout_id
LEFT JOIN processor_events AS v ON v.event_id = e.event_id
WHERE (e.entry_type LIKE 'PAYOUT\_%' OR e.payout_id IS NOT NULL)
  AND (p.payout_id IS NULL OR v.payout_id <> e.payout_id::text
       OR (v.event_id IS NOT NULL AND v.payout_id IS NULL));

-- check: payout_events_follow_posting_rules
-- scope: new
-- A payout event has exactly one entry. For a payment it is a release. For a failure it is a return
-- if the payout had been paid before, and a reversal otherwise; for a cancellation it is a reversal.
-- Three kinds of events have none: a submission, a reference of the bank and, after a reversal, a
-- payment that occurred no later than the failure. The checks of payouts below compare the accounts
-- and amounts of these entries.
WITH reversed AS (
  SELECT payout_id::text AS payout_id
  FROM ledger_entries /* of touched payouts */
  WHERE entry_type IN ('PAYOUT_RELEASE', 'PAYOUT_REVERSAL')
  GROUP BY payout_id HAVING bool_and(entry_type = 'PAYOUT_REVERSAL')
),
settled AS (
  SELECT v.event_id, v.type, v.occurred_at, r.payout_id IS NOT NULL AS is_reversed,
         bool_or(v.type = 'payout_paid') OVER of_payout AS is_paid,
         max(v.occurred_at) FILTER (WHERE v.type = 'payout_failed') OVER of_payout AS failed_at
  FROM processor_events /* of touched payouts */ AS v
  LEFT JOIN reversed AS r ON r.payout_id = v.payout_id
  WHERE v.type IN ('payout_paid', 'payout_failed', 'payout_submitted', 'payout_canceled',
                   'payout_referenced')
  WINDOW of_payout AS (PARTITION BY v.payout_id)
),
expected AS (
  SELECT event_id, CASE
                     WHEN type IN ('payout_submitted', 'payout_referenced') THEN NULL
                     WHEN type = 'payout_canceled' THEN 'PAYOUT_REVERSAL'
                     WHEN type = 'payout_paid' AND is_reversed
                       AND occurred_at <= failed_at THEN NULL
                     WHEN type = 'payout_paid' THEN 'PAYOUT_RELEASE'
                     WHEN is_paid AND NOT is_reversed THEN 'PAYOUT_RETURN'
                     ELSE 'PAYOUT_REVERSAL'
                   END AS entry_types
  FROM settled
),
posted AS (
  SELECT event_id, string_agg(entry_type, ', ' ORDER BY entry_type) AS entry_types
  FROM ledger_entries /* of touched payouts */
  WHERE event_id IS NOT NULL AND entry_type LIKE 'PAYOUT\_%'
  GROUP BY event_id
)
SELECT 'payout_events_follow_posting_rules' AS check_name, 'ERROR' AS severity,
       'event ' || COALESCE(x.event_id, p.event_id) AS entity,
       format('posted %s; the rules say %s', COALESCE(p.entry_types, 'nothing'),
              COALESCE(x.entry_types, 'nothing')) AS detail
FROM expected AS x
FULL JOIN posted AS p ON p.event_id = x.event_id
WHERE p.entry_types IS DISTINCT FROM x.entry_types;

-- check: payouts_are_where_their_events_lead
-- scope: new
-- Without an event a payout is CREATED. A submission makes it SUBMITTED, a payment PAID, a failure
-- FAILED, and both, in either order, RETURNED. A cancellation makes it CANCELED; then there is no
-- submission, payment or failure. No payout is submitted twice.
SELECT 'payouts_are_where_their_events_lead' AS check_name, 'ERROR' AS severity,
       'payout ' || p.payout_id AS entity,
       format('is %s; its events are %s', p.state, COALESCE(v.event_ids, 'none')) AS detail
FROM payouts /* touched */ AS p
LEFT JOIN (
  SELECT payout_id, bool_or(type = 'payout_paid') AS is_paid,
         bool_or(type = 'payout_failed') AS is_failed,
         bool_or(type = 'payout_canceled') AS is_canceled,
         count(*) FILTER (WHERE type = 'payout_submitted') AS submissions_count,
         string_agg(type || ' ' || event_id, ', ' ORDER BY type DESC, event_id) AS event_ids
  FROM processor_events /* of touched payouts */
  WHERE type IN ('payout_paid', 'payout_failed', 'payout_submitted', 'payout_canceled')
  GROUP BY payout_id
) AS v ON v.payout_id = p.payout_id::text
WHERE p.state <> CASE
                   WHEN v.submissions_count > 1 THEN 'none'
                   WHEN v.is_canceled AND (v.is_paid OR v.is_failed OR v.submissions_count > 0)
                     THEN 'none'
                   WHEN v.is_canceled THEN 'CANCELED'
                   WHEN v.is_paid AND v.is_failed THEN 'RETURNED'
                   WHEN v.is_paid THEN 'PAID'
                   WHEN v.is_failed THEN 'FAILED'
                   WHEN v.submissions_count > 0 THEN 'SUBMITTED'
                   ELSE 'CREATED'
                 END;

-- check: payouts_have_the_entries_of_their_state
-- scope: new
-- A payout has exactly one entry for each state it went through that posts one, of its amount, in its
-- balance account, between the accounts of the rules. Its reserve has its transaction id and was recorded
-- when it was created. A returned payout that failed first has the entries of a failed one: the
-- later payment posted none. The rules are those of ledger.domain.posting_rules, and the states
-- that lead to a state follow from MOVES of ledger.domain.payout_states; tests compare them.
WITH rule (state, entry_type, debit_account, credit_account) AS (
  VALUES
    ('CREATED', 'PAYOUT_RESERVE', 'restaurant_payable', 'payout_reserved'),
    ('PAID', 'PAYOUT_RELEASE', 'payout_reserved', 'platform_cash'),
    ('FAILED', 'PAYOUT_REVERSAL', 'payout_reserved', 'restaurant_payable'),
    ('RETURNED', 'PAYOUT_RETURN', 'platform_cash', 'restaurant_payable'),
    ('CANCELED', 'PAYOUT_REVERSAL', 'payout_reserved', 'restaurant_payable')
),
path (state, passed) AS (
  VALUES
    ('CREATED', 'CREATED'),
    ('PAID', 'CREATED'),
    ('PAID', 'PAID'),
    ('FAILED', 'CREATED'),
    ('FAILED', 'FAILED'),
    ('RETURNED', 'CREATED'),
    ('RETURNED', 'PAID'),
    ('RETURNED', 'RETURNED'),
    ('SUBMITTED', 'CREATED'),
    ('SUBMITTED', 'SUBMITTED'),
    ('CANCELED', 'CREATED'),
    ('CANCELED', 'CANCELED')
),
expected AS (
  SELECT p.payout_id, p.state, p.balance_account_id, p.amount_minor, p.transaction_id, p.created_at,
         r.entry_type, r.debit_account, r.credit_account
  FROM payouts /* touched */ AS p
  LEFT JOIN (
    SELECT DISTINCT e.payout_id
    FROM ledger_entries /* of touched payouts */ AS e
    JOIN processor_events /* of touched payouts */ AS v ON v.payout_id = e.payout_id::text
      AND v.type = 'payout_paid'
    WHERE e.entry_type = 'PAYOUT_REVERSAL'
  ) AS reversed ON reversed.payout_id = p.payout_id
  JOIN path AS s
    ON s.state = CASE WHEN p.state = 'RETURNED' AND reversed.payout_id IS NOT NULL THEN 'FAILED'
                      ELSE p.state END
  JOIN rule AS r ON r.state = s.passed
),
posted AS (
  SELECT payout_id, balance_account_id, amount_minor, transaction_id, recorded_at, position,
         entry_type, debit_account, credit_account,
         count(*) OVER (PARTITION BY payout_id, entry_type) AS entries_count
  FROM ledger_entries /* of touched payouts */
  WHERE payout_id IS NOT NULL
)
SELECT 'payouts_have_the_entries_of_their_state' AS check_name, 'ERROR' AS severity,
       'payout ' || COALESCE(x.payout_id, e.payout_id) AS entity,
       CASE
         WHEN e.payout_id IS NULL THEN format('is %s and lacks its %s', x.state, x.entry_type)
         WHEN x.payout_id IS NULL THEN format('has a %s, which its state does not explain',
                                              e.entry_type)
         ELSE format('its %s differs in %s', e.entry_type, concat_ws(', ',
           CASE WHEN e.entries_count > 1 THEN 'number' END,
           CASE WHEN e.balance_account_id <> x.balance_account_id THEN 'balance account' END,
           CASE WHEN e.amount_minor <> x.amount_minor THEN 'amount' END,
           CASE WHEN (e.debit_account, e.credit_account)
                     IS DISTINCT FROM (x.debit_account, x.credit_account) THEN 'accounts' END,
           CASE WHEN e.position <> 1 THEN 'position' END,
           CASE WHEN e.entry_type = 'PAYOUT_RESERVE' AND e.transaction_id <> x.transaction_id
                THEN 'transaction id' END,
           CASE WHEN e.entry_type = 'PAYOUT_RESERVE' AND e.recorded_at <> x.created_at
                THEN 'recorded_at' END))
       END AS detail
FROM expected AS x
FULL JOIN posted AS e ON e.payout_id = x.payout_id AND e.entry_type = x.entry_type
WHERE (e.balance_account_id, e.amount_minor, e.debit_account, e.credit_account, e.position,
       e.entries_count)
      IS DISTINCT FROM (x.balance_account_id, x.amount_minor, x.debit_account, x.credit_account,
                        1, 1)
   OR (e.entry_type = 'PAYOUT_RESERVE'
       AND (e.transaction_id, e.recorded_at) IS DISTINCT FROM (x.transaction_id, x.created_at));

-- check: payouts_are_within_limits
-- scope: new
-- A payout pays at least one minor unit and no more than was available by its cut-off, which was
-- past. Its state is known.
SELECT 'payouts_are_within_limits' AS check_name, 'ERROR' AS severity,
       'payout ' || payout_id AS entity,
       format('%s of %s available, leaves %s, cut-off %s, created at %s, state %s', amount_minor,
              available_minor, retained_minor, cutoff_at, created_at, state) AS detail
FROM payouts /* touched */
WHERE (amount_minor >= 1 AND amount_minor <= available_minor AND cutoff_at <= created_at
       AND COALESCE(retained_minor, 0) >= 0 AND COALESCE(retained_before_minor, 0) >= 0
       AND (retained_minor IS NULL) = (retained_before_minor IS NULL)
       AND state IN ('CREATED', 'PAID', 'FAILED', 'RETURNED', 'SUBMITTED', 'CANCELED'))
      IS NOT TRUE;

-- check: payouts_have_a_balance_account
-- scope: new
-- A payout's balance account exists, and is a restaurant's.
SELECT 'payouts_have_a_balance_account' AS check_name, 'ERROR' AS severity,
       'payout ' || p.payout_id AS entity,
       format('balance account %s %s', p.balance_account_id,
              COALESCE('is that of account ' || a.account_id, 'does not exist')) AS detail
FROM payouts /* touched */ AS p
LEFT JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
WHERE a.restaurant_id IS NULL;

-- check: payouts_are_numbered_without_gaps
-- scope: new
-- The payouts of a balance account are numbered 1, 2, 3 and so on. An item counts from the payout
-- with the number before.
SELECT 'payouts_are_numbered_without_gaps' AS check_name, 'ERROR' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency,
                              s.balance_account_id::text)
         AS entity,
       format('has %s payouts, numbered %s', s.payouts_count, s.sequences) AS detail
FROM (
  SELECT DISTINCT p.balance_account_id
  FROM payouts /* touched */ AS p
  LEFT JOIN payouts AS before ON before.balance_account_id = p.balance_account_id
    AND before.sequence = p.sequence - 1
  LEFT JOIN payouts AS same ON same.balance_account_id = p.balance_account_id
    AND same.sequence = p.sequence AND same.payout_id <> p.payout_id
  WHERE p.sequence < 1 OR (p.sequence > 1 AND before.payout_id IS NULL)
     OR same.payout_id IS NOT NULL
) AS broken
CROSS JOIN LATERAL (
  SELECT broken.balance_account_id, count(*) AS payouts_count,
         left(string_agg(sequence::text, ', ' ORDER BY sequence), 100) AS sequences
  FROM payouts AS p
  WHERE p.balance_account_id = broken.balance_account_id
) AS s
LEFT JOIN balance_accounts AS a ON a.balance_account_id = s.balance_account_id;

-- check: payouts_are_live_once
-- scope: new
-- A balance account has at most one payout in flight, and at most one in flight or paid for each
-- date.
SELECT 'payouts_are_live_once' AS check_name, 'ERROR' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency,
                              s.balance_account_id::text)
         AS entity,
       CASE WHEN s.as_of IS NULL THEN format('%s payouts are in flight', s.payouts_count)
            ELSE format('%s payouts as of %s are in flight or paid', s.payouts_count, s.as_of) END
              AS detail
FROM (
  SELECT balance_account_id, NULL AS as_of, count(*) AS payouts_count
  FROM payouts /* of touched accounts */
  WHERE state IN ('CREATED', 'SUBMITTED')
  GROUP BY balance_account_id
  HAVING count(*) > 1
  UNION ALL
  SELECT balance_account_id, as_of, count(*)
  FROM payouts /* beside touched ones */
  WHERE state IN ('CREATED', 'SUBMITTED', 'PAID')
  GROUP BY balance_account_id, as_of
  HAVING count(*) > 1
) AS s
LEFT JOIN balance_accounts AS a ON a.balance_account_id = s.balance_account_id;

-- check: payout_cutoffs_never_go_back
-- scope: new
-- A payout's cut-off is not before that of the previous payout, which otherwise could have counted
-- more than this one.
SELECT 'payout_cutoffs_never_go_back' AS check_name, 'ERROR' AS severity,
       'payout ' || p.payout_id AS entity,
       format('its cut-off is %s, that of the payout before %s', p.cutoff_at, before.cutoff_at)
         AS detail
FROM payouts /* touched */ AS p
JOIN payouts AS before ON before.balance_account_id = p.balance_account_id
  AND before.sequence = p.sequence - 1
WHERE p.cutoff_at < before.cutoff_at;

-- check: payout_items_have_a_payout
-- scope: new
-- An item belongs to a payout that exists.
SELECT 'payout_items_have_a_payout' AS check_name, 'ERROR' AS severity,
       'payout ' || i.payout_id AS entity,
       format('does not exist and has an item %s of %s', i.entry_type, i.amount_minor) AS detail
FROM payout_items /* of touched payouts */ AS i
LEFT JOIN payouts AS p ON p.payout_id = i.payout_id
WHERE p.payout_id IS NULL;

-- check: payout_items_add_up
-- scope: new
-- The items of a payout add up to what it pays and leaves in the account, less what the payout
-- before left there.
SELECT 'payout_items_add_up' AS check_name, 'ERROR' AS severity, 'payout ' || p.payout_id AS entity,
       format('the amount is %s, it leaves %s, the payout before left %s, the items are %s',
              p.amount_minor, COALESCE(p.retained_minor, 0), COALESCE(p.retained_before_minor, 0),
              COALESCE(i.amount_minor::text, 'missing')) AS detail
FROM payouts /* touched */ AS p
LEFT JOIN (
  SELECT payout_id, sum(amount_minor) AS amount_minor
  FROM payout_items /* of touched payouts */
  GROUP BY payout_id) AS i
  ON i.payout_id = p.payout_id
WHERE i.amount_minor IS DISTINCT FROM
  p.amount_minor::numeric + COALESCE(p.retained_minor, 0) - COALESCE(p.retained_before_minor, 0);

-- check: payouts_count_what_was_left
-- scope: new
-- What a payout says that the payout before left in the account is what that one left.
SELECT 'payouts_count_what_was_left' AS check_name, 'ERROR' AS severity,
       'payout ' || p.payout_id AS entity,
       format('counts %s as left before, the payout before left %s',
              COALESCE(p.retained_before_minor, 0), COALESCE(before.retained_minor, 0)) AS detail
FROM payouts /* touched */ AS p
LEFT JOIN payouts AS before ON before.balance_account_id = p.balance_account_id
  AND before.sequence = p.sequence - 1
WHERE COALESCE(p.retained_before_minor, 0) <> COALESCE(before.retained_minor, 0);

-- check: payout_items_telescope
-- scope: new
-- An item is what its payout counted of a type, less what the previous payout counted of it. A
-- payout counts every type that the previous one counted. Entries are only added and cut-offs do
-- not go back, so no item has a sign that its type cannot have.
WITH item AS (
  SELECT p.payout_id, p.balance_account_id, p.sequence, i.entry_type, i.counted_minor,
         i.amount_minor
  FROM payouts /* touched */ AS p
  JOIN payout_items AS i ON i.payout_id = p.payout_id
),
following AS (
  SELECT p.payout_id, p.balance_account_id, p.sequence, i.entry_type, i.counted_minor
  FROM payouts /* touched */ AS p
  JOIN payouts AS before ON before.balance_account_id = p.balance_account_id
    AND before.sequence = p.sequence - 1
  JOIN payout_items AS i ON i.payout_id = before.payout_id
)
SELECT 'payout_items_telescope' AS check_name, 'ERROR' AS severity,
       'payout ' || COALESCE(i.payout_id, f.payout_id) AS entity,
       CASE
         WHEN i.payout_id IS NULL THEN
           format('has no item %s, of which the payout before counted %s', f.entry_type,
                  f.counted_minor)
         ELSE
           format('counted %s of %s, the payout before %s; its item is %s',
                  i.counted_minor, i.entry_type, COALESCE(f.counted_minor, 0), i.amount_minor)
       END AS detail
FROM item AS i
FULL JOIN following AS f
  ON f.balance_account_id = i.balance_account_id AND f.sequence = i.sequence
    AND f.entry_type = i.entry_type
WHERE i.amount_minor::numeric
  IS DISTINCT FROM i.counted_minor::numeric - COALESCE(f.counted_minor, 0)
   OR i.payout_id IS NULL
   OR CASE WHEN i.entry_type IN ('FEE', 'REFUND', 'ADJUSTMENT_DEBIT', 'DISPUTE_HOLD',
                                 'DISPUTE_FEE', 'REFUND_OUT', 'CHARGE_REVERSAL', 'TAX_WITHHELD',
                                 'RESERVE_HOLD') THEN i.amount_minor > 0
           ELSE i.amount_minor < 0 END;

-- check: payouts_count_what_is_booked
-- scope: new
-- The latest payout of a balance account counted no more of a type than the books hold of it by the
-- cut-off; with the check before, that holds for every payout. That it counted all of it cannot be
-- proved: entries may have been booked since, and no column says which transactions had committed
-- when a payout's statement began. (A transaction with a lower recorded_txid may have committed
-- later, one with a higher recorded_txid before.)
WITH latest AS (
  SELECT DISTINCT ON (balance_account_id) balance_account_id, payout_id, cutoff_at
  FROM payouts /* touched */
  ORDER BY balance_account_id, sequence DESC
),
booked AS (
  SELECT l.payout_id, m.entry_type, sum(m.signed_minor) AS booked_minor
  FROM latest AS l
  JOIN ledger_movements /* of touched payouts */ AS m ON m.balance_account_id = l.balance_account_id
  WHERE m.ledger_account = 'restaurant_payable'
    AND (m.available_at IS NULL OR m.available_at <= l.cutoff_at)
  GROUP BY l.payout_id, m.entry_type
)
SELECT 'payouts_count_what_is_booked' AS check_name, 'ERROR' AS severity,
       'payout ' || l.payout_id AS entity,
       format('counted %s of %s, the books hold %s', i.counted_minor, i.entry_type,
              COALESCE(b.booked_minor, 0)) AS detail
FROM latest AS l
JOIN payout_items AS i ON i.payout_id = l.payout_id
LEFT JOIN booked AS b ON b.payout_id = i.payout_id AND b.entry_type = i.entry_type
WHERE abs(i.counted_minor) > abs(COALESCE(b.booked_minor, 0));

-- check: payouts_count_what_came_back
-- scope: new
-- A payout counted as reversed what the payout before counted, and its amount if that had failed or
-- was canceled. That is known afterwards, because none was in flight when it was created, and a paid
-- one can only be returned.
SELECT 'payouts_count_what_came_back' AS check_name, 'ERROR' AS severity,
       'payout ' || p.payout_id AS entity,
       format('counted %s as reversed, %s had failed', COALESCE(i.counted_minor, 0),
              p.failed_minor) AS detail
FROM (
  SELECT p.payout_id,
         COALESCE(counted.counted_minor, 0)::numeric
           + CASE WHEN before.state IN ('FAILED', 'CANCELED') OR reversed.payout_id IS NOT NULL
                  THEN before.amount_minor ELSE 0 END AS failed_minor
  FROM payouts /* touched */ AS p
  LEFT JOIN payouts AS before ON before.balance_account_id = p.balance_account_id
    AND before.sequence = p.sequence - 1
  LEFT JOIN payout_items AS counted ON counted.payout_id = before.payout_id
    AND counted.entry_type = 'PAYOUT_REVERSAL'
  LEFT JOIN (
    SELECT DISTINCT payout_id
    FROM ledger_entries /* of payouts before touched ones */
    WHERE entry_type = 'PAYOUT_REVERSAL') AS reversed
    ON reversed.payout_id = before.payout_id
) AS p
LEFT JOIN payout_items AS i ON i.payout_id = p.payout_id AND i.entry_type = 'PAYOUT_REVERSAL'
WHERE COALESCE(i.counted_minor, 0) <> p.failed_minor;

-- check: submissions_agree_with_their_payouts
-- scope: new
-- A submission counts its payouts and their amounts, and is of their currency and, if it names one,
-- of their run. Each of its payouts has a submission event that names it, recorded with it. No such
-- event lacks its place in the list. Events of callers, who submit in their own way, are recorded at
-- other instants.
WITH listed AS (
  SELECT i.submission_id, i.payout_id, i.created_at, s.submission_id AS stored_id, s.currency,
         s.payout_run_id, s.created_at AS submitted_at,
         p.payout_id AS paid_id, p.amount_minor, p.payout_run_id AS run_of_payout,
         p.created_at AS payout_created_at, a.currency AS currency_of_payout
  FROM payout_submission_items /* of touched submissions */ AS i
  LEFT JOIN payout_submissions AS s ON s.submission_id = i.submission_id
  LEFT JOIN payouts AS p ON p.payout_id = i.payout_id
  LEFT JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
),
told AS (
  SELECT v.payout_id, v.reference AS submission_id, v.event_id
  FROM processor_events /* of touched submissions */ AS v
  JOIN payout_submissions /* touched */ AS s ON s.submission_id = v.reference
    AND s.created_at = v.recorded_at
  WHERE v.type = 'payout_submitted' AND v.payout_id IS NOT NULL
)
SELECT 'submissions_agree_with_their_payouts' AS check_name, 'ERROR' AS severity,
       'submission ' || s.submission_id AS entity,
       format('says %s payouts of %s; its list has %s of %s', s.payouts_count, s.total_minor,
              COALESCE(l.payouts_count, 0), COALESCE(l.total_minor, 0)) AS detail
FROM payout_submissions /* touched */ AS s
LEFT JOIN (
  SELECT submission_id, count(*) AS payouts_count, sum(amount_minor) AS total_minor
  FROM listed
  GROUP BY submission_id
) AS l ON l.submission_id = s.submission_id
WHERE (s.payouts_count, s.total_minor)
  IS DISTINCT FROM (COALESCE(l.payouts_count, 0), COALESCE(l.total_minor, 0))
UNION ALL
SELECT 'submissions_agree_with_their_payouts', 'ERROR', 'payout ' || l.payout_id,
       CASE
         WHEN l.stored_id IS NULL THEN format('is in submission %s, which does not exist',
                                              l.submission_id)
         WHEN l.paid_id IS NULL THEN format('is in submission %s and does not exist',
                                            l.submission_id)
         WHEN t.event_id IS NULL THEN format('is in submission %s, and no event says so',
                                             l.submission_id)
         ELSE format('differs from submission %s in %s', l.submission_id, concat_ws(', ',
           CASE WHEN l.currency <> l.currency_of_payout THEN 'currency' END,
           CASE WHEN l.payout_run_id <> l.run_of_payout THEN 'run' END,
           CASE WHEN l.created_at <> l.payout_created_at THEN 'created_at' END))
       END
FROM listed AS l
LEFT JOIN told AS t ON t.payout_id = l.payout_id::text AND t.submission_id = l.submission_id
WHERE t.event_id IS NULL OR (l.currency, l.created_at)
                              IS DISTINCT FROM (l.currency_of_payout, l.payout_created_at)
   OR l.payout_run_id <> l.run_of_payout
UNION ALL
SELECT 'submissions_agree_with_their_payouts', 'ERROR', 'event ' || t.event_id,
       format('is of submission %s, which does not list payout %s', t.submission_id, t.payout_id)
FROM told AS t
LEFT JOIN listed AS l ON l.payout_id::text = t.payout_id AND l.submission_id = t.submission_id
WHERE l.payout_id IS NULL;

-- check: payouts_agree_with_their_run
-- scope: new
-- A payout's run exists and has its date, cut-off and currency, and a minimum that the payout
-- reaches. An item for its restaurant names the payout, unless the items of the run are archived.
WITH archived AS (SELECT DISTINCT payout_run_id FROM archived_run_outcomes)
SELECT 'payouts_agree_with_their_run' AS check_name, 'ERROR' AS severity,
       'payout ' || p.payout_id AS entity,
       CASE
         WHEN r.payout_run_id IS NULL THEN format('run %s does not exist', p.payout_run_id)
         ELSE format('differs from run %s in %s', r.payout_run_id, concat_ws(', ',
           CASE WHEN p.as_of <> r.as_of THEN 'as_of' END,
           CASE WHEN p.cutoff_at <> r.cutoff_at THEN 'cutoff_at' END,
           CASE WHEN a.currency <> r.currency THEN 'currency' END,
           CASE WHEN p.amount_minor < r.min_amount_minor THEN 'min_amount_minor' END,
           CASE WHEN i.payout_id IS DISTINCT FROM p.payout_id AND z.payout_run_id IS NULL
                THEN 'the item of its restaurant' END))
       END AS detail
FROM payouts /* touched */ AS p
LEFT JOIN payout_runs AS r ON r.payout_run_id = p.payout_run_id
LEFT JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
LEFT JOIN archived AS z ON z.payout_run_id = p.payout_run_id
LEFT JOIN payout_run_items AS i ON i.payout_run_id = p.payout_run_id
  AND i.restaurant_id = a.restaurant_id
WHERE (p.as_of, p.cutoff_at, a.currency) IS DISTINCT FROM (r.as_of, r.cutoff_at, r.currency)
   OR (i.payout_id IS DISTINCT FROM p.payout_id AND z.payout_run_id IS NULL)
   OR p.amount_minor < r.min_amount_minor;

-- check: run_items_agree_with_their_payout
-- scope: new
-- An item of a run belongs to a run that exists and to its restaurant's balance account in the
-- run's currency. If it has a payout, the payout is of that run and account, and no other item has
-- it.
SELECT 'run_items_agree_with_their_payout' AS check_name, 'ERROR' AS severity,
       'run ' || i.payout_run_id || ', restaurant ' || i.restaurant_id AS entity,
       CASE
         WHEN r.payout_run_id IS NULL THEN 'the run does not exist'
         WHEN (a.restaurant_id, a.currency) IS DISTINCT FROM (i.restaurant_id, r.currency) THEN
           format('balance account %s is %s/%s, the run is in %s', i.balance_account_id,
                  a.restaurant_id, a.currency, r.currency)
         ELSE format('is %s and names the payout %s, which is %s', i.outcome,
                     COALESCE(i.payout_id::text, '(none)'),
                     COALESCE('of run ' || p.payout_run_id || ', account ' || p.balance_account_id,
                              'not there'))
       END AS detail
FROM payout_run_items /* of touched runs */ AS i
LEFT JOIN payout_runs AS r ON r.payout_run_id = i.payout_run_id
LEFT JOIN balance_accounts AS a ON a.balance_account_id = i.balance_account_id
LEFT JOIN payouts AS p ON p.payout_id = i.payout_id
WHERE (a.restaurant_id, a.currency) IS DISTINCT FROM (i.restaurant_id, r.currency)
   OR (i.outcome = 'PAYOUT_CREATED') IS DISTINCT FROM (i.payout_id IS NOT NULL)
   OR (i.outcome = 'SKIPPED') IS DISTINCT FROM (i.skip_reason IS NOT NULL)
   OR (i.payout_id IS NOT NULL
       AND (p.payout_run_id, p.balance_account_id)
         IS DISTINCT FROM (i.payout_run_id, i.balance_account_id));

-- check: run_items_explain_their_outcome
-- scope: new
-- What a run saw of a restaurant explains its outcome: a payout is of what was available less what
-- the restaurant's minimum kept of it; a restaurant without enough was skipped for that reason. An
-- item that is open, or that a server of an earlier revision closed, says nothing.
SELECT 'run_items_explain_their_outcome' AS check_name, 'ERROR' AS severity,
       'run ' || i.payout_run_id || ', restaurant ' || i.restaurant_id AS entity,
       format('%s available, %s kept, the minimum of the run is %s: %s', i.available_minor,
              i.retained_minor, r.min_amount_minor,
              COALESCE(i.skip_reason, i.outcome || COALESCE(' of ' || p.amount_minor, '')))
         AS detail
FROM payout_run_items /* of touched runs */ AS i
JOIN payout_runs AS r ON r.payout_run_id = i.payout_run_id
LEFT JOIN payouts AS p ON p.payout_id = i.payout_id
WHERE (i.available_minor IS NULL) <> (i.retained_minor IS NULL)
   OR (i.retained_minor BETWEEN 0 AND GREATEST(i.available_minor, 0)) IS FALSE
   OR CASE
        WHEN i.outcome = 'OPEN' THEN i.available_minor IS NULL
        WHEN i.skip_reason = 'MIN_BALANCE' THEN
          COALESCE(i.available_minor >= GREATEST(r.min_amount_minor, 1)
                   AND i.available_minor - i.retained_minor < GREATEST(r.min_amount_minor, 1),
                   false)
        WHEN i.available_minor IS NULL THEN true
        WHEN i.skip_reason = 'NOTHING_AVAILABLE' THEN i.available_minor < 1
        WHEN i.skip_reason = 'BELOW_MINIMUM' THEN
          i.available_minor >= 1 AND i.available_minor < r.min_amount_minor
        WHEN i.outcome = 'PAYOUT_CREATED' AND p.payout_id IS NOT NULL THEN
          p.amount_minor = i.available_minor - i.retained_minor
        ELSE true
      END IS FALSE;

-- check: finished_runs_have_no_open_items
-- scope: new
-- A run that has succeeded has reached and judged every restaurant. A canceled run may have left
-- some, which it reports as skipped.
SELECT 'finished_runs_have_no_open_items' AS check_name, 'ERROR' AS severity,
       'run ' || r.payout_run_id AS entity,
       format('is %s and has %s open items', r.state, count(*)) AS detail
FROM payout_runs /* touched */ AS r
JOIN payout_run_items /* of touched runs */ AS i ON i.payout_run_id = r.payout_run_id
WHERE r.state NOT IN ('RUNNING', 'CANCELED') AND i.outcome = 'OPEN'
GROUP BY r.payout_run_id, r.state
UNION ALL
SELECT 'finished_runs_have_no_open_items', 'ERROR', 'run ' || r.payout_run_id,
       format('is %s and has reached balance account %s of %s', r.state,
              p.reached_balance_account_id, p.last_balance_account_id)
FROM payout_runs /* touched */ AS r
JOIN payout_run_progress AS p ON p.payout_run_id = r.payout_run_id
WHERE r.state NOT IN ('RUNNING', 'CANCELED')
  AND p.reached_balance_account_id < p.last_balance_account_id;

-- check: runs_have_an_item_for_each_account_they_reached
-- scope: new
-- A run has reached the balance accounts up to an id. Of these, each restaurant's in the run's
-- currency that existed when the run started has an item. No other one has. Runs with archived
-- items are left out, and runs without progress: a server of an earlier revision wrote all items at
-- once. So are those of a run of named restaurants, which has no more items than restaurants.
SELECT 'runs_have_an_item_for_each_account_they_reached' AS check_name, 'ERROR' AS severity,
       'run ' || p.payout_run_id || ', restaurant ' || a.restaurant_id AS entity,
       format('balance account %s has %s, the run has reached %s of %s', a.balance_account_id,
              CASE WHEN i.payout_run_id IS NULL THEN 'no item' ELSE 'an item' END,
              p.reached_balance_account_id, p.last_balance_account_id) AS detail
FROM payout_run_progress AS p
JOIN payout_runs /* touched */ AS r ON r.payout_run_id = p.payout_run_id
JOIN balance_accounts AS a ON a.currency = r.currency AND a.restaurant_id IS NOT NULL
LEFT JOIN payout_run_items AS i ON i.payout_run_id = p.payout_run_id
  AND i.restaurant_id = a.restaurant_id
WHERE NOT EXISTS (SELECT FROM archived_run_outcomes AS z WHERE z.payout_run_id = p.payout_run_id)
  AND (i.payout_run_id IS NOT NULL)
      <> (a.balance_account_id <= p.reached_balance_account_id
          AND (a.opened_txid IS NULL OR a.balance_account_id <= p.moved_balance_account_id
               OR pg_visible_in_snapshot(a.opened_txid, p.accounts_snapshot)))
UNION ALL
SELECT 'runs_have_an_item_for_each_account_they_reached', 'ERROR', 'run ' || r.payout_run_id,
       format('names %s restaurants and has %s items', r.restaurants_named, i.items_count)
FROM payout_runs /* touched */ AS r
CROSS JOIN LATERAL (
  SELECT count(*) AS items_count FROM payout_run_items AS i
  WHERE i.payout_run_id = r.payout_run_id) AS i
WHERE r.restaurants_named > 0 AND i.items_count > r.restaurants_named;

-- check: ended_runs_created_no_payout
-- scope: new
-- A run that has ended creates no further payout. Servers of a revision before 0018 continued
-- canceled runs, and the database of that revision did not refuse it. Ten seconds are tolerated:
-- workers see the end, and stop, once it is committed.
SELECT 'ended_runs_created_no_payout' AS check_name, 'WARNING' AS severity,
       'run ' || r.payout_run_id AS entity,
       format('is %s since %s; %s payouts were created after that, the last at %s', r.state,
              r.finished_at, count(*),
              max(p.created_at)) AS detail
FROM payout_runs /* touched */ AS r
JOIN payouts AS p ON p.payout_run_id = r.payout_run_id
  AND p.created_at > r.finished_at + interval '10 seconds'
GROUP BY r.payout_run_id, r.state, r.finished_at;

-- check: archives_agree_with_their_runs
-- scope: new
-- The items of a run were archived only after the run had ended. The archive counts as many items
-- with a payout as the run has payouts, and as many items in all as its file has rows.
SELECT 'archives_agree_with_their_runs' AS check_name, 'ERROR' AS severity,
       'run ' || r.payout_run_id AS entity,
       format('is %s, has %s payouts, and its archive counts %s', r.state, p.payouts_count,
              z.payouts_count) AS detail
FROM (
  SELECT payout_run_id,
         COALESCE(sum(items_count) FILTER (WHERE outcome = 'PAYOUT_CREATED'), 0) AS payouts_count
  FROM archived_run_outcomes /* of touched runs */
  GROUP BY payout_run_id) AS z
JOIN payout_runs AS r ON r.payout_run_id = z.payout_run_id
CROSS JOIN LATERAL (
  SELECT count(*) AS payouts_count FROM payouts AS p
  WHERE p.payout_run_id = r.payout_run_id) AS p
WHERE r.state = 'RUNNING' OR p.payouts_count <> z.payouts_count
UNION ALL
SELECT 'archives_agree_with_their_runs', 'ERROR', 'archive ' || a.archive_id,
       format('%s of %s rows, and its runs have %s items', a.kind, a.rows_count,
              COALESCE(z.items_count, 0))
FROM archived_ranges /* new */ AS a
LEFT JOIN (
  SELECT archive_id, sum(items_count) AS items_count FROM archived_run_outcomes
  GROUP BY archive_id) AS z
  ON z.archive_id = a.archive_id
WHERE COALESCE(z.items_count, 0)
      <> CASE a.kind WHEN 'payout_run_items' THEN a.rows_count ELSE 0 END;

-- check: ended_runs_have_their_items
-- scope: new
-- The items of a run that has succeeded are in the table or in an archive. A run without items is
-- right only if there was no restaurant to judge; a minute is tolerated for accounts that were
-- opened just before the run began. A run of named restaurants may have none to judge.
SELECT 'ended_runs_have_their_items' AS check_name, 'ERROR' AS severity,
       'run ' || r.payout_run_id AS entity,
       'has no items, and no archive has them' AS detail
FROM payout_runs /* touched */ AS r
WHERE r.state = 'SUCCEEDED' AND r.restaurants_named = 0
  AND NOT EXISTS (SELECT FROM payout_run_items AS i WHERE i.payout_run_id = r.payout_run_id)
  AND NOT EXISTS (SELECT FROM archived_run_outcomes AS z WHERE z.payout_run_id = r.payout_run_id)
  AND r.created_at - interval '1 minute'
      > (SELECT min(a.created_at) FROM balance_accounts AS a
         WHERE a.currency = r.currency AND a.restaurant_id IS NOT NULL);

-- check: payments_follow_posting_rules
-- scope: new
-- Every payment and every operation on one has exactly the entries of the posting rules, in the
-- books of the payer and of the payee: types, accounts, amounts, and positions, which run through
-- the steps of an operation and in each through the payer's entry and then the payee's. A declined
-- one has none. Each capture bears its share of the fee: what all captures so far bear, in
-- proportion and rounded down, less what those before bear. The rules are those of
-- ledger.domain.posting_rules. A test compares the two.
WITH rule (step, books, place, entry_type, debit_account, credit_account, amount) AS (
  VALUES
    ('hold', 'payer', 1, 'PAYMENT_HOLD', 'account_funds', 'account_held', 'amount'),
    ('capture', 'payer', 1, 'PAYMENT_CAPTURE', 'account_held', 'interaccount', 'amount'),
    ('capture', 'account', 2, 'PAYMENT', 'interaccount', 'account_funds', 'amount'),
    ('capture', 'restaurant', 2, 'PAYMENT', 'interaccount', 'restaurant_payable', 'amount'),
    ('capture', 'restaurant', 3, 'FEE', 'restaurant_payable', 'platform_fees', 'fee'),
    ('transfer', 'payer', 1, 'TRANSFER_OUT', 'account_funds', 'interaccount', 'amount'),
    ('transfer', 'account', 2, 'TRANSFER_IN', 'interaccount', 'account_funds', 'amount'),
    ('transfer', 'restaurant', 2, 'TRANSFER_IN', 'interaccount', 'restaurant_payable', 'amount'),
    ('transfer', 'restaurant', 3, 'FEE', 'restaurant_payable', 'platform_fees', 'fee'),
    ('release', 'payer', 1, 'PAYMENT_RELEASE', 'account_held', 'account_funds', 'amount'),
    ('refund', 'payer', 1, 'REFUND_IN', 'interaccount', 'account_funds', 'amount'),
    ('refund', 'account', 2, 'REFUND_OUT', 'account_funds', 'interaccount', 'amount'),
    ('refund', 'restaurant', 2, 'REFUND_OUT', 'restaurant_payable', 'interaccount', 'amount')
),
step_of (kind, step) AS (
  VALUES
    ('CAPTURE', 'capture'),
    ('CAPTURE', 'release'),
    ('VOID', 'release'),
    ('EXPIRE', 'release'),
    ('REFUND', 'refund'),
    ('REVERSE', 'release'),
    ('REVERSE', 'refund')
),
-- What each step moves, and the entries of the step before it: the captures of a final capture, the
-- release of a reversal. A step that moves nothing posts nothing.
taken AS (
  SELECT p.payment_id, p.transaction_id, p.payer_balance_account_id, p.payee_balance_account_id,
         CASE p.capture WHEN 'MANUAL' THEN 'hold' ELSE 'transfer' END AS step, p.amount_minor,
         p.fee_minor::numeric AS fee_minor, 0 AS entries_before
  FROM payments /* new */ AS p
  WHERE p.decline_reason IS NULL
  UNION ALL
  SELECT o.payment_id, o.transaction_id, o.payer_balance_account_id, o.payee_balance_account_id,
         s.step, CASE s.step WHEN 'release' THEN o.released_minor ELSE o.amount_minor END,
         o.fee_minor,
         CASE WHEN o.kind = 'CAPTURE' AND s.step = 'release' THEN 2 + (o.fee_minor > 0)::integer
              WHEN o.kind = 'REVERSE' AND s.step = 'refund' THEN (o.released_minor > 0)::integer
              ELSE 0 END
  FROM (
    SELECT o.payment_id, o.transaction_id, p.payer_balance_account_id, p.payee_balance_account_id,
           o.kind, o.amount_minor, o.released_minor,
           div(p.fee_minor::numeric * o.captured_minor, NULLIF(p.amount_minor, 0))
             - div(p.fee_minor::numeric * (o.captured_minor - o.amount_minor),
                   NULLIF(p.amount_minor, 0)) AS fee_minor
    FROM payment_operations /* new */ AS o
    JOIN payments AS p ON p.payment_id = o.payment_id
    WHERE o.decline_reason IS NULL
  ) AS o
  JOIN step_of AS s ON s.kind = o.kind
  WHERE CASE s.step WHEN 'release' THEN o.released_minor ELSE o.amount_minor END > 0
),
expected AS (
  SELECT t.payment_id, t.transaction_id, t.entries_before + r.place AS position,
         CASE r.books WHEN 'payer' THEN t.payer_balance_account_id
                      ELSE t.payee_balance_account_id END AS balance_account_id,
         r.entry_type, r.debit_account, r.credit_account,
         CASE r.amount WHEN 'fee' THEN t.fee_minor ELSE t.amount_minor END AS amount_minor
  FROM taken AS t
  LEFT JOIN balance_accounts AS a ON a.balance_account_id = t.payee_balance_account_id
  JOIN rule AS r ON r.step = t.step
    AND (r.books = 'payer'
         OR r.books = CASE WHEN a.restaurant_id IS NULL THEN 'account' ELSE 'restaurant' END)
  WHERE r.amount = 'amount' OR t.fee_minor > 0
),
posted AS (
  SELECT payment_id, transaction_id, position, balance_account_id, entry_type, debit_account,
         credit_account, amount_minor
  FROM ledger_entries /* new */
  WHERE payment_id IS NOT NULL
)
SELECT 'payments_follow_posting_rules' AS check_name, 'ERROR' AS severity,
       'payment ' || COALESCE(x.payment_id, p.payment_id) AS entity,
       CASE
         WHEN p.payment_id IS NULL THEN
           format('lacks the entry %s/%s: %s, debit %s, credit %s, %s, in balance account %s',
                  x.transaction_id, x.position, x.entry_type, x.debit_account, x.credit_account,
                  x.amount_minor, x.balance_account_id)
         WHEN x.payment_id IS NULL THEN
           format('has an entry %s/%s that no rule posts: %s, debit %s, credit %s, %s',
                  p.transaction_id, p.position, p.entry_type, p.debit_account, p.credit_account,
                  p.amount_minor)
         ELSE
           format('entry %s/%s is %s, debit %s, credit %s, %s, in balance account %s;'
                  ' the rules say %s, debit %s, credit %s, %s, in balance account %s',
                  p.transaction_id, p.position, p.entry_type, p.debit_account, p.credit_account,
                  p.amount_minor, p.balance_account_id, x.entry_type, x.debit_account,
                  x.credit_account, x.amount_minor, x.balance_account_id)
       END AS detail
FROM expected AS x
FULL JOIN posted AS p ON p.payment_id = x.payment_id AND p.transaction_id = x.transaction_id
  AND p.position = x.position
WHERE (p.balance_account_id, p.entry_type, p.debit_account, p.credit_account, p.amount_minor)
      IS DISTINCT FROM (x.balance_account_id, x.entry_type, x.debit_account, x.credit_account,
                        x.amount_minor);

-- check: entries_of_payments_have_a_payment
-- scope: new
-- The payment of an entry is stored. The payment, or an operation on it, has the entry's
-- transaction id, recorded_txid and recorded_at: one database transaction stored both.
WITH cause AS (
  SELECT payment_id, transaction_id, recorded_txid, recorded_at FROM payments /* new */
  UNION ALL
  SELECT payment_id, transaction_id, recorded_txid, recorded_at FROM payment_operations /* new */
)
SELECT 'entries_of_payments_have_a_payment' AS check_name, 'ERROR' AS severity,
       'entry ' || e.transaction_id || '/' || e.position AS entity,
       CASE WHEN c.payment_id IS NULL THEN
              format('a %s of payment %s, of which nothing has the transaction id', e.entry_type,
                     e.payment_id)
            ELSE format('differs from payment %s in %s', e.payment_id, concat_ws(', ',
              CASE WHEN e.recorded_txid <> c.recorded_txid THEN 'recorded_txid' END,
              CASE WHEN e.recorded_at <> c.recorded_at THEN 'recorded_at' END)) END AS detail
FROM ledger_entries /* new */ AS e
LEFT JOIN cause AS c ON c.payment_id = e.payment_id AND c.transaction_id = e.transaction_id
WHERE e.payment_id IS NOT NULL
  AND (e.recorded_txid, e.recorded_at) IS DISTINCT FROM (c.recorded_txid, c.recorded_at);

-- check: interaccount_nets_to_zero
-- scope: new
-- What the entries of a transaction id take out of one balance account's books, they put into
-- another's: interaccount is zero over both.
SELECT 'interaccount_nets_to_zero' AS check_name, 'ERROR' AS severity,
       'transaction ' || transaction_id AS entity,
       format('leaves %s on interaccount', sum(signed_minor)) AS detail
FROM ledger_movements /* new */
WHERE ledger_account = 'interaccount'
GROUP BY transaction_id
HAVING sum(signed_minor) <> 0;

-- check: operations_do_what_was_asked
-- scope: new
-- An operation on a payment that was applied moves what was asked of what was held or captured
-- then, and leaves the payment accordingly; a declined one moves nothing and changes nothing. Only
-- a payment with an expires_at expires, and not before it; a minute is tolerated, because
-- recorded_at is when the transaction began.
WITH before AS (
  SELECT o.payment_id, o.sequence, o.kind, o.requested_minor, o.is_final, o.amount_minor,
         o.released_minor, o.decline_reason, o.state, o.captured_minor, o.refunded_minor,
         o.kind <> 'EXPIRE' OR p.expires_at <= o.recorded_at + interval '1 minute' AS is_in_time,
         p.amount_minor::numeric AS authorised_minor,
         lag(o.state, 1, CASE WHEN p.decline_reason IS NOT NULL THEN 'DECLINED'
                              WHEN p.capture = 'MANUAL' THEN 'AUTHORIZED'
                              ELSE 'CAPTURED' END) OVER of_payment AS state_before,
         lag(o.captured_minor, 1,
             CASE WHEN p.decline_reason IS NULL AND p.capture = 'IMMEDIATE' THEN p.amount_minor
                  ELSE 0 END) OVER of_payment::numeric AS captured_before_minor,
         lag(o.refunded_minor, 1, 0::bigint) OVER of_payment::numeric AS refunded_before_minor
  FROM payment_operations /* of touched payments */ AS o
  JOIN payments AS p ON p.payment_id = o.payment_id
  WINDOW of_payment AS (PARTITION BY o.payment_id ORDER BY o.sequence)
),
standing AS (
  SELECT before.*, captured_before_minor - refunded_before_minor AS refundable_minor,
         CASE WHEN state_before IN ('AUTHORIZED', 'PARTIALLY_CAPTURED')
              THEN authorised_minor - captured_before_minor ELSE 0 END AS held_minor
  FROM before
),
expected AS (
  SELECT standing.*,
         CASE kind WHEN 'CAPTURE' THEN COALESCE(NULLIF(requested_minor, 0), held_minor)
                   WHEN 'REFUND' THEN COALESCE(NULLIF(requested_minor, 0), refundable_minor)
                   WHEN 'REVERSE' THEN refundable_minor
                   ELSE 0 END AS moves_minor,
         CASE WHEN kind IN ('VOID', 'EXPIRE', 'REVERSE') THEN held_minor
              WHEN is_final THEN held_minor - amount_minor
              ELSE 0 END AS releases_minor,
         captured_before_minor
           + CASE kind WHEN 'CAPTURE' THEN amount_minor ELSE 0 END AS captured_after_minor,
         refunded_before_minor
           + CASE WHEN kind IN ('REFUND', 'REVERSE') THEN amount_minor ELSE 0 END
           AS refunded_after_minor,
         CASE WHEN kind = 'REFUND' THEN state_before
              WHEN kind = 'CAPTURE' AND NOT is_final AND amount_minor < held_minor
                THEN 'PARTIALLY_CAPTURED'
              WHEN kind = 'CAPTURE' OR captured_before_minor > 0 THEN 'CAPTURED'
              WHEN kind = 'EXPIRE' THEN 'EXPIRED'
              ELSE 'VOIDED' END AS state_after
  FROM standing
)
SELECT 'operations_do_what_was_asked' AS check_name, 'ERROR' AS severity,
       'payment ' || payment_id AS entity,
       format('operation %s is a %s of %s%s%s that moved %s and released %s; before it %s were held'
              ' and %s could be refunded; it left the payment %s with %s captured and %s refunded',
              sequence, kind, COALESCE(NULLIF(requested_minor, 0)::text, 'all'),
              CASE WHEN is_final THEN ', final,' ELSE '' END,
              COALESCE(', declined for ' || decline_reason || ',', ''), amount_minor,
              released_minor, held_minor, refundable_minor, state, captured_minor, refunded_minor)
         AS detail
FROM expected
WHERE CASE WHEN decline_reason IS NULL THEN
        (amount_minor, released_minor, state, captured_minor, refunded_minor)
          IS DISTINCT FROM (moves_minor, releases_minor, state_after, captured_after_minor,
                            refunded_after_minor)
        OR amount_minor + released_minor = 0
        OR CASE kind WHEN 'CAPTURE' THEN amount_minor > held_minor
                     WHEN 'REFUND' THEN amount_minor > refundable_minor
                     ELSE false END
        OR is_in_time IS NOT TRUE
      ELSE
        (amount_minor, released_minor, state, captured_minor, refunded_minor)
          IS DISTINCT FROM (0, 0, state_before, captured_before_minor, refunded_before_minor)
        OR kind = 'EXPIRE'
      END;

-- check: payments_are_where_their_operations_lead
-- scope: new
-- The operations on a payment are numbered 1, 2, 3 and so on. The payment has the state and the
-- sums of the last one; without operations, those of its authorisation.
WITH counted AS (
  SELECT payment_id, count(*) AS operations_count, max(sequence) AS last_sequence,
         min(sequence) = 1 AND max(sequence) = count(*) AND count(DISTINCT sequence) = count(*)
           AS is_numbered
  FROM payment_operations /* of touched payments */
  GROUP BY payment_id
),
last AS (
  SELECT c.payment_id, c.operations_count, c.last_sequence, c.is_numbered, o.state,
         o.captured_minor, o.refunded_minor
  FROM counted AS c
  JOIN payment_operations AS o ON o.payment_id = c.payment_id AND o.sequence = c.last_sequence
),
standing AS (
  SELECT COALESCE(p.payment_id, l.payment_id) AS payment_id, p.state, p.captured_minor,
         p.refunded_minor, l.operations_count, l.last_sequence, l.is_numbered,
         COALESCE(l.state, CASE WHEN p.decline_reason IS NOT NULL THEN 'DECLINED'
                                WHEN p.capture = 'MANUAL' THEN 'AUTHORIZED'
                                ELSE 'CAPTURED' END) AS last_state,
         COALESCE(l.captured_minor,
                  CASE WHEN p.decline_reason IS NULL AND p.capture = 'IMMEDIATE'
                       THEN p.amount_minor ELSE 0 END) AS last_captured_minor,
         COALESCE(l.refunded_minor, 0) AS last_refunded_minor
  FROM payments /* touched */ AS p
  FULL JOIN last AS l ON l.payment_id = p.payment_id
)
SELECT 'payments_are_where_their_operations_lead' AS check_name, 'ERROR' AS severity,
       'payment ' || payment_id AS entity,
       CASE WHEN state IS NULL THEN
              format('does not exist and has %s operations', operations_count)
            WHEN NOT is_numbered THEN
              format('has %s operations, numbered up to %s', operations_count, last_sequence)
            ELSE format('is %s, %s captured, %s refunded; its %s operations lead to %s, %s, %s',
                        state, captured_minor, refunded_minor, COALESCE(operations_count, 0),
                        last_state, last_captured_minor, last_refunded_minor) END AS detail
FROM standing
WHERE NOT is_numbered
   OR (state, captured_minor, refunded_minor)
      IS DISTINCT FROM (last_state, last_captured_minor, last_refunded_minor);

-- check: payments_are_within_limits
-- scope: new
-- Ids, amounts, fees and words of payments and of operations on them are as the contract promises.
-- CHECK constraints guard inserts; this check reads what is stored.
WITH reason (name) AS (
  VALUES ('INSUFFICIENT_FUNDS'), ('ACCOUNT_FROZEN'), ('ACCOUNT_CLOSED'), ('CURRENCY_MISMATCH'),
         ('PAYMENT_NOT_CAPTURABLE'), ('AMOUNT_EXCEEDS_AUTHORIZED'), ('PAYMENT_NOT_VOIDABLE'),
         ('PAYMENT_NOT_REFUNDABLE'), ('AMOUNT_EXCEEDS_CAPTURED'), ('PAYMENT_NOT_REVERSIBLE'),
         ('EXPIRED'), ('LINKED_PAYMENT_DECLINED')
)
SELECT 'payments_are_within_limits' AS check_name, 'ERROR' AS severity,
       'payment ' || p.payment_id AS entity,
       format('%s %s of %s minor units, fee %s, captured %s, refunded %s, expires at %s,'
              ' declined for %s, reference "%s"', p.capture, p.state, p.amount_minor, p.fee_minor,
              p.captured_minor, p.refunded_minor, COALESCE(p.expires_at::text, 'no time'),
              COALESCE(p.decline_reason, 'no reason'), p.reference) AS detail
FROM payments /* touched */ AS p
LEFT JOIN reason AS r ON r.name = p.decline_reason
WHERE (p.payment_id ~ '^[A-Za-z0-9._:-]+$' AND octet_length(p.payment_id) <= 128
       AND p.reference ~ '^[ -~]*$' AND octet_length(p.reference) <= 255
       AND p.amount_minor BETWEEN 1 AND 1000000000000
       AND p.fee_minor BETWEEN 0 AND p.amount_minor
       AND p.capture IN ('IMMEDIATE', 'MANUAL')
       AND (p.expires_at IS NULL OR p.capture = 'MANUAL')
       AND p.state IN ('AUTHORIZED', 'PARTIALLY_CAPTURED', 'CAPTURED', 'VOIDED', 'EXPIRED',
                       'DECLINED')
       AND (p.state = 'DECLINED') = (r.name IS NOT NULL)
       AND (p.decline_reason IS NULL) = (r.name IS NULL)
       AND p.captured_minor BETWEEN 0 AND p.amount_minor
       AND p.refunded_minor BETWEEN 0 AND p.captured_minor) IS NOT TRUE
UNION ALL
SELECT 'payments_are_within_limits', 'ERROR', 'payment ' || o.payment_id,
       format('operation %s, %s, is a %s of %s minor units, declined for %s', o.sequence,
              COALESCE(o.operation_id, '(no id)'), o.kind, o.requested_minor,
              COALESCE(o.decline_reason, 'no reason'))
FROM payment_operations /* new */ AS o
LEFT JOIN reason AS r ON r.name = o.decline_reason
WHERE (o.kind IN ('CAPTURE', 'VOID', 'REFUND', 'REVERSE', 'EXPIRE')
       AND (o.operation_id IS NULL) = (o.kind = 'EXPIRE')
       AND (o.operation_id IS NULL
            OR o.operation_id ~ '^[A-Za-z0-9._:-]+$' AND octet_length(o.operation_id) <= 128)
       AND o.requested_minor BETWEEN 0 AND 1000000000000
       AND (o.requested_minor = 0 OR o.kind IN ('CAPTURE', 'REFUND'))
       AND (NOT o.is_final OR o.kind = 'CAPTURE')
       AND (o.decline_reason IS NULL) = (r.name IS NULL)) IS NOT TRUE;

-- check: payments_have_two_parties
-- scope: new
-- An account pays another account or a restaurant, in the currency of both; only a restaurant bears
-- a fee. A payment in another currency was declined for that, or because another one of its chain
-- was declined.
SELECT 'payments_have_two_parties' AS check_name, 'ERROR' AS severity,
       'payment ' || p.payment_id AS entity,
       format('%s in %s, fee %s, %s, from balance account %s (%s) to %s (%s)', p.amount_minor,
              p.currency, p.fee_minor,
              COALESCE('declined for ' || p.decline_reason, 'not declined'),
              p.payer_balance_account_id,
              COALESCE(payer.restaurant_id || '/' || payer.currency,
                       payer.account_id || ' in ' || payer.currency, 'not there'),
              p.payee_balance_account_id,
              COALESCE(payee.restaurant_id || '/' || payee.currency,
                       payee.account_id || ' in ' || payee.currency, 'not there')) AS detail
FROM payments /* touched */ AS p
LEFT JOIN balance_accounts AS payer ON payer.balance_account_id = p.payer_balance_account_id
LEFT JOIN balance_accounts AS payee ON payee.balance_account_id = p.payee_balance_account_id
WHERE payer.account_id IS NULL OR payee.balance_account_id IS NULL
   OR payer.balance_account_id = payee.balance_account_id
   OR (p.fee_minor > 0 AND payee.restaurant_id IS NULL)
   OR (p.decline_reason IS DISTINCT FROM 'LINKED_PAYMENT_DECLINED'
       AND ((payer.currency, payee.currency) IS DISTINCT FROM (p.currency, p.currency))
           <> COALESCE(p.decline_reason = 'CURRENCY_MISMATCH', false));

-- check: payments_mature_after_whole_days
-- scope: new
-- Of the entries without an event, only those that pay a restaurant, and their fee, have
-- available_at, and it is 1 to 365 times 24 hours after recorded_at. For 0 days it is NULL.
SELECT 'payments_mature_after_whole_days' AS check_name, 'ERROR' AS severity,
       'entry ' || e.transaction_id || '/' || e.position AS entity,
       format('a %s of payment %s is available at %s, having been recorded at %s', e.entry_type,
              COALESCE(e.payment_id, '(none)'), e.available_at, e.recorded_at) AS detail
FROM ledger_entries /* new */ AS e
LEFT JOIN balance_accounts AS a ON a.balance_account_id = e.balance_account_id
CROSS JOIN LATERAL (
  SELECT extract(epoch FROM e.available_at) - extract(epoch FROM e.recorded_at)
           AS maturity_seconds) AS m
WHERE e.available_at IS NOT NULL AND e.event_id IS NULL
  AND (e.payment_id IS NOT NULL AND a.restaurant_id IS NOT NULL
       AND e.entry_type IN ('PAYMENT', 'TRANSFER_IN', 'FEE')
       AND m.maturity_seconds % 86400 = 0
       AND m.maturity_seconds BETWEEN 86400 AND 365 * 86400) IS NOT TRUE;

-- check: fees_mature_with_their_payment
-- scope: new
-- The fee of a payment has the available_at of what it was taken of, so that what matures is always
-- the net amount.
SELECT 'fees_mature_with_their_payment' AS check_name, 'ERROR' AS severity,
       'payment ' || c.payment_id AS entity,
       format('a %s is available at %s, its fee at %s', c.entry_type,
              COALESCE(c.available_at::text, 'once'), COALESCE(f.available_at::text, 'once'))
         AS detail
FROM ledger_entries /* new */ AS c
JOIN ledger_entries /* new */ AS f ON f.payment_id = c.payment_id
  AND f.transaction_id = c.transaction_id
WHERE c.entry_type IN ('PAYMENT', 'TRANSFER_IN') AND f.entry_type = 'FEE'
  AND f.available_at IS DISTINCT FROM c.available_at;

-- check: payments_are_stored_once
-- scope: new
-- The payment id and the operation id are the idempotency keys. Keys guard inserts; this check
-- reads what is stored.
SELECT 'payments_are_stored_once' AS check_name, 'ERROR' AS severity,
       'payment ' || payment_id AS entity, format('is stored %s times', count(*)) AS detail
FROM payments /* touched */
GROUP BY payment_id
HAVING count(*) > 1
UNION ALL
SELECT 'payments_are_stored_once', 'ERROR', 'operation ' || operation_id,
       format('is stored %s times', count(*))
FROM payment_operations /* with new ids */
WHERE operation_id IS NOT NULL
GROUP BY operation_id
HAVING count(*) > 1;

-- check: accounts_have_a_balance_account
-- scope: small
-- An account has exactly one balance account, in its currency.
SELECT 'accounts_have_a_balance_account' AS check_name, 'ERROR' AS severity,
       'account ' || h.account_id AS entity,
       format('is in %s and has %s balance accounts, in %s', h.currency,
              count(a.balance_account_id), COALESCE(string_agg(a.currency, ', '), 'none'))
         AS detail
FROM accounts AS h
LEFT JOIN balance_accounts AS a ON a.account_id = h.account_id
GROUP BY h.account_id, h.currency
HAVING count(a.balance_account_id) <> 1 OR min(a.currency) <> h.currency;

-- check: accounts_are_within_limits
-- scope: small
-- Ids, overdrafts and states of accounts are as the contract promises. CHECK constraints guard
-- writes; this check reads what is stored.
SELECT 'accounts_are_within_limits' AS check_name, 'ERROR' AS severity,
       'account ' || account_id AS entity,
       format('is %s, its overdraft %s', state, COALESCE(overdraft_limit_minor::text, 'unlimited'))
         AS detail
FROM accounts
WHERE (account_id ~ '^[A-Za-z0-9._:-]+$' AND octet_length(account_id) <= 128
       AND state IN ('OPEN', 'FROZEN', 'CLOSED')
       AND (overdraft_limit_minor IS NULL OR overdraft_limit_minor BETWEEN 0 AND 1000000000000000)
       AND updated_at >= created_at) IS NOT TRUE;

-- check: held_is_in_payments
-- scope: all. The checks of payments prove it for what is new; no index has the open ones alone.
-- What is held in an account is the sum of what its payments hold.
SELECT 'held_is_in_payments' AS check_name, 'ERROR' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency,
                              COALESCE(s.balance_account_id, p.balance_account_id)::text)
         AS entity,
       format('account_held is %s, its payments hold %s', COALESCE(s.balance_minor, 0),
              COALESCE(p.held_minor, 0)) AS detail
FROM (
  SELECT balance_account_id, sum(signed_minor) AS balance_minor
  FROM ledger_movements
  WHERE ledger_account = 'account_held'
  GROUP BY balance_account_id
) AS s
FULL JOIN (
  SELECT payer_balance_account_id AS balance_account_id,
         sum(amount_minor::numeric - captured_minor) AS held_minor
  FROM payments
  WHERE state IN ('AUTHORIZED', 'PARTIALLY_CAPTURED')
  GROUP BY payer_balance_account_id
) AS p ON p.balance_account_id = s.balance_account_id
LEFT JOIN balance_accounts AS a
  ON a.balance_account_id = COALESCE(s.balance_account_id, p.balance_account_id)
WHERE COALESCE(s.balance_minor, 0) <> COALESCE(p.held_minor, 0);

-- check: closed_accounts_are_empty
-- scope: new
-- A closed account has nothing available and nothing held: it was empty when it was closed, and
-- nothing moves in it since.
SELECT 'closed_accounts_are_empty' AS check_name, 'ERROR' AS severity,
       'account ' || h.account_id AS entity,
       format('is closed, and its %s is %s', s.ledger_account, s.balance_minor) AS detail
FROM (
  SELECT balance_account_id, ledger_account, sum(signed_minor) AS balance_minor
  FROM ledger_movements /* of touched accounts */
  WHERE ledger_account IN ('account_funds', 'account_held')
  GROUP BY balance_account_id, ledger_account
) AS s
JOIN balance_accounts AS a ON a.balance_account_id = s.balance_account_id
JOIN accounts AS h ON h.account_id = a.account_id
WHERE h.state = 'CLOSED' AND s.balance_minor <> 0;

-- check: accounts_stay_within_their_overdraft
-- scope: new
-- What is available in an account is below zero by no more than its overdraft. A lower limit may
-- have been set since: that is an error only in an account that was never changed.
SELECT 'accounts_stay_within_their_overdraft' AS check_name,
       CASE WHEN h.updated_at = h.created_at THEN 'ERROR' ELSE 'WARNING' END AS severity,
       'account ' || h.account_id AS entity,
       format('available is %s, the overdraft %s%s', s.balance_minor, h.overdraft_limit_minor,
              CASE WHEN h.updated_at = h.created_at THEN ''
                   ELSE '; the account was changed at ' || h.updated_at
                     || ': if that lowered the limit, this is no defect' END) AS detail
FROM (
  SELECT balance_account_id, sum(signed_minor) AS balance_minor
  FROM ledger_movements /* of touched accounts */
  WHERE ledger_account = 'account_funds'
  GROUP BY balance_account_id
) AS s
JOIN balance_accounts AS a ON a.balance_account_id = s.balance_account_id
JOIN accounts AS h ON h.account_id = a.account_id
WHERE s.balance_minor < -h.overdraft_limit_minor;

-- check: events_are_stored_once
-- scope: new
-- The event id is the idempotency key. The primary key guards inserts; this check reads what is
-- stored.
SELECT 'events_are_stored_once' AS check_name, 'ERROR' AS severity, 'event ' || event_id AS entity,
       format('is stored %s times', count(*)) AS detail
FROM processor_events /* with new ids */
GROUP BY event_id
HAVING count(*) > 1;

-- check: transaction_ids_belong_to_one_event
-- scope: new
-- No two of these share a transaction id: events, creations of payouts, payments and operations on
-- payments.
SELECT 'transaction_ids_belong_to_one_event' AS check_name, 'ERROR' AS severity,
       'transaction ' || transaction_id AS entity,
       format('is shared by %s, among them %s and %s', count(*), min(owner), max(owner)) AS detail
FROM (
  SELECT transaction_id, event_id AS owner FROM processor_events /* new */
  UNION ALL
  SELECT transaction_id, payout_id::text FROM payouts /* touched */
  UNION ALL
  SELECT transaction_id, payment_id FROM payments /* new */
  UNION ALL
  SELECT transaction_id, payment_id || '/' || sequence FROM payment_operations /* new */
) AS given
GROUP BY transaction_id
HAVING count(*) > 1;

-- check: fingerprints_match_their_events
-- scope: new
-- The fingerprint is the SHA-256 of the stored fields, so no field was changed later. The text is
-- that of ledger.domain.events.fingerprint, whose version 2 has the later fields. extract() is
-- numeric, so the microseconds are exact.
SELECT 'fingerprints_match_their_events' AS check_name, 'ERROR' AS severity,
       'event ' || event_id AS entity,
       'the stored fields do not give the fingerprint' AS detail
FROM processor_events /* new */
WHERE fingerprint IS DISTINCT FROM sha256(convert_to(
  concat_ws(E'\n',
            CASE WHEN num_nonnulls(available_at, processor_fee_minor, bank_reference, failure_code,
                                   failure_text) > 0 THEN 2 ELSE 1 END,
            type, restaurant_id, currency, amount_minor, fee_minor,
            trim_scale(extract(epoch FROM occurred_at) * 1000000), COALESCE(payout_id, ''),
            reference,
            CASE WHEN num_nonnulls(available_at, processor_fee_minor, bank_reference, failure_code,
                                   failure_text) > 0 THEN
              concat_ws(E'\n',
                        COALESCE(trim_scale(extract(epoch FROM available_at) * 1000000)::text, ''),
                        COALESCE(processor_fee_minor, 0), COALESCE(bank_reference, ''),
                        COALESCE(failure_code, ''), COALESCE(failure_text, '')) END), 'UTF8'));

-- check: events_are_within_limits
-- scope: new
-- Ids, amounts, fees and instants are as the contract promises. CHECK constraints guard inserts.
-- This check reads what is stored, for instance after a restore without constraints. A payout is a
-- sum of events, so its amount may be above an event's limit.
SELECT 'events_are_within_limits' AS check_name, 'ERROR' AS severity,
       'event ' || event_id AS entity,
       format('%s of %s, %s minor units, fee %s, processor''s fee %s, occurred at %s, available at'
              ' %s, reference "%s"', type, COALESCE(NULLIF(restaurant_id, ''), '(platform)'),
              amount_minor, fee_minor, COALESCE(processor_fee_minor, 0), occurred_at,
              COALESCE(available_at::text, 'no time'), reference) AS detail
FROM processor_events /* new */
WHERE (event_id ~ '^[A-Za-z0-9._:-]+$' AND octet_length(event_id) <= 128
       AND reference ~ '^[ -~]*$' AND octet_length(reference) <= 255
       AND amount_minor >= 1
       AND (amount_minor <= 1000000000000 OR starts_with(type, 'payout_'))
       AND fee_minor BETWEEN 0 AND CASE type WHEN 'dispute_opened' THEN 1000000000000
                                             ELSE amount_minor END
       AND (fee_minor = 0 OR type IN ('charge_succeeded', 'charge_reversed', 'dispute_opened',
                                      'refund_succeeded'))
       AND (processor_fee_minor IS NULL
            OR processor_fee_minor BETWEEN 1 AND 1000000000000
               AND type IN ('charge_succeeded', 'refund_succeeded', 'dispute_opened'))
       AND (available_at IS NULL
            OR available_at - occurred_at BETWEEN interval '0' AND interval '400 days'
               AND type IN ('charge_succeeded', 'refund_succeeded', 'charge_reversed',
                            'tax_withheld'))
       AND (bank_reference IS NULL
            OR bank_reference ~ '^[ -~]+$' AND octet_length(bank_reference) <= 255
               AND starts_with(type, 'payout_'))
       AND (bank_reference IS NOT NULL OR type <> 'payout_referenced')
       AND (failure_code IS NULL
            OR failure_code ~ '^[A-Za-z0-9._:-]+$' AND octet_length(failure_code) <= 64
               AND type = 'payout_failed')
       AND (failure_text IS NULL
            OR char_length(failure_text) BETWEEN 1 AND 500 AND failure_text !~ '[\x01-\x1f\x7f-\x9f]'
               AND type = 'payout_failed')
       AND CASE WHEN restaurant_id = '' THEN
                  type IN ('processor_fee_assessed', 'processor_fee_refunded',
                           'processor_settled', 'processor_settlement_debited')
                ELSE type NOT IN ('processor_settled', 'processor_settlement_debited') END
       AND occurred_at >= '2000-01-01 00:00:00+00'
       AND (payout_id IS NOT NULL) = starts_with(type, 'payout_')) IS NOT TRUE;

-- check: event_types_are_known
-- scope: new
-- Every event has a type that the posting rules or payouts know. So the checks above leave out no
-- event.
SELECT 'event_types_are_known' AS check_name, 'ERROR' AS severity,
       'type ' || COALESCE(type, '(none)') AS entity,
       format('%s events, among them %s', count(*), min(event_id)) AS detail
FROM processor_events /* new */
GROUP BY type
HAVING (type IN ('charge_succeeded', 'refund_succeeded', 'fee_assessed',
                 'adjustment_credited', 'adjustment_debited', 'dispute_opened',
                 'dispute_won', 'dispute_lost', 'payout_paid', 'payout_failed', 'refund_failed',
                 'charge_reversed', 'fee_refunded', 'dispute_fee_refunded',
                 'processor_fee_assessed', 'processor_fee_refunded', 'tax_withheld',
                 'tax_withholding_reversed', 'reserve_held', 'reserve_released',
                 'top_up_received', 'debt_written_off', 'processor_settled',
                 'processor_settlement_debited', 'payout_submitted', 'payout_canceled',
                 'payout_referenced')) IS NOT TRUE;

-- check: currencies_are_known
-- scope: new
-- Every currency is one of ledger.domain.money, which knows its minor unit; a test compares the
-- two.
WITH used AS (
  SELECT currency, 'events' AS place FROM processor_events /* new */ GROUP BY currency
  UNION ALL
  SELECT currency, 'balance accounts' FROM balance_accounts GROUP BY currency
  UNION ALL
  SELECT currency, 'payout runs' FROM payout_runs GROUP BY currency
  UNION ALL
  SELECT currency, 'accounts' FROM accounts GROUP BY currency
  UNION ALL
  SELECT currency, 'payments' FROM payments /* new */ GROUP BY currency
)
SELECT 'currencies_are_known' AS check_name, 'ERROR' AS severity,
       'currency ' || COALESCE(currency, '(none)') AS entity,
       'is used by ' || place || ' and is none of the ISO 4217 codes the ledger knows' AS detail
FROM used
WHERE (currency = ANY (string_to_array(
  'AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BOV BRL BSD BTN '
  'BWP BYN BZD CAD CDF CHE CHF CHW CLF CLP CNY COP COU CRC CUC CUP CVE CZK DJF DKK DOP DZD EGP '
  'ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HRK HTG HUF IDR ILS INR IQD IRR '
  'ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD '
  'MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR '
  'PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL '
  'THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS VED VES VND VUV WST XAD '
  'XAF XCD XCG XOF XPF YER ZAR ZMW ZWG ZWL', ' '))) IS NOT TRUE;

-- check: events_have_a_balance_account
-- scope: new
-- The restaurant of an event is registered and has a balance account in the event's currency; the
-- platform has one for events without a restaurant.
SELECT 'events_have_a_balance_account' AS check_name, 'ERROR' AS severity,
       'event ' || v.event_id AS entity,
       format('there is no balance account %s/%s',
              COALESCE(NULLIF(v.restaurant_id, ''), '(platform)'), v.currency) AS detail
FROM processor_events /* new */ AS v
LEFT JOIN balance_accounts AS a
  ON CASE WHEN a.account_id IS NULL THEN COALESCE(a.restaurant_id, '') END = v.restaurant_id
    AND a.currency = v.currency
WHERE a.balance_account_id IS NULL;

-- check: balance_accounts_have_a_holder
-- scope: small
-- A balance account is of one registered restaurant, of one account that exists, or of neither: then
-- it is the platform's.
SELECT 'balance_accounts_have_a_holder' AS check_name, 'ERROR' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency,
                              a.balance_account_id::text) AS entity,
       CASE WHEN num_nonnulls(a.restaurant_id, a.account_id) > 1 THEN
              format('is of restaurant %s and of account %s', COALESCE(a.restaurant_id, '(none)'),
                     COALESCE(a.account_id, '(none)'))
            WHEN a.account_id IS NULL THEN
              format('restaurant %s is not registered', a.restaurant_id)
            ELSE format('account %s does not exist', a.account_id) END AS detail
FROM balance_accounts AS a
LEFT JOIN restaurants AS r ON r.restaurant_id = a.restaurant_id
LEFT JOIN accounts AS h ON h.account_id = a.account_id
WHERE num_nonnulls(a.restaurant_id, a.account_id) > 1
   OR num_nonnulls(r.restaurant_id, h.account_id) <> num_nonnulls(a.restaurant_id, a.account_id);

-- check: balance_accounts_are_unique
-- scope: small
-- A restaurant has one balance account in each currency, and so has the platform: two would split
-- its balance. So would two of an account.
SELECT 'balance_accounts_are_unique' AS check_name, 'ERROR' AS severity,
       'account ' || COALESCE(restaurant_id || '/' || currency, account_id,
                              '(platform)/' || currency) AS entity,
       format('there are %s of it: %s', count(*),
              string_agg(balance_account_id::text, ', ' ORDER BY balance_account_id))
         AS detail
FROM balance_accounts
GROUP BY restaurant_id, account_id, currency
HAVING count(*) > 1;

-- check: debits_equal_credits
-- scope: new
-- The debits of all accounts equal the credits, in every balance account and in every currency. An
-- entry has both sides in one row and one amount, so this holds by construction. It is the first
-- thing that an auditor asks for.
SELECT 'debits_equal_credits' AS check_name, 'ERROR' AS severity,
       CASE WHEN GROUPING(a.account_id) = 1 THEN 'currency ' || a.currency
            ELSE 'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                                        '(platform)/' || a.currency) END
         AS entity,
       format('debits are %s, credits %s', sum(s.debit_minor), sum(s.credit_minor)) AS detail
FROM (
  SELECT balance_account_id,
         COALESCE(-sum(signed_minor) FILTER (WHERE side = 'debit'), 0) AS debit_minor,
         COALESCE(sum(signed_minor) FILTER (WHERE side = 'credit'), 0) AS credit_minor
  FROM ledger_movements /* of touched accounts */
  WHERE ledger_account IS NOT NULL
  GROUP BY balance_account_id
) AS s
JOIN balance_accounts AS a ON a.balance_account_id = s.balance_account_id
GROUP BY GROUPING SETS ((a.currency), (a.restaurant_id, a.account_id, a.currency))
HAVING sum(s.debit_minor) <> sum(s.credit_minor);

-- check: balance_sheets_close
-- scope: new
-- In every balance account, the accounts that grow by debits hold together as much as those that
-- grow by credits, and every entry moves accounts of the chart only. The chart is that of
-- ledger.domain.chart_of_accounts; a test compares the two.
WITH chart (account, normal_side) AS (
  VALUES
    ('processor_clearing', 'debit'),
    ('restaurant_payable', 'credit'),
    ('payout_reserved', 'credit'),
    ('platform_fees', 'credit'),
    ('platform_cash', 'debit'),
    ('dispute_receivable', 'debit'),
    ('dispute_hold', 'credit'),
    ('adjustments', 'debit'),
    ('account_funds', 'credit'),
    ('account_held', 'credit'),
    ('interaccount', 'debit'),
    ('processor_costs', 'debit'),
    ('tax_withheld', 'credit'),
    ('reserve_hold', 'credit'),
    ('bad_debt', 'debit')
),
balance AS (
  SELECT balance_account_id, ledger_account, sum(signed_minor) AS balance_minor
  FROM ledger_movements /* of touched accounts */
  GROUP BY balance_account_id, ledger_account
),
sheet AS (
  SELECT b.balance_account_id,
         COALESCE(-sum(b.balance_minor) FILTER (WHERE c.normal_side = 'debit'), 0) AS assets_minor,
         COALESCE(sum(b.balance_minor) FILTER (WHERE c.normal_side = 'credit'), 0)
           AS liabilities_minor,
         string_agg(DISTINCT b.ledger_account, ', ') FILTER (WHERE c.account IS NULL) AS unknown
  FROM balance AS b
  LEFT JOIN chart AS c ON c.account = b.ledger_account
  GROUP BY b.balance_account_id
)
SELECT 'balance_sheets_close' AS check_name, 'ERROR' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency) AS entity,
       format('debit accounts hold %s, credit accounts %s; not in the chart: %s',
              s.assets_minor, s.liabilities_minor, COALESCE(s.unknown, 'none')) AS detail
FROM sheet AS s
JOIN balance_accounts AS a ON a.balance_account_id = s.balance_account_id
WHERE s.assets_minor <> s.liabilities_minor OR s.unknown IS NOT NULL;

-- check: balances_fit_int64
-- scope: new
-- The balance of every account fits the int64 in which the service returns it.
SELECT 'balances_fit_int64' AS check_name, 'ERROR' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency) AS entity,
       format('the balance of %s is %s', m.ledger_account, abs(m.balance_minor)) AS detail
FROM (
  SELECT balance_account_id, ledger_account, sum(signed_minor) AS balance_minor
  FROM ledger_movements /* of touched accounts */
  GROUP BY balance_account_id, ledger_account
) AS m
JOIN balance_accounts AS a ON a.balance_account_id = m.balance_account_id
WHERE abs(m.balance_minor) > 9223372036854775807;

-- check: reserved_is_not_negative
-- scope: new
-- A restaurant's payouts release no more than was reserved for them.
SELECT 'reserved_is_not_negative' AS check_name, 'ERROR' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency) AS entity,
       format('payout_reserved is %s', s.balance_minor) AS detail
FROM (
  SELECT balance_account_id, sum(signed_minor) AS balance_minor
  FROM ledger_movements /* of touched accounts */
  WHERE ledger_account = 'payout_reserved'
  GROUP BY balance_account_id
) AS s
JOIN balance_accounts AS a ON a.balance_account_id = s.balance_account_id
WHERE s.balance_minor < 0;

-- check: reserved_is_in_payouts
-- scope: new
-- The reserve of a balance account is the sum of its payouts in flight.
SELECT 'reserved_is_in_payouts' AS check_name, 'ERROR' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency,
                              COALESCE(s.balance_account_id, p.balance_account_id)::text)
         AS entity,
       format('payout_reserved is %s, the payouts in flight are %s', COALESCE(s.balance_minor, 0),
              COALESCE(p.amount_minor, 0))
         AS detail
FROM (
  SELECT balance_account_id, sum(signed_minor) AS balance_minor
  FROM ledger_movements /* of touched accounts */
  WHERE ledger_account = 'payout_reserved'
  GROUP BY balance_account_id
) AS s
FULL JOIN (
  SELECT balance_account_id, sum(amount_minor) AS amount_minor
  FROM payouts /* of touched accounts */
  WHERE state IN ('CREATED', 'SUBMITTED')
  GROUP BY balance_account_id
) AS p ON p.balance_account_id = s.balance_account_id
LEFT JOIN balance_accounts AS a
  ON a.balance_account_id = COALESCE(s.balance_account_id, p.balance_account_id)
WHERE COALESCE(s.balance_minor, 0) <> COALESCE(p.amount_minor, 0);

-- check: payouts_leave_nothing_negative
-- scope: new
-- A payout never takes more than there is. So in an account with payouts, restaurant_payable is
-- below zero by no more than the debits that the latest payout did not count: those that came
-- later, and fees that mature with their charges.
WITH latest AS (
  SELECT DISTINCT ON (balance_account_id) balance_account_id, payout_id
  FROM payouts /* latest of touched accounts */
  ORDER BY balance_account_id, sequence DESC
),
booked AS (
  SELECT balance_account_id, sum(signed_minor) AS payable_minor,
         COALESCE(-sum(signed_minor) FILTER (
           WHERE side = 'debit' AND entry_type <> 'PAYOUT_RESERVE'), 0) AS debits_minor
  FROM ledger_movements /* of touched accounts */
  WHERE ledger_account = 'restaurant_payable'
  GROUP BY balance_account_id
),
counted AS (
  SELECT payout_id, -COALESCE(sum(counted_minor) FILTER (WHERE counted_minor < 0), 0)
         AS debits_minor
  FROM payout_items /* of those payouts */
  GROUP BY payout_id
)
SELECT 'payouts_leave_nothing_negative' AS check_name, 'ERROR' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency,
                              b.balance_account_id::text)
         AS entity,
       format('restaurant_payable is %s, the debits since the latest payout explain %s',
              b.payable_minor, COALESCE(c.debits_minor, 0) - b.debits_minor) AS detail
FROM booked AS b
JOIN latest AS l ON l.balance_account_id = b.balance_account_id
LEFT JOIN counted AS c ON c.payout_id = l.payout_id
LEFT JOIN balance_accounts AS a ON a.balance_account_id = b.balance_account_id
WHERE b.payable_minor < LEAST(0, COALESCE(c.debits_minor, 0) - b.debits_minor);

-- check: snapshots_agree_with_the_entries
-- scope: new
-- A snapshot of the present stay agrees with the entries with a recorded_txid below its horizon: it
-- has their sums by ledger account and type, in all and of those that had matured by taken_at, how
-- many they are, and the latest of their instants. Snapshots of other stays, and those written
-- elsewhere, are left out: no server reads them. The check adds up the differences from one
-- snapshot to the next: it reads every entry once, and once more if it matured between two
-- snapshots, however many snapshots there are. If only new snapshots are checked, the differences
-- begin at the verified one below them.
WITH verified AS MATERIALIZED (
  SELECT balance_account_id, horizon, taken_at, entries_count, last_recorded_at, last_event_at,
         ledger_accounts, entry_types, total_minors, matured_minors
  FROM (SELECT * FROM balance_snapshots WHERE false) /* verified */ AS v
),
snapshot AS MATERIALIZED (
  SELECT s.*, lag(horizon) OVER step AS horizon_before, lag(taken_at) OVER step AS taken_before
  FROM (
    SELECT balance_account_id, horizon, taken_at, entries_count, last_recorded_at, last_event_at,
           ledger_accounts, entry_types, total_minors, matured_minors, false AS is_verified
    FROM balance_snapshots /* new */
    WHERE stay_id = (SELECT stay_id FROM current_stay) AND xmin = written_txid::xid
    UNION ALL
    SELECT verified.*, true FROM verified
  ) AS s
  WINDOW step AS (PARTITION BY balance_account_id ORDER BY horizon)
),
-- By how much each snapshot differs from the one before.
difference AS (
  SELECT s.balance_account_id, s.horizon, e.entry_type, e.debit_account, e.credit_account,
         count(*) AS entries_count,
         sum(e.amount_minor) AS total_minor,
         COALESCE(sum(e.amount_minor) FILTER (
           WHERE e.available_at IS NULL OR e.available_at <= s.taken_at), 0) AS matured_minor,
         max(e.recorded_at) AS last_recorded_at, max(e.occurred_at) AS last_event_at
  FROM snapshot AS s
  CROSS JOIN LATERAL (
    SELECT e.* FROM ledger_entries AS e
    WHERE e.balance_account_id = s.balance_account_id
      AND e.recorded_txid >= COALESCE(s.horizon_before, '0'::xid8) AND e.recorded_txid < s.horizon
  ) AS e
  WHERE NOT s.is_verified
  GROUP BY s.balance_account_id, s.horizon, e.entry_type, e.debit_account, e.credit_account
  UNION ALL
  SELECT s.balance_account_id, s.horizon, e.entry_type, e.debit_account, e.credit_account, 0, 0,
         sum(CASE WHEN s.taken_at > s.taken_before THEN e.amount_minor ELSE -e.amount_minor END),
         NULL, NULL
  FROM snapshot AS s
  CROSS JOIN LATERAL (
    SELECT e.* FROM ledger_entries AS e
    WHERE e.balance_account_id = s.balance_account_id AND e.recorded_txid < s.horizon_before
      AND e.available_at > LEAST(s.taken_before, s.taken_at)
        AND e.available_at <= GREATEST(s.taken_before, s.taken_at)
  ) AS e
  GROUP BY s.balance_account_id, s.horizon, e.entry_type, e.debit_account, e.credit_account
),
step AS (
  SELECT balance_account_id, horizon, ledger_account, entry_type,
         sum(entries_count) AS entries_count,
         sum(total_minor) AS total_minor, sum(matured_minor) AS matured_minor,
         max(last_recorded_at) AS last_recorded_at, max(last_event_at) AS last_event_at
  FROM (
    SELECT balance_account_id, horizon, credit_account AS ledger_account, entry_type,
           entries_count, total_minor, matured_minor, last_recorded_at, last_event_at
    FROM difference
    UNION ALL
    SELECT balance_account_id, horizon, debit_account, entry_type,
           0, -total_minor, -matured_minor, NULL, NULL
    FROM difference
    UNION ALL
    SELECT v.balance_account_id, v.horizon, l.ledger_account, l.entry_type,
           CASE l.number WHEN 1 THEN v.entries_count ELSE 0 END, l.total_minor, l.matured_minor,
           v.last_recorded_at, v.last_event_at
    FROM verified AS v
    CROSS JOIN LATERAL unnest(v.ledger_accounts, v.entry_types, v.total_minors, v.matured_minors)
      WITH ORDINALITY AS l (ledger_account, entry_type, total_minor, matured_minor, number)
  ) AS side
  GROUP BY balance_account_id, horizon, ledger_account, entry_type
),
-- The lines of each snapshot: those of the snapshot before, changed or not, and new ones.
expected AS (
  SELECT s.balance_account_id, s.horizon, l.ledger_account, l.entry_type,
         sum(d.entries_count) OVER so_far AS entries_count,
         sum(d.total_minor) OVER so_far AS total_minor,
         sum(d.matured_minor) OVER so_far AS matured_minor,
         max(d.last_recorded_at) OVER so_far AS last_recorded_at,
         max(d.last_event_at) OVER so_far AS last_event_at
  FROM snapshot AS s
  JOIN (SELECT balance_account_id, ledger_account, entry_type, min(horizon) AS first_horizon
        FROM step GROUP BY balance_account_id, ledger_account, entry_type) AS l
    ON l.balance_account_id = s.balance_account_id AND s.horizon >= l.first_horizon
  LEFT JOIN step AS d
    ON d.balance_account_id = s.balance_account_id AND d.horizon = s.horizon
    AND d.ledger_account = l.ledger_account AND d.entry_type = l.entry_type
  WINDOW so_far AS (
    PARTITION BY s.balance_account_id, l.ledger_account, l.entry_type ORDER BY s.horizon)
),
recomputed AS (
  SELECT balance_account_id, horizon, sum(entries_count) AS entries_count,
         max(last_recorded_at) AS last_recorded_at,
         max(last_event_at) AS last_event_at,
         array_agg(format('%s %s %s %s', ledger_account, entry_type, trim_scale(total_minor),
                          trim_scale(matured_minor))
                   ORDER BY ledger_account, entry_type) AS lines
  FROM expected
  GROUP BY balance_account_id, horizon
)
SELECT 'snapshots_agree_with_the_entries' AS check_name, 'ERROR' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency,
                              s.balance_account_id::text)
       || ', snapshot ' || s.horizon
         AS entity,
       CASE WHEN (r.entries_count, r.last_recorded_at, r.last_event_at)
                 IS DISTINCT FROM (s.entries_count::numeric, s.last_recorded_at, s.last_event_at)
            THEN
              format('counts %s entries up to %s, %s; there are %s up to %s, %s',
                     s.entries_count, s.last_recorded_at, s.last_event_at,
                     COALESCE(r.entries_count, 0), r.last_recorded_at, r.last_event_at)
            ELSE format('says %s; the entries say %s', left(array_to_string(held.lines, ', '), 300),
                        left(array_to_string(r.lines, ', '), 300)) END AS detail
FROM snapshot AS s
LEFT JOIN recomputed AS r ON r.balance_account_id = s.balance_account_id AND r.horizon = s.horizon
LEFT JOIN balance_accounts AS a ON a.balance_account_id = s.balance_account_id
CROSS JOIN LATERAL (
  SELECT array_agg(format('%s %s %s %s', l.ledger_account, l.entry_type, trim_scale(l.total_minor),
                          trim_scale(l.matured_minor))
                   ORDER BY l.ledger_account, l.entry_type) AS lines
  FROM unnest(s.ledger_accounts, s.entry_types, s.total_minors, s.matured_minors)
    AS l (ledger_account, entry_type, total_minor, matured_minor)
) AS held
WHERE NOT s.is_verified
  AND (r.entries_count, r.last_recorded_at, r.last_event_at, r.lines)
      IS DISTINCT FROM (s.entries_count::numeric, s.last_recorded_at, s.last_event_at, held.lines);

-- check: snapshots_are_settled
-- scope: new
-- A snapshot of the present stay was taken in the past, of transactions that have all ended, and
-- belongs to a balance account that exists. A minute is tolerated for a clock that was set back. A
-- horizon above the cluster's txids means that the row was inserted by hand, or that the cluster
-- went back in time; servers do not read such a snapshot.
SELECT 'snapshots_are_settled' AS check_name, 'ERROR' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency,
                              s.balance_account_id::text)
       || ', snapshot ' || s.horizon
         AS entity,
       CASE WHEN a.balance_account_id IS NULL THEN 'the balance account does not exist'
            ELSE format('taken at %s, it is %s now; all transactions below %s have ended',
                        s.taken_at, clock_timestamp(),
                        pg_snapshot_xmin(pg_current_snapshot())) END AS detail
FROM balance_snapshots /* new */ AS s
LEFT JOIN balance_accounts AS a ON a.balance_account_id = s.balance_account_id
WHERE s.stay_id = (SELECT stay_id FROM current_stay) AND s.xmin = s.written_txid::xid
  AND (s.horizon > pg_snapshot_xmin(pg_current_snapshot())
       OR s.taken_at > GREATEST(clock_timestamp(), ledger_clock_at()) + interval '1 minute'
       OR a.balance_account_id IS NULL);

-- check: statement_marks_agree_with_the_entries
-- scope: new
-- A mark of the present stay agrees with the entries with a recorded_txid below its horizon: it has
-- how many they are, their latest recorded_at, the longest time by which the recorded_at of one
-- lies before that of an entry with a lower txid, and their sums on restaurant_payable and on
-- account_funds. Only a restaurant's mark may lack the last one, as servers of before 0027 make it.
-- All those transactions have ended.
-- The check goes through the entries of each account with marks once, in the order of the txids,
-- with the marks in between. If only new marks are checked, it begins at the verified one below
-- them.
WITH verified AS MATERIALIZED (
  SELECT balance_account_id, horizon, entries_count, last_recorded_at, late_by_max, payable_minor,
         funds_minor
  FROM (SELECT * FROM statement_marks WHERE false) /* verified */ AS v
),
mark AS MATERIALIZED (
  SELECT balance_account_id, horizon, entries_count, last_recorded_at, late_by_max, payable_minor,
         funds_minor
  FROM statement_marks /* new */
  WHERE stay_id = (SELECT stay_id FROM current_stay) AND xmin = written_txid::xid
),
-- A mark comes before the entries at its horizon, which it does not count.
place AS (
  SELECT balance_account_id, horizon AS txid, 0 AS kind, 0 AS entries_count,
         NULL::timestamptz AS first_recorded_at, NULL::timestamptz AS last_recorded_at,
         0 AS payable_minor, 0 AS funds_minor, entries_count AS mark_entries_count,
         last_recorded_at AS mark_last_recorded_at, late_by_max AS mark_late_by_max,
         payable_minor AS mark_payable_minor, funds_minor AS mark_funds_minor,
         NULL::interval AS verified_late_by
  FROM mark
  UNION ALL
  SELECT balance_account_id, horizon, -1, entries_count, NULL, last_recorded_at, payable_minor,
         COALESCE(funds_minor, 0), NULL, NULL, NULL, NULL, NULL, late_by_max
  FROM verified
  UNION ALL
  SELECT m.balance_account_id, m.recorded_txid, 1, count(*) FILTER (WHERE m.side = 'credit'),
         min(m.recorded_at), max(m.recorded_at),
         COALESCE(sum(m.signed_minor) FILTER (WHERE m.ledger_account = 'restaurant_payable'), 0),
         COALESCE(sum(m.signed_minor) FILTER (WHERE m.ledger_account = 'account_funds'), 0),
         NULL, NULL, NULL, NULL, NULL, NULL
  FROM (
    SELECT m.balance_account_id, COALESCE(max(v.horizon), '0'::xid8) AS begin_txid
    FROM mark AS m
    LEFT JOIN verified AS v ON v.balance_account_id = m.balance_account_id
    GROUP BY m.balance_account_id
  ) AS a
  CROSS JOIN LATERAL (
    SELECT m.* FROM ledger_movements AS m
    WHERE m.balance_account_id = a.balance_account_id AND m.recorded_txid >= a.begin_txid
  ) AS m
  GROUP BY m.balance_account_id, m.recorded_txid
),
late AS (
  SELECT p.*, COALESCE(p.verified_late_by,
                       max(p.last_recorded_at) OVER before - p.first_recorded_at) AS late_by
  FROM place AS p
  WINDOW before AS (PARTITION BY p.balance_account_id ORDER BY p.txid, p.kind
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
recomputed AS (
  SELECT l.balance_account_id, l.txid AS horizon, l.kind, l.mark_entries_count,
         l.mark_last_recorded_at, l.mark_late_by_max,
         l.mark_payable_minor, l.mark_funds_minor,
         sum(l.entries_count) OVER so_far AS entries_count,
         max(l.last_recorded_at) OVER so_far AS last_recorded_at,
         GREATEST(interval '0', max(l.late_by) OVER so_far) AS late_by_max,
         sum(l.payable_minor) OVER so_far AS payable_minor,
         sum(l.funds_minor) OVER so_far AS funds_minor
  FROM late AS l
  WINDOW so_far AS (
    PARTITION BY l.balance_account_id ORDER BY l.txid, l.kind ROWS UNBOUNDED PRECEDING)
)
SELECT 'statement_marks_agree_with_the_entries' AS check_name, 'ERROR' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency,
                              r.balance_account_id::text)
       || ', mark ' || r.horizon
         AS entity,
       CASE WHEN r.horizon > pg_snapshot_xmin(pg_current_snapshot()) THEN
              format('all transactions below %s have ended, no more',
                     pg_snapshot_xmin(pg_current_snapshot()))
            ELSE format('counts %s entries up to %s, late by %s, worth %s and %s;'
                        ' there are %s up to %s, late by %s, worth %s and %s',
                        r.mark_entries_count, r.mark_last_recorded_at, r.mark_late_by_max,
                        r.mark_payable_minor, COALESCE(r.mark_funds_minor::text, 'nothing said'),
                        r.entries_count, r.last_recorded_at, r.late_by_max, r.payable_minor,
                        r.funds_minor) END AS detail
FROM recomputed AS r
LEFT JOIN balance_accounts AS a ON a.balance_account_id = r.balance_account_id
WHERE r.kind = 0
  AND (r.horizon > pg_snapshot_xmin(pg_current_snapshot())
       OR (r.mark_entries_count, r.mark_last_recorded_at, r.mark_late_by_max, r.mark_payable_minor)
          IS DISTINCT FROM (r.entries_count, r.last_recorded_at, r.late_by_max, r.payable_minor)
       OR r.mark_funds_minor <> r.funds_minor
       OR (r.mark_funds_minor IS NULL AND a.account_id IS NOT NULL));

-- check: nothing_is_recorded_in_the_future
-- scope: new
-- recorded_at is the database's clock when the transaction began, so it is past. A minute is
-- tolerated for a clock that was set back.
SELECT 'nothing_is_recorded_in_the_future' AS check_name, 'ERROR' AS severity, r.entity,
       format('was recorded at %s; it is %s now', r.recorded_at, clock_timestamp()) AS detail
FROM (
  SELECT 'event ' || event_id AS entity, recorded_at FROM processor_events /* new */
  UNION ALL
  SELECT 'entry ' || transaction_id || '/' || position, recorded_at FROM ledger_entries /* new */
  UNION ALL
  SELECT 'payout ' || payout_id, created_at FROM payouts /* touched */
  UNION ALL
  SELECT 'run ' || payout_run_id, GREATEST(created_at, finished_at) FROM payout_runs /* touched */
  UNION ALL
  SELECT 'submission ' || submission_id, created_at FROM payout_submissions
  UNION ALL
  SELECT 'account ' || account_id, GREATEST(created_at, updated_at) FROM accounts
  UNION ALL
  SELECT 'payment ' || payment_id, recorded_at FROM payments /* new */
  UNION ALL
  SELECT 'payment ' || payment_id, recorded_at FROM payment_operations /* new */
  UNION ALL
  SELECT 'payload ' || quarantine_id, recorded_at FROM quarantine_moves
) AS r
WHERE r.recorded_at > GREATEST(clock_timestamp(), ledger_clock_at()) + interval '1 minute';

-- check: payloads_are_where_their_moves_lead
-- scope: all. The quarantine has no money, and triggers hold each move.
-- The moves of a payload of the quarantine count up from 1, from a state to one that may follow it,
-- as ledger.domain.quarantine has them. The payload stands where the latest of them led, with the
-- reason and the words of its latest try, and was stored with the first one.
WITH allowed (before, after) AS (
  VALUES
    (NULL, 'QUARANTINED'),
    (NULL, 'PARKED'),
    ('QUARANTINED', 'RETRY_REQUESTED'),
    ('QUARANTINED', 'DISCARDED'),
    ('RETRY_REQUESTED', 'QUARANTINED'),
    ('RETRY_REQUESTED', 'PARKED'),
    ('RETRY_REQUESTED', 'RELEASED'),
    ('RETRY_REQUESTED', 'DISCARDED'),
    ('PARKED', 'QUARANTINED'),
    ('PARKED', 'RETRY_REQUESTED'),
    ('PARKED', 'PARKED'),
    ('PARKED', 'RELEASED'),
    ('PARKED', 'DISCARDED')
),
moves AS (
  SELECT m.quarantine_id, m.number, m.state, m.reason, m.detail, m.retry_at, m.recorded_at,
         lag(m.state) OVER one_payload AS state_before,
         row_number() OVER one_payload AS place,
         lead(m.number) OVER one_payload IS NULL AS is_latest,
         max(m.number) FILTER (WHERE m.reason <> '') OVER (PARTITION BY m.quarantine_id) = m.number
           AS is_latest_try
  FROM quarantine_moves AS m
  WINDOW one_payload AS (PARTITION BY m.quarantine_id ORDER BY m.number)
)
SELECT 'payloads_are_where_their_moves_lead' AS check_name, 'ERROR' AS severity,
       'payload ' || m.quarantine_id AS entity,
       format('its move %s, to %s, cannot be number %s, after %s', m.number, m.state, m.place,
              COALESCE(m.state_before, 'nothing')) AS detail
FROM moves AS m
WHERE m.number <> m.place
   OR NOT EXISTS (SELECT FROM allowed AS a
                  WHERE a.before IS NOT DISTINCT FROM m.state_before AND a.after = m.state)
UNION ALL
SELECT 'payloads_are_where_their_moves_lead', 'ERROR', 'payload ' || p.quarantine_id,
       format('is %s by move %s, for %s; its moves lead to %s by move %s, for %s', p.state,
              p.move_number, p.reason, COALESCE(m.state, 'nothing'), COALESCE(m.number, 0),
              COALESCE(t.reason, 'nothing'))
FROM quarantined_payloads AS p
LEFT JOIN moves AS m ON m.quarantine_id = p.quarantine_id AND m.is_latest
LEFT JOIN moves AS t ON t.quarantine_id = p.quarantine_id AND t.is_latest_try
LEFT JOIN moves AS f ON f.quarantine_id = p.quarantine_id AND f.number = 1
WHERE (p.state, p.move_number, p.retry_at, p.reason, p.detail, p.created_at)
  IS DISTINCT FROM (m.state, m.number, m.retry_at, t.reason, t.detail, f.recorded_at)
UNION ALL
SELECT 'payloads_are_where_their_moves_lead', 'ERROR', 'payload ' || m.quarantine_id,
       'has moves and does not exist'
FROM moves AS m
WHERE m.is_latest
  AND NOT EXISTS (SELECT FROM quarantined_payloads AS p WHERE p.quarantine_id = m.quarantine_id);

-- check: released_payloads_name_stored_events
-- scope: all. The quarantine has no money, and no event is ever removed.
-- The events of a released payload are stored.
SELECT 'released_payloads_name_stored_events' AS check_name, 'ERROR' AS severity,
       'payload ' || m.quarantine_id AS entity,
       format('was released with event %s, which is not stored', n.event_id) AS detail
FROM quarantine_moves AS m
CROSS JOIN unnest(m.event_ids) AS n (event_id)
WHERE NOT EXISTS (SELECT FROM processor_events AS v WHERE v.event_id = n.event_id);

-- check: append_only_triggers_are_on
-- scope: small
-- The triggers that deny changes, and those that check the moves of payments, of payloads of the
-- quarantine and of payouts, and a payout's items and run, are as the migrations made them: of the same type, in every session where the
-- migrations said so (ENABLE ALWAYS), with the same condition or none. Their functions still raise
-- or drop the change, and look up tables in the schema of the books alone. `ledger migrate` mends
-- what dump, restore and replication do to them. A migration that adds a trigger adds it here; a
-- test compares the list with the schema.
--
-- The type is a sum, see pg_trigger.h: for each ROW 1 (else statement), BEFORE 2 (else after),
-- INSERT 4, DELETE 8, UPDATE 16, TRUNCATE 32.
WITH wanted (table_name, trigger_name, function_name, trigger_type, enabled, condition) AS (
  VALUES
    ('accounts', 'accounts_deny_change', 'deny_change', 42, 'A', ''),
    ('accounts', 'accounts_deny_move', 'deny_move', 17, 'A',
     '(((old.account_id <> new.account_id)'
     ' OR (old.currency <> new.currency)'
     ' OR (old.opened_with <> new.opened_with)'
     ' OR (old.created_at <> new.created_at)'
     ' OR (old.state = ''CLOSED''::text)))'),
    ('archived_ranges', 'archived_ranges_deny_change', 'deny_change', 58, 'A', ''),
    ('archived_run_outcomes', 'archived_run_outcomes_deny_change', 'deny_change', 58, 'A', ''),
    ('audit_log', 'audit_log_deny_change', 'deny_change', 50, 'A', ''),
    ('audit_log', 'audit_log_deny_removal', 'deny_call_removal', 8, 'A', ''),
    ('balance_accounts', 'balance_accounts_deny_change', 'deny_change', 42, 'A', ''),
    ('balance_accounts', 'balance_accounts_deny_move', 'deny_move', 17, 'A',
     '(((old.balance_account_id <> new.balance_account_id)'
     ' OR (old.restaurant_id IS DISTINCT FROM new.restaurant_id)'
     ' OR (old.account_id IS DISTINCT FROM new.account_id)'
     ' OR (old.currency <> new.currency)))'),
    ('balance_snapshots', 'balance_snapshots_deny_change', 'deny_change', 18, 'A', ''),
    ('ledger_entries', 'ledger_entries_deny_change', 'deny_change', 58, 'A', ''),
    ('ledger_seals', 'ledger_seals_check_events', 'check_sealed_events', 7, 'A',
     '((new.events_version < 2))'),
    ('ledger_seals', 'ledger_seals_deny_change', 'deny_change', 58, 'A', ''),
    ('ledger_stays', 'ledger_stays_deny_change', 'deny_change', 58, 'A', ''),
    ('ledger_verifications', 'ledger_verifications_deny_change', 'deny_change', 58, 'A', ''),
    ('payment_operations', 'payment_operations_deny_change', 'deny_change', 58, 'A', ''),
    ('payments', 'payments_check_move', 'check_payment_move', 19, 'A', ''),
    ('payments', 'payments_deny_change', 'deny_change', 42, 'A', ''),
    ('payout_items', 'payout_items_check_items', 'check_payout_items', 4, 'O', ''),
    ('payout_items', 'payout_items_deny_change', 'deny_change', 58, 'A', ''),
    ('payout_run_items', 'payout_run_items_check_run', 'check_run_is_under_way', 16, 'O', ''),
    ('payout_run_items', 'payout_run_items_deny_change', 'deny_change', 34, 'A', ''),
    ('payout_run_items', 'payout_run_items_deny_move', 'deny_move', 17, 'A',
     '(((old.outcome <> ''OPEN''::text)'
     ' OR (new.outcome = ''OPEN''::text)'
     ' OR (old.payout_run_id <> new.payout_run_id)'
     ' OR (old.restaurant_id <> new.restaurant_id)'
     ' OR (old.balance_account_id <> new.balance_account_id)))'),
    ('payout_run_items', 'payout_run_items_deny_removal', 'deny_run_item_removal', 8, 'A', ''),
    ('payout_run_progress', 'payout_run_progress_deny_change', 'deny_change', 42, 'A', ''),
    ('payout_run_progress', 'payout_run_progress_deny_move', 'deny_move', 17, 'A',
     '(((old.reached_balance_account_id > new.reached_balance_account_id)'
     ' OR (old.payout_run_id <> new.payout_run_id)'
     ' OR ((old.accounts_snapshot)::text <> (new.accounts_snapshot)::text)'
     ' OR (old.moved_balance_account_id <> new.moved_balance_account_id)'
     ' OR (old.last_balance_account_id <> new.last_balance_account_id)))'),
    ('payout_runs', 'payout_runs_deny_change', 'deny_change', 42, 'A', ''),
    ('payout_runs', 'payout_runs_deny_move', 'deny_move', 17, 'A',
     '(((old.state <> ''RUNNING''::text)'
     ' OR (old.payout_run_id <> new.payout_run_id)'
     ' OR (old.currency <> new.currency)'
     ' OR (old.as_of <> new.as_of)'
     ' OR (old.cutoff_at <> new.cutoff_at)'
     ' OR (old.min_amount_minor <> new.min_amount_minor)'
     ' OR (old.request_id <> new.request_id)'
     ' OR (old.created_at <> new.created_at)))'),
    ('payout_runs', 'payout_runs_keep_going', 'keep_payout_run_going', 19, 'O',
     '(((old.state = ''RUNNING''::text) AND (new.state = ''SUCCEEDED''::text)))'),
    ('payout_submission_items', 'payout_submission_items_deny_change', 'deny_change', 58, 'A', ''),
    ('payout_submissions', 'payout_submissions_deny_change', 'deny_change', 58, 'A', ''),
    ('payouts', 'payouts_check_items', 'check_payout_items', 4, 'O', ''),
    ('payouts', 'payouts_check_move', 'check_payout_move', 19, 'A', ''),
    ('payouts', 'payouts_check_run', 'check_run_is_under_way', 4, 'O', ''),
    ('payouts', 'payouts_check_terms', 'check_payout_terms', 7, 'O',
     '((new.retained_minor IS NULL))'),
    ('payouts', 'payouts_deny_change', 'deny_change', 42, 'A', ''),
    ('processor_events', 'processor_events_deny_change', 'deny_change', 58, 'A', ''),
    ('quarantine_moves', 'quarantine_moves_deny_change', 'deny_change', 58, 'A', ''),
    ('quarantined_payloads', 'quarantined_payloads_deny_change', 'deny_change', 42, 'A', ''),
    ('quarantined_payloads', 'quarantined_payloads_move', 'check_quarantine_move', 19, 'A', ''),
    ('quarantined_payloads', 'quarantined_payloads_state', 'check_quarantine_state', 21, 'O', ''),
    ('statement_marks', 'statement_marks_deny_change', 'deny_change', 18, 'A', ''),
    ('statement_marks', 'statement_marks_skip_without_funds', 'skip_mark_without_funds', 7, 'A',
     '((new.funds_minor IS NULL))')
)
SELECT 'append_only_triggers_are_on' AS check_name, 'ERROR' AS severity,
       'table ' || w.table_name AS entity,
       format('trigger %s %s', w.trigger_name,
              CASE WHEN t.oid IS NULL THEN 'is missing'
                   WHEN t.tgenabled::text <> w.enabled THEN
                     format('is not on as it should be, which `ledger migrate` mends:'
                            ' tgenabled is %s, not %s', t.tgenabled, w.enabled)
                   WHEN NOT f.has_fixed_path THEN
                     format('has a function without a fixed search_path: %s', f.proname)
                   ELSE 'is not as the migrations made it' END) AS detail
FROM wanted AS w
LEFT JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = to_regclass(w.table_name)
  AND t.tgname = w.trigger_name
LEFT JOIN LATERAL (
  SELECT p.proname, p.prosrc,
         format('search_path=pg_catalog, %I, pg_temp', n.nspname)
           = ANY (COALESCE(p.proconfig, '{}')) AS has_fixed_path
  FROM pg_catalog.pg_proc AS p
  JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
  WHERE p.oid = t.tgfoid
) AS f ON true
WHERE (t.tgenabled::text = w.enabled AND t.tgtype = w.trigger_type AND t.tgattr::text = ''
       AND COALESCE(substring(pg_get_triggerdef(t.oid) FROM 'WHEN (.*) EXECUTE FUNCTION'), '')
         = w.condition
       AND f.proname = w.function_name AND f.has_fixed_path
       AND f.prosrc LIKE CASE WHEN f.proname IN ('keep_payout_run_going', 'skip_mark_without_funds')
                              THEN '%RETURN NULL%' ELSE '%RAISE EXCEPTION%' END
      ) IS NOT TRUE;

-- check: constraints_are_in_force
-- scope: small
-- Every constraint of a table or a domain exists, is validated and has the definition of the
-- migrations, and domains have no others. Only the columns listed below may be NULL, every foreign
-- key's trigger is on, every index is valid, and the indexes exist that let payouts exclude each
-- other and give an account one balance account. No rule rewrites statements, and row security
-- hides no rows. A migration that adds or changes a constraint, a unique index or a nullable column
-- changes these lists. Tests compare them with the schema.
--
-- A digest is the beginning of the SHA-256 of pg_get_constraintdef(), which sql/schema.sql shows,
-- without its parentheses: a restore leaves out some that change nothing.
WITH wanted (table_name, constraint_name, digest) AS (
  VALUES
    ('accounts', 'accounts_account_id_check', 'fd3e7182c5b98a22412763a1fdc6b49a'),
    ('accounts', 'accounts_currency_check', '0a749a39d285b57f61c571c4351d0fac'),
    ('accounts', 'accounts_metadata_check', 'c4cfe20ec68c24cb2d9b4a7b29ba96d0'),
    ('accounts', 'accounts_name_check', '35e78d5c4096be526aff183fbaf2ed84'),
    ('accounts', 'accounts_opened_with_check', '8828395d7ffb8a2be80114097c9d2b32'),
    ('accounts', 'accounts_overdraft_limit_minor_check', '9baa55024ba318f760cbe5684574f9c2'),
    ('accounts', 'accounts_pkey', '25d72de1aa1ca00431229603ee3a7c9b'),
    ('accounts', 'accounts_state_check', '178a902d31015bfddd973b5fad4f6a4c'),
    ('archived_ranges', 'archived_ranges_file_bytes_check', '3e5c01d0a97cdbcef626ba8d6427f9c8'),
    ('archived_ranges', 'archived_ranges_file_hash_check', '2a312367263fb568b8ee85e0dbfb129b'),
    ('archived_ranges', 'archived_ranges_file_name_check', 'b07d862aacbbac116d72c2820f3ccf68'),
    ('archived_ranges', 'archived_ranges_file_name_key', '583dd38b880614a3008315e49df5ad2f'),
    ('archived_ranges', 'archived_ranges_kind_check', 'a20f16c6094bc565c53b24a1be28fab0'),
    ('archived_ranges', 'archived_ranges_pkey', '7c790a50e4b057d7244d89c537c5cc82'),
    ('archived_ranges', 'archived_ranges_range_check', 'f6edb93006b95bcfd0d50bbb735039d1'),
    ('archived_ranges', 'archived_ranges_rows_count_check', '7f844bbd0768cb1a887dd44a1e74ad49'),
    ('archived_run_outcomes', 'archived_run_outcomes_archive_id_fkey',
     '88936360d7cce45bc087cd8237f2e873'),
    ('archived_run_outcomes', 'archived_run_outcomes_items_count_check',
     '6ce8349565271bd716ff06f09a437587'),
    ('archived_run_outcomes', 'archived_run_outcomes_outcome_check',
     'd4ece0e5a9b2da29941ee7c9a6b302c9'),
    ('archived_run_outcomes', 'archived_run_outcomes_payout_run_id_fkey',
     '8185e6d5becb890a2d9855c140e5b672'),
    ('archived_run_outcomes', 'archived_run_outcomes_pkey', '6d26e5078f3681212aef3dd44d674924'),
    ('archived_run_outcomes', 'archived_run_outcomes_skip_reason_check',
     'b399814bf3814cc29e84864d12d4aa31'),
    ('audit_log', 'audit_log_caller_check', 'a1787c5a8beb55991ba140d7a493b295'),
    ('audit_log', 'audit_log_credential_check', '12ad2be7bf0b6da1b75ec461ba2dd7bb'),
    ('audit_log', 'audit_log_identity_check', '32eec819fcf1da7860fc1db671e3a595'),
    ('audit_log', 'audit_log_method_check', 'ed2b5447007f5fd1c410bdef369eb251'),
    ('audit_log', 'audit_log_outcome_check', 'd4ece0e5a9b2da29941ee7c9a6b302c9'),
    ('audit_log', 'audit_log_peer_check', '5d281846e6501488f43d86bbb66c8cf7'),
    ('audit_log', 'audit_log_pkey', 'a5ee69c314ee2a27ea8b4901f133f99e'),
    ('audit_log', 'audit_log_request_id_check', 'ac976656b47663823e067cbdbdf98a70'),
    ('audit_log', 'audit_log_what_check', '9468260a2e282e32e23b037fe90585e1'),
    ('balance_accounts', 'balance_accounts_account_id_fkey', '43b3a58bfd70b9154f25ec47e253eb56'),
    ('balance_accounts', 'balance_accounts_currency_check', '0a749a39d285b57f61c571c4351d0fac'),
    ('balance_accounts', 'balance_accounts_holder_check', '827966e9afb0ff548bfcd11363fa53ea'),
    ('balance_accounts', 'balance_accounts_pkey', '42d65cd9d764d159d394f19b66805025'),
    ('balance_accounts', 'balance_accounts_restaurant_id_currency_key',
     '372fb0de70a5d618dea56c02c5fba6af'),
    ('balance_accounts', 'balance_accounts_restaurant_id_fkey', '5b525f3f9965a8eed55612d7023c6a25'),
    ('balance_snapshots', 'balance_snapshots_balance_account_id_fkey',
     'a9ca21df048c03b1a4c7bf12b7669cd0'),
    ('balance_snapshots', 'balance_snapshots_entries_count_check',
     '4f4b33490803a0b7edf8cd0f8019eda2'),
    ('balance_snapshots', 'balance_snapshots_ledger_accounts_check',
     '96707dbbd18586fe256b3fe7655fff5c'),
    ('balance_snapshots', 'balance_snapshots_lines_check', '61c7d9c60b8bbbf1d3cf737e5811a62b'),
    ('balance_snapshots', 'balance_snapshots_pkey', '2b1a47cb1f729b15a0ba477443cdd388'),
    ('ledger_entries', 'ledger_entries_accounts_check', '4e93483f43f4b6f27df61f9817b698ec'),
    ('ledger_entries', 'ledger_entries_amount_minor_check', 'f5a1b6bc4da6bf451c12034afdaa5c15'),
    ('ledger_entries', 'ledger_entries_available_at_check', '0e00606c6b1bc12d5814f4ff34820cc1'),
    ('ledger_entries', 'ledger_entries_cause_check', '818e7a0e234c4a78e8348c9295483172'),
    ('ledger_entries', 'ledger_entries_payout_id_check', '3682cbf3343e985de3303c8a366a653c'),
    ('ledger_entries', 'ledger_entries_pkey', '83700af268f83e6af5b543310c4f5dd1'),
    ('ledger_entries', 'ledger_entries_position_check', '88e39447d5d7e85ac8a2b2fae43116be'),
    ('ledger_seals', 'ledger_seals_contents_hash_check', 'c80e0ba8eb99a6b27b32fc79c16b93c0'),
    ('ledger_seals', 'ledger_seals_entries_count_check', 'ae083a2feb7d3a765619b3ace2734201'),
    ('ledger_seals', 'ledger_seals_epoch_check', '7db728cadf477a86572ff5aaf30a785e'),
    ('ledger_seals', 'ledger_seals_events_count_check', '6a4a34c3b129e5bc762ca16deb3d2ab9'),
    ('ledger_seals', 'ledger_seals_first_txid_check', '06f2e21c1e48be919e77dab848a70e09'),
    ('ledger_seals', 'ledger_seals_hash_check', '57624f8d647edb524cc8975b8b3576b4'),
    ('ledger_seals', 'ledger_seals_pkey', '2ef3ba28b85c25f2e060238eae426aef'),
    ('ledger_seals', 'ledger_seals_previous_hash_check', '64fd551d5723eb748a0c5d6aab755076'),
    ('ledger_seals', 'ledger_seals_previous_hash_key', 'cf1b8148d7ae129e5bd191684d1a82d7'),
    ('ledger_seals', 'ledger_seals_sequence_check', '0eae12fe43e370c5cac7d661cd11f3a3'),
    ('ledger_seals', 'ledger_seals_txids_check', 'bb3571c254868ba019825ff3f041f7ef'),
    ('ledger_stays', 'ledger_stays_number_check', 'aecc66474cc4737d098b3fdd80181bf7'),
    ('ledger_stays', 'ledger_stays_pkey', 'a607b2f5bd1f18a40a7244f905904940'),
    ('ledger_verifications', 'ledger_verifications_checks_digest_check',
     '0f8a5f65d7e5709453d6aa4f4a87e282'),
    ('ledger_verifications', 'ledger_verifications_errors_count_check',
     '2dc9132b21c657fcac3afdf0a46e856e'),
    ('ledger_verifications', 'ledger_verifications_number_check',
     'aecc66474cc4737d098b3fdd80181bf7'),
    ('ledger_verifications', 'ledger_verifications_pkey', '11640574057e8df50d4a3636a6f38a8b'),
    ('ledger_verifications', 'ledger_verifications_seal_hash_check',
     '8a930f0802506186c28debe2da22c365'),
    ('ledger_verifications', 'ledger_verifications_txids_check',
     '16d4e24293ab9c8ce7e169ede2bbf4ce'),
    ('ledger_verifications', 'ledger_verifications_warnings_count_check',
     '38d20707efce7b56df3f30305bae2a8d'),
    ('ledger_verifications', 'ledger_verifications_whole_number_check',
     '684ec2e89afa083e063749aa1b026fb2'),
    ('page_token_keys', 'page_token_keys_pkey', 'e66263d7221598c90d3129d7fc4f8d40'),
    ('page_token_keys', 'page_token_keys_secret_check', '188fdd900cebaa0ee8fcec2bc0c079cd'),
    ('payment_operations', 'payment_operations_caller_check', '1164a33aa6166e27d0db905a2995001e'),
    ('payment_operations', 'payment_operations_decline_reason_check',
     '28894f699495cd40b8ffc4a20b072da7'),
    ('payment_operations', 'payment_operations_is_final_check', 'e3b23e2df6d5142391c4de71841a413f'),
    ('payment_operations', 'payment_operations_kind_check', '605908d28c3a2000df46f005b889fa60'),
    ('payment_operations', 'payment_operations_moved_check', 'f9760a01f17cf83052fa4361291c266c'),
    ('payment_operations', 'payment_operations_operation_id_check',
     '47ae65a3838c2cf91a0d29e21002e98a'),
    ('payment_operations', 'payment_operations_operation_id_key',
     '701fe3b5ad25c0ae92a4b757daffe8f9'),
    ('payment_operations', 'payment_operations_payment_id_fkey',
     '57cdc3a6a4486d14bafc8b91613c2cf3'),
    ('payment_operations', 'payment_operations_pkey', '429cc85f45b23c9beb882030d1549fef'),
    ('payment_operations', 'payment_operations_requested_minor_check',
     'f7069cdffd252305d581a2853bd5a2b3'),
    ('payment_operations', 'payment_operations_sequence_check', '0eae12fe43e370c5cac7d661cd11f3a3'),
    ('payment_operations', 'payment_operations_state_check', 'e6cea162fb18af1c6dfd3ab20f622b94'),
    ('payments', 'payments_amount_minor_check', 'a1299305e1a6009399b998f1a791c025'),
    ('payments', 'payments_capture_check', '870e72e06558842dbc1a2d46493395b1'),
    ('payments', 'payments_capture_state_check', 'a57fae1a91ca866455aa04a3ea33c2b8'),
    ('payments', 'payments_captured_minor_check', 'ccbb92e2f7b210b92f09b44908a75a94'),
    ('payments', 'payments_currency_check', '0a749a39d285b57f61c571c4351d0fac'),
    ('payments', 'payments_decline_reason_check', '28894f699495cd40b8ffc4a20b072da7'),
    ('payments', 'payments_declined_check', 'dd4d4a38e63d32f5d5d90a9d96e50114'),
    ('payments', 'payments_expires_at_check', 'c1c91ddc505e435b1ccdbce62bb508b6'),
    ('payments', 'payments_fee_minor_check', '713dfca30f238d83e72de8760b4b4eda'),
    ('payments', 'payments_metadata_check', '03cb94b4cec23e07530d553ec53c148c'),
    ('payments', 'payments_parties_check', 'f69aa86878d08e9f63af01a660ac0acf'),
    ('payments', 'payments_payment_id_check', '271c72300bd12700cbd6fed331923521'),
    ('payments', 'payments_pkey', 'f1fff234a29867ed0d34062386de5a3c'),
    ('payments', 'payments_reference_check', '372421e0adabc12db0469e0de9cd5bd2'),
    ('payments', 'payments_refunded_minor_check', '1af17aba2d0814d7bbf08a72fb56d546'),
    ('payments', 'payments_state_check', 'e6cea162fb18af1c6dfd3ab20f622b94'),
    ('payout_items', 'payout_items_entry_type_check', '9caf8e39dc0c461c39e0418ba1aa926c'),
    ('payout_items', 'payout_items_pkey', '05d5a06b9dfe3c7a235e69a8bc607e2b'),
    ('payout_run_items', 'payout_run_items_outcome_check', 'a222b95cd08be1724a22ea65bd81b84f'),
    ('payout_run_items', 'payout_run_items_payout_id_fkey', '3f2afe82a2755713654c09cb4fa8ab36'),
    ('payout_run_items', 'payout_run_items_payout_run_id_fkey', '8185e6d5becb890a2d9855c140e5b672'),
    ('payout_run_items', 'payout_run_items_pkey', 'f80fdd93b82561ecdce07d493ac9a31e'),
    ('payout_run_items', 'payout_run_items_retained_minor_check',
     'e4ba93a923b2bd95dea1d5af38ac580c'),
    ('payout_run_items', 'payout_run_items_skip_reason_check', 'dbc9fcf245941b8c0e0a2dd7ede9f35a'),
    ('payout_run_items', 'payout_run_items_state_check', '901f5b5d21b7c27d656db2916de8b42f'),
    ('payout_run_progress', 'payout_run_progress_payout_run_id_fkey',
     '8185e6d5becb890a2d9855c140e5b672'),
    ('payout_run_progress', 'payout_run_progress_pkey', '9fbbb6063cf1120629bb652c0aa29f1e'),
    ('payout_run_progress', 'payout_run_progress_reached_check',
     'a9e7e66add958ec7037c8063863cdf02'),
    ('payout_runs', 'payout_runs_currency_as_of_min_amount_minor_request_id_key',
     '7ee895430f65a178f9eeecad1fadedf2'),
    ('payout_runs', 'payout_runs_currency_check', '0a749a39d285b57f61c571c4351d0fac'),
    ('payout_runs', 'payout_runs_cutoff_at_check', '6cb4fdb4ed610a11edcb8a1698983c0d'),
    ('payout_runs', 'payout_runs_finished_at_check', 'df92179a420981426dcbeac0a65af79a'),
    ('payout_runs', 'payout_runs_min_amount_minor_check', '27ab72ba803defb60aa218730e8b5933'),
    ('payout_runs', 'payout_runs_pkey', '9fbbb6063cf1120629bb652c0aa29f1e'),
    ('payout_runs', 'payout_runs_request_id_check', '8043f72b912a74fe0fd6017c7bb3778f'),
    ('payout_runs', 'payout_runs_restaurants_named_check', 'a3cdecef109e3bee6770b2d2c9236d07'),
    ('payout_runs', 'payout_runs_state_check', '09da031f3e192ef93b78416dbd050570'),
    ('payout_runs', 'payout_runs_zone_table_version_check', 'a56f7cba56d13d5a7163611a2cc9e357'),
    ('payout_submission_items', 'payout_submission_items_payout_id_fkey',
     '3f2afe82a2755713654c09cb4fa8ab36'),
    ('payout_submission_items', 'payout_submission_items_pkey', '0cbd4c026a93d89d4d01bc52a76831f4'),
    ('payout_submission_items', 'payout_submission_items_submission_id_fkey',
     '122a5fd342599d0e096d5e2886c54076'),
    ('payout_submissions', 'payout_submissions_currency_check', '0a749a39d285b57f61c571c4351d0fac'),
    ('payout_submissions', 'payout_submissions_left_out_check', '88982abf35b4aba44d1cb1fad6d5ccf1'),
    ('payout_submissions', 'payout_submissions_payout_run_id_fkey',
     '8185e6d5becb890a2d9855c140e5b672'),
    ('payout_submissions', 'payout_submissions_payouts_count_check',
     '8fd710039c2af2df9b58c2c80cb026c1'),
    ('payout_submissions', 'payout_submissions_payouts_max_check',
     '70dd0ecd2087c76b65c46e66c54ed0df'),
    ('payout_submissions', 'payout_submissions_pkey', 'c287ecd8b6e0f2601d68c6a29ff61707'),
    ('payout_submissions', 'payout_submissions_submission_id_check',
     '03565127628b270ce8e483320b21832d'),
    ('payout_submissions', 'payout_submissions_total_minor_check',
     'cc8c610095e18bff4f0d3c9258211dda'),
    ('payouts', 'payouts_amount_minor_check', 'f5a1b6bc4da6bf451c12034afdaa5c15'),
    ('payouts', 'payouts_available_minor_check', '7502a5ff31f25732090df0d89e72b8c6'),
    ('payouts', 'payouts_balance_account_id_fkey', 'a9ca21df048c03b1a4c7bf12b7669cd0'),
    ('payouts', 'payouts_balance_account_id_sequence_key', '7dfcc2e924ed747c3f9a780a2d664025'),
    ('payouts', 'payouts_payout_run_id_fkey', '8185e6d5becb890a2d9855c140e5b672'),
    ('payouts', 'payouts_pkey', '0cbd4c026a93d89d4d01bc52a76831f4'),
    ('payouts', 'payouts_retained_minor_check', 'a7dbfa27f49d92ba37ffbd90a1cde8ce'),
    ('payouts', 'payouts_sequence_check', '0eae12fe43e370c5cac7d661cd11f3a3'),
    ('payouts', 'payouts_state_check', '09264e7546dba61c20c05c92b3e38733'),
    ('processor_events', 'processor_events_amount_minor_check', 'b7e51eaf8a17c564dca662bd1fd2d1cb'),
    ('processor_events', 'processor_events_event_id_check', 'd30ea9ab97f43b2b6ae015145c4008eb'),
    ('processor_events', 'processor_events_fee_minor_check', '0fcfdbaa348f8146920c87be1ab0ab85'),
    ('processor_events', 'processor_events_fingerprint_check', '591d15fa507e7cad00e7578135df29f7'),
    ('processor_events', 'processor_events_metadata_check', '03cb94b4cec23e07530d553ec53c148c'),
    ('processor_events', 'processor_events_occurred_at_check', 'a51b013d1abf18746823457bbecbc709'),
    ('processor_events', 'processor_events_payout_id_check', 'aa56043ffbfc98d14eb9093debfd4b9f'),
    ('processor_events', 'processor_events_pkey', '664f6590bb373fbc0a6140854ab207a4'),
    ('processor_events', 'processor_events_reference_check', '372421e0adabc12db0469e0de9cd5bd2'),
    ('processor_events', 'processor_events_terms_check', '03830bd037cef21830bcd72264176fcb'),
    ('quarantine_moves', 'quarantine_moves_actor_check', '2cd156684294ed9c2a31c4a2f8c56c11'),
    ('quarantine_moves', 'quarantine_moves_detail_check', 'b4ff03fb3d3e944aeafd6c36700e5a82'),
    ('quarantine_moves', 'quarantine_moves_event_ids_check', 'b21426382e50ebc3620693a5fab5cdc1'),
    ('quarantine_moves', 'quarantine_moves_first_check', '9f8dc464cf593a2d27c27f710b82cf41'),
    ('quarantine_moves', 'quarantine_moves_number_check', 'aecc66474cc4737d098b3fdd80181bf7'),
    ('quarantine_moves', 'quarantine_moves_pkey', '4501c86e8f08c479c9aa65b361f18ffe'),
    ('quarantine_moves', 'quarantine_moves_quarantine_id_fkey', 'e3382c8b78f714bae28e65b8b0f2e283'),
    ('quarantine_moves', 'quarantine_moves_reason_check', 'dbcf1c5f8d22d68c7102e7ce179bed88'),
    ('quarantine_moves', 'quarantine_moves_retry_at_check', '9aeb5bb51930040837db42ea90ae7dd6'),
    ('quarantine_moves', 'quarantine_moves_state_check', 'af34812f3289de620f09ae418921403f'),
    ('quarantined_payloads', 'quarantined_payloads_body_check', '38f7ab439f36f6e0a4c727b80125aa4d'),
    ('quarantined_payloads', 'quarantined_payloads_detail_check',
     'c022229d51aa147929afda576aad3997'),
    ('quarantined_payloads', 'quarantined_payloads_endpoint_body_sha256_query_key',
     '9941f2cd8ae66a6f69c08d60ab64d554'),
    ('quarantined_payloads', 'quarantined_payloads_endpoint_check',
     '3bfeb3dbbbf016448a39b023f5cbd960'),
    ('quarantined_payloads', 'quarantined_payloads_headers_check',
     '40c609c75cb245c7839a39f2b1a323c1'),
    ('quarantined_payloads', 'quarantined_payloads_kind_check', '82eca318a3c29931285193ee5ea27cba'),
    ('quarantined_payloads', 'quarantined_payloads_move_number_check',
     'e6707b5e3c111d5892c70e072d1e9f79'),
    ('quarantined_payloads', 'quarantined_payloads_pkey', '7f426a953ef70e8571eef523afa656f9'),
    ('quarantined_payloads', 'quarantined_payloads_processor_check',
     '205dc2549071c70b48419e0fdaa9a97b'),
    ('quarantined_payloads', 'quarantined_payloads_query_check',
     'b580fe587cd2bc3acdd4fc534eb00e47'),
    ('quarantined_payloads', 'quarantined_payloads_reason_check',
     'b692ec323a13e71087923d39ca25cfcd'),
    ('quarantined_payloads', 'quarantined_payloads_retry_at_check',
     '9aeb5bb51930040837db42ea90ae7dd6'),
    ('quarantined_payloads', 'quarantined_payloads_state_check',
     'af34812f3289de620f09ae418921403f'),
    ('restaurants', 'restaurants_maturity_days_check', 'd881cc039e976f96d321f5037cbfdc31'),
    ('restaurants', 'restaurants_metadata_check', 'c4cfe20ec68c24cb2d9b4a7b29ba96d0'),
    ('restaurants', 'restaurants_min_balance_minor_check', '8071861755738cc51ee9bcafdac8218b'),
    ('restaurants', 'restaurants_name_check', '35e78d5c4096be526aff183fbaf2ed84'),
    ('restaurants', 'restaurants_payout_hold_check', '30f845df47b1f31e9599b2db4d4ce094'),
    ('restaurants', 'restaurants_pkey', '15a23a37a78c64e2a1bddaa7711b7f46'),
    ('restaurants', 'restaurants_restaurant_id_check', 'cb0fc0598e46dd3ea41f1bdb7173711b'),
    ('statement_marks', 'statement_marks_balance_account_id_fkey',
     'a9ca21df048c03b1a4c7bf12b7669cd0'),
    ('statement_marks', 'statement_marks_entries_count_check', '4f4b33490803a0b7edf8cd0f8019eda2'),
    ('statement_marks', 'statement_marks_late_by_max_check', 'd9ae3a814bf629e0d719f9a045523b97'),
    ('statement_marks', 'statement_marks_pkey', '2b1a47cb1f729b15a0ba477443cdd388')
),
wanted_of_domain (domain_name, constraint_name, digest) AS (
  VALUES
    ('decline_reason', 'decline_reason_check', '2374ab0dee246253a3134f20aeb1e7f4'),
    ('event_type', 'event_type_check', 'd0a4742cdbaf7139aa02bed04dd57f04'),
    ('fee_event_type', 'fee_event_type_check', '5bac5463e7f55fc5e4712fb115eb1aec'),
    ('given_id', 'given_id_check', 'd532fd505b0ca201c75a48f1db0919c0'),
    ('given_metadata', 'given_metadata_check', '62a85a7526cccff982e731a82625b8ad'),
    ('given_reference', 'given_reference_check', '3cd18b0dbafb70c8ab6f8554e7fa0325'),
    ('interaccount_rest', 'interaccount_rest_check', '0f67fee041d137cc9c0b447cb3296874'),
    ('maturing_entry_type', 'maturing_entry_type_check', '969ed51d5c78a4cbd3878fd1376a810b'),
    ('payment_state', 'payment_state_check', 'f3aec6be4fd5a56c73d88cb1a0ea7c7b'),
    ('posting_rule', 'posting_rule_check', 'c132e2fe2d4d705bc752c8771fa419b4'),
    ('restaurant_event_type', 'restaurant_event_type_check', '96f54a3780ba5c92b13291ef411fce3c')
),
nullable (table_name, column_name) AS (
  VALUES
    ('accounts', 'overdraft_limit_minor'),
    ('balance_accounts', 'account_id'),
    ('balance_accounts', 'opened_txid'),
    ('balance_accounts', 'restaurant_id'),
    ('balance_snapshots', 'last_event_at'),
    ('balance_snapshots', 'written_txid'),
    ('ledger_entries', 'available_at'),
    ('ledger_entries', 'event_id'),
    ('ledger_entries', 'occurred_at'),
    ('ledger_entries', 'payment_id'),
    ('ledger_entries', 'payout_id'),
    ('payment_operations', 'decline_reason'),
    ('payment_operations', 'operation_id'),
    ('payments', 'decline_reason'),
    ('payments', 'expires_at'),
    ('payout_run_items', 'available_minor'),
    ('payout_run_items', 'payout_id'),
    ('payout_run_items', 'retained_minor'),
    ('payout_run_items', 'skip_reason'),
    ('payout_runs', 'finished_at'),
    ('payout_runs', 'zone_table_version'),
    ('payout_submissions', 'payout_run_id'),
    ('payouts', 'counted_snapshot'),
    ('payouts', 'retained_before_minor'),
    ('payouts', 'retained_minor'),
    ('processor_events', 'available_at'),
    ('processor_events', 'bank_reference'),
    ('processor_events', 'failure_code'),
    ('processor_events', 'failure_text'),
    ('processor_events', 'payout_id'),
    ('processor_events', 'processor_fee_minor'),
    ('quarantine_moves', 'retry_at'),
    ('quarantined_payloads', 'retry_at'),
    ('restaurants', 'maturity_days'),
    ('restaurants', 'payout_hold_reason'),
    ('restaurants', 'payout_hold_until'),
    ('statement_marks', 'funds_minor'),
    ('statement_marks', 'written_txid')
),
-- Unique indexes with a condition, which no constraint can be.
unique_where (table_name, index_name, condition) AS (
  VALUES
    ('balance_accounts', 'balance_accounts_account_id_key', '(account_id IS NOT NULL)'),
    ('balance_accounts', 'balance_accounts_platform_key',
     '((restaurant_id IS NULL) AND (account_id IS NULL))'),
    ('payouts', 'payouts_in_flight_key',
     '(state = ANY (ARRAY[''CREATED''::text, ''SUBMITTED''::text]))'),
    ('payouts', 'payouts_live_key',
     '(state = ANY (ARRAY[''CREATED''::text, ''SUBMITTED''::text, ''PAID''::text]))')
),
ours AS (
  SELECT DISTINCT table_name, to_regclass(table_name) AS table_oid FROM wanted
),
found AS (
  SELECT conrelid, contypid, conname, convalidated, pg_get_constraintdef(oid) AS definition,
         left(encode(sha256(convert_to(translate(pg_get_constraintdef(oid), '()', ''), 'UTF8')),
                     'hex'), 32) AS digest
  FROM pg_catalog.pg_constraint
),
broken AS (
  SELECT 'table ' || w.table_name AS entity,
         format('constraint %s %s', w.constraint_name,
                CASE WHEN f.conname IS NULL THEN 'is missing'
                     WHEN NOT f.convalidated THEN 'is not validated'
                     ELSE 'is not as the migrations made it: ' || f.definition END) AS detail
  FROM wanted AS w
  LEFT JOIN found AS f ON f.conrelid = to_regclass(w.table_name) AND f.conname = w.constraint_name
  WHERE (f.convalidated AND f.digest = w.digest) IS NOT TRUE
  UNION ALL
  SELECT 'domain ' || w.domain_name,
         format('constraint %s %s', w.constraint_name,
                CASE WHEN f.conname IS NULL THEN 'is missing'
                     WHEN NOT f.convalidated THEN 'is not validated'
                     ELSE 'is not as the migrations made it: ' || f.definition END)
  FROM wanted_of_domain AS w
  LEFT JOIN found AS f ON f.contypid = to_regtype(w.domain_name) AND f.conname = w.constraint_name
  WHERE (f.convalidated AND f.digest = w.digest) IS NOT TRUE
  UNION ALL
  SELECT 'domain ' || d.domain_name,
         format('constraint %s is none of the migrations: %s', f.conname, f.definition)
  FROM (SELECT DISTINCT domain_name FROM wanted_of_domain) AS d
  JOIN found AS f ON f.contypid = to_regtype(d.domain_name)
  LEFT JOIN wanted_of_domain AS w ON w.domain_name = d.domain_name AND w.constraint_name = f.conname
  WHERE w.constraint_name IS NULL
  UNION ALL
  SELECT 'table ' || o.table_name, 'row security is on, which hides rows'
  FROM ours AS o
  JOIN pg_catalog.pg_class AS c ON c.oid = o.table_oid
  WHERE c.relrowsecurity
  UNION ALL
  SELECT 'table ' || o.table_name, format('rule %s rewrites statements', r.rulename)
  FROM ours AS o
  JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = o.table_oid
  UNION ALL
  SELECT 'table ' || o.table_name, format('column %s may be NULL', a.attname)
  FROM ours AS o
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = o.table_oid AND a.attnum > 0
    AND NOT a.attisdropped
  LEFT JOIN nullable AS n ON n.table_name = o.table_name AND n.column_name = a.attname
  WHERE NOT a.attnotnull AND n.column_name IS NULL
  UNION ALL
  SELECT 'table ' || o.table_name, format('trigger %s is not on', t.tgname)
  FROM ours AS o
  JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = o.table_oid
  WHERE t.tgenabled NOT IN ('O', 'A')
  UNION ALL
  SELECT 'table ' || o.table_name, format('index %s is not valid', i.indexrelid::regclass)
  FROM ours AS o
  JOIN pg_catalog.pg_index AS i ON i.indrelid = o.table_oid
  WHERE NOT (i.indisvalid AND i.indisready)
  UNION ALL
  SELECT 'table ' || w.table_name,
         format('index %s %s', w.index_name,
                CASE WHEN i.indexrelid IS NULL THEN 'is missing'
                     ELSE 'is not as the migrations made it' END)
  FROM unique_where AS w
  LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = to_regclass(w.index_name)
    AND i.indrelid = to_regclass(w.table_name)
  WHERE (i.indisunique AND pg_get_expr(i.indpred, i.indrelid) = w.condition) IS NOT TRUE
)
SELECT 'constraints_are_in_force' AS check_name, 'ERROR' AS severity, entity, detail
FROM broken;

-- check: views_are_as_they_were_made
-- scope: small
-- Every view exists and has the definition of the migrations, so that this audit and the reports
-- read what is booked. A migration that adds or changes a view changes this list; a test compares
-- the list with the schema.
WITH wanted (view_name, definition) AS (
  VALUES
    ('current_place',
     'SELECT COALESCE('
     '(NULLIF(current_setting(''ledger.system_identifier''::text, true), ''''::text))'
     '::bigint, ( SELECT pg_control_system.system_identifier FROM pg_control_system()'
     ' pg_control_system(pg_control_version, catalog_version_no, system_identifier,'
     ' pg_control_last_modified))) AS system_identifier,'
     ' ((''ledger_entries''::regclass)::oid)::bigint AS entries_oid,'
     ' pg_relation_filepath(''ledger_entries''::regclass) AS entries_file;'),
    ('current_stay',
     'SELECT latest.stay_id'
     ' FROM (( SELECT ledger_stays.number, ledger_stays.stay_id, ledger_stays.system_identifier,'
     ' ledger_stays.entries_oid, ledger_stays.entries_file, ledger_stays.began_at'
     ' FROM ledger_stays ORDER BY ledger_stays.number DESC, ledger_stays.stay_id DESC LIMIT 1)'
     ' latest'
     ' JOIN current_place place ON (((place.system_identifier = latest.system_identifier)'
     ' AND (place.entries_oid = latest.entries_oid)'
     ' AND (place.entries_file = latest.entries_file))))'
     ' WHERE (NOT (EXISTS ( SELECT FROM ledger_stays other'
     ' WHERE ((other.number = latest.number) AND (other.stay_id <> latest.stay_id)))));'),
    ('ledger_movements',
     'SELECT ledger_entries.balance_account_id, ledger_entries.recorded_txid,'
     ' ledger_entries.transaction_id, ledger_entries."position", ''credit''::text AS side,'
     ' ledger_entries.credit_account AS ledger_account,'
     ' ledger_entries.entry_type, ledger_entries.amount_minor AS signed_minor,'
     ' ledger_entries.available_at, ledger_entries.occurred_at, ledger_entries.recorded_at,'
     ' ledger_entries.event_id, ledger_entries.payout_id, ledger_entries.payment_id'
     ' FROM ledger_entries'
     ' UNION ALL'
     ' SELECT ledger_entries.balance_account_id, ledger_entries.recorded_txid,'
     ' ledger_entries.transaction_id, ledger_entries."position", ''debit''::text AS side,'
     ' ledger_entries.debit_account AS ledger_account,'
     ' ledger_entries.entry_type, (- ledger_entries.amount_minor) AS signed_minor,'
     ' ledger_entries.available_at, ledger_entries.occurred_at, ledger_entries.recorded_at,'
     ' ledger_entries.event_id, ledger_entries.payout_id, ledger_entries.payment_id'
     ' FROM ledger_entries;')
)
SELECT 'views_are_as_they_were_made' AS check_name, 'ERROR' AS severity,
       'view ' || w.view_name AS entity,
       CASE WHEN v.definition IS NULL THEN 'is missing'
            ELSE 'is not as the migrations made it' END AS detail
FROM wanted AS w
LEFT JOIN LATERAL (
  SELECT btrim(regexp_replace(pg_get_viewdef(c.oid), '\s+', ' ', 'g')) AS definition
  FROM pg_catalog.pg_class AS c
  WHERE c.oid = to_regclass(w.view_name) AND c.relkind = 'v'
) AS v ON true
WHERE v.definition IS DISTINCT FROM w.definition;

-- check: functions_are_as_they_were_made
-- scope: small
-- Every function exists and has the body, the rights and the path of the migrations. A migration
-- that adds or changes a function changes this list; a test compares the list with the schema.
--
-- A digest is the beginning of the SHA-256 of the body, of whether it runs as its owner, and of its
-- settings. The schema in a path is left out, as books may be in a schema of another name.
WITH wanted (function_name, digest) AS (
  VALUES
    ('advance_ledger_clock()', '56debfabe76e40044cb32d95ff0b422b'),
    ('catch_up_ledger_clock()', 'bc337caedbea3f630732a1c5af19920c'),
    ('check_payment_move()', '062a9f15881fca0d0c4e07a23e659223'),
    ('check_payout_items()', '64e53806c20a2cf05a03f00c68a2920b'),
    ('check_payout_move()', 'b9a4609bf8a76b833c8874c59c021f2a'),
    ('check_payout_terms()', '924fd896f96a8357122a69b6906854cf'),
    ('check_quarantine_move()', 'b1c94362525a6adad2d228706054e52c'),
    ('check_quarantine_state()', 'abce4c3db1fc8059725d2ebfd23e2b3e'),
    ('check_run_is_under_way()', '96752baf6ef9428ded9861f491340fd5'),
    ('check_sealed_events()', '575b78d32664fc995f70d5119bfeac00'),
    ('deny_call_removal()', '5695c7e22659713452678afca951cacf'),
    ('deny_change()', '3e5b605e0b7fba14af99bd73338a0e61'),
    ('deny_move()', 'e4924ce01fb4e59d1806af896b3c18b8'),
    ('deny_run_item_removal()', '49e4b80e4842780fdd1c034b6ffcb8ff'),
    ('has_valid_terms(text, text, interval, bigint)', '1d7583640d67da98fc6c14c68547c9b0'),
    ('has_valid_words(text, text, text, text)', 'f9f089d1f449dd5c495bf1af95dff6d0'),
    ('is_valid_event(processor_events)', 'd73b94af641591d676350b4dac2e3ac5'),
    ('keep_payout_run_going()', '33791efe2a8db0870c438e18339b427e'),
    ('ledger_clock_at()', 'ddc4b30c5e56a39d41f587dd1daa61df'),
    ('ledger_now()', 'edcb092f46038024d71900e8b1a3c0ee'),
    ('ledger_now_behind()', 'ec422d5345e40d1ca671cff2d8bb690a'),
    ('recorded_now()', 'fd3e46f0957dc19b73d2b3fedb5bc7e1'),
    ('seal_without_payments()', '8f5229c33f64b5fe7709c98424100731'),
    ('skip_mark_without_funds()', '7414b36fcb895f1909f4238bceb9b3b9'),
    ('summarize_recorded_txids()', '3fdf155dd44595e00e2fbdfb48080a5b'),
    ('write_payout_run_items(uuid, integer)', 'bbb003ea49a8cb29bafeeb47f0d5df83')
),
found AS (
  SELECT format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) AS function_name,
         left(encode(sha256(convert_to(concat_ws(
           ' ', COALESCE(pg_get_function_sqlbody(p.oid), p.prosrc), p.prosecdef,
           replace(array_to_string(p.proconfig, ' '),
                   format('search_path=pg_catalog, %I, pg_temp', n.nspname),
                   'search_path=pg_catalog, pg_temp')), 'UTF8')), 'hex'), 32) AS digest
  FROM pg_catalog.pg_proc AS p
  JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
  WHERE p.pronamespace = (SELECT relnamespace FROM pg_catalog.pg_class
                          WHERE oid = to_regclass('ledger_entries'))
)
SELECT 'functions_are_as_they_were_made' AS check_name, 'ERROR' AS severity,
       'function ' || w.function_name AS entity,
       CASE WHEN f.function_name IS NULL THEN 'is missing'
            ELSE 'is not as the migrations made it' END AS detail
FROM wanted AS w
LEFT JOIN found AS f ON f.function_name = w.function_name
WHERE f.digest IS DISTINCT FROM w.digest;

-- check: roles_hold_no_more_than_they_need
-- scope: small
-- The application adds to the books, changes profiles and moves payments, payouts and runs, and no
-- more; the reader reads. The check finds every privilege, whether by a grant, a grant to PUBLIC or
-- a membership. Nor do they own the domains and functions that refuse what is wrong. A migration
-- that grants something adds it here.
WITH role AS (
  SELECT w.role_name, r.oid,
         r.rolsuper OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls AS is_mighty,
         pg_has_role(r.oid, o.oid, 'MEMBER') AS is_owner
  FROM (VALUES ('ledger_app'), ('ledger_read')) AS w (role_name)
  LEFT JOIN pg_catalog.pg_roles AS r ON r.rolname = w.role_name
  LEFT JOIN pg_catalog.pg_roles AS o ON o.rolname = 'ledger_owner'
),
allowed (role_name, table_name, privilege, column_name) AS (
  VALUES
    ('ledger_app', 'restaurants', 'INSERT', ''),
    ('ledger_app', 'restaurants', 'UPDATE', 'name'),
    ('ledger_app', 'restaurants', 'UPDATE', 'active'),
    ('ledger_app', 'restaurants', 'UPDATE', 'maturity_days'),
    ('ledger_app', 'restaurants', 'UPDATE', 'metadata'),
    ('ledger_app', 'restaurants', 'UPDATE', 'payout_hold_reason'),
    ('ledger_app', 'restaurants', 'UPDATE', 'payout_hold_until'),
    ('ledger_app', 'restaurants', 'UPDATE', 'min_balance_minor'),
    ('ledger_app', 'restaurants', 'UPDATE', 'updated_at'),
    ('ledger_app', 'accounts', 'INSERT', ''),
    ('ledger_app', 'accounts', 'UPDATE', 'overdraft_limit_minor'),
    ('ledger_app', 'accounts', 'UPDATE', 'state'),
    ('ledger_app', 'accounts', 'UPDATE', 'name'),
    ('ledger_app', 'accounts', 'UPDATE', 'metadata'),
    ('ledger_app', 'accounts', 'UPDATE', 'updated_at'),
    ('ledger_app', 'balance_accounts', 'INSERT', ''),
    ('ledger_app', 'balance_accounts', 'UPDATE', 'lock_pad'),
    ('ledger_app', 'processor_events', 'INSERT', ''),
    ('ledger_app', 'payments', 'INSERT', ''),
    ('ledger_app', 'payments', 'UPDATE', 'state'),
    ('ledger_app', 'payments', 'UPDATE', 'captured_minor'),
    ('ledger_app', 'payments', 'UPDATE', 'refunded_minor'),
    ('ledger_app', 'payment_operations', 'INSERT', ''),
    ('ledger_app', 'ledger_entries', 'INSERT', ''),
    ('ledger_app', 'balance_snapshots', 'INSERT', ''),
    ('ledger_app', 'statement_marks', 'INSERT', ''),
    ('ledger_app', 'ledger_seals', 'INSERT', ''),
    ('ledger_app', 'ledger_stays', 'INSERT', ''),
    ('ledger_app', 'ledger_verifications', 'INSERT', ''),
    ('ledger_app', 'payout_runs', 'INSERT', ''),
    ('ledger_app', 'payout_runs', 'UPDATE', 'state'),
    ('ledger_app', 'payout_runs', 'UPDATE', 'finished_at'),
    ('ledger_app', 'payout_run_progress', 'INSERT', ''),
    ('ledger_app', 'payout_run_progress', 'UPDATE', 'reached_balance_account_id'),
    ('ledger_app', 'payouts', 'INSERT', ''),
    ('ledger_app', 'payouts', 'UPDATE', 'state'),
    ('ledger_app', 'payout_items', 'INSERT', ''),
    ('ledger_app', 'payout_submissions', 'INSERT', ''),
    ('ledger_app', 'payout_submission_items', 'INSERT', ''),
    ('ledger_app', 'audit_log', 'INSERT', ''),
    ('ledger_app', 'payout_run_items', 'INSERT', ''),
    ('ledger_app', 'payout_run_items', 'UPDATE', 'outcome'),
    ('ledger_app', 'payout_run_items', 'UPDATE', 'skip_reason'),
    ('ledger_app', 'payout_run_items', 'UPDATE', 'payout_id'),
    ('ledger_app', 'payout_run_items', 'UPDATE', 'available_minor'),
    ('ledger_app', 'payout_run_items', 'UPDATE', 'retained_minor'),
    ('ledger_app', 'quarantined_payloads', 'INSERT', ''),
    ('ledger_app', 'quarantined_payloads', 'UPDATE', 'state'),
    ('ledger_app', 'quarantined_payloads', 'UPDATE', 'move_number'),
    ('ledger_app', 'quarantined_payloads', 'UPDATE', 'reason'),
    ('ledger_app', 'quarantined_payloads', 'UPDATE', 'detail'),
    ('ledger_app', 'quarantined_payloads', 'UPDATE', 'retry_at'),
    ('ledger_app', 'quarantined_payloads', 'SELECT', 'body'),
    ('ledger_app', 'quarantined_payloads', 'SELECT', 'headers'),
    ('ledger_app', 'quarantined_payloads', 'SELECT', 'query'),
    ('ledger_app', 'quarantine_moves', 'INSERT', ''),
    ('ledger_app', 'page_token_keys', 'SELECT', '')
),
ours AS (
  SELECT oid, relname::text AS table_name
  FROM pg_catalog.pg_class
  WHERE relkind IN ('r', 'p', 'v', 'm', 'f')
    AND relnamespace = (SELECT relnamespace FROM pg_catalog.pg_class
                        WHERE oid = to_regclass('ledger_entries'))
),
held (role_name, table_name, privilege, column_name) AS (
  SELECT r.role_name, o.table_name, p.privilege, ''
  FROM role AS r
  CROSS JOIN ours AS o
  CROSS JOIN (VALUES ('INSERT'), ('DELETE'), ('TRUNCATE'), ('REFERENCES'), ('TRIGGER'))
    AS p (privilege)
  WHERE has_table_privilege(r.oid, o.oid, p.privilege)
     OR (p.privilege IN ('INSERT', 'REFERENCES')
         AND has_any_column_privilege(r.oid, o.oid, p.privilege))
  UNION ALL
  SELECT r.role_name, o.table_name, 'UPDATE', a.attname::text
  FROM role AS r
  CROSS JOIN ours AS o
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
  WHERE has_column_privilege(r.oid, o.oid, a.attnum, 'UPDATE')
  UNION ALL
  -- Everything else may be read by both.
  SELECT r.role_name, o.table_name, 'SELECT', ''
  FROM role AS r
  CROSS JOIN ours AS o
  WHERE o.table_name = 'page_token_keys' AND has_any_column_privilege(r.oid, o.oid, 'SELECT')
  UNION ALL
  SELECT r.role_name, o.table_name, 'SELECT', a.attname::text
  FROM role AS r
  CROSS JOIN ours AS o
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = o.oid
  WHERE o.table_name = 'quarantined_payloads' AND a.attname IN ('body', 'headers', 'query')
    AND has_column_privilege(r.oid, o.oid, a.attnum, 'SELECT')
),
guards (name, owner) AS (
  SELECT 'domain ' || t.typname, t.typowner
  FROM pg_catalog.pg_constraint AS c
  JOIN pg_catalog.pg_type AS t ON t.oid = c.contypid
  WHERE c.connamespace = (SELECT relnamespace FROM pg_catalog.pg_class
                          WHERE oid = to_regclass('ledger_entries'))
  UNION
  SELECT 'function ' || p.proname, p.proowner
  FROM ours AS o
  JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = o.oid AND NOT g.tgisinternal
  JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
),
broken AS (
  SELECT role_name, 'does not exist' AS detail FROM role WHERE oid IS NULL
  UNION ALL
  SELECT role_name, 'is a superuser, or may make roles or replicate' FROM role WHERE is_mighty
  UNION ALL
  SELECT role_name, 'is a member of ledger_owner' FROM role WHERE is_owner AND NOT is_mighty
  UNION ALL
  SELECT h.role_name, format('may %s %s%s', h.privilege, h.table_name,
                             COALESCE('.' || NULLIF(h.column_name, ''), ''))
  FROM (SELECT role_name, table_name, privilege, column_name FROM held
        EXCEPT
        SELECT role_name, table_name, privilege, column_name FROM allowed) AS h
  JOIN role AS r ON r.role_name = h.role_name
  WHERE NOT r.is_mighty AND r.is_owner IS NOT TRUE
  UNION ALL
  SELECT r.role_name, 'may change the ' || g.name
  FROM role AS r
  JOIN guards AS g ON pg_has_role(r.oid, g.owner, 'MEMBER')
  WHERE NOT r.is_mighty AND r.is_owner IS NOT TRUE
)
SELECT 'roles_hold_no_more_than_they_need' AS check_name, 'ERROR' AS severity,
       'role ' || role_name AS entity, detail
FROM broken;

-- check: rows_are_sealed_in_time
-- scope: small
-- Rows that were recorded ten minutes ago are sealed. Servers seal every few seconds. If rows are
-- not sealed, no server runs, none seals (LEDGER_SEAL_INTERVAL_SECONDS=0), a transaction stays
-- open, or one wrote more under one id than a seal can hold. After a restore into another cluster
-- no row counts as sealed until a server has checked it.
WITH head AS (
  SELECT COALESCE((
    SELECT CASE WHEN s.system_identifier = c.system_identifier AND NOT s.is_restored
                THEN s.end_txid END
    FROM ledger_seals AS s
    CROSS JOIN pg_control_system() AS c
    ORDER BY s.sequence DESC
    LIMIT 1), 0) AS end_txid
)
SELECT 'rows_are_sealed_in_time' AS check_name, 'WARNING' AS severity,
       'table ledger_seals' AS entity,
       format('%s rows are not sealed, the oldest was recorded at %s', count(*),
              min(r.recorded_at)) AS detail
FROM (
  SELECT recorded_at FROM processor_events
  WHERE recorded_txid::text::bigint >= (SELECT end_txid FROM head)
    AND recorded_txid < pg_snapshot_xmax(pg_current_snapshot())
  UNION ALL
  SELECT recorded_at FROM ledger_entries
  WHERE recorded_txid::text::bigint >= (SELECT end_txid FROM head)
    AND recorded_txid < pg_snapshot_xmax(pg_current_snapshot())
  UNION ALL
  SELECT recorded_at FROM payments
  WHERE recorded_txid::text::bigint >= (SELECT end_txid FROM head)
    AND recorded_txid < pg_snapshot_xmax(pg_current_snapshot())
  UNION ALL
  SELECT recorded_at FROM payment_operations
  WHERE recorded_txid::text::bigint >= (SELECT end_txid FROM head)
    AND recorded_txid < pg_snapshot_xmax(pg_current_snapshot())
) AS r
HAVING min(r.recorded_at) < clock_timestamp() - interval '10 minutes';

-- check: verified_seals_are_in_the_chain
-- scope: small
-- The chain still has each seal that a verification saw. `ledger verify` builds on the rows that
-- these seals cover.
SELECT 'verified_seals_are_in_the_chain' AS check_name, 'ERROR' AS severity,
       'verification ' || v.number AS entity,
       format('saw seal %s with the hash %s, which is %s now', v.seal_sequence,
              encode(v.seal_hash, 'hex'), COALESCE(encode(s.hash, 'hex'), 'not there')) AS detail
FROM ledger_verifications AS v
LEFT JOIN ledger_seals AS s ON s.sequence = v.seal_sequence
WHERE v.seal_sequence > 0 AND s.hash IS DISTINCT FROM v.seal_hash;

-- check: archives_are_finished
-- scope: small
-- No row is both in an archive and in its table. If one is, the removal was cut off, or calls were
-- recorded after their archive was made. `ledger archive run` continues the removal, and archives
-- the calls.
SELECT 'archives_are_finished' AS check_name, 'WARNING' AS severity,
       'archive ' || a.archive_id AS entity,
       format('rows of it, or of its range, are in %s; run `ledger archive run` again', a.kind)
         AS detail
FROM archived_ranges AS a
WHERE (a.kind = 'audit_log' AND EXISTS (
         SELECT FROM audit_log AS l
         WHERE l.recorded_at >= a.from_at AND l.recorded_at < a.before_at))
   OR EXISTS (
         SELECT FROM archived_run_outcomes AS z
         WHERE z.archive_id = a.archive_id
           AND EXISTS (SELECT FROM payout_run_items AS i WHERE i.payout_run_id = z.payout_run_id));

-- check: clock_is_not_behind_the_books
-- scope: small
-- The database's clock is not behind the latest record. While it is, after it was set back,
-- everything is recorded as just after the latest record, and nothing matures.
SELECT 'clock_is_not_behind_the_books' AS check_name, 'WARNING' AS severity, 'clock' AS entity,
       format('it is %s; the latest was recorded at %s', clock_timestamp(), ledger_clock_at())
         AS detail
WHERE ledger_clock_at() > clock_timestamp() + interval '1 second';

-- check: clock_agrees_with_the_host
-- scope: small
-- The database's clock agrees with the clock of the auditing host. `ledger verify` sets
-- ledger.host_during to two instants of the host's clock, between which this transaction began.
-- While the database's clock is ahead, everything is recorded with too late an instant.
SELECT 'clock_agrees_with_the_host' AS check_name, 'WARNING' AS severity, 'clock' AS entity,
       format('the database began at %s, while the auditing host''s clock was at %s', now(),
              h.during) AS detail
FROM (SELECT NULLIF(current_setting('ledger.host_during', true), '')::tstzrange AS during) AS h
WHERE now() > upper(h.during) + interval '1 second'
  OR now() < lower(h.during) - interval '1 second';

-- check: roles_hold_what_they_need
-- scope: small
-- The application may insert into every table of the books, in each column that has no default, and
-- read all tables. The reader may read all tables but secrets and what processors sent. Both may use the schema and call the
-- functions that they need; a test compares the functions with the grants of the migrations. A
-- restore without privileges leaves none of that, and `ledger migrate` grants what is missing.
-- `ledger doctor` examines every single privilege.
WITH books AS (
  SELECT n.oid, n.nspname
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.oid = to_regclass('ledger_entries')
),
ours AS (
  SELECT oid, relname::text AS table_name
  FROM pg_catalog.pg_class
  WHERE relkind IN ('r', 'p') AND relname NOT IN ('alembic_version', 'page_token_keys')
    AND relnamespace = (SELECT oid FROM books)
),
broken AS (
  SELECT r.rolname::text AS role_name, format('may not SELECT %s', o.table_name) AS detail
  FROM pg_catalog.pg_roles AS r
  CROSS JOIN ours AS o
  WHERE r.rolname IN ('ledger_app', 'ledger_read')
    AND NOT has_table_privilege(r.oid, o.oid, 'SELECT')
    AND NOT (r.rolname = 'ledger_read' AND o.table_name = 'quarantined_payloads')
  UNION ALL
  SELECT r.rolname::text, format('may not SELECT %s.%s', o.table_name, a.attname)
  FROM pg_catalog.pg_roles AS r
  CROSS JOIN ours AS o
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
  WHERE r.rolname = 'ledger_read' AND o.table_name = 'quarantined_payloads'
    AND a.attname NOT IN ('body', 'headers', 'query')
    AND NOT has_column_privilege(r.oid, o.oid, a.attnum, 'SELECT')
  UNION ALL
  SELECT r.rolname::text, format('may not INSERT %s.%s', o.table_name, a.attname)
  FROM pg_catalog.pg_roles AS r
  CROSS JOIN ours AS o
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
  WHERE r.rolname = 'ledger_app' AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
    -- Only the owner writes these.
    AND o.table_name NOT IN ('archived_ranges', 'archived_run_outcomes')
    AND NOT has_column_privilege(r.oid, o.oid, a.attnum, 'INSERT')
  UNION ALL
  SELECT r.rolname::text, format('may not EXECUTE %s', p.proname)
  FROM pg_catalog.pg_roles AS r
  CROSS JOIN books AS b
  JOIN pg_catalog.pg_proc AS p ON p.pronamespace = b.oid
  -- With its arguments: another role's function of the same name is not the ledger's.
  CROSS JOIN LATERAL (
    SELECT p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS called) AS f
  WHERE (r.rolname = 'ledger_app'
         AND f.called IN ('advance_ledger_clock()', 'catch_up_ledger_clock()',
                                                   'summarize_recorded_txids()', 'recorded_now()',
                                                   'seal_without_payments()',
                                                   'has_valid_terms(text, text, interval, bigint)',
                                                   'has_valid_words(text, text, text, text)',
                                                   'is_valid_event(processor_events)',
                                                   'write_payout_run_items(uuid, integer)')
         OR r.rolname IN ('ledger_app', 'ledger_read')
            AND f.called IN ('ledger_now()', 'ledger_now_behind()', 'ledger_clock_at()'))
    AND NOT has_function_privilege(r.oid, p.oid, 'EXECUTE')
  UNION ALL
  SELECT r.rolname::text, format('may not USE the schema %s', b.nspname)
  FROM pg_catalog.pg_roles AS r
  CROSS JOIN books AS b
  WHERE r.rolname IN ('ledger_app', 'ledger_read')
    AND NOT has_schema_privilege(r.oid, b.oid, 'USAGE')
)
SELECT 'roles_hold_what_they_need' AS check_name, 'ERROR' AS severity,
       'role ' || role_name AS entity, detail
FROM broken;

-- check: sequences_are_ahead_of_their_tables
-- scope: small
-- The next value of the sequence is above every value in its table. While the sequence is behind,
-- as after replication, no balance account can be opened; `ledger migrate` moves it past them.
SELECT 'sequences_are_ahead_of_their_tables' AS check_name, 'ERROR' AS severity,
       'table balance_accounts' AS entity,
       format('the sequence gives %s next, and the table has %s',
              s.last_value + s.is_called::integer, a.highest) AS detail
FROM balance_accounts_balance_account_id_seq AS s
CROSS JOIN (SELECT max(balance_account_id) AS highest FROM balance_accounts) AS a
WHERE s.last_value + s.is_called::integer <= a.highest;

-- check: the_database_keeps_every_text
-- scope: small
-- The encoding is UTF8. With any other the database refuses some texts that callers may send, or
-- keeps them as bytes without a meaning.
SELECT 'the_database_keeps_every_text' AS check_name, 'ERROR' AS severity,
       'database ' || datname AS entity,
       format('the encoding is %s', pg_encoding_to_char(encoding)) AS detail
FROM pg_catalog.pg_database
WHERE datname = current_database() AND pg_encoding_to_char(encoding) <> 'UTF8';

-- check: settings_of_roles_are_safe
-- scope: small
-- Neither the database nor a role has a setting that makes commits unsafe or turns triggers off,
-- and no role has another path. Sessions of servers set synchronous_commit and the path themselves.
-- Those of other programs may not. A path of the database is right: with it the books are in a
-- schema of another name.
SELECT 'settings_of_roles_are_safe' AS check_name, 'WARNING' AS severity,
       COALESCE('role ' || r.rolname, 'database ' || d.datname, 'every role') AS entity,
       format('has %s', setting) AS detail
FROM pg_catalog.pg_db_role_setting AS s
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase
CROSS JOIN LATERAL unnest(s.setconfig) AS setting
WHERE (s.setdatabase = 0 OR d.datname = current_database())
  AND (s.setrole = 0 OR r.rolname IN ('ledger_app', 'ledger_owner', 'ledger_read') OR EXISTS (
    -- Or a member of one of these roles, which an administrator made for a login.
    SELECT FROM pg_catalog.pg_auth_members AS m
    WHERE m.member = r.oid
      AND m.roleid::regrole::text IN ('ledger_app', 'ledger_owner', 'ledger_read')))
  AND (setting IN ('synchronous_commit=off', 'synchronous_commit=local',
                   'synchronous_commit=remote_write')
       OR setting LIKE 'session_replication_role=%'
       OR (setting LIKE 'search_path=%' AND s.setrole <> 0));

-- check: only_owners_create_beside_the_books
-- scope: small
-- Only the owners of the books and of their schema may create objects in the schema. In the schema
-- public of PostgreSQL 14 every role may. A role could create a function there with the name of one
-- of PostgreSQL's. Where its types fit as well, PostgreSQL calls it instead, and the role's code
-- runs as ledger_app or as the owner. REVOKE CREATE ON SCHEMA takes the right back.
SELECT 'only_owners_create_beside_the_books' AS check_name, 'WARNING' AS severity,
       COALESCE('role ' || r.rolname, 'every role') AS entity,
       format('may create in the schema %s', n.nspname) AS detail
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL aclexplode(n.nspacl) AS acl
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = acl.grantee
WHERE c.oid = to_regclass('ledger_entries') AND acl.privilege_type = 'CREATE'
  AND acl.grantee <> n.nspowner
  AND (r.oid IS NULL OR r.rolname <> 'ledger_owner' AND NOT r.rolsuper);

-- check: recorded_txids_are_past
-- scope: new
-- Every recorded_txid is below the next txid of this database cluster. After a restore into another
-- cluster they may be above it: balances stay right, but read all entries until the cluster's txids
-- have caught up.
SELECT 'recorded_txids_are_past' AS check_name, 'WARNING' AS severity,
       'table ' || r.table_name AS entity,
       format('%s rows have a recorded_txid up to %s, this cluster is at %s:'
              ' if the database was restored into another cluster, stop the server and raise its'
              ' next transaction id above that (pg_resetwal --epoch, --next-transaction-id)',
              count(*), max(r.recorded_txid), pg_snapshot_xmax(pg_current_snapshot())) AS detail
FROM (
  SELECT 'processor_events' AS table_name, recorded_txid FROM processor_events /* new */
  UNION ALL
  SELECT 'ledger_entries', recorded_txid FROM ledger_entries /* new */
  UNION ALL
  SELECT 'payments', recorded_txid FROM payments /* new */
  UNION ALL
  SELECT 'payment_operations', recorded_txid FROM payment_operations /* new */
) AS r
WHERE r.recorded_txid >= pg_snapshot_xmax(pg_current_snapshot())
GROUP BY r.table_name;

-- check: events_occurred_before_they_were_recorded
-- scope: new
-- A server accepts events that are at most five minutes ahead of its clock; one minute more is
-- tolerated for the database's clock. An event further ahead means that a clock was wrong.
SELECT 'events_occurred_before_they_were_recorded' AS check_name, 'WARNING' AS severity,
       'event ' || event_id AS entity,
       format('occurred at %s, was recorded at %s', occurred_at, recorded_at) AS detail
FROM processor_events /* new */
WHERE occurred_at > recorded_at + interval '6 minutes';

-- check: answers_of_the_bank_are_in_order
-- scope: new
-- A returned payout was paid no later than it failed. Otherwise only the bank knows whether the
-- restaurant has its money: see "The bank's answers contradict each other" in
-- docs/operations/settlement.md. Servers refuse such answers; earlier versions booked them.
SELECT 'answers_of_the_bank_are_in_order' AS check_name, 'WARNING' AS severity,
       'payout ' || paid.payout_id AS entity,
       format('was paid at %s by event %s and failed before, at %s, by event %s', paid.occurred_at,
              paid.event_id,
              failed.occurred_at, failed.event_id) AS detail
FROM processor_events /* of touched payouts */ AS paid
JOIN processor_events /* of touched payouts */ AS failed ON failed.payout_id = paid.payout_id
  AND failed.type = 'payout_failed'
WHERE paid.type = 'payout_paid' AND paid.payout_id IS NOT NULL
  AND paid.occurred_at > failed.occurred_at;

-- check: payouts_are_answered
-- scope: small
-- The bank has answered for every payout within some days (LEDGER_PAYOUT_ANSWER_DAYS; 5 with psql).
-- Until it has, no run pays the restaurant again.
SELECT 'payouts_are_answered' AS check_name, 'WARNING' AS severity,
       'currency ' || COALESCE(a.currency, '(none)') AS entity,
       format('%s payouts were created more than %s days ago and have no answer of the bank;'
              ' the oldest is %s, of %s', count(*), min(given.days),
              (array_agg(p.payout_id ORDER BY p.created_at, p.payout_id))[1], min(p.created_at))
         AS detail
FROM payouts AS p
CROSS JOIN (SELECT COALESCE(NULLIF(current_setting('ledger.payout_answer_days', true), ''),
                            '5')::integer AS days) AS given
LEFT JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
WHERE p.state IN ('CREATED', 'SUBMITTED')
  AND p.created_at < now() - make_interval(days => given.days)
GROUP BY a.currency;

-- check: quarantined_payloads_are_settled
-- scope: small
-- No payload waits in the quarantine for more than 3 days: its money is not booked.
SELECT 'quarantined_payloads_are_settled' AS check_name, 'WARNING' AS severity,
       'endpoint ' || p.endpoint AS entity,
       format('%s payloads wait in the quarantine for more than 3 days; the oldest is %s, of %s',
              count(*), (array_agg(p.quarantine_id ORDER BY p.created_at, p.quarantine_id))[1],
              min(p.created_at)) AS detail
FROM quarantined_payloads AS p
WHERE p.state IN ('QUARANTINED', 'RETRY_REQUESTED', 'PARKED')
  AND p.created_at < now() - interval '3 days'
GROUP BY p.endpoint;

-- check: expired_holds_are_released
-- scope: small
-- What a payment held was released when it expired. Servers release it within seconds; ten minutes
-- later, none of them runs or none can.
SELECT 'expired_holds_are_released' AS check_name, 'WARNING' AS severity,
       'currency ' || COALESCE(currency, '(none)') AS entity,
       format('%s payments expired more than ten minutes ago and hold %s; the oldest is %s, which'
              ' expired at %s', count(*), sum(amount_minor - captured_minor),
              (array_agg(payment_id ORDER BY expires_at, payment_id))[1], min(expires_at)) AS detail
FROM payments
WHERE state IN ('AUTHORIZED', 'PARTIALLY_CAPTURED') AND expires_at < now() - interval '10 minutes'
GROUP BY currency;

-- check: facts_are_booked_once
-- scope: all. No index finds the earlier events of a reference.
-- No two events of one type, restaurant, currency and amount have the same reference within seven
-- days. Two may be right, as two refunds of one payment are. Or one fact was sent under two ids:
-- see "One fact, one id" in docs/api.md.
SELECT 'facts_are_booked_once' AS check_name, 'WARNING' AS severity,
       'reference ' || restaurant_id || '/' || currency || '/' || reference AS entity,
       format('%s %s events of %s, among them %s and %s', count(*), type, amount_minor,
              min(event_id), max(event_id)) AS detail
FROM processor_events
WHERE reference <> '' AND payout_id IS NULL
GROUP BY type, restaurant_id, currency, reference, amount_minor
HAVING count(*) > 1 AND max(occurred_at) - min(occurred_at) <= interval '7 days' * (count(*) - 1);

-- check: refunds_stay_within_their_charge
-- scope: all. No index finds the earlier events of a reference.
-- The refunds of a payment without those that failed, and its reversed charges, are no more than its
-- charges. Events without a reference are left out.
SELECT 'refunds_stay_within_their_charge' AS check_name, 'WARNING' AS severity,
       'reference ' || restaurant_id || '/' || currency || '/' || reference AS entity,
       format('charged %s, refunded or reversed %s', charged_minor, refunded_minor) AS detail
FROM (
  SELECT restaurant_id, currency, reference,
         sum(amount_minor) FILTER (WHERE type = 'charge_succeeded') AS charged_minor,
         sum(CASE type WHEN 'refund_failed' THEN -amount_minor ELSE amount_minor END)
           FILTER (WHERE type <> 'charge_succeeded') AS refunded_minor
  FROM processor_events
  WHERE type IN ('charge_succeeded', 'refund_succeeded', 'charge_reversed', 'refund_failed')
    AND reference <> ''
  GROUP BY restaurant_id, currency, reference
) AS payment
WHERE refunded_minor > charged_minor;

-- check: refunds_name_a_known_charge
-- scope: all. No index finds the earlier events of a reference.
-- A refund's reference is that of a charge of the same restaurant and currency.
WITH payment AS (
  SELECT reference, restaurant_id, currency,
         bool_or(type = 'charge_succeeded') AS is_charged,
         bool_or(type = 'refund_succeeded') AS is_refunded,
         min(event_id) FILTER (WHERE type = 'refund_succeeded') AS refund_event_id
  FROM processor_events
  WHERE type IN ('charge_succeeded', 'refund_succeeded') AND reference <> ''
  GROUP BY reference, restaurant_id, currency
)
SELECT 'refunds_name_a_known_charge' AS check_name, 'WARNING' AS severity,
       'reference ' || p.restaurant_id || '/' || p.currency || '/' || p.reference AS entity,
       format('event %s refunds it, and %s', min(p.refund_event_id),
              COALESCE('it was charged for ' || min(other.restaurant_id || '/' || other.currency),
                       'no restaurant was charged for it'))
         AS detail
FROM payment AS p
LEFT JOIN payment AS other ON other.reference = p.reference AND other.is_charged
WHERE p.is_refunded AND NOT p.is_charged
GROUP BY p.restaurant_id, p.currency, p.reference;

-- check: refunds_fail_only_if_they_were_booked
-- scope: all. No index finds the earlier events of a reference.
-- The failed refunds of a payment are no more than its refunds. Events without a reference are left
-- out.
SELECT 'refunds_fail_only_if_they_were_booked' AS check_name, 'WARNING' AS severity,
       'reference ' || restaurant_id || '/' || currency || '/' || reference AS entity,
       format('refunded %s, of which %s failed', COALESCE(refunded_minor, 0), failed_minor)
         AS detail
FROM (
  SELECT restaurant_id, currency, reference,
         sum(amount_minor) FILTER (WHERE type = 'refund_succeeded') AS refunded_minor,
         sum(amount_minor) FILTER (WHERE type = 'refund_failed') AS failed_minor
  FROM processor_events
  WHERE type IN ('refund_succeeded', 'refund_failed') AND reference <> ''
  GROUP BY restaurant_id, currency, reference
) AS payment
WHERE failed_minor > COALESCE(refunded_minor, 0);

-- check: disputes_end_as_they_opened
-- scope: all. No index finds the earlier events of a reference.
-- The disputes of a reference that were won or lost are no more than those that were opened.
SELECT 'disputes_end_as_they_opened' AS check_name, 'WARNING' AS severity,
       'reference ' || restaurant_id || '/' || currency || '/' || reference AS entity,
       CASE WHEN opened_minor IS NULL THEN format('won or lost %s, never opened', ended_minor)
            ELSE format('opened %s, won or lost %s', opened_minor, ended_minor) END AS detail
FROM (
  SELECT restaurant_id, currency, reference,
         sum(amount_minor) FILTER (WHERE type = 'dispute_opened') AS opened_minor,
         sum(amount_minor) FILTER (WHERE type <> 'dispute_opened') AS ended_minor
  FROM processor_events
  WHERE type IN ('dispute_opened', 'dispute_won', 'dispute_lost') AND reference <> ''
  GROUP BY restaurant_id, currency, reference
) AS dispute
WHERE ended_minor > COALESCE(opened_minor, 0);

-- check: payable_is_not_negative
-- scope: new
-- The restaurant does not owe the platform: available and pending together are not below zero.
SELECT 'payable_is_not_negative' AS check_name, 'WARNING' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency) AS entity,
       format('available and pending are %s together', s.balance_minor) AS detail
FROM (
  SELECT balance_account_id, sum(signed_minor) AS balance_minor
  FROM ledger_movements /* of touched accounts */
  WHERE ledger_account = 'restaurant_payable'
  GROUP BY balance_account_id
) AS s
JOIN balance_accounts AS a ON a.balance_account_id = s.balance_account_id
WHERE s.balance_minor < 0;

-- check: dispute_hold_is_not_negative
-- scope: new
-- No more is taken out of a restaurant's disputed money than was put in.
SELECT 'dispute_hold_is_not_negative' AS check_name, 'WARNING' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency) AS entity,
       format('dispute_hold is %s', s.balance_minor) AS detail
FROM (
  SELECT balance_account_id, sum(signed_minor) AS balance_minor
  FROM ledger_movements /* of touched accounts */
  WHERE ledger_account = 'dispute_hold'
  GROUP BY balance_account_id
) AS s
JOIN balance_accounts AS a ON a.balance_account_id = s.balance_account_id
WHERE s.balance_minor < 0;

-- check: reserves_and_taxes_are_not_negative
-- scope: new
-- No more of a restaurant's reserve and of its withheld taxes is given back than was taken.
SELECT 'reserves_and_taxes_are_not_negative' AS check_name, 'WARNING' AS severity,
       'account ' || COALESCE(a.restaurant_id || '/' || a.currency, a.account_id,
                              '(platform)/' || a.currency) AS entity,
       format('%s is %s', s.ledger_account, s.balance_minor) AS detail
FROM (
  SELECT balance_account_id, ledger_account, sum(signed_minor) AS balance_minor
  FROM ledger_movements /* of touched accounts */
  WHERE ledger_account IN ('reserve_hold', 'tax_withheld')
  GROUP BY balance_account_id, ledger_account
) AS s
JOIN balance_accounts AS a ON a.balance_account_id = s.balance_account_id
WHERE s.balance_minor < 0;

-- check: processor_has_settled
-- scope: all. It adds up whole books by day.
-- In a currency in which the processor's settlements are booked, it has settled what it owed some
-- days ago (7, or ledger.settlement_days of the session): processor_clearing over all books up to that day,
-- less all settlements booked since, is not above zero. A currency has one row, which names the
-- oldest day of the open rest. Days are those of occurred_at, in UTC; a settlement pays the oldest
-- days first.
WITH given AS (
  SELECT COALESCE(NULLIF(current_setting('ledger.settlement_days', true), ''),
                  '7')::integer AS days
),
moved AS (
  SELECT a.currency, (m.occurred_at AT TIME ZONE 'UTC')::date AS day,
         -sum(m.signed_minor) FILTER (WHERE m.entry_type NOT LIKE 'PROCESSOR\_SETTLEMENT%')
           AS owed_minor,
         sum(m.signed_minor) FILTER (WHERE m.entry_type LIKE 'PROCESSOR\_SETTLEMENT%')
           AS settled_minor
  FROM ledger_movements AS m
  JOIN balance_accounts AS a ON a.balance_account_id = m.balance_account_id
  WHERE m.ledger_account = 'processor_clearing'
  GROUP BY a.currency, day
),
open AS (
  SELECT currency, day, owed_minor,
         sum(owed_minor) OVER (PARTITION BY currency ORDER BY day)
           - sum(settled_minor) OVER (PARTITION BY currency) AS rest_minor
  FROM moved
)
SELECT 'processor_has_settled' AS check_name, 'WARNING' AS severity,
       'currency ' || currency AS entity,
       format('the processor has not settled %s of what it came to owe from %s to %s',
              (array_agg(rest_minor ORDER BY day DESC))[1],
              min(day) FILTER (WHERE rest_minor > 0 AND owed_minor > 0), max(day)) AS detail
FROM open
CROSS JOIN given
WHERE day < (now() AT TIME ZONE 'UTC')::date - given.days
GROUP BY currency
HAVING (array_agg(rest_minor ORDER BY day DESC))[1] > 0
ORDER BY currency;

COMMIT;
