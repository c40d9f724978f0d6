"""Credentials against a real server: TLS, mutual TLS, and tokens that are renewed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.certificates import HERE, Authority, uri
from support.events import event_message
from support.running import RunningLedger, running_ledger
from support.tokens import token_line

from ledger.bootstrap.database import Database
from ledger.client import (
    AsyncLedger,
    Credentials,
    CredentialsError,
    Ledger,
    NotAllowed,
    NotAuthenticated,
    Unavailable,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a server with TLS, client certificates and tokens, and of its clients."""
    folder, authority = tmp_path_factory.mktemp("credentials"), Authority()
    authority.issue(*HERE).write(folder / "server.pem", folder / "server.key")
    authority.issue(uri("spiffe://test/reader")).write(folder / "reader.pem", folder / "reader.key")
    (folder / "ca.pem").write_bytes(authority.certificate_pem)
    (folder / "identities").write_text("spiffe://test/reader read\n")
    (folder / "tokens").write_text(
        token_line("first", "read", "first-secret")
        + token_line("second", "ingest,read", "second-secret")
    )
    return folder


@pytest.fixture(scope="module")
async def secured(shared_database: Database, folder: Path) -> AsyncIterator[RunningLedger]:
    settings: dict[str, Any] = {
        "tls_certificate_file": folder / "server.pem",
        "tls_key_file": folder / "server.key",
        "auth_tokens_file": folder / "tokens",
    }
    async with running_ledger(shared_database, **settings) as ledger:
        yield ledger


@asynccontextmanager
async def client(ledger: RunningLedger, **credentials: Any) -> AsyncIterator[AsyncLedger]:
    async with AsyncLedger(ledger.address, credentials=Credentials(**credentials)) as client:
        yield client


async def identities(ledger: AsyncLedger) -> int:
    """Makes a call that needs the scope `read`."""
    return len([account async for account in ledger.list_accounts()])


def list_now(address: str, credentials: Credentials) -> int:
    with Ledger(address, credentials=credentials) as ledger:
        return len(list(ledger.list_accounts()))


async def test_token_over_tls(secured: RunningLedger, folder: Path) -> None:
    """As text, in both clients; files may be given as PEM. Without a token there is no entry."""
    async with client(secured, tls_ca=folder / "ca.pem", token="first-secret") as ledger:
        assert await identities(ledger) == 0
    pem = (folder / "ca.pem").read_bytes()
    credentials = Credentials(tls_ca=pem, token="second-secret")
    assert await asyncio.to_thread(list_now, secured.address, credentials) == 0
    for wrong in ({}, {"token": "another-secret"}):
        async with client(secured, tls_ca=pem, **wrong) as ledger:
            with pytest.raises(NotAuthenticated) as refused:
                await identities(ledger)
            assert refused.value.reason == "NOT_AUTHENTICATED"


async def test_token_that_the_server_forgot_is_renewed_in_the_call(
    secured: RunningLedger, folder: Path, tmp_path: Path
) -> None:
    """From its file or by its function: no call fails when a token is replaced."""
    (tmp_path / "token").write_text("forgotten-secret")
    fetched = iter(["forgotten-secret", "second-secret"])

    async def fetch() -> str:
        return next(fetched)

    async with (
        client(secured, tls_ca=folder / "ca.pem", token=tmp_path / "token") as by_file,
        client(secured, tls_ca=folder / "ca.pem", token=fetch) as by_function,
    ):
        with pytest.raises(NotAuthenticated):
            await identities(by_file)
        (tmp_path / "token").write_text("first-secret")
        assert await identities(by_file) == 0
        assert await identities(by_function) == 0
    texts = iter(["forgotten-secret", "first-secret"])
    credentials = Credentials(tls_ca=folder / "ca.pem", token=lambda: next(texts))
    assert await asyncio.to_thread(list_now, secured.address, credentials) == 0


async def test_stream_fetches_its_token(secured: RunningLedger, folder: Path) -> None:
    """The first call of a client may be a stream; a token that was replaced is fetched anew."""
    texts = iter(["forgotten-secret", "second-secret"])

    async def fetch() -> str:
        await asyncio.sleep(0)
        return next(texts)

    async with client(secured, tls_ca=folder / "ca.pem", token=fetch) as ledger:
        outcomes = [outcome async for outcome in ledger.stream_events([event_message()])]
    assert [outcome.is_booked for outcome in outcomes] == [True]


async def test_mutual_tls(shared_database: Database, folder: Path) -> None:
    """A certificate identifies the client. Without one the server ends the connection."""
    settings: dict[str, Any] = {
        "tls_certificate_file": folder / "server.pem",
        "tls_key_file": folder / "server.key",
        "tls_client_ca_file": folder / "ca.pem",
        "auth_identities_file": folder / "identities",
    }
    async with running_ledger(shared_database, **settings) as server:
        async with client(
            server,
            tls_ca=folder / "ca.pem",
            certificate=folder / "reader.pem",
            key=folder / "reader.key",
        ) as ledger:
            assert await identities(ledger) == 0
            with pytest.raises(NotAllowed):
                await ledger.create_account("acc_1", "PEN")
        async with client(server, tls_ca=folder / "ca.pem") as ledger:
            with pytest.raises(Unavailable):
                await identities(ledger)


async def test_server_of_another_authority_is_not_trusted(
    secured: RunningLedger, folder: Path
) -> None:
    """The token is not sent to it."""
    stranger = Authority("stranger").certificate_pem
    async with client(secured, tls_ca=stranger, token="first-secret") as ledger:
        with pytest.raises(Unavailable):
            await identities(ledger)


@pytest.mark.parametrize("kind", [Ledger, AsyncLedger])
@pytest.mark.parametrize("address", ["ledger.internal:50051", "10.0.0.7:50051", "0.0.0.0:50051"])
def test_token_is_not_sent_in_plaintext_to_another_machine(
    kind: type[Ledger] | type[AsyncLedger], address: str
) -> None:
    with pytest.raises(CredentialsError, match=f"the token would go to {address} in plaintext"):
        kind(address, credentials=Credentials(token="secret"))
    kind(address, credentials=Credentials(token="secret", tls=True))
    kind(address)


async def test_token_in_plaintext_within_this_machine(
    shared_database: Database, folder: Path
) -> None:
    async with (
        running_ledger(shared_database, auth_tokens_file=folder / "tokens") as server,
        client(server, token="first-secret") as ledger,
    ):
        assert await identities(ledger) == 0


def test_credentials_that_do_not_go_together() -> None:
    for wrong, problem in (
        ({"tls": True, "certificate": b"x"}, "certificate and key go together"),
        ({"tls": True, "key": b"x"}, "certificate and key go together"),
        ({"certificate": b"x", "key": b"x"}, "a certificate needs tls_ca"),
    ):
        with pytest.raises(CredentialsError, match=problem):
            Credentials(**wrong)


def test_secrets_are_not_shown() -> None:
    shown = repr(Credentials(tls=True, certificate=b"public", key=b"secret-1", token="secret-2"))
    assert "secret" not in shown


def test_missing_file_is_found_by_the_first_call(tmp_path: Path) -> None:
    with (
        Ledger(credentials=Credentials(tls_ca=tmp_path / "missing.pem")) as ledger,
        pytest.raises(FileNotFoundError, match="missing"),
    ):
        ledger.get_account("acc_1")
