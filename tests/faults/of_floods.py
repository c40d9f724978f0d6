"""Callers that send too much, too slowly, or never to the end, beside honest ones."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from faults.catalogue import fault
from faults.floods import KINDS, large_events
from faults.load import Mix, load_on
from faults.memory_limits import NoMemoryLimit, memory_limit
from faults.servers import ServerProcess
from faults.stage import Skipped, Stage

LIMIT_BYTES = 512_000_000
ACKNOWLEDGED_SECONDS = 120.0
# A repeat by an honest caller of what a flood has sent would look as if it had been told a lie.
HONEST = Mix(callers=4, repeat_share=0)
_TESTS = Path(__file__).resolve().parents[1]


@asynccontextmanager
async def flooded(server: ServerProcess, *kinds: str) -> AsyncIterator[None]:
    """Floods a server from a process beside us, for as long as the block takes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "faults.floods", ",".join(kinds), server.address, ""),
        cwd=_TESTS,
        stdin=asyncio.subprocess.PIPE,
    )
    try:
        yield
        assert process.returncode is None, "the flood has ended by itself"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@fault("F76", "floods of large messages, in 512 MB of memory")
async def floods_in_little_memory(stage: Stage) -> None:
    """The server lives, and books what honest callers send meanwhile: each flood by itself, then all at once, twice."""
    try:
        limit = stage.exits.enter_context(memory_limit(LIMIT_BYTES))
    except NoMemoryLimit as error:
        raise Skipped(str(error)) from error
    server = await stage.server(within=limit)
    for event in large_events():
        stage.journal.intend(event)
    each = [(kind,) for kind in KINDS] if stage.full else []
    for kinds in (*each, tuple(KINDS), tuple(KINDS)):
        before, rss_bytes = len(stage.journal.answers), server.rss_bytes
        async with flooded(server, *kinds), load_on(stage.load(server, mix=HONEST)) as load:
            await asyncio.sleep(stage.size(8, 2))
            await load.acknowledged(stage.size(50, 10), timeout_seconds=ACKNOWLEDGED_SECONDS)
        seconds = sorted(answer.ended_at - answer.sent_at for answer in stage.journal.answers[before:])
        name = kinds[0] if len(kinds) == 1 else "all at once"
        stage.note(
            f"{name}: {len(seconds)} calls, p99 {seconds[len(seconds) * 99 // 100]:.2f} s, "
            f"{rss_bytes >> 20} to {server.rss_bytes >> 20} MiB"
        )
        assert limit.killed == 0
    stage.note(f"never above {server.rss_bytes_max >> 20} MiB")


@fault("F77", "callers that send a byte now and then, or stop in the middle, while the server is killed")
async def slow_senders(stage: Stage) -> None:
    """Honest callers are served beside them, before and after; what is not whole is never booked."""
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
    stage.note(f"told: {dict(stage.journal.codes)}")
