"""Seals over the books, and a way to find the rows of a range of transaction numbers."""

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"

UPGRADE = (
    # Nearly free for writers, which a B-tree is not: a few dozen bytes for each megabyte, written when the megabyte is full.
    # xid8 has no operator class for BRIN and its only cast is to text, so the number is indexed as a bigint.
    """
CREATE INDEX processor_events_recorded_txid_idx ON processor_events USING brin ((recorded_txid::text::bigint))
""",
    "COMMENT ON INDEX processor_events_recorded_txid_idx IS 'For sealing and for checking seals, which read by ranges of it.'",
    """
CREATE INDEX ledger_entries_recorded_txid_idx ON ledger_entries USING brin ((recorded_txid::text::bigint))
""",
    "COMMENT ON INDEX ledger_entries_recorded_txid_idx IS 'For sealing and for checking seals, which read by ranges of it.'",
    # BRIN reads every page that it has not summarized yet. Autovacuum does that too late for a busy ledger, and the application, which
    # does not own the tables, may not. It gives up at once on a table that is being vacuumed: waiting for longer would end the vacuum.
    """
CREATE FUNCTION summarize_recorded_txids() RETURNS integer LANGUAGE sql SECURITY DEFINER
  SET search_path = pg_catalog SET lock_timeout = '100ms'
BEGIN ATOMIC
  SELECT brin_summarize_new_values('processor_events_recorded_txid_idx'::regclass)
       + brin_summarize_new_values('ledger_entries_recorded_txid_idx'::regclass);
END
""",
    """COMMENT ON FUNCTION summarize_recorded_txids() IS
  'Has BRIN take in the pages filled since the last time; how many ranges it did. For the sealer.'""",
    "REVOKE ALL ON FUNCTION summarize_recorded_txids() FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION summarize_recorded_txids() TO ledger_app",
    r"""
CREATE TABLE ledger_seals (
  sequence          bigint      NOT NULL
    CONSTRAINT ledger_seals_sequence_check CHECK (sequence >= 1),
  epoch             integer     NOT NULL
    CONSTRAINT ledger_seals_epoch_check CHECK (epoch >= 1),
  is_restored       boolean     NOT NULL,
  system_identifier bigint      NOT NULL,
  first_txid        bigint      NOT NULL
    CONSTRAINT ledger_seals_first_txid_check CHECK (first_txid >= 0),
  end_txid          bigint      NOT NULL,
  events_count      integer     NOT NULL
    CONSTRAINT ledger_seals_events_count_check CHECK (events_count >= 0),
  entries_count     integer     NOT NULL
    CONSTRAINT ledger_seals_entries_count_check CHECK (entries_count >= 0),
  contents_hash     bytea       NOT NULL
    CONSTRAINT ledger_seals_contents_hash_check CHECK (octet_length(contents_hash) = 32),
  row_digests       bytea       NOT NULL,
  sealed_at         timestamptz NOT NULL,
  previous_hash     bytea       NOT NULL
    CONSTRAINT ledger_seals_previous_hash_check CHECK (octet_length(previous_hash) = 32),
  hash              bytea       NOT NULL
    CONSTRAINT ledger_seals_hash_check CHECK (octet_length(hash) = 32),
  CONSTRAINT ledger_seals_pkey PRIMARY KEY (sequence),
  CONSTRAINT ledger_seals_previous_hash_key UNIQUE (previous_hash),
  CONSTRAINT ledger_seals_txids_check CHECK (first_txid < end_txid)
)
""",
    # Digests do not compress: trying would only cost.
    "ALTER TABLE ledger_seals ALTER COLUMN row_digests SET STORAGE EXTERNAL",
    """COMMENT ON TABLE ledger_seals IS
  'A chain of hashes over events and entries, so that a change to either shows: docs/seals.md. Append-only.'""",
    "COMMENT ON COLUMN ledger_seals.sequence IS 'The place in the chain, from 1 without gaps. The key lets only one sealer add it.'",
    """COMMENT ON COLUMN ledger_seals.epoch IS
  'Seals of one epoch cover ranges that follow each other; a restore into another cluster begins a new one.'""",
    """COMMENT ON COLUMN ledger_seals.is_restored IS
  'Whether it covers rows restored from another cluster whose numbers this cluster had yet to reach.'""",
    "COMMENT ON COLUMN ledger_seals.system_identifier IS 'The database cluster that sealed it, to which its numbers belong.'",
    "COMMENT ON COLUMN ledger_seals.first_txid IS 'The least recorded_txid that it covers.'",
    "COMMENT ON COLUMN ledger_seals.end_txid IS 'The recorded_txid before which it ends.'",
    """COMMENT ON COLUMN ledger_seals.events_count IS
  'How many events it covers: those of its range that no earlier epoch has sealed.'""",
    "COMMENT ON COLUMN ledger_seals.entries_count IS 'How many entries it covers, likewise.'",
    "COMMENT ON COLUMN ledger_seals.contents_hash IS 'SHA-256 over the SHA-256 of each of its rows, in order.'",
    """COMMENT ON COLUMN ledger_seals.row_digests IS
  'The transaction ids it covers, each with the first bytes of the SHA-256 of its rows: they tell which row was changed.'""",
    "COMMENT ON COLUMN ledger_seals.sealed_at IS 'When it was made, by the database''s clock.'",
    "COMMENT ON COLUMN ledger_seals.previous_hash IS 'The hash of the seal before; zeros in the first.'",
    "COMMENT ON COLUMN ledger_seals.hash IS 'SHA-256 over all of the above: what is published.'",
    """
CREATE TRIGGER ledger_seals_deny_change BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_seals
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE ledger_seals ENABLE ALWAYS TRIGGER ledger_seals_deny_change",
    "GRANT SELECT, INSERT ON ledger_seals TO ledger_app",
    "GRANT SELECT ON ledger_seals TO ledger_read",
)

DOWNGRADE = (
    """
DO $$ BEGIN
  IF EXISTS (SELECT FROM ledger_seals) THEN
    RAISE EXCEPTION 'there are seals: they are not removed' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
""",
    "DROP TABLE ledger_seals",
    "DROP FUNCTION summarize_recorded_txids()",
    "DROP INDEX ledger_entries_recorded_txid_idx",
    "DROP INDEX processor_events_recorded_txid_idx",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
