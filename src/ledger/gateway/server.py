"""A gateway process: its listeners, its worker, and the reload of its file."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog
import uvicorn
from starlette.applications import Starlette

from ledger.addresses import host_and_port, with_port
from ledger.client import LedgerError
from ledger.gateway.app import Bounds, Gateway, make_app, make_private_app
from ledger.gateway.books import RemoteBooks
from ledger.gateway.configuration import Configuration, ConfigurationError, Http
from ledger.gateway.connections import bounded_protocol
from ledger.gateway.metrics import GatewayMetrics
from ledger.gateway.reloading import FileInForce
from ledger.gateway.retries import RetryWorker
from ledger.repeating import Repeating, log_failure

# How often the files are looked at for changes.
RELOAD_SECONDS = 5.0
# How long posts under way may take after a stop: longer than any may take.
GRACE_SECONDS = 25
BACKLOG = 2048

_log = structlog.get_logger("ledger.gateway")


class AddressTaken(Exception):
    """The gateway cannot listen where the file says."""


class _Server(uvicorn.Server):
    """uvicorn's server, whose signals are handled here."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a gateway listens, with the ports that were bound."""

    address: str
    private_address: str
    scheme: str


@asynccontextmanager
async def running_gateway(
    path: Path, configuration: Configuration, books: RemoteBooks
) -> AsyncIterator[tuple[Gateway, FileInForce, Listening]]:
    """A gateway that answers posts, until the end of the block; then it drains.

    Raises AddressTaken, and ConfigurationError if the TLS files cannot be used.
    """
    metrics = GatewayMetrics()
    http = configuration.http
    gateway = Gateway(
        configuration.routes,
        books,
        metrics,
        Bounds(http.posts_max, http.answer_seconds),
    )
    file = FileInForce(path, configuration, gateway)
    apps = [(http.address, make_app(gateway, with_metrics=not http.private_address), True)]
    if http.private_address:
        apps.append((http.private_address, make_private_app(gateway), False))
    sockets = [_bound(address) for address, _, _ in apps]
    servers = [_server(app, http if is_public else Http(), path) for _, app, is_public in apps]
    tasks = [
        asyncio.create_task(server.serve([listener]))
        for server, listener in zip(servers, sockets, strict=True)
    ]
    addresses = [
        with_port(address, listener.getsockname()[1])
        for (address, _, _), listener in zip(apps, sockets, strict=True)
    ]
    worker = _retrying(gateway, books, configuration)
    try:
        await _until_started(servers, tasks)
        worker.start()
        yield (
            gateway,
            file,
            Listening(
                addresses[0],
                addresses[1] if len(addresses) > 1 else "",
                "https" if http.tls_certificate else "http",
            ),
        )
    finally:
        gateway.is_draining = True
        for server in servers:
            server.should_exit = True
        # A try that is cut off is repeated by the next gateway: it books nothing twice.
        worker.cancel()
        await asyncio.gather(*tasks)
        await worker.stop()
        await file.close()


def _retrying(gateway: Gateway, books: RemoteBooks, configuration: Configuration) -> Repeating:
    retries = configuration.retries
    worker = RetryWorker(
        lambda: gateway.routes,
        books,
        books,
        gateway.metrics,
        give_up_after=timedelta(hours=retries.give_up_after_hours),
    )

    return Repeating(
        "trying deliveries of the quarantine",
        worker.work,
        every_seconds=retries.poll_seconds,
        retry_seconds_max=max(60.0, retries.poll_seconds),
        on_failure=_log_failure,
    )


def _log_failure(what: str, error: BaseException, /) -> None:
    if isinstance(error, LedgerError):
        _log.warning(what, code=error.code.name, reason=error.reason)
    else:
        log_failure(what, error)


async def serve(
    path: Path,
    configuration: Configuration,
    books: RemoteBooks,
    *,
    on_ready: Callable[[Listening], None],
) -> None:
    """Serves until SIGTERM or SIGINT, then lets posts under way end. SIGHUP reads the file again.

    Raises AddressTaken and ConfigurationError.
    """
    stop = asyncio.Event()
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, changed.set)
    async with running_gateway(path, configuration, books) as (_, file, listening):
        looking = asyncio.create_task(_look_for_changes(file, changed))
        try:
            on_ready(listening)
            await stop.wait()
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking


async def _look_for_changes(file: FileInForce, is_asked: asyncio.Event) -> None:
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(RELOAD_SECONDS):
                await is_asked.wait()
        asked = is_asked.is_set()
        is_asked.clear()
        await file.look(is_asked=asked)


def _bound(address: str) -> socket.socket:
    host, port = host_and_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise AddressTaken(f"cannot listen on {address}: {error.strerror}") from error
    return listener


def _server(app: Starlette, http: Http, path: Path) -> _Server:
    config = uvicorn.Config(
        app,
        http=bounded_protocol(http.body_seconds),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        # Beyond what the gateway itself refuses with a Retry-After: connections that send nothing.
        limit_concurrency=4 * http.posts_max,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=http.tls_certificate,
        ssl_keyfile=None if http.tls_key is None else str(http.tls_key),
    )
    try:
        config.load()
    except OSError as error:
        raise ConfigurationError(path, [f"http: the TLS files: {error}"]) from error
    return _Server(config)


async def _until_started(servers: list[_Server], tasks: list[asyncio.Task[None]]) -> None:
    while not all(server.started for server in servers):
        for task in tasks:
            if task.done():
                task.result()
        await asyncio.sleep(0.005)
