"""Stripe's signature and its envelope; what each kind of message is, in the other files."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stripe import SignatureVerificationError, WebhookSignature
from support.readings import delivery_of, lines_of
from support.stripe_messages import (
    OLD_SECRET,
    PAID_AT,
    PAYOUT_ID,
    REINSTATED,
    SECRET,
    WITHDRAWN,
    FakeApi,
    Json,
    charge,
    dispute,
    event,
    payout,
    readings_of,
    refund,
    stripe,
    text_of,
    transaction,
)

from ledger.gateway.deliveries import (
    Delivery,
    Fact,
    FetchFailed,
    Ignored,
    Owner,
    SignatureRefused,
    Unbookable,
)
from ledger.gateway.processors.stripe.webhooks import READERS

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
BODY = json.dumps(event("charge.succeeded", charge())).encode()


def signature(body: bytes, secret: str = SECRET, at: datetime = NOW) -> str:
    """The v1 signature that Stripe's own library expects."""
    signed = f"{int(at.timestamp())}.{body.decode()}"
    return WebhookSignature._compute_signature(signed, secret)


def header(body: bytes, *secrets: str, at: datetime = NOW) -> str:
    signatures = [f"v1={signature(body, secret, at)}" for secret in secrets or (SECRET,)]
    return ",".join([f"t={int(at.timestamp())}", *signatures])


def delivery(stripe_signature: str, body: bytes = BODY, received_at: datetime = NOW) -> Delivery:
    headers = {"stripe-signature": stripe_signature}
    return delivery_of(body, headers=headers, received_at=received_at)


ACCEPTED = {
    "one signature": (header(BODY), "new"),
    "the old secret": (header(BODY, OLD_SECRET), "old"),
    "both while one is rotated": (header(BODY, OLD_SECRET, SECRET), "new"),
    "with the test scheme v0": (f"{header(BODY)},v0=6ffbb59b2300", "new"),
    "with blanks": (header(BODY).replace(",", ", "), "new"),
    "five minutes ago": (header(BODY, at=NOW - timedelta(seconds=300)), "new"),
    "five minutes ahead": (header(BODY, at=NOW + timedelta(seconds=300)), "new"),
}
REFUSED = {
    "none": "",
    "no timestamp": header(BODY).partition(",")[2],
    "no signature": header(BODY).partition(",")[0],
    "v0 alone": header(BODY).replace("v1", "v0"),
    "another secret": header(BODY, "whsec_other"),
    "the secret without its prefix": header(BODY, SECRET.removeprefix("whsec_")),
    "two timestamps": f"t=1,{header(BODY)}",
    "another timestamp": header(BODY).replace(f"t={int(NOW.timestamp())}", "t=1780315201"),
    "upper case": header(BODY).upper().replace("T=", "t=").replace("V1", "v1"),
    "too old": header(BODY, at=NOW - timedelta(seconds=301)),
    "of the future": header(BODY, at=NOW + timedelta(seconds=301)),
    "no number": header(BODY).replace("t=1", "t=x"),
    "no ASCII": "t=1780315200,v1=\u00e9\udce9",
    "many": header(BODY, *["whsec_wrong"] * 20, SECRET),
    "other words": "hello, world; =,=,=",
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_delivery_of_stripe_is_accepted(case: str) -> None:
    """Signatures of Stripe's library, and the name of the secret that made them."""
    stripe_signature, secret = ACCEPTED[case]
    assert stripe().verify(delivery(stripe_signature)) == secret


@pytest.mark.parametrize("case", REFUSED)
def test_any_other_delivery_is_refused(case: str) -> None:
    """Nothing is accepted by accident: a part that is missing, stale, or of another secret."""
    with pytest.raises(SignatureRefused):
        stripe().verify(delivery(REFUSED[case]))


def test_every_byte_is_signed() -> None:
    """A body or a signature with one byte changed is refused."""
    webhooks = stripe()
    signed = header(BODY)
    for place in range(len(BODY)):
        changed = BODY[:place] + bytes([BODY[place] ^ 1]) + BODY[place + 1 :]
        with pytest.raises(SignatureRefused):
            webhooks.verify(delivery(signed, changed))
    for place in range(len(signed)):
        changed_header = signed[:place] + chr(ord(signed[place]) ^ 1) + signed[place + 1 :]
        with pytest.raises(SignatureRefused):
            webhooks.verify(delivery(changed_header))
    for shorter in (BODY[:-1], b"", BODY + b" "):
        with pytest.raises(SignatureRefused):
            webhooks.verify(delivery(signed, shorter))


def test_stripe_accepts_and_refuses_the_same() -> None:
    """Stripe's own library agrees about what is signed now, and about what is not."""
    now = datetime.fromtimestamp(int(time.time()), UTC)
    for stripe_signature, is_good in (
        (header(BODY, at=now), True),
        (header(BODY, OLD_SECRET, SECRET, at=now), True),
        (header(BODY, "whsec_other", at=now), False),
        (header(BODY, at=now - timedelta(hours=1)), False),
    ):
        try:
            theirs = WebhookSignature.verify_header(BODY.decode(), stripe_signature, SECRET, 300)
        except SignatureVerificationError:
            theirs = False
        assert theirs == is_good
        try:
            ours = bool(stripe().verify(delivery(stripe_signature, received_at=now)))
        except SignatureRefused:
            ours = False
        assert ours == is_good


ENVELOPES: dict[str, tuple[object, str]] = {
    "live at a test endpoint": (
        event("charge.succeeded", charge(), livemode=True),
        "UNBOOKABLE charge.succeeded WRONG_MODE",
    ),
    "without a mode": (
        event("charge.succeeded", charge(), livemode=None),
        "UNBOOKABLE charge.succeeded UNKNOWN_SHAPE",
    ),
    "a thin event": (
        {
            "id": "evt_test_1Thin",
            "object": "v2.core.event",
            "type": "v1.charge.succeeded",
            "livemode": False,
            "created": "2026-05-30T12:00:00.000Z",
            "related_object": {"id": "ch_1Dinner", "type": "charge", "url": "/v1/charges/ch_1"},
        },
        "UNBOOKABLE v1.charge.succeeded UNKNOWN_SHAPE",
    ),
    "another resource": (
        {"id": "cus_1", "object": "customer", "livemode": False, "created": 1},
        "UNBOOKABLE ? UNKNOWN_SHAPE",
    ),
    "an account that is none": (
        event("charge.succeeded", charge(), account="acct_1\r\nx: y"),
        "UNBOOKABLE charge.succeeded UNKNOWN_SHAPE",
    ),
    "an event without data": (
        {"id": "evt_1", "object": "event", "type": "charge.succeeded", "livemode": False},
        "UNBOOKABLE charge.succeeded UNKNOWN_SHAPE",
    ),
    "an empty object": ({}, "UNBOOKABLE ? UNKNOWN_SHAPE"),
    "a list": ([], "UNBOOKABLE ? UNKNOWN_SHAPE"),
    "a kind of no money": (
        event("customer.created", {"id": "cus_1", "object": "customer"}),
        "IGNORED customer.created",
    ),
    "an intent, whose charge has its own message": (
        event("payment_intent.succeeded", {"id": "pi_1", "object": "payment_intent"}),
        "IGNORED payment_intent.succeeded",
    ),
    "a checkout": (
        event("checkout.session.completed", {"id": "cs_1", "object": "checkout.session"}),
        "IGNORED checkout.session.completed",
    ),
    "a pending charge": (
        event("charge.pending", charge(status="pending", paid=False)),
        "IGNORED charge.pending",
    ),
    "an authorisation that expired": (
        event("charge.expired", charge(captured=False, amount_captured=0)),
        "IGNORED charge.expired",
    ),
    "a dispute that changed": (
        event("charge.dispute.updated", dispute(WITHDRAWN)),
        "IGNORED charge.dispute.updated",
    ),
    "a kind that nobody knows": (event("charge.teleported", charge()), "IGNORED charge.teleported"),
}


@pytest.mark.parametrize("case", ENVELOPES)
async def test_an_envelope(case: str) -> None:
    """What is no Event with its data is unbookable; kinds that move no money are counted."""
    message, expected = ENVELOPES[case]
    assert await text_of(message) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body", [b"", b"null", b"{", b'{"a": NaN}', b"\xff\xfe", b'{"type": 1e99999999999999999999}']
)
async def test_what_is_no_json_is_unbookable(body: bytes) -> None:
    """A signed body that cannot be read goes to the quarantine instead of failing."""
    (reading,) = await stripe().read(delivery_of(body))
    assert isinstance(reading, Unbookable)
    assert reading.reason == "UNKNOWN_SHAPE"


RESOURCES: list[Json] = [charge(), refund(), dispute(WITHDRAWN), payout()]
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def messages(draw: st.DrawFn) -> object:
    """Events of all kinds, in which some fields are missing or anything."""
    resource = dict(draw(st.sampled_from(RESOURCES)))
    for name in draw(st.lists(st.sampled_from(sorted(resource)), max_size=4)):
        resource[name] = draw(anything)
    for name in draw(st.lists(st.sampled_from(sorted(resource)), max_size=2)):
        resource.pop(name, None)
    message = event(draw(st.sampled_from(sorted(READERS))), resource)
    previous = draw(st.none() | st.dictionaries(st.sampled_from(sorted(charge())), anything))
    if previous is not None:
        message["data"]["previous_attributes"] = previous
    for name in draw(st.lists(st.sampled_from(sorted(message)), max_size=2)):
        message[name] = draw(anything)
    return message


@given(message=messages() | anything, is_fetching=st.booleans())
@settings(max_examples=100, deadline=None)
async def test_no_message_is_an_error(message: object, is_fetching: bool) -> None:
    """Whatever is in a signed body, it is a fact, nothing, unbookable, or waits for the API."""
    try:
        found = await stripe(FakeApi() if is_fetching else None).read(
            delivery_of(json.dumps(message).encode())
        )
    except FetchFailed:
        assert is_fetching
        return
    assert found
    assert all(isinstance(reading, Fact | Ignored | Unbookable) for reading in found)


# What Stripe sends in the life of a payment: in any order, again, and one fact in several messages.
FEE = {"balance_transaction": transaction(4500, 93)}
MOVED_BACK = {"status": "failed", "failure_balance_transaction": "txn_1Back"}
LISTED = {"object": "list", "data": [refund()], "has_more": False}
LATER: Json = {"created": PAID_AT + 7200}
LIFE: list[Json] = [
    event("charge.succeeded", charge(captured=False, amount_captured=0)),
    event("charge.succeeded", charge()),
    event("charge.captured", charge(), **LATER),
    event("charge.updated", charge(**FEE), previous={"balance_transaction": None}, **LATER),
    event("charge.succeeded", charge(**FEE), id="evt_1Other"),
    event("refund.created", refund(status="pending")),
    event("refund.updated", refund(), previous={"status": "pending"}, **LATER),
    event("charge.refunded", charge(amount_refunded=1000, refunds=LISTED), **LATER),
    event("refund.failed", refund(**MOVED_BACK), **LATER),
    event("refund.updated", refund(**MOVED_BACK), created=PAID_AT + 7201),
    event("charge.refund.updated", refund(**MOVED_BACK), created=PAID_AT + 7202),
    event("charge.dispute.created", dispute(WITHDRAWN)),
    event("charge.dispute.funds_withdrawn", dispute(WITHDRAWN), **LATER),
    event("charge.dispute.funds_reinstated", dispute(WITHDRAWN, REINSTATED)),
    event("charge.dispute.closed", dispute(WITHDRAWN, REINSTATED, status="won"), **LATER),
    event("payout.paid", payout()),
    event("payout.failed", payout(status="failed", failure_code="no_account"), **LATER),
]
BOOKED = [
    "CHARGE_SUCCEEDED 4500 EUR · stripe:ch_1Dinner · pi_1Dinner",
    "DISPUTE_OPENED 4500 EUR · stripe:du_1Cold:opened · du_1Cold · dispute_fee_minor=2000",
    "DISPUTE_WON 4500 EUR · stripe:du_1Cold:won · du_1Cold",
    f"PAYOUT_FAILED 8000 EUR · stripe:po_1Friday:failed · po_1Friday · payout_id={PAYOUT_ID}"
    " · failure_code=no_account",
    f"PAYOUT_PAID 8000 EUR · stripe:po_1Friday:paid · po_1Friday · payout_id={PAYOUT_ID}",
    "PROCESSOR_FEE_ASSESSED 93 EUR · stripe:ch_1Dinner:fee · pi_1Dinner",
    "REFUND_FAILED 1000 EUR · stripe:re_1Soup:failed · pi_1Dinner",
    "REFUND_SUCCEEDED 1000 EUR · stripe:re_1Soup · pi_1Dinner",
]
API = {
    "/v1/balance_transactions/txn_1Dinner": transaction(4500, 93),
    "/v1/balance_transactions/txn_1Soup": transaction(-1000, id="txn_1Soup"),
    "/v1/balance_transactions/txn_1Back": transaction(1000, id="txn_1Back"),
    "/v1/charges/ch_1Dinner": charge(),
}


def of_the_event(fact: Fact) -> Fact:
    """The fact without what the ledger does not compare, or finds by the booked charge."""
    return replace(fact, owner=Owner(), charge="", metadata={})


@given(order=st.lists(st.sampled_from(range(len(LIFE))), max_size=40), is_fetching=st.booleans())
@settings(max_examples=30, deadline=None)
async def test_the_order_of_deliveries_does_not_matter(order: list[int], is_fetching: bool) -> None:
    """Any order and repetition: no conflict, and the same facts once every message has come."""
    api = FakeApi(API) if is_fetching else None
    booked: dict[str, Fact] = {}
    for number in (*order, *range(len(LIFE))):
        for reading in await readings_of(LIFE[number], api):
            if isinstance(reading, Fact):
                found = of_the_event(reading)
                assert booked.setdefault(found.event_id, found) == found
    assert sorted(lines_of(list(booked.values()))) == BOOKED
