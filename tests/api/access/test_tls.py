"""TLS on the server's port: accepted clients, and certificates replaced while it runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2
from structlog.testing import capture_logs
from support.certificates import HERE, Authority, Issued, uri

from ledger.api.access.security import Security, SecurityMisconfigured
from ledger.api.server import Server
from ledger.settings import Settings
from ledger.v1 import ledger_pb2_grpc

CLIENT = uri("spiffe://test/gateway")


@dataclass(frozen=True, slots=True)
class TlsServer:
    """A server without books that responds to health checks over TLS."""

    address: str
    security: Security
    folder: Path


async def _ping() -> None:
    pass


def tls_settings(folder: Path, **further: Any) -> Settings:
    """The settings of a server whose files are in `folder`."""
    further = {
        "tls_certificate_file": folder / "server.pem",
        "tls_key_file": folder / "server.key",
        **further,
    }
    return Settings(_env_file=None, grpc_address="127.0.0.1:0", **further)


def clients(folder: Path) -> dict[str, Path]:
    """The settings with which the server demands certificates of its clients."""
    return {
        "tls_client_ca_file": folder / "clients.pem",
        "auth_identities_file": folder / "identities",
    }


@asynccontextmanager
async def tls_server(folder: Path, **settings: Any) -> AsyncIterator[TlsServer]:
    security = Security(tls_settings(folder, **settings))
    # The tests call none of its methods.
    servicer = ledger_pb2_grpc.LedgerServiceServicer()  # type: ignore[abstract]
    server = Server(servicer, address="127.0.0.1:0", reflect=False, ping=_ping, security=security)
    await server.start()
    try:
        yield TlsServer(f"127.0.0.1:{server.port}", security, folder)
    finally:
        await server.stop(0)


async def health(
    address: str, authority: Authority | None, client: Issued | None = None
) -> int | grpc.StatusCode:
    """The result of a health check on a new connection, or the code of its failure."""
    channel = aio.insecure_channel(address)
    if authority is not None:
        pair = (None, None) if client is None else (client.key_pem, client.certificate_pem)
        channel = aio.secure_channel(
            address, grpc.ssl_channel_credentials(authority.certificate_pem, *pair)
        )
    async with channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            response: health_pb2.HealthCheckResponse = await check(
                health_pb2.HealthCheckRequest(), timeout=60
            )
        except aio.AioRpcError as error:
            return error.code()
        return response.status


SERVING = health_pb2.HealthCheckResponse.SERVING
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def folder(tmp_path: Path, authority: Authority) -> Path:
    """A folder with the files of a server, and the authority for its clients."""
    authority.issue(*HERE).write(tmp_path / "server.pem", tmp_path / "server.key")
    (tmp_path / "clients.pem").write_bytes(authority.certificate_pem)
    (tmp_path / "identities").write_text("spiffe://test/gateway read\n")
    return tmp_path


async def test_server_with_a_certificate_takes_only_tls(folder: Path, authority: Authority) -> None:
    """A client that trusts the authority connects.

    One that trusts another authority, or uses plaintext, does not.
    """
    async with tls_server(folder) as server:
        assert await health(server.address, authority) == SERVING
        assert await health(server.address, Authority("another")) == UNAVAILABLE
        assert await health(server.address, None) == UNAVAILABLE


async def test_client_certificate_is_demanded_and_verified(
    folder: Path, authority: Authority
) -> None:
    """Without a valid certificate of the authority the handshake fails, even for a health check.

    Tried with none, with another authority's and with an expired one.
    """
    async with tls_server(folder, **clients(folder)) as server:
        assert await health(server.address, authority, authority.issue(CLIENT)) == SERVING
        assert await health(server.address, authority) == UNAVAILABLE
        assert (
            await health(server.address, authority, Authority("another").issue(CLIENT))
            == UNAVAILABLE
        )
        expired = authority.issue(CLIENT, lasts=timedelta(minutes=-1))
        assert await health(server.address, authority, expired) == UNAVAILABLE


@pytest.mark.parametrize("forced", [False, True], ids=["found changed", "SIGHUP"])
async def test_new_certificate_is_used_without_a_restart(
    folder: Path, authority: Authority, forced: bool
) -> None:
    """New connections get it. Certificates of a replaced authority are refused from then on."""
    another = Authority("another")
    async with tls_server(folder, **clients(folder)) as server:
        another.issue(*HERE).write(folder / "server.pem", folder / "server.key")
        (folder / "clients.pem").write_bytes(another.certificate_pem)
        assert await health(server.address, authority, authority.issue(CLIENT)) == SERVING
        _reload(server.security, forced=forced)
        assert await health(server.address, another, another.issue(CLIENT)) == SERVING
        assert await health(server.address, authority, authority.issue(CLIENT)) == UNAVAILABLE
        assert await health(server.address, another, authority.issue(CLIENT)) == UNAVAILABLE


def _reload(security: Security, *, forced: bool) -> None:
    security.reloader.reload(forced=forced)


async def test_broken_certificate_changes_nothing(folder: Path, authority: Authority) -> None:
    """Half of a pair, or garbage, is logged once as an error; the server keeps the old pair."""
    async with tls_server(folder) as server:
        Authority("another").issue(*HERE).write(folder / "server.pem", folder / "unused.key")
        with capture_logs() as lines:
            server.security.reloader.reload()
            server.security.reloader.reload()
        assert [line["log_level"] for line in lines] == ["error"]
        assert "is not the key of the certificate" in lines[0]["why"]
        assert await health(server.address, authority) == SERVING
        (folder / "server.pem").unlink()
        with capture_logs() as lines:
            server.security.reloader.reload(forced=True)
        assert [line["log_level"] for line in lines] == ["error"]
        assert await health(server.address, authority) == SERVING
        authority.issue(*HERE).write(folder / "server.pem", folder / "server.key")
        server.security.reloader.reload()
        assert await health(server.address, authority) == SERVING


def test_expired_certificate_of_the_server_is_logged(folder: Path, authority: Authority) -> None:
    """The log says so; clients refuse such a certificate by themselves."""
    authority.issue(*HERE, lasts=timedelta(minutes=-1)).write(
        folder / "server.pem", folder / "server.key"
    )
    with capture_logs() as lines:
        Security(tls_settings(folder))
    assert [line["event"] for line in lines] == ["the server's certificate has expired"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"tls_key_file": None},
            "LEDGER_TLS_CERTIFICATE_FILE does nothing without LEDGER_TLS_KEY_FILE",
        ),
        (
            {"tls_certificate_file": None},
            "LEDGER_TLS_KEY_FILE does nothing without LEDGER_TLS_CERTIFICATE_FILE",
        ),
        (
            {
                "tls_certificate_file": None,
                "tls_key_file": None,
                "tls_client_ca_file": "clients.pem",
            },
            "LEDGER_TLS_CLIENT_CA_FILE does nothing without LEDGER_TLS_CERTIFICATE_FILE",
        ),
        (
            {"tls_certificate_file": "missing.pem"},
            "cannot read missing.pem: No such file or directory",
        ),
        ({"tls_certificate_file": "server.key"}, "server.key holds no certificate in PEM"),
        (
            {"tls_key_file": "server.pem"},
            "server.pem holds no private key in PEM without a passphrase",
        ),
        ({"tls_key_file": "other.key"}, "other.key is not the key of the certificate in "),
        (
            {**clients(Path()), "tls_client_ca_file": "other.key"},
            "other.key holds no certificate in PEM",
        ),
        (
            {**clients(Path()), "tls_client_ca_file": "large.pem"},
            "large.pem is larger than 4194304 bytes",
        ),
    ],
)
def test_malformed_files_are_refused(
    folder: Path,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    says: str,
) -> None:
    """The server refuses to start. The error names the setting or the file and shows no key."""
    monkeypatch.chdir(folder)
    authority.issue(*HERE).write(folder / "other.pem", folder / "other.key")
    with (folder / "large.pem").open("wb") as large:
        large.truncate(5 * 1024 * 1024)
    with pytest.raises(SecurityMisconfigured) as caught:
        Security(tls_settings(folder, **settings))
    assert str(caught.value).startswith(says)
    assert "PRIVATE" not in str(caught.value)


async def test_changed_files_are_read_without_a_signal(
    folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server looks for changed files again and again, even after an unexpected error."""
    monkeypatch.setattr("ledger.api.access.reloading.POLL_SECONDS", 0.01)
    another = Authority("another")
    async with tls_server(folder) as server:
        reloader = server.security.reloader
        reload, failures = reloader.reload, iter([RuntimeError("defect")])

        def fail_once() -> None:
            for failure in failures:
                raise failure
            reload()

        monkeypatch.setattr(reloader, "reload", fail_once)
        server.security.reloader.start()
        try:
            another.issue(*HERE).write(folder / "server.pem", folder / "server.key")
            async with asyncio.timeout(60):
                while True:
                    if await health(server.address, another) == SERVING:
                        break
                    await asyncio.sleep(0.02)
        finally:
            server.security.reloader.stop()


@pytest.mark.parametrize("is_removed", [True, False])
async def test_missing_authority_file_lets_no_client_in(
    folder: Path, authority: Authority, is_removed: bool
) -> None:
    """New connections accept no client's certificate until the file is back.

    A server does not start without the file.
    """
    client = authority.issue(CLIENT)
    async with tls_server(folder, **clients(folder)) as server:
        assert await health(server.address, authority, client) == SERVING
        if is_removed:
            (folder / "clients.pem").unlink()
        else:
            (folder / "clients.pem").write_bytes(b"")
        server.security.reloader.reload()
        assert await health(server.address, authority, client) == UNAVAILABLE
        with pytest.raises(SecurityMisconfigured):
            Security(tls_settings(folder, **clients(folder)))
        (folder / "clients.pem").write_bytes(authority.certificate_pem)
        server.security.reloader.reload()
        assert await health(server.address, authority, client) == SERVING


@pytest.mark.parametrize("name", ["server.pem", "server.key", "clients.pem", "identities"])
async def test_file_that_others_may_write_is_refused(folder: Path, name: str) -> None:
    """Both the key and the authorities.

    An account that can write the key could pretend to be the server; one that can write the
    authorities could admit itself.
    """
    (folder / name).chmod(0o666)
    with pytest.raises(
        SecurityMisconfigured, match=f"{name} may be written by others than its owner"
    ):
        Security(tls_settings(folder, **clients(folder)))


async def test_missing_key_leaves_the_old_one_in_force(folder: Path, authority: Authority) -> None:
    """The old key admits no caller, and without any key the server could serve none."""
    client = authority.issue(CLIENT)
    async with tls_server(folder, **clients(folder)) as server:
        (folder / "server.key").unlink()
        with capture_logs() as lines:
            server.security.reloader.reload()
        assert [line["event"] for line in lines] == [
            "a new file is unusable: the old contents stay in force"
        ]
        assert await health(server.address, authority, client) == SERVING
