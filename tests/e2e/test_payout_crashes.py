"""Payout runs whose server dies: killed at any step, its work is undone whole, and another server
finishes the run once.
"""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
import uuid_utils.compat
from grpc import aio
from support.audit import assert_books_in_order
from support.commands import PATIENT, RunningServer, start_process
from support.dates import date_message, today
from support.payout_runs import charge_all, end_of_run, start_run
from support.reconciliation import assert_reconciled
from support.running import RunningLedger, query, role_settings, running_ledger
from support.sessions import locked, sessions_gone, waiting_sessions
from support.waiting import DEADLINE_SECONDS, POLL_SECONDS

from ledger.bootstrap.database import Database
from ledger.cli.serve.command import READY_PREFIX
from ledger.domain.payouts import PayoutRunKey
from ledger.infrastructure.postgres.payout_runs import PostgresPayoutRuns
from ledger.infrastructure.postgres.sessions.engine import create_engine
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

RESTAURANTS = 1_200


@asynccontextmanager
async def serving_on(
    database: Database, *, payout_concurrency: int = 1
) -> AsyncIterator[RunningServer]:
    """A `ledger serve` on a free port and a database, as a separate process.

    Killed at the end if it still runs.

    It pays a page at a time, so that it stands still as a whole when its page does. What waits for
    a lock goes on waiting.
    """
    env = {
        "LEDGER_DATABASE_URL": database.url,
        # The server of these tests forgets on power loss; killing processes is another matter.
        "LEDGER_REQUIRE_DURABLE_DATABASE": "false",
        **role_settings(database),
        "LEDGER_GRPC_ADDRESS": "127.0.0.1:0",
        "LEDGER_LOG_LEVEL": "error",
        "LEDGER_SHUTDOWN_GRACE_SECONDS": "5",
        "LEDGER_PAYOUT_CONCURRENCY": str(payout_concurrency),
    }
    process = await start_process("serve", env=env, program=PATIENT)
    try:
        assert process.stdout is not None
        first_line = await asyncio.wait_for(process.stdout.readline(), DEADLINE_SECONDS)
        yield RunningServer(process, first_line.decode().strip().removeprefix(READY_PREFIX))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def start_run_at(server: RunningServer) -> str:
    """Starts a run of today through a server that is another process; its id."""
    request = ledger_pb2.RunPayoutsRequest(currency="PEN", as_of=date_message(today()))
    async with aio.insecure_channel(server.address) as channel:
        return (
            await ledger_pb2_grpc.LedgerServiceStub(channel).RunPayouts(request)
        ).payout_run.payout_run_id


async def start_run_unserved(database: Database) -> str:
    """Has a run of today that no server has begun with, its items all written; its id."""
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
    """Waits for the end of the run: every restaurant has one payout of it, and the books add up."""
    run = await end_of_run(ledger, payout_run_id)
    assert (run.payouts_created, run.restaurants_considered, run.restaurants_total) == (
        restaurants,
    ) * 3
    paid = await ledger.query("SELECT count(*), count(DISTINCT balance_account_id) FROM payouts")
    assert paid == [(restaurants, restaurants)]
    await assert_reconciled(ledger.database.migration_url)
    await assert_books_in_order(ledger.database)


# What another session holds, so that a worker stops at a step, of which table, and how many payouts
# have been committed by then at least.
STEPS = {
    # Before it claims: it wants the rows of the run's items.
    "claiming": ("LOCK TABLE payout_run_items IN EXCLUSIVE MODE", "payout_run_items", 500),
    # Between claiming a page and having its accounts. Of an account that is locked the worker does
    # not wait.
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
async def test_killed_at_a_step(database: Database, step: str) -> None:
    """SIGKILL while the worker is at the step: its page is undone whole, and another server
    finishes the run exactly once.
    """
    statement, table, committed = STEPS[step]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving_on(database))
        async with running_ledger(database) as ledger:
            await charge_all(ledger, RESTAURANTS)
        async with AsyncExitStack() as locks:
            # The run must be there before its items or its row can be locked, and the worker must
            # not be faster.
            gate = await locks.enter_async_context(
                locked(database, "LOCK TABLE payouts IN SHARE ROW EXCLUSIVE MODE")
            )
            payout_run_id = await start_run_at(server)
            await waiting_sessions(database, "payouts")
            if step == "claiming":
                # It has claimed its first page: that one ends, and it stops before the next, for
                # which it comes second.
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


async def test_killed_while_it_writes_items(database: Database) -> None:
    """The run has no items then, and the server reports all of it as open.

    Another server writes them, and pays each once.
    """
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
        # Left alone, a session that waits for a lock would write the items before it sees that its
        # client is gone.
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


# What a worker claims, and the lock that it claims with.
ITEMS, LOCK = "SELECT FROM payout_run_items", "FOR NO KEY UPDATE"


async def test_killed_at_random_instants(database: Database, seed: int) -> None:
    """Round after round the server is killed at any instant of the run, commits included, and
    started anew.
    """
    chance = random.Random(seed)
    async with running_ledger(database) as ledger:
        ids = await charge_all(ledger, 4_000)
    payout_run_id = await start_run_unserved(database)
    progress = []
    for number in range(4):
        async with AsyncExitStack() as locks:
            # No server claims items that another session has locked: a page of the first round's
            # run is left, however late the kill comes.
            if number == 0:
                await locks.enter_async_context(
                    locked(database, f"{ITEMS} ORDER BY balance_account_id DESC LIMIT 500 {LOCK}")
                )
            # Nor does the run begin before the server is ready.
            gate = await locks.enter_async_context(locked(database, f"{ITEMS} {LOCK} SKIP LOCKED"))
            server = await locks.enter_async_context(serving_on(database, payout_concurrency=2))
            await gate.rollback()
            # The run is the same one every time: what is asked for again goes on.
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


async def test_session_ended_by_the_administrator(database: Database) -> None:
    """The worker's session is terminated, over and over: the same server goes on by itself, each
    restaurant is paid once.
    """
    # A page at a time: another one would wait for the lock until it times out, and be made smaller
    # each time.
    async with running_ledger(database, payout_concurrency=1) as ledger:
        await charge_all(ledger, RESTAURANTS)
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
                    # It comes again.
                    assert not set(await waiting_sessions(database, table)) & set(pids)
                    # The page under way will be paid; the others stay until the next table is
                    # locked.
                    gate = await gates.enter_async_context(
                        locked(database, f"{ITEMS} {LOCK} SKIP LOCKED")
                    )
        run = await start_run(ledger)
        await assert_each_paid_once(ledger, run.payout_run_id)


async def test_stopped_while_it_pays(database: Database) -> None:
    """SIGTERM during a run: the page under way ends, the server exits in order, and the next one
    finishes the run.
    """
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


async def test_two_servers_of_which_one_is_killed(database: Database) -> None:
    """Two servers share a run, one stops in the middle of its page and is killed: the other pays
    what is left, that page too.
    """
    async with running_ledger(database) as ledger:
        await charge_all(ledger, RESTAURANTS)
    async with serving_on(database) as server, AsyncExitStack() as stack:
        async with locked(database, "LOCK TABLE payout_items IN SHARE ROW EXCLUSIVE MODE"):
            payout_run_id = await start_run_at(server)
            pids = await waiting_sessions(database, "payout_items")
            # Its page is written in a moment, and is not committed: it holds what it has locked.
            server.process.send_signal(signal.SIGSTOP)
        # It takes the pages that the first server has not, and cannot finish the run.
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
