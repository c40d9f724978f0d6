"""The proxy that docs/operations.md puts before strangers, as it stands there, where HAProxy is installed."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from grpc import aio, ssl_channel_credentials
from support.certificates import HERE, Authority
from support.events import event_message
from support.ports import held_port, port_of
from support.running import running_ledger
from support.waiting import until_told

from ledger.bootstrap import Database
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
BOUND = 100
STRANGER = "127.0.0.2"
TIMEOUT_SECONDS = 60.0


def configuration(port: int, server: str) -> str:
    """The documented one, at other ports, and with less time for those who say nothing."""
    text: str
    (text,) = re.findall(r"```haproxy\n(.*?)```", OPERATIONS.read_text(), re.DOTALL)
    for documented, here in (
        ("bind :50051", f"bind 127.0.0.1:{port}"),
        ("server one 127.0.0.1:50052", f"server one {server}"),
        ("inspect-delay 5s", "inspect-delay 1s"),
    ):
        assert text.count(documented) == 1
        text = text.replace(documented, here)
    assert f"gt {BOUND} " in text
    return text


async def answers(port: int) -> bool:
    """Whether the proxy is there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def proxy(folder: Path, server: str) -> AsyncIterator[int]:
    """HAProxy before the server; the port."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("haproxy is not installed")
    file = folder / "haproxy.cfg"
    with held_port() as holder:
        port = port_of(holder)
    file.write_text(configuration(port, server))
    process = await asyncio.create_subprocess_exec(program, "-db", "-f", str(file))
    try:
        await until_told(lambda: answers(port), TIMEOUT_SECONDS)
        yield port
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), TIMEOUT_SECONDS)


async def test_documented_proxy_bounds_each_address_and_shows_the_silent_out(database: Database, tmp_path: Path) -> None:
    """A stranger with more connections than one address may have, all silent, keeps nobody out, and none of them stays."""
    authority = Authority()
    authority.issue(*HERE).write(tmp_path / "server.pem", tmp_path / "server.key")
    credentials = ssl_channel_credentials(authority.certificate_pem)
    async with (
        running_ledger(database, tls_certificate_file=tmp_path / "server.pem", tls_key_file=tmp_path / "server.key") as ledger,
        proxy(tmp_path, ledger.address) as port,
        AsyncExitStack() as stack,
    ):
        readers = []
        for _ in range(BOUND + 50):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(STRANGER, 0))
            except ConnectionResetError:
                # Beyond the bound, and refused before this side had seen that it was connected.
                continue
            stack.callback(writer.close)
            readers.append(reader)
        assert len(readers) >= BOUND
        channel = await stack.enter_async_context(aio.secure_channel(f"127.0.0.1:{port}", credentials))
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        response = await stub.IngestEvent(
            ledger_pb2.IngestEventRequest(event=event_message()), timeout=TIMEOUT_SECONDS, wait_for_ready=True
        )
        assert response.status == ledger_pb2.INGEST_STATUS_CREATED
        # All of them: those beyond the bound at once, the others when they have said nothing for too long.
        async with asyncio.timeout(TIMEOUT_SECONDS):
            ends = await asyncio.gather(*(reader.read() for reader in readers), return_exceptions=True)
        assert all(end == b"" or isinstance(end, ConnectionError) for end in ends)
