"""Under synchronous replication, readers wait here until what they read is replicated."""

import sys
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.grouping import Grouping
from ledger.infrastructure.postgres.sessions.driver import Row
from ledger.infrastructure.postgres.sessions.engine import autocommit

# Whether commits wait for a standby, so that a visible row may not be safe yet.
HAS_SYNCHRONOUS_STANDBY = "current_setting('synchronous_standby_names') <> ''"

# A column for readers that need safe rows: whether there is a standby to wait for.
IS_REPLICATED = f"{HAS_SYNCHRONOUS_STANDBY} AS is_replicated"

# Writes a message into the log that no program reads. That makes the transaction one that writes,
# so its commit waits until a standby has everything before it, with all that was visible when it
# began.
WRITE_MESSAGE = "pg_logical_emit_message(true, 'ledger', '')"

EMIT_MESSAGE = f"SELECT FROM {WRITE_MESSAGE}"


class Fence:
    """Waits until everything that is visible is as durable as the database makes any commit.

    A commit that was cut off while it waited for its standby is visible and not yet safe: what was
    read may be lost with the primary. Readers that wait at the same time share one message, on one
    connection: while the standby is away they leave the other connections of the pool to readers
    that do not wait for it.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: Grouping[None, None] = Grouping(
            self._pass,
            group_items_max=sys.maxsize,
            groups_at_once_max=1,
            what="readers that wait for a standby",
        )

    async def wait(self, rows: Sequence[Row]) -> None:
        """Returns once `rows` are safe; at once if there are none, or if no standby is synchronous.

        `rows` have the column IS_REPLICATED. Call this after the read, without holding a
        connection. Raises DatabaseUnavailable, DatabaseTimeout and ShuttingDown.
        """
        if rows and rows[0]["is_replicated"]:
            await self._waiting.add(None)

    async def close(self) -> None:
        """Returns when no reader waits any more; later waits raise ShuttingDown."""
        await self._waiting.close()

    async def _pass(self, waiting: Sequence[None]) -> Sequence[None]:
        async with autocommit(self._engine) as connection:
            await connection.execute(EMIT_MESSAGE)
        return waiting
