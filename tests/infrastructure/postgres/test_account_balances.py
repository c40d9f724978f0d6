"""Balances of accounts: equal to independent sums, whatever snapshots and marks there are."""

import asyncio
import random
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from support.books import engine_on, superuser
from support.disorder import recorded
from support.events import unique
from support.paying import open_accounts
from support.plans import explained, rows_read
from support.sessions import locked
from support.snapshots import (
    ReportedTails,
    delete_some,
    make_ladder,
    make_marks,
    take_snapshots,
    until_final,
)
from support.transfers import hold, transfer

from ledger.application.ports.balances import AccountBalanceQuery, TailLength
from ledger.bootstrap.database import Database
from ledger.errors import DatabaseTimeout
from ledger.infrastructure.postgres.account_balances import (
    SELECT_ACCOUNT_BALANCES,
    SELECT_PAST_ACCOUNT_BALANCES,
    PostgresAccountBalanceReader,
)
from ledger.infrastructure.postgres.sessions import engine as engines
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.snapshot_ladder import RUNG_ENTRIES, PostgresSnapshotLadder
from ledger.infrastructure.postgres.snapshots import ENTRIES_MAX, PostgresBalanceSnapshots
from ledger.infrastructure.postgres.verification.audit import load_checks

MICROSECOND = timedelta(microseconds=1)
CHECKS = [
    check
    for check in load_checks()
    if check.name.startswith("snapshots_") or check.name == "statement_marks_agree_with_the_entries"
]
# Entry types with their accounts, in the books of an account.
RULES = (
    ("TRANSFER_IN", "interaccount", "account_funds"),
    ("TRANSFER_OUT", "account_funds", "interaccount"),
    ("PAYMENT_HOLD", "account_funds", "account_held"),
    ("PAYMENT_RELEASE", "account_held", "account_funds"),
    ("PAYMENT_CAPTURE", "account_held", "interaccount"),
    ("REFUND_IN", "interaccount", "account_funds"),
)
# Entries as a restore writes them, with the instants and numbers that they had.
INSERT_ENTRIES = """
INSERT INTO ledger_entries (balance_account_id, recorded_txid, transaction_id, position, entry_type,
                            debit_account, credit_account, amount_minor, recorded_at, payment_id)
SELECT $1, e.txid::text::xid8, gen_random_uuid(), 1, e.entry_type, e.debit_account,
       e.credit_account, e.amount_minor, e.recorded_at, 'pay_' || gen_random_uuid()
FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[])
  AS e (txid, entry_type, debit_account, credit_account, amount_minor, recorded_at)
"""
# An entry each millisecond, each in a transaction of its own. It takes no parameters in a loop.
BOOK_ENTRIES = """
INSERT INTO ledger_entries (balance_account_id, recorded_txid, transaction_id, position, entry_type,
                            debit_account, credit_account, amount_minor, recorded_at, payment_id)
SELECT $1, ($2::bigint + n)::text::xid8, gen_random_uuid(), 1, 'TRANSFER_IN', 'interaccount',
       'account_funds', 1, $4::timestamptz + n * interval '1 millisecond', 'pay_' || n
FROM generate_series(1, $3::integer) AS n
"""
NOW_AND_HORIZON = (
    "SELECT now() AS now, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon"
)


class Entry(NamedTuple):
    """An entry of the books, in the order of INSERT_ENTRIES."""

    txid: int
    entry_type: str
    debit_account: str
    credit_account: str
    amount_minor: int
    recorded_at: datetime


def expected(entries: Sequence[Entry], as_of: datetime) -> tuple[int, int]:
    """What is available and what is held of what was recorded before the instant."""
    counted = [entry for entry in entries if entry.recorded_at < as_of]

    def total(account: str) -> int:
        return sum(
            entry.amount_minor
            * ((entry.credit_account == account) - (entry.debit_account == account))
            for entry in counted
        )

    return total("account_funds"), total("account_held")


def some_entries(chance: random.Random, number: int, txid_end: int, now: datetime) -> list[Entry]:
    """Entries in any disorder of instants and numbers."""
    entries: list[Entry] = []
    for recorded_at, txid in recorded(chance, max(3, txid_end - 3 * number), txid_end, now):
        if len(entries) >= number:
            break
        entries += [
            Entry(txid, *chance.choice(RULES), chance.randrange(1, 10**9), recorded_at)
            for _ in range(chance.choice((1, 1, 2, 5)))
        ]
    return entries


async def id_of(connection: Connection, account_id: str) -> int:
    """The id of its balance account."""
    found: int = await connection.fetchval(
        "SELECT balance_account_id FROM balance_accounts WHERE account_id = $1", account_id
    )
    return found


async def balances(
    engine: AsyncEngine, account_id: str, *instants: datetime | None, **reader: Any
) -> list[tuple[int, int] | None]:
    """Available and held, as of instants or now."""
    found = await PostgresAccountBalanceReader(partial(autocommit, engine), **reader).read(
        [AccountBalanceQuery(account_id, at) for at in instants]
    )
    return [None if one is None else (one.available_minor, one.held_minor) for one in found]


@pytest.mark.parametrize("books", range(6))
async def test_balances_equal_independent_sums(
    shared_database: Database, books: int, seed: int
) -> None:
    """Now and at any past instant, for any order of instants and numbers.

    With snapshots, a ladder and marks of any density, and with some or all of them deleted.
    """
    chance = random.Random(f"{seed} {books}")
    account_id = unique("acc")
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        await open_accounts(engine, account_id)
        account = await id_of(connection, account_id)
        ((now, txid_end),) = await connection.fetch(NOW_AND_HORIZON)
        entries = some_entries(chance, chance.choice((1, 40, 150)), txid_end, now)
        await connection.execute(
            INSERT_ENTRIES, account, *(list(c) for c in zip(*entries, strict=True))
        )
        edges = [
            entry.recorded_at + chance.choice((-1, 0, 1)) * MICROSECOND
            for entry in chance.sample(entries, min(60, len(entries)))
        ]
        instants = [at for at in edges if at < now]
        wanted: list[Any] = [expected(entries, at) for at in instants]
        wanted_now = expected(entries, now + timedelta(days=1))
        for share in (0.0, 0.3, 1.0):
            if chance.random() < 0.5:
                await take_snapshots(engine, account_id)
            await make_ladder(
                engine,
                account_id,
                mark_entries=chance.choice((1, 3, 10)),
                rung_entries=chance.choice((1, 4, 20)),
                marks_max=chance.choice((1, 7, 1000)),
                read_entries_max=chance.choice((1, 9, 1000)),
            )
            assert len(CHECKS) == 3
            for check in CHECKS:
                assert await connection.fetch(check.statement) == [], check.name
            await delete_some(connection, "balance_snapshots", account, chance, share)
            await delete_some(connection, "statement_marks", account, chance, share / 2)
            assert await balances(engine, account_id, *instants) == wanted, f"seed {seed}"
            assert await balances(engine, account_id, None) == [wanted_now], f"seed {seed}"
        await connection.execute("DELETE FROM balance_snapshots")
        await connection.execute("DELETE FROM statement_marks")


async def test_balances_are_right_while_payments_are_posted(database: Database, seed: int) -> None:
    """Of two accounts between which money moves, the sum of what they have never changes.

    Snapshots are taken and the ladder grows in the meantime; other transactions stay open.
    """
    chance = random.Random(seed)
    ids = ["acc_1", "acc_2"]
    is_over = asyncio.Event()
    async with engine_on(database.url, pool_size=8) as engine:
        await open_accounts(engine, *ids)

        async def pay() -> None:
            while not is_over.is_set():
                payer, payee = chance.sample(ids, 2)
                await chance.choice((transfer, hold))(engine, payer, payee, chance.randrange(1, 99))

        async def linger() -> None:
            while not is_over.is_set():
                async with superuser(database) as late:
                    transaction = late.transaction()
                    await transaction.start()
                    await late.execute("SELECT pg_current_xact_id(), pg_sleep(0.02)")
                    await transaction.rollback()

        async def shorten() -> None:
            while not is_over.is_set():
                await take_snapshots(engine, at_once=True)
                await make_ladder(engine, at_once=True)

        workers = [asyncio.create_task(work()) for work in (pay, pay, linger, shorten)]
        try:
            reader = PostgresAccountBalanceReader(partial(autocommit, engine))
            instants: list[datetime] = []
            for _ in range(40):
                found = await reader.read([AccountBalanceQuery(one, None) for one in ids])
                assert sum(balance.posted_minor for balance in found if balance) == 0
                instants += [balance.as_of for balance in found if balance]
                # In one statement: a payment that is recorded late is in both balances or in none.
                at = chance.choice(instants)
                found = await reader.read([AccountBalanceQuery(one, at) for one in ids])
                assert sum(balance.posted_minor for balance in found if balance) == 0
        finally:
            is_over.set()
            await asyncio.gather(*workers)


async def test_unknown_accounts_have_no_balance(shared_database: Database) -> None:
    """Each balance is in the place of its query; a known account without entries has zeros."""
    ids = [unique("acc") for _ in range(3)]
    async with engine_on(shared_database.url) as engine, autocommit(engine) as connection:
        await open_accounts(engine, ids[0], ids[2], currency="USD")
        await transfer(engine, ids[2], ids[0], 5)
        reader = PostgresAccountBalanceReader(partial(autocommit, engine))
        ((now,),) = await connection.fetch("SELECT now()")
        for at in (None, now - timedelta(days=1)):
            found = await reader.read([AccountBalanceQuery(one, at) for one in (ids[1], *ids)])
            assert [found[0], found[2]] == [None, None]
            assert found[1] is not None
            assert (found[1].account_id, found[1].currency) == (ids[0], "USD")
            assert found[1].available_minor == (5 if at is None else 0)
            if at is not None:
                assert found[1].as_of == at
        assert await reader.read([]) == []


async def test_cost_of_a_balance_does_not_grow_with_the_account(database: Database) -> None:
    """20,000 entries cost what 100 cost, now and at any past instant, once there are snapshots."""
    async with engine_on(database.url) as engine, superuser(database) as connection:
        await open_accounts(engine, "acc_short", "acc_long")
        ((now, first),) = await connection.fetch(NOW_AND_HORIZON)
        await connection.execute(
            "DO $$ BEGIN FOR n IN 1..20010 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; "
            "END $$"
        )
        began = now - timedelta(days=1)
        for account_id, count in (("acc_short", 100), ("acc_long", 20_000)):
            account = await id_of(connection, account_id)
            await connection.execute(BOOK_ENTRIES, account, first, count, began)
        reads: dict[str, list[int]] = {}
        await until_final(engine)
        for account_id in ("acc_short", "acc_long"):
            account = await id_of(connection, account_id)
            tails = ReportedTails()
            long = began + timedelta(milliseconds=90)
            (balance,) = await balances(engine, account_id, long, long_tails=tails)
            assert balance == (89, 0)
            assert tails.tails[account] == (100 if account_id == "acc_short" else 20_000)
            assert await PostgresBalanceSnapshots(engine).take(account, 1)
            assert await PostgresSnapshotLadder(engine).take(account, 1)
        await connection.execute("ANALYZE")
        async with autocommit(engine) as session:
            for account_id, end in (("acc_short", 100), ("acc_long", 20_000)):
                plan = await explained(session, SELECT_ACCOUNT_BALANCES, [account_id])
                reads[account_id] = [rows_read(plan)]
                for place in (end // 2, end - 10):
                    at = began + timedelta(milliseconds=place)
                    plan = await explained(
                        session, SELECT_PAST_ACCOUNT_BALANCES, [account_id], [at], ENTRIES_MAX
                    )
                    reads[account_id].append(rows_read(plan))
                    assert await balances(engine, account_id, at) == [(place - 1, 0)]
        assert reads["acc_long"][0] == reads["acc_short"][0] == 0
        assert max(reads["acc_long"]) <= 2 * RUNG_ENTRIES


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (SELECT_ACCOUNT_BALANCES, "ARRAY['acc_1']"),
        (SELECT_PAST_ACCOUNT_BALANCES, "ARRAY['acc_1'], ARRAY[now()], 1"),
    ],
    ids=["balances", "past balances"],
)
async def test_plans_made_while_the_tables_are_empty_read_ranges(
    database: Database, statement: str, values: str
) -> None:
    """Plans are kept when the tables have grown: they find the account by its id, then a range."""
    async with superuser(database) as connection:
        await connection.execute(f"PREPARE planned AS {statement}")
        plan = "\n".join(
            row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE planned ({values})")
        )
    assert "Seq Scan" not in plan.replace("Seq Scan on ledger_stays", "")
    assert "balance_accounts_account_id_key" in plan
    scans = re.findall(r"ledger_entries_(\w+).*\n *Index Cond: (.*)", plan)
    assert {name for name, _ in scans} == {"pkey"}
    assert all("recorded_txid >=" in condition for _, condition in scans)


async def test_long_tails_are_reported(shared_database: Database) -> None:
    """All entries beyond the snapshot, which a new one then counts."""
    account_id, other = unique("acc"), unique("acc")
    async with engine_on(shared_database.url) as engine, autocommit(engine) as connection:
        await open_accounts(engine, account_id, other)
        account = await id_of(connection, account_id)

        async def reported() -> int:
            tails = ReportedTails()
            await balances(engine, account_id, None, long_tails=tails)
            return tails.tails[account]

        for number in range(1, 5):
            await transfer(engine, other, account_id, 1)
            assert await reported() == number
        assert await take_snapshots(engine, account_id) == 1
        assert await reported() == 0
        await transfer(engine, account_id, other, 1)
        assert await reported() == 1


async def test_short_reads_leave_out_long_tails(shared_database: Database) -> None:
    """The bound is for what lies beyond the newest mark, and for what lies between marks."""
    account_id = unique("acc")
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        await open_accounts(engine, account_id)
        ((now, txid_end),) = await connection.fetch(NOW_AND_HORIZON)
        account, began = await id_of(connection, account_id), now - timedelta(days=1)
        await connection.execute(BOOK_ENTRIES, account, txid_end - 310, 300, began)
        reader = PostgresAccountBalanceReader(
            partial(autocommit, engine), short_read_entries_max=100
        )
        query = AccountBalanceQuery(account_id, began + timedelta(milliseconds=200))

        async def is_long() -> bool:
            (found,), (whole,) = await reader.read_short([query]), await reader.read([query])
            assert found in (TailLength.LONG, whole)
            assert whole is not None
            assert whole.available_minor == 199
            return found is TailLength.LONG

        assert await is_long()
        await make_marks(engine, account_id, mark_entries=10)
        assert await is_long()
        await make_ladder(engine, account_id, mark_entries=10, rung_entries=50)
        assert not await is_long()


async def test_account_that_is_not_read_in_time_is_reported_as_endless(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By balances of now and of the past."""
    async with engine_on(database.url) as engine, autocommit(engine) as connection:
        await open_accounts(engine, "acc_1")
        account = await id_of(connection, "acc_1")
    monkeypatch.setitem(engines.SESSION_SETTINGS, "statement_timeout", "300ms")
    async with engine_on(database.url) as engine, locked(database, "LOCK TABLE ledger_entries"):
        for at in (None, datetime(2025, 1, 1, tzinfo=UTC)):
            tails = ReportedTails()
            with pytest.raises(DatabaseTimeout):
                await balances(engine, "acc_1", at, long_tails=tails)
            assert tails.tails == {account: ENTRIES_MAX}
