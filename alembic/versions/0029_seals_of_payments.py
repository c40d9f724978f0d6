"""Seals cover payments and their operations, and servers that know none do not seal beside them."""

from alembic import op

revision: str = "0029"
down_revision: str | None = "0028"

_TXID = "((recorded_txid::text::bigint))"

# Index, definition, comment. A payment is updated when it is captured, so its row moves to wherever
# there is room. Then each range of pages has rows of all times, and BRIN would read the whole
# table.
INDEXES = (
    (
        "payments_recorded_txid_idx",
        f"INDEX {{name}} ON payments {_TXID}",
        "For sealing and for checking seals, which read by ranges of it.",
    ),
    (
        "payment_operations_recorded_txid_idx",
        f"INDEX {{name}} ON payment_operations USING brin {_TXID}",
        "For sealing and for checking seals, which read by ranges of it.",
    ),
)

SUMMARIZED = ("processor_events_recorded_txid_idx", "ledger_entries_recorded_txid_idx")
SUMMARIZE = """
CREATE OR REPLACE FUNCTION summarize_recorded_txids() RETURNS integer LANGUAGE sql SECURITY DEFINER
  SET search_path = pg_catalog SET lock_timeout = '100ms'
BEGIN ATOMIC
  SELECT {calls};
END
"""

# A server of an earlier revision inserts seals without the column, so the database asks this.
SEAL_WITHOUT_PAYMENTS = """
CREATE FUNCTION seal_without_payments() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM payments) THEN
    RAISE EXCEPTION 'there are payments, which only servers of revision 0029 and later seal'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  RETURN false;
END
$$
"""

FIX_PATHS = """
DO $$
DECLARE
  function text;
BEGIN
  FOREACH function IN ARRAY ARRAY[{functions}] LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', function,
                   current_schema());
  END LOOP;
END $$
"""

# Object, comment, the comment before.
REWORDED = (
    (
        "TABLE ledger_seals",
        "A chain of hashes over events, entries, payments and operations of payments, so that a "
        "change to any of them shows: docs/seals.md. Append-only.",
        "A chain of hashes over events and entries, so that a change to either shows: "
        "docs/seals.md. Append-only.",
    ),
    (
        "COLUMN ledger_seals.events_count",
        "How many events, payments and operations of payments it covers: those of its range that "
        "no earlier epoch has sealed.",
        "How many events it covers: those of its range that no earlier epoch has sealed.",
    ),
)


def summarize(indexes: tuple[str, ...]) -> str:
    """SQL for the function that summarizes these BRIN indexes."""
    return SUMMARIZE.format(
        calls=" + ".join(f"brin_summarize_new_values('{name}'::regclass)" for name in indexes)
    )


UPGRADE = (
    *(f"CREATE {sql.format(name=name)}" for name, sql, _ in INDEXES),
    *(f"COMMENT ON INDEX {name} IS '{comment}'" for name, _, comment in INDEXES),
    summarize((*SUMMARIZED, "payment_operations_recorded_txid_idx")),
    SEAL_WITHOUT_PAYMENTS,
    "COMMENT ON FUNCTION seal_without_payments() IS"
    " 'Is false, and raises an error once there are payments: for the seals of servers that know"
    " none.'",
    FIX_PATHS.format(functions="'summarize_recorded_txids()', 'seal_without_payments()'"),
    "GRANT EXECUTE ON FUNCTION seal_without_payments() TO ledger_app",
    # Two steps: seals that are there get the constant, and the table is not written anew.
    "ALTER TABLE ledger_seals ADD COLUMN covers_payments boolean NOT NULL DEFAULT false",
    "ALTER TABLE ledger_seals ALTER COLUMN covers_payments SET DEFAULT seal_without_payments()",
    "COMMENT ON COLUMN ledger_seals.covers_payments IS"
    " 'Whether the server that made it knew payments; if not, there were none. No part of the"
    " hash.'",
    *(f"COMMENT ON {what} IS '{comment}'" for what, comment, _ in REWORDED),
)

DOWNGRADE = (
    """
DO $$ BEGIN
  IF EXISTS (SELECT FROM payments) THEN
    RAISE EXCEPTION 'there are payments, which servers of the earlier schema do not seal'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
""",
    *(f"COMMENT ON {what} IS '{comment}'" for what, _, comment in REWORDED),
    "ALTER TABLE ledger_seals DROP COLUMN covers_payments",
    "DROP FUNCTION seal_without_payments()",
    summarize(SUMMARIZED),
    FIX_PATHS.format(functions="'summarize_recorded_txids()'"),
    *(f"DROP INDEX {name}" for name, _, _ in INDEXES),
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
