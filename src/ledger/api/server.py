"""The gRPC server: the ledger service, health and reflection on one port."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

import grpc
import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from ledger.api.authorization import SERVICE_NAME
from ledger.api.call_frame import CallFrame
from ledger.api.connections import CONNECTIONS_MAX
from ledger.api.crowding import CallLimits
from ledger.api.metrics import CallMetrics, UncountedCalls
from ledger.api.security import Security
from ledger.api.unix_socket import PREFIX, SocketTaken, UnixSocket
from ledger.application.audit_log import AuditLog
from ledger.freed_memory import freed_memory
from ledger.v1 import ledger_pb2_grpc

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
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
    # For TLS and the settings of HTTP/2 together; by default two minutes, in which silent connections
    # would keep the places of others.
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

_log = structlog.get_logger("ledger.server")


def _age_options(seconds: int) -> tuple[tuple[str, int], ...]:
    if not seconds:
        return ()
    return (
        ("grpc.max_connection_age_ms", seconds * 1000),
        ("grpc.max_connection_age_grace_ms", CONNECTION_AGE_GRACE_SECONDS * 1000),
    )


class AddressUnavailable(Exception):
    """The server cannot listen where it was told to."""


def _claimed_socket(address: str) -> UnixSocket | None:
    """The unix socket of `address`, if it is one. Raises AddressUnavailable."""
    if not address.startswith(PREFIX):
        return None
    try:
        return UnixSocket(address)
    except SocketTaken as error:
        raise AddressUnavailable(f"cannot listen on {address}: {error}") from error
    except OSError as error:
        raise AddressUnavailable(f"cannot listen on {address}: {error.strerror}: {error.filename}") from error


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
        connection_age_seconds: int = 0,
        connections_max: int = CONNECTIONS_MAX,
        limits: CallLimits = CallLimits(),  # noqa: B008  # frozen
        metrics: CallMetrics | None = None,
        security: Security | None = None,
        audit_log: AuditLog | None = None,
    ) -> None:
        """`ping` asks the database for a sign of life and raises when there is none. Without `security` anybody may call.

        `share_port` is for workers under a supervisor. Otherwise a second server on the same port would start, and silently take
        half of the calls. Connections older than `connection_age_seconds`, give or take a tenth, are asked to go; 0 means never.
        """
        options = (
            *_OPTIONS,
            *_age_options(connection_age_seconds),
            # A connection costs about 60 KiB; those beyond are closed at once.
            ("grpc.max_allowed_incoming_connections", connections_max),
            ("grpc.so_reuseport", int(share_port)),
        )
        self._server = aio.server(options=options)
        gates = None if security is None else partial(security.gate, audit_log=audit_log)
        self._frame = CallFrame(self._server, limits, metrics or UncountedCalls(), gates)
        self._health = health.aio.HealthServicer()
        self._ping = ping
        self._watching: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        # It has what those who add services ask of a server.
        framed = cast(aio.Server, self._frame)
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(service, framed)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, framed)
        if reflect:
            names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            # The library's own way would look at the class of the server and take the servicer for threads.
            add_reflection: Callable[[object, aio.Server], None] = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
            add_reflection(reflection.aio.ReflectionServicer(names), framed)
        self._socket = _claimed_socket(address)
        self.port = self._listen(address, None if security is None else security.credentials())

    def _listen(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Returns the port. Raises AddressUnavailable."""
        bind_address = address if self._socket is None else self._socket.bind_address
        try:
            if credentials is None:
                port = self._server.add_insecure_port(bind_address)
            else:
                port = self._server.add_secure_port(bind_address, credentials)
            if self._socket is not None:
                self._socket.publish()
        except (RuntimeError, OSError) as error:
            if self._socket is not None:
                self._socket.release()
            raise AddressUnavailable(
                f"cannot listen on {address}: it is not an address of this machine, or another server has it"
            ) from error
        return port

    async def start(self) -> None:
        """Begins to answer; the service is told as serving once the database answers."""
        await self._health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()
        await self._follow_database_once(failed_pings=FAILED_PINGS_MAX - 1)
        self._watching = asyncio.create_task(self._follow_database())
        if (freed := freed_memory()) is not None:
            self._looking = asyncio.create_task(freed.keep_looking())

    async def stop(self, grace_seconds: float) -> None:
        """Tells health checks first, takes no new calls, lets those under way end within the grace, cancels the rest."""
        for task in (self._watching, self._looking):
            if task is not None:
                task.cancel()
        await self._health.enter_graceful_shutdown()
        self._frame.stop()
        # What has arrived and was not handed to us yet, the library would answer with CANCELLED, which nobody repeats. We answer
        # it, until callers have heard that there is nothing more to be had here.
        for _ in range(LAST_CALLS_STEPS):
            await asyncio.sleep(min(LAST_CALLS_SECONDS, grace_seconds) / LAST_CALLS_STEPS)
        await self._server.stop(grace_seconds)
        if self._socket is not None:
            self._socket.release()

    async def _follow_database(self) -> None:
        failed_pings = 0
        while True:
            await asyncio.sleep(PING_INTERVAL_SECONDS)
            failed_pings = await self._follow_database_once(failed_pings)

    async def _follow_database_once(self, failed_pings: int) -> int:
        """Pings and sets the health accordingly. Returns how many pings have failed in a row."""
        try:
            async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                await self._ping()
        except Exception as error:  # noqa: BLE001  # whatever it is: a watch that ended would say SERVING for ever
            if failed_pings + 1 == FAILED_PINGS_MAX:
                # Where the database is, and why it is away, those who watch it tell.
                _log.info("not serving: the database does not answer, or takes no writes", cause=repr(error.__cause__ or error))
                await self._health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.NOT_SERVING)
            return min(failed_pings + 1, FAILED_PINGS_MAX)
        if failed_pings:
            _log.info("serving: the database answers")
        await self._health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)
        return 0
