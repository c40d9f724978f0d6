"""The unit of work on PostgreSQL: one transaction, rolled back unless `commit` was called."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.accounts import PostgresAccounts
from ledger.infrastructure.postgres.payment_books import PostgresPaymentBooks
from ledger.infrastructure.postgres.payout_submissions import PostgresPayoutSubmissions
from ledger.infrastructure.postgres.payouts import PostgresPayoutSettlement
from ledger.infrastructure.postgres.quarantine import PostgresQuarantineMoves
from ledger.infrastructure.postgres.restaurants import PostgresRestaurants
from ledger.infrastructure.postgres.sessions.driver import Connection, Transaction
from ledger.infrastructure.postgres.sessions.engine import (
    KeptConnections,
    autocommit,
    check_safe,
)
from ledger.infrastructure.postgres.sessions.errors import refusals


class PostgresUnitOfWork:
    """Implements `ledger.application.ports.unit_of_work.UnitOfWork`.

    Its block raises database errors as the ledger's errors.
    """

    def __init__(
        self,
        connections: AsyncEngine | KeptConnections,
        payment_books: Callable[[Connection], PostgresPaymentBooks] | None = None,
    ) -> None:
        """Without `payment_books` it is not for payments."""
        self._autocommit = (
            connections.autocommit
            if isinstance(connections, KeptConnections)
            else partial(autocommit, connections)
        )
        self._payment_books = payment_books
        self._connection: Connection | None = None
        # The transaction, until it is committed.
        self._open: Transaction | None = None
        self._exits = AsyncExitStack()

    @property
    def restaurants(self) -> PostgresRestaurants:
        return PostgresRestaurants(self._in_transaction())

    @property
    def accounts(self) -> PostgresAccounts:
        return PostgresAccounts(self._in_transaction())

    @property
    def settlement(self) -> PostgresPayoutSettlement:
        return PostgresPayoutSettlement(self._in_transaction())

    @property
    def submissions(self) -> PostgresPayoutSubmissions:
        return PostgresPayoutSubmissions(self._in_transaction())

    @property
    def quarantine(self) -> PostgresQuarantineMoves:
        return PostgresQuarantineMoves(self._in_transaction())

    @property
    def payments(self) -> PostgresPaymentBooks:
        if self._payment_books is None:
            raise RuntimeError("the unit of work is not for payments")
        return self._payment_books(self._in_transaction())

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            exits.enter_context(refusals())
            connection = await exits.enter_async_context(self._autocommit())
            transaction = connection.transaction()
            await transaction.start()
            exits.push_async_exit(self._roll_back)
            self._exits = exits.pop_all()
        self._connection, self._open = connection, transaction
        return self

    async def commit(self) -> None:
        connection = self._in_transaction()
        transaction, self._open = self._open, None
        if transaction is not None:
            await transaction.commit()
        check_safe(connection)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._exits.__aexit__(kind, error, trace)

    def _in_transaction(self) -> Connection:
        # Without a transaction each SQL statement would commit by itself.
        if self._connection is None or self._open is None:
            raise RuntimeError("the unit of work is not open")
        return self._connection

    async def _roll_back(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        # After a cancellation `autocommit` ends the session, and its transaction with it.
        if isinstance(error, asyncio.CancelledError):
            return
        if self._connection is not None and self._open is not None:
            transaction, self._open = self._open, None
            try:
                await transaction.rollback()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                # The transaction ends with its session, and the pool opens another one.
                self._connection.terminate()
