"""Verifications of the books are stored, so that the next one checks what is new since."""

from alembic import op

revision: str = "0035"
down_revision: str | None = "0034"

UPGRADE = (
    """
CREATE TABLE ledger_verifications (
  number         bigint      NOT NULL CONSTRAINT ledger_verifications_number_check CHECK (number >= 1),
  stay_id        uuid        NOT NULL,
  whole_number   bigint      NOT NULL
    CONSTRAINT ledger_verifications_whole_number_check CHECK (whole_number BETWEEN 1 AND number),
  since_txid     bigint      NOT NULL,
  position_txid  bigint      NOT NULL,
  seal_sequence  bigint      NOT NULL,
  seal_hash      bytea       NOT NULL
    CONSTRAINT ledger_verifications_seal_hash_check CHECK (octet_length(seal_hash) = 32),
  checks_digest  bytea       NOT NULL
    CONSTRAINT ledger_verifications_checks_digest_check CHECK (octet_length(checks_digest) = 32),
  errors_count   bigint      NOT NULL
    CONSTRAINT ledger_verifications_errors_count_check CHECK (errors_count >= 0),
  warnings_count bigint      NOT NULL
    CONSTRAINT ledger_verifications_warnings_count_check CHECK (warnings_count >= 0),
  started_at     timestamptz NOT NULL,
  finished_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT ledger_verifications_pkey PRIMARY KEY (number),
  CONSTRAINT ledger_verifications_txids_check
    CHECK (since_txid >= 0 AND position_txid >= 0 AND (since_txid = 0) = (whole_number = number))
)
""",
    """COMMENT ON TABLE ledger_verifications IS
  'A row for each verification of the books: what it checked and how many findings it had. Append-only.'""",
    "COMMENT ON COLUMN ledger_verifications.number IS 'Counts up from 1.'",
    """COMMENT ON COLUMN ledger_verifications.stay_id IS
  'The stay that the positions are numbers of; no other stay builds on the row. Zeros: none had begun.'""",
    """COMMENT ON COLUMN ledger_verifications.whole_number IS
  'The number of the latest verification that checked whole books; its own if it did so itself.'""",
    """COMMENT ON COLUMN ledger_verifications.since_txid IS
  'The recorded_txid from which on it checked what is new; 0: it checked whole books.'""",
    """COMMENT ON COLUMN ledger_verifications.position_txid IS
  'All rows with a lower recorded_txid were sealed and verified, by it or before it; 0: none can be built upon.'""",
    """COMMENT ON COLUMN ledger_verifications.seal_sequence IS
  'The latest seal that it saw; 0: nothing was sealed.'""",
    "COMMENT ON COLUMN ledger_verifications.seal_hash IS 'The hash of that seal; zeros: none.'",
    """COMMENT ON COLUMN ledger_verifications.checks_digest IS
  'The SHA-256 of the checks. Other checks build on no verification that these made.'""",
    """COMMENT ON COLUMN ledger_verifications.errors_count IS
  'How many errors it found. The next one checks whole books if it is not 0.'""",
    "COMMENT ON COLUMN ledger_verifications.warnings_count IS 'How many warnings it found.'",
    "COMMENT ON COLUMN ledger_verifications.started_at IS 'When it began, by the database''s clock.'",
    "COMMENT ON COLUMN ledger_verifications.finished_at IS 'When it was stored, by the database''s clock.'",
    """
CREATE TRIGGER ledger_verifications_deny_change
  BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_verifications
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE ledger_verifications ENABLE ALWAYS TRIGGER ledger_verifications_deny_change",
    "GRANT SELECT, INSERT ON ledger_verifications TO ledger_app",
    "GRANT SELECT ON ledger_verifications TO ledger_read",
)

DOWNGRADE = ("DROP TABLE ledger_verifications",)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
