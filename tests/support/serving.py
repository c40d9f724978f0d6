"""A `ledger serve` as a separate process on a database of a test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ledger.bootstrap.database import Database
from ledger.cli.serve.ready_line import READY_PREFIX
from support.commands import PATIENT, RunningServer, start_process
from support.running import role_settings
from support.waiting import DEADLINE_SECONDS


@asynccontextmanager
async def serving_on(
    database: Database, *, payout_concurrency: int = 1
) -> AsyncIterator[RunningServer]:
    """A `ledger serve` on a free port and a database, as a separate process.

    Killed at the end if it still runs.

    It pays one page at a time, so it stands still when its page waits for a lock. It waits as long
    as a test holds the lock.
    """
    env = {
        "LEDGER_DATABASE_URL": database.url,
        # Without fsync, which only a power loss needs: tests kill processes.
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
