"""The unit of work on PostgreSQL: one transaction, rolled back unless `commit` was reached."""

from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Self

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.payouts import PostgresPayoutSettlement
from ledger.infrastructure.postgres.restaurants import PostgresRestaurants
from ledger.infrastructure.postgres.sessions.driver import Connection, Transaction
from ledger.infrastructure.postgres.sessions.engine import autocommit, check_safe
from ledger.infrastructure.postgres.sessions.errors import refusals


class PostgresUnitOfWork:
    """Implements `ledger.application.ports.unit_of_work.UnitOfWork`.

    Its block raises database errors in the ledger's words.
    """

    restaurants: PostgresRestaurants
    settlement: PostgresPayoutSettlement

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        # The transaction, until it is committed.
        self._open: Transaction | None = None
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            exits.enter_context(refusals())
            connection = await exits.enter_async_context(autocommit(self._engine))
            transaction = connection.transaction()
            await transaction.start()
            exits.push_async_callback(self._roll_back)
            self._exits = exits.pop_all()
        self._connection, self._open = connection, transaction
        self.restaurants = PostgresRestaurants(connection)
        self.settlement = PostgresPayoutSettlement(connection)
        return self

    async def commit(self) -> None:
        if self._connection is None or self._open is None:
            raise RuntimeError("the unit of work is not open")
        transaction, self._open = self._open, None
        await transaction.commit()
        check_safe(self._connection)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._exits.__aexit__(kind, error, trace)

    async def _roll_back(self) -> None:
        if self._open is not None:
            transaction, self._open = self._open, None
            # With a lost session goes what was to be rolled back, and the pool has another one.
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await transaction.rollback()
