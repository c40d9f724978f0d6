"""Processor events and the ledger entries they post: append-only, by triggers and by privileges."""

from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"

UPGRADE = (
    r"""
CREATE TABLE processor_events (
  event_id       text COLLATE "C" NOT NULL
    CONSTRAINT processor_events_event_id_check CHECK (event_id ~ '^[A-Za-z0-9._:-]+$' AND octet_length(event_id) <= 128),
  fingerprint    bytea       NOT NULL
    CONSTRAINT processor_events_fingerprint_check CHECK (octet_length(fingerprint) = 32),
  transaction_id uuid        NOT NULL,
  batch_id       uuid        NOT NULL,
  type           text        NOT NULL
    CONSTRAINT processor_events_type_check CHECK (type IN (
      'charge_succeeded', 'refund_succeeded', 'fee_assessed', 'adjustment_credited', 'adjustment_debited',
      'dispute_opened', 'dispute_won', 'dispute_lost', 'payout_paid', 'payout_failed')),
  restaurant_id  text COLLATE "C" NOT NULL,
  currency       text COLLATE "C" NOT NULL,
  amount_minor   bigint      NOT NULL,
  fee_minor      bigint      NOT NULL,
  occurred_at    timestamptz NOT NULL
    CONSTRAINT processor_events_occurred_at_check CHECK (occurred_at >= '2000-01-01 00:00:00+00'),
  payout_id      text COLLATE "C",
  reference      text COLLATE "C" NOT NULL DEFAULT ''
    CONSTRAINT processor_events_reference_check CHECK (reference ~ '^[ -~]*$' AND octet_length(reference) <= 255),
  metadata       jsonb       NOT NULL DEFAULT '{}'
    CONSTRAINT processor_events_metadata_check CHECK (jsonb_typeof(metadata) = 'object'),
  recorded_txid  xid8        NOT NULL DEFAULT pg_current_xact_id(),
  recorded_at    timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT processor_events_pkey PRIMARY KEY (event_id),
  CONSTRAINT processor_events_amount_minor_check CHECK (
    amount_minor >= 1 AND (amount_minor <= 1000000000000 OR type IN ('payout_paid', 'payout_failed'))),
  CONSTRAINT processor_events_fee_minor_check CHECK (
    fee_minor = 0
    OR (fee_minor BETWEEN 1 AND amount_minor AND type IN ('charge_succeeded', 'dispute_opened', 'refund_succeeded'))),
  CONSTRAINT processor_events_payout_id_check CHECK (
    (type IN ('payout_paid', 'payout_failed')) = (payout_id IS NOT NULL))
)
""",
    """COMMENT ON TABLE processor_events IS
  'What the payment processor told us, each event once: its primary key is the idempotency key. Append-only.'""",
    "COMMENT ON COLUMN processor_events.event_id IS 'The processor''s id of the event, compared byte by byte.'",
    """COMMENT ON COLUMN processor_events.fingerprint IS
  'SHA-256 over the normalised business fields, 32 bytes: the same id with another fingerprint is a conflict.'""",
    "COMMENT ON COLUMN processor_events.transaction_id IS 'Shared by the entries that the event posted.'",
    """COMMENT ON COLUMN processor_events.batch_id IS
  'The attempt that booked it: a repeated attempt recognises its own events by it.'""",
    "COMMENT ON COLUMN processor_events.type IS 'What happened.'",
    "COMMENT ON COLUMN processor_events.restaurant_id IS 'The restaurant it happened to.'",
    "COMMENT ON COLUMN processor_events.currency IS 'ISO 4217 code of the amounts.'",
    "COMMENT ON COLUMN processor_events.amount_minor IS 'The amount that moved, in minor units.'",
    """COMMENT ON COLUMN processor_events.fee_minor IS
  'In minor units: a charge''s commission, a dispute''s fee; a refund''s is kept here and not posted.'""",
    "COMMENT ON COLUMN processor_events.occurred_at IS 'When it happened, by the processor''s clock, in microseconds.'",
    "COMMENT ON COLUMN processor_events.payout_id IS 'The payout that a payout event is about; NULL on all others.'",
    """COMMENT ON COLUMN processor_events.reference IS
  'The processor''s id of what the event is about (payment, refund''s payment, dispute); empty when absent.'""",
    "COMMENT ON COLUMN processor_events.metadata IS 'Whatever the caller keeps with it: an object of strings. Not compared.'",
    "COMMENT ON COLUMN processor_events.recorded_txid IS 'The database transaction that stored it; that of its entries.'",
    "COMMENT ON COLUMN processor_events.recorded_at IS 'When that transaction began, by the database''s clock.'",
    r"""
CREATE TABLE ledger_entries (
  balance_account_id bigint      NOT NULL,
  recorded_txid      xid8        NOT NULL DEFAULT pg_current_xact_id(),
  transaction_id     uuid        NOT NULL,
  position           smallint    NOT NULL
    CONSTRAINT ledger_entries_position_check CHECK (position >= 1),
  entry_type         text        NOT NULL,
  debit_account      text        NOT NULL,
  credit_account     text        NOT NULL,
  amount_minor       bigint      NOT NULL
    CONSTRAINT ledger_entries_amount_minor_check CHECK (amount_minor >= 1),
  available_at       timestamptz
    CONSTRAINT ledger_entries_available_at_check CHECK (available_at IS NULL OR entry_type IN ('CHARGE', 'FEE')),
  occurred_at        timestamptz,
  recorded_at        timestamptz NOT NULL DEFAULT now(),
  event_id           text COLLATE "C",
  payout_id          uuid,
  CONSTRAINT ledger_entries_pkey PRIMARY KEY (balance_account_id, recorded_txid, transaction_id, position),
  CONSTRAINT ledger_entries_balance_account_id_fkey FOREIGN KEY (balance_account_id)
    REFERENCES balance_accounts (balance_account_id) ON DELETE RESTRICT,
  CONSTRAINT ledger_entries_accounts_check CHECK (
    (entry_type, debit_account, credit_account) IN (
      ('CHARGE', 'processor_clearing', 'restaurant_payable'),
      ('FEE', 'restaurant_payable', 'platform_fees'),
      ('REFUND', 'restaurant_payable', 'processor_clearing'),
      ('ADJUSTMENT_CREDIT', 'adjustments', 'restaurant_payable'),
      ('ADJUSTMENT_DEBIT', 'restaurant_payable', 'adjustments'),
      ('DISPUTE_HOLD', 'restaurant_payable', 'dispute_hold'),
      ('DISPUTE_WITHDRAWAL', 'dispute_receivable', 'processor_clearing'),
      ('DISPUTE_FEE', 'restaurant_payable', 'processor_clearing'),
      ('DISPUTE_RELEASE', 'dispute_hold', 'restaurant_payable'),
      ('DISPUTE_REINSTATEMENT', 'processor_clearing', 'dispute_receivable'),
      ('DISPUTE_LOSS', 'dispute_hold', 'dispute_receivable'),
      ('PAYOUT_RESERVE', 'restaurant_payable', 'payout_reserved'),
      ('PAYOUT_RELEASE', 'payout_reserved', 'platform_cash'),
      ('PAYOUT_REVERSAL', 'payout_reserved', 'restaurant_payable'),
      ('PAYOUT_RETURN', 'platform_cash', 'restaurant_payable'))),
  CONSTRAINT ledger_entries_cause_check CHECK (
    (event_id IS NULL) = (entry_type = 'PAYOUT_RESERVE') AND (event_id IS NULL) = (occurred_at IS NULL)),
  CONSTRAINT ledger_entries_payout_id_check CHECK (
    (payout_id IS NOT NULL)
    = (entry_type IN ('PAYOUT_RESERVE', 'PAYOUT_RELEASE', 'PAYOUT_REVERSAL', 'PAYOUT_RETURN')))
)
""",
    """COMMENT ON TABLE ledger_entries IS
  'The books: each row debits one account and credits one account with one amount, so none can be unbalanced. Append-only.'""",
    "COMMENT ON COLUMN ledger_entries.balance_account_id IS 'The restaurant and currency in whose books it stands.'",
    """COMMENT ON COLUMN ledger_entries.recorded_txid IS
  'The database transaction that stored it: what is below the oldest running one is final.'""",
    "COMMENT ON COLUMN ledger_entries.transaction_id IS 'Shared by the entries that one event or one payout step posted.'",
    "COMMENT ON COLUMN ledger_entries.position IS 'The place among the entries of its transaction id, from 1.'",
    "COMMENT ON COLUMN ledger_entries.entry_type IS 'Why it was posted; docs/accounting.md has the rules.'",
    "COMMENT ON COLUMN ledger_entries.debit_account IS 'The account of the chart that is debited.'",
    "COMMENT ON COLUMN ledger_entries.credit_account IS 'The account of the chart that is credited.'",
    "COMMENT ON COLUMN ledger_entries.amount_minor IS 'In minor units of the balance account''s currency.'",
    "COMMENT ON COLUMN ledger_entries.available_at IS 'When it matures; NULL: it counts from the moment it is recorded.'",
    """COMMENT ON COLUMN ledger_entries.occurred_at IS
  'The event''s occurred_at, by the processor''s clock; NULL on a payout''s reserve.'""",
    "COMMENT ON COLUMN ledger_entries.recorded_at IS 'When its transaction began, by the database''s clock.'",
    "COMMENT ON COLUMN ledger_entries.event_id IS 'The event that posted it; NULL on a payout''s reserve.'",
    "COMMENT ON COLUMN ledger_entries.payout_id IS 'The payout it belongs to; NULL on entries that no payout has.'",
    r"""
CREATE FUNCTION deny_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only: % is not allowed', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$
""",
    "COMMENT ON FUNCTION deny_change() IS 'Refuses UPDATE, DELETE and TRUNCATE to everybody, the owner and superusers included.'",
    """
CREATE TRIGGER processor_events_deny_change BEFORE UPDATE OR DELETE OR TRUNCATE ON processor_events
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    # ALWAYS: not even session_replication_role = replica turns it off.
    "ALTER TABLE processor_events ENABLE ALWAYS TRIGGER processor_events_deny_change",
    """
CREATE TRIGGER ledger_entries_deny_change BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entries
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE ledger_entries ENABLE ALWAYS TRIGGER ledger_entries_deny_change",
    # Not the columns that say when and by which transaction a row was recorded: those are the database's to tell.
    """
GRANT SELECT, INSERT (event_id, fingerprint, transaction_id, batch_id, type, restaurant_id, currency, amount_minor, fee_minor,
                      occurred_at, payout_id, reference, metadata)
  ON processor_events TO ledger_app
""",
    """
GRANT SELECT, INSERT (balance_account_id, transaction_id, position, entry_type, debit_account, credit_account, amount_minor,
                      available_at, occurred_at, event_id, payout_id)
  ON ledger_entries TO ledger_app
""",
    "GRANT SELECT ON processor_events, ledger_entries TO ledger_read",
)

DOWNGRADE = (
    """
DO $$ BEGIN
  IF EXISTS (SELECT FROM processor_events) OR EXISTS (SELECT FROM ledger_entries) THEN
    RAISE EXCEPTION 'there are books: they are not removed' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
""",
    "DROP TABLE ledger_entries",
    "DROP TABLE processor_events",
    "DROP FUNCTION deny_change()",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
