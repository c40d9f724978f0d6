"""Commands that call a server with authentication, and the command that makes tokens."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import HERE, Authority, uri
from support.commands import Outcome, run_command
from support.running import RunningLedger, running_ledger

from ledger.api.access.credential_files import read_tokens
from ledger.bootstrap.database import Database
from ledger.cli.failures import ExitStatus


async def made_token(identity: str, scopes: str, tokens: Path) -> str:
    """Makes a token by `ledger token`, and adds its line to the file."""
    _, token, _, line = (await run_command("token", identity, scopes)).stdout.splitlines()
    with tokens.open("a") as file:
        file.write(f"{line}\n")
    return token


@pytest.fixture
async def secured(shared_database: Database, tmp_path: Path) -> AsyncIterator[RunningLedger]:
    """A server with TLS, client certificates and tokens; all files are in one directory."""
    authority = Authority()
    authority.issue(*HERE).write(tmp_path / "server.pem", tmp_path / "server.key")
    authority.issue(uri("spiffe://test/reader")).write(
        tmp_path / "reader.pem", tmp_path / "reader.key"
    )
    (tmp_path / "ca.pem").write_bytes(authority.certificate_pem)
    (tmp_path / "identities").write_text("spiffe://test/reader read\n")
    (tmp_path / "operator").write_text(
        await made_token("operator", "admin", tmp_path / "tokens") + "\n"
    )
    settings: dict[str, Any] = {
        "tls_certificate_file": tmp_path / "server.pem",
        "tls_key_file": tmp_path / "server.key",
        "tls_client_ca_file": tmp_path / "ca.pem",
        "auth_identities_file": tmp_path / "identities",
        "auth_tokens_file": tmp_path / "tokens",
    }
    async with running_ledger(shared_database, **settings) as ledger:
        yield ledger


AS_READER = ("--tls-ca", "ca.pem", "--tls-cert", "reader.pem", "--tls-key", "reader.key")
LIST = ("restaurants", "list")
PUT = ("restaurants", "put", "res_1", "--name", "Chifa")


async def call(
    ledger: RunningLedger, options: tuple[str, ...], command: tuple[str, ...]
) -> Outcome:
    return await run_command(*options, *command, "--address", ledger.address)


async def test_commands_send_credentials(
    secured: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From options before the command, or from settings. A token goes before a certificate."""
    assert (await call(secured, AS_READER, LIST)).status == 0
    refused = await call(secured, AS_READER, PUT)
    assert (refused.status, refused.stderr.split(":")[1].strip()) == (
        ExitStatus.REFUSED,
        "PERMISSION_DENIED SCOPE_MISSING",
    )
    assert (await call(secured, (*AS_READER, "--token-file", "operator"), PUT)).status == 0
    for name, value in {
        "TLS_CA": "ca.pem",
        "TLS_CERTIFICATE": "reader.pem",
        "TLS_KEY": "reader.key",
        "TOKEN": "operator",
    }.items():
        monkeypatch.setenv(f"LEDGER_CLIENT_{name}_FILE", value)
    assert (await call(secured, (), PUT)).status == 0
    assert (await call(secured, (), LIST)).status == ExitStatus.REFUSED


async def test_commands_without_credentials_cannot_connect(secured: RunningLedger) -> None:
    """Reported as no response, with a hint at what may be missing."""
    for options in ((), ("--tls-ca", "ca.pem")):
        outcome = await call(secured, options, LIST)
        assert outcome.status == ExitStatus.UNREACHABLE
        assert "--tls-ca" in outcome.stderr


async def test_token_goes_in_plaintext_to_this_machine_only(
    shared_database: Database, tmp_path: Path
) -> None:
    """To a loopback address, for trials."""
    (tmp_path / "operator").write_text(await made_token("operator", "read", tmp_path / "tokens"))
    async with running_ledger(shared_database, auth_tokens_file=tmp_path / "tokens") as ledger:
        assert (await call(ledger, ("--token-file", "operator"), LIST)).status == 0
        refused = await call(ledger, (), LIST)
        assert refused.status == ExitStatus.REFUSED
        assert refused.stderr.startswith("error: UNAUTHENTICATED NOT_AUTHENTICATED: ")
        assert (
            "--token-file before the name of the command, or with LEDGER_CLIENT_TOKEN_FILE"
            in refused.stderr
        )
    outcome = await run_command("--token-file", "operator", *LIST, "--address", "192.0.2.1:50051")
    assert (outcome.status, len(outcome.stderr.splitlines())) == (ExitStatus.USAGE, 1)
    assert "in plaintext" in outcome.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ("--tls-cert", "a"),
            "LEDGER_CLIENT_TLS_CERTIFICATE_FILE and LEDGER_CLIENT_TLS_KEY_FILE go together",
        ),
        (
            ("--tls-cert", "a", "--tls-key", "b"),
            "LEDGER_CLIENT_TLS_CERTIFICATE_FILE does nothing without LEDGER_CLIENT_TLS_CA_FILE",
        ),
        (("--tls-ca", "missing"), "cannot read missing: No such file or directory"),
        (("--token-file", "missing"), "cannot read missing: No such file or directory"),
        (("--token-file", "empty"), "empty holds no token"),
    ],
)
async def test_bad_credentials_are_reported(
    tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    """In a line, with status 2."""
    (tmp_path / "empty").write_text("\n")
    outcome = await run_command(*options, *LIST)
    assert (outcome.status, outcome.stderr) == (ExitStatus.USAGE, f"error: {says}\n")


async def test_token_is_random_and_its_line_fits_it(tmp_path: Path) -> None:
    """The printed line can be used as it is, and no two tokens are alike."""
    made = {await made_token("gateway", "ingest,read", tmp_path / "tokens") for _ in range(3)}
    assert len(made) == 3
    assert [token.identity for token in read_tokens(tmp_path / "tokens")] == ["gateway"] * 3


@pytest.mark.parametrize(
    "arguments",
    [("two words", "read"), ("gateway", "everything"), ("a#b", "read"), ("gateway", "")],
)
async def test_token_that_no_server_would_accept_is_not_made(arguments: tuple[str, ...]) -> None:
    """Status 2 and one line."""
    outcome = await run_command("token", *arguments)
    assert (outcome.status, outcome.stdout, len(outcome.stderr.splitlines())) == (
        ExitStatus.USAGE,
        "",
        1,
    )


async def test_server_beyond_this_machine_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before it starts a database; with status 2 and what to set."""
    monkeypatch.setenv("LEDGER_DATA_DIR", str(tmp_path / "data"))
    outcome = await run_command("serve", "--address", "0.0.0.0:0")
    assert (outcome.status, outcome.stdout) == (ExitStatus.USAGE, "")
    assert len(outcome.stderr.splitlines()) == 1
    assert "LEDGER_ALLOW_INSECURE=true" in outcome.stderr
    assert not (tmp_path / "data").exists()
