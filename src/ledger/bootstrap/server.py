"""A server process, from the checks at the start to the end of the last call."""

import asyncio
import gc
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.addresses import with_port
from ledger.api.access.security import Security
from ledger.api.call_limits import CallLimits
from ledger.api.memory_shares import MIB, MemoryShares, memory_limit_bytes, part_of_a_worker
from ledger.api.server import Server
from ledger.api.transport.connections import HEALTH_CONNECTIONS_MAX, room_for_connections
from ledger.bootstrap.application import Application
from ledger.bootstrap.database import Database, Engines, connections_of_a_server, ping
from ledger.errors import DatabaseUnavailable
from ledger.hangup import ends_at_hangup
from ledger.infrastructure.postgres.sessions.clock import LedgerClock, host_now
from ledger.infrastructure.postgres.sessions.engine import create_engine
from ledger.infrastructure.postgres.snapshots import begin_stay_if_moved
from ledger.infrastructure.postgres.verification.start_checks import (
    check_before_serving,
    warn_of_txids_ahead,
)
from ledger.metrics import Metrics
from ledger.settings import Settings

# Python searches for garbage when there are this many objects more than after the last search. Its
# default is 700.
GARBAGE_THRESHOLD = 20_000

_log = structlog.get_logger("ledger")


def check_security(settings: Settings) -> None:
    """Raises SecurityMisconfigured if the settings cannot guard a server.

    `ledger serve` calls it before it starts a database.
    """
    Security(settings)


async def check_database(settings: Settings, database: Database) -> None:
    """Raises UnfitDatabase or DatabaseUnavailable if a server cannot or must not use `database`."""
    engine = create_engine(database.url, pool_size=2)
    try:
        await check_before_serving(
            engine,
            require_durable=settings.require_durable_database,
            require_restricted_role=settings.require_restricted_role,
        )
        await begin_stay_if_moved(engine)
    finally:
        await engine.dispose()


@dataclass(frozen=True, slots=True)
class AssembledServer:
    """A server with the application behind it, as `assemble` makes it."""

    server: Server
    application: Application

    async def start(self) -> None:
        """Answers calls and starts the background work."""
        await self.server.start()
        self.application.start()

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new calls, lets calls under way end within the grace, then ends all work."""
        self.application.request_stop()
        await self.server.stop(grace_seconds)
        await self.application.close()


async def assemble(
    settings: Settings,
    engines: Engines,
    *,
    security: Security,
    metrics: Metrics,
    share_port: bool = False,
    host_clock: Callable[[], datetime] = host_now,
) -> AssembledServer:
    """Assembles a server on the database of `engines`, for `ledger serve` and for tests.

    Binds the port, and answers nothing before `start`. Raises AddressUnavailable.
    """
    application = Application(settings, engines, metrics.work, host_clock=host_clock)
    # A standby that is being promoted accepts no session yet: the first ping reads its clock.
    with suppress(DatabaseUnavailable):
        await application.clock.measure(engines.ping)
    shares = _memory_shares(settings)
    server = Server(
        application.service,
        accounts=application.accounts,
        payments=application.payments,
        address=settings.grpc_address,
        health_address=settings.health_address,
        reflect=settings.offers_reflection,
        ping=partial(_ping_and_read_clock, application.clock, engines.ping),
        share_port=share_port,
        connection_age_seconds=settings.max_connection_age_seconds,
        connections_max=min(
            shares.connections, room_for_connections(_descriptors_for_others(settings))
        ),
        limits=CallLimits(settings.open_calls, settings.open_streams, shares.large_places),
        metrics=metrics.calls,
        security=security,
        call_log=application.call_log,
    )
    return AssembledServer(server, application)


async def run_server(
    settings: Settings,
    database: Database,
    *,
    on_ready: Callable[[str, str], None],
    metrics: Metrics,
    share_port: bool = False,
) -> None:
    """Serves until SIGTERM or SIGINT, or until the terminal is closed; then drains.

    Calls `on_ready` once calls are answered, with the address and the one for health checks alone.
    With `share_port` other processes can serve at the same address, each some of the connections.
    Raises AddressUnavailable, UnfitDatabase, SecurityMisconfigured, DatabaseUnavailable.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    security = Security(settings)
    loop.add_signal_handler(
        signal.SIGHUP, stop.set if ends_at_hangup() else partial(_reload, security)
    )
    engines = Engines.of(database.url, settings)
    try:
        await check_database(settings, database)
        assembled = await assemble(
            settings, engines, security=security, metrics=metrics, share_port=share_port
        )
        security.reloader.start()
        await assembled.start()
        # Beside the calls, because it takes longer the more accounts there are.
        comparing_txids = asyncio.create_task(warn_of_txids_ahead(engines.other))
        _tune_garbage_collection()
        on_ready(
            with_port(settings.grpc_address, assembled.server.port),
            with_port(settings.health_address, assembled.server.health_port),
        )
        await stop.wait()
        _log.info("stopping")
        comparing_txids.cancel()
        await assembled.stop(settings.shutdown_grace_seconds)
    finally:
        security.reloader.stop()
        await engines.dispose()
    _log.info("stopped")


def _descriptors_for_others(settings: Settings) -> int:
    """How many file descriptors a server needs for the database and the port of health checks."""
    return connections_of_a_server(settings) + (
        HEALTH_CONNECTIONS_MAX if settings.health_address else 0
    )


def _memory_shares(settings: Settings) -> MemoryShares:
    memory_bytes = settings.memory_megabytes * MIB or memory_limit_bytes()
    own_bytes = None if memory_bytes is None else part_of_a_worker(memory_bytes, settings.workers)
    shares = MemoryShares.of(
        own_bytes,
        queue_bytes=settings.ingest_queue_megabytes * MIB,
        bookings=2 * settings.ingest_concurrency,
        streams=settings.open_streams,
    )
    if own_bytes is not None and shares.sum_bytes > own_bytes:
        _log.warning(
            "requests may take more memory than there is",
            memory_megabytes=own_bytes // MIB,
            needed_megabytes=shares.sum_bytes // MIB,
        )
    return shares


def _reload(security: Security) -> None:
    if security.reloader.has_files:
        security.reloader.reload(forced=True)
    else:
        _log.info("SIGHUP: there are no certificates or tokens to read again")


def _tune_garbage_collection() -> None:
    """Makes Python search less for garbage.

    Objects that exist by now stay, so they are never searched again. Calls leave hardly any
    reference cycles, so a search is needed less often than by default.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 50)


async def _ping_and_read_clock(clock: LedgerClock, engine: AsyncEngine) -> None:
    await ping(engine)
    await clock.measure(engine)
