"""Suggests commands to try with a new server, ready to copy, with the credentials it asks for."""

import json
import shlex
from pathlib import Path
from typing import NamedTuple

from ledger.addresses import callable_address
from ledger.cli.demo_file import DEMO_FILE, read_demo_lines
from ledger.cli.serve.invocation import command_line, from_here
from ledger.settings import Settings


def first_calls(settings: Settings, listening_address: str) -> list[str]:
    """Lines for a terminal: commands that call the server, and the files that they need."""
    default_address = Settings.model_fields["grpc_address"].default
    address = callable_address(listening_address)
    option = [] if address == default_address else ["--address", address]
    credentials = _credentials(settings)
    # These options stand before the name of a command.
    shown = [word for credential in credentials for word in (credential.option, credential.shown)]
    example = read_demo_lines()[0]
    restaurant_id, currency = str(example["restaurant_id"]), str(example["currency"])
    lines = [
        "To try it, in another terminal:",
        f"  {command_line(*shown, 'ingest', from_here(DEMO_FILE), *option)}",
        f"  {command_line(*shown, 'balance', restaurant_id, currency, *option)}",
    ]
    if settings.offers_reflection and not credentials:
        request = shlex.quote(json.dumps({"restaurant_id": restaurant_id, "currency": currency}))
        lines.append(
            f"  grpcurl -plaintext -d {request} {address} ledger.v1.LedgerService/GetBalance"
        )
    missing = [credential for credential in credentials if credential.file is None]
    if missing:
        lines.append(
            "The server asks for credentials: replace the words in capitals by the names of your"
            " files."
        )
        lines.extend(f"  {credential.placeholder}: {credential.meaning}" for credential in missing)
    return lines


class _Credential(NamedTuple):
    """A file that a command needs to call the server. `file` is None if no setting names it."""

    option: str
    file: Path | None
    placeholder: str
    meaning: str

    @property
    def shown(self) -> str:
        return self.placeholder if self.file is None else from_here(self.file)


def _credentials(settings: Settings) -> list[_Credential]:
    found = []
    if settings.tls_certificate_file:
        found.append(
            _Credential(
                "--tls-ca",
                settings.client_tls_ca_file,
                "CA_FILE",
                "the authority that issued the server's certificate, in PEM",
            )
        )
    if settings.tls_client_ca_file:
        authorities = from_here(settings.tls_client_ca_file)
        meaning = f"a certificate in PEM that an authority in {authorities} issued"
        found.append(
            _Credential(
                "--tls-cert", settings.client_tls_certificate_file, "CERTIFICATE_FILE", meaning
            )
        )
        found.append(
            _Credential("--tls-key", settings.client_tls_key_file, "KEY_FILE", "its key in PEM")
        )
    if settings.auth_identities_file:
        # A caller known by a certificate needs no token.
        return found
    if settings.auth_tokens_file:
        made = command_line("token", "me", "ingest,read")
        tokens = from_here(settings.auth_tokens_file)
        meaning = f"a token and nothing else; `{made}` makes one, and its line for {tokens}"
        found.append(_Credential("--token-file", settings.client_token_file, "TOKEN_FILE", meaning))
    elif settings.jwt_jwks_file:
        meaning = f"a JWT that {settings.jwt_issuer} issued, and nothing else"
        found.append(_Credential("--token-file", settings.client_token_file, "TOKEN_FILE", meaning))
    return found
