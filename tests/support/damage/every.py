"""Every damage, and what a check finds once it is done."""

import re
from functools import cache

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support.damage.events import DAMAGE_TO_DATA
from support.damage.guards import DAMAGE_TO_CLOCK, DAMAGE_TO_GUARDS, DAMAGE_TO_SEALING
from support.damage.payments import DAMAGE_TO_ACCOUNTS, DAMAGE_TO_ENTRIES, DAMAGE_TO_PAYMENTS
from support.damage.payouts import DAMAGE_TO_PAYOUTS
from support.damage.quarantine import DAMAGE_TO_QUARANTINE
from support.damage.snapshots import DAMAGE_TO_MARKS, DAMAGE_TO_SNAPSHOTS

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.sessions.driver import Row
from ledger.infrastructure.postgres.sessions.engine import autocommit

DAMAGE = (
    DAMAGE_TO_CLOCK
    + DAMAGE_TO_SEALING
    + DAMAGE_TO_DATA
    + DAMAGE_TO_PAYOUTS
    + DAMAGE_TO_ENTRIES
    + DAMAGE_TO_PAYMENTS
    + DAMAGE_TO_ACCOUNTS
    + DAMAGE_TO_SNAPSHOTS
    + DAMAGE_TO_MARKS
    + DAMAGE_TO_QUARANTINE
    + DAMAGE_TO_GUARDS
)


def filled_in(text: str, names: dict[str, str]) -> str:
    """`text` with its braces replaced."""
    return re.sub(r"\{([a-z_.0-9]+)\}", lambda found: names[found[1]], text)


async def findings_after(database: Database, damage: str, statement: str) -> list[Row]:
    """What a statement returns once the damage is done, which is then taken back.

    Keeps its session, which knows the tables already, until `end_sessions`.
    """
    async with autocommit(_engine(database.migration_url)) as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(damage)
            return list(await connection.fetch(statement))
        finally:
            await transaction.rollback()


async def end_sessions(database: Database) -> None:
    """Ends the session that `findings_after` has kept."""
    await _engine(database.migration_url).dispose()


@cache
def _engine(url: str) -> AsyncEngine:
    """Keeps no prepared statement, as damage changes tables."""
    return create_async_engine(url, pool_size=1, connect_args={"statement_cache_size": 0})
