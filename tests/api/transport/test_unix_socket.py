"""Servers on unix sockets: one server per path, and none removes the file of another program."""

import errno
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from support.commands import TIMEOUT_SECONDS, run_process
from support.processes import server_process
from support.running import role_settings
from support.waiting import until

from ledger.api.transport.unix_socket import SocketTaken, UnixSocket
from ledger.bootstrap.database import Database
from ledger.cli.failures import ExitStatus
from ledger.limits import SOCKET_PATH_BYTES_MAX


@pytest.fixture
def path() -> Iterator[Path]:
    """The path of the socket.

    A path below pytest's folders may be longer than a socket's address can be.
    """
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        yield Path(folder) / "l.sock"


@pytest.fixture
def listener(path: Path) -> Iterator[socket.socket]:
    """A server at the path that takes no lock."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(os.fspath(path))
        listening.listen(1)
        yield listening


def bind(claimed: UnixSocket) -> socket.socket:
    """Binds the address as gRPC does."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(unquote(claimed.bind_address.removeprefix("unix:")))
    bound.listen(1)
    return bound


def knock(path: Path) -> int:
    """The error number of a connection attempt; 0 if a server listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(os.fspath(path))


async def test_second_server_on_a_unix_socket_fails_loudly(
    database: Database, path: Path, tmp_path: Path
) -> None:
    """It writes one line and exits with status 1.

    The first server stays reachable and removes its socket when it stops; another can follow.
    """
    settings = {"grpc_address": f"unix:{path}"}
    async with server_process(database, tmp_path / "first.log", **settings) as first:
        env = {
            "LEDGER_DATABASE_URL": database.url,
            "LEDGER_GRPC_ADDRESS": f"unix:{path}",
            **role_settings(database),
        }
        second = await run_process("serve", env=env | {"LEDGER_REQUIRE_DURABLE_DATABASE": "false"})
        assert (second.status, second.stdout) == (ExitStatus.REFUSED, "")
        assert f"error: cannot listen on unix:{path}: another server listens there" in second.stderr
        await first.assert_well()
    assert knock(path) == errno.ENOENT
    async with server_process(database, tmp_path / "next.log", **settings) as following:
        await following.assert_well()


async def test_socket_of_a_killed_server_is_replaced(
    database: Database, path: Path, tmp_path: Path
) -> None:
    """SIGKILL leaves the file behind; the next server takes its place."""
    settings = {"grpc_address": f"unix:{path}"}
    async with server_process(database, tmp_path / "first.log", **settings) as first:
        os.kill(first.pid, signal.SIGKILL)
        # The file exists, and no server listens.
        await until(lambda: knock(path) == errno.ECONNREFUSED, TIMEOUT_SECONDS)
        async with server_process(database, tmp_path / "next.log", **settings) as following:
            await following.assert_well()


@pytest.mark.usefixtures("listener")
def test_server_without_a_lock_keeps_its_socket(path: Path) -> None:
    """The server may be an older one, or another program."""
    with pytest.raises(SocketTaken, match="another server listens there"):
        UnixSocket(f"unix:{path}")


def test_file_that_is_no_socket_is_not_replaced(path: Path) -> None:
    """The file belongs to another program."""
    path.write_text("a letter")
    with pytest.raises(SocketTaken, match="no socket"):
        UnixSocket(f"unix:{path}")
    assert path.read_text() == "a letter"


@pytest.mark.parametrize("spelling", ["unix:{}", "unix://{}"])
def test_stop_leaves_a_replaced_socket_alone(path: Path, spelling: str) -> None:
    """Another program has replaced the socket before the stop."""
    claimed = UnixSocket(spelling.format(path))
    with bind(claimed):
        claimed.publish()
        path.unlink()
        path.touch()
        claimed.release()
    assert path.exists()


def test_claim_ends_with_its_release(path: Path) -> None:
    """A refused claim does not keep the path either."""
    first = UnixSocket(f"unix:{path}")
    with pytest.raises(SocketTaken):
        UnixSocket(f"unix:{path}")
    first.release()
    path.write_text("")
    with pytest.raises(SocketTaken):
        UnixSocket(f"unix:{path}")
    path.unlink()
    UnixSocket(f"unix:{path}").release()


@pytest.mark.parametrize("name", ["l", "é%20"])
@pytest.mark.parametrize("spare_bytes", [0, 1, 6, 7])
def test_path_may_be_as_long_as_a_socket_can_have(path: Path, name: str, spare_bytes: int) -> None:
    """The name that gRPC listens at is no longer than the path."""
    length = (
        SOCKET_PATH_BYTES_MAX - spare_bytes - len(os.fsencode(path.parent)) - 1 - len(name.encode())
    )
    place = path.with_name("x" * length + name)
    claimed = UnixSocket(f"unix:{quote(str(place))}")
    with bind(claimed):
        claimed.publish()
        assert knock(place) == 0
    claimed.release()
    assert not place.exists()


def test_path_that_is_too_long_is_refused(path: Path) -> None:
    """The error says so, and not that another server has the address."""
    place = path.with_name("x" * SOCKET_PATH_BYTES_MAX)
    with pytest.raises(OSError, match="longer than") as caught:
        UnixSocket(f"unix:{place}")
    assert caught.value.filename == str(place)
