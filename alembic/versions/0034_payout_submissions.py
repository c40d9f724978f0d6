"""Payouts that were submitted to the bank, or canceled before, and the lists of what was submitted."""

from alembic import op

revision: str = "0034"
down_revision: str | None = "0033"

EVENT_TYPES = (
    "charge_succeeded",
    "refund_succeeded",
    "fee_assessed",
    "adjustment_credited",
    "adjustment_debited",
    "dispute_opened",
    "dispute_won",
    "dispute_lost",
    "payout_paid",
    "payout_failed",
    "refund_failed",
    "charge_reversed",
    "fee_refunded",
    "dispute_fee_refunded",
    "processor_fee_assessed",
    "processor_fee_refunded",
    "tax_withheld",
    "tax_withholding_reversed",
    "reserve_held",
    "reserve_released",
    "top_up_received",
    "debt_written_off",
    "processor_settled",
    "processor_settlement_debited",
)
NEW_EVENT_TYPES = ("payout_submitted", "payout_canceled", "payout_referenced")

# The indexes that let payouts exclude each other, with the states before and now. Servers of the
# revision before know no SUBMITTED payout: these indexes keep them from paying its restaurant again.
KEYS = (
    (
        "payouts_in_flight_key",
        "balance_account_id",
        "state = 'CREATED'",
        "state IN ('CREATED', 'SUBMITTED')",
    ),
    (
        "payouts_live_key",
        "balance_account_id, as_of",
        "state IN ('CREATED', 'PAID')",
        "state IN ('CREATED', 'SUBMITTED', 'PAID')",
    ),
)
KEY_COMMENTS = {
    "payouts_in_flight_key": "At most one payout of a balance account is in flight.",
    "payouts_live_key": ("At most one payout of a balance account and date is in flight or paid."),
}


def listed(words: tuple[str, ...]) -> str:
    """The words as a list of SQL literals."""
    return ", ".join(f"'{word}'" for word in words)


def event_types(words: tuple[str, ...]) -> tuple[str, ...]:
    """SQL that gives the domain event_type these words. Reads no table."""
    return (
        "ALTER DOMAIN event_type DROP CONSTRAINT event_type_check",
        f"ALTER DOMAIN event_type ADD CONSTRAINT event_type_check CHECK (VALUE IN ({listed(words)}))",
    )


STATES_BEFORE = ("CREATED", "PAID", "FAILED", "RETURNED")
STATES = (*STATES_BEFORE, "SUBMITTED", "CANCELED")

# Before the rest, each by itself: writers go on meanwhile, and the indexes and the CHECK of before
# stay in force until the new ones replace them. An index that a killed migration has left
# unfinished is made again.
BUILD = (
    "SELECT set_config('ledger.lock_timeout', current_setting('lock_timeout'), false)",
    "SET lock_timeout = '120s'",
    *(
        f"""
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('{name}_new') AND NOT indisvalid) THEN
    DROP INDEX {name}_new;
  END IF;
END $$
"""
        for name, _, _, _ in KEYS
    ),
    *(
        f"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {name}_new ON payouts ({columns}) WHERE {now}"
        for name, columns, _, now in KEYS
    ),
    "SELECT set_config('lock_timeout', current_setting('ledger.lock_timeout'), false)",
    f"""
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'payouts'::regclass AND conname = 'payouts_state_new_check') THEN
    ALTER TABLE payouts ADD CONSTRAINT payouts_state_new_check CHECK (state IN ({listed(STATES)})) NOT VALID;
  END IF;
END $$
""",
    "ALTER TABLE payouts VALIDATE CONSTRAINT payouts_state_new_check",
)

MOVE = r"""
CREATE OR REPLACE FUNCTION check_payout_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (to_jsonb(OLD) - 'state') <> (to_jsonb(NEW) - 'state') OR NOT (
    {moves}
  ) THEN
    RAISE EXCEPTION 'payout % cannot be changed so', OLD.payout_id USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END
$$
"""
MOVES_BEFORE = (
    "(OLD.state = 'CREATED' AND NEW.state IN ('PAID', 'FAILED'))"
    " OR (OLD.state IN ('PAID', 'FAILED') AND NEW.state = 'RETURNED')"
)
MOVES = (
    "(OLD.state = 'CREATED' AND NEW.state IN ('SUBMITTED', 'CANCELED', 'PAID', 'FAILED'))"
    " OR (OLD.state = 'SUBMITTED' AND NEW.state IN ('PAID', 'FAILED'))"
    " OR (OLD.state IN ('PAID', 'FAILED') AND NEW.state = 'RETURNED')"
)
# Replacing a function forgets its settings.
FIX_PATH = """
DO $$ BEGIN
  EXECUTE format('ALTER FUNCTION check_payout_move() SET search_path = pg_catalog, %I, pg_temp',
                 current_schema());
END $$
"""

STATE_COMMENT_BEFORE = (
    "CREATED becomes PAID or FAILED. A later failure makes a PAID payout RETURNED; so does an "
    "earlier payment a FAILED one."
)
STATE_COMMENT = (
    "CREATED becomes SUBMITTED or CANCELED; both CREATED and SUBMITTED become PAID or FAILED. A "
    "later failure makes a PAID payout RETURNED; so does an earlier payment a FAILED one."
)

TABLES = (
    """
CREATE TABLE payout_submissions (
  submission_id text COLLATE "C" NOT NULL
    CONSTRAINT payout_submissions_submission_id_check
      CHECK (submission_id ~ '^[A-Za-z0-9._:-]+$' AND octet_length(submission_id) <= 128),
  payout_run_id uuid,
  payouts_max integer NOT NULL
    CONSTRAINT payout_submissions_payouts_max_check CHECK (payouts_max >= 0),
  currency text COLLATE "C" NOT NULL
    CONSTRAINT payout_submissions_currency_check CHECK (currency ~ '^[A-Z]{3}$'),
  payouts_count bigint NOT NULL
    CONSTRAINT payout_submissions_payouts_count_check CHECK (payouts_count >= 0),
  total_minor numeric NOT NULL
    CONSTRAINT payout_submissions_total_minor_check CHECK (total_minor >= payouts_count),
  left_out jsonb NOT NULL
    CONSTRAINT payout_submissions_left_out_check CHECK (jsonb_typeof(left_out) = 'object'),
  created_at timestamptz NOT NULL DEFAULT recorded_now(),
  CONSTRAINT payout_submissions_pkey PRIMARY KEY (submission_id),
  CONSTRAINT payout_submissions_payout_run_id_fkey FOREIGN KEY (payout_run_id)
    REFERENCES payout_runs (payout_run_id) ON DELETE RESTRICT
)
""",
    """
CREATE TABLE payout_submission_items (
  payout_id uuid NOT NULL,
  submission_id text COLLATE "C" NOT NULL,
  created_at timestamptz NOT NULL,
  CONSTRAINT payout_submission_items_pkey PRIMARY KEY (payout_id),
  CONSTRAINT payout_submission_items_payout_id_fkey FOREIGN KEY (payout_id)
    REFERENCES payouts (payout_id) ON DELETE RESTRICT,
  CONSTRAINT payout_submission_items_submission_id_fkey FOREIGN KEY (submission_id)
    REFERENCES payout_submissions (submission_id) ON DELETE RESTRICT
)
""",
    "CREATE INDEX payout_submission_items_submission_id_idx"
    " ON payout_submission_items (submission_id, created_at, payout_id)",
)
COMMENTS = {
    "TABLE payout_submissions": "Payouts that were handed over to the bank together. Append-only.",
    "COLUMN payout_submissions.submission_id": "The caller''s id, compared byte by byte.",
    "COLUMN payout_submissions.payout_run_id": (
        "The run whose payouts were submitted; NULL if they were named."
    ),
    "COLUMN payout_submissions.payouts_max": (
        "How many payouts of the run the caller asked for at most; 0: all."
    ),
    "COLUMN payout_submissions.currency": "ISO 4217 code of all its payouts.",
    "COLUMN payout_submissions.payouts_count": "How many payouts it has.",
    "COLUMN payout_submissions.total_minor": "What they add up to, in minor units.",
    "COLUMN payout_submissions.left_out": (
        "How many payouts of the run it left out, by the state that they had: an object of numbers."
    ),
    "COLUMN payout_submissions.created_at": "When it was made, by the database''s clock.",
    "TABLE payout_submission_items": (
        "The payouts of a submission. The key keeps a payout out of a second one. Append-only."
    ),
    "COLUMN payout_submission_items.payout_id": "The payout.",
    "COLUMN payout_submission_items.submission_id": "The submission that has it.",
    "COLUMN payout_submission_items.created_at": "When the payout was created, by the database''s clock.",
    "INDEX payout_submission_items_submission_id_idx": (
        "For the list of a submission, latest first."
    ),
}
NEW_TABLES = ("payout_submissions", "payout_submission_items")

UPGRADE = (
    *TABLES,
    *(
        f"CREATE TRIGGER {table}_deny_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION deny_change()"
        for table in NEW_TABLES
    ),
    *(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_deny_change" for table in NEW_TABLES),
    *(f"COMMENT ON {what} IS '{comment}'" for what, comment in COMMENTS.items()),
    f"GRANT SELECT ON {', '.join(NEW_TABLES)} TO ledger_app, ledger_read",
    "GRANT INSERT (submission_id, payout_run_id, payouts_max, currency, payouts_count, total_minor,"
    " left_out) ON payout_submissions TO ledger_app",
    "GRANT INSERT (payout_id, submission_id, created_at) ON payout_submission_items TO ledger_app",
    # The new indexes come before the state that they are for.
    *(f"DROP INDEX {name}" for name, _, _, _ in KEYS),
    *(f"ALTER INDEX {name}_new RENAME TO {name}" for name, _, _, _ in KEYS),
    *(f"COMMENT ON INDEX {name} IS '{comment}'" for name, comment in KEY_COMMENTS.items()),
    MOVE.format(moves=MOVES),
    FIX_PATH,
    "ALTER TABLE payouts DROP CONSTRAINT payouts_state_check",
    "ALTER TABLE payouts RENAME CONSTRAINT payouts_state_new_check TO payouts_state_check",
    f"COMMENT ON COLUMN payouts.state IS '{STATE_COMMENT}'",
    *event_types((*EVENT_TYPES, *NEW_EVENT_TYPES)),
)

DOWNGRADE = (
    """
DO $$ BEGIN
  IF EXISTS (SELECT FROM payout_submissions)
     OR EXISTS (SELECT FROM payouts WHERE state IN ('SUBMITTED', 'CANCELED'))
     OR EXISTS (SELECT FROM processor_events
                WHERE payout_id IS NOT NULL
                  AND type IN ('payout_submitted', 'payout_canceled', 'payout_referenced')) THEN
    RAISE EXCEPTION 'there are submitted or canceled payouts, which the earlier schema cannot hold'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
""",
    "DROP TABLE payout_submission_items",
    "DROP TABLE payout_submissions",
    *event_types(EVENT_TYPES),
    "ALTER TABLE payouts DROP CONSTRAINT payouts_state_check,"
    f" ADD CONSTRAINT payouts_state_check CHECK (state IN ({listed(STATES_BEFORE)}))",
    f"COMMENT ON COLUMN payouts.state IS '{STATE_COMMENT_BEFORE}'",
    MOVE.format(moves=MOVES_BEFORE),
    FIX_PATH,
    *(f"DROP INDEX {name}" for name, _, _, _ in KEYS),
    *(
        f"CREATE UNIQUE INDEX {name} ON payouts ({columns}) WHERE {before}"
        for name, columns, before, _ in KEYS
    ),
    *(f"COMMENT ON INDEX {name} IS '{comment}'" for name, comment in KEY_COMMENTS.items()),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in BUILD:
            op.execute(statement)
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
