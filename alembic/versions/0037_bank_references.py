"""What the bank calls a payout, and why it refused it."""

from alembic import op

revision: str = "0037"
down_revision: str | None = "0036"

# Called by a CHECK, for the few events that have one of the columns: PostgreSQL parses a CHECK with
# every statement.
HAS_VALID_WORDS_NAME = "has_valid_words(text, text, text, text)"
HAS_VALID_WORDS = r"""
CREATE OR REPLACE FUNCTION has_valid_words(text, text, text, text)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  type ALIAS FOR $1;
  bank_reference ALIAS FOR $2;
  failure_code ALIAS FOR $3;
  failure_text ALIAS FOR $4;
BEGIN
  RETURN starts_with(type, 'payout_')
     AND (bank_reference IS NULL
          OR bank_reference ~ '^[ -~]+$' AND octet_length(bank_reference) <= 255)
     AND (type = 'payout_failed' OR failure_code IS NULL AND failure_text IS NULL)
     AND (failure_code IS NULL
          OR failure_code ~ '^[A-Za-z0-9._:-]+$' AND octet_length(failure_code) <= 64)
     AND (failure_text IS NULL
          OR char_length(failure_text) BETWEEN 1 AND 500
             AND failure_text !~ '[\x01-\x1f\x7f-\x9f]');
END
$$
"""
WORDS_CHECK = (
    "(bank_reference IS NULL AND failure_code IS NULL AND failure_text IS NULL)"
    " OR has_valid_words(type, bank_reference, failure_code, failure_text)"
)

# Replacing a function forgets its settings.
FIX_PATH = """
DO $$ BEGIN
  EXECUTE format('ALTER FUNCTION check_sealed_events() SET search_path = pg_catalog, %I, pg_temp',
                 current_schema());
END $$
"""

# Each by itself. The columns are NULL in all rows, so validation finds nothing; it reads the table
# once, while writers go on.
BUILD = (
    HAS_VALID_WORDS,
    FIX_PATH.replace("check_sealed_events()", HAS_VALID_WORDS_NAME),
    f"GRANT EXECUTE ON FUNCTION {HAS_VALID_WORDS_NAME} TO ledger_app",
    "ALTER TABLE processor_events ADD COLUMN IF NOT EXISTS bank_reference text,"
    " ADD COLUMN IF NOT EXISTS failure_code text, ADD COLUMN IF NOT EXISTS failure_text text",
    f"""
DO $do$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_constraint
                 WHERE conrelid = 'processor_events'::regclass
                   AND conname = 'processor_events_words_check') THEN
    ALTER TABLE processor_events
      ADD CONSTRAINT processor_events_words_check CHECK ({WORDS_CHECK}) NOT VALID;
  END IF;
END $do$
""",
    "ALTER TABLE processor_events VALIDATE CONSTRAINT processor_events_words_check",
)

CHECK_SEALED_EVENTS = """
CREATE OR REPLACE FUNCTION check_sealed_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (
    SELECT FROM processor_events
    WHERE recorded_txid::text::bigint >= NEW.first_txid
      AND recorded_txid::text::bigint < NEW.end_txid
      AND num_nonnulls({columns}) > 0
  ) THEN
    RAISE EXCEPTION 'there are events with fields that only servers of revision {revision} and later seal'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  RETURN NEW;
END
$$
"""
COLUMNS_BEFORE = "available_at, processor_fee_minor"
COLUMNS = f"{COLUMNS_BEFORE}, bank_reference, failure_code, failure_text"

COMMENTS = {
    "bank_reference": "What the bank calls the payout; NULL: it does not say.",
    "failure_code": "Why the payout failed, in the bank''s code; NULL: it does not say.",
    "failure_text": "Why the payout failed, in the bank''s words; NULL: it does not say.",
}

UPGRADE = (
    CHECK_SEALED_EVENTS.format(columns=COLUMNS, revision="0037"),
    FIX_PATH,
    *(
        f"COMMENT ON COLUMN processor_events.{column} IS '{comment}'"
        for column, comment in COMMENTS.items()
    ),
    f"COMMENT ON FUNCTION {HAS_VALID_WORDS_NAME} IS"
    " 'Whether an event of this type may have these words of the bank.'",
    "GRANT INSERT (bank_reference, failure_code, failure_text) ON processor_events TO ledger_app",
)

DOWNGRADE = (
    """
DO $$ BEGIN
  IF EXISTS (SELECT FROM processor_events
             WHERE payout_id IS NOT NULL
               AND num_nonnulls(bank_reference, failure_code, failure_text) > 0) THEN
    RAISE EXCEPTION 'there are references or failures of the bank, which the earlier schema cannot hold'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
""",
    CHECK_SEALED_EVENTS.format(columns=COLUMNS_BEFORE, revision="0032"),
    FIX_PATH,
    "ALTER TABLE processor_events DROP COLUMN bank_reference, DROP COLUMN failure_code,"
    " DROP COLUMN failure_text",
    f"DROP FUNCTION {HAS_VALID_WORDS_NAME}",
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
