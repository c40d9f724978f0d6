"""What is PostgreSQL's own about snapshots: up to which transaction the books are final, and whose numbers those are."""

# Every transaction with a lower number had ended when the statement that asks this began, and the statement sees all that it
# wrote: nothing with such a number will ever be added. https://www.postgresql.org/docs/current/functions-info.html
HORIZON = "pg_snapshot_xmin(pg_current_snapshot())"

# Numbers belong to one database cluster: an entry that was restored from another one has a number of that one, which may be yet
# to come here. The identifier survives failover, base backups and point-in-time recovery, as the numbers do. Looking it up takes
# a tenth of the time that a balance takes, so it is done once a session, which can be of one cluster only. A session without it
# has NULL here, which no snapshot has.
SYSTEM_IDENTIFIER = "NULLIF(current_setting('ledger.system_identifier', true), '')::bigint"

SET_SYSTEM_IDENTIFIER = """
SELECT set_config('ledger.system_identifier', system_identifier::text, false) FROM pg_control_system()
"""

# Below any number that a transaction ever had.
FIRST_HORIZON = "'0'::xid8"
