"""A server of the whole contract that keeps its books in memory."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import structlog

from ledger.api.methods import METHODS
from ledger.api.server import Server
from ledger.domain.restaurants import UnknownRestaurants
from ledger.testing.application import MemoryApplication
from ledger.testing.clock import MovableClock
from ledger.testing.faults import AskedFault, Fault, Faults, FaultyService
from ledger.testing.memory.books import Books

_HOST = "127.0.0.1"
# A server in memory starts and stops in some ten milliseconds.
_WAIT_SECONDS = 30.0

Result = TypeVar("Result")


class LedgerServer:
    """Serves gRPC on a free port of the loopback interface, with books that begin empty.

        with LedgerServer() as server:
            stub = LedgerServiceStub(grpc.insecure_channel(server.address))

    Also `async with`. It answers from an event loop in a thread of its own, so callers may be
    synchronous or asynchronous. Nothing is kept when it ends. It checks no credentials.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        start_at: datetime | None = None,
        maturity_days: int = 7,
        settlement_timezone: str = "UTC",
        unknown_restaurants: str = UnknownRestaurants.REGISTER,
    ) -> None:
        """The last three are as the settings of a server with these names.

        `port` 0 is any free one. The clock begins at `start_at`, which is aware, or now. Raises
        ValueError for an instant without a zone, an unknown zone or an unknown word.
        """
        self.clock = MovableClock(start_at)
        self._port = port
        self._application = MemoryApplication(
            self.clock.now,
            maturity_days=maturity_days,
            settlement_timezone=settlement_timezone,
            unknown_restaurants=UnknownRestaurants(unknown_restaurants),
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = asyncio.Event()
        self._faults = Faults()

    @property
    def address(self) -> str:
        """Where it listens, as clients take it: 127.0.0.1:50051."""
        return f"{_HOST}:{self.port}"

    @property
    def port(self) -> int:
        """The port at which it listens. Raises RuntimeError unless it serves."""
        if self._loop is None:
            raise RuntimeError("the server does not serve: use it in a with statement")
        return self._port

    def start(self) -> None:
        """Serves, in a thread, until `stop`. Once only.

        Raises AddressUnavailable when another server has the port.
        """
        if self._thread is not None:
            raise RuntimeError("the server has served: make a new one, with empty books")
        serving: Future[None] = Future()
        _LOG.take()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(serving)), name="ledger.testing", daemon=True
        )
        self._thread.start()
        try:
            serving.result(_WAIT_SECONDS)
        except BaseException:
            _LOG.leave()
            raise

    def stop(self) -> None:
        """Ends the server and cancels open calls. A repeat does nothing."""
        if self._thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_WAIT_SECONDS)
        self._loop = None
        _LOG.leave()

    @property
    def books(self) -> Books:
        """What it has booked. Only the server changes it; a test may look at it between calls."""
        return self._application.books

    @contextmanager
    def payout_runs_held(self) -> Iterator[None]:
        """Payout runs that start in the block stay RUNNING and create no payout until its end.

        Otherwise a run has ended when RunPayouts is answered, though the answer shows it RUNNING,
        as that of a real server does.
        """
        self._in_loop(self._application.hold_runs)
        try:
            yield
        finally:
            self._in_loop(self._application.release_runs)

    @contextmanager
    def calls_failing(
        self, fault: Fault, *methods: str, calls: int | None = None
    ) -> Iterator[None]:
        """Calls in the block have the fault: of these methods, such as IngestEvent, or of all; the
        next `calls` of them, or all.

        Raises ValueError for a method that the contract lacks.
        """
        if unknown := set(methods) - set(METHODS):
            raise ValueError(f"the contract has no method {min(unknown)}")
        asked = AskedFault(fault, frozenset(methods), calls)
        self._in_loop(lambda: self._faults.asked.append(asked))
        try:
            yield
        finally:
            self._in_loop(lambda: self._faults.asked.remove(asked))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _in_loop(self, work: Callable[[], Result]) -> Result:
        """Runs `work` between two calls, and returns its result."""
        if self._loop is None:
            raise RuntimeError("the server does not serve: use it in a with statement")

        async def run() -> Result:
            return work()

        coroutine: Coroutine[Any, Any, Result] = run()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_WAIT_SECONDS)

    async def _serve(self, serving: Future[None]) -> None:
        """Serves until it is to stop. `serving` gets the error if that cannot begin."""
        application = self._application
        try:
            service, accounts, payments = (
                cast(Any, FaultyService(each, self._faults, application.release_expired))
                for each in (application.service, application.accounts, application.payments)
            )
            server = Server(
                service,
                accounts=accounts,
                payments=payments,
                address=f"{_HOST}:{self._port}",
                reflect=True,
                ping=_ping,
            )
            await server.start()
        except Exception as error:  # noqa: BLE001  # `start` raises it
            serving.set_exception(error)
            return
        self._port = server.port
        self._loop = asyncio.get_running_loop()
        serving.set_result(None)
        await self._stopping.wait()
        await server.stop(0)
        await application.close()


async def _ping() -> None:
    """Books in memory can always be used."""


class _Log:
    """Sends our log lines to `logging`, where tests capture them, while any server runs; unless the
    process has configured structlog.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._servers = 0
        self._is_ours = False

    def take(self) -> None:
        with self._lock:
            self._servers += 1
            if not structlog.is_configured():
                self._is_ours = True
                structlog.configure(
                    processors=[structlog.processors.KeyValueRenderer(key_order=["event"])],
                    wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
                    logger_factory=structlog.stdlib.LoggerFactory(),
                    cache_logger_on_first_use=False,
                )

    def leave(self) -> None:
        with self._lock:
            self._servers -= 1
            if self._is_ours and not self._servers:
                self._is_ours = False
                structlog.reset_defaults()


_LOG = _Log()
