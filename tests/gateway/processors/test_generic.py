"""Signatures by a template in the settings."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError
from support.mapped_messages import BODY, Json, mapped
from support.readings import delivery_of, lines_of

from ledger.gateway.deliveries import SignatureRefused
from ledger.gateway.processors.generic import GenericEndpoint, GenericWebhooks
from ledger.gateway.signatures import read_secrets

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
AT = str(int(NOON.timestamp()))
KEY = b"a key of the tests"


def generic(signature: Json, key: str = KEY.decode()) -> GenericWebhooks:
    endpoint = GenericEndpoint.model_validate(
        mapped(
            processor="generic",
            signature=signature,
            secrets=[{"name": "old", "value": "older"}, {"name": "k1", "value": key}],
        )
    )
    return GenericWebhooks(endpoint, read_secrets(endpoint.secrets))


def signed(body: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.new(KEY, body, getattr(hashlib, algorithm)).digest()


# The signature's settings, and the headers of a delivery that is signed so.
SCHEMES: dict[str, tuple[Json, dict[str, str]]] = {
    "hex of the body": (
        {"header": "x-signature"},
        {"x-signature": signed(BODY).hex()},
    ),
    "with a prefix": (
        {"header": "x-hub-signature-256", "prefix": "sha256="},
        {"x-hub-signature-256": f"sha256={signed(BODY).hex()}"},
    ),
    "base64 of SHA-512": (
        {"header": "x-signature", "algorithm": "sha512", "encoding": "base64"},
        {"x-signature": base64.b64encode(signed(BODY, "sha512")).decode()},
    ),
    "a timestamp in a header": (
        {
            "header": "x-signature",
            "template": "{timestamp}.{body}",
            "timestamp_header": "x-timestamp",
        },
        {"x-signature": signed(f"{AT}.".encode() + BODY).hex(), "x-timestamp": AT},
    ),
    "a timestamp and several signatures in one header": (
        {
            "header": "x-signature",
            "separator": ",",
            "prefix": "v1=",
            "timestamp_prefix": "t=",
            "template": "v1:{timestamp}:{body}",
        },
        {
            "x-signature": f"t={AT}, v1={'0' * 64}, "
            f"v1={signed(f'v1:{AT}:'.encode() + BODY).hex()}, v0=17"
        },
    ),
    "a timestamp of milliseconds": (
        {
            "header": "x-signature",
            "template": "{timestamp}{body}",
            "timestamp_header": "x-timestamp",
            "timestamp_unit": "milliseconds",
        },
        {"x-signature": signed(f"{AT}250".encode() + BODY).hex(), "x-timestamp": f"{AT}250"},
    ),
    "an id": (
        {"header": "x-signature", "template": "{id}{body}!", "id_header": "x-id"},
        {"x-signature": signed(b"{body}" + BODY + b"!").hex(), "x-id": "{body}"},
    ),
}


@pytest.mark.parametrize("case", SCHEMES)
async def test_a_signature_by_its_template(case: str) -> None:
    """What is signed as the settings say is accepted, and read; a byte less is refused."""
    settings, headers = SCHEMES[case]
    webhooks = generic(settings)
    delivery = delivery_of(BODY, headers=headers, received_at=NOON)
    assert webhooks.verify(delivery) == "k1"
    assert lines_of(await webhooks.read(delivery)) == [
        "CHARGE_SUCCEEDED 1250 PEN · acme:pay_17:payment.paid · order-9"
    ]
    for changed in (
        delivery_of(BODY[:-1], headers=headers, received_at=NOON),
        delivery_of(BODY, received_at=NOON),
        *(
            delivery_of(BODY, headers={**headers, name: f"{text[:-1]}x"}, received_at=NOON)
            for name, text in headers.items()
            if not text.endswith("v0=17")
        ),
    ):
        with pytest.raises(SignatureRefused):
            webhooks.verify(changed)


def test_an_old_delivery_is_refused() -> None:
    """With a timestamp that is signed, nobody can send a delivery again later."""
    settings, headers = SCHEMES["a timestamp in a header"]
    for seconds in (-301, 301):
        late = datetime.fromtimestamp(NOON.timestamp() - seconds, UTC)
        with pytest.raises(SignatureRefused):
            generic(settings).verify(delivery_of(BODY, headers=headers, received_at=late))


def test_secrets_are_written_as_text_hex_or_base64() -> None:
    """The key is the same; a secret that is not what it should be is refused at the start."""
    settings, headers = SCHEMES["hex of the body"]
    delivery = delivery_of(BODY, headers=headers, received_at=NOON)
    for encoding, key in (("hex", KEY.hex()), ("base64", base64.b64encode(KEY).decode())):
        endpoint = GenericEndpoint.model_validate(
            mapped(
                processor="generic",
                signature={**settings, "key_encoding": encoding},
                secrets=[{"name": "k1", "value": key}],
            )
        )
        assert GenericWebhooks(endpoint, read_secrets(endpoint.secrets)).verify(delivery) == "k1"
    with pytest.raises(ValueError, match="secret old is no hex"):
        generic({**settings, "key_encoding": "hex"})


def test_the_quarantine_keeps_the_headers_that_are_signed() -> None:
    """A later try needs them."""
    settings = SCHEMES["a timestamp in a header"][0]
    endpoint = generic(settings)._endpoint
    assert {"x-signature", "x-timestamp", "content-type"} <= endpoint.kept_headers


WRONG: dict[str, dict[str, Any]] = {
    "nothing is signed": {"template": "{timestamp}", "timestamp_header": "x-t"},
    "the body twice": {"template": "{body}{body}"},
    "an unknown place": {"template": "{body}{path}"},
    "a timestamp that is not signed": {"timestamp_header": "x-t"},
    "a timestamp from nowhere": {"template": "{timestamp}{body}"},
    "an id from nowhere": {"template": "{id}{body}"},
    "an id that is not signed": {"id_header": "x-id"},
    "two timestamps": {
        "template": "{timestamp}{body}",
        "timestamp_header": "x-t",
        "timestamp_prefix": "t=",
        "separator": ",",
    },
    "parts without a separator": {"template": "{timestamp}{body}", "timestamp_prefix": "t="},
    "another algorithm": {"algorithm": "md5"},
    "a header in capitals": {"header": "X-Signature"},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_scheme_that_proves_nothing_is_refused(case: str) -> None:
    """The settings are checked as they are read."""
    with pytest.raises(ValidationError):
        generic({"header": "x-signature", **WRONG[case]})
