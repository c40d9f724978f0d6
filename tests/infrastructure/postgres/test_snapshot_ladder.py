"""The snapshot ladder: past balances equal independent sums and read some hundred entries."""

import asyncio
import os
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from support.books import (
    balance_of,
    book,
    burn_numbers,
    charge,
    engine_on,
    open_account,
    superuser,
)
from support.books import restore as restore_books
from support.disorder import recorded
from support.events import unique
from support.sessions import locked
from support.snapshots import (
    ReportedTails,
    delete_some,
    make_ladder,
    make_marks,
    take_snapshots,
    until_final,
)
from support.waiting import DEADLINE_SECONDS

from ledger.application.ports.balances import BalanceQuery, TailLength
from ledger.bootstrap.database import Database
from ledger.domain.balances import BalanceAccount
from ledger.errors import DatabaseTimeout
from ledger.infrastructure.postgres import snapshot_ladder
from ledger.infrastructure.postgres.balance_reader import (
    SELECT_BALANCES,
    SELECT_PAST_BALANCES,
    PostgresBalanceReader,
)
from ledger.infrastructure.postgres.schema.migrations import (
    create_database,
    database_url,
    migrate_async,
)
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import (
    APPLICATION_ROLE,
    OWNER_ROLE,
    allow_seconds,
    autocommit,
    create_engine,
)
from ledger.infrastructure.postgres.snapshot_ladder import RUNG_ENTRIES, PostgresSnapshotLadder
from ledger.infrastructure.postgres.snapshots import ENTRIES_MAX, txid_ahead
from ledger.infrastructure.postgres.statement_marks import PostgresStatementMarks
from ledger.infrastructure.postgres.superseded import SupersededSnapshots
from ledger.infrastructure.postgres.verification.audit import load_checks

MICROSECOND = timedelta(microseconds=1)
CHECKS = [
    check
    for check in load_checks()
    if check.name.startswith("snapshots_") or check.name == "statement_marks_agree_with_the_entries"
]
NOW_AND_HORIZON = (
    "SELECT now() AS now, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon"
)
# Entry types with their accounts; those of charges and fees may mature later.
RULES = (
    ("CHARGE", "processor_clearing", "restaurant_payable"),
    ("FEE", "restaurant_payable", "platform_fees"),
    ("REFUND", "restaurant_payable", "processor_clearing"),
    ("DISPUTE_HOLD", "restaurant_payable", "dispute_hold"),
    ("DISPUTE_RELEASE", "dispute_hold", "restaurant_payable"),
)
# Entries as a restore writes them, with the instants and numbers that they had.
INSERT_ENTRIES = """
INSERT INTO ledger_entries (balance_account_id, recorded_txid, transaction_id, position,
                            entry_type, debit_account, credit_account, amount_minor, available_at,
                            occurred_at, recorded_at, event_id)
SELECT $1, e.txid::text::xid8, gen_random_uuid(), 1, e.entry_type, e.debit_account,
       e.credit_account, e.amount_minor, e.available_at, e.occurred_at, e.recorded_at,
       'evt_' || gen_random_uuid()
FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[],
            $8::timestamptz[], $9::timestamptz[])
  AS e (txid, entry_type, debit_account, credit_account, amount_minor, available_at, occurred_at,
        recorded_at)
"""
SELECT_ENTRIES = """
SELECT recorded_txid::text::bigint AS txid, entry_type, debit_account, credit_account, amount_minor,
       available_at, occurred_at, recorded_at
FROM ledger_entries WHERE balance_account_id = $1
"""
SELECT_RUNGS = """
SELECT horizon::text::bigint AS horizon, taken_at, entries_count, last_recorded_at, last_event_at,
       ledger_accounts::text[], entry_types::text[], total_minors, matured_minors
FROM balance_snapshots WHERE balance_account_id = $1 ORDER BY horizon
"""
# An entry as another session would post it, in a transaction that may end late.
INSERT_LATE = """
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type, debit_account,
                            credit_account, amount_minor, occurred_at, event_id)
VALUES ($1, gen_random_uuid(), 1, 'ADJUSTMENT_CREDIT', 'adjustments', 'restaurant_payable', $2,
        now(), 'evt_' || gen_random_uuid())
"""
# One entry a transaction, an entry each millisecond of the past. It takes no parameters.
BOOK_ENTRIES = """
INSERT INTO ledger_entries (balance_account_id, recorded_txid, transaction_id, position, entry_type,
                            debit_account, credit_account, amount_minor, available_at, occurred_at,
                            recorded_at, event_id)
SELECT $1, ($2::bigint + n)::text::xid8, gen_random_uuid(), 1, 'CHARGE', 'processor_clearing',
       'restaurant_payable', 1, $4::timestamptz + (n + 50) * interval '1 millisecond', now(),
       $4 + n * interval '1 millisecond', 'evt_' || gen_random_uuid()
FROM generate_series(1, $3::integer) AS n
"""


class Entry(NamedTuple):
    """An entry of the books, in the order of INSERT_ENTRIES."""

    txid: int
    entry_type: str
    debit_account: str
    credit_account: str
    amount_minor: int
    available_at: datetime | None
    occurred_at: datetime
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Sums:
    """A balance, as the contract defines it and without any of the service's SQL."""

    available_minor: int
    pending_minor: int
    reserved_minor: int
    disputed_minor: int
    last_event_at: datetime | None


def expected(entries: Sequence[Entry], as_of: datetime) -> Sums:
    """What was recorded before the instant, available if it had matured by it."""
    counted = [entry for entry in entries if entry.recorded_at < as_of]

    def total(account: str, part: Sequence[Entry]) -> int:
        return sum(
            entry.amount_minor
            * ((entry.credit_account == account) - (entry.debit_account == account))
            for entry in part
        )

    matured = [
        entry for entry in counted if entry.available_at is None or entry.available_at <= as_of
    ]
    available_minor = total("restaurant_payable", matured)
    return Sums(
        available_minor,
        total("restaurant_payable", counted) - available_minor,
        total("payout_reserved", counted),
        total("dispute_hold", counted),
        max((entry.occurred_at for entry in counted if entry.occurred_at), default=None),
    )


def edges(entries: Sequence[Entry], rungs: Sequence[Any], chance: random.Random) -> list[datetime]:
    """Instants at which a result may change, and the microseconds beside them."""
    found = {entry.recorded_at for entry in entries}
    found |= {entry.available_at for entry in entries if entry.available_at is not None}
    found |= {at for rung in rungs for at in (rung["last_recorded_at"], rung["taken_at"])}
    return [at + chance.choice((-1, 0, 1)) * MICROSECOND for at in sorted(found)]


def some_entries(chance: random.Random, number: int, txid_end: int, now: datetime) -> list[Entry]:
    """Entries in any disorder of instants and numbers.

    They mature before they are recorded, at the same instant, soon, or long after.
    """
    entries: list[Entry] = []
    for recorded_at, txid in recorded(chance, max(3, txid_end - 3 * number), txid_end, now):
        if len(entries) >= number:
            break
        for _ in range(chance.choice((1, 1, 2, 5))):
            entry_type, debit, credit = chance.choice(RULES)
            delay = chance.choice((None, -1, 0, 1, 10**6, 10**9, 7 * 86_400 * 10**6))
            matures = delay is not None and entry_type in ("CHARGE", "FEE")
            entries.append(
                Entry(
                    txid,
                    entry_type,
                    debit,
                    credit,
                    chance.randrange(1, 10**9),
                    recorded_at + timedelta(microseconds=delay or 0) if matures else None,
                    recorded_at - timedelta(seconds=chance.randrange(100)),
                    recorded_at,
                )
            )
    return entries


async def restore(connection: Connection, account: int, entries: Sequence[Entry]) -> None:
    await connection.execute(
        INSERT_ENTRIES, account, *(list(c) for c in zip(*entries, strict=True))
    )


async def stored(connection: Connection, account: int) -> list[Entry]:
    return [Entry(*row) for row in await connection.fetch(SELECT_ENTRIES, account)]


async def balances_as_of(
    connection: Connection, restaurant_id: str, instants: Sequence[datetime]
) -> list[Sums]:
    """Balances as the statement of past balances reads them, in one query."""
    rows = await connection.fetch(
        SELECT_PAST_BALANCES,
        [restaurant_id] * len(instants),
        ["PEN"] * len(instants),
        list(instants),
        ENTRIES_MAX,
    )
    assert not any(row["is_cut"] for row in rows)
    return [
        Sums(
            int(row["available_minor"]),
            int(row["pending_minor"]),
            int(row["reserved_minor"]),
            int(row["disputed_minor"]),
            row["last_event_at"],
        )
        for row in sorted(rows, key=lambda row: row["place"])
    ]


async def assert_no_findings(connection: Connection) -> None:
    """The audit's checks of snapshots and marks find nothing."""
    assert len(CHECKS) == 3
    for check in CHECKS:
        assert await connection.fetch(check.statement) == [], check.name


@pytest.mark.parametrize("books", range(8))
async def test_past_balances_equal_an_independent_sum(
    shared_database: Database, books: int, seed: int
) -> None:
    """For any order of instants, numbers and maturities, and a ladder of any density.

    At the instants of records, maturities, marks and rungs, and beside them. Then some rungs and
    marks are deleted, more entries come, and the ladder is mended.
    """
    chance = random.Random(f"{seed} {books}")
    restaurant_id = unique(f"res_{books}")
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        account = await open_account(connection, restaurant_id)
        for _ in range(2):
            ((now, txid_end),) = await connection.fetch(NOW_AND_HORIZON)
            # A later restore adds nothing below the horizons that are taken.
            await connection.execute(
                "DELETE FROM balance_snapshots WHERE balance_account_id = $1", account
            )
            await connection.execute(
                "DELETE FROM statement_marks WHERE balance_account_id = $1", account
            )
            await restore(
                connection,
                account,
                some_entries(chance, chance.choice((1, 40, 150)), txid_end, now),
            )
            entries = await stored(connection, account)
            density: dict[str, Any] = {
                "mark_entries": chance.choice((1, 3, 10)),
                "rung_entries": chance.choice((1, 4, 20)),
                "marks_max": chance.choice((1, 7, 1000)),
                "read_entries_max": chance.choice((1, 9, 1000)),
            }
            for share in (0.0, 0.3, 1.0):
                if chance.random() < 0.3:
                    await take_snapshots(engine, restaurant_id)
                await make_ladder(engine, restaurant_id, **density)
                rungs = await connection.fetch(SELECT_RUNGS, account)
                await delete_some(connection, "balance_snapshots", account, chance, share)
                await delete_some(connection, "statement_marks", account, chance, share / 2)
                instants = edges(entries, rungs, chance)
                chance.shuffle(instants)
                instants = [at for at in instants if at < now][:120]
                found = await balances_as_of(connection, restaurant_id, instants)
                for at, balance in zip(instants, found, strict=True):
                    assert balance == expected(entries, at), f"seed {seed}, {density}, {at}"
                await assert_no_findings(connection)
        await connection.execute(
            "DELETE FROM balance_snapshots WHERE balance_account_id = $1", account
        )
        await connection.execute(
            "DELETE FROM statement_marks WHERE balance_account_id = $1", account
        )


async def test_past_balances_are_right_while_events_are_booked(
    database: Database, seed: int
) -> None:
    """Two servers book and build the ladder, and other transactions commit late or not at all.

    Everything is compared in one database snapshot, so that both sums see the same entries.
    """
    chance = random.Random(seed)
    is_over = asyncio.Event()
    async with (
        engine_on(database.url) as one,
        engine_on(database.url) as other,
        superuser(database) as late,
        superuser(database) as connection,
    ):
        await book(one, charge("res_1", 1, datetime.now(UTC)))
        (account,) = [
            row[0]
            for row in await connection.fetch("SELECT balance_account_id FROM balance_accounts")
        ]

        async def book_events() -> None:
            while not is_over.is_set():
                ahead = timedelta(milliseconds=chance.choice((-1000, 0, 20, 200, 10_000)))
                await book(
                    one,
                    *(
                        charge("res_1", chance.randint(1, 99), datetime.now(UTC) + ahead)
                        for _ in range(chance.randint(1, 6))
                    ),
                )

        async def commit_late() -> None:
            while not is_over.is_set():
                transaction = late.transaction()
                await transaction.start()
                await late.execute(INSERT_LATE, account, chance.randint(1, 99))
                await asyncio.sleep(chance.uniform(0, 0.05))
                await (transaction.commit() if chance.random() < 0.8 else transaction.rollback())

        async def climb(engine: AsyncEngine) -> None:
            while not is_over.is_set():
                await make_ladder(engine, "res_1", at_once=True)
                if chance.random() < 0.2:
                    await take_snapshots(engine, "res_1", at_once=True)

        tasks = [
            asyncio.create_task(work)
            for work in (book_events(), commit_late(), climb(one), climb(other))
        ]
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                rungs = compared = 0
                # On a slow machine too, until there is a ladder to compare.
                while rungs < 5 or compared < 15:
                    await asyncio.sleep(0.03)
                    rungs = await compare(connection, account, chance, seed)
                    compared += 1
        finally:
            is_over.set()
            await asyncio.gather(*tasks)
        await make_ladder(one)
        await compare(connection, account, chance, seed)
        await assert_no_findings(connection)


async def compare(connection: Connection, account: int, chance: random.Random, seed: int) -> int:
    """Compares balances in one database snapshot. Returns how many balance snapshots there were."""
    async with connection.transaction(isolation="repeatable_read"):
        now = await connection.fetchval("SELECT ledger_now()")
        entries = await stored(connection, account)
        rungs = await connection.fetch(SELECT_RUNGS, account)
        instants = [at for at in edges(entries, rungs, chance) if at < now]
        instants = chance.sample(instants, min(20, len(instants)))
        found = await balances_as_of(connection, "res_1", instants)
        for at, balance in zip(instants, found, strict=True):
            assert balance == expected(entries, at), f"seed {seed}, {at}"
    return len(rungs)


async def test_late_commit_is_counted_once_it_is_there(shared_database: Database) -> None:
    """A transaction begins before an instant and ends after it, and after a ladder was made.

    The ladder stops below it. A balance as of the instant counts it from its commit on, and a later
    ladder does as well.
    """
    restaurant_id = unique("res")
    async with (
        engine_on(shared_database.url) as engine,
        superuser(shared_database) as late,
        superuser(shared_database) as connection,
    ):
        account = await open_account(connection, restaurant_id)
        await connection.execute(INSERT_LATE, account, 1)
        transaction = late.transaction()
        await transaction.start()
        await late.execute(INSERT_LATE, account, 10)
        await connection.execute(INSERT_LATE, account, 100)
        as_of = await connection.fetchval("SELECT clock_timestamp()")
        await connection.execute(INSERT_LATE, account, 1_000)
        density: dict[str, Any] = {"mark_entries": 1, "rung_entries": 1}
        own_txid = await late.fetchval("SELECT pg_current_xact_id()::text::bigint")
        await until_final(engine, own_txid)
        assert await make_ladder(engine, restaurant_id, at_once=True, **density) == 1
        assert (await balance_of(engine, restaurant_id, as_of)).available_minor == 101
        await transaction.commit()
        assert (await balance_of(engine, restaurant_id, as_of)).available_minor == 111
        assert await make_ladder(engine, restaurant_id, **density) == 3
        rungs = await connection.fetch(SELECT_RUNGS, account)
        assert [rung["entries_count"] for rung in rungs] == [1, 2, 3, 4]
        assert (await balance_of(engine, restaurant_id, as_of)).available_minor == 111
        await assert_no_findings(connection)


@dataclass(frozen=True, slots=True)
class History:
    """An account with an entry of 1 each millisecond, which matures 50 ms later."""

    account: int
    restaurant_id: str
    began_at: datetime
    entries: int

    def instant(self, entries: int) -> datetime:
        """Just after so many entries were recorded."""
        return self.began_at + timedelta(milliseconds=entries, microseconds=1)


async def book_history(connection: Connection, entries: int) -> History:
    """As if the entries were booked in the last minutes, each in a transaction of its own."""
    restaurant_id = unique("res")
    account = await open_account(connection, restaurant_id)
    await connection.execute(
        f"DO $$ BEGIN FOR n IN 1..{entries} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP;"
        " END $$"
    )
    ((now, horizon),) = await connection.fetch(NOW_AND_HORIZON)
    began_at = now - timedelta(milliseconds=entries, minutes=1)
    await connection.execute(BOOK_ENTRIES, account, horizon - entries - 1, entries, began_at)
    return History(account, restaurant_id, began_at, entries)


async def read_entries(engine: AsyncEngine, history: History, as_of: datetime) -> int:
    """How many entries a past balance reads. Compares the balance with what is known of it."""
    tails = ReportedTails()
    (balance,) = await PostgresBalanceReader(partial(autocommit, engine), tails).read(
        [BalanceQuery(BalanceAccount(history.restaurant_id, "PEN"), as_of)]
    )
    assert balance is not None
    recorded = (as_of - history.began_at - MICROSECOND) // timedelta(milliseconds=1)
    recorded = min(recorded, history.entries)
    matured = min(max(0, (as_of - history.began_at) // timedelta(milliseconds=1) - 50), recorded)
    assert (balance.available_minor, balance.pending_minor) == (matured, recorded - matured)
    return tails.tails[history.account]


async def test_past_balance_reads_some_hundred_entries(database: Database) -> None:
    """Anywhere in an account of 10,000. Without marks and rungs it reads all of them."""
    async with engine_on(database.url) as engine, superuser(database) as connection:
        history = await book_history(connection, 10_000)
        await until_final(engine)
        places = (0, 1, 399, 400, 401, 5_000, 9_999, 10_000)
        for place in places:
            assert await read_entries(engine, history, history.instant(place)) == 10_000
        made: list[int] = []
        ladder = PostgresSnapshotLadder(engine, on_made=made.append)
        assert await ladder.take(history.account, 1)
        assert sum(made) == history.entries // RUNG_ENTRIES
        await connection.execute("ANALYZE")
        for place in places:
            read = await read_entries(engine, history, history.instant(place))
            assert read <= 2 * RUNG_ENTRIES, place
        assert not await ladder.take(history.account, 1)
        assert sum(made) == history.entries // RUNG_ENTRIES
        rungs = await connection.fetch(SELECT_RUNGS, history.account)
        assert all(
            before["entries_count"] // RUNG_ENTRIES < after["entries_count"] // RUNG_ENTRIES
            for before, after in pairwise(rungs)
        )
        await assert_no_findings(connection)
        # The planner must go from the newest snapshot back, however many there are.
        for statement, arguments in (
            (SELECT_BALANCES, "ARRAY['res'], ARRAY['PEN']"),
            (SELECT_PAST_BALANCES, "ARRAY['res'], ARRAY['PEN'], ARRAY[now()], 1"),
        ):
            await connection.execute(f"PREPARE planned AS {statement}")
            plan = "\n".join(
                row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE planned ({arguments})")
            )
            await connection.execute("DEALLOCATE planned")
            assert "Index Scan Backward using balance_snapshots_pkey" in plan
            assert "Sort" not in plan


async def test_short_reads_leave_out_long_tails(shared_database: Database) -> None:
    """They read no more than their bound for each balance, and say so; others beside are read.

    The bound is for what lies beyond the newest mark, what lies between marks, and what matured
    since the rung.
    """
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        history, short = await book_history(connection, 300), await book_history(connection, 10)
        ((now, txid_end),) = await connection.fetch(NOW_AND_HORIZON)
        maturing, at = unique("res"), now - timedelta(days=1)
        maturing_account = await open_account(connection, maturing)
        entries = [
            Entry(txid_end - 5, *RULES[0], 1, at + MICROSECOND * n, at, at) for n in range(300)
        ]
        await restore(connection, maturing_account, entries)
        queries = [
            BalanceQuery(BalanceAccount(name, "PEN"), at)
            for name, at in (
                (history.restaurant_id, history.instant(300)),
                (short.restaurant_id, short.instant(10)),
                (maturing, at + MICROSECOND * 200),
                (maturing, at + MICROSECOND * 20),
                ("res_unknown", short.instant(10)),
            )
        ]

        async def places_of_long_tails() -> list[int]:
            tails = ReportedTails()
            connections = partial(autocommit, engine)
            reader = PostgresBalanceReader(connections, tails, short_read_entries_max=100)
            found = await reader.read_short(queries)
            # Long tails are reported, also if they were not read to their end.
            assert (found[0] is TailLength.LONG) == (tails.tails[history.account] > 100)
            for balance, whole in zip(found, await reader.read(queries), strict=True):
                assert balance is TailLength.LONG or balance == whole
            return [place for place, balance in enumerate(found) if balance is TailLength.LONG]

        assert await places_of_long_tails() == [0, 2, 3]
        await make_marks(engine)
        assert await places_of_long_tails() == [0, 2, 3]
        await make_ladder(engine, rung_entries=50)
        assert await places_of_long_tails() == [2]
        await connection.execute("DELETE FROM balance_snapshots")
        await connection.execute("DELETE FROM statement_marks")


async def test_entries_that_no_snapshot_counts_make_a_read_long_too(
    shared_database: Database,
) -> None:
    """They matured before the instant and were recorded after it: they are read in vain."""
    restaurant_id = unique("res")
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        account = await open_account(connection, restaurant_id)
        ((now, txid_end),) = await connection.fetch(NOW_AND_HORIZON)
        at, hour = now - timedelta(days=1), timedelta(hours=1)
        await restore(
            connection,
            account,
            [
                *[Entry(txid_end - 6, *RULES[0], 1, at, at, at)] * 50,
                *[Entry(txid_end - 5, *RULES[2], 1, None, at, at + hour)] * 2,
                *[
                    Entry(txid_end - 4, *RULES[0], 1, at + MICROSECOND * n, at, at + 2 * hour)
                    for n in range(1, 301)
                ],
            ],
        )
        await make_ladder(engine, restaurant_id, mark_entries=2, rung_entries=50)
        queries = [BalanceQuery(BalanceAccount(restaurant_id, "PEN"), at + hour / 2)]
        tails = ReportedTails()
        for entries_max, is_long in ((299, True), (300, False)):
            reader = PostgresBalanceReader(
                partial(autocommit, engine), tails, short_read_entries_max=entries_max
            )
            (short,) = await reader.read_short(queries)
            assert (short is TailLength.LONG) is is_long
        (balance,) = await reader.read(queries)
        assert balance == short
        assert balance is not None
        assert (balance.available_minor, balance.pending_minor) == (50, 0)
        assert tails.tails[account] == 302
        await connection.execute("DELETE FROM balance_snapshots")
        await connection.execute("DELETE FROM statement_marks")


async def test_rungs_made_again_are_the_same(shared_database: Database) -> None:
    """All or some of them were deleted. None is made twice, also by two servers at once."""
    chance = random.Random(1)
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        history = await book_history(connection, 400)
        density: dict[str, Any] = {"mark_entries": 10, "rung_entries": 25, "marks_max": 7}
        assert await make_ladder(engine, history.restaurant_id, **density) == 16
        rungs = await connection.fetch(SELECT_RUNGS, history.account)
        for share in (1.0, 0.5, 0.1):
            await delete_some(connection, "balance_snapshots", history.account, chance, share)
            await asyncio.gather(
                *(make_ladder(engine, history.restaurant_id, **density) for _ in range(3))
            )
            assert await connection.fetch(SELECT_RUNGS, history.account) == rungs
        assert await make_ladder(engine, history.restaurant_id, **density) == 0


async def test_ladder_continues_where_it_ended(
    shared_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rungs deleted below are made once there is nothing to do above."""
    monkeypatch.setattr(snapshot_ladder, "ACCOUNTS_MAX", 1)
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        history, other = await book_history(connection, 100), await book_history(connection, 50)
        await until_final(engine)
        made: list[int] = []
        ladder = PostgresSnapshotLadder(
            engine,
            rung_entries=10,
            on_made=made.append,
            marks=PostgresStatementMarks(engine, mark_entries=5),
        )
        for account in (history.account, other.account, history.account):
            await ladder.take(account, 1)
        assert made == [10, 5]
        deletion = "DELETE FROM balance_snapshots WHERE balance_account_id = $1"
        await connection.execute(deletion, history.account)
        for _ in range(10):
            await connection.execute(INSERT_LATE, history.account, 1)
        await until_final(engine)
        for made_since in ([1], [1, 10], [1, 10]):
            await ladder.take(history.account, 1)
            assert made[2:] == made_since


async def test_wrong_marks_make_no_wrong_rungs(shared_database: Database, seed: int) -> None:
    """A mark says where a rung stands. What it says of the entries below is not used."""
    chance = random.Random(seed)
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        history = await book_history(connection, 200)
        await make_marks(engine, history.restaurant_id, mark_entries=5)
        await connection.execute("ALTER TABLE statement_marks DISABLE TRIGGER USER")
        for mark in await connection.fetch(
            "SELECT horizon::text FROM statement_marks WHERE balance_account_id = $1",
            history.account,
        ):
            await connection.execute(
                "UPDATE statement_marks SET entries_count = $3, last_recorded_at = $4,"
                " written_txid = pg_current_xact_id()"
                " WHERE balance_account_id = $1 AND horizon::text = $2",
                history.account,
                mark["horizon"],
                chance.randrange(1, 300),
                history.instant(chance.randrange(300)),
            )
        await connection.execute(
            "ALTER TABLE statement_marks ENABLE ALWAYS TRIGGER statement_marks_deny_change"
        )
        (agree,) = [c for c in CHECKS if c.name == "snapshots_agree_with_the_entries"]
        for share in (1.0, 0.5, 0.5):
            read_entries_max = chance.choice((1, 50, 1_000))
            made = await make_ladder(
                engine, history.restaurant_id, rung_entries=20, read_entries_max=read_entries_max
            )
            assert made or share < 1, f"seed {seed}"
            findings = [row["detail"] for row in await connection.fetch(agree.statement)]
            assert findings == [], f"seed {seed}"
            await delete_some(connection, "balance_snapshots", history.account, chance, share)
        await connection.execute("DELETE FROM statement_marks")
        await connection.execute("DELETE FROM balance_snapshots")


async def test_snapshots_of_the_present_serve_as_rungs(shared_database: Database) -> None:
    """Where one has about as many entries as a rung would have, no rung is made."""
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        history = await book_history(connection, 100)
        assert await take_snapshots(engine, history.restaurant_id) == 1
        made = await make_ladder(engine, history.restaurant_id, mark_entries=5, rung_entries=20)
        rungs = await connection.fetch(SELECT_RUNGS, history.account)
        assert (made, [rung["entries_count"] for rung in rungs]) == (4, [20, 40, 60, 80, 100])
        for place in range(101):
            await read_entries(engine, history, history.instant(place))


async def test_ladder_is_made_in_bounded_pieces(shared_database: Database) -> None:
    """Each transaction looks at a number of marks and reads a number of entries."""
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        cases: tuple[tuple[dict[str, Any], list[int]], ...] = (
            ({"marks_max": 1_000, "read_entries_max": 1_000}, [10]),
            ({"marks_max": 1_000, "read_entries_max": 60}, [3, 3, 3, 1]),
            ({"marks_max": 8, "read_entries_max": 1_000}, [4, 4, 2]),
            ({"marks_max": 1, "read_entries_max": 1}, [1] * 10),
        )
        for bounds, pieces in cases:
            history = await book_history(connection, 200)
            await make_marks(engine, history.restaurant_id, mark_entries=10)
            made: list[int] = []
            await PostgresSnapshotLadder(
                engine, rung_entries=20, on_made=made.append, **bounds
            ).take(history.account, 1)
            assert made == pieces


async def test_transaction_of_many_entries_has_one_rung(shared_database: Database) -> None:
    """However many rungs its entries would have, and however few entries a piece may read."""
    restaurant_id = unique("res")
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        account = await open_account(connection, restaurant_id)
        ((now, txid_end),) = await connection.fetch(NOW_AND_HORIZON)
        at = now - timedelta(days=1)
        entries = [Entry(txid_end - 5, *RULES[2], 1, None, at, at)] * 50
        await restore(connection, account, entries)
        assert await make_ladder(engine, restaurant_id, read_entries_max=10) == 1
        (rung,) = await connection.fetch(SELECT_RUNGS, account)
        assert rung["entries_count"] == 50
        assert (await balance_of(engine, restaurant_id, at)).available_minor == 0
        assert (await balance_of(engine, restaurant_id, at + MICROSECOND)).available_minor == -50


async def allow_and_lock(
    database: Database,
    stack: AsyncExitStack,
    made: Sequence[int],
    connection: Connection,
    seconds: int,
) -> None:
    """Allows a piece its time. If a piece was made before, one second, and locks their table."""
    await allow_seconds(connection, 1 if made else seconds)
    if made:
        await stack.enter_async_context(locked(database, "LOCK TABLE balance_snapshots"))


async def test_piece_that_times_out_leaves_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier pieces stay, and the next attempt goes on from there."""
    async with engine_on(database.url) as engine, superuser(database) as connection:
        history = await book_history(connection, 200)
        await make_marks(engine, history.restaurant_id, mark_entries=10)
        made: list[int] = []
        ladder = PostgresSnapshotLadder(engine, rung_entries=20, marks_max=8, on_made=made.append)
        # The second piece meets a lock.
        async with AsyncExitStack() as stack:
            monkeypatch.setattr(
                snapshot_ladder, "allow_seconds", partial(allow_and_lock, database, stack, made)
            )
            with pytest.raises(DatabaseTimeout):
                await ladder.take(history.account, 1)
        monkeypatch.setattr(snapshot_ladder, "allow_seconds", allow_seconds)
        assert made == [4]
        assert len(await connection.fetch(SELECT_RUNGS, history.account)) == 4
        assert await ladder.take(history.account, 1)
        assert made == [4, 4, 2]
        await assert_no_findings(connection)


async def test_pruning_keeps_the_ladder(database: Database) -> None:
    """The newest snapshot of each RUNG_ENTRIES entries stays; no balance changes.

    Nothing that was pruned is made again. Of an earlier stay, which nobody reads, the newest
    snapshot of the month stays.
    """
    async with engine_on(database.url) as engine, superuser(database) as connection:
        history = await book_history(connection, 5 * RUNG_ENTRIES)
        await make_ladder(
            engine, history.restaurant_id, mark_entries=50, rung_entries=RUNG_ENTRIES // 4
        )
        assert len(await connection.fetch(SELECT_RUNGS, history.account)) == 20
        owner = create_engine(database.migration_url, pool_size=1, role=OWNER_ROLE)
        try:
            pruning = SupersededSnapshots(owner)
            before = datetime.now(UTC) + timedelta(days=1)
            counted = await pruning.count(before)
            removed = await pruning.prune(before)
            assert counted["balance_snapshots"][0] == removed["balance_snapshots"]
            left = await connection.fetch(SELECT_RUNGS, history.account)
            # The history may lie in two months; their newest snapshots are the newest of a step.
            steps = [rung["entries_count"] // RUNG_ENTRIES for rung in left]
            assert sorted(set(steps)) == [0, 1, 2, 3, 4, 5]
            assert len(steps) <= 7
            assert removed["balance_snapshots"] == 20 - len(left)
            for place in range(0, history.entries, 97):
                assert await read_entries(engine, history, history.instant(place)) <= (
                    3 * RUNG_ENTRIES
                )
            assert not await PostgresSnapshotLadder(engine).take(history.account, 1)
            # The books move, so these rungs are of an earlier stay.
            await connection.execute("ALTER TABLE ledger_stays DISABLE TRIGGER USER")
            await connection.execute("UPDATE ledger_stays SET entries_oid = entries_oid + 1")
            await connection.execute(
                "ALTER TABLE ledger_stays ENABLE ALWAYS TRIGGER ledger_stays_deny_change"
            )
            await take_snapshots(engine)
            assert (await pruning.prune(before))["balance_snapshots"] >= len(left) - 2
        finally:
            await owner.dispose()


@pytest.mark.skipif(
    "LEDGER_TEST_DATABASE_URL" in os.environ, reason="needs the programs of the server's version"
)
async def test_restored_books_get_another_ladder(
    database: Database, empty_server_url: str, seed: int
) -> None:
    """Books with a ladder are dumped and restored into a cluster whose numbers are lower.

    The rungs from there are not read, and the new ladder counts what is below the new cluster's
    horizon: at first only what it booked itself, and everything once its numbers have caught up.
    """
    chance = random.Random(seed)
    await burn_numbers(database.migration_url, 2_000)
    async with engine_on(database.url) as engine, superuser(database) as connection:
        history = await book_history(connection, 60)
        assert await make_ladder(engine) == 12
    # Creates the roles, which no dump has.
    await migrate_async(empty_server_url)
    await create_database(empty_server_url, "restored")
    restored_url = database_url(empty_server_url, database="restored")
    await restore_books(database.migration_url, restored_url)
    restored = Database(database_url(restored_url, user=APPLICATION_ROLE), restored_url)
    name = history.restaurant_id
    async with engine_on(restored.url) as engine, superuser(restored) as connection:

        async def assert_balances_are_right() -> None:
            entries = await stored(connection, history.account)
            now = await connection.fetchval("SELECT clock_timestamp()")
            instants = [at for at in edges(entries, [], chance) if at < now]
            found = await balances_as_of(connection, name, instants)
            assert found == [expected(entries, at) for at in instants], f"seed {seed}"

        await assert_balances_are_right()
        assert await make_ladder(engine) == 0
        for _ in range(10):
            await book(engine, charge(name, 7, datetime.now(UTC)))
        assert await make_ladder(engine) == 2
        await assert_balances_are_right()
        ahead = await txid_ahead(engine)
        assert ahead is not None
        await burn_numbers(restored_url, ahead[0] - ahead[1] + 1)
        await connection.execute("DELETE FROM statement_marks")
        await connection.execute("DELETE FROM balance_snapshots")
        assert await make_ladder(engine) == 14
        await assert_balances_are_right()
        await assert_no_findings(connection)


async def test_audit_names_a_wrong_rung(database: Database) -> None:
    """And every balance that starts from it is wrong, so that a deletion mends it."""
    async with engine_on(database.url) as engine, superuser(database) as connection:
        history = await book_history(connection, 100)
        await make_ladder(engine, history.restaurant_id, mark_entries=5, rung_entries=20)
        await connection.execute(
            "ALTER TABLE balance_snapshots DISABLE TRIGGER balance_snapshots_deny_change;"
            "UPDATE balance_snapshots SET matured_minors[2] = matured_minors[2] - 1,"
            " written_txid = pg_current_xact_id() WHERE entries_count = 60;"
            "ALTER TABLE balance_snapshots ENABLE ALWAYS TRIGGER balance_snapshots_deny_change"
        )
        (agree,) = [c for c in CHECKS if c.name == "snapshots_agree_with_the_entries"]
        rungs = await connection.fetch(SELECT_RUNGS, history.account)
        (finding,) = await connection.fetch(agree.statement)
        assert finding["entity"] == (
            f"account {history.restaurant_id}/PEN, snapshot {rungs[2]['horizon']}"
        )
        with pytest.raises(AssertionError):
            await read_entries(engine, history, history.instant(61))
        await connection.execute("DELETE FROM balance_snapshots")
        await read_entries(engine, history, history.instant(61))
        await make_ladder(engine, history.restaurant_id, mark_entries=5, rung_entries=20)
        await assert_no_findings(connection)
