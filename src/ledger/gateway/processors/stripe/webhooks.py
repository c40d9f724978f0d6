"""Verifies Stripe's signature and gives each kind of Event to what reads it."""

import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

from ledger.gateway.deliveries import Delivery, Ignored, Reading, SignatureRefused, Unbookable
from ledger.gateway.fetching import Fetcher, HttpFetcher
from ledger.gateway.payloads import Malformed, parse
from ledger.gateway.processors.stripe.application_fees import read_refunded_application_fee
from ledger.gateway.processors.stripe.charges import (
    read_charge,
    read_failed_charge,
    read_updated_charge,
)
from ledger.gateway.processors.stripe.disputes import (
    read_closed_dispute,
    read_opened_dispute,
    read_reinstated_dispute,
)
from ledger.gateway.processors.stripe.messages import Message, message_of
from ledger.gateway.processors.stripe.payouts import read_payout, read_top_up, read_transfer
from ledger.gateway.processors.stripe.refunds import read_refund, read_refunded_charge
from ledger.gateway.processors.stripe.resources import Resources
from ledger.gateway.processors.stripe.settings import STRIPE_ORIGIN, StripeEndpoint
from ledger.gateway.reasons import CannotBook
from ledger.gateway.signatures import SigningSecret, refuse_stale, signing_secret

HEADER = "stripe-signature"
# While a secret is rotated there are two.
_SIGNATURES_MAX = 16

# All kinds that may become facts; every other kind is counted and forgotten. A webhook should
# be subscribed to those that are used, and to no others.
READERS: Mapping[str, Callable[[Message, Resources], Awaitable[Sequence[Reading]]]] = (
    MappingProxyType(
        {
            "charge.succeeded": read_charge,
            "charge.captured": read_charge,
            "charge.updated": read_updated_charge,
            "charge.failed": read_failed_charge,
            "charge.refunded": read_refunded_charge,
            "charge.refund.updated": read_refund,
            "refund.created": read_refund,
            "refund.updated": read_refund,
            "refund.failed": read_refund,
            "charge.dispute.created": read_opened_dispute,
            "charge.dispute.funds_withdrawn": read_opened_dispute,
            "charge.dispute.funds_reinstated": read_reinstated_dispute,
            "charge.dispute.closed": read_closed_dispute,
            "application_fee.refunded": read_refunded_application_fee,
            "payout.paid": read_payout,
            "payout.failed": read_payout,
            "payout.canceled": read_payout,
            "payout.updated": read_payout,
            "transfer.created": read_transfer,
            "transfer.paid": read_transfer,
            "transfer.reversed": read_transfer,
            "topup.succeeded": read_top_up,
            "topup.reversed": read_top_up,
        }
    )
)


class StripeWebhooks:
    """One endpoint of Stripe."""

    acknowledgement = b"ok"
    content_type = "text/plain"

    def __init__(
        self,
        endpoint: StripeEndpoint,
        secrets: Sequence[SigningSecret],
        fetcher: Fetcher | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._secrets = secrets
        self._resources = Resources(endpoint, fetcher)
        self._fetcher = fetcher

    def verify(self, delivery: Delivery) -> str:
        """The name of the secret that signed the body. Raises SignatureRefused."""
        signed_at, signatures = _parts(delivery.headers.get(HEADER, ""))
        refuse_stale(signed_at, delivery.received_at, self._endpoint.tolerance_seconds)
        signed = signed_at.encode() + b"." + delivery.body

        def sign(secret: str) -> bytes:
            return hmac.digest(secret.encode(), signed, "sha256").hex().encode()

        return signing_secret(self._secrets, delivery.received_at, sign, signatures)

    async def read(self, delivery: Delivery) -> Sequence[Reading]:
        """See Processor. A message is one Event, and mostly one fact."""
        kind = "?"
        try:
            body = parse(delivery.body)
            kind = body.text("type", "?")[:64]
            message = message_of(body)
            kind = message.kind
            if message.is_live != (self._endpoint.mode == "live"):
                sent = "live" if message.is_live else "test"
                raise CannotBook("WRONG_MODE", f"a {sent} message at an endpoint that is not")
            reader = READERS.get(kind)
            if reader is None:
                return [Ignored(kind, "moves no money that the ledger books")]
            return await reader(message, self._resources)
        except CannotBook as cannot:
            return [Unbookable(kind, cannot.reason, cannot.detail)]
        except Malformed as malformed:
            return [Unbookable(kind, "UNKNOWN_SHAPE", str(malformed))]

    async def aclose(self) -> None:
        """Closes the connections to Stripe's API."""
        if isinstance(self._fetcher, HttpFetcher):
            await self._fetcher.aclose()


def make_stripe(endpoint: StripeEndpoint, secrets: Sequence[SigningSecret]) -> StripeWebhooks:
    """The endpoint with its API, if it has one. Raises ValueError: a key that cannot be read."""
    if endpoint.api is None:
        return StripeWebhooks(endpoint, secrets)
    fetcher = HttpFetcher(
        endpoint.api.url or STRIPE_ORIGIN,
        endpoint.api.key.read(),
        timeout_seconds=endpoint.api.timeout_seconds,
    )
    return StripeWebhooks(endpoint, secrets, fetcher)


def _parts(header: str) -> tuple[str, list[bytes]]:
    """The timestamp and the signatures of `t=…,v1=…,v1=…`; other schemes are left out."""
    signed_at: list[str] = []
    signatures: list[bytes] = []
    for part in header.split(",", 64):
        name, _, value = part.strip().partition("=")
        if name == "t":
            signed_at.append(value)
        elif name == "v1":
            signatures.append(value.encode("utf-8", "replace"))
    if len(signed_at) != 1 or not 1 <= len(signatures) <= _SIGNATURES_MAX:
        raise SignatureRefused(f"{HEADER} has not one t and some v1")
    return signed_at[0], signatures
