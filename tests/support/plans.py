"""Plans of SQL statements, and what they read."""

from typing import Any

from ledger.infrastructure.postgres.sessions.driver import Connection


def rows_read(plan: Any) -> int:
    """How many rows of ledger_entries the plan has read, discarded ones included."""
    own = 0
    if plan.get("Relation Name") == "ledger_entries":
        rows = (
            plan["Actual Rows"]
            + plan.get("Rows Removed by Filter", 0)
            + plan.get("Rows Removed by Index Recheck", 0)
        )
        own = round(rows * plan["Actual Loops"])
    return own + sum(rows_read(part) for part in plan.get("Plans", ()))


def buffers_of(plan: Any) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def explained(connection: Connection, statement: str, *values: object) -> Any:
    """The plan of a statement as the service runs it, with what it read."""
    found = await connection.fetchval(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *values
    )
    return found[0]["Plan"]
