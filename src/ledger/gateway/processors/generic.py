"""Any processor that signs its posts with an HMAC, by a mapping in the settings."""

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field, model_validator

from ledger.gateway.deliveries import Delivery, Reading, SignatureRefused
from ledger.gateway.endpoints import KEPT_HEADERS, Table
from ledger.gateway.processors.field_mapping import MappedEndpoint, read_mapped
from ledger.gateway.signatures import (
    TOLERANCE_SECONDS,
    SigningSecret,
    refuse_stale,
    signing_secret,
)

# Signatures of one delivery: one for each secret of a rotation.
SIGNATURES_MAX = 16
_PLACE = re.compile(r"\{([a-z]+)\}")
_PLACES = ("body", "timestamp", "id")
_HEADER = "^[a-z0-9-]{1,64}$"
_ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "hex": binascii.hexlify,
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
}


class HmacSignature(Table):
    """How a delivery is signed.

    A header of several parts, as `t=17,v1=ab12,v1=cd34`, has a `separator`; the parts that begin
    with `prefix` are signatures, and the one that begins with `timestamp_prefix` is the timestamp.
    """

    header: str = Field(pattern=_HEADER, description="The header of the signature, lower case.")
    algorithm: Literal["sha256", "sha384", "sha512", "sha1"] = "sha256"
    encoding: Literal["hex", "base64", "base64url"] = "hex"
    prefix: str = Field("", max_length=32, description="What stands before it: sha256=, v1=.")
    separator: str = Field("", max_length=4, description="What is between several signatures.")
    template: str = Field(
        "{body}", max_length=256, description="What is signed: {body}, {timestamp} and {id}."
    )
    timestamp_header: str = Field("", pattern="^[a-z0-9-]{0,64}$")
    timestamp_prefix: str = Field("", max_length=32)
    timestamp_unit: Literal["seconds", "milliseconds"] = Field(
        "seconds", description="What the timestamp counts since 1970."
    )
    tolerance_seconds: int = Field(
        TOLERANCE_SECONDS, ge=1, le=86_400, description="How far it may be from ours."
    )
    id_header: str = Field("", pattern="^[a-z0-9-]{0,64}$")
    key_encoding: Literal["text", "hex", "base64"] = Field(
        "text", description="What the secrets are written in."
    )

    @model_validator(mode="after")
    def _signs_what_it_has(self) -> "HmacSignature":
        places = _PLACE.findall(self.template)
        if any(place not in _PLACES for place in places):
            raise ValueError(f"template: the places are {{{'}, {'.join(_PLACES)}}}")
        if places.count("body") != 1:
            raise ValueError("template must have {body}, once: what is not signed is not proven")
        if self.timestamp_header and self.timestamp_prefix:
            raise ValueError("timestamp_header and timestamp_prefix are two places of one thing")
        has_timestamp = bool(self.timestamp_header or self.timestamp_prefix)
        if has_timestamp != ("timestamp" in places):
            raise ValueError("a timestamp is in the template, and in a header or after a prefix")
        if bool(self.id_header) != ("id" in places):
            raise ValueError("{id} in the template goes with id_header")
        if self.timestamp_prefix and not self.separator:
            raise ValueError("timestamp_prefix needs a separator")
        return self


class GenericEndpoint(MappedEndpoint):
    """An endpoint of a processor that no module here knows."""

    processor: Literal["generic"]
    signature: HmacSignature

    @property
    def kept_headers(self) -> frozenset[str]:
        """The headers that a later try needs, in lower case."""
        signature = self.signature
        named = {signature.header, signature.timestamp_header, signature.id_header} - {""}
        return KEPT_HEADERS | named


class GenericWebhooks:
    """One endpoint with a signature and a mapping of its own. Raises ValueError: a bad secret."""

    acknowledgement = b"ok"
    content_type = "text/plain"

    def __init__(self, endpoint: GenericEndpoint, secrets: Sequence[SigningSecret]) -> None:
        self._endpoint = endpoint
        self._secrets = secrets
        self._keys = {secret.text: _key(secret, endpoint.signature) for secret in secrets}

    def verify(self, delivery: Delivery) -> str:
        """The name of the secret that signed it. Raises SignatureRefused."""
        settings = self._endpoint.signature
        header = delivery.headers.get(settings.header, "")
        parts = header.split(settings.separator, 64) if settings.separator else [header]
        parts = [part.strip() for part in parts]
        signatures = [
            part.removeprefix(settings.prefix).encode("utf-8", "replace")
            for part in parts
            if part.startswith(settings.prefix)
        ]
        if not header or not 1 <= len(signatures) <= SIGNATURES_MAX:
            raise SignatureRefused(f"{settings.header} has no signature")
        timestamp = _timestamp(settings, parts, delivery)
        if timestamp is not None:
            is_fine = settings.timestamp_unit == "milliseconds"
            seconds = timestamp[:-3] if is_fine else timestamp
            refuse_stale(seconds, delivery.received_at, settings.tolerance_seconds)
        signed = _signed(
            settings.template,
            {
                "body": delivery.body,
                "timestamp": (timestamp or "").encode(),
                "id": delivery.headers.get(settings.id_header, "").encode("utf-8", "replace"),
            },
        )
        encode = _ENCODERS[settings.encoding]

        def sign(secret: str) -> bytes:
            return encode(hmac.digest(self._keys[secret], signed, settings.algorithm))

        return signing_secret(self._secrets, delivery.received_at, sign, signatures)

    async def read(self, delivery: Delivery) -> Sequence[Reading]:
        """See Processor."""
        return read_mapped(delivery.body, self._endpoint)


def _timestamp(settings: HmacSignature, parts: Sequence[str], delivery: Delivery) -> str | None:
    if settings.timestamp_header:
        return delivery.headers.get(settings.timestamp_header, "")
    if settings.timestamp_prefix:
        found = [
            part.removeprefix(settings.timestamp_prefix)
            for part in parts
            if part.startswith(settings.timestamp_prefix)
        ]
        return found[0] if len(found) == 1 else ""
    return None


def _signed(template: str, values: dict[str, bytes]) -> bytes:
    """The template with its places filled: what a value holds is never a place again."""
    filled: list[bytes] = []
    end = 0
    for place in _PLACE.finditer(template):
        filled += [template[end : place.start()].encode(), values[place[1]]]
        end = place.end()
    return b"".join([*filled, template[end:].encode()])


def _key(secret: SigningSecret, settings: HmacSignature) -> bytes:
    try:
        if settings.key_encoding == "hex":
            return bytes.fromhex(secret.text)
        if settings.key_encoding == "base64":
            return base64.b64decode(secret.text, validate=True)
    except ValueError as error:
        raise ValueError(f"secret {secret.name} is no {settings.key_encoding}") from error
    return secret.text.encode()
