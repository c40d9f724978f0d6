"""Sums that a session remembers: they save reads and change no answer."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import uuid_utils.compat
from support.audit import assert_books_in_order
from support.deciding import Deciding, deciding_on, payment_order
from support.paying import BANK
from support.plans import explained, rows_read
from support.running import execute_alone, query
from support.snapshots import ReportedTails, until_final

from ledger.application.ports.balances import LongTails
from ledger.application.ports.payments import DecidedPayment
from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres import remembered_sums
from ledger.infrastructure.postgres.payment_books import SELECT_STANDINGS, PostgresPaymentBooks
from ledger.infrastructure.postgres.remembered_sums import (
    RememberedSum,
    RememberedSums,
    remembered_in,
)
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import SESSION_NAME, autocommit
from ledger.infrastructure.postgres.snapshots import NO_LONG_TAILS, begin_stay_if_moved
from ledger.infrastructure.postgres.unit_of_work import PostgresUnitOfWork

ENTRIES = 20
FUNDS_MINOR = 1000
# Another stay in the same place, as if the books had been somewhere else meanwhile.
BEGIN_ANOTHER_STAY = """
INSERT INTO ledger_stays (number, stay_id, system_identifier, entries_oid, entries_file)
SELECT number + 1, gen_random_uuid(), system_identifier, entries_oid, entries_file
FROM ledger_stays
"""


@asynccontextmanager
async def remembering(
    database: Database, long_tails: LongTails = NO_LONG_TAILS
) -> AsyncIterator[tuple[Deciding, PostgresPaymentBooks]]:
    """The account "payer", with FUNDS_MINOR in ENTRIES entries, and the books in a session that
    remembers nothing yet.
    """
    async with deciding_on(database) as deciding:
        await begin_stay_if_moved(deciding.engine)
        await deciding.open_account("payer")
        await deciding.open_account("payee")
        for number in range(ENTRIES):
            order = payment_order(f"in.{number}", BANK, "payer", FUNDS_MINOR // ENTRIES)
            await deciding.pay(order)
        await until_final(deciding.engine)
        async with autocommit(deciding.engine) as connection:
            remembered_in(connection).keep(None, {})
            yield (
                deciding,
                PostgresPaymentBooks(connection, maturity_days=7, long_tails=long_tails),
            )
    await assert_books_in_order(database)


async def available(books: PostgresPaymentBooks) -> int | None:
    """What the payer has available, by a look after which the session remembers it."""
    standings = await books.standings(["payer"], [])
    return standings.accounts["payer"].available_minor


async def entries_read(connection: Connection, account_ids: Sequence[str] = ("payer",)) -> int:
    """How many entries the next look at the accounts reads."""
    remembered = remembered_in(connection)
    known = remembered.of(account_ids)
    columns = [
        [None if (found := known.get(name)) is None else found[place] for name in account_ids]
        for place in range(3)
    ]
    plan = await explained(
        connection, SELECT_STANDINGS, list(account_ids), [], [], remembered.place, *columns
    )
    return rows_read(plan)


async def test_remembered_entries_are_not_read_again(database: Database) -> None:
    async with remembering(database) as (deciding, books):
        connection = books._connection
        assert await entries_read(connection) == ENTRIES
        assert await available(books) == FUNDS_MINOR
        assert await entries_read(connection) == 0
        await deciding.pay(payment_order("p", amount_minor=1))
        assert await entries_read(connection) == 1
        assert await available(books) == FUNDS_MINOR - 1


async def test_what_commits_after_later_transactions_is_counted(database: Database) -> None:
    """The sum is remembered while a transaction is open that has a lower txid than the last one."""
    async with remembering(database) as (deciding, books):
        await deciding.open_account("rich", funds_minor=100)
        begin = partial(
            PostgresUnitOfWork, deciding.engine, partial(PostgresPaymentBooks, maturity_days=7)
        )
        async with begin() as uow:
            await uow.payments.lock_accounts([BANK], ["payer"])
            accounts, _, _ = await uow.payments.standings([BANK], ["payer"])
            paid_in = DecidedPayment(
                payment_order("open", BANK, "payer", 7),
                None,
                str(uuid_utils.uuid7()),
                accounts[BANK],
                accounts["payer"],
            )
            await uow.payments.store([paid_in], uuid_utils.compat.uuid7())
            await deciding.pay(payment_order("later", "rich", "payer", 30))
            assert await available(books) == FUNDS_MINOR + 30
            await uow.commit()
        assert await available(books) == FUNDS_MINOR + 37
        assert await available(books) == FUNDS_MINOR + 37


async def test_another_stay_reads_all_entries_again(database: Database) -> None:
    """Txids of two stays must not be compared."""
    async with remembering(database) as (_, books):
        assert await available(books) == FUNDS_MINOR
        await query(database.migration_url, BEGIN_ANOTHER_STAY)
        assert await entries_read(books._connection) == ENTRIES
        assert await available(books) == FUNDS_MINOR
        assert await entries_read(books._connection) == 0


async def test_another_session_reads_all_entries_again(database: Database) -> None:
    """A connection pooler may have put it behind the connection."""
    async with remembering(database) as (_, books):
        connection = books._connection
        assert await available(books) == FUNDS_MINOR
        await connection.execute(f"SELECT set_config('{SESSION_NAME}', 'another', false)")
        assert await entries_read(connection) == ENTRIES
        assert await available(books) == FUNDS_MINOR
        assert await entries_read(connection) == 0


async def test_horizon_of_the_future_is_not_used(database: Database) -> None:
    async with remembering(database) as (_, books):
        remembered = remembered_in(books._connection)
        await available(books)
        found = remembered.of(["payer"])["payer"]
        ahead = found._replace(horizon=str(2**62), available_minor="1")
        remembered.keep(remembered.place, {"payer": ahead})
        assert await available(books) == FUNDS_MINOR


async def test_nothing_is_remembered_beside_a_subscription(database: Database) -> None:
    """It brings entries with txids of another cluster."""
    async with remembering(database) as (_, books):
        connection = books._connection
        assert await available(books) == FUNDS_MINOR
        await execute_alone(
            database.migration_url,
            "CREATE SUBSCRIPTION moving CONNECTION 'dbname=none' PUBLICATION moving"
            " WITH (connect = false, slot_name = NONE, enabled = false)",
        )
        await query(
            database.migration_url,
            "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)"
            " SELECT oid, 'ledger_entries'::regclass, 'i' FROM pg_subscription"
            " WHERE subname = 'moving'",
        )
        try:
            assert await entries_read(connection) == ENTRIES
            assert await available(books) == FUNDS_MINOR
            assert await entries_read(connection) == ENTRIES
        finally:
            await execute_alone(database.migration_url, "DROP SUBSCRIPTION moving")


async def test_account_that_grows_gets_its_snapshots(database: Database) -> None:
    """Though no look reads many entries, what is counted by them is reported, once."""
    tails = ReportedTails()
    async with remembering(database, tails) as (deciding, books):
        await available(books)
        assert list(tails.tails.values()) == [ENTRIES]
        tails.tails.clear()
        for number in range(tails.entries_max + 1):
            assert tails.tails == {}
            await deciding.pay(payment_order(f"p.{number}", amount_minor=1))
            await until_final(deciding.engine)
            await available(books)
        assert list(tails.tails.values()) == [tails.entries_max + 1]
        tails.tails.clear()
        await available(books)
        assert tails.tails == {}


def remembered_sum(read_at: float = 0.0) -> RememberedSum:
    return RememberedSum(1, "700", "5", 0, read_at)


def test_old_sum_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other sessions may have posted many entries since."""
    now = 1000.0
    monkeypatch.setattr(remembered_sums, "monotonic", lambda: now)
    sums = RememberedSums()
    sums.keep("here", {"a": remembered_sum(now)})
    assert sums.of("ab") == {"a": remembered_sum(now)}
    now += remembered_sums.REMEMBERED_SECONDS + 1
    assert sums.of("ab") == {}


def test_accounts_read_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered_sums, "ACCOUNTS_MAX", 3)
    monkeypatch.setattr(remembered_sums, "monotonic", lambda: 0.0)
    sums = RememberedSums()
    sums.keep("here", dict.fromkeys("abc", remembered_sum()))
    sums.keep("here", dict.fromkeys("ad", remembered_sum()))
    assert sorted(sums.of("abcd")) == ["a", "c", "d"]
    sums.keep("there", {"b": remembered_sum()})
    assert sorted(sums.of("abcd")) == ["b"]
    assert sums.place == "there"
    sums.keep(None, {"a": remembered_sum()})
    assert sums.of("abcd") == {}
