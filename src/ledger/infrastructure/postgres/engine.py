"""Connections: one pool a process, with sessions that can never wait for ever."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ledger.errors import DatabaseUnavailable
from ledger.infrastructure.postgres.errors import database_errors

CONNECT_TIMEOUT_SECONDS = 5
POOL_WAIT_SECONDS = 5
STATEMENT_TIMEOUT_SECONDS = 10
LOCK_TIMEOUT_SECONDS = 3
IDLE_IN_TRANSACTION_TIMEOUT_SECONDS = 15
# When not even the statement timeout's answer arrives, the network is gone.
COMMAND_TIMEOUT_SECONDS = STATEMENT_TIMEOUT_SECONDS + 5

APPLICATION_ROLE = "ledger_app"

# The driver's own type carries no types; this name says what is meant.
Connection = Any


def create_engine(url: str, *, pool_size: int, role: str = APPLICATION_ROLE) -> AsyncEngine:
    """An engine whose sessions run as `role`, whoever logged in, and are bounded in time.

    `url` is a SQLAlchemy URL of the asyncpg dialect. Connects at the first use, not before.
    """
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        # Statements are few and known, and each is prepared once a session.
        connect_args={
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "command_timeout": COMMAND_TIMEOUT_SECONDS,
            "server_settings": {
                "application_name": "ledger",
                "role": role,
                "timezone": "UTC",
                "statement_timeout": f"{STATEMENT_TIMEOUT_SECONDS}s",
                "lock_timeout": f"{LOCK_TIMEOUT_SECONDS}s",
                "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_TIMEOUT_SECONDS}s",
                # Compiling pays off for long queries only; there are none.
                "jit": "off",
                # Every statement is written to be planned once, for any number of rows: planning anew costs a single event half
                # as much as storing it. And a plan that was made while a table was small must not read it whole once it is large.
                "plan_cache_mode": "force_generic_plan",
                "enable_seqscan": "off",
            },
        },
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


def _refuse_closed(dbapi_connection: Any, *_: Any) -> None:
    """Keeps a connection that the server closed while it was idle from being used; costs no round trip.

    The others of the pool were opened before it and are as dead, most likely: the pool is asked to replace all of them.
    """
    if dbapi_connection.driver_connection.is_closed():
        raise InvalidatePoolError


async def connect(engine: AsyncEngine) -> AsyncConnection:
    """A connection of the pool, for the caller to close. Raises DatabaseUnavailable if the database does not let us in."""
    try:
        return await engine.connect()
    except (DBAPIError, asyncpg.PostgresError) as error:
        raise DatabaseUnavailable("the database does not let us in") from error


@asynccontextmanager
async def autocommit(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """A driver connection outside any transaction block: every statement is a transaction of its own, in one round trip.

    Raises the block's database errors in the ledger's words.
    """
    with database_errors():
        async with aclosing(await connect(engine)) as connection:
            driver_connection = (await connection.get_raw_connection()).driver_connection
            try:
                yield driver_connection
            except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
                # A cancelled statement may still be running in that session, and a lost one must not be pooled.
                await connection.invalidate(error)
                raise
