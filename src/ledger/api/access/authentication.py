"""Identifies callers, by bearer token or client certificate."""

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from grpc import aio

from ledger.api.access.credential_files import DNS_KIND, URI_KIND, StaticToken, is_identity
from ledger.api.access.reloading import ReloadedFiles
from ledger.api.methods import Scope
from ledger.errors import NotAuthenticated

if TYPE_CHECKING:
    from cryptography import x509

K = TypeVar("K")
V = TypeVar("V")

TOKEN_BYTES_MAX = 8 * 1024
# How many accepted tokens, refused tokens and certificates are remembered, each.
REMEMBERED_MAX = 10_000
# How long a refusal is remembered. Short: a token refused as not yet valid may have become valid.
REFUSAL_SECONDS = 5.0
NEVER = float("inf")
_HEADER = "authorization"
_SCHEME = "bearer "

Context = aio.ServicerContext[Any, Any]


class Credential(StrEnum):
    """How a caller is identified. The same name with another credential is another caller."""

    NONE = "none"
    TOKEN = "token"  # noqa: S105  # a word, not a secret
    JWT = "jwt"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller and its scopes, valid until `expires_at` in seconds of Unix time."""

    identity: str
    credential: Credential
    scopes: frozenset[Scope]
    expires_at: float = NEVER


class TokenRefused(Exception):
    """A token is not accepted. The text has the reason, for the log."""


@dataclass(frozen=True, slots=True)
class VerifiedClaims:
    """What a token proves, until `expires_at` in seconds of Unix time."""

    identity: str
    scopes: frozenset[Scope]
    expires_at: float


class TokenVerifier(Protocol):
    """Verifies tokens of an issuer. A protocol, as the implementation imports a slow library."""

    def verify(self, token: str) -> VerifiedClaims:
        """Returns the claims. Raises TokenRefused."""
        ...


class Authenticator:
    """Identifies callers. Remembers what it verified until it expires or a file changes."""

    def __init__(
        self,
        *,
        tokens: ReloadedFiles[tuple[StaticToken, ...]] | None,
        jwt: TokenVerifier | None,
        identities: ReloadedFiles[Mapping[str, frozenset[Scope]]] | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = tokens
        self._jwt = jwt
        self._identities = identities
        self._clock = clock
        # By the token's hash: a dump of the memory holds no tokens.
        self._accepted: dict[bytes, Caller] = {}
        self._refused: dict[bytes, float] = {}
        self._certificates: dict[bytes, Caller | None] = {}

    def forget(self) -> None:
        """Forgets all callers: the next call of each is verified again."""
        self._accepted.clear()
        self._refused.clear()
        self._certificates.clear()

    def caller_of(self, context: Context) -> Caller:
        """The caller, by its token if there is one, else by its certificate.

        Raises NotAuthenticated.
        """
        header = _header_of(context)
        if header is not None:
            return self._of_header(header)
        return self._of_certificate(self._certificate_of(context))

    def identifier_of(self, context: Context) -> Callable[[], Caller]:
        """Identifies the caller again each time it is called: it may have expired since.

        Does what caller_of does, but for reading what the caller sent, which takes longer than all
        else and is the same for all requests of a stream. Both raise NotAuthenticated.
        """
        header = _header_of(context)
        if header is not None:
            return partial(self._of_header, header)
        return partial(self._of_certificate, self._certificate_of(context))

    def _of_header(self, header: str | bytes) -> Caller:
        if not isinstance(header, str) or header[: len(_SCHEME)].lower() != _SCHEME:
            raise NotAuthenticated("the authorization is not a bearer token")
        token = header[len(_SCHEME) :].strip()
        if len(token) > TOKEN_BYTES_MAX:
            raise NotAuthenticated(f"the token is longer than {TOKEN_BYTES_MAX} bytes")
        return self._of_token(token)

    def _of_token(self, token: str) -> Caller:
        digest, now = hashlib.sha256(token.encode()).digest(), self._clock()
        caller = self._accepted.get(digest)
        if caller is not None:
            if now < caller.expires_at:
                return caller
            del self._accepted[digest]
            raise NotAuthenticated("the token has expired", identity=caller.identity)
        if now < self._refused.get(digest, 0.0):
            raise NotAuthenticated("the token was refused a moment ago")
        try:
            caller = self._verified(token, digest)
            if now >= caller.expires_at:
                raise TokenRefused("it has expired")
        except TokenRefused as refused:
            _remember(self._refused, digest, now + REFUSAL_SECONDS)
            raise NotAuthenticated("the token is not accepted", because=str(refused)) from None
        _remember(self._accepted, digest, caller)
        return caller

    def _verified(self, token: str, digest: bytes) -> Caller:
        """The caller of a token that is not remembered. Raises TokenRefused."""
        found = None
        for known in self._tokens.value if self._tokens is not None else ():
            # All lines, each in constant time: the time that it takes reveals nothing.
            if hmac.compare_digest(known.digest, digest):
                found = known
        if found is not None:
            return Caller(found.identity, Credential.TOKEN, found.scopes)
        if self._jwt is None:
            raise TokenRefused("it is in no line of LEDGER_AUTH_TOKENS_FILE")
        claims = self._jwt.verify(token)
        return Caller(claims.identity, Credential.JWT, claims.scopes, claims.expires_at)

    def _certificate_of(self, context: Context) -> bytes:
        if self._identities is None:
            raise NotAuthenticated("there is no authorization header")
        pem: bytes = next(iter(context.auth_context().get("x509_pem_cert") or ()), b"")
        if not pem:
            raise NotAuthenticated("there is neither a token nor a client certificate")
        return pem

    def _of_certificate(self, pem: bytes) -> Caller:
        if pem not in self._certificates:
            _remember(self._certificates, pem, self._certified(pem))
        caller = self._certificates[pem]
        if caller is None:
            raise NotAuthenticated("the client certificate has no URI and no DNS name")
        # The handshake checks it once, and a connection may stay open for days.
        if self._clock() >= caller.expires_at:
            raise NotAuthenticated("the client certificate has expired", identity=caller.identity)
        return caller

    def _certified(self, pem: bytes) -> Caller | None:
        """The caller with this certificate, which the handshake has verified; None without a name.

        Has no scopes if no line of the file names it.
        """
        from cryptography import x509

        certificate = x509.load_pem_x509_certificate(pem)
        names = [name for name in _names_of(certificate) if is_identity(name)]
        if not names:
            return None
        expires_at = certificate.not_valid_after_utc.timestamp()
        known = self._identities.value if self._identities is not None else {}
        for name in names:
            if name in known:
                return Caller(name, Credential.CERTIFICATE, known[name], expires_at)
        return Caller(names[0], Credential.CERTIFICATE, frozenset(), expires_at)


def _header_of(context: Context) -> str | bytes | None:
    header = None
    for key, value in context.invocation_metadata() or ():
        if key == _HEADER:
            if header is not None:
                raise NotAuthenticated("there are several authorization headers")
            header = value
    return header


def _names_of(certificate: "x509.Certificate") -> list[str]:
    """The URIs in the certificate's subject alternative name, else its DNS names, with their kind.

    Never the common name: authorities do not vouch for it.
    """
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    uris = [URI_KIND + name for name in names.get_values_for_type(x509.UniformResourceIdentifier)]
    return uris or [DNS_KIND + name for name in names.get_values_for_type(x509.DNSName)]


def _remember(memory: dict[K, V], key: K, value: V) -> None:
    while len(memory) >= REMEMBERED_MAX:
        del memory[next(iter(memory))]
    memory[key] = value
