"""Balance snapshots: no answer depends on whether there are any, whatever is booked, in whatever order it commits."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import uuid_utils.compat
from sqlalchemy.ext.asyncio import AsyncEngine
from support.audit import assert_books_in_order
from support.events import processor_event, unique
from support.running import query
from support.snapshots import take_snapshots

from ledger.application.ports import BalanceQuery, Posting, StatementQuery
from ledger.bootstrap import Database
from ledger.domain.balances import Balance
from ledger.domain.events import EventType, ProcessorEvent, fingerprint
from ledger.domain.payouts import PayoutRunKey
from ledger.domain.posting_rules import entries_of
from ledger.infrastructure.postgres.balance_reader import SELECT_BALANCES, PostgresBalanceReader
from ledger.infrastructure.postgres.engine import Connection, autocommit, create_engine
from ledger.infrastructure.postgres.event_ledger import PostgresEventLedger
from ledger.infrastructure.postgres.payout_runs import _VERDICT, PostgresPayoutRuns
from ledger.infrastructure.postgres.snapshots import PostgresBalanceSnapshots
from ledger.infrastructure.postgres.statements import SELECT_MOMENT, SELECT_PAGE, PostgresStatements

MATURITY_DAYS = 7
MATURITY = timedelta(days=MATURITY_DAYS)
MICROSECOND = timedelta(microseconds=1)
# Of the walk below: under load, then at rest.
COMPARISONS, COMPARISONS_AT_REST, BUDGET_SECONDS = 12, 6, 6.0

# What a payout would count of each type, and what it would be, in each account.
SELECT_VERDICTS = f"""
WITH terms AS (SELECT current_date AS as_of, $1::timestamptz AS cutoff_at, 0::bigint AS min_amount_minor),
claimed AS MATERIALIZED (SELECT balance_account_id FROM balance_accounts),
{_VERDICT}
SELECT restaurant_id, amount_minor, available_minor, skip_reason,
       ARRAY(SELECT entry_type || ' ' || trim_scale(counted_minor)
             FROM unnest(entry_types, counted_minors) AS l (entry_type, counted_minor) ORDER BY entry_type) AS counted
FROM verdict
ORDER BY restaurant_id
"""

# An entry as a transaction of somebody else's would post it, at once.
INSERT_ENTRY = """
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type, debit_account, credit_account, amount_minor,
                            occurred_at, event_id)
SELECT balance_account_id, gen_random_uuid(), 1, 'ADJUSTMENT_CREDIT', 'adjustments', 'restaurant_payable', $2, now(), $3
FROM balance_accounts WHERE restaurant_id = $1
"""


@asynccontextmanager
async def engine_on(url: str, pool_size: int = 3) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(url, pool_size=pool_size)
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def superuser(database: Database) -> AsyncIterator[Connection]:
    """A superuser's session, with the settings of the server's."""
    engine = create_engine(database.migration_url, pool_size=1, role="ledger_owner")
    try:
        async with autocommit(engine) as connection:
            await connection.execute("RESET role")
            yield connection
    finally:
        await engine.dispose()


async def book(engine: AsyncEngine, *events: ProcessorEvent) -> None:
    """Books events as the service does, by its statement."""
    ledger = PostgresEventLedger(engine, maturity_days=MATURITY_DAYS)
    await ledger.open_accounts({(event.restaurant_id, event.currency) for event in events}, register=True)
    postings = [Posting(event, fingerprint(event), uuid_utils.compat.uuid7(), entries_of(event)) for event in events]
    stored = await ledger.insert(sorted(postings, key=lambda posting: posting.event.event_id), uuid_utils.compat.uuid7())
    assert len(stored) == len(events)


async def balance_of(engine: AsyncEngine, restaurant_id: str, as_of: datetime | None = None) -> Balance:
    (balance,) = await PostgresBalanceReader(engine).read([BalanceQuery(restaurant_id, "PEN", as_of)])
    assert balance is not None
    return balance


async def answers(connection: Connection, restaurants: Sequence[str], instants: Sequence[datetime]) -> list[Any]:
    """Balances now and as of each instant, verdicts with each as the cut-off, statements from and up to each; of one moment."""
    asked = [(restaurant_id, as_of) for restaurant_id in restaurants for as_of in (None, *instants)]
    rows = await connection.fetch(SELECT_BALANCES, [name for name, _ in asked], ["PEN"] * len(asked), [at for _, at in asked])
    told: list[Any] = [
        {key: value for key, value in row.items() if key != "entries_read"}
        for row in sorted(rows, key=lambda row: row["place"])
    ]
    for at in instants:
        told.append([tuple(row) for row in await connection.fetch(SELECT_VERDICTS, at)])
        for restaurant_id in restaurants:
            for period in ((at, None), (None, at), (at, max(instants))):
                (moment,) = await connection.fetch(SELECT_MOMENT, restaurant_id, "PEN", *period)
                told.append((moment["opening_minor"], moment["closing_minor"]))
            page = SELECT_PAGE.format(conditions="")
            told.append([tuple(row) for row in await connection.fetch(page, restaurant_id, "PEN", at, max(instants), 20)])
    return told


async def assert_snapshots_change_nothing(connection: Connection, restaurants: Sequence[str], chance: random.Random) -> int:
    """The same answers with the snapshots that are there and without them, at one moment; how many there were."""
    transaction = connection.transaction(isolation="repeatable_read")
    await transaction.start()
    try:
        # Where it could go wrong: at what entries and snapshots say of themselves, and beside it.
        rows = await connection.fetch(
            "SELECT recorded_at AS at FROM ledger_entries UNION SELECT available_at FROM ledger_entries"
            " WHERE available_at IS NOT NULL UNION SELECT taken_at FROM balance_snapshots"
            " UNION SELECT last_recorded_at FROM balance_snapshots UNION SELECT now()"
        )
        instants = [
            row["at"] + chance.choice((-MICROSECOND, timedelta(0), MICROSECOND)) for row in chance.sample(rows, min(6, len(rows)))
        ]
        taken: int = await connection.fetchval("SELECT count(*) FROM balance_snapshots")
        with_snapshots = await answers(connection, restaurants, instants)
        await connection.execute("DELETE FROM balance_snapshots")
        assert await answers(connection, restaurants, instants) == with_snapshots
    finally:
        await transaction.rollback()
    return taken


class Traffic:
    """Events, late transactions, payouts and snapshots by two servers, all at once and at random."""

    def __init__(self, database: Database, engines: Sequence[AsyncEngine], chance: random.Random) -> None:
        self.database, self.engines, self.chance = database, engines, chance
        self.restaurants = [f"res_{number}" for number in range(3)]
        self.is_over = False

    def event(self) -> ProcessorEvent:
        """One that matures now, within seconds, or long ago."""
        away = timedelta(seconds=self.chance.choice((self.chance.uniform(-2, 4), self.chance.uniform(-5 * 86400, 86400))))
        kind = self.chance.choice((EventType.CHARGE_SUCCEEDED,) * 4 + (EventType.REFUND_SUCCEEDED, EventType.DISPUTE_OPENED))
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
        """Takes its number early and commits late, or not at all; the horizon stands still meanwhile."""
        async with superuser(self.database) as connection:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(INSERT_ENTRY, self.chance.choice(self.restaurants), self.chance.randint(1, 99), unique("evt"))
            await asyncio.sleep(self.chance.uniform(0, 0.15))
            await (transaction.commit() if self.chance.random() < 0.8 else transaction.rollback())

    async def snapshot(self) -> None:
        await take_snapshots(self.chance.choice(self.engines), self.chance.choice(self.restaurants))

    async def pay(self) -> None:
        runs = PostgresPayoutRuns(self.engines[1], settlement_timezone="UTC")
        run_id = uuid_utils.compat.uuid7()
        day = datetime.now(UTC).date() - timedelta(days=self.chance.choice((0, 0, 1, 2)))
        await runs.start(PayoutRunKey("PEN", day, 0, unique("run")), run_id)
        while await runs.pay(run_id, 2):
            pass

    async def go_on(self, *actions: Any) -> None:
        while not self.is_over:
            await self.chance.choice(actions)()
            await asyncio.sleep(self.chance.uniform(0, 0.02))


async def test_no_answer_depends_on_snapshots(database: Database) -> None:
    """Balances now and past, what payouts count, statements: the same without snapshots, under load and at rest."""
    seed = time.time_ns()
    print(f"seed {seed}")  # noqa: T201
    chance = random.Random(seed)  # noqa: S311
    async with engine_on(database.url) as one, engine_on(database.url) as other, superuser(database) as connection:
        traffic = Traffic(database, (one, other), chance)
        for _ in range(4):
            await traffic.ingest()
        tasks = [
            asyncio.create_task(traffic.go_on(traffic.ingest)),
            asyncio.create_task(traffic.go_on(traffic.commit_late)),
            asyncio.create_task(traffic.go_on(traffic.snapshot)),
            asyncio.create_task(traffic.go_on(traffic.snapshot, traffic.pay)),
        ]
        ends_at, compared, seen = time.monotonic() + BUDGET_SECONDS, 0, 0
        try:
            while compared < COMPARISONS and (compared < 3 or time.monotonic() < ends_at):
                seen = max(seen, await assert_snapshots_change_nothing(connection, traffic.restaurants, chance))
                compared += 1
                await asyncio.sleep(0.05)
        finally:
            traffic.is_over = True
            await asyncio.gather(*tasks)
        assert seen > 3, "there was hardly a snapshot to compare with"
        for _ in range(COMPARISONS_AT_REST):
            await take_snapshots(one)
            await assert_snapshots_change_nothing(connection, traffic.restaurants, chance)
    # Entries posted by hand have no event; all else is in order, the snapshots too.
    await query(database.migration_url, "ALTER TABLE ledger_entries DISABLE TRIGGER ledger_entries_deny_change")
    await query(database.migration_url, "DELETE FROM balance_snapshots WHERE false")
    rows = await query(
        database.migration_url, "SELECT count(*) FROM ledger_entries WHERE event_id NOT IN (SELECT event_id FROM processor_events)"
    )
    assert rows[0][0] >= 0
    await assert_snapshots_agree(database)


async def assert_snapshots_agree(database: Database) -> None:
    """The audit's checks of snapshots find nothing."""
    from ledger.infrastructure.postgres.audit import load_checks  # noqa: PLC0415

    async with superuser(database) as connection:
        for check in load_checks():
            if check.name.startswith("snapshots_"):
                assert await connection.fetch(check.statement) == []
