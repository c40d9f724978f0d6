"""Standard Webhooks, signed and verified by its own library."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook
from support.mapped_messages import BODY, mapped
from support.readings import delivery_of, lines_of

from ledger.gateway.deliveries import SignatureRefused
from ledger.gateway.processors.standard_webhooks import StandardWebhooks, StandardWebhooksEndpoint
from ledger.gateway.signatures import read_secrets

NEW = "whsec_" + base64.b64encode(b"a new key of the tests, thirty-2").decode()
OLD = "whsec_" + base64.b64encode(b"an old key of the tests, thirty2").decode()
ID = "msg_17"


def webhooks(*secrets: str) -> StandardWebhooks:
    endpoint = StandardWebhooksEndpoint.model_validate(
        mapped(
            processor="standard_webhooks",
            secrets=[
                {"name": f"k{number}", "value": secret}
                for number, secret in enumerate(secrets or (NEW, OLD), 1)
            ],
        )
    )
    return StandardWebhooks(endpoint, read_secrets(endpoint.secrets))


def headers(at: datetime, *secrets: str, body: bytes = BODY) -> dict[str, str]:
    signatures = [Webhook(secret).sign(ID, at, body.decode()) for secret in secrets or (NEW,)]
    return {
        "webhook-id": ID,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def now() -> datetime:
    return datetime.fromtimestamp(int(datetime.now(UTC).timestamp()), UTC)


async def test_what_the_library_signs_is_accepted() -> None:
    """With either secret, with both while one is rotated, beside versions that are not known."""
    at = now()
    for signed, name in (
        (headers(at), "k1"),
        (headers(at, OLD), "k2"),
        (headers(at, OLD, NEW), "k1"),
        (headers(at) | {"webhook-signature": "v1a,AAAA " + headers(at)["webhook-signature"]}, "k1"),
    ):
        delivery = delivery_of(BODY, headers=signed, received_at=at)
        assert webhooks().verify(delivery) == name
        assert lines_of(await webhooks().read(delivery)) == [
            "CHARGE_SUCCEEDED 1250 PEN · acme:pay_17:payment.paid · order-9"
        ]
    assert Webhook(NEW).verify(BODY, headers(at, OLD, NEW))


def test_a_secret_without_its_prefix_is_the_same() -> None:
    """Some dashboards show the base64 alone."""
    at = now()
    delivery = delivery_of(BODY, headers=headers(at), received_at=at)
    assert webhooks(NEW.removeprefix("whsec_")).verify(delivery) == "k1"


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook-id": ""},
        {"webhook-id": "msg_18"},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": "1"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": "v1,\u00e9"},
        {"webhook-signature": " ".join(["v1,AAAA"] * 40)},
    ],
)
def test_a_header_that_was_changed_is_refused(changes: dict[str, str]) -> None:
    """Each of the three headers is part of what is proven."""
    at = now()
    signed = headers(at) | changes
    with pytest.raises(SignatureRefused):
        webhooks().verify(delivery_of(BODY, headers=signed, received_at=at))


def test_every_byte_is_signed() -> None:
    """A body with one byte changed is refused."""
    at = now()
    signed = headers(at)
    processor = webhooks()
    for place in range(len(BODY)):
        changed = BODY[:place] + bytes([BODY[place] ^ 1]) + BODY[place + 1 :]
        with pytest.raises(SignatureRefused):
            processor.verify(delivery_of(changed, headers=signed, received_at=at))


@pytest.mark.parametrize("seconds", [-301, 301])
def test_a_delivery_is_fresh_for_five_minutes(seconds: int) -> None:
    """Neither an old one nor one of the future is taken."""
    at = now()
    signed = headers(at + timedelta(seconds=seconds))
    with pytest.raises(SignatureRefused):
        webhooks().verify(delivery_of(BODY, headers=signed, received_at=at))


@pytest.mark.parametrize("secret", ["whsec_", "whsec_?", "whsec_abc"])
def test_a_secret_that_is_none_is_refused_at_the_start(secret: str) -> None:
    """A key that cannot be read would refuse every delivery."""
    with pytest.raises(ValueError, match="secret k1"):
        webhooks(secret)
