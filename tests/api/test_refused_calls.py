"""Refused calls add few lines to the log of a server, however many calls there are."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from sqlalchemy.engine import make_url
from support.events import event_message
from support.processes import SERVICE, server_process
from support.running import execute_alone
from support.tokens import token_line

from ledger.bootstrap.database import Database
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

CALLS = 700


async def test_unauthenticated_caller_cannot_fill_the_log(
    database: Database, tmp_path: Path
) -> None:
    """Two thousand calls without credentials and with bad ones: a line for each kind, then a count.

    The counts include every call.
    """
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line("reader", "read", "reader"))
    log = tmp_path / "server.log"
    kinds = {
        "none": (),
        "bad": (("authorization", "Bearer x"),),
        "reader": (("authorization", "Bearer reader"),),
    }

    async def refused(
        stub: "ledger_pb2_grpc.LedgerServiceAsyncStub", metadata: tuple[tuple[str, str], ...]
    ) -> None:
        request = ledger_pb2.IngestEventRequest(event=event_message())
        with pytest.raises(aio.AioRpcError):
            await stub.IngestEvent(request, metadata=metadata)

    async with server_process(database, log, auth_tokens_file=str(tokens)) as server:
        before = server.log_bytes()
        async with aio.insecure_channel(server.address) as channel:
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            for _ in range(CALLS // 100):
                await asyncio.gather(
                    *(refused(stub, metadata) for metadata in kinds.values() for _ in range(100))
                )
    text = log.read_bytes()[before:].decode()
    firsts = [line for line in text.splitlines() if " call refused " in line]
    counts = [line for line in text.splitlines() if " more calls refused in the same way " in line]
    for why in ("there is no authorization header", "the token is not accepted"):
        assert any(f"why='{why}'" in line for line in firsts)
    assert all("request_id=" in line for line in firsts)
    assert not any("request_id=" in line for line in counts)
    for error, calls in (("NotAuthenticated", 2 * CALLS), ("ScopeMissing", CALLS)):
        got = sum(f"error={error}" in line for line in firsts)
        repeated = sum(
            int(line.split(" calls=")[1].split()[0]) for line in counts if f"error={error}" in line
        )
        assert got + repeated == calls
    assert all("identity=reader" in line for line in counts if "error=ScopeMissing" in line)
    # Two lines for each of the 2,100 calls would take 0.9 MB.
    assert len(text) < 100_000


async def refused_calls(address: str, method: str, raw: bytes, calls: int) -> set[grpc.StatusCode]:
    """The statuses of that many calls with these bytes."""
    async with aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/{method}")

        async def refused() -> grpc.StatusCode:
            with pytest.raises(aio.AioRpcError) as caught:
                await call(raw, timeout=60)
            return caught.value.code()

        return set(await asyncio.gather(*(refused() for _ in range(calls))))


async def test_malformed_requests_are_summed_up(database: Database, tmp_path: Path) -> None:
    """Like requests with invalid fields."""
    async with server_process(database, tmp_path / "server.log") as server:
        before = server.log_bytes()
        for method in ("IngestEvent", "GetBalance"):
            assert await refused_calls(server.address, method, b"\xff", 100) == {
                grpc.StatusCode.INVALID_ARGUMENT
            }
    lines = server.log.read_bytes()[before:].decode().splitlines()
    assert calls_logged(lines, "refused", "MalformedMessage") == 200
    assert len(lines) < 20


async def test_outage_is_not_logged_call_by_call(
    database: Database, server_url: str, tmp_path: Path
) -> None:
    """Every call fails in an outage: the first line gives the cause, the others are counted."""
    name = make_url(database.migration_url).database
    async with server_process(database, tmp_path / "server.log") as server:
        before = server.log_bytes()
        await execute_alone(server_url, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        try:
            await execute_alone(
                server_url,
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
            )
            assert await refused_calls(server.address, "GetRestaurant", b"\n\x03res", 100) == {
                grpc.StatusCode.UNAVAILABLE
            }
        finally:
            await execute_alone(server_url, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
    lines = server.log.read_bytes()[before:].decode().splitlines()
    failures = [line for line in lines if " call failed " in line]
    assert (
        calls_logged(lines, "failed", "DatabaseUnavailable")
        + calls_logged(lines, "failed", "DatabaseTimeout")
        == 100
    )
    assert all("cause=" in line and "request_id=" in line for line in failures)
    assert len(failures) < 20


def calls_logged(lines: list[str], verb: str, error: str) -> int:
    """How many calls that ended with the error the log reports."""
    firsts = [line for line in lines if f" call {verb} " in line and f"error={error}" in line]
    counts = [
        line
        for line in lines
        if f" more calls {verb} in the same way " in line and f"error={error}" in line
    ]
    return len(firsts) + sum(int(line.split(" calls=")[1].split()[0]) for line in counts)
