"""SQL about txids, the numbers that PostgreSQL gives to database transactions.

The horizon is the txid below which the books are final. Txids are compared within a stay, which is
the time that the books spend in one cluster.

In Python, only this module names PostgreSQL's functions on database snapshots.
"""

# The database snapshot of a statement: which transactions the statement sees.
DATABASE_SNAPSHOT = "pg_current_snapshot()"


def next_txid(database_snapshot: str) -> str:
    """SQL: the txid after the highest one that had ended when the snapshot was taken.

    A statement sees no transaction of this cluster with this txid or a higher one. Such
    transactions may be open already.
    """
    return f"pg_snapshot_xmax({database_snapshot})"


def open_txids(database_snapshot: str) -> str:
    """SQL, for FROM: the txids below `next_txid` that were open then, one a row."""
    return f"pg_snapshot_xip({database_snapshot})"


def oldest_open_txid(database_snapshot: str) -> str:
    """SQL: the oldest txid that was open when the snapshot was taken, or `next_txid` if none was.

    Every transaction with a lower one had ended by then.
    """
    return f"pg_snapshot_xmin({database_snapshot})"


def is_visible(txid: str, database_snapshot: str) -> str:
    """SQL: whether the transaction `txid` had committed when the snapshot was taken."""
    return f"pg_visible_in_snapshot({txid}, {database_snapshot})"


# Every transaction with a lower txid had ended when the statement began, and the statement sees
# what it wrote. So no row with a lower txid is ever added.
# https://www.postgresql.org/docs/current/functions-info.html
HORIZON = oldest_open_txid(DATABASE_SNAPSHOT)

# Above the txid of every transaction of this cluster that the statement sees. A visible row with
# this txid or a higher one was restored from another cluster.
NEXT_TXID = next_txid(DATABASE_SNAPSHOT)

# Below the txid of every transaction.
FIRST_HORIZON = "'0'::xid8"

# Each session stores the identifier of its cluster in a setting, because a look-up takes a tenth
# of the time that a balance takes. The cluster of a session never changes. In a session without
# the setting this is NULL; the view current_place then looks the identifier up.
SYSTEM_IDENTIFIER = "NULLIF(current_setting('ledger.system_identifier', true), '')::bigint"

SET_SYSTEM_IDENTIFIER = """
SELECT set_config('ledger.system_identifier', system_identifier::text, false)
FROM pg_control_system()
"""

# The present stay; NULL before a server has begun it. Txids of two stays must not be compared: an
# entry that was restored from another cluster keeps the txid from there. That txid may be below a
# horizon of this cluster although no snapshot counts the entry. The books may also come back to a
# cluster. So the present stay is the latest row of ledger_stays, and only if that row names the
# cluster, the table and its file as they are now. Each statement looks the stay up once: the books
# may be replaced while a session is open, but not while a statement reads ledger_entries. The
# look-up takes some 10 microseconds.
#
# A base backup, a promoted standby and a recovery to a moment of the past continue the same stay.
# They replay the write-ahead log, in which a snapshot comes after the commits of all transactions
# below its horizon: a copy that has the snapshot has all entries that it counts. Its own txids
# continue above all txids in the log. After pg_upgrade txids continue as well, but the result looks
# like any other cluster: a new stay begins, which costs no more than taking the snapshots again.
STAY = "(SELECT stay_id FROM current_stay)"

# Whether a subscription brings entries. These rows have txids of another cluster, and no snapshot
# counts them. So no stay begins then, and no snapshot is taken.
HAS_SUBSCRIPTION = """EXISTS (
  SELECT FROM pg_catalog.pg_subscription_rel AS r WHERE r.srrelid = 'ledger_entries'::regclass)"""

# Two servers that run this at once make the same row, and one of them stores it.
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
SELECT_STAY_MUST_BEGIN = f"""
SELECT current_setting('transaction_read_only') = 'off' AND NOT EXISTS (SELECT FROM current_stay)
   AND NOT {HAS_SUBSCRIPTION}
"""


def written_here(row: str) -> str:
    """SQL, for WHERE: the row of balance_snapshots or statement_marks was written in this cluster.

    A promoted standby and the primary that it left behind are in the same stay. A row that is
    copied from one into the other gets another xmin there.
    """
    # The planner takes an equality to be rare, and so would sort all rows of an account instead of
    # going from the newest one back until one row passes. It takes a CASE to pass half of the rows.
    return f"CASE WHEN {row}.xmin = {row}.written_txid::xid THEN true ELSE false END"
