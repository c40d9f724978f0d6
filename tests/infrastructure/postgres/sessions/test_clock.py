"""The clock of the books: a later record never gets an earlier time, whatever the clock does."""

import time
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

from ledger.bootstrap.database import Database
from ledger.domain.fields import CLOCK_SKEW_MAX
from ledger.domain.payouts import PayoutRunKey
from ledger.infrastructure.postgres.payout_runs import PostgresPayoutRuns
from ledger.infrastructure.postgres.sessions.clock import LedgerClock
from ledger.infrastructure.postgres.verification.audit import audit
from ledger.infrastructure.postgres.verification.start_checks import DoubtfulDatabase, check_clocks
from ledger.infrastructure.prometheus import PrometheusLedgerMetrics
from ledger.metrics import Metrics
from ledger.v1 import ledger_pb2

RESTAURANT = "res_1"
# As if the database's clock had been set back two hours: the latest record is in the future.
SET_BACK = """
SELECT setval('ledger_clock', (extract(epoch FROM now() + interval '2 hours') * 1000000)::bigint)
"""
CLOCK_AND_LATEST = """
SELECT ledger_clock_at() = max(recorded_at) FROM ledger_entries
"""
RECORDED = "SELECT recorded_at FROM ledger_entries ORDER BY recorded_txid, position"


async def test_a_clock_set_back_changes_no_past_balance(database: Database) -> None:
    """After two hours back a new event comes after the older ones, and payouts are made.

    A balance as of a past instant stays the same.
    """
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


async def test_a_clock_that_is_behind_is_logged_once_and_when_it_is_over(
    database: Database,
) -> None:
    """One line when the clock is found behind, one when it has passed the latest record."""
    reported: list[float] = []
    clock = LedgerClock(
        on_measured=lambda _skew_seconds, behind_seconds: reported.append(behind_seconds)
    )
    async with engine_on(database.url) as engine:
        with capture_logs() as logged:
            await clock.measure(engine)
            assert logged == []
            await query(database.migration_url, SET_BACK)
            await clock.measure(engine)
            await clock.measure(engine)
            assert clock.latest() > datetime.now(UTC) + timedelta(hours=1)
            await query(database.migration_url, "SELECT setval('ledger_clock', 1)")
            await clock.measure(engine)
            assert clock.latest() < datetime.now(UTC) + timedelta(hours=1)
        assert [line["log_level"] for line in logged] == ["warning", "info"]
        assert [behind_seconds > 3600 for behind_seconds in reported] == [False, True, True, False]


async def test_every_record_moves_the_clock_on(database: Database) -> None:
    """In sessions that never read the books' time, and for payouts of a transaction that did."""
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
        assert (
            (await balance_of(engine, RESTAURANT, final.as_of)).reserved_minor
            == final.reserved_minor
            == 120
        )
    await assert_books_in_order(database)


# A right clock, two that are behind, and two that are ahead of the true time.
TRUE = timedelta(0)
BACK, AHEAD = timedelta(hours=-2), timedelta(hours=2)
MINUTE = timedelta(minutes=1)
FROZEN = """
SELECT setval('ledger_clock', (extract(epoch FROM CAST(:true_at AS timestamptz)) * 1000000)::bigint)
"""


@pytest.mark.parametrize(
    ("host", "database_clock", "ahead"),
    [
        pytest.param(BACK, TRUE, TRUE, id="host slow"),
        pytest.param(AHEAD, TRUE, AHEAD, id="host fast"),
        pytest.param(TRUE, BACK, TRUE, id="database slow"),
        pytest.param(TRUE, AHEAD, AHEAD, id="database fast"),
    ],
)
async def test_event_of_now_is_booked_whichever_clock_is_wrong(
    database: Database, host: timedelta, database_clock: timedelta, ahead: timedelta
) -> None:
    """An event ahead of both clocks is refused, and the skew is reported."""
    registry = CollectorRegistry()
    metrics = Metrics(work=PrometheusLedgerMetrics(registry))
    # A test cannot set the database's clock, so it shifts the true time instead.
    true_at = datetime.now(UTC) - database_clock
    # A record from before the clock went wrong.
    await query(database.migration_url, FROZEN, true_at=true_at)

    def host_clock() -> datetime:
        return datetime.now(UTC) - database_clock + host

    async with running_ledger(database, metrics=metrics, host_clock=host_clock) as ledger:
        (booked,) = await ledger.ingest(
            event_message(occurred_at=datetime.now(UTC) - database_clock + MINUTE)
        )
        assert booked.status == ledger_pb2.INGEST_STATUS_CREATED
        too_late = datetime.now(UTC) - database_clock + ahead + CLOCK_SKEW_MAX + MINUTE
        with pytest.raises(aio.AioRpcError) as refused:
            await ledger.stub.IngestEvent(
                ledger_pb2.IngestEventRequest(event=event_message(occurred_at=too_late))
            )
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    skew_seconds = registry.get_sample_value("ledger_database_clock_skew_seconds")
    assert skew_seconds is not None
    assert abs(skew_seconds - (host - database_clock).total_seconds()) < MINUTE.total_seconds()


async def test_events_of_now_are_booked_long_after_the_clock_was_set_back(
    database: Database,
) -> None:
    """The time of the books stands still while the database's clock is behind; true time passes."""
    host_ahead = timedelta(days=3)
    async with running_ledger(
        database, host_clock=lambda: datetime.now(UTC) + host_ahead
    ) as ledger:
        (booked,) = await ledger.ingest(event_message(occurred_at=datetime.now(UTC) + host_ahead))
        assert booked.status == ledger_pb2.INGEST_STATUS_CREATED
    await assert_books_in_order(database)


class SteadyClock:
    """A monotonic clock that a test can set back; the database's clock runs by itself."""

    def __init__(self) -> None:
        self.set_back_seconds = 0.0

    def __call__(self) -> float:
        return time.monotonic() - self.set_back_seconds


@pytest.mark.parametrize(("seconds", "words"), [(7200.0, "jumped ahead"), (-3.0, "jumped back")])
async def test_a_jump_of_the_databases_clock_is_an_alarm(
    database: Database, seconds: float, words: str
) -> None:
    """One error line and one count for a jump.

    Nothing while the clock runs, or when it jumps to the host's time.
    """
    steady, host_ahead = SteadyClock(), timedelta(0)
    jumps: list[float] = []
    clock = LedgerClock(
        host_clock=lambda: datetime.now(UTC) + host_ahead, steady_clock=steady, on_jump=jumps.append
    )
    async with engine_on(database.url) as engine:
        with capture_logs() as logged:
            await clock.measure(engine)
            await clock.measure(engine)
            assert logged == []
            steady.set_back_seconds, host_ahead = seconds, timedelta(seconds=-seconds)
            await clock.measure(engine)
            await clock.measure(engine)
        assert [line["log_level"] for line in logged] == ["error", "warning"]
        assert words in logged[0]["event"]
        assert abs(logged[0]["seconds"] - seconds) < 1
        with capture_logs() as logged:
            steady.set_back_seconds, host_ahead = 0.0, timedelta(0)
            await clock.measure(engine)
        assert [line["log_level"] for line in logged] == ["info", "info"]
        assert len(jumps) == 1


@pytest.mark.parametrize(
    ("host_ahead", "detail"),
    [(timedelta(0), ""), (AHEAD, "behind this host's"), (BACK, "ahead of this host's")],
    ids=str,
)
async def test_doctor_and_audit_compare_the_clocks(
    database: Database, host_ahead: timedelta, detail: str
) -> None:
    """A wrong clock is reported before anything is recorded by it, and never refuses a start."""

    def host_clock() -> datetime:
        return datetime.now(UTC) + host_ahead

    async with engine_on(database.url) as engine:
        if not detail:
            await check_clocks(engine, host_clock=host_clock)
        else:
            with pytest.raises(DoubtfulDatabase, match=detail):
                await check_clocks(engine, host_clock=host_clock)
    async with engine_on(database.migration_url) as engine:
        report = await audit(engine, host_clock=host_clock)
    found = [finding.check for finding in report.findings]
    assert ("clock_agrees_with_the_host" in found) == bool(detail)
    await query(database.migration_url, SET_BACK)
    async with engine_on(database.url) as engine:
        with pytest.raises(DoubtfulDatabase, match=detail or "behind the latest record"):
            await check_clocks(engine, host_clock=host_clock)
