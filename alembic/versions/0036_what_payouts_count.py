"""Payouts keep which entries they counted, and events are found by time and by reference."""

from alembic import op

revision: str = "0036"
down_revision: str | None = "0035"

# Index, definition, comment. A B-tree of references costs each event a third of what booking it
# costs, since references are in no order. BRIN costs an event next to nothing: what a range of
# pages holds is noted when the range is full, in one go, by summarize_recorded_txids(). Of
# references it notes a bloom filter, which lets 1 % of the other ranges pass: a look-up reads these.
# A range of 8 pages has some 250 events. Its filter has fewer than 500 bytes: PostgreSQL tries to
# compress a larger one with each event that is added to a range that has one, which costs more than
# to book the event.
INDEXES = (
    (
        "processor_events_recorded_at_idx",
        "brin (recorded_at)",
        "For lists of events of a span of time, latest first.",
    ),
    (
        "processor_events_reference_idx",
        "brin (reference text_bloom_ops (n_distinct_per_range = 375, false_positive_rate = 0.01))"
        " WITH (pages_per_range = 8)",
        "For lists of the events of a reference, such as a payment. As precise as the filter of"
        " each range of pages: a B-tree would cost ingest a third.",
    ),
)


def build(name: str, definition: str, comment: str) -> tuple[str, ...]:
    """SQL that makes an index. What a migration that was killed has left of it is made again."""
    return (
        f"DROP INDEX CONCURRENTLY IF EXISTS {name}",
        f"CREATE INDEX CONCURRENTLY {name} ON processor_events USING {definition}",
        f"COMMENT ON INDEX {name} IS '{comment}'",
    )


BUILD_INDEXES = (
    # It waits for transactions that are under way, and no other session waits behind it.
    "SELECT set_config('ledger.lock_timeout', current_setting('lock_timeout'), false)",
    "SET lock_timeout = '120s'",
    *(statement for index in INDEXES for statement in build(*index)),
    "SELECT set_config('lock_timeout', current_setting('ledger.lock_timeout'), false)",
)

SUMMARIZED = (
    "processor_events_recorded_txid_idx",
    "ledger_entries_recorded_txid_idx",
    "payment_operations_recorded_txid_idx",
)
SUMMARIZE = """
CREATE OR REPLACE FUNCTION summarize_recorded_txids() RETURNS integer LANGUAGE sql SECURITY DEFINER
  SET search_path = pg_catalog SET lock_timeout = '100ms'
BEGIN ATOMIC
  SELECT {calls};
END
"""

FIX_PATH = """
DO $$ BEGIN
  EXECUTE format('ALTER FUNCTION summarize_recorded_txids()'
                 ' SET search_path = pg_catalog, %I, pg_temp', current_schema());
END $$
"""


def summarize(indexes: tuple[str, ...]) -> str:
    """SQL for the function that summarizes these BRIN indexes."""
    return SUMMARIZE.format(
        calls=" + ".join(f"brin_summarize_new_values('{name}'::regclass)" for name in indexes)
    )


UPGRADE = (
    summarize((*SUMMARIZED, *(name for name, _, _ in INDEXES))),
    FIX_PATH,
    # Two steps: payouts that are there keep NULL, and servers of the revision before fill it, too.
    "ALTER TABLE payouts ADD COLUMN counted_snapshot pg_snapshot",
    "ALTER TABLE payouts ALTER COLUMN counted_snapshot SET DEFAULT pg_current_snapshot()",
    "COMMENT ON COLUMN payouts.counted_snapshot IS"
    " 'What the statement that created it saw: it counts the entries of these transactions that"
    " had matured by the cut-off. NULL: created before that was kept.'",
)

DOWNGRADE = (
    "ALTER TABLE payouts DROP COLUMN counted_snapshot",
    summarize(SUMMARIZED),
    FIX_PATH,
    *(f"DROP INDEX {name}" for name, _, _ in INDEXES),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in BUILD_INDEXES:
            op.execute(statement)
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
