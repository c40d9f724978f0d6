"""The unit of work on PostgreSQL: one transaction, rolled back unless `commit` was reached."""

from contextlib import suppress
from types import TracebackType
from typing import Self

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ledger.infrastructure.postgres.payouts import PostgresPayoutSettlement
from ledger.infrastructure.postgres.restaurants import PostgresRestaurants
from ledger.infrastructure.postgres.sessions.engine import check_safe, connect
from ledger.infrastructure.postgres.sessions.errors import database_errors, refusal_of


class PostgresUnitOfWork:
    """Implements `ledger.application.ports.unit_of_work.UnitOfWork`. Its block raises database errors in the ledger's words."""

    restaurants: PostgresRestaurants
    settlement: PostgresPayoutSettlement

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None

    async def __aenter__(self) -> Self:
        with database_errors():
            self._connection = await connect(self._engine)
        self.restaurants = PostgresRestaurants(self._connection)
        self.settlement = PostgresPayoutSettlement(self._connection)
        return self

    async def commit(self) -> None:
        if self._connection is None:
            raise RuntimeError("the unit of work was not entered")
        await self._connection.commit()
        try:
            check_safe((await self._connection.get_raw_connection()).driver_connection)
        except asyncpg.PostgresConnectionError as error:
            # Back in the pool it would pass for a sign that all others are dead, too.
            await self._connection.invalidate(error)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Closing rolls back what was not committed, and does nothing after a commit.
            # With a lost session goes what was to be rolled back, and the pool has another one.
            with suppress(DBAPIError):
                await connection.close()
        if error is not None and (meaning := refusal_of(error)) is not None:
            raise meaning from error
