"""The gRPC server: the ledger service, health and reflection on one port, and health alone on another."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from ledger.api.access.security import Security
from ledger.api.call_frame import CallFrame
from ledger.api.call_limits import CallLimits
from ledger.api.methods import SERVICE_NAME
from ledger.api.metrics import CallMetrics, NoCallMetrics
from ledger.api.transport.connections import CONNECTIONS_MAX, HEALTH_CONNECTIONS_MAX
from ledger.api.transport.listening import AddressUnavailable, Listener
from ledger.application.call_log import CallLog
from ledger.freed_memory import freed_memory
from ledger.limits import MESSAGE_BYTES_MAX
from ledger.repeating import Repeating
from ledger.v1 import ledger_pb2_grpc

METADATA_BYTES_MAX = 16 * 1024
WINDOW_BYTES = 16 * 1024
STREAMS_MAX = 128
CONNECTION_IDLE_SECONDS = 300
HANDSHAKE_SECONDS = 10
PING_INTERVAL_MIN_SECONDS = 10
PING_INTERVAL_SECONDS = 2.0
PING_TIMEOUT_SECONDS = 2.0
# A single failed ping may be a hiccup; a second one is not.
FAILED_PINGS_MAX = 2
LAST_CALLS_SECONDS = 0.5
# Waited for one after the other: a process that the system halts meanwhile loses one of them and not the whole time.
LAST_CALLS_STEPS = 10

# Longer than the longest deadline that we recommend to callers: only streams are still open then.
CONNECTION_AGE_GRACE_SECONDS = 180

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # Calls of a method that are not taken up yet; those beyond are cancelled, by default from a thousand on. No more than can be
    # answered within the deadlines of most callers, some three seconds' worth, lest all that is taken up is too late.
    ("grpc.server.max_pending_requests", 10_000),
    ("grpc.server.max_pending_requests_hard_limit", 12_000),
    # What a connection has beyond them waits at its client, where it costs nothing here and ends with its deadline. Otherwise a
    # few connections could fill the queue above, and everybody's calls would be cancelled, which nobody repeats.
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    # Streams that have ended and are not cleared away yet, which happens when a call was reset or was just answered. By default
    # they count as open, and most calls of a client that keeps to the limit above are refused with no word about why. Not more:
    # calls that were given up while they waited stand in the queue above until their turn.
    ("grpc.http2.max_deallocating_streams", 2 * STREAMS_MAX),
    # A stream may send its first window before we read its message, and no more: with this probe
    # windows grow to 4 MiB, which a stranger then may fill on every stream.
    ("grpc.http2.bdp_probe", 0),
    # That window; by default 64 KiB. The largest event that is valid fits into it.
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    # Beyond the longest token and a trace: a token that is too long is to be refused by us. Between a lower and a higher limit
    # the library would refuse at random.
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    # For TLS and the settings of HTTP/2 together, from the first byte on; by default two minutes, in
    # which connections that say no more would keep the places of others.
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    # Whoever connects and says nothing is shown out; a connection with an open call, a watch or a stream, is not idle.
    ("grpc.max_connection_idle_ms", CONNECTION_IDLE_SECONDS * 1000),
    # A client that vanished without a word holds its calls and streams until nobody answers a ping.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Clients behind a NAT may ping as often, with and without calls; whoever does it more than twice too early is cut off.
    ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MIN_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
)

# Of the listener for health checks alone.
_HEALTH_OPTIONS = tuple(
    (
        dict(_OPTIONS)
        | {
            "grpc.max_receive_message_length": 4096,
            "grpc.max_concurrent_streams": 16,
            "grpc.max_allowed_incoming_connections": HEALTH_CONNECTIONS_MAX,
        }
    ).items()
)

_log = structlog.get_logger("ledger.server")


def _age_options(seconds: int) -> tuple[tuple[str, int], ...]:
    if not seconds:
        return ()
    return (
        ("grpc.max_connection_age_ms", seconds * 1000),
        ("grpc.max_connection_age_grace_ms", CONNECTION_AGE_GRACE_SECONDS * 1000),
    )


class Server:
    """A server around `service`. Health `""` means that the process is alive; the service's own follows the database."""

    def __init__(
        self,
        service: ledger_pb2_grpc.LedgerServiceServicer,
        *,
        address: str,
        reflect: bool,
        ping: Callable[[], Awaitable[None]],
        share_port: bool = False,
        health_address: str = "",
        connection_age_seconds: int = 0,
        connections_max: int = CONNECTIONS_MAX,
        limits: CallLimits = CallLimits(),  # noqa: B008  # frozen
        metrics: CallMetrics | None = None,
        security: Security | None = None,
        call_log: CallLog | None = None,
    ) -> None:
        """`ping` asks the database for a sign of life and raises when there is none. Without `security` anybody may call.

        At `health_address` the server answers health checks and nothing else, in plaintext, with
        bounds apart: what happens at `address` keeps no probe out. Raises AddressUnavailable.

        `share_port` is for workers under a supervisor. Otherwise a second server on the same port would start, and silently take
        half of the calls. Connections older than `connection_age_seconds`, give or take a tenth, are asked to go; 0 means never.
        """
        options = (
            *_OPTIONS,
            *_age_options(connection_age_seconds),
            # A connection costs about 60 KiB; those beyond are closed at once.
            ("grpc.max_allowed_incoming_connections", connections_max),
        )
        metrics = metrics or NoCallMetrics()
        self._health = health.aio.HealthServicer()
        self._ping = ping
        self._failed_pings = FAILED_PINGS_MAX - 1
        self._background: list[Repeating] = []
        self._health_listener: Listener | None = None
        self._health_frame: CallFrame | None = None
        if health_address:
            self._health_listener = Listener(health_address, _HEALTH_OPTIONS, share_port=share_port)
            self._health_frame = CallFrame(self._health_listener.server, limits, metrics)
            self._add_health(self._health_frame)
        try:
            credentials = None if security is None else security.credentials()
            self._listener = Listener(
                address, options, credentials=credentials, share_port=share_port
            )
        except AddressUnavailable:
            if self._health_listener is not None:
                self._health_listener.release()
            raise
        gate_of = None if security is None else partial(security.gate, call_log=call_log)
        self._frame = CallFrame(self._listener.server, limits, metrics, gate_of)
        # It has what those who add services ask of a server.
        framed = cast(aio.Server, self._frame)
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(service, framed)
        self._add_health(self._frame)
        if reflect:
            names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            # The library's own way would look at the class of the server and take the servicer for threads.
            add_reflection: Callable[[object, aio.Server], None] = (
                reflection_pb2_grpc.add_ServerReflectionServicer_to_server
            )
            add_reflection(reflection.aio.ReflectionServicer(names), framed)

    @property
    def port(self) -> int:
        """Where calls are answered; of a unix socket it means nothing."""
        return self._listener.port

    @property
    def health_port(self) -> int:
        """Where only health checks are answered; 0 if that is nowhere."""
        return 0 if self._health_listener is None else self._health_listener.port

    def _add_health(self, frame: CallFrame) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._health, cast(aio.Server, frame))

    async def start(self) -> None:
        """Begins to answer; the service is told as serving once the database answers."""
        await self._health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._health_listener is not None:
            await self._health_listener.start()
        await self._listener.start()
        await self._follow_database()
        following = Repeating(
            "following the database",
            self._follow_database,
            every_seconds=PING_INTERVAL_SECONDS,
            begins_at_once=False,
            has_jitter=False,
        )
        self._background = [following]
        if (freed := freed_memory()) is not None:
            self._background.append(freed.looking())
        for repeating in self._background:
            repeating.start()

    async def stop(self, grace_seconds: float) -> None:
        """Tells health checks first, takes no new calls, lets those under way end within the grace, cancels the rest."""
        for repeating in self._background:
            repeating.cancel()
        await self._health.enter_graceful_shutdown()
        self._frame.stop()
        if self._health_frame is not None:
            self._health_frame.stop()
        # What has arrived and was not handed to us yet, the library would answer with CANCELLED, which nobody repeats. We answer
        # it, until callers have heard that there is nothing more to be had here.
        for _ in range(LAST_CALLS_STEPS):
            await asyncio.sleep(min(LAST_CALLS_SECONDS, grace_seconds) / LAST_CALLS_STEPS)
        await self._listener.stop(grace_seconds)
        if self._health_listener is not None:
            # Last: until then it tells that the server stops.
            await self._health_listener.stop(0)

    async def _follow_database(self) -> None:
        """Pings and sets the health accordingly."""
        try:
            async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                await self._ping()
        except Exception as error:  # noqa: BLE001  # whatever it is, the server must not say SERVING
            self._failed_pings += 1
            if self._failed_pings == FAILED_PINGS_MAX:
                # Where the database is, and why it is away, those who watch it tell.
                _log.info(
                    "not serving: the database does not answer, or takes no writes",
                    cause=repr(error.__cause__ or error),
                )
                await self._health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.NOT_SERVING)
            return
        if self._failed_pings:
            _log.info("serving: the database answers")
        self._failed_pings = 0
        await self._health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)
