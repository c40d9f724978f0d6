"""Makes rows that were recorded a moment ago look older."""

from ledger.bootstrap.database import Database
from support.running import query


async def make_older(database: Database, days: int) -> None:
    """Sets back the instants at which runs ended and calls were recorded.

    Only a superuser can do this: it disables the triggers that guard the tables.
    """
    for table, change in (
        (
            "payout_runs",
            f"UPDATE payout_runs SET finished_at = finished_at - interval '{days} days'",
        ),
        ("audit_log", f"UPDATE audit_log SET recorded_at = recorded_at - interval '{days} days'"),
    ):
        trigger = f"{table}_deny_{'move' if table == 'payout_runs' else 'change'}"
        await query(
            database.migration_url,
            f"DO $$ BEGIN ALTER TABLE {table} DISABLE TRIGGER {trigger}; {change};"
            f" ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}; END $$",
        )
