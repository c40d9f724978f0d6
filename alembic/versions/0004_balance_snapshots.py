"""Balance snapshots: sums of final entries, from which a balance is calculated without reading its whole history."""

from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"

UPGRADE = (
    r"""
CREATE TABLE balance_snapshots (
  balance_account_id bigint      NOT NULL,
  system_identifier  bigint      NOT NULL,
  horizon            xid8        NOT NULL,
  taken_at           timestamptz NOT NULL,
  entries_count      bigint      NOT NULL
    CONSTRAINT balance_snapshots_entries_count_check CHECK (entries_count >= 1),
  last_recorded_at   timestamptz NOT NULL,
  last_event_at      timestamptz,
  ledger_accounts    text[]      NOT NULL,
  entry_types        text[]      NOT NULL,
  total_minors       numeric[]   NOT NULL,
  matured_minors     numeric[]   NOT NULL,
  CONSTRAINT balance_snapshots_pkey PRIMARY KEY (balance_account_id, system_identifier, last_recorded_at, horizon),
  CONSTRAINT balance_snapshots_balance_account_id_fkey FOREIGN KEY (balance_account_id)
    REFERENCES balance_accounts (balance_account_id) ON DELETE RESTRICT,
  CONSTRAINT balance_snapshots_ledger_accounts_check CHECK (ledger_accounts <@ ARRAY[
    'processor_clearing', 'restaurant_payable', 'payout_reserved', 'platform_fees', 'platform_cash', 'dispute_receivable',
    'dispute_hold', 'adjustments']),
  CONSTRAINT balance_snapshots_lines_check CHECK (
    cardinality(ledger_accounts) >= 2
    AND array_ndims(ledger_accounts) = 1
    AND array_ndims(entry_types) = 1 AND cardinality(entry_types) = cardinality(ledger_accounts)
    AND array_ndims(total_minors) = 1 AND cardinality(total_minors) = cardinality(ledger_accounts)
    AND array_ndims(matured_minors) = 1 AND cardinality(matured_minors) = cardinality(ledger_accounts)
    AND array_position(ledger_accounts, NULL) IS NULL AND array_position(entry_types, NULL) IS NULL
    AND array_position(total_minors, NULL) IS NULL AND array_position(matured_minors, NULL) IS NULL)
)
""",
    """COMMENT ON TABLE balance_snapshots IS
  'Sums of all entries of a balance account below a horizon. Made by the server; may be deleted at any time: no answer changes.'""",
    "COMMENT ON COLUMN balance_snapshots.balance_account_id IS 'The restaurant and currency whose entries were added up.'",
    """COMMENT ON COLUMN balance_snapshots.system_identifier IS
  'The database cluster whose transaction numbers the horizon is about; in any other the snapshot is ignored.'""",
    """COMMENT ON COLUMN balance_snapshots.horizon IS
  'Entries with a lower recorded_txid are counted: their transactions had all ended. All others are not.'""",
    """COMMENT ON COLUMN balance_snapshots.taken_at IS
  'The instant by which what is in matured_minors had matured, by the database''s clock.'""",
    "COMMENT ON COLUMN balance_snapshots.entries_count IS 'How many entries were counted.'",
    """COMMENT ON COLUMN balance_snapshots.last_recorded_at IS
  'The latest recorded_at of the entries counted, by the database''s clock: a balance as of a later instant counts them all.'""",
    "COMMENT ON COLUMN balance_snapshots.last_event_at IS 'The latest occurred_at of the entries counted, by the processor''s clock.'",
    """COMMENT ON COLUMN balance_snapshots.ledger_accounts IS
  'The account of the chart that a line is about. A line has its place in all four arrays.'""",
    "COMMENT ON COLUMN balance_snapshots.entry_types IS 'The type of the entries that a line adds up.'",
    """COMMENT ON COLUMN balance_snapshots.total_minors IS
  'What they credited to the account less what they debited, in minor units of the balance account''s currency.'""",
    """COMMENT ON COLUMN balance_snapshots.matured_minors IS
  'The same of those alone that need not mature or had by taken_at.'""",
    """
CREATE TRIGGER balance_snapshots_deny_change BEFORE UPDATE ON balance_snapshots
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE balance_snapshots ENABLE ALWAYS TRIGGER balance_snapshots_deny_change",
    """
CREATE INDEX ledger_entries_available_at_idx ON ledger_entries (balance_account_id, available_at)
  WHERE available_at IS NOT NULL
""",
    """COMMENT ON INDEX ledger_entries_available_at_idx IS
  'For what has matured since a snapshot was taken, and what had not by an earlier instant.'""",
    """
GRANT SELECT, INSERT (balance_account_id, system_identifier, horizon, taken_at, entries_count, last_recorded_at, last_event_at,
                      ledger_accounts, entry_types, total_minors, matured_minors)
  ON balance_snapshots TO ledger_app
""",
    "GRANT SELECT ON balance_snapshots TO ledger_read",
)

DOWNGRADE = (
    "DROP INDEX ledger_entries_available_at_idx",
    "DROP TABLE balance_snapshots",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
