"""Checks of signatures that several processors have: secrets in rotation, constant time, age."""

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ledger.gateway.deliveries import SignatureRefused
from ledger.gateway.endpoints import Secret

# Stripe's and Standard Webhooks' own: a delivery that is older was captured and sent again.
TOLERANCE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class SigningSecret:
    """A secret that was read. Accepted until `not_after`, if there is one."""

    name: str
    text: str
    not_after: datetime | None = None


def read_secrets(secrets: Sequence[Secret]) -> tuple[SigningSecret, ...]:
    """The secrets of an endpoint with their texts. Raises ValueError and OSError."""
    return tuple(SigningSecret(secret.name, secret.read(), secret.not_after) for secret in secrets)


def signing_secret(
    secrets: Sequence[SigningSecret],
    at: datetime,
    sign: Callable[[str], bytes],
    signatures: Sequence[bytes],
) -> str:
    """The name of the first secret by which `sign` makes one of `signatures`.

    Every pair is compared, in constant time. Raises SignatureRefused.
    """
    name = ""
    for secret in secrets:
        if secret.not_after is not None and at >= secret.not_after:
            continue
        expected = sign(secret.text)
        for signature in signatures:
            if hmac.compare_digest(expected, signature) and not name:
                name = secret.name
    if not name:
        raise SignatureRefused("no secret makes the signature")
    return name


def refuse_stale(signed_at: str, at: datetime, tolerance_seconds: int = TOLERANCE_SECONDS) -> None:
    """Raises SignatureRefused unless `signed_at`, seconds since 1970, is about `at`: not much
    earlier, and not much later either.
    """
    # isdecimal() also takes digits of other scripts; a long number would take long to convert.
    if not (signed_at.isascii() and signed_at.isdecimal() and len(signed_at) <= 12):
        raise SignatureRefused("the timestamp of the signature is no number of seconds")
    if abs(at.timestamp() - int(signed_at)) > tolerance_seconds:
        raise SignatureRefused("the signature is too old, or of the future")
