"""Payout runs on PostgreSQL: what a page that fails leaves behind."""

from datetime import date

import asyncpg
import pytest
import uuid_utils.compat
from support.events import event_message
from support.running import query, running_ledger

from ledger.application.ports import PageRejected
from ledger.bootstrap import Database
from ledger.domain.payouts import PayoutRunItemOutcome, PayoutRunKey
from ledger.infrastructure.postgres.engine import create_engine
from ledger.infrastructure.postgres.payout_runs import PostgresPayoutRuns


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
