"""PgBouncer in front of the database: refused if it swaps sessions, harmless if it keeps them."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.commands import Outcome, run_process
from support.events import event_message, unique
from support.pgbouncer import pgbouncer
from support.processes import SERVICE, server_process
from support.running import query
from support.sessions import settings_of
from support.waiting import DEADLINE_SECONDS, until

from ledger.bootstrap.database import Database
from ledger.cli.failures import ExitStatus
from ledger.infrastructure.postgres.sessions.engine import SESSION_SETTINGS
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

NOT_KEPT = "a connection pooler before the database does not keep sessions"
# Settings that bound a session, or that its transactions depend on.
SETTINGS = (
    *SESSION_SETTINGS,
    "role",
    "lock_timeout",
    "search_path",
    "synchronous_commit",
    "transaction_timeout",
)
BACKENDS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def command(database: Database, *arguments: str) -> Outcome:
    """Runs a command on a database."""
    env = {
        "LEDGER_DATABASE_URL": database.url,
        "LEDGER_GRPC_ADDRESS": "127.0.0.1:0",
        "LEDGER_REQUIRE_DURABLE_DATABASE": "false",
    }
    return await run_process(*arguments, env=env)


async def test_pooler_that_swaps_sessions_is_refused(database: Database) -> None:
    """No server starts, and the line names the setting. The doctor refuses it too.

    Both run at once, so that each meets the prepared statements of the other.
    """
    async with pgbouncer(database, "transaction") as pooler:
        served, examined = await asyncio.gather(
            command(pooler.database, "serve"), command(pooler.database, "doctor")
        )
    assert (served.status, served.stdout) == (ExitStatus.REFUSED, ""), served.stderr
    assert served.stderr.startswith(f"error: {NOT_KEPT}: let it keep")
    assert "pool_mode = session" in served.stderr
    assert len(served.stderr.splitlines()) == 1
    assert examined.status == ExitStatus.REFUSED
    assert NOT_KEPT in examined.stdout
    assert "pool_mode = session" in examined.stdout


async def test_pooler_that_allows_no_transactions_is_refused(database: Database) -> None:
    """The error shows PgBouncer's own text."""
    async with pgbouncer(database, "statement") as pooler:
        served = await command(pooler.database, "serve")
    assert served.status == ExitStatus.UNREACHABLE
    assert "statement pooling mode" in served.stderr
    assert len(served.stderr.splitlines()) == 1


async def test_pooler_that_keeps_sessions_changes_nothing(
    database: Database, tmp_path: Path
) -> None:
    """A server serves, and every session has the same settings as without the pooler.

    That holds for a session that reuses a backend, and for sessions after all were lost. Once the
    pooler swaps sessions, the server is NOT_SERVING, and no call ends with INTERNAL.
    """
    direct = await settings_of(database.url, SETTINGS)
    async with pgbouncer(database, "session") as pooler:
        assert await settings_of(pooler.database.url, SETTINGS) == direct
        # On the same backend, which PgBouncer has reset.
        assert await settings_of(pooler.database.url, SETTINGS) == direct
        examined = await command(pooler.database, "doctor")
        assert examined.status == ExitStatus.DONE, examined.stdout
        async with (
            server_process(pooler.database, tmp_path / "log", seal_interval_seconds="0") as server,
            aio.insecure_channel(server.address) as channel,
        ):
            await server.assert_well()
            await query(database.migration_url, BACKENDS)
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            health: Any = health_pb2_grpc.HealthStub(channel)
            codes = set[grpc.StatusCode]()

            async def books() -> bool:
                request = ledger_pb2.IngestEventRequest(event=event_message(event_id=unique("evt")))
                try:
                    await stub.IngestEvent(request, timeout=5)
                except aio.AioRpcError as error:
                    codes.add(error.code())
                    return False
                return True

            await until(books, DEADLINE_SECONDS)
            assert await settings_of(pooler.database.url, SETTINGS) == direct
            pooler.reload("transaction")

            async def not_serving() -> bool:
                await books()
                reported = await health.Check(
                    health_pb2.HealthCheckRequest(service=SERVICE), timeout=DEADLINE_SECONDS
                )
                return bool(reported.status == health_pb2.HealthCheckResponse.NOT_SERVING)

            await until(not_serving, DEADLINE_SECONDS)
            for _ in range(20):
                await books()
            assert codes <= {
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.ABORTED,
            }
    assert NOT_KEPT in (tmp_path / "log").read_text()
