"""The proxy of docs/operations/security.md in front of a server, where HAProxy is installed."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from grpc import aio, ssl_channel_credentials
from support.certificates import HERE, Authority
from support.events import event_message
from support.haproxy import BOUND, NotInstalled, documented_haproxy
from support.running import running_ledger
from support.waiting import DEADLINE_SECONDS

from ledger.bootstrap.database import Database
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

ATTACKER = "127.0.0.2"
# The first byte of a TLS connection.
ONE_BYTE = b"\x16"


@pytest.mark.parametrize("first", [b"", ONE_BYTE], ids=["silent", "one byte"])
async def test_documented_proxy_closes_silent_connections_of_one_address(
    database: Database, tmp_path: Path, first: bytes
) -> None:
    """There are more of them than one address may have. Calls of another address succeed, and none
    of the silent connections stays open.
    """
    authority = Authority()
    authority.issue(*HERE).write(tmp_path / "server.pem", tmp_path / "server.key")
    credentials = ssl_channel_credentials(authority.certificate_pem)
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(
            running_ledger(
                database,
                tls_certificate_file=tmp_path / "server.pem",
                tls_key_file=tmp_path / "server.key",
            )
        )
        try:
            port = await stack.enter_async_context(
                documented_haproxy(tmp_path, ledger.address, inspect_seconds=1)
            )
        except NotInstalled as error:
            pytest.skip(str(error))
        readers = []
        for _ in range(BOUND + 50):
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, local_addr=(ATTACKER, 0)
                )
            except ConnectionResetError:
                # Beyond the bound: reset before this side has seen that it was connected.
                continue
            stack.callback(writer.close)
            writer.write(first)
            readers.append(reader)
        assert len(readers) >= BOUND
        channel = await stack.enter_async_context(
            aio.secure_channel(f"127.0.0.1:{port}", credentials)
        )
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        response = await stub.IngestEvent(
            ledger_pb2.IngestEventRequest(event=event_message()),
            timeout=DEADLINE_SECONDS,
            wait_for_ready=True,
        )
        assert response.status == ledger_pb2.INGEST_STATUS_CREATED
        # All end: those beyond the bound at once, the others after too long without a request.
        async with asyncio.timeout(DEADLINE_SECONDS):
            ends = await asyncio.gather(
                *(reader.read() for reader in readers), return_exceptions=True
            )
        assert all(end == b"" or isinstance(end, ConnectionError) for end in ends)
