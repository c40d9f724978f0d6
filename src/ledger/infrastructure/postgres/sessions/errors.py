"""Maps PostgreSQL's errors to the ledger's, by SQLSTATE and never by message."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ledger.errors import (
    DatabaseContention,
    DatabaseTimeout,
    DatabaseUnavailable,
    DataRejected,
    LedgerError,
    QueryRefused,
)

# A whole SQLSTATE, or the two characters of its class. The whole one is looked up first.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_ERROR_BY_SQLSTATE: dict[str, type[LedgerError]] = {
    "25006": DatabaseUnavailable,  # read-only transaction: a standby, or a primary being demoted
    "25P03": DatabaseUnavailable,  # idle in transaction for too long
    "25P04": DatabaseUnavailable,  # transaction timeout
    # A prepared statement that the session does not know, or knows already: a connection pooler has
    # put another session there.
    "26000": DatabaseUnavailable,
    "40001": DatabaseContention,  # serialization failure
    "40003": DatabaseUnavailable,  # statement completion unknown
    "40P01": DatabaseContention,  # deadlock
    "42P05": DatabaseUnavailable,  # as 26000
    "55P03": DatabaseContention,  # lock timeout
    "57014": DatabaseTimeout,  # statement timeout
    "57P01": DatabaseUnavailable,  # administrator shutdown
    "57P02": DatabaseUnavailable,  # crash shutdown
    "57P03": DatabaseUnavailable,  # starting up or shutting down
    "57P05": DatabaseUnavailable,  # idle session timeout
    "08": DatabaseUnavailable,  # connection exceptions
    "22": DataRejected,  # data exceptions
    # The other constraint violations mean that this code and the schema do not fit each other; they
    # say nothing about the data.
    "23514": DataRejected,  # a CHECK
    "53": DatabaseUnavailable,  # out of disk, memory or connections
    "58": DatabaseUnavailable,  # input and output errors
}


def sqlstate_of(error: BaseException | None) -> str:
    """The SQLSTATE of a driver's error, also if SQLAlchemy has wrapped it; empty without one."""
    if isinstance(error, DBAPIError):
        # Its adapter wraps the driver's error, which has the SQLSTATE.
        return sqlstate_of(error.orig and (error.orig.__cause__ or error.orig))
    return getattr(error, "sqlstate", None) or ""


def error_of(error: BaseException) -> LedgerError | None:
    """The ledger's error for `error`; None if it can only be a defect."""
    if isinstance(error, DBAPIError):
        if error.orig is None:
            return None
        if error.connection_invalidated:
            return DatabaseUnavailable("the connection was lost")
        # SQLAlchemy's adapter wraps the driver's error, which has the SQLSTATE.
        return error_of(error.orig.__cause__ or error.orig)
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = sqlstate_of(error)
        meaning = _ERROR_BY_SQLSTATE.get(sqlstate) or _ERROR_BY_SQLSTATE.get(sqlstate[:2])
        return meaning(f"SQLSTATE {sqlstate}") if meaning else None
    # A value that the driver cannot convert to the parameter's type. Before InterfaceError, of
    # which it is a subclass.
    if isinstance(error, asyncpg.DataError):
        return DataRejected("a value does not fit its type")
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return DatabaseUnavailable("the connection was lost")
    if isinstance(error, PoolTimeoutError):
        return DatabaseTimeout("every connection was busy")
    if isinstance(error, (OSError, TimeoutError, EOFError)):
        return DatabaseUnavailable("the database cannot be reached")
    return None


@contextmanager
def database_errors() -> Iterator[None]:
    """Turns errors of the driver, the pool and the network in the block into the ledger's.

    The original is the cause. Any OSError or TimeoutError counts as one: keep files out of the
    block. Other errors pass unchanged.
    """
    try:
        yield
    except Exception as error:
        meaning = error_of(error)
        if meaning is None:
            raise
        raise meaning from error


# The driver puts these on separate lines.
_PARTICULARS = re.compile(r"\n(?:DETAIL|HINT): *")


def sentence_of(error: BaseException) -> str:
    """The database's message, without what the libraries around the driver add to it."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    return _PARTICULARS.sub("; ", str(error)) or type(error).__name__


def refusal_of(error: BaseException) -> LedgerError | None:
    """The ledger's error for `error`; None if it can only be a defect.

    Unlike `error_of`, returns QueryRefused for a database error that is not in the table.
    """
    meaning = error_of(error)
    if meaning is None and isinstance(error, (DBAPIError, asyncpg.PostgresError)):
        return QueryRefused(type(error).__name__)
    return meaning


@contextmanager
def refusals() -> Iterator[None]:
    """Turns the block's errors into the ledger's, as `database_errors` does, and some more.

    A database error that is not in the table becomes QueryRefused.

    For statements with rows of several callers: the ingest use case then halves the rows until the
    one that the database refuses is alone.
    """
    try:
        yield
    except Exception as error:
        meaning = refusal_of(error)
        if meaning is None:
            raise
        raise meaning from error
