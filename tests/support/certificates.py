"""Certificates made for a test: an authority, and what it issues."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HERE = (x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1")))


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def write(self, certificate: Path, key: Path) -> None:
        """Both as files, the key first."""
        key.write_bytes(self.key_pem)
        certificate.write_bytes(self.certificate_pem)


class Authority:
    """Issues certificates."""

    def __init__(self, name: str = "authority") -> None:
        self._own = _issue(name, (), None, timedelta(hours=1), is_authority=True)

    @property
    def certificate_pem(self) -> bytes:
        return self._own.certificate_pem

    def issue(
        self,
        *names: x509.GeneralName,
        common_name: str = "test",
        lasts: timedelta = timedelta(hours=1),
    ) -> Issued:
        """A certificate for `names`; `lasts` may be negative for one that has expired."""
        return _issue(common_name, names, self._own, lasts)


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def dns(text: str) -> x509.GeneralName:
    return x509.DNSName(text)


def _issue(
    common_name: str,
    names: tuple[x509.GeneralName, ...],
    issuer: Issued | None,
    lasts: timedelta,
    *,
    is_authority: bool = False,
) -> Issued:
    private_key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=2))
        .not_valid_after(now + lasts)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signer = private_key if issuer is None else issuer.private_key
    return Issued(builder.sign(signer, hashes.SHA256()), private_key)
