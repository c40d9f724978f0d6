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
from faults.load import Mix, load_on
from faults.of_recoveries import own_cluster
from faults.stage import Stage
from ledger.infrastructure.postgres.schema.migrations import head_revision

EARLY_REVISION = "0007"

# What a later migration may do to a table under load, each step in a separate transaction.
_CHANGES = (
    "ALTER TABLE restaurants ADD COLUMN later text",
    "ALTER TABLE processor_events ADD COLUMN later text",
    "ALTER TABLE ledger_entries ADD COLUMN later text",
    "ALTER TABLE ledger_entries ADD CONSTRAINT later_check CHECK (amount_minor > 0) NOT VALID",
    "ALTER TABLE ledger_entries VALIDATE CONSTRAINT later_check",
    "ALTER TABLE ledger_entries DROP CONSTRAINT later_check",
)
_BACK = tuple(
    f"ALTER TABLE {table} DROP COLUMN later"
    for table in ("restaurants", "processor_events", "ledger_entries")
)
_INDEX = (
    "CREATE INDEX CONCURRENTLY later_idx ON processor_events (occurred_at)",
    "DROP INDEX CONCURRENTLY later_idx",
)


@fault("F39", "a migration and a rolling restart under load")
async def rolling_upgrade(stage: Stage) -> None:
    """Migrations, table changes, an index, then restarts of two servers: one repeat is enough."""
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
            # Until callers are back at the earlier server: channels avoid a failed one at first.
            await load.acknowledged(1000)
            server.signal(signal.SIGTERM)
            assert await asyncio.wait_for(server.process.wait(), 20) == 0
            await server.start()
        await load.acknowledged(100)
    assert load.attempts_max <= 2, f"{load.attempts_max} attempts were needed"
    codes = stage.journal.codes
    stage.note(
        f"{len(_CHANGES) + len(_BACK)} changes in {tries} tries;"
        f" UNAVAILABLE {codes['UNAVAILABLE']}, one repeat was enough"
    )
    stage.gap_within(1)


@fault("F70", "`ledger migrate` killed anywhere")
async def killed_migration(stage: Stage) -> None:
    """Killed again and again on books of an early revision, it continues each time.

    The schema at the end is the one that an undisturbed migration makes.
    """
    await own_cluster(stage)
    server = await stage.server()
    # Books with payments do not go back to a schema without them.
    async with load_on(stage.load(server, mix=Mix(payers=0))) as load:
        await load.acknowledged(stage.size(2_000, 200))
    await server.kill()
    made_at_once = _schema(stage)
    await _migrate(stage, "--revision", EARLY_REVISION)
    kills, revisions = 0, [EARLY_REVISION]
    newest = head_revision()
    while revisions[-1] != newest:
        process = await _migration(stage)
        before = revisions[-1]
        while process.returncode is None and await _revision(stage) == before:  # noqa: ASYNC110
            await asyncio.sleep(0)
        # Then at any instant within the steps that follow.
        await asyncio.sleep(stage.chance.uniform(0, 0.02))
        if process.returncode is None:
            process.kill()
            kills += 1
        output, _ = await process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), output.decode()
        revisions.append(await _revision(stage))
    await _migrate(stage)
    assert _schema(stage) == made_at_once
    await server.start()
    async with load_on(stage.load(server)) as load:
        await load.acknowledged(stage.size(1_000, 100))
    assert kills
    stage.note(f"{kills} kills, left at {', '.join(sorted(set(revisions[1:])))}")


async def _revision(stage: Stage) -> str:
    ((revision,),) = await stage.query("SELECT version_num FROM alembic_version")
    return str(revision)


def _schema(stage: Stage) -> list[str]:
    """The lines of pg_dump about the schema, without the random key of each dump."""
    host = f"--host={stage.cluster.socket.parent}"
    name = stage.database.url.partition("?")[0].rpartition("/")[2]
    dump = stage.cluster.run(
        "pg_dump", "--schema-only", host, "--port=5432", "--username=postgres", name
    )
    return [
        line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))
    ]


async def _change(stage: Stage, statement: str) -> int:
    """Makes one change; gives way to the load while it cannot get its lock. Returns the tries."""
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


async def _migrate(stage: Stage, *arguments: str) -> None:
    """Runs `ledger migrate` to its end."""
    process = await _migration(stage, *arguments)
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def _migration(stage: Stage, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ledger", "migrate", *arguments),
        cwd=stage.folder,
        env={**os.environ, "LEDGER_DATABASE_URL": stage.database.migration_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
