"""TLS of the server's port, with certificates from files that may change while it runs."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import structlog

from ledger.api.access.reloading import FileMissingOrEmpty, FileUnusable, ReloadedFiles, read_file

if TYPE_CHECKING:
    from cryptography import x509

_log = structlog.get_logger("ledger.security")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate chain and key, and authorities of client certificates.

    With `client_ca` every client must show a certificate of one of its authorities.
    """

    certificate: Path
    key: Path
    client_ca: Path | None


class ServerTls:
    """TLS of the server. New connections get the newest certificate; open ones keep theirs."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises FileUnusable."""
        paths = [
            files.certificate,
            files.key,
            *([files.client_ca] if files.client_ca is not None else []),
        ]
        self.files = ReloadedFiles(
            paths, lambda: _read(files), admit_none=lambda: _read(files, admits_none=True)
        )
        self._last_given = self.files.value
        self._demands_certificate = files.client_ca is not None

    def credentials(self) -> grpc.ServerCredentials:
        """The credentials for the server's port. They follow changes of the files."""
        self._last_given = self.files.value
        return grpc.dynamic_ssl_server_credentials(
            self._last_given,
            # The library takes None for "unchanged", which its types do not allow.
            self._changed_configuration,  # type: ignore[arg-type]
            require_client_authentication=self._demands_certificate,
        )

    def _changed_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """The configuration, if it differs from the one that gRPC has; else None.

        gRPC calls this at every handshake, in another thread.
        """
        current = self.files.value
        if current is self._last_given:
            return None
        self._last_given = current
        return current


def _read(files: TlsFiles, *, admits_none: bool = False) -> grpc.ServerCertificateConfiguration:
    """Reads the files. With `admits_none` no client certificate is accepted.

    Raises FileUnusable: gRPC itself would accept invalid files, and fail every handshake.
    """
    chain, key = read_file(files.certificate), read_file(files.key)
    _check_pair(files, chain, key)
    authorities = None
    if files.client_ca is not None:
        authorities = (
            _authority_without_certificates() if admits_none else read_file(files.client_ca)
        )
        if not authorities.strip():
            raise FileMissingOrEmpty(f"{files.client_ca} is empty")
        _certificates(files.client_ca, authorities)
    return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)


def _authority_without_certificates() -> bytes:
    """An authority that issued no certificate: its key is discarded. gRPC takes no empty list."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "none")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _check_pair(files: TlsFiles, chain: bytes, key: bytes) -> None:
    # Imported when needed: a server without TLS does not need it.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    leaf = _certificates(files.certificate, chain)[0]
    try:
        private_key = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # Without the text of `error`, which may quote the file.
        raise FileUnusable(
            f"{files.key} holds no private key in PEM without a passphrase"
        ) from error
    encoding = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        belongs = private_key.public_key().public_bytes(
            *encoding
        ) == leaf.public_key().public_bytes(*encoding)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FileUnusable(f"{files.certificate} is for a kind of key that is not known") from error
    if not belongs:
        raise FileUnusable(f"{files.key} is not the key of the certificate in {files.certificate}")
    if leaf.not_valid_after_utc <= datetime.now(UTC):
        # Not refused: there may be no other, and clients refuse it by themselves.
        _log.warning(
            "the server's certificate has expired",
            file=str(files.certificate),
            at=str(leaf.not_valid_after_utc),
        )


def _certificates(path: Path, pem: bytes) -> "list[x509.Certificate]":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise FileUnusable(f"{path} holds no certificate in PEM") from error
