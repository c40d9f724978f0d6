"""Who the client is, and how it knows the server."""

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import grpc

from ledger.addresses import is_within_this_machine
from ledger.client.tokens import (
    CredentialsError,
    FetchedToken,
    FixedToken,
    TokenFile,
    TokenFunction,
    TokenSource,
)

# A file by its path, or PEM itself.
Pem = str | PathLike[str] | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """TLS, a client certificate, a token; whatever the server asks for.

    `tls_ca` names the authorities that the server's certificate may come from; `tls` alone trusts
    those that gRPC brings along. `certificate` and `key` identify the client (mutual TLS).
    Each is a path, or PEM as bytes; they are read once, when the client is made.

    `token` is the text of a token, the Path of a file that is read again when it changes, or a
    function that returns the next token. With AsyncLedger the function may be a coroutine function;
    another one runs in a thread. It returns a text or a `Token`. Before a token expires, by its
    `expires_at` or, if it is a JWT, by its claim `exp`, the function is called again; of any other
    token every five minutes.

    A token is never sent in plaintext beyond this machine.
    """

    tls_ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = field(default=None, repr=False)
    token: str | PathLike[str] | TokenFunction | None = field(default=None, repr=False)
    tls: bool = False

    def __post_init__(self) -> None:
        """Raises CredentialsError if some of them do not go together."""
        if (self.certificate is None) != (self.key is None):
            raise CredentialsError("certificate and key go together")
        if self.certificate is not None and not self.is_tls:
            raise CredentialsError("a certificate needs tls_ca, or tls")

    @property
    def is_tls(self) -> bool:
        """Whether calls go through TLS."""
        return self.tls or self.tls_ca is not None

    def check(self, address: str) -> None:
        """Raises CredentialsError if a token would go to another machine in plaintext."""
        if self.token is not None and not self.is_tls and not is_within_this_machine(address):
            raise CredentialsError(f"the token would go to {address} in plaintext")

    def of_channel(self, address: str) -> grpc.ChannelCredentials | None:
        """What gRPC needs for a channel to `address`; None: plaintext.

        Raises OSError if a file cannot be read, CredentialsError if a token would go to another
        machine in plaintext.
        """
        if self.is_tls:
            return grpc.ssl_channel_credentials(
                _pem(self.tls_ca), _pem(self.key), _pem(self.certificate)
            )
        if self.token is None:
            return None
        self.check(address)
        # They make sure that the other end is on this machine, whatever its name resolves to.
        is_unix = address.startswith("unix:")
        kind = grpc.LocalConnectionType.UDS if is_unix else grpc.LocalConnectionType.LOCAL_TCP
        return grpc.local_channel_credentials(kind)

    def token_source(self) -> TokenSource | None:
        """Where the tokens come from. Raises OSError, CredentialsError."""
        if self.token is None:
            return None
        if isinstance(self.token, str):
            return FixedToken(self.token)
        if isinstance(self.token, PathLike):
            return TokenFile(Path(self.token))
        return FetchedToken(self.token)


def _pem(pem: Pem | None) -> bytes | None:
    return pem if pem is None or isinstance(pem, bytes) else Path(pem).read_bytes()
