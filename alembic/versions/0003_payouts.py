"""Payout runs, payouts and what their amounts consist of."""

from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"

PAYABLE_TYPES = (
    "'CHARGE', 'FEE', 'REFUND', 'ADJUSTMENT_CREDIT', 'ADJUSTMENT_DEBIT', 'DISPUTE_HOLD', 'DISPUTE_FEE', 'DISPUTE_RELEASE', "
    "'PAYOUT_REVERSAL', 'PAYOUT_RETURN'"
)

UPGRADE = (
    r"""
CREATE TABLE payout_runs (
  payout_run_id    uuid        NOT NULL,
  currency         text COLLATE "C" NOT NULL
    CONSTRAINT payout_runs_currency_check CHECK (currency ~ '^[A-Z]{3}$'),
  as_of            date        NOT NULL,
  cutoff_at        timestamptz NOT NULL,
  min_amount_minor bigint      NOT NULL
    CONSTRAINT payout_runs_min_amount_minor_check CHECK (min_amount_minor >= 0),
  request_id       text COLLATE "C" NOT NULL
    CONSTRAINT payout_runs_request_id_check CHECK (request_id ~ '^[A-Za-z0-9._:-]*$' AND octet_length(request_id) <= 128),
  state            text        NOT NULL DEFAULT 'RUNNING'
    CONSTRAINT payout_runs_state_check CHECK (state IN ('RUNNING', 'SUCCEEDED')),
  created_at       timestamptz NOT NULL DEFAULT now(),
  finished_at      timestamptz,
  CONSTRAINT payout_runs_pkey PRIMARY KEY (payout_run_id),
  CONSTRAINT payout_runs_currency_as_of_min_amount_minor_request_id_key UNIQUE (currency, as_of, min_amount_minor, request_id),
  CONSTRAINT payout_runs_cutoff_at_check CHECK (cutoff_at <= created_at),
  CONSTRAINT payout_runs_finished_at_check CHECK ((state = 'SUCCEEDED') = (finished_at IS NOT NULL))
)
""",
    "CREATE INDEX payout_runs_running_idx ON payout_runs (created_at) WHERE state = 'RUNNING'",
    "COMMENT ON INDEX payout_runs_running_idx IS 'For the workers, which look for what is unfinished.'",
    "COMMENT ON TABLE payout_runs IS 'Payout runs: one for each currency, date, minimum and request id. Only the progress changes.'",
    "COMMENT ON COLUMN payout_runs.payout_run_id IS 'Made by the server that created the run.'",
    "COMMENT ON COLUMN payout_runs.currency IS 'ISO 4217 code of all payouts of the run.'",
    "COMMENT ON COLUMN payout_runs.as_of IS 'The date to pay out by, in the settlement time zone.'",
    "COMMENT ON COLUMN payout_runs.cutoff_at IS 'What matures after this instant waits for a later run.'",
    "COMMENT ON COLUMN payout_runs.min_amount_minor IS 'The least amount that is paid, in minor units.'",
    "COMMENT ON COLUMN payout_runs.request_id IS 'The caller''s, to tell runs of one date apart; empty when it gave none.'",
    "COMMENT ON COLUMN payout_runs.state IS 'RUNNING as long as a restaurant is to be looked at.'",
    "COMMENT ON COLUMN payout_runs.created_at IS 'When it was created, by the database''s clock.'",
    "COMMENT ON COLUMN payout_runs.finished_at IS 'When the last restaurant had been looked at, by the database''s clock.'",
    r"""
CREATE TABLE payouts (
  payout_id          uuid        NOT NULL,
  payout_run_id      uuid        NOT NULL,
  balance_account_id bigint      NOT NULL,
  sequence           integer     NOT NULL
    CONSTRAINT payouts_sequence_check CHECK (sequence >= 1),
  amount_minor       bigint      NOT NULL
    CONSTRAINT payouts_amount_minor_check CHECK (amount_minor >= 1),
  available_minor    bigint      NOT NULL,
  as_of              date        NOT NULL,
  cutoff_at          timestamptz NOT NULL,
  state              text        NOT NULL DEFAULT 'CREATED'
    CONSTRAINT payouts_state_check CHECK (state IN ('CREATED', 'PAID', 'FAILED', 'RETURNED')),
  transaction_id     uuid        NOT NULL,
  created_at         timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT payouts_pkey PRIMARY KEY (payout_id),
  CONSTRAINT payouts_balance_account_id_sequence_key UNIQUE (balance_account_id, sequence),
  CONSTRAINT payouts_available_minor_check CHECK (amount_minor <= available_minor),
  CONSTRAINT payouts_payout_run_id_fkey FOREIGN KEY (payout_run_id)
    REFERENCES payout_runs (payout_run_id) ON DELETE RESTRICT,
  CONSTRAINT payouts_balance_account_id_fkey FOREIGN KEY (balance_account_id)
    REFERENCES balance_accounts (balance_account_id) ON DELETE RESTRICT
)
""",
    "CREATE UNIQUE INDEX payouts_in_flight_key ON payouts (balance_account_id) WHERE state = 'CREATED'",
    "COMMENT ON INDEX payouts_in_flight_key IS 'At most one payout of a balance account is in flight.'",
    "CREATE UNIQUE INDEX payouts_live_key ON payouts (balance_account_id, as_of) WHERE state IN ('CREATED', 'PAID')",
    "COMMENT ON INDEX payouts_live_key IS 'At most one payout of a balance account and date is in flight or paid.'",
    "CREATE INDEX payouts_created_at_payout_id_idx ON payouts (created_at, payout_id)",
    "COMMENT ON INDEX payouts_created_at_payout_id_idx IS 'For lists, latest first.'",
    "CREATE INDEX payouts_payout_run_id_idx ON payouts (payout_run_id, created_at, payout_id)",
    "COMMENT ON INDEX payouts_payout_run_id_idx IS 'For the payouts of a run, and the sum of their amounts.'",
    "COMMENT ON TABLE payouts IS 'What a restaurant is paid at once. Only the state changes, and only along the allowed moves.'",
    "COMMENT ON COLUMN payouts.payout_id IS 'Made by the server; the bank''s idempotency key.'",
    "COMMENT ON COLUMN payouts.payout_run_id IS 'The run that created it.'",
    "COMMENT ON COLUMN payouts.balance_account_id IS 'The restaurant and currency that is paid.'",
    "COMMENT ON COLUMN payouts.sequence IS 'Its number among the payouts of its balance account, from 1.'",
    "COMMENT ON COLUMN payouts.amount_minor IS 'What is paid, in minor units of the balance account''s currency.'",
    "COMMENT ON COLUMN payouts.available_minor IS 'What was available when it was created, in minor units.'",
    "COMMENT ON COLUMN payouts.as_of IS 'The date it pays out by, that of its run.'",
    "COMMENT ON COLUMN payouts.cutoff_at IS 'The cut-off of its run: it counts what had matured by then.'",
    "COMMENT ON COLUMN payouts.state IS 'CREATED becomes PAID or FAILED, PAID may become RETURNED.'",
    "COMMENT ON COLUMN payouts.transaction_id IS 'That of the entry that set its amount aside.'",
    "COMMENT ON COLUMN payouts.created_at IS 'When it was created, by the database''s clock.'",
    rf"""
CREATE TABLE payout_items (
  payout_id     uuid   NOT NULL,
  entry_type    text   NOT NULL
    CONSTRAINT payout_items_entry_type_check CHECK (entry_type IN ({PAYABLE_TYPES})),
  counted_minor bigint NOT NULL,
  amount_minor  bigint NOT NULL,
  CONSTRAINT payout_items_pkey PRIMARY KEY (payout_id, entry_type)
)
""",
    "COMMENT ON TABLE payout_items IS 'What a payout''s amount consists of, by entry type. Append-only.'",
    "COMMENT ON COLUMN payout_items.payout_id IS 'The payout.'",
    "COMMENT ON COLUMN payout_items.entry_type IS 'The type of the entries that were added up.'",
    """COMMENT ON COLUMN payout_items.counted_minor IS
  'The sum of all such entries on restaurant_payable that the payout counted, since the first, in minor units.'""",
    """COMMENT ON COLUMN payout_items.amount_minor IS
  'That sum less the same of the balance account''s payout before, in minor units: what this payout has of it.'""",
    r"""
CREATE TABLE payout_run_items (
  payout_run_id      uuid   NOT NULL,
  restaurant_id      text COLLATE "C" NOT NULL,
  balance_account_id bigint NOT NULL,
  outcome            text   NOT NULL DEFAULT 'OPEN'
    CONSTRAINT payout_run_items_outcome_check CHECK (outcome IN ('OPEN', 'PAYOUT_CREATED', 'SKIPPED')),
  skip_reason        text
    CONSTRAINT payout_run_items_skip_reason_check CHECK (skip_reason IN (
      'INACTIVE', 'PAYOUT_IN_FLIGHT', 'ALREADY_PAID', 'CUTOFF_BEFORE_LATEST_PAYOUT', 'NOTHING_AVAILABLE', 'BELOW_MINIMUM',
      'FAILED')),
  payout_id          uuid,
  CONSTRAINT payout_run_items_pkey PRIMARY KEY (payout_run_id, restaurant_id),
  CONSTRAINT payout_run_items_state_check CHECK (
    (outcome = 'SKIPPED') = (skip_reason IS NOT NULL) AND (outcome = 'PAYOUT_CREATED') = (payout_id IS NOT NULL)),
  CONSTRAINT payout_run_items_payout_run_id_fkey FOREIGN KEY (payout_run_id)
    REFERENCES payout_runs (payout_run_id) ON DELETE RESTRICT,
  CONSTRAINT payout_run_items_payout_id_fkey FOREIGN KEY (payout_id) REFERENCES payouts (payout_id) ON DELETE RESTRICT
)
""",
    "CREATE INDEX payout_run_items_open_idx ON payout_run_items (payout_run_id, balance_account_id) WHERE outcome = 'OPEN'",
    "COMMENT ON INDEX payout_run_items_open_idx IS 'For the workers, which claim open items by balance account.'",
    "COMMENT ON TABLE payout_run_items IS 'The restaurants of a run and what became of each. Only that changes, once.'",
    "COMMENT ON COLUMN payout_run_items.payout_run_id IS 'The run.'",
    "COMMENT ON COLUMN payout_run_items.restaurant_id IS 'The restaurant.'",
    "COMMENT ON COLUMN payout_run_items.balance_account_id IS 'The restaurant''s balance account in the run''s currency.'",
    "COMMENT ON COLUMN payout_run_items.outcome IS 'OPEN until a worker has looked at it.'",
    "COMMENT ON COLUMN payout_run_items.skip_reason IS 'Why no payout was created; NULL if one was.'",
    "COMMENT ON COLUMN payout_run_items.payout_id IS 'The payout that was created; NULL if none was.'",
    # Fires once for each statement, when all that the statement writes is there. It also refuses items of no payout, for a fifth of
    # what a foreign key costs. Each payout is looked up by itself: joined, they would be sought among all there ever were.
    r"""
CREATE FUNCTION check_payout_items() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  wrong uuid;
BEGIN
  SELECT a.payout_id INTO wrong
  FROM (SELECT DISTINCT payout_id FROM added) AS a
  CROSS JOIN LATERAL (SELECT sum(amount_minor) AS amount_minor FROM payout_items WHERE payout_id = a.payout_id) AS i
  LEFT JOIN LATERAL (SELECT amount_minor FROM payouts WHERE payout_id = a.payout_id OFFSET 0) AS p ON true
  WHERE i.amount_minor IS DISTINCT FROM p.amount_minor
  LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'the items of payout % do not add up to its amount', wrong USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END
$$
""",
    "COMMENT ON FUNCTION check_payout_items() IS 'Keeps the items of a payout adding up to its amount.'",
    """
CREATE TRIGGER payouts_check_items AFTER INSERT ON payouts
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION check_payout_items()
""",
    """
CREATE TRIGGER payout_items_check_items AFTER INSERT ON payout_items
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION check_payout_items()
""",
    r"""
CREATE FUNCTION check_payout_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (to_jsonb(OLD) - 'state') <> (to_jsonb(NEW) - 'state') OR NOT (
    (OLD.state = 'CREATED' AND NEW.state IN ('PAID', 'FAILED')) OR (OLD.state = 'PAID' AND NEW.state = 'RETURNED')
  ) THEN
    RAISE EXCEPTION 'payout % cannot be changed so', OLD.payout_id USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END
$$
""",
    "COMMENT ON FUNCTION check_payout_move() IS 'Lets a payout change its state only, and only along the allowed moves.'",
    "CREATE TRIGGER payouts_check_move BEFORE UPDATE ON payouts FOR EACH ROW EXECUTE FUNCTION check_payout_move()",
    "ALTER TABLE payouts ENABLE ALWAYS TRIGGER payouts_check_move",
    """
CREATE TRIGGER payouts_deny_change BEFORE DELETE OR TRUNCATE ON payouts
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE payouts ENABLE ALWAYS TRIGGER payouts_deny_change",
    """
CREATE TRIGGER payout_items_deny_change BEFORE UPDATE OR DELETE OR TRUNCATE ON payout_items
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE payout_items ENABLE ALWAYS TRIGGER payout_items_deny_change",
    "ALTER TABLE payouts ENABLE ALWAYS TRIGGER payouts_check_items",
    "ALTER TABLE payout_items ENABLE ALWAYS TRIGGER payout_items_check_items",
    """
CREATE TRIGGER payout_runs_deny_change BEFORE DELETE OR TRUNCATE ON payout_runs
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE payout_runs ENABLE ALWAYS TRIGGER payout_runs_deny_change",
    """
CREATE TRIGGER payout_run_items_deny_change BEFORE DELETE OR TRUNCATE ON payout_run_items
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE payout_run_items ENABLE ALWAYS TRIGGER payout_run_items_deny_change",
    "CREATE INDEX processor_events_payout_id_idx ON processor_events (payout_id) WHERE payout_id IS NOT NULL",
    "COMMENT ON INDEX processor_events_payout_id_idx IS 'For the history of a payout; only payout events are in it.'",
    "GRANT SELECT, INSERT (payout_run_id, currency, as_of, cutoff_at, min_amount_minor, request_id) ON payout_runs TO ledger_app",
    """
GRANT SELECT, INSERT (payout_id, payout_run_id, balance_account_id, sequence, amount_minor, available_minor, as_of, cutoff_at,
                      transaction_id)
  ON payouts TO ledger_app
""",
    "GRANT SELECT, INSERT ON payout_items TO ledger_app",
    "GRANT SELECT, INSERT (payout_run_id, restaurant_id, balance_account_id) ON payout_run_items TO ledger_app",
    "GRANT UPDATE (state, finished_at) ON payout_runs TO ledger_app",
    "GRANT UPDATE (state) ON payouts TO ledger_app",
    "GRANT UPDATE (outcome, skip_reason, payout_id) ON payout_run_items TO ledger_app",
    "GRANT SELECT ON payout_runs, payouts, payout_items, payout_run_items TO ledger_read",
)

DOWNGRADE = (
    """
DO $$ BEGIN
  IF EXISTS (SELECT FROM payout_runs) THEN
    RAISE EXCEPTION 'there are payout runs: they are not removed' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
""",
    "DROP INDEX processor_events_payout_id_idx",
    "DROP TABLE payout_run_items",
    "DROP TABLE payout_items",
    "DROP TABLE payouts",
    "DROP TABLE payout_runs",
    "DROP FUNCTION check_payout_move()",
    "DROP FUNCTION check_payout_items()",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
