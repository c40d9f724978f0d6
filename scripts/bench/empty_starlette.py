"""A Starlette handler that reads a post and answers it: what the gateway is measured beside."""

import asyncio
import signal
import socket
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scripts.bench.jobs import loop_factory

READY_PREFIX = "the empty Starlette is on "


async def answer(request: Request) -> Response:
    """Reads the body, as every handler of a post must."""
    await request.body()
    return Response(b"ok", media_type="text/plain")


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"{READY_PREFIX}127.0.0.1:{port}", flush=True)


async def serve() -> None:
    """Serves until standard input ends, which it does with the parent."""
    app = Starlette(routes=[Route("/hooks/{name}", answer, methods=["POST"])])
    server = _Server(
        uvicorn.Config(
            app,
            port=0,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
        )
    )
    running = asyncio.create_task(server.serve())
    await asyncio.to_thread(sys.stdin.buffer.read)
    server.should_exit = True
    await running


if __name__ == "__main__":
    # Ctrl-C is for the parent, which ends its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=loop_factory(uvloop="--uvloop" in sys.argv)) as runner:
        runner.run(serve())
