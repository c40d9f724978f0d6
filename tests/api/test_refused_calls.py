"""What refused calls leave in the log of a server: little, however many there are."""

import asyncio
from pathlib import Path

import pytest
from grpc import aio
from support.events import event_message
from support.processes import server_process
from support.tokens import token_line

from ledger.bootstrap import Database
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

CALLS = 2_000


async def test_stranger_cannot_fill_the_log(database: Database, tmp_path: Path) -> None:
    """Thousands of calls without credentials and with bad ones: a line for each kind, then their number; nobody is left out."""
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line("reader", "read", "reader"))
    log = tmp_path / "server.log"
    kinds = {"none": (), "bad": (("authorization", "Bearer x"),), "reader": (("authorization", "Bearer reader"),)}

    async def refused(stub: "ledger_pb2_grpc.LedgerServiceAsyncStub", metadata: tuple[tuple[str, str], ...]) -> None:
        request = ledger_pb2.IngestEventRequest(event=event_message())
        with pytest.raises(aio.AioRpcError):
            await stub.IngestEvent(request, metadata=metadata)

    async with server_process(database, log, auth_tokens_file=str(tokens)) as server:
        before = server.log_bytes()
        async with aio.insecure_channel(server.address) as channel:
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            for _ in range(CALLS // 100):
                await asyncio.gather(*(refused(stub, metadata) for metadata in kinds.values() for _ in range(100)))
    text = log.read_bytes()[before:].decode()
    firsts = [line for line in text.splitlines() if " call refused " in line]
    counts = [line for line in text.splitlines() if " more calls refused in the same way " in line]
    for why in ("there is no authorization header", "the token is not accepted"):
        assert any(f"why='{why}'" in line for line in firsts)
    assert all("request_id=" in line for line in firsts)
    assert not any("request_id=" in line for line in counts)
    for error, calls in (("NotAuthenticated", 2 * CALLS), ("ScopeMissing", CALLS)):
        told = sum(f"error={error}" in line for line in firsts)
        repeated = sum(int(line.split(" calls=")[1].split()[0]) for line in counts if f"error={error}" in line)
        assert told + repeated == calls
    assert all("identity=reader" in line for line in counts if "error=ScopeMissing" in line)
    # 6,000 calls: two lines each were 2.5 MB.
    assert len(text) < 100_000
