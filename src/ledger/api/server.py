"""The gRPC server: the services, health and reflection at one address, health alone at another."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ledger.api.access.security import Security
from ledger.api.call_frame import CallFrame
from ledger.api.call_limits import CallLimits
from ledger.api.methods import SERVICE_NAMES
from ledger.api.metrics import CallMetrics, NoCallMetrics
from ledger.api.reflection import Reflection
from ledger.api.transport.connections import CONNECTIONS_MAX, HEALTH_CONNECTIONS_MAX
from ledger.api.transport.listening import AddressUnavailable, Listener
from ledger.application.call_log import CallLog
from ledger.freed_memory import memory_trimmer
from ledger.limits import LAST_CALLS_SECONDS_MAX, MESSAGE_BYTES_MAX
from ledger.repeating import Repeating
from ledger.v1 import account_pb2_grpc, ledger_pb2_grpc, payment_pb2_grpc

METADATA_BYTES_MAX = 16 * 1024
WINDOW_BYTES = 16 * 1024
STREAMS_MAX = 128
CONNECTION_IDLE_SECONDS = 300
HANDSHAKE_SECONDS = 10
PING_INTERVAL_MIN_SECONDS = 10
PING_INTERVAL_SECONDS = 2.0
PING_TIMEOUT_SECONDS = 2.0
# One failed ping may be a hiccup.
FAILED_PINGS_MAX = 2
# A stopping server refuses the last calls for this long, and for up to LAST_CALLS_SECONDS_MAX while
# calls still come.
LAST_CALLS_SECONDS = 0.5
# In steps: if the system halts the process, it loses one of them and not all.
LAST_CALLS_STEP_SECONDS = 0.05
# No call has come for this many steps: clients know that the server stops.
LAST_CALLS_QUIET_STEPS = 4

# Longer than the longest deadline in the service config: only streams are still open then.
CONNECTION_AGE_GRACE_SECONDS = 180

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # Calls of a method that the server has not taken up; gRPC cancels further ones, by default from
    # 1,000 on. No more than the server serves within most deadlines, some three seconds' worth:
    # with more, each call would be taken up too late.
    ("grpc.server.max_pending_requests", 10_000),
    ("grpc.server.max_pending_requests_hard_limit", 12_000),
    # Further calls of a connection wait at its client, cost nothing here and end with their
    # deadline. Otherwise a few connections could fill the queue above. Calls of all clients would
    # then be cancelled, which clients do not repeat.
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    # Streams that were reset or have just ended, and are not cleared away. By default they count as
    # open: most calls of a client that keeps to the limit above are then refused without a reason.
    # Not more: calls whose client gave up stay in the queue above until their turn.
    ("grpc.http2.max_deallocating_streams", 2 * STREAMS_MAX),
    # Off: a stream may send its first window before we read its message, and no more. This probe
    # lets windows grow to 4 MiB, and a stranger could fill that on every stream.
    ("grpc.http2.bdp_probe", 0),
    # The first window; by default 64 KiB. The largest valid event fits into it.
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    # More than the longest token and a trace take, so that we refuse a token that is too long. Two
    # different limits would make the library refuse at random between them.
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    # For the handshakes of TLS and HTTP/2 together, from the first byte on. By default two minutes,
    # in which silent connections would keep the places of others.
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    # Closes connections without an open call. A watch or a stream is an open call.
    ("grpc.max_connection_idle_ms", CONNECTION_IDLE_SECONDS * 1000),
    # Ends the calls and streams of a client that vanished and no longer responds to pings.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Clients behind a NAT may ping this often, with and without calls. gRPC disconnects a client
    # that pings too early more than twice.
    ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MIN_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
)

# For the listener that serves only health checks.
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
    """A server of the contract's services, health and reflection.

    Health `""` says that the process is alive; the health of each service follows the database.
    """

    def __init__(
        self,
        service: ledger_pb2_grpc.LedgerServiceServicer,
        *,
        accounts: account_pb2_grpc.AccountServiceServicer | None = None,
        payments: payment_pb2_grpc.PaymentServiceServicer | None = None,
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
        """`ping` raises if the database cannot be used. Without `security` every caller may call.

        Calls of `accounts` or `payments` end with METHOD_NOT_IMPLEMENTED if it is None.

        At `health_address` the server serves only health checks, in plaintext and with separate
        limits, so that no load at `address` keeps a probe out.

        `share_port` is for worker processes under a supervisor. For other servers it is off: a
        second server on the same port would start, and silently take half of the calls.

        Clients are asked to close connections older than `connection_age_seconds`, give or take a
        tenth; 0: never. Raises AddressUnavailable.
        """
        options = (
            *_OPTIONS,
            *_age_options(connection_age_seconds),
            # Each costs about 60 KiB; gRPC closes further ones at once.
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
        # It has the two methods of a server that generated code calls.
        framed = cast(aio.Server, self._frame)
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(service, framed)
        account_pb2_grpc.add_AccountServiceServicer_to_server(
            accounts or account_pb2_grpc.AccountServiceServicer(),  # type: ignore[abstract]
            framed,
        )
        payment_pb2_grpc.add_PaymentServiceServicer_to_server(
            payments or payment_pb2_grpc.PaymentServiceServicer(),  # type: ignore[abstract]
            framed,
        )
        self._add_health(self._frame)
        if reflect:
            reflection = Reflection((*SERVICE_NAMES, health.SERVICE_NAME))
            for name, handlers in reflection.handlers().items():
                self._frame.add_registered_method_handlers(name, handlers)

    @property
    def port(self) -> int:
        """The port of `address`; without meaning for a unix socket."""
        return self._listener.port

    @property
    def health_port(self) -> int:
        """The port of `health_address`; 0 without one."""
        return 0 if self._health_listener is None else self._health_listener.port

    def _add_health(self, frame: CallFrame) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._health, cast(aio.Server, frame))

    async def start(self) -> None:
        """Begins to serve. Each service's health is SERVING once the database can be used."""
        await self._set_health(serves=False)
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
        if (trimmer := memory_trimmer()) is not None:
            self._background.append(trimmer.in_background())
        for repeating in self._background:
            repeating.start()

    async def stop(self, grace_seconds: float) -> None:
        """Ends the server.

        Health says NOT_SERVING, new calls are refused, open calls have `grace_seconds` to end, and
        the rest is cancelled.
        """
        for repeating in self._background:
            repeating.cancel()
        await self._health.enter_graceful_shutdown()
        self._frame.stop()
        if self._health_frame is not None:
            self._health_frame.stop()
        # The library would end calls that it has not handed to us with CANCELLED, which clients do
        # not repeat. We refuse them with SHUTTING_DOWN until clients know that this server stops.
        await self._refuse_last_calls(grace_seconds)
        await self._listener.stop(grace_seconds)
        if self._health_listener is not None:
            # Last: until then it reports that the server stops.
            await self._health_listener.stop(0)

    async def _refuse_last_calls(self, grace_seconds: float) -> None:
        """Waits for LAST_CALLS_SECONDS, then until no more calls come, within `grace_seconds`."""
        steps = round(min(LAST_CALLS_SECONDS, grace_seconds) / LAST_CALLS_STEP_SECONDS)
        steps_max = round(min(LAST_CALLS_SECONDS_MAX, grace_seconds) / LAST_CALLS_STEP_SECONDS)
        quiet_steps = 0
        for step in range(steps_max):
            if step >= steps and quiet_steps >= LAST_CALLS_QUIET_STEPS:
                return
            calls = self._frame.last_calls
            await asyncio.sleep(LAST_CALLS_STEP_SECONDS)
            quiet_steps = quiet_steps + 1 if self._frame.last_calls == calls else 0

    async def _follow_database(self) -> None:
        """Pings the database and sets the health of the services."""
        try:
            async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                await self._ping()
        except Exception as error:  # noqa: BLE001  # not SERVING, whatever it is
            self._failed_pings += 1
            if self._failed_pings == FAILED_PINGS_MAX:
                # `postgres/sessions` logs the database, and why it cannot be used.
                _log.info(
                    "not serving: the database does not answer, or takes no writes",
                    cause=repr(error.__cause__ or error),
                )
                await self._set_health(serves=False)
            return
        if self._failed_pings:
            _log.info("serving: the database answers")
        self._failed_pings = 0
        await self._set_health(serves=True)

    async def _set_health(self, *, serves: bool) -> None:
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serves
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in SERVICE_NAMES:
            await self._health.set(name, status)
