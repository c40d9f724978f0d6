"""Stays of the books in a cluster: a snapshot counts only in the stay in which it was taken."""

from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"

# Before the rest, each by itself, as a key of many snapshots takes long to build: writers go on meanwhile.
# What a migration that was killed has left of it is made again.
BUILD_KEY = (
    # Zeros for snapshots that are there, which may be of an earlier stay, and for those of a server of
    # the revision before, which knows no stay. IF NOT EXISTS would wait for a lock all the same.
    """
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'balance_snapshots'::regclass AND attname = 'stay_id') THEN
    ALTER TABLE balance_snapshots ADD COLUMN stay_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
  END IF;
END
$$
""",
    # It waits for transactions that are under way, and nobody waits behind it.
    "SELECT set_config('ledger.lock_timeout', current_setting('lock_timeout'), false)",
    "SET lock_timeout = '120s'",
    "DROP INDEX CONCURRENTLY IF EXISTS balance_snapshots_stay_key",
    """
CREATE UNIQUE INDEX CONCURRENTLY balance_snapshots_stay_key
  ON balance_snapshots (balance_account_id, stay_id, last_recorded_at, horizon)
""",
    "SELECT set_config('lock_timeout', current_setting('ledger.lock_timeout'), false)",
)

UPGRADE = (
    """
CREATE TABLE ledger_stays (
  number            bigint      NOT NULL
    CONSTRAINT ledger_stays_number_check CHECK (number >= 1),
  stay_id           uuid        NOT NULL,
  system_identifier bigint      NOT NULL,
  entries_oid       bigint      NOT NULL,
  entries_file      text        NOT NULL,
  began_at          timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT ledger_stays_pkey PRIMARY KEY (number, stay_id)
)
""",
    """COMMENT ON TABLE ledger_stays IS
  'A row for each time that the books came to a place: a cluster, a database, a table. Never changed.'""",
    """COMMENT ON COLUMN ledger_stays.number IS
  'Counts up from 1, across all places of the books. The highest number is the latest stay.'""",
    """COMMENT ON COLUMN ledger_stays.stay_id IS
  'From the number and the place, so that two servers that begin a stay at once write one row.'""",
    """COMMENT ON COLUMN ledger_stays.system_identifier IS
  'The database cluster. A physical copy keeps it; a dump, logical replication and pg_upgrade do not.'""",
    """COMMENT ON COLUMN ledger_stays.entries_oid IS
  'The OID of ledger_entries: another one once the table was made anew.'""",
    """COMMENT ON COLUMN ledger_stays.entries_file IS
  'The file of ledger_entries: the OID of the database is in it, and a number that TRUNCATE changes.'""",
    """COMMENT ON COLUMN ledger_stays.began_at IS
  'When a server first found the books there, by the database''s clock.'""",
    """
CREATE TRIGGER ledger_stays_deny_change BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_stays
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE ledger_stays ENABLE ALWAYS TRIGGER ledger_stays_deny_change",
    # pg_control_system() opens a file, which takes a tenth of the time of a balance: a server asks it
    # once a session, which is of one cluster only, and keeps the answer in ledger.system_identifier.
    """
CREATE VIEW current_place AS
SELECT COALESCE(NULLIF(current_setting('ledger.system_identifier', true), '')::bigint,
                (SELECT system_identifier FROM pg_control_system())) AS system_identifier,
       'ledger_entries'::regclass::oid::bigint AS entries_oid,
       pg_relation_filepath('ledger_entries'::regclass) AS entries_file
""",
    "COMMENT ON VIEW current_place IS 'Where the books are now: one row.'",
    "COMMENT ON COLUMN current_place.system_identifier IS 'The database cluster.'",
    "COMMENT ON COLUMN current_place.entries_oid IS 'The OID of ledger_entries.'",
    "COMMENT ON COLUMN current_place.entries_file IS 'Where the cluster keeps ledger_entries.'",
    # Only the latest stay can be the present one: books that came back have been elsewhere.
    """
CREATE VIEW current_stay AS
SELECT latest.stay_id
FROM (SELECT * FROM ledger_stays ORDER BY number DESC, stay_id DESC LIMIT 1) AS latest
JOIN current_place AS place
  ON place.system_identifier = latest.system_identifier
 AND place.entries_oid = latest.entries_oid
 AND place.entries_file = latest.entries_file
""",
    """COMMENT ON VIEW current_stay IS
  'The stay that goes on; no row if the books came from elsewhere and no server has run since.'""",
    "COMMENT ON COLUMN current_stay.stay_id IS 'Which one: the snapshots that count have it.'",
    """COMMENT ON COLUMN balance_snapshots.stay_id IS
  'The stay whose numbers the horizon is one of; ignored in any other. Zeros: not known.'""",
    """COMMENT ON COLUMN balance_snapshots.system_identifier IS
  'The database cluster that it was taken in; servers of before 0010 ignore it in any other.'""",
    "ALTER TABLE balance_snapshots DROP CONSTRAINT balance_snapshots_pkey",
    """
ALTER TABLE balance_snapshots
  ADD CONSTRAINT balance_snapshots_pkey PRIMARY KEY USING INDEX balance_snapshots_stay_key
""",
    """
GRANT SELECT, INSERT (number, stay_id, system_identifier, entries_oid, entries_file)
  ON ledger_stays TO ledger_app
""",
    "GRANT SELECT ON current_place, current_stay TO ledger_app",
    "GRANT INSERT (stay_id) ON balance_snapshots TO ledger_app",
    "GRANT SELECT ON ledger_stays, current_place, current_stay TO ledger_read",
)

DOWNGRADE = (
    # The key of before has no room for two stays; snapshots may be deleted at any time.
    "DELETE FROM balance_snapshots",
    "DROP VIEW current_stay",
    "DROP VIEW current_place",
    "ALTER TABLE balance_snapshots DROP CONSTRAINT balance_snapshots_pkey",
    "ALTER TABLE balance_snapshots DROP COLUMN stay_id",
    """
ALTER TABLE balance_snapshots
  ADD CONSTRAINT balance_snapshots_pkey
    PRIMARY KEY (balance_account_id, system_identifier, last_recorded_at, horizon)
""",
    """COMMENT ON COLUMN balance_snapshots.system_identifier IS
  'The database cluster whose transaction numbers the horizon is about; in any other the snapshot is ignored.'""",
    "DROP TABLE ledger_stays",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in BUILD_KEY:
            op.execute(statement)
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
