"""Payout runs on PostgreSQL: what a page that fails leaves behind, and that a run that has ended pays nobody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import uuid_utils.compat
from support.audit import assert_books_in_order
from support.events import event_message
from support.running import query, running_ledger
from support.sessions import waiting_sessions

from ledger.application.ports import PageRejected
from ledger.bootstrap import Database
from ledger.domain.payouts import PayoutRunItemOutcome, PayoutRunKey, PayoutRunState, SkipReason
from ledger.infrastructure.postgres.engine import autocommit, create_engine
from ledger.infrastructure.postgres.payout_runs import CLAIM_ITEMS, LOCK_BALANCE_ACCOUNTS, PAY, PostgresPayoutRuns


async def test_schema_that_does_not_fit_skips_nobody(database: Database) -> None:
    """A column that this code does not know is no restaurant's fault: the page fails, and all its restaurants stay open."""
    async with running_ledger(database) as ledger:
        await ledger.ingest(event_message(restaurant_id="res_1"), event_message(restaurant_id="res_2"))
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


@asynccontextmanager
async def runs_of(database: Database) -> AsyncIterator[PostgresPayoutRuns]:
    """Runs that no worker goes on with."""
    engine = create_engine(database.url, pool_size=3)
    try:
        yield PostgresPayoutRuns(engine, settlement_timezone="UTC")
    finally:
        await engine.dispose()


class PageOfBefore:
    """A page as servers write it that do not know of canceled runs: it never asks whether its run is under way."""

    def __init__(self, connection: Any, payout_run_id: UUID) -> None:
        self._connection = connection
        self._payout_run_id = payout_run_id
        self._accounts: list[int] = []

    async def claim(self) -> None:
        """Claims the run's open items and locks their accounts."""
        rows = await self._connection.fetch(CLAIM_ITEMS, self._payout_run_id, 500, 0)
        self._accounts = [row["balance_account_id"] for row in rows]
        await self._connection.fetch(LOCK_BALANCE_ACCOUNTS, self._accounts)

    async def pay(self) -> int:
        """Writes the payouts; how many."""
        ids = [uuid_utils.compat.uuid7() for _ in self._accounts]
        entry = ("PAYOUT_RESERVE", "restaurant_payable", "payout_reserved")
        told = await self._connection.fetchrow(PAY, self._payout_run_id, self._accounts, ids, ids, *entry, 10_000)
        return int(told["payouts_count"])


@asynccontextmanager
async def page_of_before(database: Database, payout_run_id: UUID) -> AsyncIterator[PageOfBefore]:
    """Such a page, in a transaction that is committed when the block ends."""
    engine = create_engine(database.url, pool_size=1)
    try:
        async with autocommit(engine) as connection, connection.transaction():
            yield PageOfBefore(connection, payout_run_id)
    finally:
        await engine.dispose()


async def run_to_cancel(database: Database, min_amount_minor: int = 0) -> UUID:
    """A run of two restaurants that have something to be paid."""
    async with running_ledger(database) as ledger:
        await ledger.ingest(event_message(restaurant_id="res_1"), event_message(restaurant_id="res_2"))
    async with runs_of(database) as runs:
        payout_run_id = uuid_utils.compat.uuid7()
        await runs.start(PayoutRunKey("PEN", date(2026, 1, 1), min_amount_minor), payout_run_id)
    return payout_run_id


async def assert_nothing_was_looked_at(runs: PostgresPayoutRuns, payout_run_id: UUID) -> None:
    """The canceled run has no payouts, and tells both restaurants as skipped."""
    run = await runs.get(payout_run_id)
    assert run is not None
    assert (run.state, run.payouts_created, run.restaurants_considered) == (PayoutRunState.CANCELED, 0, 0)
    assert run.skipped == {SkipReason.CANCELED: 2}


@pytest.mark.parametrize("min_amount_minor", [0, 10**9], ids=["to be paid", "to be skipped"])
@pytest.mark.parametrize("step", ["before it claims", "before it writes", "before it commits"])
async def test_server_of_before_goes_on_with_no_canceled_run(database: Database, step: str, min_amount_minor: int) -> None:
    """Wherever its page is when the run is canceled: it is refused, or committed before the cancel is answered."""
    payout_run_id = await run_to_cancel(database, min_amount_minor)
    async with runs_of(database) as runs:
        if step == "before it commits":
            async with page_of_before(database, payout_run_id) as page:
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
                async with page_of_before(database, payout_run_id) as page:
                    if step == "before it claims":
                        assert await runs.cancel(payout_run_id)
                    await page.claim()
                    if step == "before it writes":
                        assert await runs.cancel(payout_run_id)
                    await page.pay()
            await assert_nothing_was_looked_at(runs, payout_run_id)
    await assert_books_in_order(database)
