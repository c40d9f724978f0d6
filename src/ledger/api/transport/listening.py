"""A gRPC server at an address: host:port, or a unix socket that no other server has."""

import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import structlog
from grpc import aio

from ledger.api.transport.unix_socket import PREFIX, SocketTaken, UnixSocket

# Rounded up by the kernel, which doubles the time between its attempts: 63 s.
SILENCE_SECONDS = 60
_DESCRIPTORS = Path("/proc/self/fd")

_log = structlog.get_logger("ledger.server")


class AddressUnavailable(Exception):
    """The server cannot listen at its address."""


class Listener:
    """A gRPC server that listens at `address` once it is made, and serves once it is started."""

    def __init__(
        self,
        address: str,
        options: tuple[tuple[str, int], ...],
        *,
        credentials: grpc.ServerCredentials | None = None,
        share_port: bool = False,
    ) -> None:
        """Without `credentials` the server speaks plaintext. Raises AddressUnavailable."""
        self.server = aio.server(options=(*options, ("grpc.so_reuseport", int(share_port))))
        self._socket = _claimed_socket(address)
        self.port = self._listen(address, credentials)

    def _listen(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        bind_address = address if self._socket is None else self._socket.bind_address
        try:
            if credentials is None:
                port = self.server.add_insecure_port(bind_address)
            else:
                port = self.server.add_secure_port(bind_address, credentials)
            if self._socket is not None:
                self._socket.publish()
        except (RuntimeError, OSError) as error:
            self.release()
            raise AddressUnavailable(
                f"cannot listen on {address}: it is not an address of this machine, or another "
                "server has it"
            ) from error
        return port

    async def start(self) -> None:
        """Begins to serve."""
        await self.server.start()
        if self._socket is None:
            # From here on: the library may open further sockets of the port when it starts.
            keep_silent_connections_out(self.port)

    async def stop(self, grace_seconds: float) -> None:
        """Takes no new calls, cancels open ones after `grace_seconds`, and calls `release`."""
        await self.server.stop(grace_seconds)
        self.release()

    def release(self) -> None:
        """Gives up the unix socket, so that another server can have it."""
        if self._socket is not None:
            self._socket.release()


def _claimed_socket(address: str) -> UnixSocket | None:
    """The unix socket of `address`, if it is one. Raises AddressUnavailable."""
    if not address.startswith(PREFIX):
        return None
    try:
        return UnixSocket(address)
    except SocketTaken as error:
        raise AddressUnavailable(f"cannot listen on {address}: {error}") from error
    except OSError as error:
        raise AddressUnavailable(
            f"cannot listen on {address}: {error.strerror}: {error.filename}"
        ) from error


def keep_silent_connections_out(port: int) -> None:
    """Makes the kernel keep connections to `port` until their client sends a byte.

    It keeps them for at most SILENCE_SECONDS. Until then a connection takes no descriptor, memory
    or place here. The kernel holds net.core.somaxconn of them; further ones are accepted. Clients
    of HTTP/2 and of TLS send first. Only on Linux.
    """
    if sys.platform != "linux":
        return
    sockets = 0
    # The library does not show its sockets, and has no option for this.
    for listening in _listening_sockets(port):
        with listening, suppress(OSError):
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, SILENCE_SECONDS)
            sockets += 1
    if not sockets:
        _log.warning(
            "silent connections take the places of others: the system does not keep them out",
            port=port,
        )


def _listening_sockets(port: int) -> Iterator[socket.socket]:
    """Yields a duplicate of each TCP socket of this process that listens on `port`. Close each."""
    try:
        descriptors = [int(entry.name) for entry in _DESCRIPTORS.iterdir()]
    except OSError:
        return
    for descriptor in descriptors:
        # Other threads may close the descriptor at any time.
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            duplicate = socket.socket(fileno=os.dup(descriptor))
            if _listens_on(duplicate, port):
                yield duplicate
            else:
                duplicate.close()


def _listens_on(candidate: socket.socket, port: int) -> bool:
    return (
        candidate.family in {socket.AF_INET, socket.AF_INET6}
        and candidate.type == socket.SOCK_STREAM
        and candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        and candidate.getsockname()[1] == port
    )
