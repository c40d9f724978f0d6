"""Balance snapshots: no result depends on them, whatever is booked and in whatever order."""

import asyncio
import os
import random
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import uuid_utils.compat
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs
from support.audit import assert_books_in_order
from support.books import (
    MATURITY,
    balance_of,
    book,
    burn_numbers,
    charge,
    engine_on,
    restore,
    superuser,
)
from support.dates import days_ago
from support.events import processor_event, unique
from support.running import query
from support.sessions import locked
from support.snapshots import ReportedTails, make_ladder, take_snapshots, until_final
from support.waiting import DEADLINE_SECONDS

from ledger.application.ports.balances import BalanceQuery
from ledger.application.ports.statements import StatementQuery
from ledger.bootstrap.database import Database
from ledger.domain.balances import BalanceAccount
from ledger.domain.events import EventType, ProcessorEvent
from ledger.domain.payouts import PayoutRunKey
from ledger.errors import DatabaseTimeout
from ledger.infrastructure.postgres.account_statements import PostgresStatements
from ledger.infrastructure.postgres.balance_reader import (
    SELECT_BALANCES,
    SELECT_PAST_BALANCES,
    PostgresBalanceReader,
)
from ledger.infrastructure.postgres.payout_runs import VERDICT, PostgresPayoutRuns
from ledger.infrastructure.postgres.schema.migrations import (
    create_database,
    database_url,
    migrate_async,
)
from ledger.infrastructure.postgres.sessions import engine as engines
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import (
    APPLICATION_ROLE,
    KeptConnections,
    autocommit,
)
from ledger.infrastructure.postgres.snapshot_ladder import INSERT_RUNGS
from ledger.infrastructure.postgres.snapshots import (
    ENTRIES_MAX,
    INSERT_SNAPSHOT,
    PostgresBalanceSnapshots,
    txid_ahead,
)
from ledger.infrastructure.postgres.verification.audit import load_checks
from ledger.infrastructure.postgres.verification.start_checks import warn_of_txids_ahead

MICROSECOND = timedelta(microseconds=1)
# For the random walk below: under load, then at rest.
COMPARISONS, COMPARISONS_AT_REST, BUDGET_SECONDS = 12, 4, 4.0

# What a payout would count of each entry type, and its amount, in each account.
SELECT_VERDICTS = f"""
WITH terms AS (SELECT current_date AS as_of, $1::timestamptz AS cutoff_at,
  0::bigint AS min_amount_minor, 'PEN'::text AS currency),
claimed AS MATERIALIZED (SELECT balance_account_id FROM balance_accounts),
{VERDICT}
SELECT restaurant_id, amount_minor, available_minor, skip_reason,
       ARRAY(SELECT entry_type || ' ' || trim_scale(counted_minor)
             FROM unnest(entry_types, counted_minors) AS l (entry_type, counted_minor)
             ORDER BY entry_type) AS counted
FROM verdict
ORDER BY restaurant_id
"""

# An entry as the transaction of another session would post it, at once.
INSERT_ENTRY = """
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type, debit_account,
  credit_account, amount_minor,
                            occurred_at, event_id)
SELECT balance_account_id, gen_random_uuid(), 1, 'ADJUSTMENT_CREDIT', 'adjustments',
       'restaurant_payable', $2, now(), $3
FROM balance_accounts WHERE restaurant_id = $1
"""


async def balances_and_verdicts(
    connection: Connection, restaurants: Sequence[str], instants: Sequence[datetime]
) -> list[Any]:
    """Balances now and as of each instant, and verdicts with each instant as the cut-off."""
    asked = [(restaurant_id, as_of) for restaurant_id in restaurants for as_of in instants]
    now = await connection.fetch(SELECT_BALANCES, restaurants, ["PEN"] * len(restaurants))
    past = await connection.fetch(
        SELECT_PAST_BALANCES,
        [name for name, _ in asked],
        ["PEN"] * len(asked),
        [at for _, at in asked],
        ENTRIES_MAX,
    )
    reported: list[Any] = [
        {key: value for key, value in row.items() if key != "entries_read"}
        for rows in (now, past)
        for row in sorted(rows, key=lambda row: row["place"])
    ]
    for at in instants:
        reported.append([tuple(row) for row in await connection.fetch(SELECT_VERDICTS, at)])
    return reported


async def assert_snapshots_change_nothing(
    connection: Connection, restaurants: Sequence[str], chance: random.Random
) -> int:
    """Asserts that results are the same with and without snapshots, in one database snapshot.

    The same goes for statement marks, which past balances use. Returns how many balance snapshots
    there were.
    """
    transaction = connection.transaction(isolation="repeatable_read")
    await transaction.start()
    try:
        # The instants at which a result changes: those of entries and snapshots, and their
        # neighbors.
        rows = await connection.fetch(
            "SELECT recorded_at AS at FROM ledger_entries UNION SELECT available_at FROM"
            " ledger_entries"
            " WHERE available_at IS NOT NULL UNION SELECT taken_at FROM balance_snapshots"
            " UNION SELECT last_recorded_at FROM balance_snapshots UNION SELECT now()"
        )
        instants = [
            row["at"] + chance.choice((-MICROSECOND, timedelta(0), MICROSECOND))
            for row in chance.sample(rows, min(6, len(rows)))
        ]
        taken: int = await connection.fetchval("SELECT count(*) FROM balance_snapshots")
        with_snapshots = await balances_and_verdicts(connection, restaurants, instants)
        tables = ["balance_snapshots", "statement_marks"]
        chance.shuffle(tables)
        for table in tables:
            await connection.execute(f"DELETE FROM {table}")
            assert await balances_and_verdicts(connection, restaurants, instants) == with_snapshots
    finally:
        await transaction.rollback()
    return taken


class Traffic:
    """Events, late transactions, payouts and snapshots of two servers, concurrent and at random."""

    def __init__(
        self, database: Database, engines: Sequence[AsyncEngine], chance: random.Random
    ) -> None:
        self.database, self.engines, self.chance = database, engines, chance
        self.restaurants = [f"res_{number}" for number in range(3)]
        self.is_over = False

    def event(self) -> ProcessorEvent:
        """An event that matures now, within seconds, or long ago."""
        away = timedelta(
            seconds=self.chance.choice(
                (self.chance.uniform(-2, 4), self.chance.uniform(-5 * 86400, 86400))
            )
        )
        kind = self.chance.choice(
            (EventType.CHARGE_SUCCEEDED,) * 4
            + (EventType.REFUND_SUCCEEDED, EventType.DISPUTE_OPENED)
        )
        amount_minor = self.chance.randint(10, 1_000)
        fee_minor = self.chance.randint(0, 9) if kind is not EventType.REFUND_SUCCEEDED else 0
        return processor_event(
            kind,
            restaurant_id=self.chance.choice(self.restaurants),
            amount_minor=amount_minor,
            fee_minor=fee_minor,
            occurred_at=datetime.now(UTC) - MATURITY + away,
        )

    async def ingest(self) -> None:
        await book(self.engines[0], *(self.event() for _ in range(self.chance.randint(1, 8))))

    async def commit_late(self) -> None:
        """Takes its number early and commits late or not at all; the horizon waits."""
        async with superuser(self.database) as connection:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(
                INSERT_ENTRY,
                self.chance.choice(self.restaurants),
                self.chance.randint(1, 99),
                unique("evt"),
            )
            await asyncio.sleep(self.chance.uniform(0, 0.15))
            await (transaction.commit() if self.chance.random() < 0.8 else transaction.rollback())

    async def snapshot(self) -> None:
        await take_snapshots(
            self.chance.choice(self.engines), self.chance.choice(self.restaurants), at_once=True
        )

    async def climb(self) -> None:
        await make_ladder(
            self.chance.choice(self.engines), self.chance.choice(self.restaurants), at_once=True
        )

    async def pay(self) -> None:
        runs = PostgresPayoutRuns(self.engines[1], settlement_timezone="UTC")
        run_id = uuid_utils.compat.uuid7()
        day = days_ago(0) - timedelta(days=self.chance.choice((0, 0, 1, 2)))
        await runs.start(PayoutRunKey("PEN", day, 0, unique("run")), run_id)
        while await runs.pay(run_id, 2):
            pass

    async def repeat(self, *actions: Any) -> None:
        """Runs a random one of the actions again and again, until the traffic is over."""
        while not self.is_over:
            await self.chance.choice(actions)()
            await asyncio.sleep(self.chance.uniform(0, 0.02))


async def test_no_result_depends_on_snapshots(database: Database, seed: int) -> None:
    """Balances now and past, and what payouts count, under load and at rest."""
    chance = random.Random(seed)
    async with (
        engine_on(database.url) as one,
        engine_on(database.url) as other,
        superuser(database) as connection,
    ):
        traffic = Traffic(database, (one, other), chance)
        for _ in range(4):
            await traffic.ingest()
        tasks = [
            asyncio.create_task(traffic.repeat(traffic.ingest)),
            asyncio.create_task(traffic.repeat(traffic.commit_late)),
            asyncio.create_task(traffic.repeat(traffic.snapshot, traffic.climb)),
            asyncio.create_task(traffic.repeat(traffic.snapshot, traffic.pay)),
        ]
        ends_at, compared, seen = time.monotonic() + BUDGET_SECONDS, 0, 0
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                # On a slow machine too, until there are snapshots to compare.
                while seen <= 3 or (
                    compared < COMPARISONS and (compared < 3 or time.monotonic() < ends_at)
                ):
                    seen = max(
                        seen,
                        await assert_snapshots_change_nothing(
                            connection, traffic.restaurants, chance
                        ),
                    )
                    compared += 1
                    await asyncio.sleep(0.05)
        finally:
            traffic.is_over = True
            await asyncio.gather(*tasks)
        for _ in range(COMPARISONS_AT_REST):
            await take_snapshots(one)
            await make_ladder(one)
            await assert_snapshots_change_nothing(connection, traffic.restaurants, chance)
    await assert_snapshots_agree(database)


async def assert_snapshots_agree(database: Database) -> None:
    """The audit's checks of snapshots find nothing."""
    checks = [check for check in load_checks() if check.name.startswith("snapshots_")]
    assert len(checks) == 2
    async with superuser(database) as connection:
        for check in checks:
            assert await connection.fetch(check.statement) == []


async def snapshots_of(database: Database, restaurant_id: str) -> list[tuple[Any, ...]]:
    """Number of entries counted and horizon, by horizon."""
    return await query(
        database.migration_url,
        "SELECT entries_count, horizon::text::bigint FROM balance_snapshots JOIN balance_accounts"
        " USING (balance_account_id)"
        " WHERE restaurant_id = :restaurant_id ORDER BY horizon",
        restaurant_id=restaurant_id,
    )


async def test_late_commit_is_counted_once(shared_database: Database) -> None:
    """A transaction takes its number, others commit, a snapshot is taken, and then it commits.

    It is in the tail, and in the next snapshot. While it is open no further snapshot is taken.
    """
    restaurant_id = unique("res")
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as late:
        await book(engine, charge(restaurant_id, 1_000, datetime.now(UTC) - timedelta(days=1)))
        transaction = late.transaction()
        await transaction.start()
        await late.execute(INSERT_ENTRY, restaurant_id, 7, unique("evt"))
        await book(engine, charge(restaurant_id, 200, datetime.now(UTC) - timedelta(days=1)))
        await until_final(engine, await late.fetchval("SELECT pg_current_xact_id()::text::bigint"))
        assert await take_snapshots(engine, restaurant_id, at_once=True) == 1
        assert await take_snapshots(engine, restaurant_id, at_once=True) == 0
        await book(engine, charge(restaurant_id, 30, datetime.now(UTC) - timedelta(days=1)))
        assert await take_snapshots(engine, restaurant_id, at_once=True) == 0
        assert (await balance_of(engine, restaurant_id)).available_minor == 1_230
        await transaction.commit()
        assert (await balance_of(engine, restaurant_id)).available_minor == 1_237
        assert await take_snapshots(engine, restaurant_id) == 1
        assert [count for count, _ in await snapshots_of(shared_database, restaurant_id)] == [1, 4]
        assert (await balance_of(engine, restaurant_id)).available_minor == 1_237
    await assert_snapshots_agree(shared_database)


async def test_earlier_cut_off_leaves_out_what_matured_since(
    shared_database: Database,
) -> None:
    """A payout as of yesterday leaves out what matured today, which the snapshot has as matured."""
    restaurant_id, now = unique("res"), datetime.now(UTC)
    yesterday = now.date() - timedelta(days=1)
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC)
    async with engine_on(shared_database.url) as engine:
        await book(
            engine,
            charge(restaurant_id, 100, midnight - MICROSECOND),
            charge(restaurant_id, 20, midnight),
            charge(restaurant_id, 3, now + timedelta(days=1)),
        )
        assert await take_snapshots(engine, restaurant_id) == 1
        async with autocommit(engine) as connection:
            counted = {
                at: [
                    tuple(row)
                    for row in await connection.fetch(SELECT_VERDICTS, at)
                    if row["restaurant_id"] == restaurant_id
                ]
                for at in (midnight - MICROSECOND, midnight, now + timedelta(days=2))
            }
        # Of what it counts it pays no more than is available now.
        assert [int(row[0][1]) for row in counted.values()] == [100, 120, 120]
        assert [row[0][4] for row in counted.values()] == [
            ["CHARGE 100"],
            ["CHARGE 120"],
            ["CHARGE 123"],
        ]
        assert [int(row[0][2]) for row in counted.values()] == [120, 120, 120]
        runs = PostgresPayoutRuns(engine, settlement_timezone="UTC")
        run_id = uuid_utils.compat.uuid7()
        await runs.start(PayoutRunKey("PEN", yesterday, 0, restaurant_id), run_id)
        while await runs.pay(run_id, 500):
            pass
        paid = {
            item.restaurant_id: item.amount_minor
            for item in await runs.items(run_id, None, "", 1000)
        }
        assert paid[restaurant_id] == 100
        balance = await balance_of(engine, restaurant_id)
        assert (balance.available_minor, balance.pending_minor, balance.reserved_minor) == (
            20,
            3,
            100,
        )


async def test_what_matures_after_the_snapshot_becomes_available(shared_database: Database) -> None:
    """Without another event: pending at the snapshot, available once the instant has passed."""
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        # Long enough for a slow machine to take the snapshot before.
        for ahead_seconds in (0.5, 4, 20):
            restaurant_id, matures_at = (
                unique("res"),
                datetime.now(UTC) + timedelta(seconds=ahead_seconds),
            )
            await book(engine, charge(restaurant_id, 100, matures_at))
            assert await take_snapshots(engine, restaurant_id) == 1
            taken_at = await connection.fetchval("SELECT max(taken_at) FROM balance_snapshots")
            if (await balance_of(engine, restaurant_id)).pending_minor and taken_at < matures_at:
                break
        async with asyncio.timeout(60):
            while (balance := await balance_of(engine, restaurant_id)).available_minor == 0:
                assert balance.pending_minor == 100
        assert (balance.available_minor, balance.pending_minor) == (100, 0)
        assert balance.as_of >= matures_at
        # A snapshot that counts the same entries as matured: nothing else is new.
        assert await take_snapshots(engine, restaurant_id) == 1
        assert await take_snapshots(engine, restaurant_id) == 0
        assert (await balance_of(engine, restaurant_id)).available_minor == 100


async def test_two_servers_may_take_snapshots_at_once(shared_database: Database) -> None:
    """The second one takes the same snapshot or none, and every balance is right."""
    restaurant_id = unique("res")
    async with engine_on(shared_database.url) as one, engine_on(shared_database.url) as other:
        for round_ in range(1, 9):
            await book(one, charge(restaurant_id, 10, datetime.now(UTC) - timedelta(days=round_)))
            await until_final(one)
            await asyncio.gather(
                *(
                    take_snapshots(engine, restaurant_id, at_once=True)
                    for engine in (one, other, one, other)
                )
            )
            assert (await balance_of(one, restaurant_id)).available_minor == 10 * round_
    counts = [count for count, _ in await snapshots_of(shared_database, restaurant_id)]
    assert counts == sorted(counts)
    assert counts[-1] == 8
    await assert_snapshots_agree(shared_database)


# What a server of an earlier revision leaves to the database's default.
SELECT_DEFAULT_STAY = """
SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid
       AND attnum = adnum
WHERE attrelid = 'balance_snapshots'::regclass AND attname = 'stay_id'
"""
COPY_OF_SNAPSHOT = """
INSERT INTO balance_snapshots (balance_account_id, system_identifier, stay_id, horizon, taken_at,
  entries_count, last_recorded_at,
                               last_event_at, ledger_accounts, entry_types, total_minors,
                               matured_minors)
SELECT balance_account_id, system_identifier, {stay_id}, {horizon}, taken_at, entries_count,
       last_recorded_at + interval '1 microsecond', last_event_at, ledger_accounts, entry_types,
       ARRAY(SELECT 777 * n FROM unnest(total_minors) AS l (n)), matured_minors
FROM balance_snapshots JOIN balance_accounts USING (balance_account_id)
WHERE restaurant_id = :restaurant_id
"""


@pytest.mark.parametrize(
    ("stay_id", "horizon", "is_used"),
    [
        ("stay_id", "horizon", True),
        ("gen_random_uuid()", "horizon", False),
        ("DEFAULT", "horizon", False),
        ("stay_id", "'9000000000000000000'", False),
    ],
    ids=[
        "of this stay",
        "of another stay",
        "of a server that knows no stays",
        "ahead of this cluster",
    ],
)
async def test_only_snapshots_of_this_stay_are_used(
    shared_database: Database, stay_id: str, horizon: str, is_used: bool
) -> None:
    """A snapshot with wrong sums shows whether it is used.

    It is, only if it is of this stay and not ahead of its numbers.
    """
    restaurant_id = unique("res")
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        await book(engine, charge(restaurant_id, 100, datetime.now(UTC) + timedelta(days=1)))
        assert await take_snapshots(engine, restaurant_id) == 1
        if stay_id == "DEFAULT":
            stay_id = await connection.fetchval(SELECT_DEFAULT_STAY)
        statement = COPY_OF_SNAPSHOT.format(stay_id=stay_id, horizon=horizon)
        await connection.execute(statement.replace(":restaurant_id", f"'{restaurant_id}'"))
        pending_minor = 77_700 if is_used else 100
        assert (await balance_of(engine, restaurant_id)).pending_minor == pending_minor
        await connection.execute("DELETE FROM balance_snapshots")


async def test_balances_past_use_snapshots_that_count_nothing_later(
    shared_database: Database,
) -> None:
    """As of the instant of each record, and near it, with a snapshot after each entry."""
    restaurant_id = unique("res")
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        for place in range(5):
            await book(
                engine, charge(restaurant_id, 10**place, datetime.now(UTC) - timedelta(days=1))
            )
            assert await take_snapshots(engine, restaurant_id) == 1
        rows = await connection.fetch(
            "SELECT recorded_at FROM ledger_entries JOIN balance_accounts USING"
            " (balance_account_id) WHERE restaurant_id = $1"
            " ORDER BY recorded_at",
            restaurant_id,
        )
        for place, row in enumerate(rows):
            reported = [
                await balance_of(engine, restaurant_id, row["recorded_at"] + MICROSECOND * step)
                for step in (-1, 0, 1)
            ]
            before, after = sum(10**n for n in range(place)), sum(10**n for n in range(place + 1))
            assert [balance.available_minor for balance in reported] == [before, before, after]


async def test_many_balances_are_returned_in_the_order_of_their_queries(
    shared_database: Database,
) -> None:
    """One read of known and unknown restaurants, with and without entries, some twice.

    Now and past, with a snapshot and without.
    """
    one, other = unique("res"), unique("res")
    async with engine_on(shared_database.url) as engine:
        await book(engine, charge(one, 5, datetime.now(UTC) - timedelta(days=1)))
        await take_snapshots(engine, one)
        await book(engine, charge(other, 6, datetime.now(UTC) + timedelta(days=1)))
        past = datetime.now(UTC) - timedelta(days=30)
        queries = [
            BalanceQuery(BalanceAccount(one, "PEN"), None),
            BalanceQuery(BalanceAccount("res_unknown", "PEN"), None),
            BalanceQuery(BalanceAccount(other, "PEN"), None),
            BalanceQuery(BalanceAccount(one, "PEN"), past),
            BalanceQuery(BalanceAccount(one, "PEN"), None),
            BalanceQuery(BalanceAccount(one, "USD"), datetime.min.replace(tzinfo=UTC)),
        ]
        reported = await PostgresBalanceReader(partial(autocommit, engine)).read(queries)
        sums = [
            None if balance is None else (balance.available_minor, balance.pending_minor)
            for balance in reported
        ]
        assert sums == [(5, 0), None, (0, 6), (0, 0), (5, 0), (0, 0)]
        assert [None if balance is None else balance.account.holder_id for balance in reported] == [
            one,
            None,
            other,
            one,
            one,
            one,
        ]
        assert reported[3] is not None
        assert reported[3].as_of == past
        assert reported[5] is not None
        assert reported[5].as_of == datetime.min.replace(tzinfo=UTC)
        assert await PostgresBalanceReader(partial(autocommit, engine)).read([]) == []


async def test_reads_report_how_many_entries_they_read(shared_database: Database) -> None:
    """Balances and payouts report the entries beyond the snapshot.

    Among them are the entries that matured since.
    """
    restaurant_id = unique("res")
    async with engine_on(shared_database.url) as engine:
        await book(
            engine,
            *(charge(restaurant_id, 1, datetime.now(UTC) - timedelta(days=1)) for _ in range(4)),
        )
        ((account,),) = await query(
            shared_database.migration_url,
            "SELECT balance_account_id FROM balance_accounts WHERE restaurant_id = :restaurant_id",
            restaurant_id=restaurant_id,
        )

        kept = KeptConnections(engine)

        async def read() -> list[int | None]:
            of_balance, of_group, of_payout = ReportedTails(), ReportedTails(), ReportedTails()
            await PostgresBalanceReader(kept.autocommit, of_group).read(
                [BalanceQuery(BalanceAccount(restaurant_id, "PEN"), None)]
            )
            await PostgresBalanceReader(partial(autocommit, engine), of_balance).read(
                [BalanceQuery(BalanceAccount(restaurant_id, "PEN"), None)]
            )
            runs = PostgresPayoutRuns(engine, of_payout, settlement_timezone="UTC")
            run_id = uuid_utils.compat.uuid7()
            await runs.start(PayoutRunKey("PEN", days_ago(0), 10**9, unique("run")), run_id)
            while await runs.pay(run_id, 500):
                pass
            return [reported.tails.get(account) for reported in (of_balance, of_group, of_payout)]

        assert await read() == [4, 4, 4]
        await until_final(engine)
        assert not await PostgresBalanceSnapshots(engine).take(account, 5)
        assert await PostgresBalanceSnapshots(engine).take(account, 4)
        # A payout reports long tails only.
        assert await read() == [0, 0, None]
        await book(
            engine,
            *(charge(restaurant_id, 1, datetime.now(UTC) - timedelta(days=1)) for _ in range(2)),
        )
        assert await read() == [2, 2, None]
        await kept.close()


async def test_account_that_is_not_read_in_time_is_reported_as_endless(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By balances of now and of the past, statements and payouts.

    Otherwise it would never get the snapshot with which it can be read in time.
    """
    async with engine_on(database.url) as engine:
        await book(engine, charge("res_1", 1, datetime.now(UTC) - timedelta(days=1)))
        runs = PostgresPayoutRuns(engine, settlement_timezone="UTC")
        run_id = uuid_utils.compat.uuid7()
        await runs.start(PayoutRunKey("PEN", days_ago(0)), run_id)
    ((account,),) = await query(
        database.migration_url, "SELECT balance_account_id FROM balance_accounts"
    )
    monkeypatch.setitem(engines.SESSION_SETTINGS, "statement_timeout", "300ms")
    async with engine_on(database.url) as engine, locked(database, "LOCK TABLE ledger_entries"):
        connections, reported = (
            partial(autocommit, engine),
            [ReportedTails() for _ in range(5)],
        )
        past = datetime(2025, 1, 1, tzinfo=UTC)
        now, as_of = (BalanceQuery(BalanceAccount("res_1", "PEN"), at) for at in (None, past))
        with pytest.raises(DatabaseTimeout):
            await PostgresBalanceReader(connections, reported[0]).read([now])
        with pytest.raises(DatabaseTimeout):
            await PostgresBalanceReader(connections, reported[3]).read([as_of])
        with pytest.raises(DatabaseTimeout):
            await PostgresBalanceReader(connections, reported[4]).read_short([as_of])
        with pytest.raises(DatabaseTimeout):
            whole = StatementQuery(
                BalanceAccount("res_1", "PEN"), None, None, frozenset(), None, None
            )
            await PostgresStatements(connections, reported[1]).first_page(whole, 1)
        with pytest.raises(DatabaseTimeout):
            await PostgresPayoutRuns(engine, reported[2], settlement_timezone="UTC").pay(run_id, 1)
    assert [each.tails for each in reported] == [{account: ENTRIES_MAX}] * 5


@pytest.mark.skipif(
    "LEDGER_TEST_DATABASE_URL" in os.environ, reason="needs the programs of the server's version"
)
async def test_restored_books_return_the_same_balances(
    database: Database, empty_server_url: str
) -> None:
    """Books are dumped and restored into another cluster, whose numbers are lower.

    The old snapshots are not used there, new ones are taken of what is below the new cluster's
    horizon, and the results are the same as before, whatever is booked then.
    """
    restaurants = ["res_1", "res_2"]
    past = datetime.now(UTC) - timedelta(days=1)
    await burn_numbers(database.migration_url, 3_000)
    async with engine_on(database.url) as engine:
        for number in range(1, 6):
            await book(engine, *(charge(name, 10**number, past) for name in restaurants))
            assert await take_snapshots(engine) == 2
        before = [await balance_of(engine, name) for name in restaurants]
        assert await txid_ahead(engine) is None
    # Creates the roles, which no dump has.
    await migrate_async(empty_server_url)
    await create_database(empty_server_url, "restored")
    restored_url = database_url(empty_server_url, database="restored")
    await restore(database.migration_url, restored_url)
    restored = Database(database_url(restored_url, user=APPLICATION_ROLE), restored_url)
    chance = random.Random(1)
    async with engine_on(restored.url) as engine, superuser(restored) as connection:
        ahead = await txid_ahead(engine)
        assert ahead is not None
        assert ahead[0] > ahead[1]
        with capture_logs() as logged:
            await warn_of_txids_ahead(engine)
        assert [line["log_level"] for line in logged] == ["warning"]
        after = [await balance_of(engine, name) for name in restaurants]
        assert [balance.available_minor for balance in after] == [
            balance.available_minor for balance in before
        ]
        assert await connection.fetchval("SELECT count(*) FROM balance_snapshots") == 10
        # Nothing is below this cluster's horizon until it has booked something itself.
        assert await take_snapshots(engine) == 0
        for number in range(6, 9):
            await book(engine, *(charge(name, 10**number, past) for name in restaurants))
            assert await take_snapshots(engine) == 2
            for name in restaurants:
                expected = sum(10**n for n in range(1, number + 1))
                assert (await balance_of(engine, name)).available_minor == expected
            await assert_snapshots_change_nothing(connection, restaurants, chance)
        # The numbers have caught up: now everything is counted.
        ahead = await txid_ahead(engine)
        assert ahead is not None
        await burn_numbers(restored_url, ahead[0] - ahead[1] + 1)
        assert await txid_ahead(engine) is None
        with capture_logs() as logged:
            await warn_of_txids_ahead(engine)
        assert logged == []
        assert await take_snapshots(engine) == 2
        counts = await connection.fetch(
            "SELECT max(entries_count) FROM balance_snapshots GROUP BY balance_account_id"
        )
        assert [row["max"] for row in counts] == [8, 8]
        await assert_snapshots_change_nothing(connection, restaurants, chance)
    await assert_snapshots_agree(restored)
    await assert_books_in_order(restored)


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (SELECT_BALANCES, "ARRAY['res_1'], ARRAY['PEN']"),
        (SELECT_PAST_BALANCES, "ARRAY['res_1'], ARRAY['PEN'], ARRAY[now()], 1"),
        (SELECT_VERDICTS, "now()"),
        (INSERT_SNAPSHOT, "1, 1"),
        (INSERT_RUNGS, "1, now(), '0', 0, 1, 1, 1"),
    ],
    ids=["balances", "past balances", "verdicts", "snapshot", "rungs"],
)
async def test_plans_made_while_the_tables_are_empty_read_ranges(
    database: Database, statement: str, values: str
) -> None:
    """Plans are kept when the tables have grown, so the first ones must read ranges.

    The tail is a range of the primary key, and what matured since is a range of the index for that.
    """
    async with superuser(database) as connection:
        await connection.execute(f"PREPARE planned AS {statement}")
        plan = "\n".join(
            row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE planned ({values})")
        )
    assert "Seq Scan on ledger_entries" not in plan
    scans = re.findall(r"ledger_entries_(\w+).*\n *Index Cond: (.*)", plan)
    ranges = {name: condition for name, condition in scans}
    assert set(ranges) == {"pkey", "available_at_idx"}
    assert re.search(r"recorded_txid >= (COALESCE|GREATEST)", ranges["pkey"])
    assert all("recorded_txid >=" in condition for name, condition in scans if name == "pkey")
    assert all(
        condition.count("available_at") >= 2
        for name, condition in scans
        if name == "available_at_idx"
    )
