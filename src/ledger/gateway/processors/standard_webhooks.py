"""Standard Webhooks: the signature that many processors share, with a mapping in the settings.

The specification is at https://www.standardwebhooks.com. `v1` signatures are read, which a shared
secret makes; `v1a`, of public keys, are not.
"""

import base64
import hmac
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ledger.gateway.deliveries import Delivery, Reading, SignatureRefused
from ledger.gateway.processors.field_mapping import MappedEndpoint, read_mapped
from ledger.gateway.processors.generic import SIGNATURES_MAX
from ledger.gateway.signatures import (
    TOLERANCE_SECONDS,
    SigningSecret,
    refuse_stale,
    signing_secret,
)

_SECRET_PREFIX = "whsec_"  # noqa: S105  # what secrets begin with
_VERSION = "v1,"


class StandardWebhooksEndpoint(MappedEndpoint):
    """An endpoint of a processor that signs as Standard Webhooks says."""

    processor: Literal["standard_webhooks"]
    tolerance_seconds: int = Field(
        TOLERANCE_SECONDS,
        ge=1,
        le=3600,
        description="How far the timestamp may be from ours, before and after.",
    )


class StandardWebhooks:
    """One endpoint. Raises ValueError for a secret that is not base64."""

    acknowledgement = b"ok"
    content_type = "text/plain"

    def __init__(
        self, endpoint: StandardWebhooksEndpoint, secrets: Sequence[SigningSecret]
    ) -> None:
        self._endpoint = endpoint
        self._secrets = secrets
        self._keys = {secret.text: _key(secret) for secret in secrets}

    def verify(self, delivery: Delivery) -> str:
        """The name of the secret that signed it. Raises SignatureRefused."""
        message_id = delivery.headers.get("webhook-id", "")
        timestamp = delivery.headers.get("webhook-timestamp", "")
        signatures = [
            part.removeprefix(_VERSION).encode("utf-8", "replace")
            for part in delivery.headers.get("webhook-signature", "").split(" ", 64)
            if part.startswith(_VERSION)
        ]
        if not message_id or not 1 <= len(signatures) <= SIGNATURES_MAX:
            raise SignatureRefused("webhook-id or a v1 of webhook-signature is missing")
        refuse_stale(timestamp, delivery.received_at, self._endpoint.tolerance_seconds)
        signed = b".".join(
            (message_id.encode("utf-8", "replace"), timestamp.encode(), delivery.body)
        )

        def sign(secret: str) -> bytes:
            return base64.b64encode(hmac.digest(self._keys[secret], signed, "sha256"))

        return signing_secret(self._secrets, delivery.received_at, sign, signatures)

    async def read(self, delivery: Delivery) -> Sequence[Reading]:
        """See Processor."""
        return read_mapped(delivery.body, self._endpoint)


def _key(secret: SigningSecret) -> bytes:
    try:
        key = base64.b64decode(secret.text.removeprefix(_SECRET_PREFIX), validate=True)
    except ValueError as error:
        raise ValueError(f"secret {secret.name} is no whsec_ and base64") from error
    if not key:
        raise ValueError(f"secret {secret.name} is empty")
    return key
