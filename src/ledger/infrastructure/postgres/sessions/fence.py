"""Readers wait here, under synchronous replication, until what they have read is as safe as what writers are told."""

import sys
from collections.abc import Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.grouping import Answer, Grouping
from ledger.infrastructure.postgres.sessions.driver import Row
from ledger.infrastructure.postgres.sessions.engine import autocommit

# A column for whoever reads what must be safe: whether there is something to wait for.
IS_REPLICATED = "current_setting('synchronous_standby_names') <> '' AS is_replicated"

# A message that nobody reads. It is a commit that writes, and so waits for a standby to have everything before it, with whatever
# was visible when it began.
EMIT_MESSAGE = "SELECT FROM pg_logical_emit_message(true, 'ledger', '')"


class Fence:
    """Waits until everything that is visible is as durable as the database makes any commit.

    A commit that was cut off while it waited for its standby is visible and not yet safe: what was read may be lost with the
    primary. Those who wait at the same time share one message, on one connection: while the standby is away they leave the others
    of the pool to readers that do not wait for it.
    """

    def __init__(
        self, engine: AsyncEngine, *, on_failure: Callable[[BaseException], None] = lambda _: None
    ) -> None:
        """`on_failure` is told if gathering those who wait breaks; they are told, too."""
        self._engine = engine
        self._waiting: Grouping[None, None] = Grouping(
            self._pass, group_items_max=sys.maxsize, groups_at_once_max=1, on_failure=on_failure
        )

    async def wait(self, rows: Sequence[Row]) -> None:
        """Returns once `rows` are safe: at once if there are none, or if their column of IS_REPLICATED says so.

        To be called after they were read, without holding a connection. Raises DatabaseUnavailable, DatabaseTimeout and
        ShuttingDown.
        """
        if rows and rows[0]["is_replicated"]:
            await self._waiting.add(None)

    async def close(self) -> None:
        """Returns when nobody waits any more; afterwards nobody can."""
        await self._waiting.close()

    async def _pass(self, waiting: Sequence[None], _answer: Answer[None]) -> Sequence[None]:
        async with autocommit(self._engine) as connection:
            await connection.execute(EMIT_MESSAGE)
        return waiting
