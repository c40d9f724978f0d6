"""The items of a payout run are written as it comes to its restaurants, not all when it starts."""

from alembic import op

revision: str = "0023"
down_revision: str | None = "0022"

# The restaurants of a run are those that had an account when it started. Ids alone do not say which
# these are: an account may have a lower id than another one and be committed later. Nor do the numbers
# of transactions, of accounts that came from another cluster: up to the highest of these the id says it.
TABLE = """
CREATE TABLE payout_run_progress (
  payout_run_id              uuid        NOT NULL,
  accounts_snapshot          pg_snapshot NOT NULL,
  moved_balance_account_id   bigint      NOT NULL,
  last_balance_account_id    bigint      NOT NULL,
  reached_balance_account_id bigint      NOT NULL DEFAULT 0,
  CONSTRAINT payout_run_progress_pkey PRIMARY KEY (payout_run_id),
  CONSTRAINT payout_run_progress_reached_check
    CHECK (reached_balance_account_id >= 0 AND reached_balance_account_id <= last_balance_account_id),
  CONSTRAINT payout_run_progress_payout_run_id_fkey FOREIGN KEY (payout_run_id)
    REFERENCES payout_runs (payout_run_id) ON DELETE RESTRICT
)
"""

# Called by workers that find no open item. Who comes at the same time waits for the row, and goes on
# behind what was written. A run that has ended gets no further items.
WRITE_ITEMS = """
CREATE FUNCTION write_payout_run_items(uuid, integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  run ALIAS FOR $1;
  items_max ALIAS FOR $2;
  progress payout_run_progress;
  run_currency text;
  written integer;
  reached bigint;
BEGIN
  -- Workers that wait for what somebody has locked ask again and again: most have nothing to lock.
  PERFORM FROM payout_run_progress
  WHERE payout_run_id = run AND reached_balance_account_id < last_balance_account_id;
  IF NOT FOUND THEN
    RETURN 0;
  END IF;
  SELECT * INTO progress FROM payout_run_progress WHERE payout_run_id = run FOR NO KEY UPDATE;
  IF NOT FOUND OR progress.reached_balance_account_id = progress.last_balance_account_id THEN
    RETURN 0;
  END IF;
  -- As check_run_is_under_way() looks: after the lock.
  PERFORM FROM payout_runs WHERE payout_run_id = run FOR KEY SHARE;
  SELECT currency INTO run_currency FROM payout_runs WHERE payout_run_id = run AND state = 'RUNNING';
  IF NOT FOUND THEN
    RETURN 0;
  END IF;
  WITH page AS MATERIALIZED (
    SELECT a.balance_account_id, a.restaurant_id
    FROM balance_accounts AS a
    WHERE a.balance_account_id > progress.reached_balance_account_id
      AND a.balance_account_id <= progress.last_balance_account_id
      AND a.currency = run_currency
      AND (a.opened_txid IS NULL OR a.balance_account_id <= progress.moved_balance_account_id
           OR pg_visible_in_snapshot(a.opened_txid, progress.accounts_snapshot))
    ORDER BY a.balance_account_id
    LIMIT items_max
  ),
  added AS (
    INSERT INTO payout_run_items (payout_run_id, restaurant_id, balance_account_id)
    SELECT run, restaurant_id, balance_account_id FROM page
  )
  SELECT count(*),
         CASE WHEN count(*) = items_max THEN max(balance_account_id) ELSE progress.last_balance_account_id END
  INTO written, reached
  FROM page;
  UPDATE payout_run_progress SET reached_balance_account_id = reached WHERE payout_run_id = run;
  RETURN written;
END
$$
"""

# A server of an earlier revision knows the items that are there and no more: where it would end a run
# that has not come to all its restaurants, the run gets the next items instead, and goes on.
#
# The look at the items comes after the progress has been locked: what another worker wrote since the
# statement began is seen, and nothing is written any more.
KEEP_RUNNING = """
CREATE FUNCTION keep_payout_run_going() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  left_to_reach bigint;
BEGIN
  SELECT last_balance_account_id - reached_balance_account_id INTO left_to_reach
  FROM payout_run_progress
  WHERE payout_run_id = NEW.payout_run_id
  FOR NO KEY UPDATE;
  IF left_to_reach > 0 THEN
    PERFORM write_payout_run_items(NEW.payout_run_id, 5000);
  END IF;
  IF left_to_reach > 0 OR EXISTS (
    SELECT FROM payout_run_items WHERE payout_run_id = NEW.payout_run_id AND outcome = 'OPEN'
  ) THEN
    RETURN NULL;
  END IF;
  RETURN NEW;
END
$$
"""

FIX_SEARCH_PATHS = """
DO $$
DECLARE
  function regprocedure;
BEGIN
  FOREACH function IN ARRAY ARRAY[
    'write_payout_run_items(uuid, integer)', 'keep_payout_run_going()'
  ]::regprocedure[] LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', function, current_schema());
  END LOOP;
END
$$
"""

UPGRADE = (
    # Without a default at first: the accounts that there are need not be written again.
    "ALTER TABLE balance_accounts ADD COLUMN opened_txid xid8",
    "ALTER TABLE balance_accounts ALTER COLUMN opened_txid SET DEFAULT pg_current_xact_id()",
    """COMMENT ON COLUMN balance_accounts.opened_txid IS
  'The number of the transaction that opened it; NULL if that was before the column was.'""",
    TABLE,
    """COMMENT ON TABLE payout_run_progress IS
  'Which balance accounts a payout run has items for. No row: for all of them, since it started.'""",
    "COMMENT ON COLUMN payout_run_progress.payout_run_id IS 'The run.'",
    """COMMENT ON COLUMN payout_run_progress.accounts_snapshot IS
  'Which transactions had ended when the run started: its accounts are those that were opened by them.'""",
    """COMMENT ON COLUMN payout_run_progress.moved_balance_account_id IS
  'The highest id of an account that was there and whose opened_txid is another cluster''s; 0 if there was none.'""",
    """COMMENT ON COLUMN payout_run_progress.last_balance_account_id IS
  'The highest id of a balance account when the run started; 0 if there was none.'""",
    """COMMENT ON COLUMN payout_run_progress.reached_balance_account_id IS
  'Accounts with ids up to this one have their items. It only grows.'""",
    """
CREATE TRIGGER payout_run_progress_deny_change BEFORE DELETE OR TRUNCATE ON payout_run_progress
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE payout_run_progress ENABLE ALWAYS TRIGGER payout_run_progress_deny_change",
    """
CREATE TRIGGER payout_run_progress_deny_move AFTER UPDATE ON payout_run_progress
  FOR EACH ROW WHEN (
    OLD.reached_balance_account_id > NEW.reached_balance_account_id
    OR OLD.payout_run_id <> NEW.payout_run_id
    OR OLD.accounts_snapshot::text <> NEW.accounts_snapshot::text
    OR OLD.moved_balance_account_id <> NEW.moved_balance_account_id
    OR OLD.last_balance_account_id <> NEW.last_balance_account_id
  ) EXECUTE FUNCTION deny_move()
""",
    "ALTER TABLE payout_run_progress ENABLE ALWAYS TRIGGER payout_run_progress_deny_move",
    WRITE_ITEMS,
    """COMMENT ON FUNCTION write_payout_run_items(uuid, integer) IS
  'Gives a payout run that is under way its next open items, and tells how many.'""",
    KEEP_RUNNING,
    """COMMENT ON FUNCTION keep_payout_run_going() IS
  'Keeps a payout run under way until it has come to all its restaurants.'""",
    FIX_SEARCH_PATHS,
    # Not for a replication worker, which brings the end of a run from where it was judged.
    """
CREATE TRIGGER payout_runs_keep_going BEFORE UPDATE ON payout_runs
  FOR EACH ROW WHEN (OLD.state = 'RUNNING' AND NEW.state = 'SUCCEEDED')
  EXECUTE FUNCTION keep_payout_run_going()
""",
    """
GRANT SELECT, INSERT (payout_run_id, accounts_snapshot, moved_balance_account_id, last_balance_account_id),
      UPDATE (reached_balance_account_id)
  ON payout_run_progress TO ledger_app
""",
    "GRANT SELECT ON payout_run_progress TO ledger_read",
)

DOWNGRADE = (
    # Earlier revisions know a run's restaurants by its items alone. A canceled run whose items are archived gets no
    # more: no archive would ever have them.
    """
INSERT INTO payout_run_items (payout_run_id, restaurant_id, balance_account_id)
SELECT p.payout_run_id, a.restaurant_id, a.balance_account_id
FROM payout_run_progress AS p
JOIN payout_runs AS r ON r.payout_run_id = p.payout_run_id
JOIN balance_accounts AS a ON a.currency = r.currency
WHERE a.balance_account_id > p.reached_balance_account_id AND a.balance_account_id <= p.last_balance_account_id
  AND (a.opened_txid IS NULL OR a.balance_account_id <= p.moved_balance_account_id
       OR pg_visible_in_snapshot(a.opened_txid, p.accounts_snapshot))
  AND NOT EXISTS (SELECT FROM archived_run_outcomes AS z WHERE z.payout_run_id = p.payout_run_id)
""",
    "DROP TRIGGER payout_runs_keep_going ON payout_runs",
    "DROP FUNCTION keep_payout_run_going()",
    "DROP FUNCTION write_payout_run_items(uuid, integer)",
    "DROP TABLE payout_run_progress",
    "ALTER TABLE balance_accounts DROP COLUMN opened_txid",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
