"""Migrations and new versions of the server while events come in."""

import asyncio
import os
import signal
import subprocess
import sys

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from support.running import execute_alone

from faults.catalogue import fault
from faults.load import load_on
from faults.stage import Stage

# What a migration of a later version may do to a table that is written to, each in a transaction of its own.
_CHANGES = (
    "ALTER TABLE restaurants ADD COLUMN later text",
    "ALTER TABLE processor_events ADD COLUMN later text",
    "ALTER TABLE ledger_entries ADD COLUMN later text",
    "ALTER TABLE ledger_entries ADD CONSTRAINT later_check CHECK (amount_minor > 0) NOT VALID",
    "ALTER TABLE ledger_entries VALIDATE CONSTRAINT later_check",
    "ALTER TABLE ledger_entries DROP CONSTRAINT later_check",
)
_BACK = tuple(f"ALTER TABLE {table} DROP COLUMN later" for table in ("restaurants", "processor_events", "ledger_entries"))
_INDEX = ("CREATE INDEX CONCURRENTLY later_idx ON processor_events (occurred_at)", "DROP INDEX CONCURRENTLY later_idx")


@fault("F39", "a migration and a rolling restart under load")
async def rolling_upgrade(stage: Stage) -> None:
    """`ledger migrate` again, changes of tables with a lock timeout, an index, then each of two servers anew: one repeat does."""
    servers = await stage.servers(2)
    url = stage.database.migration_url
    async with load_on(stage.load(*servers)) as load:
        await load.acknowledged(200)
        await _migrate(stage)
        tries = 0
        for statement in (*_CHANGES, *_BACK):
            await load.acknowledged(50)
            tries += await _change(stage, statement)
        for statement in _INDEX:
            await execute_alone(url, statement)
        for server in servers:
            # Until the callers have come back to the one before: after a failure a channel leaves a server alone for a moment.
            await load.acknowledged(1000)
            server.signal(signal.SIGTERM)
            assert await asyncio.wait_for(server.process.wait(), 20) == 0
            await server.start()
        await load.acknowledged(100)
    assert load.attempts_max <= 2, f"{load.attempts_max} attempts were needed"
    codes = stage.journal.codes
    stage.note(
        f"{len(_CHANGES) + len(_BACK)} changes in {tries} tries; UNAVAILABLE {codes['UNAVAILABLE']}, one repeat was enough"
    )
    stage.gap_within(1)


async def _change(stage: Stage, statement: str) -> int:
    """Makes one change, giving way to the load when its lock cannot be had at once. Returns how many tries it took."""
    engine = create_async_engine(stage.database.migration_url, poolclass=NullPool)
    try:
        for attempt in range(1, 51):
            try:
                async with engine.begin() as connection:
                    await connection.execute(text("SET LOCAL lock_timeout = '100ms'"))
                    await connection.execute(text(statement))
                return attempt
            except DBAPIError:
                await asyncio.sleep(stage.chance.uniform(0.05, 0.2))
    finally:
        await engine.dispose()
    raise RuntimeError(f"no lock for: {statement}")


async def _migrate(stage: Stage) -> None:
    """The command, as an administrator runs it."""
    env = {**os.environ, "LEDGER_DATABASE_URL": stage.database.migration_url}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ledger", "migrate"),
        cwd=stage.folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
