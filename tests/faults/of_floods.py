"""Callers that send too much, too slowly, or never to the end, beside honest ones."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from grpc import ssl_channel_credentials
from support.certificates import HERE, Authority
from support.events import event_message
from support.haproxy import NotInstalled, documented_haproxy
from support.tokens import token_line
from support.waiting import until

from faults.callers import Caller
from faults.catalogue import fault
from faults.floods import FLOODING, KINDS, large_events, new_event
from faults.journal import Reply
from faults.load import Mix, load_on
from faults.memory_limits import MemoryLimit, NoMemoryLimit, memory_limit
from faults.servers import DescriptorLimit, ServerProcess, health_of_newcomer
from faults.stage import Skipped, Stage
from faults.strangers import ADDRESSES, THERE

LIMIT_BYTES = 512_000_000
ACKNOWLEDGED_SECONDS = 120.0
# An honest caller's repeat of a flood's event would look like a false reply.
HONEST = Mix(callers=4, repeat_share=0)
HONEST_TOKEN, FLOOD_TOKEN = "token-of-honest-callers", "token-of-the-flood"
_TESTS = Path(__file__).resolve().parents[1]


@asynccontextmanager
async def separate_process(module: str, *arguments: str, begun: bytes) -> AsyncIterator[None]:
    """Runs a module in another process during the block, once it has written `begun`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        cwd=_TESTS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), ACKNOWLEDGED_SECONDS) == begun
        yield
        assert process.returncode is None, f"{module} has ended by itself"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def flooded(
    server: ServerProcess, *kinds: str, token: str = ""
) -> AbstractAsyncContextManager[None]:
    """Floods a server while the block runs."""
    return separate_process("faults.floods", ",".join(kinds), server.address, token, begun=FLOODING)


def strangers(
    address: str, number: int, first: bytes = b"", *, addresses: int = ADDRESSES
) -> AbstractAsyncContextManager[None]:
    """Connections that send `first` and no more, during the block; closed ones are opened again."""
    return separate_process(
        "faults.strangers", address, str(number), first.hex(), str(addresses), begun=THERE
    )


@fault("F76", "floods of large messages, in 512 MB of memory")
async def floods_in_little_memory(stage: Stage) -> None:
    """The server survives and serves honest callers under each flood, then under all, twice.

    Then under floods of known callers and of strangers, on a server with authentication.
    """
    try:
        limit = stage.exits.enter_context(memory_limit(LIMIT_BYTES))
    except NoMemoryLimit as error:
        raise Skipped(str(error)) from error
    for event in large_events():
        stage.journal.intend(event)
    server = await stage.server(within=limit)
    each = [(kind,) for kind in KINDS] if stage.full else []
    for kinds in (*each, tuple(KINDS), tuple(KINDS)):
        await _serves_beside(stage, server, limit, kinds)
    await server.kill()
    tokens = stage.folder / "flood-tokens"
    tokens.write_text(
        token_line(HONEST_TOKEN, "ingest,read,pay,admin", HONEST_TOKEN)
        + token_line(FLOOD_TOKEN, "ingest,read", FLOOD_TOKEN)
    )
    tokens.chmod(0o600)
    server = await stage.server(within=limit, env={"LEDGER_AUTH_TOKENS_FILE": str(tokens)})
    stage.token = HONEST_TOKEN
    await _serves_beside(stage, server, limit, tuple(KINDS), token="no such token")
    await _serves_beside(stage, server, limit, tuple(KINDS), token=FLOOD_TOKEN)
    await server.kill()
    for (event_id,) in await stage.query(
        "SELECT event_id FROM processor_events WHERE restaurant_id = 'flooded'"
    ):
        # Only the flood knew which new events it sent. Those that were booked must be whole.
        stage.journal.intend(new_event(event_id))


async def _serves_beside(
    stage: Stage,
    server: ServerProcess,
    limit: MemoryLimit,
    kinds: tuple[str, ...],
    *,
    token: str = "",
) -> None:
    """Notes the latency of honest callers during these floods, and the server's memory."""
    before = len(stage.journal.calls)
    server.forget_rss_max()
    async with (
        flooded(server, *kinds, token=token),
        load_on(stage.load(server, mix=HONEST)) as load,
    ):
        await asyncio.sleep(stage.size(8, 2))
        await load.acknowledged(stage.size(50, 10), timeout_seconds=ACKNOWLEDGED_SECONDS)
    seconds = sorted(call.ended_at - call.sent_at for call in stage.journal.calls[before:])
    name = kinds[0] if len(kinds) == 1 else "all at once"
    stage.note(
        f"{name}{f' with {token}' if token else ''}: {len(seconds)} calls,"
        f" p50 {seconds[len(seconds) // 2]:.2f} s, "
        f"p99 {seconds[len(seconds) * 99 // 100]:.2f} s, at most {server.rss_bytes_max >> 20} MiB"
    )
    assert limit.killed == 0


@fault(
    "F77",
    "callers that send a byte now and then, or stop in the middle, while the server is killed",
)
async def slow_senders(stage: Stage) -> None:
    """Honest callers are served before, beside and after; no partial event is booked."""
    server = await stage.server()
    async with (
        flooded(server, "byte-by-byte", "single-calls", "one-connection", "health-checks"),
        load_on(stage.load(server, mix=HONEST)) as load,
    ):
        for _ in range(stage.size(4, 1)):
            await load.acknowledged(stage.size(200, 20), timeout_seconds=ACKNOWLEDGED_SECONDS)
            await server.kill()
            await server.start()
        await load.acknowledged(stage.size(200, 20), timeout_seconds=ACKNOWLEDGED_SECONDS)
        assert await server.health() == "SERVING"
    stage.note(f"replies: {dict(stage.journal.codes)}")


@fault("F80", "more connections than a server takes, of clients that send nothing, then one byte")
async def silent_connections(stage: Stage) -> None:
    """Silent connections keep no caller out. Those that send a byte keep new callers out.

    Connected callers and health checks at their address are served all the time.
    """
    number = stage.size(5_000, 400)
    health_address = f"unix:{stage.folder}/health.sock"
    server = await stage.server(
        within=None if stage.full else DescriptorLimit(256),
        env={"LEDGER_HEALTH_ADDRESS": health_address},
    )
    async with load_on(stage.load(server, mix=HONEST)) as load:
        await load.acknowledged(stage.size(200, 20))
        for name, first in (("silent", b""), ("one byte", b"P")):
            tries, seconds = stage.size(100, 10), list[float]()
            async with strangers(server.address, number, first):
                for _ in range(tries):
                    began = time.monotonic()
                    if await health_of_newcomer(server.address, ACKNOWLEDGED_SECONDS) == "SERVING":
                        seconds.append(time.monotonic() - began)
                    assert (
                        await health_of_newcomer(health_address, ACKNOWLEDGED_SECONDS) == "SERVING"
                    )
                await load.acknowledged(stage.size(500, 50), timeout_seconds=ACKNOWLEDGED_SECONDS)
            assert first or len(seconds) == tries, (
                f"{len(seconds)} of {tries} new callers were served"
            )
            longest = f", within {max(seconds):.2f} s" if seconds else ""
            stage.note(f"{number} {name}: {len(seconds)} of {tries} new callers served{longest}")

        async def is_open() -> bool:
            return await health_of_newcomer(server.address, ACKNOWLEDGED_SECONDS) == "SERVING"

        await until(is_open, ACKNOWLEDGED_SECONDS)


@fault("F82", "connections that send nothing, or one byte, to the documented HAProxy")
async def strangers_before_haproxy(stage: Stage) -> None:
    """Each new caller's event is booked at its first call, whatever the strangers' addresses."""
    number = stage.size(5_000, 400)
    authority = Authority()
    certificate, key = stage.folder / "server.pem", stage.folder / "server.key"
    authority.issue(*HERE).write(certificate, key)
    server = await stage.server(
        env={"LEDGER_TLS_CERTIFICATE_FILE": str(certificate), "LEDGER_TLS_KEY_FILE": str(key)}
    )
    try:
        port = await stage.exits.enter_async_context(
            documented_haproxy(stage.folder, server.address)
        )
    except NotInstalled as error:
        raise Skipped(str(error)) from error
    credentials = ssl_channel_credentials(authority.certificate_pem)
    address = f"127.0.0.1:{port}"
    for addresses in (ADDRESSES, number):
        for name, first in (("silent", b""), ("one byte", b"\x16")):
            seconds = list[float]()
            async with strangers(address, number, first, addresses=addresses):
                for place in range(stage.size(100, 10)):
                    event = event_message(event_id=f"newcomer_{addresses}_{first.hex()}_{place}")
                    newcomer = Caller(address, stage.journal, credentials)
                    call = await newcomer.send(event, timeout_seconds=ACKNOWLEDGED_SECONDS)
                    await newcomer.close()
                    assert call.reply is Reply.CREATED, (
                        f"{name} from {addresses} addresses: {call.code}"
                    )
                    seconds.append(call.ended_at - call.sent_at)
            stage.note(
                f"{number} {name} from {addresses} addresses:"
                f" all {len(seconds)} within {max(seconds):.2f} s"
            )
