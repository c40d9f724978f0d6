"""Long accounts are found by drawing entries, wherever they are in the table."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from support.books import engine_on
from support.events import unique
from support.paying import open_accounts
from support.running import running_ledger
from support.snapshots import make_marks, until_final
from support.transfers import post_payments
from support.waiting import until

from ledger.application.find_long_accounts import LONG_TAIL_ENTRIES
from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres import long_accounts
from ledger.infrastructure.postgres.long_accounts import (
    DRAWN_PLACES,
    SELECT_LONG_ACCOUNTS,
    PostgresLongAccounts,
)
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import autocommit

LONG_TAIL = 100

INSERT_ACCOUNT = """
WITH restaurant AS (INSERT INTO restaurants (restaurant_id) VALUES ($1) RETURNING restaurant_id)
INSERT INTO balance_accounts (restaurant_id, currency)
SELECT restaurant_id, 'PEN' FROM restaurant RETURNING balance_account_id
"""
INSERT_ENTRIES = """
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
                            debit_account, credit_account, amount_minor, occurred_at, event_id)
SELECT $1, gen_random_uuid(), 1, 'ADJUSTMENT_CREDIT', 'adjustments', 'restaurant_payable', 1, now(),
       'evt_' || n
FROM generate_series(1, $2::integer) AS n
"""


async def account_of(connection: Connection, entries: int) -> int:
    """A new account with some entries."""
    account: int = await connection.fetchval(INSERT_ACCOUNT, unique("rest"))
    await connection.execute(INSERT_ENTRIES, account, entries)
    return account


@pytest.fixture
def every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws every place of a page in turn instead of one at random: chance finds nothing less."""

    def places(first_page: int, end_page: int, count: int) -> list[str]:
        assert 0 < count <= DRAWN_PLACES
        return [
            f"({page},{place})" for page in range(first_page, end_page) for place in range(1, 200)
        ]

    monkeypatch.setattr(long_accounts, "_places", places)


async def test_long_accounts_are_found_until_they_have_marks(
    engine: AsyncEngine, every_place: None
) -> None:
    accounts = PostgresLongAccounts(engine)
    async with autocommit(engine) as connection:
        long = await account_of(connection, LONG_TAIL + 1)
        short = await account_of(connection, LONG_TAIL)
    await until_final(engine)

    drawn = await accounts.draw(LONG_TAIL)

    found = dict(drawn.long)
    assert found[long] == LONG_TAIL + 1
    assert short not in found
    assert drawn.has_grown
    # With marks it is not long any more, and nothing was added.
    await make_marks(engine)
    drawn = await accounts.draw(LONG_TAIL)
    assert long not in dict(drawn.long)
    assert not drawn.has_grown
    # Until it has grown by as much again.
    async with autocommit(engine) as connection:
        await connection.execute(INSERT_ENTRIES, long, LONG_TAIL + 1)
    await until_final(engine)
    drawn = await accounts.draw(LONG_TAIL)
    assert long in dict(drawn.long)
    assert drawn.has_grown


async def test_long_accounts_of_callers_are_found_as_well(
    engine: AsyncEngine, every_place: None
) -> None:
    """Those between which payments move money, beside those of restaurants."""
    accounts = PostgresLongAccounts(engine)
    payer, payee, short = (unique("acc") for _ in range(3))
    await open_accounts(engine, payer, payee, short)
    async with autocommit(engine) as connection:
        await post_payments(connection, payer, payee, 1, count=LONG_TAIL)
        await post_payments(connection, short, payee, 1)
        rows = await connection.fetch(
            "SELECT account_id, balance_account_id FROM balance_accounts"
            " WHERE account_id = ANY ($1)",
            [payer, payee, short],
        )
        await post_payments(connection, payer, short, 1)
    await until_final(engine)
    ids = {row["account_id"]: row["balance_account_id"] for row in rows}
    found = dict((await accounts.draw(LONG_TAIL)).long)
    assert {ids[payer], ids[payee]} <= found.keys()
    assert ids[short] not in found
    assert await make_marks(engine, payer) == 1
    assert ids[payer] not in dict((await accounts.draw(LONG_TAIL)).long)


async def test_entries_that_are_not_final_do_not_count(
    engine: AsyncEngine, every_place: None
) -> None:
    """No mark could be made for them: the account would be reported in vain."""
    accounts = PostgresLongAccounts(engine)
    async with autocommit(engine) as open_one, open_one.transaction():
        await open_one.execute("SELECT pg_current_xact_id()")
        async with autocommit(engine) as connection:
            long = await account_of(connection, LONG_TAIL + 1)
        assert long not in dict((await accounts.draw(LONG_TAIL)).long)
    await until_final(engine)
    assert long in dict((await accounts.draw(LONG_TAIL)).long)


async def test_half_of_the_places_are_where_entries_were_added(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []

    def places(*asked_for: int) -> list[str]:
        first_page, end_page, count = asked_for
        asked.append((first_page, end_page, count))
        return []

    monkeypatch.setattr(long_accounts, "_places", places)
    accounts = PostgresLongAccounts(engine)
    async with autocommit(engine) as connection:
        await account_of(connection, 1)
    await accounts.draw(LONG_TAIL)
    _, (first_page, pages, count) = asked
    assert (first_page, count) == (0, DRAWN_PLACES // 2)
    asked.clear()
    async with autocommit(engine) as connection:
        await account_of(connection, 2000)

    await accounts.draw(LONG_TAIL)

    half = DRAWN_PLACES // 2
    grown = asked[0][1]
    assert grown > pages
    assert asked == [(0, grown, half), (pages - 1, grown, half)]


async def test_server_has_marks_made_before_anyone_asks(database: Database) -> None:
    async with engine_on(database.url) as engine:
        async with autocommit(engine) as connection:
            account = await account_of(connection, LONG_TAIL_ENTRIES + 1)

        async def has_marks() -> bool:
            async with autocommit(engine) as connection:
                return bool(
                    await connection.fetchval(
                        "SELECT count(*) FROM statement_marks WHERE balance_account_id = $1",
                        account,
                    )
                )

        assert not await has_marks()
        async with running_ledger(database):
            await until(has_marks)


async def test_empty_books_have_none(database: Database) -> None:
    async with engine_on(database.url) as engine:
        drawn = await PostgresLongAccounts(engine).draw(LONG_TAIL)
    assert (drawn.long, drawn.has_grown) == ((), False)


async def test_draw_reads_places_and_not_the_table(engine: AsyncEngine) -> None:
    """Its cost does not grow with the books."""
    async with autocommit(engine) as connection:
        rows: list[Any] = await connection.fetch(
            f"EXPLAIN {SELECT_LONG_ACCOUNTS}", long_accounts._places(0, 1, 2), LONG_TAIL
        )
    plan = "\n".join(row[0] for row in rows)
    assert "Tid Scan on ledger_entries" in plan
    assert "Seq Scan" not in plan
    assert "Index Only Scan using ledger_entries_pkey" in plan
