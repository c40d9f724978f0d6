"""Starts several worker processes at one address, replaces workers that die, and stops them.

The supervisor serves no calls itself. Each worker is a separate program (`ledger serve-worker`),
because gRPC does not survive a fork. All workers listen on the same port, and the kernel gives each
new connection to one of them.

The supervisor and each worker hold the two ends of a socket pair. The worker writes to it once it
serves. When the supervisor ends, in whatever way, the worker reads the end of the stream.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import structlog

from ledger.addresses import host_and_port, with_port
from ledger.api.transport.listening import AddressUnavailable
from ledger.bootstrap.database import Database
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.serve.worker import SERVING, stop_seconds_max
from ledger.hangup import ends_at_hangup
from ledger.jitter import jittered
from ledger.settings import Settings

if TYPE_CHECKING:
    from ledger.infrastructure.prometheus import SummedMetrics

START_TIMEOUT_SECONDS = 120.0
FAILED_STARTS_MAX = 5
BACKOFF_SECONDS_MIN = 0.1
BACKOFF_SECONDS_MAX = 5.0
# The death of a worker that has served this long has nothing to do with earlier deaths.
SETTLED_SECONDS = 10.0

_log = structlog.get_logger("ledger.supervisor")


@contextmanager
def reserved_address(address: str) -> Iterator[str]:
    """Reserves `address` for our workers during the block; yields it with the port.

    If the port is 0, it chooses one. During the block only processes of our account that share the
    port on purpose can listen there. Raises AddressUnavailable, and CommandFailure for an address
    that cannot be shared.
    """
    if address.startswith("unix:"):
        raise CommandFailure(
            f"several workers cannot share {address}: give the server host:port, or one worker"
            " (LEDGER_WORKERS=1)",
            exit_status=ExitStatus.USAGE,
        )
    with ExitStack() as reservations:
        try:
            port = _reserve(address, reservations)
        except (OSError, UnicodeError) as error:
            raise AddressUnavailable(
                f"cannot listen on {address}: it is not an address of this machine, or another"
                " server has it"
            ) from error
        yield with_port(address, port)


def _reserve(address: str, reservations: ExitStack) -> int:
    """Binds every address that `address` resolves to, all with the same port. Returns the port."""
    host, port = host_and_port(address)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, where in found:
        reservation = reservations.enter_context(socket.socket(family, kind, protocol))
        # Bind without sharing first: that fails if another process listens there, and connections
        # that have ended do not count. Then share. Two servers that start at the same instant may
        # both succeed; a server that serves already is always detected.
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind((where[0], port, *where[2:]))
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = reservation.getsockname()[1]
    return port


def worker_environment(
    settings: Settings, address: str, health_address: str, database: Database
) -> Mapping[str, str]:
    """The environment of a worker: every setting as the supervisor has it, even if `.env` changes.

    It holds the database's password, which a command line would show to other accounts.
    """
    of_the_system = {
        name: value for name, value in os.environ.items() if not name.upper().startswith("LEDGER_")
    }
    # A worker does not migrate, so it does not get the rights for that.
    changed = {
        "grpc_address": address,
        "health_address": health_address,
        "database_url": database.url,
        "migration_database_url": None,
    }
    values = settings.model_dump(mode="json") | changed
    return of_the_system | {
        f"LEDGER_{name.upper()}": str(value) for name, value in values.items() if value is not None
    }


class Supervisor:
    """Keeps `settings.workers` workers running until SIGTERM, SIGINT or the end of its terminal.

    Serves once: `run` is called one time.
    """

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str],
        *,
        on_ready: Callable[[], None],
        metrics: "SummedMetrics | None",
    ) -> None:
        """`on_ready` is called once, when all workers serve for the first time."""
        self._settings = settings
        self._environment = {**environment, **(metrics.environment if metrics is not None else {})}
        self._on_ready: Callable[[], None] | None = on_ready
        self._metrics = metrics
        self._stop = asyncio.Event()
        self._alive: dict[int, asyncio.subprocess.Process] = {}
        self._serving: set[int] = set()
        self._failed_starts = 0
        # The exit status of the worker that ended last; None if it could not be started.
        self._last_status: int | None = None

    async def run(self) -> None:
        """Runs the workers, and returns when all have ended.

        Raises CommandFailure if workers do not start and none serves.
        """
        self._listen_to_signals()
        stop = asyncio.create_task(self._stop.wait())
        keepers = [
            asyncio.create_task(self._keep(number))
            for number in range(1, self._settings.workers + 1)
        ]
        await asyncio.wait({stop, *keepers}, return_when=asyncio.FIRST_COMPLETED)
        # Either a signal has asked for the stop, or a keeper has given up.
        self._stop.set()
        _log.info("stopping", workers=len(self._alive))
        for process in self._alive.values():
            _signal(process, signal.SIGTERM)
        kill_after_seconds = stop_seconds_max(self._settings.shutdown_grace_seconds)
        _, late = await asyncio.wait(keepers, timeout=kill_after_seconds)
        if late:
            _log.error("killing workers that do not stop", workers=sorted(self._alive))
            for process in self._alive.values():
                _signal(process, signal.SIGKILL)
        failures = [
            error
            for error in await asyncio.gather(*keepers, return_exceptions=True)
            if error is not None
        ]
        _log.info("stopped")
        if failures:
            raise failures[0]

    def _listen_to_signals(self) -> None:
        """Sets handlers that outlive the loop: the database is stopped after it.

        The loop removes its handlers when it ends, and a signal would then kill the process.
        """
        loop = asyncio.get_running_loop()

        def stop(*_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._stop.set)

        def pass_on(number: int, _: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._pass_on, number)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, stop if ends_at_hangup() else pass_on)

    def _pass_on(self, number: int) -> None:
        # The signal would kill a worker that does not serve yet; it will read the files anyway.
        for worker in self._serving:
            _signal(self._alive[worker], number)

    async def _keep(self, number: int) -> None:
        """Runs a worker under this number, and starts a new one whenever it ends."""
        deaths = 0
        while not self._stop.is_set():
            served_seconds = await self._run_worker(number)
            if self._stop.is_set():
                return
            if served_seconds is None:
                self._failed_starts += 1
                if self._failed_starts >= FAILED_STARTS_MAX and not self._serving:
                    # At once, so that the other keepers neither retry nor raise this as well.
                    self._stop.set()
                    raise CommandFailure(
                        f"the workers do not start: {self._failed_starts} in a row ended before"
                        " they served, and none is left; their output is above",
                        # The same command may succeed once the database can be reached.
                        exit_status=ExitStatus.UNREACHABLE
                        if self._last_status == ExitStatus.UNREACHABLE
                        else ExitStatus.REFUSED,
                    )
            deaths = (
                1
                if served_seconds is not None and served_seconds >= SETTLED_SECONDS
                else deaths + 1
            )
            delay_seconds = jittered(
                min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * 2 ** min(deaths, 10))
            )
            try:
                async with asyncio.timeout(delay_seconds):
                    await self._stop.wait()
            except TimeoutError:
                continue

    async def _run_worker(self, number: int) -> float | None:
        """Runs a worker to its end. Returns how many seconds it served; None if it never did."""
        with ExitStack() as connections:
            try:
                our_end, worker_end = map(connections.enter_context, socket.socketpair())
                our_end.setblocking(False)
                process = await self._start(number, worker_end)
            # Out of descriptors, memory, processes, or threads (a RuntimeError). The other workers
            # may still serve, so this is not raised.
            except (OSError, RuntimeError) as error:
                _log.error("a worker cannot be started", worker=number, cause=repr(error))
                self._last_status = None
                return None
            # Only the worker may hold its end: else its death would not end the stream.
            worker_end.close()
            _log.info("worker started", worker=number, pid=process.pid)
            self._alive[number] = process
            if self._metrics is not None:
                self._metrics.started(str(number), process.pid)
            if self._stop.is_set():
                _signal(process, signal.SIGTERM)
            try:
                served_from = await self._wait_until_serving(number, process, our_end)
                status = self._last_status = await process.wait()
            finally:
                del self._alive[number]
                self._serving.discard(number)
                if self._metrics is not None:
                    self._metrics.ended(str(number))
        ended = {"worker": number, "pid": process.pid, "ended_by": _ending(status)}
        if self._stop.is_set():
            _log.info("worker ended", **ended)
        else:
            _log.warning("worker ended; another one will replace it", **ended)
        return None if served_from is None else time.monotonic() - served_from

    async def _start(self, number: int, worker_end: socket.socket) -> asyncio.subprocess.Process:
        supervisor = str(worker_end.fileno())
        command = ["serve-worker", "--number", str(number), "--supervisor", supervisor]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ledger", *command),
            env=self._environment,
            pass_fds=(worker_end.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
            # Standard output is for the supervisor's lines, which programs wait for.
            stdout=sys.stderr.fileno(),
            # Ctrl-C in the terminal is for the supervisor.
            start_new_session=True,
        )

    async def _wait_until_serving(
        self, number: int, process: asyncio.subprocess.Process, our_end: socket.socket
    ) -> float | None:
        """Waits until the worker serves; returns when that was, on the monotonic clock.

        Returns None if the worker ends before, or takes too long and is killed.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                received = await asyncio.get_running_loop().sock_recv(our_end, len(SERVING))
        except ConnectionError:
            return None
        except TimeoutError:
            _log.error("killing a worker that does not start", worker=number, pid=process.pid)
            _signal(process, signal.SIGKILL)
            return None
        if received != SERVING:
            return None
        self._serving.add(number)
        self._failed_starts = 0
        if len(self._serving) == self._settings.workers and self._on_ready is not None:
            on_ready, self._on_ready = self._on_ready, None
            on_ready()
        return time.monotonic()


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return


def _ending(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
