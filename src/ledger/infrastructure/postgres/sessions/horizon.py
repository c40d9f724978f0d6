"""PostgreSQL's transaction numbers, txids: up to which the books are final, in which cluster.

The only place that names PostgreSQL's functions on database snapshots.
"""

# Which transactions a statement sees: the database snapshot that it reads.
DATABASE_SNAPSHOT = "pg_current_snapshot()"


def next_number(database_snapshot: str) -> str:
    """SQL: a txid above every txid that the cluster had given out when the snapshot was taken."""
    return f"pg_snapshot_xmax({database_snapshot})"


def open_numbers(database_snapshot: str) -> str:
    """SQL, for FROM: the txids of the transactions that were open then, one a row."""
    return f"pg_snapshot_xip({database_snapshot})"


def is_visible(txid: str, database_snapshot: str) -> str:
    """SQL: whether the transaction `txid` had committed when the snapshot was taken."""
    return f"pg_visible_in_snapshot({txid}, {database_snapshot})"


# Every transaction with a lower txid had ended when the statement that asks for this began, and
# the statement sees all that these wrote: nothing with such a txid will ever be added.
# https://www.postgresql.org/docs/current/functions-info.html
HORIZON = f"pg_snapshot_xmin({DATABASE_SNAPSHOT})"

# Above every txid that a transaction of this cluster has been given when the statement begins.
NEXT_NUMBER = next_number(DATABASE_SNAPSHOT)

# Below any txid that a transaction ever had.
FIRST_HORIZON = "'0'::xid8"

# Each session stores the identifier of its cluster in a setting, because a look-up takes a tenth
# of the time that a balance takes. A session is of one cluster only. A session without the setting
# looks the identifier up in each statement.
SYSTEM_IDENTIFIER = "NULLIF(current_setting('ledger.system_identifier', true), '')::bigint"

SET_SYSTEM_IDENTIFIER = """
SELECT set_config('ledger.system_identifier', system_identifier::text, false)
FROM pg_control_system()
"""

# A stay is the time that the books spend in one cluster: this is the present one, NULL before a
# server has begun it. Txids mean something in one stay only: an entry restored from another
# cluster has a txid of that one, which may be below a horizon of this cluster and yet be in no
# snapshot. The books may also come back to a cluster. So the present stay is the latest row of
# ledger_stays, and only if that row names the cluster, the table and its file as they are now. Each
# statement asks once: the books may be replaced beneath a session, but not while a statement reads
# ledger_entries. Asking takes some 10 microseconds.
#
# A base backup, a promoted standby and a recovery to a moment of the past continue the same stay.
# They are copies by the log, which has a snapshot only after the commits of all transactions below
# its horizon: where the snapshot is, there is what it counts. And the numbers continue above all
# numbers in the log. With pg_upgrade the numbers continue as well, but the result looks like any
# cluster with other numbers: a new stay begins, which costs no more than taking the snapshots
# again.
STAY = "(SELECT stay_id FROM current_stay)"

# While a subscription brings entries, rows arrive that no snapshot has counted, with numbers of
# another cluster: no stay begins, and no snapshot is taken.
BOOKS_ARE_COMING = """EXISTS (
  SELECT FROM pg_catalog.pg_subscription_rel AS r WHERE r.srrelid = 'ledger_entries'::regclass)"""

# Two servers that do this at once write the same row, and one of them writes nothing.
BEGIN_STAY = """
INSERT INTO ledger_stays (number, stay_id, system_identifier, entries_oid, entries_file)
SELECT next.number,
       encode(substring(sha256(convert_to(
         concat_ws(' ', next.number, system_identifier, entries_oid, entries_file), 'UTF8'))
         FROM 1 FOR 16), 'hex')::uuid,
       system_identifier, entries_oid, entries_file
FROM current_place
CROSS JOIN (SELECT COALESCE(max(number), 0) + 1 AS number FROM ledger_stays) AS next
WHERE NOT EXISTS (SELECT FROM current_stay)
ON CONFLICT DO NOTHING
RETURNING number
"""

# A standby writes nothing: the primary has begun the stay, or will.
SELECT_STAY_IS_TO_BEGIN = f"""
SELECT current_setting('transaction_read_only') = 'off' AND NOT EXISTS (SELECT FROM current_stay)
   AND NOT {BOOKS_ARE_COMING}
"""


def written_here(row: str) -> str:
    """SQL, for WHERE: the row of balance_snapshots or statement_marks was written in these files.

    Two clusters that were one have the same stay in both: a promoted standby, and the primary that
    it left behind. A row that is copied from one into the other gets another xmin there.
    """
    return f"{row}.xmin = {row}.written_txid::xid"
