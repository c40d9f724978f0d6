"""Snapshots and marks count only where they were written: a row that was copied here as a row does not."""

from alembic import op

revision: str = "0020"
down_revision: str | None = "0019"

TABLES = ("balance_snapshots", "statement_marks")
COMMENT = """The transaction that wrote the row. PostgreSQL keeps its lower half with each row, in xmin, and
a copy of the files keeps that; a dump, COPY and logical replication do not. NULL: of before 0020."""

LATEST = """
CREATE OR REPLACE VIEW current_stay AS
SELECT latest.stay_id
FROM (SELECT * FROM ledger_stays ORDER BY number DESC, stay_id DESC LIMIT 1) AS latest
JOIN current_place AS place
  ON place.system_identifier = latest.system_identifier
 AND place.entries_oid = latest.entries_oid
 AND place.entries_file = latest.entries_file
"""

UPGRADE = (
    *(
        statement
        for table in TABLES
        for statement in (
            # Without a default at first: no row is written anew.
            f"ALTER TABLE {table} ADD COLUMN written_txid xid8",
            # For servers of the revision before as well, which do not name the column.
            f"ALTER TABLE {table} ALTER COLUMN written_txid SET DEFAULT pg_current_xact_id()",
            f"COMMENT ON COLUMN {table}.written_txid IS '{COMMENT.replace(chr(10), ' ')}'",
        )
    ),
    # Two stays of one number: a server wrote here before all rows had come from elsewhere, and its
    # snapshots lack what came later. A new stay begins.
    f"""
{LATEST.rstrip()}
WHERE NOT EXISTS (
  SELECT FROM ledger_stays AS other WHERE other.number = latest.number AND other.stay_id <> latest.stay_id)
""",
)

DOWNGRADE = (LATEST, *(f"ALTER TABLE {table} DROP COLUMN written_txid" for table in TABLES))


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
