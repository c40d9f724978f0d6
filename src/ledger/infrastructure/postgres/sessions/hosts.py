"""The hosts of a database: which of them takes writes, and how sessions on one that no longer does are given up."""

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

# For one host, its judgement included: a host that stands still must not hide those after it.
CONNECT_SECONDS = 2
# For the only host there is.
CONNECT_SECONDS_ALONE = 5
# How long a host that takes writes waits for the word of the others, which may say that it was deposed.
SETTLE_SECONDS = 0.5
# How often each host is asked.
WATCH_SECONDS = 0.5
# Without an answer for so long a host is asked in a new session.
SILENT_SECONDS = 1.0
# Waited for one after the other, so that a process that was itself held up does not take the database for silent.
PATIENCE_STEPS = 10
# For a peer that vanished without a word: the kernel gives up after about ten seconds.
KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES = 5, 2, 3
UNACKNOWLEDGED_SECONDS = 10

# The first part of a log file's name is the timeline that the server writes to. It grows with each promotion. The control file
# has the one of the last checkpoint, which may be of before.
STANDING = """
SELECT system_identifier,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       pg_catalog.current_setting('default_transaction_read_only')::boolean AS read_only,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN ('x' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::bigint
       END AS timeline
FROM pg_catalog.pg_control_system()
"""

WATCH_OPTIONS = {"server_settings": {"application_name": "ledger watch"}}

T = TypeVar("T")

_log = structlog.get_logger("ledger")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a PostgreSQL listens: a name, an address or a socket's directory; without one, where the driver looks."""

    host: str | None
    port: int | None

    def __str__(self) -> str:
        if self.host is None:
            return "the default host"
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{name}:{self.port or PORT}"


@dataclass(frozen=True, slots=True)
class Standing:
    """What a host says of itself. A host in recovery has no timeline."""

    system_identifier: int
    timeline: int | None
    in_recovery: bool
    read_only: bool


@dataclass(frozen=True, slots=True)
class _Session:
    address: Address
    standing: Standing


class HostUnavailable(OSError):
    """No host can be used; the message names each with its reason."""


class EnvironmentMisconfigured(Exception):
    """A variable of libpq is not as it must be; the message names it."""


class HostRefused(Exception):
    """The host answers and must not be used."""


# What tells that a host cannot be used now. Another refusal, such as a wrong password, is the same on every host.
_UNUSABLE = (
    OSError,
    HostRefused,
    asyncpg.AdminShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.ConnectionFailureError,
    asyncpg.CrashShutdownError,
)
# What this process lacks says nothing of a host.
_OWN_TROUBLES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Hosts:
    """The hosts that a URL names, shared by all pools of a process.

    Sessions are opened on the host that takes writes. Once `start` was called each host is asked twice a second; when the one in
    use is silent, or takes no writes any more, or another one has been promoted, all sessions on it are ended at once, those in
    use too. A promoted host has a higher timeline: a session of a lower one is refused from then on, so that a deposed primary
    that wakes up is not used again.
    """

    def __init__(self, url: str, *, target: str | None = None) -> None:
        """`url` is a SQLAlchemy URL as `driver_url` makes it.

        `target` is what is asked of a host where the URL does not say: `read-write`, `primary`, or `any`. Without it the only
        host may be any, and of several it must take writes. Raises EnvironmentMisconfigured.
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
        self._seen: dict[Address, Standing | BaseException] = {}

    @property
    def sessions(self) -> tuple[DriverConnection, ...]:
        """Those that are open, in use or not."""
        return tuple(self._sessions)

    @property
    def outages(self) -> Outages:
        return self._outages

    def start(self) -> None:
        """Begins to watch the hosts."""
        self._watching = [asyncio.create_task(self._watch(address)) for address in self.addresses]

    async def stop(self) -> None:
        """Ends the watch; sessions stay as they are."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        self._watching = []
        self._outages.close()

    async def connect(self, **options: Any) -> DriverConnection:
        """A session on the host to use, with these options of the driver.

        Raises HostUnavailable, or what the database says to all who come, such as of a wrong password.
        """
        address = self._current
        if address is not None:
            try:
                return await self._session(address, options)
            except _UNUSABLE as error:
                if len(self.addresses) == 1:
                    raise HostUnavailable(f"{address}: {_reason(error)}") from error
        return await self._session(await self._find(), options)

    async def _session(self, address: Address, options: dict[str, Any]) -> DriverConnection:
        connection, standing = await _patiently(
            self._open(address, options), self._connect_seconds, _terminate
        )
        try:
            self._judge(standing)
        except BaseException:
            connection.terminate()
            raise
        self._sessions[connection] = _Session(address, standing)
        connection.add_termination_listener(self._forget)
        return connection

    def _forget(self, connection: DriverConnection) -> None:
        self._sessions.pop(connection, None)

    async def _open(
        self, address: Address, options: dict[str, Any]
    ) -> tuple[DriverConnection, Standing]:
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
            return connection, await _standing(connection)
        except BaseException:
            connection.terminate()
            raise

    def _judge(self, standing: Standing) -> None:
        """Raises HostRefused for a host that must not be used. Ends the sessions on those that it tells to be deposed."""
        if self._target != "any" and standing.in_recovery:
            raise HostRefused("is a standby")
        if self._target == "read-write" and standing.read_only:
            raise HostRefused("is set to read only")
        if len(self.addresses) > 1 and self._newest_timeline.keys() - {standing.system_identifier}:
            raise HostRefused(
                "belongs to another database cluster than the host that was used before"
            )
        if standing.timeline is None:
            return
        newest = self._newest_timeline.get(standing.system_identifier, 0)
        if standing.timeline < newest:
            raise HostRefused(
                f"was deposed: it writes timeline {standing.timeline}, and the primary writes {newest}"
            )
        self._newest_timeline[standing.system_identifier] = standing.timeline
        if standing.timeline > newest:
            self._end_sessions("was deposed", lambda session: _is_older(session.standing, standing))

    async def _find(self) -> Address:
        """The host to use, asked of all of them at once, and once for all who want to know at the same time."""
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(self._ask_all())
            # It may be that nobody waits for it any more.
            self._finding.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._finding)

    async def _ask_all(self) -> Address:
        asked = {asyncio.create_task(self._ask(address)): address for address in self.addresses}
        known = max(self._newest_timeline.values(), default=0)
        usable: dict[Address, Standing] = {}
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
                    # One that refuses may be behind the others, as a standby that lacks the database yet.
                    except (*_UNUSABLE, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                        reasons[asked[task]] = error
                # A promotion that nobody knew of has the last word; so has silence.
                if not done or any(
                    (standing.timeline or 0) > known > 0 for standing in usable.values()
                ):
                    break
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        # Those that a later answer has deposed are among them.
        for address in sorted(
            usable, key=lambda address: usable[address].timeline or 0, reverse=True
        ):
            try:
                self._judge(usable[address])
            except HostRefused as error:
                reasons[address] = error
                continue
            self._use(address)
            return address
        refusals = [error for error in reasons.values() if not isinstance(error, _UNUSABLE)]
        if refusals:
            # As of a wrong password: to be told in its own words.
            raise refusals[0]
        raise HostUnavailable(_reasons(reasons))

    async def _ask(self, address: Address) -> Standing:
        connection, standing = await _patiently(
            self._open(address, {}), self._connect_seconds, _terminate
        )
        with suppress(*_UNUSABLE):
            await connection.close(timeout=SILENT_SECONDS)
        if self._target != "any":
            self._judge(standing)
        return standing

    async def _watch(self, address: Address) -> None:
        """Asks one host again and again, in a session of its own."""
        connection: DriverConnection | None = None
        try:
            while True:
                try:
                    connection, standing = await self._look(address, connection)
                    self._judge(standing)
                    self._see(address, standing)
                except _UNUSABLE as error:
                    if getattr(error, "errno", None) not in _OWN_TROUBLES:
                        self._see(address, error)
                except Exception as error:  # noqa: BLE001  # whatever it is: a watch that ended would see nothing any more
                    # It answers, so sessions that are open may go on.
                    _log.debug(
                        "a database host lets no watch in", host=str(address), cause=repr(error)
                    )
                await asyncio.sleep(WATCH_SECONDS)
        finally:
            if connection is not None:
                connection.terminate()

    async def _look(
        self, address: Address, connection: DriverConnection | None
    ) -> tuple[DriverConnection, Standing]:
        """What a host says in its session, or in a new one: a session may be stuck where the host is not."""
        if connection is not None and not connection.is_closed():
            try:
                return connection, await _patiently(_standing(connection), SILENT_SECONDS)
            except (*_UNUSABLE, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()
        return await _patiently(
            self._open(address, WATCH_OPTIONS), self._connect_seconds, _terminate
        )

    def _see(self, address: Address, found: Standing | BaseException) -> None:
        """Draws the conclusions from what a host said, or from its silence."""
        self._seen[address] = found
        if isinstance(found, BaseException):
            self._end_sessions(_reason(found), lambda session: session.address == address)
            if self._current == address and len(self.addresses) > 1:
                self._current = None
            errors = {
                other: error
                for other, error in self._seen.items()
                if isinstance(error, BaseException)
            }
            if len(errors) == len(self.addresses):
                self._outages.began(_reasons(errors))
            return
        current = self._seen.get(self._current) if self._current else None
        if not isinstance(current, Standing) or _is_older(current, found):
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
        """Ends sessions, those in use too: whoever uses one is told that it was lost, and the pools replace the others."""
        ended = [
            (connection, session)
            for connection, session in self._sessions.items()
            if which(session)
        ]
        for connection, _ in ended:
            self._sessions.pop(connection, None)
            lose(connection)
        if ended:
            hosts = sorted({str(session.address) for _, session in ended})
            _log.info(
                "left a database host", host=", ".join(hosts), reason=reason, sessions=len(ended)
            )


def lose(connection: DriverConnection) -> None:
    """Ends a session that somebody may be using, as if the network had lost it.

    The driver's own way takes the ground from under a use that is between two messages: it fails with AttributeError.
    """
    connection._transport.abort()


def _hosts_of_environment(port: int | None) -> list[tuple[str, int | None]]:
    """The hosts in libpq's variables, which stand in for what a URL leaves out; `port` is the URL's. None where none is named."""
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


def _is_older(standing: Standing, than: Standing) -> bool:
    return standing.system_identifier == than.system_identifier and (standing.timeline or 0) < (
        than.timeline or 0
    )


def _notice_vanished_peers(connection: DriverConnection) -> None:
    """Has the kernel give up a peer that answers nothing. The driver has no way to say so."""
    plug = connection._transport.get_extra_info("socket")
    if plug is None or plug.family == socket.AF_UNIX:
        return
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_SECONDS * 1000),
    ):
        # Not every system has all of them.
        if hasattr(socket, option):
            plug.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _standing(connection: DriverConnection) -> Standing:
    (row,) = await connection.fetch(STANDING)
    return Standing(row["system_identifier"], row["timeline"], row["in_recovery"], row["read_only"])


async def _patiently(
    work: Coroutine[Any, Any, T], seconds: float, give_up: Callable[[T], None] = lambda _: None
) -> T:
    """The result of `work`, if it comes within so many seconds of this process. Raises TimeoutError.

    `give_up` gets a result that comes when nobody waits for it any more.
    """
    task = asyncio.ensure_future(work)
    try:
        for _ in range(PATIENCE_STEPS):
            await asyncio.wait({task}, timeout=seconds / PATIENCE_STEPS)
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


def _terminate(opened: tuple[DriverConnection, Standing]) -> None:
    opened[0].terminate()


def _reason(error: BaseException) -> str:
    """Why a host cannot be used, in words."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _reasons(errors: dict[Address, BaseException]) -> str:
    return "; ".join(f"{address}: {_reason(error)}" for address, error in errors.items())
