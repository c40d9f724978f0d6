"""Statement marks: what is known of an account's entries below a number, so that a page of a statement reads only its own."""

from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"

UPGRADE = (
    r"""
CREATE TABLE statement_marks (
  balance_account_id bigint      NOT NULL,
  stay_id            uuid        NOT NULL,
  horizon            xid8        NOT NULL,
  entries_count      bigint      NOT NULL
    CONSTRAINT statement_marks_entries_count_check CHECK (entries_count >= 1),
  last_recorded_at   timestamptz NOT NULL,
  late_by_max        interval    NOT NULL
    CONSTRAINT statement_marks_late_by_max_check CHECK (late_by_max >= interval '0'),
  payable_minor      numeric     NOT NULL,
  CONSTRAINT statement_marks_pkey PRIMARY KEY (balance_account_id, stay_id, last_recorded_at, horizon),
  CONSTRAINT statement_marks_balance_account_id_fkey FOREIGN KEY (balance_account_id)
    REFERENCES balance_accounts (balance_account_id) ON DELETE RESTRICT
)
""",
    """COMMENT ON TABLE statement_marks IS
  'Where pages of statements begin and end: facts about the entries of a balance account below a horizon. Made by the server; '
  'may be deleted at any time: no answer changes.'""",
    "COMMENT ON COLUMN statement_marks.balance_account_id IS 'The restaurant and currency whose entries were counted.'",
    "COMMENT ON COLUMN statement_marks.stay_id IS 'The stay whose numbers the horizon is one of; ignored in any other.'",
    """COMMENT ON COLUMN statement_marks.horizon IS
  'Entries with a lower recorded_txid are counted: their transactions had all ended. All others are not.'""",
    "COMMENT ON COLUMN statement_marks.entries_count IS 'How many entries were counted.'",
    "COMMENT ON COLUMN statement_marks.last_recorded_at IS 'The latest recorded_at of the entries counted, by the database''s clock.'",
    """COMMENT ON COLUMN statement_marks.late_by_max IS
  'How far the recorded_at of an entry counted lies before that of one with a lower recorded_txid, at the most.'""",
    """COMMENT ON COLUMN statement_marks.payable_minor IS
  'What the entries counted credited to restaurant_payable less what they debited, in minor units.'""",
    """
CREATE TRIGGER statement_marks_deny_change BEFORE UPDATE ON statement_marks
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE statement_marks ENABLE ALWAYS TRIGGER statement_marks_deny_change",
    """
GRANT SELECT, INSERT (balance_account_id, stay_id, horizon, entries_count, last_recorded_at, late_by_max, payable_minor)
  ON statement_marks TO ledger_app
""",
    "GRANT SELECT ON statement_marks TO ledger_read",
)

DOWNGRADE = ("DROP TABLE statement_marks",)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
