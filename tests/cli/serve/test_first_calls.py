"""The first calls that a new server prints."""

import shlex
from pathlib import Path

import pytest

from ledger.cli.demo_file import DEMO_FILE
from ledger.cli.serve.first_calls import first_calls
from ledger.cli.serve.invocation import from_here
from ledger.settings import Settings

ADDRESS = "127.0.0.1:50051"
TLS = {"tls_certificate_file": "server.pem", "tls_key_file": "server.key"}
TOKENS = {"auth_tokens_file": "tokens"}
CERTIFICATES = {"tls_client_ca_file": "clients.pem", "auth_identities_file": "identities"}
JWTS = {"jwt_jwks_file": "jwks.json", "jwt_issuer": "https://issuer.test", "jwt_audience": "ledger"}
CLIENT_TLS = {"client_tls_certificate_file": "me.pem", "client_tls_key_file": "me.key"}


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command under its usual name."""
    monkeypatch.setattr("sys.argv", [str(Path.cwd() / "ledger")])


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({}, "", []),
        (TOKENS, "--token-file TOKEN_FILE ", ["TOKEN_FILE"]),
        (TOKENS | {"client_token_file": "mine"}, "--token-file mine ", []),
        (JWTS, "--token-file TOKEN_FILE ", ["TOKEN_FILE"]),
        (TLS, "--tls-ca CA_FILE ", ["CA_FILE"]),
        (TLS | TOKENS, "--tls-ca CA_FILE --token-file TOKEN_FILE ", ["CA_FILE", "TOKEN_FILE"]),
        (
            TLS | TOKENS | CERTIFICATES,
            "--tls-ca CA_FILE --tls-cert CERTIFICATE_FILE --tls-key KEY_FILE ",
            ["CA_FILE", "CERTIFICATE_FILE", "KEY_FILE"],
        ),
        (
            TLS | CERTIFICATES | CLIENT_TLS,
            "--tls-ca CA_FILE --tls-cert me.pem --tls-key me.key ",
            ["CA_FILE"],
        ),
    ],
)
def test_first_calls_show_the_credentials_that_the_server_asks_for(
    settings: dict[str, str], options: str, words: list[str]
) -> None:
    """File names from the settings, or words in capitals that are explained below."""
    # pydantic's plugin for mypy does not know dictionaries of keywords.
    configured = Settings(_env_file=None, **settings)  # type: ignore[arg-type]
    lines = first_calls(configured, ADDRESS)
    assert lines[1].startswith(f"  ledger {options}ingest ")
    assert lines[2] == f"  ledger {options}balance res_barranco PEN"
    assert ("grpcurl" in "".join(lines)) is not bool(options)
    assert [line.split(":")[0].strip() for line in lines[4:]] == words


@pytest.mark.usefixtures("_installed")
def test_first_calls_have_the_address_of_the_server() -> None:
    """At loopback if the server listens at all addresses; the default address is left out."""
    settings = Settings(_env_file=None)
    assert first_calls(settings, "0.0.0.0:50051")[2] == "  ledger balance res_barranco PEN"
    assert (
        first_calls(settings, "[::]:7")[2]
        == "  ledger balance res_barranco PEN --address 127.0.0.1:7"
    )
    words = shlex.split(first_calls(settings, "127.0.0.1:7")[1])
    assert words[-3:] == [from_here(DEMO_FILE), "--address", "127.0.0.1:7"]
