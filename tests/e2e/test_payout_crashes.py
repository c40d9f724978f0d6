"""Payout runs whose server is killed: the whole page is undone, and another server ends the run."""

import asyncio
import random
import signal
from contextlib import AsyncExitStack

import grpc
import pytest
import uuid_utils.compat
from grpc import aio
from support.audit import assert_books_in_order
from support.commands import RunningServer
from support.dates import date_message, today
from support.payout_runs import charge_all, end_of_run, start_run
from support.reconciliation import assert_reconciled
from support.running import RunningLedger, query, running_ledger
from support.serving import serving_on
from support.sessions import locked, sessions_gone, waiting_sessions
from support.waiting import DEADLINE_SECONDS, POLL_SECONDS

from ledger.bootstrap.database import Database
from ledger.domain.payouts import PayoutRunKey
from ledger.infrastructure.postgres.payout_runs import PostgresPayoutRuns
from ledger.infrastructure.postgres.sessions.engine import create_engine
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

# Two pages, the second of which is not full.
RESTAURANTS = 700


async def start_run_at(server: RunningServer) -> str:
    """Starts a run of today through a server in another process. Returns its id."""
    request = ledger_pb2.RunPayoutsRequest(currency="PEN", as_of=date_message(today()))
    async with aio.insecure_channel(server.address) as channel:
        return (
            await ledger_pb2_grpc.LedgerServiceStub(channel).RunPayouts(request)
        ).payout_run.payout_run_id


async def start_run_unserved(database: Database) -> str:
    """Starts a run of today without a server, and writes all its items. Returns its id."""
    engine = create_engine(database.url, pool_size=1)
    try:
        runs = PostgresPayoutRuns(engine, settlement_timezone="UTC")
        run = await runs.start(PayoutRunKey("PEN", today()), uuid_utils.compat.uuid7())
    finally:
        await engine.dispose()
    written = "SELECT write_payout_run_items(CAST(:run AS uuid), 1000000)"
    await query(database.migration_url, written, run=run.payout_run_id)
    return str(run.payout_run_id)


async def session_waits(database: Database, mode: str, table: str) -> None:
    """Waits until a session waits for a lock of the mode on the table."""
    waiting = """
    SELECT pid FROM pg_locks
    WHERE NOT granted AND mode = :mode AND locktype = 'relation'
      AND relation = CAST(:table AS regclass)
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            if await query(database.migration_url, waiting, mode=mode, table=table):
                return
            await asyncio.sleep(POLL_SECONDS)


async def assert_each_paid_once(
    ledger: RunningLedger, payout_run_id: str, restaurants: int = RESTAURANTS
) -> None:
    """Waits for the end of the run. Asserts that it paid each restaurant once."""
    run = await end_of_run(ledger, payout_run_id)
    assert (run.payouts_created, run.restaurants_considered, run.restaurants_total) == (
        restaurants,
    ) * 3
    paid = await ledger.query("SELECT count(*), count(DISTINCT balance_account_id) FROM payouts")
    assert paid == [(restaurants, restaurants)]
    await assert_reconciled(ledger.database.migration_url)
    await assert_books_in_order(ledger.database)


# The lock of another session that stops a worker at a step, the table of the lock, and the least
# number of payouts that are committed by then.
STEPS = {
    # Before it claims: it wants the rows of the run's items.
    "claiming": ("LOCK TABLE payout_run_items IN EXCLUSIVE MODE", "payout_run_items", 500),
    # Between claiming a page and locking its accounts. The lock is on the table, because the worker
    # skips locked accounts.
    "locking accounts": ("LOCK TABLE balance_accounts IN EXCLUSIVE MODE", "balance_accounts", 0),
    # Inside the paying statement, at its first and at its last insert.
    "inserting payouts": ("LOCK TABLE payouts IN SHARE ROW EXCLUSIVE MODE", "payouts", 0),
    "inserting items": ("LOCK TABLE payout_items IN SHARE ROW EXCLUSIVE MODE", "payout_items", 0),
    "inserting entries": (
        "LOCK TABLE ledger_entries IN SHARE ROW EXCLUSIVE MODE",
        "ledger_entries",
        0,
    ),
    # All are paid, and the server does not yet report the run as finished.
    "finishing": ("SELECT FROM payout_runs FOR NO KEY UPDATE", "payout_runs", RESTAURANTS),
}


@pytest.mark.parametrize("step", STEPS)
async def test_server_killed_at_a_step_leaves_no_partial_page(
    database: Database, step: str
) -> None:
    """SIGKILL at any step undoes the whole page, and another server pays each restaurant once."""
    statement, table, committed = STEPS[step]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving_on(database))
        async with running_ledger(database) as ledger:
            await charge_all(ledger, RESTAURANTS)
        async with AsyncExitStack() as locks:
            # The run must exist before its items or its row can be locked, and the worker must not
            # be faster.
            gate = await locks.enter_async_context(
                locked(database, "LOCK TABLE payouts IN SHARE ROW EXCLUSIVE MODE")
            )
            payout_run_id = await start_run_at(server)
            await waiting_sessions(database, "payouts")
            if step == "claiming":
                # It has claimed its first page, which ends. Then it waits for this lock
                # before the next page.
                holding = asyncio.create_task(
                    locks.enter_async_context(locked(database, statement))
                )
                await session_waits(database, "ExclusiveLock", "payout_run_items")
                await gate.rollback()
                await holding
            elif step != "inserting payouts":
                await locks.enter_async_context(locked(database, statement))
                await gate.rollback()
            pids = await waiting_sessions(database, table)
            server.process.kill()
            await server.process.wait()
            before = await query(database.migration_url, "SELECT count(*) FROM payouts")
            assert before[0][0] >= committed
            assert before[0][0] % 500 in (0, RESTAURANTS % 500), (
                "a page is paid whole or not at all"
            )
        await sessions_gone(database, pids)
        assert await query(database.migration_url, "SELECT count(*) FROM payouts") == before
        async with running_ledger(database) as ledger:
            await assert_each_paid_once(ledger, payout_run_id)


async def test_server_killed_while_it_writes_items_leaves_none(database: Database) -> None:
    """Another server writes all items, and pays each restaurant once."""
    async with running_ledger(database) as ledger:
        await charge_all(ledger, RESTAURANTS)
    async with (
        serving_on(database) as server,
        locked(database, "LOCK TABLE payout_run_items IN SHARE ROW EXCLUSIVE MODE"),
    ):
        payout_run_id = await start_run_at(server)
        pids = await waiting_sessions(database, "payout_run_items")
        server.process.kill()
        await server.process.wait()
        # Otherwise the waiting session would write the items before it notices that its client is
        # gone.
        await query(
            database.migration_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY (:pids)",
            pids=pids,
        )
        await sessions_gone(database, pids)
    assert await query(
        database.migration_url, "SELECT reached_balance_account_id FROM payout_run_progress"
    ) == [(0,)]
    assert await query(database.migration_url, "SELECT count(*) FROM payout_run_items") == [(0,)]
    async with running_ledger(database) as ledger:
        await assert_each_paid_once(ledger, payout_run_id)


# The rows that a worker claims, and the lock by which it does so.
ITEMS, LOCK = "SELECT FROM payout_run_items", "FOR NO KEY UPDATE"


async def test_server_killed_at_random_instants_pays_whole_pages(
    database: Database, seed: int
) -> None:
    """The server is killed at any instant, commits included, and started again in each round."""
    chance = random.Random(seed)
    async with running_ledger(database) as ledger:
        ids = await charge_all(ledger, 2_000)
    payout_run_id = await start_run_unserved(database)
    progress = []
    for number in range(3):
        async with AsyncExitStack() as locks:
            # No server claims locked items: a page is left over after the first round, however late
            # the kill comes.
            if number == 0:
                await locks.enter_async_context(
                    locked(database, f"{ITEMS} ORDER BY balance_account_id DESC LIMIT 500 {LOCK}")
                )
            # Nor does the run begin before the server is ready.
            gate = await locks.enter_async_context(locked(database, f"{ITEMS} {LOCK} SKIP LOCKED"))
            server = await locks.enter_async_context(serving_on(database, payout_concurrency=2))
            await gate.rollback()
            # Each call names the same run, which continues.
            assert await start_run_at(server) == payout_run_id
            try:
                await asyncio.wait_for(server.process.wait(), chance.uniform(0.0, 0.12))
            except TimeoutError:
                server.process.kill()
                await server.process.wait()
        progress += [
            count
            for (count,) in await query(database.migration_url, "SELECT count(*) FROM payouts")
        ]
        assert progress == sorted(progress)
        assert progress[-1] % 500 == 0, "a page is paid whole or not at all"
    assert progress[0] < len(ids), "no round was killed before the run's end"
    async with running_ledger(database) as ledger:
        await assert_each_paid_once(ledger, payout_run_id, len(ids))


async def test_worker_continues_after_its_session_was_ended(database: Database) -> None:
    """Its session is terminated several times, and each restaurant is paid once."""
    # One page at a time: another one would time out on the lock, and be made smaller each time.
    async with running_ledger(database, payout_concurrency=1) as ledger:
        await charge_all(ledger, 1_200)
        async with AsyncExitStack() as gates:
            gate = None
            for table in ("payouts", "ledger_entries", "payout_items"):
                async with locked(database, f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"):
                    if gate is not None:
                        await gate.rollback()
                    # The same run every time: each call notifies the worker of it again.
                    run = await start_run(ledger)
                    pids = await waiting_sessions(database, table)
                    await query(
                        database.migration_url,
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE pid = ANY (:pids)",
                        pids=pids,
                    )
                    await sessions_gone(database, pids)
                    # It comes back with a new session.
                    assert not set(await waiting_sessions(database, table)) & set(pids)
                    # The page under way is paid. The others stay open until the next table is
                    # locked.
                    gate = await gates.enter_async_context(
                        locked(database, f"{ITEMS} {LOCK} SKIP LOCKED")
                    )
        run = await start_run(ledger)
        await assert_each_paid_once(ledger, run.payout_run_id, 1_200)


async def test_stopped_server_ends_its_page_and_begins_no_other(database: Database) -> None:
    """The server exits with status 0 after SIGTERM, and the next server ends the run."""
    async with running_ledger(database) as ledger:
        await charge_all(ledger, RESTAURANTS)
    async with serving_on(database) as server:
        async with locked(database, "LOCK TABLE ledger_entries IN SHARE ROW EXCLUSIVE MODE"):
            payout_run_id = await start_run_at(server)
            await waiting_sessions(database, "ledger_entries")
            server.process.send_signal(signal.SIGTERM)
            # It refuses new calls before it waits for the page.
            async with (
                asyncio.timeout(DEADLINE_SECONDS),
                aio.insecure_channel(server.address) as channel,
            ):
                state = channel.get_state(try_to_connect=True)
                while state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        assert await asyncio.wait_for(server.process.wait(), DEADLINE_SECONDS) == 0
        assert server.process.stderr is not None
        assert b"Traceback" not in await server.process.stderr.read()
    ((payouts,),) = await query(database.migration_url, "SELECT count(*) FROM payouts")
    assert payouts == 500, "the page under way was paid, and no other was begun"
    async with running_ledger(database) as ledger:
        await assert_each_paid_once(ledger, payout_run_id)


async def test_surviving_server_pays_the_page_of_a_killed_one(database: Database) -> None:
    """Two servers share a run, and one freezes in the middle of its page and is killed."""
    async with running_ledger(database) as ledger:
        await charge_all(ledger, RESTAURANTS)
    async with serving_on(database) as server, AsyncExitStack() as stack:
        async with locked(database, "LOCK TABLE payout_items IN SHARE ROW EXCLUSIVE MODE"):
            payout_run_id = await start_run_at(server)
            pids = await waiting_sessions(database, "payout_items")
            # Its page is not committed, so it keeps its locks.
            server.process.send_signal(signal.SIGSTOP)
        # It pays the pages that the first server has not claimed, and cannot end the run.
        survivor = await stack.enter_async_context(running_ledger(database))
        run = await start_run(survivor)
        assert run.payout_run_id == payout_run_id
        async with asyncio.timeout(DEADLINE_SECONDS):
            while run.restaurants_considered < RESTAURANTS - 500:
                request = ledger_pb2.GetPayoutRunRequest(payout_run_id=payout_run_id)
                run = (await survivor.stub.GetPayoutRun(request)).payout_run
                await asyncio.sleep(POLL_SECONDS)
        assert run.state == ledger_pb2.PAYOUT_RUN_STATE_RUNNING
        server.process.kill()
        await server.process.wait()
        await sessions_gone(database, pids)
        await assert_each_paid_once(survivor, payout_run_id)
