"""Balance snapshots for tests: taken at will, and the answers that may not depend on them."""

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.engine import autocommit
from ledger.infrastructure.postgres.snapshots import PostgresBalanceSnapshots


async def take_snapshots(engine: AsyncEngine, restaurant_id: str | None = None) -> int:
    """Takes a snapshot of every balance account, or of one restaurant's, wherever there is anything new; how many were taken."""
    snapshots = PostgresBalanceSnapshots(engine)
    async with autocommit(engine) as connection:
        rows = await connection.fetch(
            "SELECT balance_account_id FROM balance_accounts WHERE $1::text IS NULL OR restaurant_id = $1", restaurant_id
        )
    return sum([await snapshots.take(row["balance_account_id"], 1) for row in rows])
