"""The part of the asyncpg driver that the ledger uses: the one way to run SQL.

asyncpg carries no types that a type checker reads, so the protocols here name them. SQLAlchemy
keeps the pool, describes the tables and runs Alembic; it runs no other statement.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol, Self


class Row(Protocol):
    """A row of a result. Columns are found by name or by place; iteration yields the values."""

    def __getitem__(self, key: str | int | slice) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...

    def keys(self) -> Iterator[str]: ...

    def items(self) -> Iterator[tuple[str, Any]]: ...


class Cursor(Protocol):
    """An open cursor of a transaction."""

    async def fetch(self, n: int, *, timeout: float | None = None) -> list[Row]:
        """The next `n` rows at most; none at the end."""
        ...


class CursorFactory(Awaitable[Cursor], Protocol):
    """A cursor that is not open yet: awaiting it opens it, iteration yields its rows."""

    def __aiter__(self) -> AsyncIterator[Row]: ...


class Attribute(Protocol):
    """A column of a prepared statement's result."""

    @property
    def name(self) -> str: ...


class PreparedStatement(Protocol):
    """A statement that the session has planned. It is gone when the caller drops it."""

    async def fetch(self, *args: Any, timeout: float | None = None) -> list[Row]: ...

    def cursor(self, *args: Any, timeout: float | None = None) -> CursorFactory: ...

    def get_attributes(self) -> Sequence[Attribute]: ...


class Transaction(Protocol):
    """A database transaction: as `async with` it commits, or rolls back if the block raises."""

    async def start(self) -> None: ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *error: object) -> None: ...


class Connection(Protocol):
    """A session of the database. Parameters are $1, $2 and so on.

    Outside `transaction` each statement is a transaction by itself. `timeout` is in seconds; it
    replaces the connection's own and counts on this side of the network.
    """

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Runs a statement and returns its command tag, such as `INSERT 0 3`.

        Without parameters nothing is prepared, and several statements may be separated by `;`.
        """
        ...

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> list[Row]: ...

    async def fetchrow(
        self, query: str, *args: Any, timeout: float | None = None
    ) -> Row | None: ...

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None) -> Any:
        """The first column of the first row; None without a row."""
        ...

    def cursor(
        self, query: str, *args: Any, prefetch: int | None = None, timeout: float | None = None
    ) -> CursorFactory:
        """A cursor, inside a transaction only. Iteration fetches `prefetch` rows at a time."""
        ...

    async def prepare(self, query: str, *, timeout: float | None = None) -> PreparedStatement: ...

    def transaction(
        self, *, isolation: str | None = None, readonly: bool = False
    ) -> Transaction: ...

    def is_in_transaction(self) -> bool: ...

    def is_closed(self) -> bool: ...

    def terminate(self) -> None:
        """Ends the session at once, without a message to the database."""
        ...


class DriverConnection(Connection, Protocol):
    """A connection as the modules of this folder open, watch and end it."""

    _transport: asyncio.Transport

    async def close(self, *, timeout: float | None = None) -> None: ...

    def add_log_listener(self, callback: Callable[..., None]) -> None: ...

    def add_termination_listener(self, callback: Callable[..., None]) -> None: ...
