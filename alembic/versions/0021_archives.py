"""Archives of run items and of the call log: what of them was removed from the tables, and into which file."""

from alembic import op

revision: str = "0021"
down_revision: str | None = "0020"

# AFTER, as only then a statement knows which rows it removed. Statement triggers do not fire where logical
# replication applies a removal that was allowed at its origin.
DENY_REMOVAL = """
CREATE FUNCTION deny_{what}_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM removed AS r WHERE NOT EXISTS ({archived})) THEN
    RAISE EXCEPTION '% is append-only: % of what is in no archive is not allowed', TG_TABLE_NAME, TG_OP
      USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NULL;
END
$$
"""

FIX_SEARCH_PATHS = """
DO $$
DECLARE
  function regprocedure;
BEGIN
  FOREACH function IN ARRAY ARRAY['deny_call_removal()', 'deny_run_item_removal()']::regprocedure[] LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', function, current_schema());
  END LOOP;
END
$$
"""

TRIGGER = """
CREATE TRIGGER {table}_deny_removal AFTER DELETE ON {table}
  REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION deny_{what}_removal()
"""

UPGRADE = (
    """
CREATE TABLE archived_ranges (
  archive_id  uuid        NOT NULL,
  kind        text        NOT NULL
    CONSTRAINT archived_ranges_kind_check CHECK (kind IN ('payout_run_items', 'audit_log')),
  from_at     timestamptz NOT NULL,
  before_at   timestamptz NOT NULL,
  rows_count  bigint      NOT NULL CONSTRAINT archived_ranges_rows_count_check CHECK (rows_count >= 1),
  file_name   text        NOT NULL
    CONSTRAINT archived_ranges_file_name_check CHECK (file_name ~ '^[A-Za-z0-9._-]{1,128}$'),
  file_bytes  bigint      NOT NULL CONSTRAINT archived_ranges_file_bytes_check CHECK (file_bytes >= 1),
  file_sha256 bytea       NOT NULL
    CONSTRAINT archived_ranges_file_hash_check CHECK (octet_length(file_sha256) = 32),
  archived_at timestamptz NOT NULL DEFAULT recorded_now(),
  CONSTRAINT archived_ranges_pkey PRIMARY KEY (archive_id),
  CONSTRAINT archived_ranges_file_name_key UNIQUE (file_name),
  CONSTRAINT archived_ranges_range_check CHECK (from_at < before_at)
)
""",
    """COMMENT ON TABLE archived_ranges IS
  'A row for each file of archived rows, stored before the first of them is removed from its table. Append-only.'""",
    "COMMENT ON COLUMN archived_ranges.archive_id IS 'Made by `ledger archive run`; the file''s name ends with it.'",
    "COMMENT ON COLUMN archived_ranges.kind IS 'The table that the rows are of.'",
    """COMMENT ON COLUMN archived_ranges.from_at IS
  'The first instant of the range: of recorded_at of calls, of finished_at of runs; by the database''s clock.'""",
    "COMMENT ON COLUMN archived_ranges.before_at IS 'The instant at which the range ends; not in it. By the database''s clock.'",
    "COMMENT ON COLUMN archived_ranges.rows_count IS 'How many rows the file has.'",
    "COMMENT ON COLUMN archived_ranges.file_name IS 'The name of the file, without its directory.'",
    "COMMENT ON COLUMN archived_ranges.file_bytes IS 'The size of the file in bytes, compressed.'",
    "COMMENT ON COLUMN archived_ranges.file_sha256 IS 'The SHA-256 of the file as it is, compressed.'",
    """COMMENT ON COLUMN archived_ranges.archived_at IS
  'When the file was safe and the row was stored, by the database''s clock. The rows were removed after it.'""",
    """
CREATE TABLE archived_run_outcomes (
  payout_run_id uuid   NOT NULL
    CONSTRAINT archived_run_outcomes_payout_run_id_fkey REFERENCES payout_runs ON DELETE RESTRICT,
  outcome       text   NOT NULL CONSTRAINT archived_run_outcomes_outcome_check CHECK (outcome ~ '^[A-Z_]+$'),
  skip_reason   text   NOT NULL CONSTRAINT archived_run_outcomes_skip_reason_check CHECK (skip_reason ~ '^[A-Z_]*$'),
  items_count   bigint NOT NULL CONSTRAINT archived_run_outcomes_items_count_check CHECK (items_count >= 1),
  archive_id    uuid   NOT NULL
    CONSTRAINT archived_run_outcomes_archive_id_fkey REFERENCES archived_ranges ON DELETE RESTRICT,
  CONSTRAINT archived_run_outcomes_pkey PRIMARY KEY (payout_run_id, outcome, skip_reason)
)
""",
    """COMMENT ON TABLE archived_run_outcomes IS
  'How many items of a run had which outcome, for runs whose items are archived: a run keeps its counts. Append-only.'""",
    "COMMENT ON COLUMN archived_run_outcomes.payout_run_id IS 'The run. All of its items are in one archive.'",
    "COMMENT ON COLUMN archived_run_outcomes.outcome IS 'The outcome, as in payout_run_items. OPEN only of a canceled run.'",
    "COMMENT ON COLUMN archived_run_outcomes.skip_reason IS 'Why no payout was created; empty if one was, or for OPEN.'",
    "COMMENT ON COLUMN archived_run_outcomes.items_count IS 'How many items.'",
    "COMMENT ON COLUMN archived_run_outcomes.archive_id IS 'The archive that has the items.'",
    *(
        statement
        for table in ("archived_ranges", "archived_run_outcomes")
        for statement in (
            f"""
CREATE TRIGGER {table}_deny_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
            f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_deny_change",
            # Only the owner says what was archived.
            f"GRANT SELECT ON {table} TO ledger_app, ledger_read",
        )
    ),
    DENY_REMOVAL.format(
        what="call",
        archived="""
    SELECT FROM archived_ranges AS a
    WHERE a.kind = 'audit_log' AND r.recorded_at >= a.from_at AND r.recorded_at < a.before_at""",
    ),
    "COMMENT ON FUNCTION deny_call_removal() IS 'Lets only calls be removed whose time is in the range of an archive.'",
    DENY_REMOVAL.format(
        what="run_item",
        archived="SELECT FROM archived_run_outcomes AS a WHERE a.payout_run_id = r.payout_run_id",
    ),
    "COMMENT ON FUNCTION deny_run_item_removal() IS 'Lets only items of runs be removed that are in an archive.'",
    FIX_SEARCH_PATHS,
    # The removal's own guard first, so that there is always one.
    TRIGGER.format(table="audit_log", what="call"),
    "ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_deny_removal",
    """
CREATE OR REPLACE TRIGGER audit_log_deny_change BEFORE UPDATE OR TRUNCATE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_deny_change",
    TRIGGER.format(table="payout_run_items", what="run_item"),
    "ALTER TABLE payout_run_items ENABLE ALWAYS TRIGGER payout_run_items_deny_removal",
    """
CREATE OR REPLACE TRIGGER payout_run_items_deny_change BEFORE TRUNCATE ON payout_run_items
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE payout_run_items ENABLE ALWAYS TRIGGER payout_run_items_deny_change",
    """COMMENT ON TABLE audit_log IS
  'Who called what: a row for each call that writes, whatever became of it. Only added to; old rows go into archives.'""",
    """COMMENT ON TABLE payout_run_items IS
  'The restaurants of a run and what became of each. Only that changes, once. Those of old runs go into archives.'""",
)

DOWNGRADE = (
    """
DO $$ BEGIN
  IF EXISTS (SELECT FROM archived_ranges) THEN
    RAISE EXCEPTION 'rows were archived, of which the earlier schema cannot tell'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
""",
    """
CREATE OR REPLACE TRIGGER audit_log_deny_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_deny_change",
    "DROP TRIGGER audit_log_deny_removal ON audit_log",
    """
CREATE OR REPLACE TRIGGER payout_run_items_deny_change BEFORE DELETE OR TRUNCATE ON payout_run_items
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE payout_run_items ENABLE ALWAYS TRIGGER payout_run_items_deny_change",
    "DROP TRIGGER payout_run_items_deny_removal ON payout_run_items",
    "DROP FUNCTION deny_run_item_removal()",
    "DROP FUNCTION deny_call_removal()",
    "DROP TABLE archived_run_outcomes",
    "DROP TABLE archived_ranges",
    """COMMENT ON TABLE audit_log IS
  'Who called what: a row for each call that writes, whatever became of it. Append-only.'""",
    "COMMENT ON TABLE payout_run_items IS 'The restaurants of a run and what became of each. Only that changes, once.'",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
