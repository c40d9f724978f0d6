"""Which notifications are Mercado Pago's, and what each makes the gateway fetch."""

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import parse_qsl

from ledger.gateway.deliveries import (
    Delivery,
    FetchFailed,
    Ignored,
    Owner,
    Reading,
    SignatureRefused,
    Unbookable,
)
from ledger.gateway.fetching import Fetcher, HttpFetcher
from ledger.gateway.payloads import Malformed, parse
from ledger.gateway.processors.mercado_pago.chargebacks import payment_of, read_chargeback
from ledger.gateway.processors.mercado_pago.payments import owner_of, read_payment
from ledger.gateway.processors.mercado_pago.settings import (
    MERCADO_PAGO_ORIGIN,
    MercadoPagoEndpoint,
)
from ledger.gateway.signatures import SigningSecret, refuse_stale, signing_secret

# Topics that name something else than money. Payments of orders and subscriptions come as payments,
# too. Any other topic is new, and goes to the quarantine.
_WITHOUT_MONEY = frozenset(
    {
        "delivery",
        "delivery_cancellation",
        "merchant_order",
        "mp-connect",
        "plan",
        "point_integration_wh",
        "stop_delivery_op_wh",
        "subscription",
        "subscription_authorized_payment",
        "subscription_preapproval",
        "subscription_preapproval_plan",
        "topic_card_id_wh",
        "topic_claims_integration_wh",
        "topic_merchant_order_wh",
        "wallet_connect",
    }
)
_PAYMENTS = frozenset({"payment"})
_CHARGEBACKS = frozenset({"chargebacks", "topic_chargebacks_wh"})
_PAYMENT_ID = re.compile("[0-9]{1,20}")
_CHARGEBACK_ID = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# From here on a timestamp counts milliseconds: in seconds it would be the year 5138.
_MILLISECONDS_FROM = 10**11
_QUERY_FIELDS_MAX = 50


class MercadoPagoWebhooks:
    """A Processor for webhooks. It refuses what is not signed, as IPN and QR notifications are."""

    acknowledgement = b"ok"
    content_type = "text/plain"

    def __init__(
        self,
        endpoint: MercadoPagoEndpoint,
        secrets: Sequence[SigningSecret],
        fetcher: Fetcher,
    ) -> None:
        self._endpoint = endpoint
        self._secrets = tuple(secrets)
        self._fetcher = fetcher

    def verify(self, delivery: Delivery) -> str:
        """See Processor."""
        signed_at, signatures = _parts(delivery.headers.get("x-signature", ""))
        seconds = int(signed_at)
        if seconds >= _MILLISECONDS_FROM:
            seconds //= 1000
        refuse_stale(str(seconds), delivery.received_at, self._endpoint.tolerance_seconds)
        request_id = delivery.headers.get("x-request-id", "").strip()
        # The page says that letters of the id are signed in lower case; the library signs it as it
        # is. Both name the same resource.
        resource_id = _query(delivery.query).get("data.id", "")
        refusal: SignatureRefused | None = None
        for named in dict.fromkeys((resource_id, resource_id.lower())):
            try:
                return self._signer(
                    _manifest(named, request_id, signed_at), signatures, delivery.received_at
                )
            except SignatureRefused as error:
                refusal = error
        raise refusal or SignatureRefused("no secret makes the signature")

    def _signer(self, manifest: bytes, signatures: Sequence[bytes], at: datetime) -> str:
        return signing_secret(
            self._secrets,
            at,
            lambda secret: hmac.new(secret.encode(), manifest, hashlib.sha256).hexdigest().encode(),
            signatures,
        )

    async def read(self, delivery: Delivery) -> Sequence[Reading]:
        """See Processor."""
        kind = ""
        try:
            query = _query(delivery.query)
            kind = _topic(query, delivery.body)
            if kind in _WITHOUT_MONEY:
                return [Ignored(kind, "it names no payment")]
            if kind not in _PAYMENTS | _CHARGEBACKS:
                return [Unbookable(kind, "UNKNOWN_TOPIC", "the gateway does not know the topic")]
            # The body has an id, too, but no signature covers that.
            resource_id = query.get("data.id", "")
            is_id = _PAYMENT_ID if kind in _PAYMENTS else _CHARGEBACK_ID
            if is_id.fullmatch(resource_id) is None:
                return [
                    Unbookable(
                        kind, "NO_RESOURCE", f"data.id of the query is {resource_id[:64]!r}, no id"
                    )
                ]
            if kind in _PAYMENTS:
                payment = await self._fetcher.get(f"/v1/payments/{resource_id}")
                return read_payment(payment, resource_id, self._endpoint)
            chargeback = await self._fetcher.get(f"/v1/chargebacks/{resource_id}")
            owner = await self._owner_of(payment_of(chargeback))
            return read_chargeback(chargeback, resource_id, self._endpoint, owner)
        except SignatureRefused as error:
            return [Unbookable(kind, "UNKNOWN_SHAPE", str(error))]
        except Malformed as error:
            return [Unbookable(kind, "UNKNOWN_SHAPE", str(error))]

    def read_resource(self, body: bytes) -> Sequence[Reading] | None:
        """See ReadsResources. A chargeback's owner is not asked for."""
        try:
            resource = parse(body)
            if resource.has("transaction_amount"):
                return read_payment(resource, resource.text("id"), self._endpoint)
            if resource.has("amount") and (resource.has("payments") or resource.has("payment_id")):
                return read_chargeback(resource, resource.text("id"), self._endpoint, Owner())
        except Malformed as error:
            return [Unbookable("", "UNKNOWN_SHAPE", str(error))]
        return None

    async def aclose(self) -> None:
        """Closes the connections to Mercado Pago's API."""
        if isinstance(self._fetcher, HttpFetcher):
            await self._fetcher.aclose()

    async def _owner_of(self, payment_id: str) -> Owner:
        """Whose money a chargeback is about: its payment says so. If that cannot be had, empty:
        then it is that of the booked charge.
        """
        if not payment_id or self._endpoint.restaurant.by == "fixed":
            return Owner()
        try:
            payment = await self._fetcher.get(f"/v1/payments/{payment_id}")
            return owner_of(payment) if payment.text("id", "") == payment_id else Owner()
        except (FetchFailed, Malformed):
            return Owner()


def make_mercado_pago(
    endpoint: MercadoPagoEndpoint, secrets: Sequence[SigningSecret]
) -> MercadoPagoWebhooks:
    """The endpoint with its API. Raises ValueError: a key that cannot be read."""
    fetcher = HttpFetcher(
        endpoint.api.url or MERCADO_PAGO_ORIGIN,
        endpoint.api.key.read(),
        timeout_seconds=endpoint.api.timeout_seconds,
    )
    return MercadoPagoWebhooks(endpoint, secrets, fetcher)


def _parts(header: str) -> tuple[str, list[bytes]]:
    """The timestamp and the signatures of `ts=…,v1=…`. Raises SignatureRefused."""
    times: list[str] = []
    signatures: list[bytes] = []
    for part in header.split(","):
        key, _, value = part.partition("=")
        key, value = key.strip().lower(), value.strip()
        if key == "ts":
            times.append(value)
        elif key == "v1" and value.isascii():
            signatures.append(value.lower().encode())
    if not signatures:
        raise SignatureRefused("there is no x-signature with v1: IPN and QR posts have none")
    if len(times) != 1 or not (times[0].isascii() and times[0].isdecimal() and len(times[0]) < 16):
        raise SignatureRefused("x-signature has no timestamp")
    return times[0], signatures


def _query(query: str) -> dict[str, str]:
    """The fields of the query. Raises SignatureRefused if one that counts stands there twice."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX)
    except ValueError as error:
        raise SignatureRefused("the query has too many fields") from error
    if sum(name == "data.id" for name, _ in pairs) > 1:
        raise SignatureRefused("data.id stands twice in the query")
    return {name: value.strip() for name, value in reversed(pairs)}


def _topic(query: dict[str, str], body: bytes) -> str:
    """What the notification is about. Neither place is signed: it only says where to look, and what
    is found there decides. Raises Malformed.
    """
    topic = query.get("type") or query.get("topic") or ""
    if not topic:
        message = parse(body)
        topic = message.text("type", "") or message.text("topic", "")
    return topic[:64].encode("ascii", "replace").decode()


def _manifest(resource_id: str, request_id: str, signed_at: str) -> bytes:
    """What is signed: the parts that are there, each with a semicolon."""
    parts = (("id", resource_id), ("request-id", request_id), ("ts", signed_at))
    return "".join(f"{name}:{value};" for name, value in parts if value).encode(
        "utf-8", "surrogateescape"
    )
