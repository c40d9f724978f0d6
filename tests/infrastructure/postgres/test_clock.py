"""The clock of the books: what was recorded is never overtaken by what is recorded later, whatever the database's clock does."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest
import uuid_utils.compat
from grpc import aio
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from support.audit import assert_books_in_order, audit_of
from support.books import balance_of, book, charge, engine_on
from support.events import event_message
from support.running import query, running_ledger
from support.snapshots import take_snapshots

from ledger.bootstrap import Database
from ledger.domain.fields import CLOCK_SKEW_MAX
from ledger.domain.payouts import PayoutRunKey
from ledger.infrastructure.postgres.clock import LedgerClock
from ledger.infrastructure.postgres.payout_runs import PostgresPayoutRuns
from ledger.infrastructure.prometheus import PrometheusLedgerMetrics
from ledger.metrics import Metrics
from ledger.v1 import ledger_pb2

RESTAURANT = "res_1"
# As if the database's clock had been set back by as much: the latest record lies ahead of it.
SET_BACK = "SELECT setval('ledger_clock', (extract(epoch FROM now() + interval '2 hours') * 1000000)::bigint)"
CLOCK_AND_LATEST = """
SELECT ledger_clock_at() = max(recorded_at) FROM ledger_entries
"""
RECORDED = "SELECT recorded_at FROM ledger_entries ORDER BY recorded_txid, position"


async def test_a_clock_set_back_changes_no_past_balance(database: Database) -> None:
    """Two hours back: what is booked then comes after what was booked before, a past balance stays, and payouts are made."""
    past = datetime.now(UTC) - timedelta(days=1)
    async with engine_on(database.url) as engine:
        await book(engine, charge(RESTAURANT, 100, past))
        await query(database.migration_url, SET_BACK)
        final = await balance_of(engine, RESTAURANT)
        assert final.as_of > datetime.now(UTC) + timedelta(hours=1)
        await book(engine, charge(RESTAURANT, 20, past), charge(RESTAURANT, 3, past))
        await book(engine, charge(RESTAURANT, 4, past))
        assert (await balance_of(engine, RESTAURANT)).available_minor == 127
        assert (await balance_of(engine, RESTAURANT, final.as_of)).available_minor == 100
        recorded = [row[0] for row in await query(database.migration_url, RECORDED)]
        assert recorded == sorted(recorded)
        assert recorded[1] == recorded[2] >= final.as_of
        assert recorded[3] > recorded[2]
        runs = PostgresPayoutRuns(engine, settlement_timezone="UTC")
        run_id = uuid_utils.compat.uuid7()
        run = await runs.start(PayoutRunKey("PEN", final.as_of.date(), 0, "run"), run_id)
        while await runs.pay(run_id, 500):
            pass
        assert await runs.finish(run_id)
        paid = await runs.get(run_id)
        assert paid is not None
        assert (paid.payouts_created, paid.total_amount_minor) == (1, 127)
        assert run.cutoff_at > recorded[3] - timedelta(days=1)
        await take_snapshots(engine)
        assert (await balance_of(engine, RESTAURANT, final.as_of)).available_minor == 100
    await assert_books_in_order(database)
    report = await audit_of(database)
    assert "clock_is_not_behind_the_books" in [finding.check for finding in report.findings]


async def test_a_clock_that_is_behind_is_logged_once_and_when_it_is_over(database: Database) -> None:
    """One line when the clock is found behind, one when it is past the latest record."""
    told: list[float] = []
    clock = LedgerClock(on_measured=lambda _skew_seconds, behind_seconds: told.append(behind_seconds))
    async with engine_on(database.url) as engine:
        with capture_logs() as logged:
            await clock.measure(engine)
            assert logged == []
            await query(database.migration_url, SET_BACK)
            await clock.measure(engine)
            await clock.measure(engine)
            assert clock.now() > datetime.now(UTC) + timedelta(hours=1)
            await query(database.migration_url, "SELECT setval('ledger_clock', 1)")
            await clock.measure(engine)
            assert clock.now() < datetime.now(UTC) + timedelta(hours=1)
        assert [line["log_level"] for line in logged] == ["warning", "info"]
        assert [behind_seconds > 3600 for behind_seconds in told] == [False, True, True, False]


async def test_every_record_moves_the_clock_on(database: Database) -> None:
    """In a session that never asked for the time of the books, and for payouts of a transaction that did."""
    past = datetime.now(UTC) - timedelta(days=1)
    async with engine_on(database.url) as engine:
        await book(engine, charge(RESTAURANT, 100, past))
        assert await query(database.migration_url, CLOCK_AND_LATEST) == [(True,)]
        await query(database.migration_url, SET_BACK)
        # Another session, as new as the first one was.
        async with engine_on(database.url) as another:
            await book(another, charge(RESTAURANT, 20, past))
        recorded = [row[0] for row in await query(database.migration_url, RECORDED)]
        assert recorded[1] > recorded[0] + timedelta(hours=1)
        runs = PostgresPayoutRuns(engine, settlement_timezone="UTC")
        run_id = uuid_utils.compat.uuid7()
        await runs.start(PayoutRunKey("PEN", recorded[1].date(), 0, "run"), run_id)
        while await runs.pay(run_id, 500):
            pass
        assert await query(database.migration_url, CLOCK_AND_LATEST) == [(True,)]
        final = await balance_of(engine, RESTAURANT)
        assert (await balance_of(engine, RESTAURANT, final.as_of)).reserved_minor == final.reserved_minor == 120
    await assert_books_in_order(database)


@pytest.mark.parametrize("host_ahead", [timedelta(minutes=-10), timedelta(minutes=10)], ids=str)
async def test_a_host_with_a_wrong_clock_judges_by_the_databases(database: Database, host_ahead: timedelta) -> None:
    """An event of now is booked, one that is ahead by the database's clock is refused; the skew is told."""
    registry = CollectorRegistry()
    metrics = Metrics(work=PrometheusLedgerMetrics(registry))
    minute = timedelta(minutes=1)
    async with running_ledger(database, metrics=metrics, host_clock=lambda: datetime.now(UTC) + host_ahead) as ledger:
        (booked,) = await ledger.ingest(event_message(occurred_at=datetime.now(UTC)))
        assert booked.status == ledger_pb2.INGEST_STATUS_CREATED
        ahead = event_message(occurred_at=datetime.now(UTC) + CLOCK_SKEW_MAX + minute)
        with pytest.raises(aio.AioRpcError) as refused:
            await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=ahead))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    skew_seconds = registry.get_sample_value("ledger_database_clock_skew_seconds")
    assert skew_seconds is not None
    assert abs(skew_seconds - host_ahead.total_seconds()) < minute.total_seconds()
    assert registry.get_sample_value("ledger_clock_behind_seconds") == 0
