"""Adyen's platform webhooks: which transfers are payouts, and what becomes of them."""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from Adyen.util import generate_payload_sig, is_valid_hmac_payload
from hypothesis import given, settings
from hypothesis import strategies as st
from support.adyen import PAYOUT, transfer
from support.readings import ANY_JSON, delivery_of, lines_of

from ledger.gateway.deliveries import Fact, SignatureRefused
from ledger.gateway.processors.adyen import hmac_sha256
from ledger.gateway.processors.adyen_platform import AdyenPlatform, AdyenPlatformEndpoint
from ledger.gateway.signatures import read_secrets

KEY = "A1B2C3D4E5F60718293A4B5C6D7E8F90A1B2C3D4E5F60718293A4B5C6D7E8F90"
OLD_KEY = "00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
Json = dict[str, Any]

RECEIVED = {"status": "received", "type": "accounting", "bookingDate": "2026-06-01T09:00:00+02:00"}
AUTHORISED = {**RECEIVED, "status": "authorised", "bookingDate": "2026-06-01T09:00:01+02:00"}
BOOKED = {**RECEIVED, "status": "booked", "bookingDate": "2026-06-01T09:00:02+02:00"}
ESTIMATED = {
    "type": "tracking",
    "updateDate": "2026-06-01T09:00:03+02:00",
    "trackingData": {"type": "estimation", "estimatedArrivalTime": "2026-06-02T09:00:00+02:00"},
}
CREDITED = {
    "type": "tracking",
    "updateDate": "2026-06-01T10:30:00+02:00",
    "trackingData": {"type": "confirmation", "status": "credited"},
}
TRACED = {
    "type": "tracing",
    "updateDate": "2026-06-01T09:00:04+02:00",
    "tracingData": {"type": "ukFps", "fpid": "FPID-77"},
}
FAILED = {**RECEIVED, "status": "failed", "bookingDate": "2026-06-01T09:10:00+02:00"}
RETURNED = {**RECEIVED, "status": "returned", "bookingDate": "2026-06-03T08:00:00+02:00"}


def platform(**changes: Any) -> AdyenPlatform:
    endpoint = AdyenPlatformEndpoint.model_validate(
        {
            "name": "adyen-payouts",
            "processor": "adyen_platform",
            "mode": "live",
            "secrets": [{"name": "k1", "value": KEY}],
            "restaurant": {"by": "account"},
            **changes,
        }
    )
    return AdyenPlatform(endpoint, read_secrets(endpoint.secrets))


async def lines(message: Json, **changes: Any) -> list[str]:
    """What a message becomes that Adyen's library has signed."""
    body = json.dumps(message).encode()
    delivery = delivery_of(body, headers=signed(body))
    processor = platform(**changes)
    assert processor.verify(delivery) == "k1"
    return lines_of(await processor.read(delivery))


def signed(body: bytes, key: str = KEY) -> dict[str, str]:
    return {
        "hmacsignature": generate_payload_sig(body, key).decode(),
        "protocol": "HmacSHA256",
    }


PAID = f"PAYOUT_PAID 7954 GBP · adyen:TR1:booked · TR1 · payout_id={PAYOUT}"
ARRIVED = f"PAYOUT_PAID 7954 GBP · adyen:TR1:credited · TR1 · payout_id={PAYOUT}"
UPDATED = "balancePlatform.transfer.updated"
BY_CREDIT = {"paid_by": "credited"}


def failed(status: str, code: str) -> str:
    return (
        f"PAYOUT_FAILED 7954 GBP · adyen:TR1:{status} · TR1 · payout_id={PAYOUT}"
        f" · failure_code={code}"
    )


EACH: dict[str, tuple[Json, Json, list[str]]] = {
    "received": ({}, transfer("received", RECEIVED), [f"IGNORED {UPDATED}"]),
    "authorised": ({}, transfer("authorised", RECEIVED, AUTHORISED), [f"IGNORED {UPDATED}"]),
    "booked": ({}, transfer("booked", RECEIVED, AUTHORISED, BOOKED), [PAID]),
    "booked, without a history": ({}, transfer("booked"), [PAID]),
    "tracked": ({}, transfer("booked", RECEIVED, BOOKED, ESTIMATED, TRACED), [PAID]),
    "credited": ({}, transfer("booked", RECEIVED, BOOKED, CREDITED), [PAID]),
    "booked, and that does not pay": (
        BY_CREDIT,
        transfer("booked", RECEIVED, BOOKED, ESTIMATED),
        [f"IGNORED {UPDATED}"],
    ),
    "credited, and that pays": (
        BY_CREDIT,
        transfer("booked", RECEIVED, BOOKED, CREDITED),
        [ARRIVED],
    ),
    "credited by its tracking": (
        BY_CREDIT,
        transfer("booked", tracking={"type": "confirmation", "status": "credited"}),
        [ARRIVED],
    ),
    "credited by its status": (BY_CREDIT, transfer("credited"), [ARRIVED]),
    "traced": (
        {"bank_references": True},
        transfer("booked", BOOKED, TRACED),
        [
            PAID,
            f"PAYOUT_REFERENCED 7954 GBP · adyen:TR1:traced:FPID-77 · TR1 · payout_id={PAYOUT}"
            " · bank_reference=FPID-77",
        ],
    ),
    "not traced yet": ({"bank_references": True}, transfer("booked", BOOKED), [PAID]),
    "failed": (
        {},
        transfer("failed", RECEIVED, FAILED, reason="counterpartyAccountClosed"),
        [failed("failed", "counterpartyAccountClosed")],
    ),
    "failed, and nobody says why": (
        {},
        transfer("failed", RECEIVED, FAILED),
        [failed("failed", "failed")],
    ),
    "failed, in words": (
        {},
        transfer("failed", RECEIVED, FAILED, reason="the account is closed"),
        [failed("failed", "failed")],
    ),
    "refused": (
        {},
        transfer("refused", RECEIVED, reason="notEnoughBalance"),
        [failed("refused", "notEnoughBalance")],
    ),
    "returned after it was booked": (
        {},
        transfer("returned", RECEIVED, BOOKED, RETURNED, reason="counterpartyAccountNotFound"),
        [PAID, failed("returned", "counterpartyAccountNotFound")],
    ),
    "a status of tomorrow": (
        {},
        transfer("bounced", BOOKED),
        [PAID, f"UNBOOKABLE {UPDATED} UNKNOWN_STATUS"],
    ),
    "money that came in": (
        {},
        transfer("booked", BOOKED, direction="incoming"),
        [f"IGNORED {UPDATED}"],
    ),
    "a sweep": (
        {},
        transfer("booked", BOOKED, reference="weekly sweep"),
        [f"IGNORED {UPDATED}"],
    ),
    "a reference that the table knows": (
        {"payouts": {"weekly sweep": PAYOUT}},
        transfer("booked", BOOKED, reference="weekly sweep"),
        [PAID],
    ),
    "no reference": ({}, transfer("booked", BOOKED, reference=None), [f"IGNORED {UPDATED}"]),
    "created": (
        {},
        {**transfer("received", RECEIVED), "type": "balancePlatform.transfer.created"},
        ["IGNORED balancePlatform.transfer.created"],
    ),
    "an account": (
        {},
        {**transfer(""), "type": "balancePlatform.accountHolder.updated"},
        ["IGNORED balancePlatform.accountHolder.updated"],
    ),
    "a sweep was set up": (
        {},
        {**transfer(""), "type": "balancePlatform.balanceAccountSweep.updated"},
        ["IGNORED balancePlatform.balanceAccountSweep.updated"],
    ),
    "a report": (
        {},
        {**transfer(""), "type": "balancePlatform.report.created"},
        ["IGNORED balancePlatform.report.created"],
    ),
    "a type of tomorrow": (
        {},
        {**transfer(""), "type": "balancePlatform.gift.created"},
        ["UNBOOKABLE balancePlatform.gift.created UNKNOWN_TYPE"],
    ),
    "the other mode": (
        {},
        {**transfer("booked", BOOKED), "environment": "test"},
        [f"UNBOOKABLE {UPDATED} WRONG_MODE"],
    ),
    "no mode": (
        {},
        {**transfer("booked", BOOKED), "environment": None},
        [f"UNBOOKABLE {UPDATED} UNKNOWN_SHAPE"],
    ),
    "no amount": (
        {},
        transfer("booked", BOOKED, amount=None),
        [f"UNBOOKABLE {UPDATED} UNKNOWN_SHAPE"],
    ),
    "an amount below zero": (
        {},
        transfer("booked", BOOKED, amount={"currency": "GBP", "value": -7954}),
        [f"UNBOOKABLE {UPDATED} UNKNOWN_SHAPE"],
    ),
    "an id that cannot be one": (
        {},
        transfer("booked", BOOKED, id="T R"),
        [f"UNBOOKABLE {UPDATED} UNKNOWN_SHAPE"],
    ),
    "the currency that Adyen counts with two decimals": (
        {},
        transfer("booked", BOOKED, amount={"currency": "ISK", "value": 795_400}),
        [PAID.replace("GBP", "ISK")],
    ),
}


@pytest.mark.parametrize("case", EACH)
async def test_what_each_message_becomes(case: str) -> None:
    """A table of cases."""
    changes, message, expected = EACH[case]
    assert await lines(message, **changes) == expected


async def _facts(updates: Sequence[Json]) -> dict[str, set[tuple[str, datetime]]]:
    found: dict[str, set[tuple[str, datetime]]] = {}
    for update in updates:
        for reading in await platform().read(delivery_of(json.dumps(update).encode())):
            assert not isinstance(reading, Fact) or reading.payout_id == PAYOUT
            if isinstance(reading, Fact):
                (line,) = lines_of([reading])
                found.setdefault(reading.event_id, set()).add((line, reading.occurred_at))
    return found


LIFE = [
    transfer("received", RECEIVED),
    transfer("authorised", RECEIVED, AUTHORISED),
    transfer("booked", RECEIVED, AUTHORISED, BOOKED),
    transfer("booked", RECEIVED, AUTHORISED, BOOKED, ESTIMATED),
    transfer("booked", RECEIVED, AUTHORISED, BOOKED, ESTIMATED, CREDITED),
    transfer("returned", RECEIVED, AUTHORISED, BOOKED, ESTIMATED, CREDITED, RETURNED),
]


@settings(max_examples=30, deadline=None)
@given(order=st.lists(st.integers(0, 5), max_size=8), rest=st.permutations(range(6)))
async def test_any_order_and_repetition_reports_the_same_facts(
    order: list[int], rest: list[int]
) -> None:
    """Later updates of a transfer report what earlier ones did, with the same fields."""
    found = await _facts([LIFE[i] for i in [*order, *rest]])
    assert found == {
        "adyen:TR1:booked": {(PAID, datetime(2026, 6, 1, 7, 0, 2, tzinfo=UTC))},
        "adyen:TR1:returned": {
            (failed("returned", "returned"), datetime(2026, 6, 3, 6, tzinfo=UTC))
        },
    }


BODY = json.dumps(transfer("booked", BOOKED)).encode()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY.replace(b"7954", b"7955"), signed(BODY)),
        (BODY.replace(b"09:00:02", b"08:00:02"), signed(BODY)),
        (BODY + b" ", signed(BODY)),
        (BODY, {}),
        (BODY, {"hmacsignature": ""}),
        (BODY, {"hmacsignature": "ключ"}),
        (BODY, {**signed(BODY), "protocol": "HmacMD5"}),
        (BODY, signed(BODY, OLD_KEY)),
        (BODY, {"hmacsignature": base64.b64encode(b"x" * 32).decode()}),
        (b"", signed(BODY)),
    ],
)
def test_every_byte_is_covered(body: bytes, headers: dict[str, str]) -> None:
    """One byte more, and it is no longer what Adyen signed."""
    with pytest.raises(SignatureRefused) as refused:
        platform().verify(delivery_of(body, headers=headers))
    assert refused.value.status == 400


def test_keys_are_rotated() -> None:
    """The old key is accepted until its end."""
    keys = [
        {"name": "old", "value": OLD_KEY, "not_after": NOON},
        {"name": "new", "value": KEY},
    ]
    processor = platform(secrets=keys)
    before = NOON - timedelta(seconds=1)
    old = signed(BODY, OLD_KEY)
    assert processor.verify(delivery_of(BODY, headers=old, received_at=before)) == "old"
    assert processor.verify(delivery_of(BODY, headers=signed(BODY))) == "new"
    with pytest.raises(SignatureRefused):
        processor.verify(delivery_of(BODY, headers=old, received_at=NOON))


def test_adyens_library_accepts_our_signature() -> None:
    """The other way round."""
    assert is_valid_hmac_payload(hmac_sha256(KEY, BODY).decode(), KEY, BODY)


def test_the_table_has_payout_ids() -> None:
    """A payout that cannot exist is found at the start."""
    with pytest.raises(ValueError, match="no payout id"):
        platform(payouts={"weekly sweep": "po_17"})


def test_a_key_is_in_hexadecimal_digits() -> None:
    """A key that was copied wrong is found at the start."""
    with pytest.raises(ValueError, match="k9 is no HMAC key"):
        platform(secrets=[{"name": "k9", "value": "secret"}])


FIELDS = [name for name in transfer("")["data"] if name != "status"]


@settings(max_examples=80, deadline=None)
@given(
    body=ANY_JSON,
    changes=st.dictionaries(
        st.sampled_from([*FIELDS, "tracking", "tracing"]), ANY_JSON, max_size=6
    ),
    status=st.sampled_from(["booked", "returned", "failed"]),
    event=st.dictionaries(
        st.sampled_from([*BOOKED, *CREDITED, *TRACED]), ANY_JSON | st.just("booked"), max_size=4
    ),
)
async def test_reading_never_raises(body: object, changes: Json, status: str, event: Json) -> None:
    """Whatever is signed, it is a fact, ignored, or for the quarantine."""
    message = transfer(status, BOOKED, event, **changes)
    for signed_body in (body, message):
        raw = json.dumps(signed_body).encode()
        for settings_of_endpoint in ({}, BY_CREDIT | {"bank_references": True}):
            assert await platform(**settings_of_endpoint).read(delivery_of(raw))
