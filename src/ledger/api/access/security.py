"""TLS, authentication and rate limits of the server's port, made from the settings.

Settings that make no sense are refused before the server takes a call.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import grpc

from ledger.addresses import is_within_this_machine
from ledger.api.access.authentication import Authenticator
from ledger.api.access.credential_files import read_identities, read_tokens
from ledger.api.access.gate import Gate
from ledger.api.access.rate_limit import RateLimit
from ledger.api.access.reloading import FileUnusable, ReloadedFiles, Reloader
from ledger.api.access.tls import ServerTls, TlsFiles
from ledger.api.methods import Method, Recorded
from ledger.application.call_log import CallLog

if TYPE_CHECKING:
    from ledger.api.access.jwt_tokens import JwtVerifier
    from ledger.settings import Settings

T = TypeVar("T")


class SecurityMisconfigured(Exception):
    """Settings of TLS or authentication contradict each other, or a file they name is unusable."""


class Security:
    """The credentials of the server's port, and the gates of its methods.

    `reloader` reads the files again when they change.
    """

    def __init__(self, settings: "Settings") -> None:
        """Reads the files. Raises SecurityMisconfigured."""
        _check(settings)
        try:
            self._tls = _tls_of(settings)
            self._tokens = _reloaded(settings.auth_tokens_file, read_tokens, lambda: ())
            self._identities = _reloaded(settings.auth_identities_file, read_identities, lambda: {})
            self._jwt = _jwt_of(settings)
        except FileUnusable as error:
            raise SecurityMisconfigured(str(error)) from error
        self._authenticator = None
        if settings.identifies_callers:
            self._authenticator = Authenticator(
                tokens=self._tokens, jwt=self._jwt, identities=self._identities
            )
        self._rate_limit = _rate_limit_of(settings)
        files = (
            self._tls.files if self._tls is not None else None,
            self._tokens,
            self._identities,
            self._jwt.keys if self._jwt is not None else None,
        )
        self.reloader = Reloader(
            [file for file in files if file is not None], on_change=self._forget
        )

    def credentials(self) -> grpc.ServerCredentials | None:
        """The credentials of the server's port; None for plaintext."""
        return None if self._tls is None else self._tls.credentials()

    def gate(self, method: Method, call_log: CallLog | None = None) -> Gate | None:
        """The gate of a method; None if it checks nothing and records nothing."""
        if method.recorded is Recorded.NO:
            call_log = None
        if self._authenticator is None and call_log is None:
            return None
        return Gate(
            method,
            authenticator=self._authenticator,
            rate_limit=self._rate_limit,
            call_log=call_log,
        )

    def _forget(self) -> None:
        if self._authenticator is not None:
            self._authenticator.forget()


def _check(settings: "Settings") -> None:
    """Raises SecurityMisconfigured for settings without effect, or with a surprising one."""
    needs = (
        ("tls_certificate_file", "tls_key_file"),
        ("tls_key_file", "tls_certificate_file"),
        ("tls_client_ca_file", "tls_certificate_file"),
        ("auth_identities_file", "tls_client_ca_file"),
        ("jwt_jwks_file", "jwt_issuer"),
        ("jwt_jwks_file", "jwt_audience"),
        ("jwt_issuer", "jwt_jwks_file"),
        ("jwt_audience", "jwt_jwks_file"),
        ("rate_limit_burst_calls", "rate_limit_calls_per_second"),
    )
    for given, needed in needs:
        if getattr(settings, given) and not getattr(settings, needed):
            raise SecurityMisconfigured(
                f"LEDGER_{given.upper()} does nothing without LEDGER_{needed.upper()}: "
                "set both, or neither"
            )
    if settings.tls_client_ca_file and not settings.identifies_callers:
        raise SecurityMisconfigured(
            "LEDGER_TLS_CLIENT_CA_FILE lets every caller with a certificate do anything: set "
            "LEDGER_AUTH_IDENTITIES_FILE, which lists what each may do, or LEDGER_AUTH_TOKENS_FILE "
            "or LEDGER_JWT_JWKS_FILE"
        )
    if settings.rate_limit_calls_per_second and not settings.identifies_callers:
        raise SecurityMisconfigured(
            "LEDGER_RATE_LIMIT_CALLS_PER_SECOND is a limit for each caller: set "
            "LEDGER_AUTH_TOKENS_FILE, LEDGER_JWT_JWKS_FILE or LEDGER_AUTH_IDENTITIES_FILE, which "
            "identify callers"
        )
    _check_exposure(settings)


def _check_exposure(settings: "Settings") -> None:
    if settings.allow_insecure or is_within_this_machine(settings.grpc_address):
        return
    missing = []
    if settings.tls_certificate_file is None:
        missing.append("TLS (LEDGER_TLS_CERTIFICATE_FILE, LEDGER_TLS_KEY_FILE)")
    if not settings.identifies_callers:
        missing.append(
            "authentication (LEDGER_AUTH_TOKENS_FILE, LEDGER_JWT_JWKS_FILE or "
            "LEDGER_AUTH_IDENTITIES_FILE)"
        )
    if missing:
        raise SecurityMisconfigured(
            f"{settings.grpc_address} can be called from other machines, and there is no "
            f"{' and no '.join(missing)}: set that, or LEDGER_ALLOW_INSECURE=true if something "
            "else keeps strangers away"
        )


def _tls_of(settings: "Settings") -> ServerTls | None:
    certificate, key = settings.tls_certificate_file, settings.tls_key_file
    if certificate is None or key is None:
        return None
    return ServerTls(TlsFiles(certificate, key, settings.tls_client_ca_file))


def _jwt_of(settings: "Settings") -> "JwtVerifier | None":
    if settings.jwt_jwks_file is None:
        return None
    # Imported when needed: its libraries take 0.1 s to load.
    from ledger.api.access.jwt_tokens import JwtVerifier

    return JwtVerifier(
        settings.jwt_jwks_file,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        algorithms=frozenset(settings.jwt_algorithms.split(",")),
    )


def _reloaded(
    path: Path | None, read: Callable[[Path], T], admit_none: Callable[[], T]
) -> ReloadedFiles[T] | None:
    return (
        None if path is None else ReloadedFiles([path], lambda: read(path), admit_none=admit_none)
    )


def _rate_limit_of(settings: "Settings") -> RateLimit | None:
    calls_per_second = settings.rate_limit_calls_per_second
    if not calls_per_second:
        return None
    return RateLimit(
        calls_per_second, settings.rate_limit_burst_calls or math.ceil(calls_per_second)
    )
