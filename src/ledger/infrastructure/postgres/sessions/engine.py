"""Connections: one pool a process, with sessions that can never wait for ever."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ledger.errors import DatabaseUnavailable, QueueFull
from ledger.infrastructure.postgres.sessions.driver import Connection, DriverConnection
from ledger.infrastructure.postgres.sessions.errors import database_errors
from ledger.infrastructure.postgres.sessions.horizon import SET_SYSTEM_IDENTIFIER
from ledger.infrastructure.postgres.sessions.hosts import Hosts

POOL_WAIT_SECONDS = 5
STATEMENT_TIMEOUT_SECONDS = 10
LOCK_TIMEOUT_SECONDS = 3
# Of the sessions that book groups of single calls: all of a group wait while one of them does, until it is booked apart.
GROUP_LOCK_TIMEOUT_SECONDS = 1
IDLE_IN_TRANSACTION_TIMEOUT_SECONDS = 15
# A server that was stopped in the middle of a transaction, not ended, keeps its locks: the session is not idle as long as part of
# a statement is missing. More than any transaction of a server takes, but for those that ask for more time.
TRANSACTION_TIMEOUT_SECONDS = 30
# When not even the statement timeout's answer arrives, the network is gone.
COMMAND_TIMEOUT_SECONDS = STATEMENT_TIMEOUT_SECONDS + 5

# PostgreSQL's own function in which a commit waits for a synchronous standby. Messages name the function that they come from.
SYNCHRONOUS_WAIT = "SyncRepWaitForLSN"

APPLICATION_ROLE = "ledger_app"
OWNER_ROLE = "ledger_owner"
READER_ROLE = "ledger_read"

# What every session sets itself, so that nothing rests on what the database, a role or a connection pooler is set to: a startup
# parameter is dropped by some poolers, and a role may change its own defaults.
SESSION_SETTINGS = {
    "timezone": "UTC",
    "statement_timeout": f"{STATEMENT_TIMEOUT_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_TIMEOUT_SECONDS}s",
    # The pool keeps idle sessions, which cost nothing.
    "idle_session_timeout": "0",
    # What is looked up after an insert met a duplicate needs a snapshot of its own.
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    # That a commit is not safe is no more than a warning.
    "client_min_messages": "warning",
    # Compiling pays off for long queries only; there are none.
    "jit": "off",
    # Every statement is written to be planned once, for any number of rows: planning anew costs a single event half
    # as much as storing it. And a plan that was made while a table was small must not read it whole once it is large.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    # A plan for any values takes a range for a third of the table. To start two processes for it costs more than
    # a page of a statement.
    "max_parallel_workers_per_gather": "0",
    # Only a transaction sets its instant: a default of the role would stop the clock of the books.
    "ledger.now": "",
}
# The values of synchronous_commit with which a commit is safe, where there is a synchronous standby as well.
SAFE_COMMITS = ("on", "remote_apply")

# A setting of ours, by which a session is known again.
SESSION_NAME = "ledger.session"
# Of every open connection: the name that its session was given.
_session_names: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()
# What PostgreSQL says of a prepared statement that a session does not know, or knows already.
UNKNOWN_STATEMENT_SQLSTATES = ("26000", "42P05")

# After these nobody knows what the session does, or whose it is: it must not be used again.
_LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
)

# The path of a session: the schema of the books and nothing else, temporary tables last. Where a database has books in several
# schemas, the one that the database or the role names first.
_BOOKS_FIRST = f"""
SELECT set_config('search_path', quote_ident(COALESCE((
  SELECT n.nspname
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.relname = 'ledger_entries' AND c.relkind IN ('r', 'p') AND pg_get_userbyid(c.relowner) = '{OWNER_ROLE}'
  ORDER BY array_position(
    (SELECT string_to_array(translate(reset_val, '" ', ''), ',') FROM pg_settings WHERE name = 'search_path'), n.nspname::text),
    n.nspname <> 'public', n.nspname
  LIMIT 1), 'public')) || ', pg_temp', false)
"""


def _preparation(role: str, lock_timeout_seconds: int) -> str:
    """The statements that make a new session one of ours. PostgreSQL has transaction_timeout from 17 on.

    A value that is right already is set all the same: else a reload of the configuration would change it in open sessions.
    """
    settings = {"role": role, **SESSION_SETTINGS, "lock_timeout": f"{lock_timeout_seconds}s"}
    return f"""
SET search_path = pg_catalog, pg_temp;
SELECT {", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())};
SELECT set_config('synchronous_commit', CASE
  WHEN current_setting('synchronous_commit') = ANY (ARRAY{list(SAFE_COMMITS)})
  THEN current_setting('synchronous_commit') ELSE '{SAFE_COMMITS[0]}' END, false);
SELECT set_config('transaction_timeout', '{TRANSACTION_TIMEOUT_SECONDS}s', false)
WHERE current_setting('server_version_num')::integer >= 170000;
{SET_SYSTEM_IDENTIFIER};
{_BOOKS_FIRST}
"""


# For a transaction that may take longer. Its clock is running already, and only to be switched off.
LIFT_TRANSACTION_TIMEOUT = """
SELECT set_config('transaction_timeout', '0', true)
WHERE current_setting('server_version_num')::integer >= 170000
"""

# For a transaction that reads whole tables, as audits and reports do.
READ_WHOLE_TABLES = (
    "SET LOCAL enable_seqscan = on; SET LOCAL max_parallel_workers_per_gather TO DEFAULT"
)
# And when it goes on with ranges of them.
READ_RANGES = "SET LOCAL enable_seqscan = off; SET LOCAL max_parallel_workers_per_gather = 0"

# A driver connection outside any transaction block for a `with`, which raises database errors in the ledger's words.
Autocommit = Callable[[], AbstractAsyncContextManager[Connection]]


def create_engine(
    database: str | Hosts,
    *,
    pool_size: int,
    role: str = APPLICATION_ROLE,
    lock_timeout_seconds: int = LOCK_TIMEOUT_SECONDS,
) -> AsyncEngine:
    """An engine whose sessions run as `role`, whoever logged in, and are bounded in time.

    `database` is a SQLAlchemy URL of the asyncpg dialect, or the hosts that several engines share. Connects at the first use,
    not before.
    """
    hosts = database if isinstance(database, Hosts) else Hosts(database)
    engine = create_async_engine(
        hosts.url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        # Statements are few and known, and each is prepared once a session.
        async_creator=partial(
            hosts.connect,
            command_timeout=COMMAND_TIMEOUT_SECONDS,
            # All else is set by the session itself.
            server_settings={"application_name": "ledger"},
        ),
    )
    event.listen(
        engine.sync_engine, "connect", partial(_prepare, _preparation(role, lock_timeout_seconds))
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


def _prepare(preparation: str, dbapi_connection: Any, _record: Any) -> None:
    """Makes a new session one of ours; ends it if it cannot be."""
    connection: DriverConnection = dbapi_connection.driver_connection
    name = uuid4().hex
    statements = f"{preparation}; SELECT set_config('{SESSION_NAME}', '{name}', false)"
    try:
        dbapi_connection.run_async(lambda connection: connection.execute(statements))
    except BaseException:
        connection.terminate()
        raise
    _session_names[connection] = name
    connection.add_log_listener(_end_if_unsafe)


async def keeps_session(connection: Connection) -> bool:
    """Whether the connection still leads to the session that was prepared for it.

    A connection pooler may have put another one there. Asked without a prepared statement, which
    another session would not know.
    """
    name = _session_names[connection]
    status = await connection.execute(
        f"SELECT 1 WHERE current_setting('{SESSION_NAME}', true) = '{name}'"
    )
    return status == "SELECT 1"


def _end_if_unsafe(connection: Connection, message: asyncpg.PostgresLogMessage) -> None:
    """Ends a session whose commit was cut off while it waited for a standby: PostgreSQL warns of that, and calls it a success.

    It has no SQLSTATE of its own, and its words are in the server's language. Only PostgreSQL's function that waits names it.
    """
    if getattr(message, "server_source_function", None) == SYNCHRONOUS_WAIT:
        connection.terminate()


def check_safe(connection: Connection) -> None:
    """To be asked after a commit, before anybody is told of it. Raises a driver's error if no standby may have it.

    The driver tells of a warning before it answers the statement that it belongs to.
    """
    if connection.is_closed():
        raise asyncpg.ConnectionDoesNotExistError(
            "the session ended with its commit, which may not be safe"
        )


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


async def driver_of(pooled: AsyncConnection) -> Connection:
    """The driver's connection beneath one of the pool."""
    raw: Any = await pooled.get_raw_connection()
    connection: Connection = raw.driver_connection
    return connection


@asynccontextmanager
async def autocommit(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """A driver connection outside any transaction block: every statement is a transaction of its own, in one round trip.

    Raises the block's database errors in the ledger's words.
    """
    with database_errors():
        async with aclosing(await connect(engine)) as pooled:
            try:
                connection = await driver_of(pooled)
                yield connection
                check_safe(connection)
            except _LOST as error:
                # A statement that timed out may still be running in that session, and a lost one must not be pooled.
                await pooled.invalidate(error)
                raise
            except asyncio.CancelledError:
                # Nor one that was cancelled: it may stand inside a transaction that was to begin, of which nobody here knows.
                await pooled.invalidate()
                raise


async def allow_seconds(connection: Connection, seconds: int) -> None:
    """Lets each statement of the transaction that has begun take so long, and the transaction as long as they do."""
    await connection.execute(
        f"SET LOCAL statement_timeout = '{seconds}s'; {LIFT_TRANSACTION_TIMEOUT}"
    )


async def wait_for_locks(connection: Connection, seconds: float) -> None:
    """Lets each statement of the transaction that has begun wait so long for a lock."""
    await connection.execute(f"SET LOCAL lock_timeout = '{round(seconds * 1000)}ms'")


class KeptConnections:
    """Driver connections for the few that use one all the time: each stays checked out of the pool until it breaks.

    Taking a connection out of the pool and putting it back costs as much as storing a few events. There are never more of them
    than uses at once, which is for the users to bound, and for the engine's pool.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._idle: deque[tuple[AsyncConnection, Connection]] = deque()

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[Connection]:
        """As the function of this name."""
        with database_errors():
            pooled, connection = await self._take()
            try:
                yield connection
                check_safe(connection)
            except _LOST as error:
                # A cancelled statement may still be running in that session, and a lost one must not be kept.
                await pooled.invalidate(error)
                await pooled.close()
                raise
            except asyncio.CancelledError:
                await pooled.invalidate()
                await pooled.close()
                raise
            except BaseException:
                self._idle.append((pooled, connection))
                raise
            self._idle.append((pooled, connection))

    async def close(self) -> None:
        """Gives all connections back that are not in use."""
        while self._idle:
            pooled, _ = self._idle.popleft()
            await pooled.close()

    async def _take(self) -> tuple[AsyncConnection, Connection]:
        while self._idle:
            # The one used last: it is the least likely to have been closed meanwhile.
            pooled, connection = self._idle.pop()
            if not connection.is_closed():
                return pooled, connection
            await pooled.invalidate()
            await pooled.close()
        pooled = await connect(self._engine)
        return pooled, await driver_of(pooled)


class BoundedConnections:
    """Driver connections for reads that may be long: a few run, some more wait, and the rest is refused at once.

    With connections of their own, long reads never keep a short one waiting.
    """

    def __init__(self, engine: AsyncEngine, *, uses_max: int) -> None:
        """`uses_max` is how many may run and wait together; the engine's pool says how many run."""
        self._engine = engine
        self._uses_max = uses_max
        self.uses = 0

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[Connection]:
        """As the function of this name. Raises QueueFull if as many run and wait already."""
        if self.uses >= self._uses_max:
            raise QueueFull
        self.uses += 1
        try:
            async with autocommit(self._engine) as connection:
                yield connection
        finally:
            self.uses -= 1
