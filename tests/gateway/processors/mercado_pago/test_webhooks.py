"""Mercado Pago's notifications: which are refused, and what the others fetch over HTTP."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mercadopago.webhook import InvalidWebhookSignatureError, WebhookSignatureValidator
from support.json_host import JsonHost, http_response, json_host
from support.mercado_pago import BODY, NOON, NOW, SECRET, chargeback, endpoint, payment, post
from support.readings import ANY_JSON, delivery_of, lines_of

from ledger.gateway.booking import Route
from ledger.gateway.deliveries import Delivery, Fact, FetchFailed, SignatureRefused, Unbookable
from ledger.gateway.explaining import explain
from ledger.gateway.fetching import RESOURCE_BYTES_MAX
from ledger.gateway.payloads import Payload
from ledger.gateway.processors.mercado_pago import MercadoPagoWebhooks, make_mercado_pago
from ledger.gateway.signatures import read_secrets
from ledger.v1 import ledger_pb2

PAYMENT = "/v1/payments/77000000017"
CHARGEBACK_ID = "217000061307271001"
CHARGE = (
    "CHARGE_SUCCEEDED 8050 PEN · mp:77000000017:approved · order-42 · processor_fee_minor=357"
    " · available_at=2026-06-10T17:00:00Z"
)


class Nothing:
    """A Fetcher for posts that fetch nothing."""

    async def get(self, path: str, *_: object) -> Payload:
        raise FetchFailed(f"nothing is at {path}")


def mercado_pago(**changes: Any) -> MercadoPagoWebhooks:
    made = endpoint(**changes)
    return MercadoPagoWebhooks(made, read_secrets(made.secrets), Nothing())


@pytest.fixture
async def api() -> AsyncIterator[JsonHost]:
    """Mercado Pago's API with a payment and its chargeback."""
    async with json_host() as host:
        host.resources = {
            PAYMENT: payment(),
            f"/v1/chargebacks/{CHARGEBACK_ID}": chargeback(),
            "/v1/chargebacks/CB-077": chargeback(id="CB-077"),
        }
        yield host


def fetching(api: JsonHost, *, timeout_seconds: float = 20, **changes: Any) -> MercadoPagoWebhooks:
    """The endpoint as the gateway makes it, with the API at another address."""
    made = endpoint(
        api={
            "url": api.origin,
            "key": {"name": "token", "value": "APP-1"},
            "timeout_seconds": timeout_seconds,
        },
        **changes,
    )
    return make_mercado_pago(made, read_secrets(made.secrets))


async def lines(api: JsonHost, delivery: Delivery, **changes: Any) -> list[str]:
    processor = fetching(api, **changes)
    assert processor.verify(delivery) == "w1"
    return lines_of(await processor.read(delivery))


async def test_a_payment_is_fetched_with_the_key(api: JsonHost) -> None:
    """The notification has no amount: what the API returns is booked."""
    assert await lines(api, post()) == [CHARGE]
    assert api.paths == [PAYMENT]
    assert "authorization: bearer app-1" in api.requests[0].lower()


async def test_the_signed_id_of_the_query_is_fetched_and_not_that_of_the_body(
    api: JsonHost,
) -> None:
    """No signature covers the body, whatever it says."""
    forged = BODY.replace(b"77000000017", b"77000000099")
    assert await lines(api, post(body=forged)) == [CHARGE]
    assert await lines(api, post(body=b"no json")) == [CHARGE]
    assert api.paths == [PAYMENT, PAYMENT]


async def test_an_id_above_2_53_keeps_its_digits(api: JsonHost) -> None:
    """Readers that make floats of numbers would ask for another chargeback."""
    delivery = post(CHARGEBACK_ID, "topic_chargebacks_wh", body=b"{}")
    assert await lines(api, delivery) == [
        f"DISPUTE_OPENED 8050 PEN · mp:chargeback:{CHARGEBACK_ID}:opened · 77000000017"
    ]
    assert api.paths == [f"/v1/chargebacks/{CHARGEBACK_ID}", PAYMENT]


async def test_the_payment_of_a_chargeback_says_whose_money_it_is(api: JsonHost) -> None:
    """Without it the dispute is of the restaurant of its charge."""
    delivery = post("CB-077", "chargebacks")
    (found,) = await fetching(api).read(delivery)
    assert isinstance(found, Fact)
    assert (found.owner.account, found.charge) == ("555001", "mp:77000000017:approved")
    del api.resources[PAYMENT]
    (found,) = await fetching(api).read(delivery)
    assert isinstance(found, Fact)
    assert (found.owner.account, found.charge) == ("", "mp:77000000017:approved")
    await fetching(api, restaurant={"by": "fixed", "key": "rest_7"}).read(delivery)
    assert api.paths[-1] == "/v1/chargebacks/CB-077"


@pytest.mark.parametrize("signed_as", ["CB-077", "cb-077"])
def test_letters_of_an_id_are_signed_as_they_are_or_in_lower_case(signed_as: str) -> None:
    """The page says one, and the library does the other."""
    delivery = post(signed_as, "chargebacks")
    shown = Delivery(
        delivery.body, delivery.headers, "data.id=CB-077&type=chargebacks", delivery.received_at
    )
    assert mercado_pago().verify(shown) == "w1"


async def test_a_resource_is_explained_but_never_booked_from_a_post(api: JsonHost) -> None:
    """`ledger gateway check` shows what a file with a payment would become. A post's body, which no
    signature covers, is not read so.
    """
    body = json.dumps(payment(transaction_amount=1)).encode()
    assert await lines(api, post(body=body)) == [CHARGE]
    processor = mercado_pago()
    for resource, expected in (
        (payment(), CHARGE),
        (chargeback(), f"DISPUTE_OPENED 8050 PEN · mp:chargeback:{CHARGEBACK_ID}:opened"),
        (payment(status=None), "UNBOOKABLE UNKNOWN_SHAPE"),
    ):
        found = processor.read_resource(json.dumps(resource).encode())
        assert found is not None
        assert lines_of(found)[0].startswith(expected)
    assert processor.read_resource(BODY) is None
    route = Route(endpoint(), "mercado_pago", processor)
    shown = await explain(route, delivery_of(json.dumps(payment()).encode()), is_signed=False)
    (event,) = shown.parts
    assert isinstance(event, ledger_pb2.ProcessorEvent)
    assert (event.event_id, event.restaurant_id) == ("mp:77000000017:approved", "555001")


FAILURES = {
    "too many requests": http_response("429 Too Many Requests", b"", "retry-after: 7"),
    "broken": http_response("500 Internal Server Error"),
    "away": http_response("503 Service Unavailable"),
    "slow": b"",
    "a redirect": http_response("302 Found", b"", "location: https://example.com/v1/payments/1"),
    "a huge body": http_response("200 OK", b'{"id":"' + b"7" * RESOURCE_BYTES_MAX + b'"}'),
    "no JSON": http_response("200 OK", b"<html>"),
    "no object": http_response("200 OK", b"[]"),
    "a refused key": http_response("401 Unauthorized", b"{}"),
    "no such payment": http_response("404 Not Found", b"{}"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_what_cannot_be_had_now_is_tried_again(api: JsonHost, case: str) -> None:
    """It is parked, and nothing is booked; no other host is asked."""
    api.instead[PAYMENT] = FAILURES[case]
    processor = fetching(api, timeout_seconds=0.2 if case == "slow" else 20)
    with pytest.raises(FetchFailed) as failed:
        await processor.read(post())
    assert failed.value.retry_after_seconds == (7 if case == "too many requests" else None)
    assert api.paths == [PAYMENT]


@pytest.mark.parametrize(
    "resource_id",
    ["", "7/../8", "77000000017x", "7 7", "٣", "7" * 21, "https://example.com/v1/payments/7"],
)
async def test_an_id_never_leads_to_another_address(api: JsonHost, resource_id: str) -> None:
    """What is no id is for the quarantine, even if it was signed."""
    (found,) = await fetching(api).read(post(resource_id))
    assert isinstance(found, Unbookable)
    assert found.reason == "NO_RESOURCE"
    assert api.paths == []


async def test_the_api_returns_what_was_asked_for(api: JsonHost) -> None:
    """Another resource, one of the other mode, or no resource at all is for the quarantine."""
    for resource, reason in (
        (payment(id=77000000018), "OTHER_RESOURCE"),
        (payment(live_mode=False), "WRONG_MODE"),
        ({}, "UNKNOWN_SHAPE"),
        (payment(currency_id=7), "UNKNOWN_SHAPE"),
    ):
        api.resources[PAYMENT] = resource
        (found,) = await fetching(api).read(post())
        assert isinstance(found, Unbookable)
        assert found.reason == reason


@pytest.mark.parametrize(
    ("topic", "body", "expected"),
    [
        ("merchant_order", b"", "IGNORED merchant_order"),
        ("topic_merchant_order_wh", b"", "IGNORED topic_merchant_order_wh"),
        ("subscription_preapproval", b"", "IGNORED subscription_preapproval"),
        ("topic_claims_integration_wh", b"", "IGNORED topic_claims_integration_wh"),
        ("order", b"", "UNBOOKABLE order UNKNOWN_TOPIC"),
        ("gift", b"", "UNBOOKABLE gift UNKNOWN_TOPIC"),
        ("", b'{"type": "merchant_order"}', "IGNORED merchant_order"),
        ("", b'{"topic": "merchant_order"}', "IGNORED merchant_order"),
        ("", b"{}", "UNBOOKABLE UNKNOWN_TOPIC"),
        ("", b"no json", "UNBOOKABLE UNKNOWN_SHAPE"),
    ],
)
async def test_other_topics_fetch_nothing(topic: str, body: bytes, expected: str) -> None:
    """What is known to move no money is ignored, and what is not known is not."""
    delivery = post(topic=topic, body=body)
    assert mercado_pago().verify(delivery) == "w1"
    assert lines_of(await mercado_pago().read(delivery)) == [expected]


def _library_accepts(delivery: Delivery, data_id: str, now: datetime = NOON) -> bool:
    try:
        WebhookSignatureValidator.validate(
            delivery.headers.get("x-signature"),
            delivery.headers.get("x-request-id"),
            data_id,
            SECRET,
            tolerance_seconds=300,
            now=lambda: int(now.timestamp() * 1000),
        )
    except InvalidWebhookSignatureError:
        return False
    return True


@pytest.mark.parametrize(
    ("resource_id", "request_id"),
    [("77000000017", "req-1"), ("77000000017", ""), ("", "req-1"), ("", ""), ("CB-077", "req-1")],
)
def test_the_library_accepts_what_we_accept(resource_id: str, request_id: str) -> None:
    """Mercado Pago's own, whose signatures leave out absent parts, too."""
    delivery = post(resource_id, request_id=request_id)
    assert _library_accepts(delivery, resource_id)
    assert mercado_pago().verify(delivery) == "w1"


def test_the_time_of_a_signature_may_be_in_milliseconds() -> None:
    """Both are sent; the manifest has the time as it stands in the header."""
    delivery = post(ts=NOW + "250")
    assert mercado_pago().verify(delivery) == "w1"
    with pytest.raises(SignatureRefused):
        mercado_pago().verify(post(ts=NOW + "250", at=NOON + timedelta(seconds=302)))


@pytest.mark.parametrize(
    ("seconds", "changes", "is_accepted"),
    [
        (300, {}, True),
        (301, {}, False),
        (-301, {}, False),
        (3600, {"tolerance_seconds": 3600}, True),
        (3601, {"tolerance_seconds": 3600}, False),
    ],
)
def test_a_signature_is_accepted_for_a_while(
    seconds: int, changes: Mapping[str, Any], is_accepted: bool
) -> None:
    """As long as the endpoint says, before and after."""
    at = NOON + timedelta(seconds=seconds)
    delivery = post(at=at)
    if is_accepted:
        assert mercado_pago(**changes).verify(delivery) == "w1"
    else:
        assert not changes or seconds > 3600
        with pytest.raises(SignatureRefused):
            mercado_pago(**changes).verify(delivery)
    if not changes:
        assert _library_accepts(delivery, "77000000017", at) == is_accepted


GOOD = post()
SIGNATURE = GOOD.headers["x-signature"]
V1 = SIGNATURE.partition("v1=")[2]


@pytest.mark.parametrize(
    ("header", "request_id", "query"),
    [
        ("", "req-1", GOOD.query),
        (SIGNATURE, "req-2", GOOD.query),
        (SIGNATURE, "", GOOD.query),
        (SIGNATURE, "req-1", "data.id=77000000018&type=payment"),
        (SIGNATURE, "req-1", "type=payment"),
        (SIGNATURE, "req-1", "data.id=77000000017&data.id=77000000018&type=payment"),
        (SIGNATURE, "req-1", "id=77000000017&topic=payment"),
        (SIGNATURE, "req-1", "&".join("a" * 60)),
        (f"ts={NOW}", "req-1", GOOD.query),
        (f"v1={V1}", "req-1", GOOD.query),
        (f"ts={NOW},ts={NOW},v1={V1}", "req-1", GOOD.query),
        (f"ts=٣,v1={V1}", "req-1", GOOD.query),
        (f"ts={'9' * 400},v1={V1}", "req-1", GOOD.query),
        (f"ts={NOW},v2={V1}", "req-1", GOOD.query),
        (f"ts={NOW},v1=ключ", "req-1", GOOD.query),
        (f"ts={int(NOW) + 1},v1={V1}", "req-1", GOOD.query),
        (f"ts={NOW},v1={V1[:-1]}0{V1[-1]}", "req-1", GOOD.query),
        ("nonsense", "req-1", GOOD.query),
    ],
)
def test_what_mercado_pago_did_not_sign_is_refused(
    header: str, request_id: str, query: str
) -> None:
    """IPN and QR notifications have no signature at all: they are never booked."""
    headers = {"x-signature": header, "x-request-id": request_id}
    with pytest.raises(SignatureRefused) as refused:
        mercado_pago().verify(delivery_of(BODY, headers=headers, query=query))
    assert refused.value.status == 400


def test_secrets_are_rotated() -> None:
    """The old one is accepted until its end."""
    secrets = [
        {"name": "old", "value": "whs_old", "not_after": NOON},
        {"name": "new", "value": SECRET},
    ]
    processor = mercado_pago(secrets=secrets)
    before = NOON - timedelta(seconds=1)
    assert processor.verify(post(secret="whs_old", at=before)) == "old"
    assert processor.verify(post()) == "new"
    with pytest.raises(SignatureRefused):
        processor.verify(post(secret="whs_old"))


@settings(max_examples=40, deadline=None)
@given(
    body=ANY_JSON.map(json.dumps) | st.text(max_size=20),
    query=st.text(max_size=30)
    | st.lists(
        st.tuples(st.sampled_from(["data.id", "type", "topic", "id"]), st.text(max_size=8)),
        max_size=4,
    ).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)),
)
async def test_reading_never_raises(body: str, query: str) -> None:
    """Whatever comes is a reading, or cannot be fetched."""
    delivery = delivery_of(body.encode("utf-8", "replace"), query=query)
    with contextlib.suppress(FetchFailed):
        assert await mercado_pago().read(delivery)
