"""The clock of the books: what was recorded is never overtaken by what is recorded later, whatever the database's clock does."""

from datetime import UTC, datetime, timedelta

import uuid_utils.compat
from structlog.testing import capture_logs
from support.audit import assert_books_in_order, audit_of
from support.books import balance_of, book, charge, engine_on
from support.running import query
from support.snapshots import take_snapshots

from ledger.bootstrap import Database
from ledger.domain.payouts import PayoutRunKey
from ledger.infrastructure.postgres.clock import LedgerClock
from ledger.infrastructure.postgres.payout_runs import PostgresPayoutRuns

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
    clock = LedgerClock()
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
