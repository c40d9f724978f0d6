"""The hosts of a database: finds the one that takes writes, and ends sessions on any other.

With one host nothing is chosen. With several, each is asked for its state (HostState), and the one
with the highest timeline that takes writes is used.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import asyncpg
import structlog
from sqlalchemy.engine import make_url

from ledger.database_url import PORT, TARGETS, driver_url, hosts_of
from ledger.infrastructure.postgres.sessions.driver import DriverConnection
from ledger.infrastructure.postgres.sessions.outages import Outages

# To open a session on one of several hosts and to read its state: a host that hangs must not delay
# the others.
CONNECT_SECONDS = 2
# The same for an only host.
CONNECT_SECONDS_ALONE = 5
# Once a host that takes writes has answered, how long the others may take to answer: one of them
# may show that it was deposed.
SETTLE_SECONDS = 0.5
# How often each host is asked.
WATCH_SECONDS = 0.5
# After this time without an answer a host is asked again in a new session.
SILENT_SECONDS = 1.0
# A wait is divided into this many steps, so that a process that was itself held up does not take
# the database for silent.
WAIT_STEPS = 10
# For a peer that vanished without closing: the kernel gives up after about ten seconds.
KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES = 5, 2, 3
UNACKNOWLEDGED_SECONDS = 10

# The first part of a log file's name is the timeline that the server writes to. It grows with each
# promotion. The control file has the timeline of the last checkpoint, which may be an older one.
SELECT_HOST_STATE = """
SELECT system_identifier,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       pg_catalog.current_setting('default_transaction_read_only')::boolean AS read_only,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN ('x' || pg_catalog.left(
                   pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::bigint
       END AS timeline
FROM pg_catalog.pg_control_system()
"""

WATCH_OPTIONS = {"server_settings": {"application_name": "ledger watch"}}

T = TypeVar("T")

_log = structlog.get_logger("ledger")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a PostgreSQL listens: a name, an address or the directory of a socket.

    Without `host` it is where the driver looks by default.
    """

    host: str | None
    port: int | None

    def __str__(self) -> str:
        if self.host is None:
            return "the default host"
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{name}:{self.port or PORT}"


@dataclass(frozen=True, slots=True)
class HostState:
    """The state that a host reports. A host in recovery has no timeline."""

    system_identifier: int
    timeline: int | None
    in_recovery: bool
    read_only: bool


@dataclass(frozen=True, slots=True)
class _Session:
    address: Address
    state: HostState


class HostUnavailable(OSError):
    """No host can be used now; the message gives the reason for each."""


class EnvironmentMisconfigured(Exception):
    """A variable of libpq has an invalid value; the message names it."""


class HostRefused(Exception):
    """The host answers and must not be used."""


# The errors that mean that a host cannot be used now. Any other refusal, such as a wrong password,
# is the same on every host.
_UNUSABLE = (
    OSError,
    HostRefused,
    asyncpg.AdminShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.ConnectionFailureError,
    asyncpg.CrashShutdownError,
)
# Errors of this process, which lacks files or memory; they say nothing about a host.
_LOCAL_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Hosts:
    """The hosts that a URL names, shared by all pools of a process.

    Sessions are opened on the host that takes writes. After `start` each host is asked twice a
    second. All sessions on the host in use are ended at once, those in use too, when that host is
    silent, takes no writes any more, or another host has been promoted. A promotion raises the
    timeline, and a session of a lower timeline is refused from then on: a deposed primary that
    wakes up is not used again.

        h1 writes timeline 1, h2 is a standby     sessions are on h1
        h1 is silent, h2 is promoted              sessions on h1 end; new ones are on h2, timeline 2
        h1 is back and writes timeline 1          h1 is refused: it was deposed
    """

    def __init__(self, url: str, *, target: str | None = None) -> None:
        """`url` is a SQLAlchemy URL as `driver_url` makes it.

        `target` is what a host must be if the URL does not say: `read-write`, `primary` or `any`.
        Without `target` a single host may be any, and one of several must take writes. Raises
        EnvironmentMisconfigured.
        """
        self.url = url
        parsed = make_url(url)
        query = dict(parsed.query)
        named = hosts_of(parsed) or _hosts_of_environment(parsed.port)
        self.addresses = tuple(Address(host, port) for host, port in named) or (
            Address(None, parsed.port),
        )
        alone = len(self.addresses) == 1
        default = _target_of_environment() or target or ("any" if alone else "read-write")
        self._target = str(query.pop("target_session_attrs", default))
        self._connect_seconds = int(
            str(query.pop("connect_timeout", CONNECT_SECONDS_ALONE if alone else CONNECT_SECONDS))
        )
        for name in ("host", "port"):
            query.pop(name, None)
        self._login = {
            "user": parsed.username,
            "password": parsed.password,
            "database": parsed.database,
            **query,
        }
        self._outages = Outages()
        self._current: Address | None = self.addresses[0] if alone else None
        self._sessions: dict[DriverConnection, _Session] = {}
        self._newest_timeline: dict[int, int] = {}
        self._finding: asyncio.Task[Address] | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._latest: dict[Address, HostState | BaseException] = {}

    @property
    def sessions(self) -> tuple[DriverConnection, ...]:
        """The open sessions, in use or not."""
        return tuple(self._sessions)

    @property
    def outages(self) -> Outages:
        return self._outages

    def start(self) -> None:
        """Starts to watch the hosts."""
        self._watching = [asyncio.create_task(self._watch(address)) for address in self.addresses]

    async def stop(self) -> None:
        """Stops watching the hosts, and drops the log lines of failures that are still delayed.

        Sessions stay open.
        """
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        self._watching = []
        self._outages.drop_delayed_lines()

    async def connect(self, **options: Any) -> DriverConnection:
        """A session on the host to use; `options` go to the driver.

        Raises HostUnavailable, or the database's error if it refuses every session, as for a wrong
        password.
        """
        address = self._current
        if address is not None:
            try:
                return await self._session(address, options)
            except _UNUSABLE as error:
                if len(self.addresses) == 1:
                    raise HostUnavailable(f"{address}: {_reason(error)}") from error
        return await self._session(await self._find_host(), options)

    async def _session(self, address: Address, options: dict[str, Any]) -> DriverConnection:
        connection, state = await _within(
            self._open(address, options), self._connect_seconds, _terminate
        )
        try:
            self._check(state)
        except BaseException:
            connection.terminate()
            raise
        self._sessions[connection] = _Session(address, state)
        connection.add_termination_listener(self._forget)
        return connection

    def _forget(self, connection: DriverConnection) -> None:
        self._sessions.pop(connection, None)

    async def _open(
        self, address: Address, options: dict[str, Any]
    ) -> tuple[DriverConnection, HostState]:
        try:
            connection = await asyncpg.connect(
                host=address.host,
                port=address.port,
                **self._login,
                **options,
                target_session_attrs="any",
                timeout=None,
            )
        except UnicodeError as error:
            raise OSError("no host can have that name") from error
        try:
            _notice_vanished_peers(connection)
            return connection, await _state_of(connection)
        except BaseException:
            connection.terminate()
            raise

    def _check(self, state: HostState) -> None:
        """Raises HostRefused if a host in this state must not be used.

        Ends the sessions on hosts that the state shows to be deposed.
        """
        if self._target != "any" and state.in_recovery:
            raise HostRefused("is a standby")
        if self._target == "read-write" and state.read_only:
            raise HostRefused("is set to read only")
        if len(self.addresses) > 1 and self._newest_timeline.keys() - {state.system_identifier}:
            raise HostRefused(
                "belongs to another database cluster than the host that was used before"
            )
        if state.timeline is None:
            return
        newest = self._newest_timeline.get(state.system_identifier, 0)
        if state.timeline < newest:
            raise HostRefused(
                f"was deposed: it writes timeline {state.timeline}, and the primary writes {newest}"
            )
        self._newest_timeline[state.system_identifier] = state.timeline
        if state.timeline > newest:
            self._end_sessions("was deposed", lambda session: _is_older(session.state, state))

    async def _find_host(self) -> Address:
        """The host to use. Asks all hosts at once; concurrent callers share one search."""
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(self._ask_all())
            # Takes the error, so that asyncio does not log it if every caller was cancelled.
            self._finding.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._finding)

    async def _ask_all(self) -> Address:
        asked = {asyncio.create_task(self._ask(address)): address for address in self.addresses}
        known = max(self._newest_timeline.values(), default=0)
        usable: dict[Address, HostState] = {}
        reasons: dict[Address, BaseException] = {}
        pending = set(asked)
        try:
            while pending:
                done, pending = await asyncio.wait(
                    pending,
                    timeout=SETTLE_SECONDS if usable else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    try:
                        usable[asked[task]] = task.result()
                    # A host that refuses may be behind the others, such as a standby that does not
                    # have the database yet.
                    except (*_UNUSABLE, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                        reasons[asked[task]] = error
                # Stop at a promotion that was unknown so far, or when no more answers come.
                if not done or any((state.timeline or 0) > known > 0 for state in usable.values()):
                    break
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        # Some of these may have been deposed according to a later answer.
        for address in sorted(
            usable, key=lambda address: usable[address].timeline or 0, reverse=True
        ):
            try:
                self._check(usable[address])
            except HostRefused as error:
                reasons[address] = error
                continue
            self._use(address)
            return address
        refusals = [error for error in reasons.values() if not isinstance(error, _UNUSABLE)]
        if refusals:
            # Such as a wrong password: the caller needs the database's own error.
            raise refusals[0]
        raise HostUnavailable(_reasons(reasons))

    async def _ask(self, address: Address) -> HostState:
        connection, state = await _within(
            self._open(address, {}), self._connect_seconds, _terminate
        )
        with suppress(*_UNUSABLE):
            await connection.close(timeout=SILENT_SECONDS)
        if self._target != "any":
            self._check(state)
        return state

    async def _watch(self, address: Address) -> None:
        """Asks one host every WATCH_SECONDS, in a dedicated session."""
        connection: DriverConnection | None = None
        try:
            while True:
                try:
                    connection, state = await self._ask_again(address, connection)
                    self._check(state)
                    self._act_on(address, state)
                except _UNUSABLE as error:
                    if getattr(error, "errno", None) not in _LOCAL_ERRNOS:
                        self._act_on(address, error)
                # Any error at all: a watch that ended would notice no failure any more.
                except Exception as error:  # noqa: BLE001
                    # The host answers, so open sessions may continue.
                    _log.debug(
                        "a database host refuses the watch", host=str(address), cause=repr(error)
                    )
                await asyncio.sleep(WATCH_SECONDS)
        finally:
            if connection is not None:
                connection.terminate()

    async def _ask_again(
        self, address: Address, connection: DriverConnection | None
    ) -> tuple[DriverConnection, HostState]:
        """The host's state, asked in `connection` or, if that fails, in a new session.

        A session may hang while the host is well.
        """
        if connection is not None and not connection.is_closed():
            try:
                return connection, await _within(_state_of(connection), SILENT_SECONDS)
            except (*_UNUSABLE, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()
        return await _within(self._open(address, WATCH_OPTIONS), self._connect_seconds, _terminate)

    def _act_on(self, address: Address, found: HostState | BaseException) -> None:
        """Acts on a host's latest state, or on the error if it gave none."""
        self._latest[address] = found
        if isinstance(found, BaseException):
            self._end_sessions(_reason(found), lambda session: session.address == address)
            if self._current == address and len(self.addresses) > 1:
                self._current = None
            errors = {
                other: error
                for other, error in self._latest.items()
                if isinstance(error, BaseException)
            }
            if len(errors) == len(self.addresses):
                self._outages.began(_reasons(errors))
            return
        current = self._latest.get(self._current) if self._current else None
        if not isinstance(current, HostState) or _is_older(current, found):
            self._use(address)
        self._outages.ended(str(address))

    def _use(self, address: Address) -> None:
        if self._current != address and len(self.addresses) > 1:
            _log.info(
                "using a database host",
                host=str(address),
                before=str(self._current) if self._current else None,
            )
        self._current = address

    def _end_sessions(self, reason: str, which: Callable[[_Session], bool]) -> None:
        """Ends the sessions that `which` selects, those in use too.

        A use of one fails with a lost connection, and the pools replace the idle ones.
        """
        ended = [
            (connection, session)
            for connection, session in self._sessions.items()
            if which(session)
        ]
        for connection, _ in ended:
            self._sessions.pop(connection, None)
            abort(connection)
        if ended:
            hosts = sorted({str(session.address) for _, session in ended})
            _log.info(
                "left a database host", host=", ".join(hosts), reason=reason, sessions=len(ended)
            )


def abort(connection: DriverConnection) -> None:
    """Ends a session that may be in use, as if the network had lost it.

    The driver's `terminate` would make a use that is between two messages fail with AttributeError.
    """
    connection._transport.abort()


def _hosts_of_environment(port: int | None) -> list[tuple[str, int | None]]:
    """The hosts that libpq's variables name, for a URL that names none; `port` is the URL's."""
    names, ports = (
        os.environ.get("PGHOST", ""),
        os.environ.get("PGPORT", "") if port is None else str(port),
    )
    parameters = {"host": names, "port": ports}
    query = "&".join(f"{name}={quote(value)}" for name, value in parameters.items() if value)
    try:
        url = make_url(driver_url(f"postgresql:///?{query}"))
    except ValueError as error:
        raise EnvironmentMisconfigured(f"PGHOST and PGPORT: the database {error}") from error
    return hosts_of(url)


def _target_of_environment() -> str | None:
    target = os.environ.get("PGTARGETSESSIONATTRS") or None
    if target is not None and target not in TARGETS:
        raise EnvironmentMisconfigured(f"PGTARGETSESSIONATTRS must be one of {', '.join(TARGETS)}")
    return target


def _is_older(state: HostState, than: HostState) -> bool:
    return state.system_identifier == than.system_identifier and (state.timeline or 0) < (
        than.timeline or 0
    )


def _notice_vanished_peers(connection: DriverConnection) -> None:
    """Makes the kernel give up a silent peer. The driver has no option for that."""
    tcp_socket = connection._transport.get_extra_info("socket")
    if tcp_socket is None or tcp_socket.family == socket.AF_UNIX:
        return
    tcp_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_SECONDS * 1000),
    ):
        # Not every system has all of them.
        if hasattr(socket, option):
            tcp_socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _state_of(connection: DriverConnection) -> HostState:
    (row,) = await connection.fetch(SELECT_HOST_STATE)
    return HostState(
        row["system_identifier"], row["timeline"], row["in_recovery"], row["read_only"]
    )


async def _within(
    work: Coroutine[Any, Any, T], seconds: float, give_up: Callable[[T], None] = lambda _: None
) -> T:
    """The result of `work`. Raises TimeoutError if it takes more than `seconds`.

    Only time counts in which this process runs. If the caller is cancelled, `give_up` gets a result
    that comes later.
    """
    task = asyncio.ensure_future(work)
    try:
        for _ in range(WAIT_STEPS):
            await asyncio.wait({task}, timeout=seconds / WAIT_STEPS)
            if task.done():
                return task.result()
        task.cancel()
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()

        def discard(task: asyncio.Task[T]) -> None:
            if not task.cancelled() and task.exception() is None:
                give_up(task.result())

        task.add_done_callback(discard)
        raise
    if task.cancelled():
        raise TimeoutError(f"no answer within {seconds:g} s")
    return task.result()


def _terminate(opened: tuple[DriverConnection, HostState]) -> None:
    opened[0].terminate()


def _reason(error: BaseException) -> str:
    """Why a host cannot be used, for people."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _reasons(errors: dict[Address, BaseException]) -> str:
    return "; ".join(f"{address}: {_reason(error)}" for address, error in errors.items())
