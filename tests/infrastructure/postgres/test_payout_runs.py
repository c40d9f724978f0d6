"""Payout runs on PostgreSQL.

What a failed page leaves behind, that an ended run pays no restaurant, and that a run considers the
restaurants of its start, whichever servers continue it.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import uuid_utils.compat
from google.protobuf.timestamp_pb2 import Timestamp
from support.audit import assert_books_in_order
from support.books import engine_on, superuser
from support.events import event_message
from support.paying import open_accounts
from support.payout_runs import answer, finished_run, put_restaurant
from support.running import query, running_ledger
from support.sessions import locked, waiting_sessions

from ledger.application.ports.payouts import PageRejected
from ledger.bootstrap.database import Database
from ledger.domain.payouts import PayoutRunItemOutcome, PayoutRunKey, PayoutRunState, SkipReason
from ledger.errors import DatabaseContention
from ledger.infrastructure.postgres import payout_runs
from ledger.infrastructure.postgres.payout_runs import (
    CLAIM_ITEMS,
    FINISH,
    LOCK_BALANCE_ACCOUNTS,
    PAY,
    PostgresPayoutRuns,
)
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine
from ledger.v1 import ledger_pb2


async def test_schema_that_does_not_fit_skips_no_restaurant(database: Database) -> None:
    """The page fails, and all its restaurants stay open."""
    async with running_ledger(database) as ledger:
        await ledger.ingest(
            event_message(restaurant_id="res_1"), event_message(restaurant_id="res_2")
        )
    await query(database.migration_url, "ALTER TABLE payouts ADD COLUMN later text NOT NULL")
    engine = create_engine(database.url, pool_size=1)
    try:
        runs = PostgresPayoutRuns(engine, settlement_timezone="UTC")
        payout_run_id = uuid_utils.compat.uuid7()
        await runs.start(PayoutRunKey("PEN", date(2026, 1, 1)), payout_run_id)
        with pytest.raises(PageRejected) as rejected:
            await runs.pay(payout_run_id, 500)
        assert not rejected.value.is_data
        assert isinstance(rejected.value.__cause__, asyncpg.NotNullViolationError)
        assert len(await runs.items(payout_run_id, PayoutRunItemOutcome.OPEN, "", 10)) == 2
        await query(database.migration_url, "ALTER TABLE payouts DROP COLUMN later")
        assert len(await runs.pay(payout_run_id, 500)) == 2
    finally:
        await engine.dispose()


WRITE_ALL = "SELECT write_payout_run_items(CAST(:run AS uuid), 1000000)"


@asynccontextmanager
async def runs_of(database: Database) -> AsyncIterator[PostgresPayoutRuns]:
    """Payout runs without a worker."""
    engine = create_engine(database.url, pool_size=3)
    try:
        yield PostgresPayoutRuns(engine, settlement_timezone="UTC")
    finally:
        await engine.dispose()


class EarlierPage:
    """A page of a server of an earlier revision, which knows no canceled runs.

    It never checks whether its run is under way.
    """

    def __init__(self, connection: Any, payout_run_id: UUID) -> None:
        self._connection = connection
        self._payout_run_id = payout_run_id
        self._accounts: list[int] = []

    async def claim(self) -> int:
        """Claims the run's open items and locks their accounts; returns how many."""
        rows = await self._connection.fetch(CLAIM_ITEMS, self._payout_run_id, 500, 0)
        self._accounts = [row["balance_account_id"] for row in rows]
        await self._connection.fetch(LOCK_BALANCE_ACCOUNTS, self._accounts)
        return len(self._accounts)

    async def pay(self) -> int:
        """Writes the payouts; returns how many."""
        ids = [uuid_utils.compat.uuid7() for _ in self._accounts]
        entry = ("PAYOUT_RESERVE", "restaurant_payable", "payout_reserved")
        progress_of = await self._connection.fetchrow(
            PAY, self._payout_run_id, self._accounts, ids, ids, *entry, 10_000
        )
        return int(progress_of["payouts_count"])


@asynccontextmanager
async def earlier_page(database: Database, payout_run_id: UUID) -> AsyncIterator[EarlierPage]:
    """Such a page, in a transaction that is committed when the block ends."""
    engine = create_engine(database.url, pool_size=1)
    try:
        async with autocommit(engine) as connection, connection.transaction():
            yield EarlierPage(connection, payout_run_id)
    finally:
        await engine.dispose()


EARLIER_PAYOUT = """
WITH account AS (
  SELECT balance_account_id FROM balance_accounts WHERE restaurant_id = $1
),
paid AS (
  INSERT INTO payouts (payout_id, payout_run_id, balance_account_id, sequence, amount_minor,
    available_minor, as_of, cutoff_at, transaction_id)
  SELECT $2, $3, balance_account_id, $4, 10000, 10000, '2026-01-01', '2026-01-01', $2 FROM account
)
INSERT INTO payout_items (payout_id, entry_type, counted_minor, amount_minor)
SELECT $2, 'CHARGE', 10000, 10000
"""


@pytest.mark.parametrize(
    ("profile", "is_refused"),
    [
        ({}, False),
        ({"min_balance_minor": {"USD": 1}}, False),
        ({"min_balance_minor": {"PEN": 1}}, True),
        ({"payout_hold": ledger_pb2.PayoutHold(reason="review")}, True),
        (
            {"payout_hold": ledger_pb2.PayoutHold(reason="r", until=Timestamp(seconds=1))},
            False,
        ),
    ],
)
async def test_earlier_server_cannot_pay_what_is_held_or_has_to_stay(
    database: Database, profile: dict[str, Any], is_refused: bool
) -> None:
    """Its payouts do not say what they leave. It takes the failure for no fault of the restaurant,
    and leaves it to newer servers.
    """
    async with running_ledger(database) as ledger:
        await ledger.ingest(event_message(restaurant_id="res_1"))
        await put_restaurant(ledger, "res_1", **profile)
    async with runs_of(database) as runs:
        payout_run_id = uuid_utils.compat.uuid7()
        await runs.start(PayoutRunKey("PEN", date(2026, 1, 1)), payout_run_id)
    await assert_earlier_payout(database, payout_run_id, 1, is_refused=is_refused)


async def test_earlier_server_cannot_pay_after_a_payout_that_left_something(
    database: Database,
) -> None:
    """It would not count what was left, and its items would not add up."""
    async with running_ledger(database) as ledger:
        await ledger.ingest(event_message(restaurant_id="res_1"))
        await put_restaurant(ledger, "res_1", min_balance_minor={"PEN": 1})
        await finished_run(ledger, as_of=date(2025, 12, 31))
        await answer(ledger, "res_1", ledger_pb2.EVENT_TYPE_PAYOUT_PAID)
        await put_restaurant(ledger, "res_1")
    async with runs_of(database) as runs:
        payout_run_id = uuid_utils.compat.uuid7()
        await runs.start(PayoutRunKey("PEN", date(2026, 1, 1)), payout_run_id)
    await assert_earlier_payout(database, payout_run_id, 2, is_refused=True)


async def assert_earlier_payout(
    database: Database, payout_run_id: UUID, sequence: int, *, is_refused: bool
) -> None:
    """Asserts that the database refuses the payout, or takes it, as it comes from such a server."""
    engine = create_engine(database.url, pool_size=1)
    try:
        async with autocommit(engine) as connection:
            values = ("res_1", uuid_utils.compat.uuid7(), payout_run_id, sequence)
            if not is_refused:
                await connection.execute(EARLIER_PAYOUT, *values)
                return
            with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
                await connection.execute(EARLIER_PAYOUT, *values)
    finally:
        await engine.dispose()


async def run_to_cancel(database: Database, min_amount_minor: int = 0) -> UUID:
    """A run of two restaurants, each with a positive amount."""
    async with running_ledger(database) as ledger:
        await ledger.ingest(
            event_message(restaurant_id="res_1"), event_message(restaurant_id="res_2")
        )
    async with runs_of(database) as runs:
        payout_run_id = uuid_utils.compat.uuid7()
        await runs.start(PayoutRunKey("PEN", date(2026, 1, 1), min_amount_minor), payout_run_id)
    await query(database.migration_url, WRITE_ALL, run=payout_run_id)
    return payout_run_id


async def assert_nothing_was_looked_at(runs: PostgresPayoutRuns, payout_run_id: UUID) -> None:
    """The canceled run has no payouts, and shows both restaurants as skipped."""
    run = await runs.get(payout_run_id)
    assert run is not None
    assert (run.state, run.payouts_created, run.restaurants_considered) == (
        PayoutRunState.CANCELED,
        0,
        0,
    )
    assert run.skipped == {SkipReason.CANCELED: 2}


@pytest.mark.parametrize("min_amount_minor", [0, 10**9], ids=["to be paid", "to be skipped"])
@pytest.mark.parametrize("step", ["before it claims", "before it writes", "before it commits"])
async def test_earlier_server_continues_no_canceled_run(
    database: Database, step: str, min_amount_minor: int
) -> None:
    """At any step of its page when the run is canceled.

    The page fails, or it is committed before the cancellation returns.
    """
    payout_run_id = await run_to_cancel(database, min_amount_minor)
    async with runs_of(database) as runs:
        if step == "before it commits":
            async with earlier_page(database, payout_run_id) as page:
                await page.claim()
                await page.pay()
                canceling = asyncio.create_task(runs.cancel(payout_run_id))
                await waiting_sessions(database, "payout_runs")
                assert not canceling.done()
            assert await canceling
            run = await runs.get(payout_run_id)
            assert run is not None
            assert (run.state, run.restaurants_considered) == (PayoutRunState.CANCELED, 2)
            assert run.payouts_created == (0 if min_amount_minor else 2)
        else:
            with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="has ended"):
                async with earlier_page(database, payout_run_id) as page:
                    if step == "before it claims":
                        assert await runs.cancel(payout_run_id)
                    await page.claim()
                    if step == "before it writes":
                        assert await runs.cancel(payout_run_id)
                    await page.pay()
            await assert_nothing_was_looked_at(runs, payout_run_id)
    await assert_books_in_order(database)


OF_RUN = """
SELECT outcome, skip_reason, count(*) FROM payout_run_items WHERE payout_run_id = :run GROUP BY 1, 2
"""
NEW_ACCOUNT = "INSERT INTO balance_accounts (restaurant_id, currency) VALUES ('{name}', 'PEN')"
NEW_RESTAURANT = (
    "INSERT INTO restaurants (restaurant_id, name, metadata) VALUES ('{name}', '', '{{}}')"
)
# The start of a run on a server of an earlier revision, with all its items.
EARLIER_START = """
WITH started AS (
  INSERT INTO payout_runs (payout_run_id, currency, as_of, cutoff_at, min_amount_minor, request_id)
  VALUES (CAST(:run AS uuid), 'PEN', '2026-01-01', '2026-01-01T23:59:59.999999Z', 0, 'of_before')
)
INSERT INTO payout_run_items (payout_run_id, restaurant_id, balance_account_id)
SELECT CAST(:run AS uuid), restaurant_id, balance_account_id
FROM balance_accounts WHERE currency = 'PEN'
"""


async def charge(database: Database, *restaurants: str) -> None:
    """A charge in PEN for each restaurant."""
    async with running_ledger(database) as ledger:
        await ledger.ingest(
            *(event_message(restaurant_id=restaurant_id) for restaurant_id in restaurants)
        )


async def new_run(runs: PostgresPayoutRuns) -> UUID:
    payout_run_id = uuid_utils.compat.uuid7()
    await runs.start(PayoutRunKey("PEN", date(2026, 1, 1), 0, "new"), payout_run_id)
    return payout_run_id


async def progress_of(runs: PostgresPayoutRuns, payout_run_id: UUID) -> tuple[int, int, int]:
    """The numbers of restaurants, of those considered, and of payouts."""
    run = await runs.get(payout_run_id)
    assert run is not None
    return run.restaurants_total, run.restaurants_considered, run.payouts_created


async def test_start_writes_the_run_and_no_items(database: Database) -> None:
    """All restaurants are shown as open, by page and by outcome.

    The first page gives them their items.
    """
    await charge(database, "res_1", "res_2", "res_3")
    async with runs_of(database) as runs:
        run = await new_run(runs)
        assert await query(database.migration_url, OF_RUN, run=run) == []
        assert await progress_of(runs, run) == (3, 0, 0)
        items = await runs.items(run, None, "", 10)
        assert [(item.restaurant_id, item.outcome) for item in items] == [
            (f"res_{number}", PayoutRunItemOutcome.OPEN) for number in (1, 2, 3)
        ]
        assert await runs.items(run, PayoutRunItemOutcome.OPEN, "res_1", 1) == items[1:2]
        assert await runs.items(run, PayoutRunItemOutcome.SKIPPED, "", 10) == []
        assert len(await runs.pay(run, 2)) == 2
        assert await progress_of(runs, run) == (3, 2, 2)
        assert [
            item.restaurant_id for item in await runs.items(run, PayoutRunItemOutcome.OPEN, "", 10)
        ] == ["res_3"]
        assert not await runs.finish(run)
        assert len(await runs.pay(run, 2)) == 1
        assert len(await runs.pay(run, 2)) == 0
        assert await runs.finish(run)
        assert await progress_of(runs, run) == (3, 3, 3)
    await assert_books_in_order(database)


async def test_restaurants_of_a_run_are_those_when_it_started(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account that is committed later does not belong to it, even with a lower id.

    Neither does an account that is opened later.
    """
    monkeypatch.setattr(payout_runs, "ITEMS_MAX", 1)
    await charge(database, "res_1")
    for name in ("res_late", "res_later"):
        await query(database.migration_url, NEW_RESTAURANT.format(name=name))
    async with runs_of(database) as runs:
        async with locked(database, NEW_ACCOUNT.format(name="res_late")) as opening:
            await charge(database, "res_2", "res_3")
            run = await new_run(runs)
            canceled = uuid_utils.compat.uuid7()
            await runs.start(PayoutRunKey("PEN", date(2026, 1, 1), 0, "canceled"), canceled)
            await runs.pay(canceled, 1)
            assert await progress_of(runs, run) == (3, 0, 0)
            await opening.commit()
        assert await progress_of(runs, run) == (3, 0, 0)
        await query(database.migration_url, NEW_ACCOUNT.format(name="res_later"))
        assert await progress_of(runs, run) == (3, 0, 0)
        assert await runs.cancel(canceled)
        while await runs.pay(run, 1):
            pass
        assert await runs.finish(run)
        assert (await progress_of(runs, run))[:2] == (3, 3)
        assert [item.restaurant_id for item in await runs.items(run, None, "", 10)] == [
            "res_1",
            "res_2",
            "res_3",
        ]
        # The canceled run considered one of the three, and gets no further items.
        assert len(await runs.pay(canceled, 1)) == 0
        assert await progress_of(runs, canceled) == (3, 1, 1)
        assert await query(database.migration_url, OF_RUN, run=canceled) == [
            ("PAYOUT_CREATED", None, 1)
        ]
        skipped = await runs.items(canceled, PayoutRunItemOutcome.SKIPPED, "", 10)
        assert [(item.restaurant_id, item.skip_reason) for item in skipped] == [
            ("res_2", SkipReason.CANCELED),
            ("res_3", SkipReason.CANCELED),
        ]
        assert await runs.items(canceled, PayoutRunItemOutcome.OPEN, "", 10) == []
    await assert_books_in_order(database)


async def test_accounts_are_of_no_run(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts in the currency of a run are not counted, listed, judged or paid, in a plan either.

    They are between its restaurants and after the last one.
    """
    monkeypatch.setattr(payout_runs, "ITEMS_MAX", 1)
    for number in (1, 2):
        await charge(database, f"res_{number}")
        async with engine_on(database.url) as engine:
            await open_accounts(engine, f"acc_{number}a", f"acc_{number}b")
    async with runs_of(database) as runs:
        key = PayoutRunKey("PEN", date(2026, 1, 1), 0, "new")
        planned = await runs.plan(key)
        assert (planned.restaurants_total, planned.payouts_created) == (2, 2)
        run = await new_run(runs)
        assert await progress_of(runs, run) == (2, 0, 0)
        items = await runs.items(run, None, "", 10)
        assert [item.restaurant_id for item in items] == ["res_1", "res_2"]
        while await runs.pay(run, 1):
            pass
        assert await runs.finish(run)
        assert await progress_of(runs, run) == (2, 2, 2)
        assert len(await runs.items(run, None, "", 10)) == 2
    await assert_books_in_order(database)


async def test_accounts_of_another_cluster_are_of_the_run(database: Database) -> None:
    """Books that were moved to a cluster whose numbers are lower.

    No restaurant is left out, in this run or a later one.
    """
    await charge(database, "res_1", "res_2")
    await query(database.migration_url, "UPDATE balance_accounts SET opened_txid = '1000000000000'")
    await charge(database, "res_3")
    async with runs_of(database) as runs:
        run = await new_run(runs)
        assert await progress_of(runs, run) == (3, 0, 0)
        assert len(await runs.items(run, None, "", 10)) == 3
        while await runs.pay(run, 500):
            pass
        assert await runs.finish(run)
        assert await progress_of(runs, run) == (3, 3, 3)
    await assert_books_in_order(database)


async def test_earlier_server_continues_a_run_to_its_end(database: Database) -> None:
    """It finds no open item and ends the run: instead the run gets its next items."""
    names = [f"res_{number:04d}" for number in range(5_600)]
    await query(
        database.migration_url,
        "WITH r AS (INSERT INTO restaurants (restaurant_id, name, metadata)"
        " SELECT name, '', '{}' FROM unnest(CAST(:names AS text[])) AS name"
        " RETURNING restaurant_id)"
        " INSERT INTO balance_accounts (restaurant_id, currency)"
        " SELECT restaurant_id, 'PEN' FROM r",
        names=names,
    )
    await charge(database, "res_0000", "res_5599")
    rounds: list[int] = []
    async with runs_of(database) as runs:
        run = await new_run(runs)
        engine = create_engine(database.url, pool_size=1)
        try:
            while (await progress_of(runs, run))[1] < len(names) or len(rounds) < 3:
                looked_at = 0
                while True:
                    async with earlier_page(database, run) as page:
                        claimed = await page.claim()
                        await page.pay()
                    looked_at += claimed
                    if not claimed:
                        break
                rounds.append(looked_at)
                async with autocommit(engine) as connection:
                    ended = await connection.fetchval(FINISH, run)
                if ended:
                    break
        finally:
            await engine.dispose()
        assert rounds == [0, 5_000, 600]
        assert await progress_of(runs, run) == (5_600, 5_600, 2)
    await assert_books_in_order(database)


async def test_run_that_an_earlier_server_started_is_ended(database: Database) -> None:
    """All its items are there from the start."""
    await charge(database, "res_1", "res_2")
    async with runs_of(database) as runs:
        run = uuid_utils.compat.uuid7()
        await query(database.migration_url, EARLIER_START, run=run)
        await query(database.migration_url, NEW_RESTAURANT.format(name="res_3"))
        await query(database.migration_url, NEW_ACCOUNT.format(name="res_3"))
        assert await progress_of(runs, run) == (2, 0, 0)
        assert not await runs.finish(run)
        assert len(await runs.pay(run, 500)) == 2
        assert len(await runs.pay(run, 500)) == 0
        assert await runs.finish(run)
        assert await progress_of(runs, run) == (2, 2, 2)
    await assert_books_in_order(database)


async def test_page_without_items_yet_does_not_fail(database: Database) -> None:
    """Another session is writing the items: the page is empty, and the run has not ended.

    A failure would make the worker's next pages smaller.
    """
    await charge(database, "res_1", "res_2")
    async with runs_of(database) as runs:
        run = await new_run(runs)
        async with locked(database, f"SELECT write_payout_run_items('{run}', 1)"):
            assert len(await runs.pay(run, 500)) == 0
            with pytest.raises(DatabaseContention):
                await runs.finish(run)
        assert len(await runs.pay(run, 500)) == 2
        assert await runs.finish(run)
    await assert_books_in_order(database)


async def test_run_does_not_end_while_its_items_are_written(database: Database) -> None:
    """The session that would end the run waits for the items, and then the run continues."""
    await charge(database, "res_1", "res_2")
    async with runs_of(database) as runs:
        run = await new_run(runs)
        async with locked(database, f"SELECT write_payout_run_items('{run}', 1000)") as writing:
            finishing = asyncio.create_task(runs.finish(run))
            await waiting_sessions(database, "payout_run_progress")
            await writing.commit()
            assert not await finishing
        assert len(await runs.pay(run, 500)) == 2
        assert await runs.finish(run)
    await assert_books_in_order(database)


@pytest.mark.parametrize("statistics", ["SELECT 1", "VACUUM (ANALYZE)"], ids=["none", "few"])
async def test_plan_of_a_page_reads_no_whole_table(database: Database, statistics: str) -> None:
    """A run plans its pages while its payouts are few, and keeps the plan while they become many.

    Whatever grows is looked up in an index for one account or one payout.
    """
    wanted = {
        "balance_accounts": "balance_account_id",
        "balance_snapshots": "balance_account_id",
        "ledger_entries": "balance_account_id",
        "payout_items": "payout_id",
        "payout_run_items": "payout_run_id",
        "payouts": "balance_account_id",
        "restaurants": "restaurant_id",
    }
    async with superuser(database) as connection:
        await connection.execute(statistics)
        await connection.execute(f"PREPARE planned AS {PAY}")
        nothing = ", ".join(["NULL"] * 7)
        rows = await connection.fetch(f"EXPLAIN EXECUTE planned ({nothing}, 200)")
    looked_up = set()
    for (line,), (condition,) in pairwise(rows):
        scan = re.search(r"(?<!Tid )Scan .*?\bon (\w+)", line)
        if scan is not None and scan[1] in wanted:
            column = re.match(r" *Index Cond: \(+(\w+) = ", condition)
            assert column is not None, f"{line}\n{condition}"
            assert column[1] == wanted[scan[1]], f"{line}\n{condition}"
            looked_up.add(scan[1])
    assert looked_up == wanted.keys()
