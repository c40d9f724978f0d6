"""The protocols name what asyncpg has: mypy cannot compare them, as asyncpg carries no types."""

import inspect

import asyncpg
import asyncpg.cursor
import asyncpg.prepared_stmt
import asyncpg.transaction
import pytest

from ledger.infrastructure.postgres.sessions import driver

CASES: dict[type, type] = {
    driver.DriverConnection: asyncpg.connection.Connection,
    driver.Transaction: asyncpg.transaction.Transaction,
    driver.PreparedStatement: asyncpg.prepared_stmt.PreparedStatement,
    driver.CursorFactory: asyncpg.cursor.CursorFactory,
    driver.Cursor: asyncpg.cursor.Cursor,
    driver.Row: asyncpg.Record,
}


@pytest.mark.parametrize("protocol", CASES, ids=lambda protocol: protocol.__name__)
def test_driver_has_what_the_protocol_names(protocol: type) -> None:
    """Each method, with each parameter by its name."""
    names = {
        name
        for each in protocol.__mro__
        if each.__module__ == driver.__name__
        for name, member in vars(each).items()
        if inspect.isfunction(member) and name not in ("__init__", "__subclasshook__")
    } - {"_no_init_or_replace_init"}
    assert names
    for name in names:
        method = getattr(CASES[protocol], name)
        if name.startswith("__") or protocol is driver.Row:
            continue
        wanted = inspect.signature(getattr(protocol, name)).parameters
        given = inspect.signature(method).parameters
        assert set(wanted) <= set(given), name


def test_connection_has_a_transport() -> None:
    """The attribute is private to the driver, so a new version could rename it."""
    assert "_transport" in asyncpg.connection.Connection.__slots__
