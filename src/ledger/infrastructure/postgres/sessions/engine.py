"""Pools of sessions with PostgreSQL, in which every wait has an end."""

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
# For sessions that book groups of single calls. All events of a group wait while one of them waits
# for a lock, so the group gives up soon and books that one separately.
GROUP_LOCK_TIMEOUT_SECONDS = 1
IDLE_IN_TRANSACTION_TIMEOUT_SECONDS = 15
# For a server process that is suspended in the middle of a transaction: its session keeps the
# locks, and does not count as idle while a part of a statement is missing. Longer than any
# transaction of a server, except those that lift this timeout.
TRANSACTION_TIMEOUT_SECONDS = 30
# If not even the error of the statement timeout arrives, the network is gone.
COMMAND_TIMEOUT_SECONDS = STATEMENT_TIMEOUT_SECONDS + 5

# The function of PostgreSQL in which a commit waits for a synchronous standby. Messages name the
# function that they come from.
SYNCHRONOUS_WAIT = "SyncRepWaitForLSN"

APPLICATION_ROLE = "ledger_app"
OWNER_ROLE = "ledger_owner"
READER_ROLE = "ledger_read"
# For `create_engine`, and for sessions that only read: ledger_app if the login may act as it, else
# ledger_read.
EITHER_ROLE = f"{APPLICATION_ROLE} or {READER_ROLE}"

# Every session sets these itself, so that nothing depends on the settings of the database, a role
# or a connection pooler: some poolers drop startup parameters, and a role may change its defaults.
SESSION_SETTINGS = {
    "timezone": "UTC",
    "statement_timeout": f"{STATEMENT_TIMEOUT_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_TIMEOUT_SECONDS}s",
    # The pool keeps idle sessions, which cost nothing.
    "idle_session_timeout": "0",
    # A look-up after an insert that met a duplicate needs a newer database snapshot.
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    # PostgreSQL reports an unsafe commit only as a warning.
    "client_min_messages": "warning",
    # Compiling pays off for long queries only, and there are none.
    "jit": "off",
    # Every statement is written to be planned once, for any number of rows: to plan it anew takes
    # half the time that storing a single event takes. And a plan that was made while a table was
    # small must not read the whole table once it is large.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    # A generic plan assumes that a range is a third of the table. Starting two processes to read it
    # costs more than a page of an account statement.
    "max_parallel_workers_per_gather": "0",
    # Only a transaction sets the instant of the books: a default of the role would stop their
    # clock.
    "ledger.now": "",
}
# The values of synchronous_commit with which a commit is safe, where there is a synchronous standby
# as well.
SAFE_COMMITS = ("on", "remote_apply")

# The setting that holds a session's name.
SESSION_NAME = "ledger.session"
# The name of the session that was prepared for each open connection.
_session_names: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()
# PostgreSQL's errors for a prepared statement that a session does not know, or knows already.
UNKNOWN_STATEMENT_SQLSTATES = ("26000", "42P05")

# After these errors it is unknown what the session is doing, or which session it is: it must not be
# used again.
_LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
)

# The search path of a session: the schema of the books and no other, temporary tables last. If a
# database has books in several schemas, it is the one that comes first in the path of the database
# or the role.
_BOOKS_FIRST = f"""
SELECT set_config('search_path', quote_ident(COALESCE((
  SELECT n.nspname
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.relname = 'ledger_entries' AND c.relkind IN ('r', 'p')
    AND pg_get_userbyid(c.relowner) = '{OWNER_ROLE}'
  ORDER BY array_position(
    (SELECT string_to_array(translate(reset_val, '" ', ''), ',')
     FROM pg_settings WHERE name = 'search_path'), n.nspname::text),
    n.nspname <> 'public', n.nspname
  LIMIT 1), 'public')) || ', pg_temp', false)
"""

_ROLE_IN_SQL = {
    EITHER_ROLE: (
        f"CASE WHEN to_regrole('{APPLICATION_ROLE}') IS NOT NULL"
        f" AND NOT pg_has_role(session_user, '{APPLICATION_ROLE}', 'MEMBER')"
        f" THEN '{READER_ROLE}' ELSE '{APPLICATION_ROLE}' END"
    )
}


def _preparation(role: str, lock_timeout_seconds: float) -> str:
    """The statements that prepare a new session. PostgreSQL has transaction_timeout from 17 on.

    They also set values that are right already: a reload of the configuration changes only values
    that a session has not set.
    """
    settings = {**SESSION_SETTINGS, "lock_timeout": f"{lock_timeout_seconds}s"}
    return f"""
SET search_path = pg_catalog, pg_temp;
SELECT set_config('role', {_ROLE_IN_SQL.get(role, f"'{role}'")}, false);
SELECT {", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())};
SELECT set_config('synchronous_commit', CASE
  WHEN current_setting('synchronous_commit') = ANY (ARRAY{list(SAFE_COMMITS)})
  THEN current_setting('synchronous_commit') ELSE '{SAFE_COMMITS[0]}' END, false);
SELECT set_config('transaction_timeout', '{TRANSACTION_TIMEOUT_SECONDS}s', false)
WHERE current_setting('server_version_num')::integer >= 170000;
{SET_SYSTEM_IDENTIFIER};
{_BOOKS_FIRST}
"""


# For a transaction that may take longer. Its timeout is running already and can only be switched
# off.
LIFT_TRANSACTION_TIMEOUT = """
SELECT set_config('transaction_timeout', '0', true)
WHERE current_setting('server_version_num')::integer >= 170000
"""

# For a transaction that reads whole tables, such as an audit or a report.
READ_WHOLE_TABLES = (
    "SET LOCAL enable_seqscan = on; SET LOCAL max_parallel_workers_per_gather TO DEFAULT"
)
# For a transaction that has read whole tables and continues with ranges of them.
READ_RANGES = "SET LOCAL enable_seqscan = off; SET LOCAL max_parallel_workers_per_gather = 0"

# An `async with` that yields a connection outside any transaction and raises the block's database
# errors as the ledger's errors.
Autocommit = Callable[[], AbstractAsyncContextManager[Connection]]


def create_engine(
    database: str | Hosts,
    *,
    pool_size: int,
    role: str = APPLICATION_ROLE,
    lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
) -> AsyncEngine:
    """An engine whose sessions run as `role`, whichever role logged in, and are bounded in time.

    `database` is a SQLAlchemy URL of the asyncpg dialect, or the hosts that several engines share.
    Connects at the first use, not before.
    """
    hosts = database if isinstance(database, Hosts) else Hosts(database)
    engine = create_async_engine(
        hosts.url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        # Statements are few and fixed, and each session prepares each of them once.
        async_creator=partial(
            hosts.connect,
            command_timeout=COMMAND_TIMEOUT_SECONDS,
            # The session sets everything else itself.
            server_settings={"application_name": "ledger"},
        ),
    )
    event.listen(
        engine.sync_engine, "connect", partial(_prepare, _preparation(role, lock_timeout_seconds))
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


def _prepare(preparation: str, dbapi_connection: Any, _record: Any) -> None:
    """Prepares a new session; ends it if that fails."""
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

    A connection pooler may have put another session there. Uses no prepared statement, which
    another session would not know.
    """
    name = _session_names[connection]
    status = await connection.execute(
        f"SELECT 1 WHERE current_setting('{SESSION_NAME}', true) = '{name}'"
    )
    return status == "SELECT 1"


def _end_if_unsafe(connection: Connection, message: asyncpg.PostgresLogMessage) -> None:
    """Ends a session whose commit was cut off while it waited for a standby.

    PostgreSQL reports such a commit as a success, with a warning. The warning has no SQLSTATE that
    others do not have, and its text is in the server's language. Only the name of the function that
    waits identifies it.
    """
    if getattr(message, "server_source_function", None) == SYNCHRONOUS_WAIT:
        connection.terminate()


def check_safe(connection: Connection) -> None:
    """Raises a driver's error if the commit before it may not be safe on any standby.

    Call it after a commit and before reporting that. The driver delivers a warning before the
    result of its statement, so `_end_if_unsafe` has ended the session by then.
    """
    if connection.is_closed():
        raise asyncpg.ConnectionDoesNotExistError(
            "the session ended with its commit, which may not be safe"
        )


def _refuse_closed(dbapi_connection: Any, *_: Any) -> None:
    """Refuses a pooled connection that the server closed while it was idle. Costs no round trip.

    The other connections of the pool are older and most likely as dead: the pool replaces all of
    them.
    """
    if dbapi_connection.driver_connection.is_closed():
        raise InvalidatePoolError


async def connect(engine: AsyncEngine) -> AsyncConnection:
    """A connection of the pool, for the caller to close.

    Raises DatabaseUnavailable if the database refuses it.
    """
    try:
        return await engine.connect()
    except (DBAPIError, asyncpg.PostgresError) as error:
        raise DatabaseUnavailable("the database refuses the connection") from error


async def driver_of(pooled: AsyncConnection) -> Connection:
    """The driver's connection beneath a pooled one."""
    raw: Any = await pooled.get_raw_connection()
    connection: Connection = raw.driver_connection
    return connection


@asynccontextmanager
async def autocommit(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """A connection outside any transaction: each statement is one, in one round trip.

    Raises the block's database errors as the ledger's errors. A session that may be in an unknown
    state is ended, not pooled.
    """
    with database_errors():
        async with aclosing(await connect(engine)) as pooled:
            try:
                connection = await driver_of(pooled)
                yield connection
                check_safe(connection)
            except _LOST as error:
                # A statement that timed out may still be running in the session, and a lost session
                # must not be pooled.
                await pooled.invalidate(error)
                raise
            except asyncio.CancelledError:
                # Nor may a cancelled one: it may be inside a transaction whose start was cancelled,
                # and the driver does not know of it.
                await pooled.invalidate()
                raise


async def allow_seconds(connection: Connection, seconds: int) -> None:
    """Gives each statement of the open transaction `seconds`.

    Lifts the timeout of the transaction as a whole.
    """
    await connection.execute(
        f"SET LOCAL statement_timeout = '{seconds}s'; {LIFT_TRANSACTION_TIMEOUT}"
    )


async def set_lock_timeout(connection: Connection, seconds: float) -> None:
    """Lets each statement of the open transaction wait `seconds` for a lock."""
    await connection.execute(f"SET LOCAL lock_timeout = '{round(seconds * 1000)}ms'")


class KeptConnections:
    """Connections for code that uses one all the time.

    Each stays checked out of the pool until it breaks: taking a connection out of the pool and
    putting it back costs as much as storing a few events. There are never more of them than uses at
    the same time, which the callers and the engine's pool bound.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._idle: deque[tuple[AsyncConnection, Connection]] = deque()

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[Connection]:
        """Like the function `autocommit`."""
        with database_errors():
            pooled, connection = await self._take()
            try:
                yield connection
                check_safe(connection)
            except _LOST as error:
                # A statement that timed out may still be running in the session, and a lost session
                # must not be kept.
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
        """Returns all connections that are not in use to the pool."""
        while self._idle:
            pooled, _ = self._idle.popleft()
            await pooled.close()

    async def _take(self) -> tuple[AsyncConnection, Connection]:
        while self._idle:
            # The one used last is the least likely to have been closed since.
            pooled, connection = self._idle.pop()
            if not connection.is_closed():
                return pooled, connection
            await pooled.invalidate()
            await pooled.close()
        pooled = await connect(self._engine)
        return pooled, await driver_of(pooled)


class BoundedConnections:
    """Connections for reads that may be long: a few run, some wait, the rest are refused.

    They come from a separate pool, so a long read never keeps a short one waiting.
    """

    def __init__(self, engine: AsyncEngine, *, uses_max: int) -> None:
        """`uses_max` bounds the reads that run and wait together.

        The engine's pool bounds those that run.
        """
        self._engine = engine
        self._uses_max = uses_max
        self.uses = 0

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[Connection]:
        """Like the function `autocommit`.

        Raises QueueFull if `uses_max` reads run and wait already.
        """
        if self.uses >= self._uses_max:
            raise QueueFull
        self.uses += 1
        try:
            async with autocommit(self._engine) as connection:
                yield connection
        finally:
            self.uses -= 1
