"""Adyen's standard notifications: what each becomes, and which are refused."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from Adyen.util import is_valid_hmac_notification
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.adyen import KEY, PAYOUT, Json, envelope, item, signed
from support.readings import ANY_JSON, compared_fields, delivery_of, lines_of

from ledger.gateway.deliveries import Fact, Ignored, SignatureRefused
from ledger.gateway.processors.adyen import Adyen, AdyenEndpoint, hmac_sha256
from ledger.gateway.signatures import read_secrets

OLD_KEY = "0102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F20"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
AUTO = {"auto_capture": True}
TRUSTS = {"trust_additional_data": True}


def adyen(**changes: Any) -> Adyen:
    endpoint = AdyenEndpoint.model_validate(
        {
            "name": "adyen-eu",
            "processor": "adyen",
            "mode": "live",
            "secrets": [{"name": "k1", "value": KEY}],
            "restaurant": {"by": "account"},
            **changes,
        }
    )
    return Adyen(endpoint, read_secrets(endpoint.secrets))


async def lines(body: bytes, **changes: Any) -> list[str]:
    """What a post that is verified becomes."""
    processor = adyen(**changes)
    delivery = delivery_of(body)
    assert processor.verify(delivery) == "k1"
    return lines_of(await processor.read(delivery))


NONE: Json = {"originalReference": None}
EACH: dict[str, tuple[Json, Json, list[str]]] = {
    "authorised, captured by hand": ({}, item("AUTHORISATION"), ["IGNORED AUTHORISATION"]),
    "authorised, captured at once": (
        AUTO,
        item("AUTHORISATION", originalReference=None, pspReference="PAY1"),
        ["CHARGE_SUCCEEDED 1250 EUR · adyen:PAY1:CAPTURE · PAY1"],
    ),
    "authorised, refused": (
        AUTO,
        item("AUTHORISATION", success="false", reason="Refused"),
        ["IGNORED AUTHORISATION"],
    ),
    "a card was checked for nothing": (
        AUTO,
        item("AUTHORISATION", amount={"currency": "EUR", "value": 0}),
        ["IGNORED AUTHORISATION"],
    ),
    "captured": ({}, item("CAPTURE"), ["CHARGE_SUCCEEDED 1250 EUR · adyen:MOD1:CAPTURE · PAY1"]),
    "the value in digits": (
        {},
        item("CAPTURE", amount={"currency": "EUR", "value": "1250"}),
        ["CHARGE_SUCCEEDED 1250 EUR · adyen:MOD1:CAPTURE · PAY1"],
    ),
    "a capture refused": ({}, item("CAPTURE", success="false"), ["IGNORED CAPTURE alert"]),
    "captured twice": (AUTO, item("CAPTURE"), ["UNBOOKABLE CAPTURE CHARGED_BY_AUTHORISATION"]),
    "a capture failed later, and the flag says true": (
        {},
        item("CAPTURE_FAILED", success="true"),
        [
            "CHARGE_REVERSED 1250 EUR · adyen:MOD1:CAPTURE_FAILED · PAY1"
            " · reverses=adyen:MOD1:CAPTURE"
        ],
    ),
    "a capture failed later, and the flag says false": (
        {},
        item("CAPTURE_FAILED", success="false"),
        [
            "CHARGE_REVERSED 1250 EUR · adyen:MOD1:CAPTURE_FAILED · PAY1"
            " · reverses=adyen:MOD1:CAPTURE"
        ],
    ),
    "an automatic capture failed later": (
        AUTO,
        item("CAPTURE_FAILED"),
        [
            "CHARGE_REVERSED 1250 EUR · adyen:MOD1:CAPTURE_FAILED · PAY1"
            " · reverses=adyen:PAY1:CAPTURE"
        ],
    ),
    "canceled before the capture": ({}, item("CANCELLATION"), ["IGNORED CANCELLATION"]),
    "canceled before the automatic capture": (
        AUTO,
        item("CANCELLATION"),
        ["CHARGE_REVERSED 1250 EUR · adyen:MOD1:CANCELLATION · PAY1 · reverses=adyen:PAY1:CAPTURE"],
    ),
    "a cancellation refused": (
        AUTO,
        item("CANCELLATION", success="false"),
        ["IGNORED CANCELLATION"],
    ),
    "a technical cancellation of nobody knows what": (
        AUTO,
        item("TECHNICAL_CANCEL", **NONE),
        ["UNBOOKABLE TECHNICAL_CANCEL CHANGES_A_CHARGE"],
    ),
    "expired": ({}, item("EXPIRE"), ["IGNORED EXPIRE"]),
    "expired, though captured at once": (
        AUTO,
        item("EXPIRE"),
        ["UNBOOKABLE EXPIRE CHANGES_A_CHARGE"],
    ),
    "adjusted": ({}, item("AUTHORISATION_ADJUSTMENT"), ["IGNORED AUTHORISATION_ADJUSTMENT"]),
    "refunded": ({}, item("REFUND"), ["REFUND_SUCCEEDED 1250 EUR · adyen:MOD1:REFUND · PAY1"]),
    "a refund refused": ({}, item("REFUND", success="false"), ["IGNORED REFUND alert"]),
    "a refund without a payment": (
        {},
        item("REFUND_WITH_DATA", **NONE),
        ["REFUND_SUCCEEDED 1250 EUR · adyen:MOD1:REFUND_WITH_DATA · MOD1"],
    ),
    "a refund failed, and the flag says false": (
        {},
        item("REFUND_FAILED", success="false"),
        ["REFUND_FAILED 1250 EUR · adyen:MOD1:REFUND_FAILED · PAY1"],
    ),
    "a refund failed, and the flag says true": (
        {},
        item("REFUND_FAILED"),
        ["REFUND_FAILED 1250 EUR · adyen:MOD1:REFUND_FAILED · PAY1"],
    ),
    "a refund came back": (
        {},
        item("REFUNDED_REVERSED"),
        ["REFUND_FAILED 1250 EUR · adyen:MOD1:REFUND_FAILED · PAY1"],
    ),
    "refunded or canceled, who knows": (
        {},
        item("CANCEL_OR_REFUND", additionalData={"modification.action": "refund"}),
        ["UNBOOKABLE CANCEL_OR_REFUND UNCOVERED_ACTION"],
    ),
    "refunded, says what is trusted": (
        TRUSTS,
        item("CANCEL_OR_REFUND", additionalData={"modification.action": "refund"}),
        ["REFUND_SUCCEEDED 1250 EUR · adyen:MOD1:CANCEL_OR_REFUND · PAY1"],
    ),
    "canceled, says what is trusted": (
        TRUSTS,
        item("CANCEL_OR_REFUND", additionalData={"modification.action": "cancel"}),
        ["IGNORED CANCEL_OR_REFUND"],
    ),
    "canceled after an automatic capture": (
        TRUSTS | AUTO,
        item("CANCEL_OR_REFUND", additionalData={"modification.action": "cancel"}),
        [
            "CHARGE_REVERSED 1250 EUR · adyen:MOD1:CANCEL_OR_REFUND · PAY1"
            " · reverses=adyen:PAY1:CAPTURE"
        ],
    ),
    "neither refunded nor canceled": (
        TRUSTS,
        item("CANCEL_OR_REFUND"),
        ["UNBOOKABLE CANCEL_OR_REFUND UNCOVERED_ACTION"],
    ),
    "neither, since it was refused": (
        {},
        item("CANCEL_OR_REFUND", success="false"),
        ["IGNORED CANCEL_OR_REFUND alert"],
    ),
    "announced": (
        {},
        item("NOTIFICATION_OF_CHARGEBACK"),
        ["IGNORED NOTIFICATION_OF_CHARGEBACK alert"],
    ),
    "charged back in part": (
        {},
        item(
            "CHARGEBACK",
            amount={"currency": "EUR", "value": 300},
            additionalData={"grossValue": "1250", "chargebackReasonCode": " 4853"},
        ),
        ["DISPUTE_OPENED 300 EUR · adyen:MOD1:CHARGEBACK · PAY1"],
    ),
    "charged back without success": (
        {},
        item("CHARGEBACK", success="false"),
        ["UNBOOKABLE CHARGEBACK UNEXPECTED_SUCCESS"],
    ),
    "charged back for good, says what is not trusted": (
        {},
        item("CHARGEBACK", additionalData={"disputeStatus": "Lost"}),
        ["DISPUTE_OPENED 1250 EUR · adyen:MOD1:CHARGEBACK · PAY1"],
    ),
    "charged back for good": (
        TRUSTS,
        item("CHARGEBACK", paymentMethod="ach", additionalData={"disputeStatus": "Lost"}),
        [
            "DISPUTE_OPENED 1250 EUR · adyen:MOD1:CHARGEBACK · PAY1",
            "DISPUTE_LOST 1250 EUR · adyen:MOD1:CHARGEBACK:lost · PAY1",
        ],
    ),
    "defended": (
        {},
        item("CHARGEBACK_REVERSED"),
        ["DISPUTE_WON 1250 EUR · adyen:MOD1:CHARGEBACK_REVERSED · PAY1"],
    ),
    "defended, and Adyen leaves the payment out": (
        {},
        item("CHARGEBACK_REVERSED", **NONE),
        ["DISPUTE_WON 1250 EUR · adyen:MOD1:CHARGEBACK_REVERSED · MOD1"],
    ),
    "charged back a second time": (
        {},
        item("SECOND_CHARGEBACK"),
        [
            "DISPUTE_OPENED 1250 EUR · adyen:MOD1:SECOND_CHARGEBACK · PAY1",
            "DISPUTE_LOST 1250 EUR · adyen:MOD1:SECOND_CHARGEBACK:lost · PAY1",
        ],
    ),
    "not defended in time": (
        {},
        item("DISPUTE_DEFENSE_PERIOD_ENDED"),
        ["DISPUTE_LOST 1250 EUR · adyen:MOD1:DISPUTE_DEFENSE_PERIOD_ENDED · PAY1"],
    ),
    "not defended in time, which ends nothing here": (
        {"dispute_lost_codes": ["PREARBITRATION_LOST"]},
        item("DISPUTE_DEFENSE_PERIOD_ENDED"),
        ["IGNORED DISPUTE_DEFENSE_PERIOD_ENDED"],
    ),
    "arbitration lost": (
        {"dispute_lost_codes": ["PREARBITRATION_LOST"]},
        item("PREARBITRATION_LOST"),
        ["DISPUTE_LOST 1250 EUR · adyen:MOD1:PREARBITRATION_LOST · PAY1"],
    ),
    "arbitration lost, as it stands": (
        {},
        item("PREARBITRATION_LOST"),
        ["IGNORED PREARBITRATION_LOST alert"],
    ),
    "arbitration won": ({}, item("PREARBITRATION_WON"), ["IGNORED PREARBITRATION_WON"]),
    "asked": ({}, item("REQUEST_FOR_INFORMATION"), ["IGNORED REQUEST_FOR_INFORMATION alert"]),
    "answered": ({}, item("INFORMATION_SUPPLIED"), ["IGNORED INFORMATION_SUPPLIED"]),
    "the issuer's time is over": (
        {},
        item("ISSUER_RESPONSE_TIMEFRAME_EXPIRED"),
        ["IGNORED ISSUER_RESPONSE_TIMEFRAME_EXPIRED"],
    ),
    "fraud": ({}, item("NOTIFICATION_OF_FRAUD"), ["IGNORED NOTIFICATION_OF_FRAUD"]),
    "paid to somebody else": ({}, item("PAYOUT_THIRDPARTY"), ["IGNORED PAYOUT_THIRDPARTY"]),
    "paid out, but not by the ledger": (
        {"payouts": "merchant_reference"},
        item("PAYOUT_THIRDPARTY"),
        ["IGNORED PAYOUT_THIRDPARTY"],
    ),
    "paid out": (
        {"payouts": "merchant_reference"},
        item("PAYOUT_THIRDPARTY", merchantReference=PAYOUT, **NONE),
        [f"PAYOUT_PAID 1250 EUR · adyen:MOD1:PAYOUT_THIRDPARTY · MOD1 · payout_id={PAYOUT}"],
    ),
    "not paid out": (
        {"payouts": "merchant_reference"},
        item("PAYOUT_THIRDPARTY", merchantReference=PAYOUT, success="false"),
        [
            f"PAYOUT_FAILED 1250 EUR · adyen:MOD1:PAYOUT_THIRDPARTY · PAY1 · payout_id={PAYOUT}"
            " · failure_code=PAYOUT_THIRDPARTY"
        ],
    ),
    "a payout declined": (
        {"payouts": "merchant_reference"},
        item("PAYOUT_DECLINE", merchantReference=PAYOUT),
        [
            f"PAYOUT_FAILED 1250 EUR · adyen:MOD1:PAYOUT_DECLINE · PAY1 · payout_id={PAYOUT}"
            " · failure_code=PAYOUT_DECLINE"
        ],
    ),
    "a payout came back": (
        {"payouts": "merchant_reference"},
        item("PAIDOUT_REVERSED", merchantReference=PAYOUT),
        [
            f"PAYOUT_FAILED 1250 EUR · adyen:MOD1:PAIDOUT_REVERSED · PAY1 · payout_id={PAYOUT}"
            " · failure_code=PAIDOUT_REVERSED"
        ],
    ),
    "a report": (
        {},
        item("REPORT_AVAILABLE", reason="https://example.com/report.csv"),
        ["IGNORED REPORT_AVAILABLE"],
    ),
    "not paid": ({}, item("OFFER_CLOSED"), ["IGNORED OFFER_CLOSED"]),
    "details stored": ({}, item("RECURRING_CONTRACT"), ["IGNORED RECURRING_CONTRACT"]),
    "an order": ({}, item("ORDER_CLOSED", success="false"), ["IGNORED ORDER_CLOSED"]),
    "a code of tomorrow": (
        {},
        item("CAPTURE_BOUNCED"),
        ["UNBOOKABLE CAPTURE_BOUNCED UNKNOWN_EVENT_CODE"],
    ),
    "a code in small letters": ({}, item("capture"), ["UNBOOKABLE capture UNKNOWN_EVENT_CODE"]),
    "a flag that is neither": (
        {},
        item("CAPTURE", success="yes"),
        ["UNBOOKABLE CAPTURE UNKNOWN_SHAPE"],
    ),
    "an amount below zero": (
        {},
        item("REFUND", amount={"currency": "EUR", "value": -1250}),
        ["UNBOOKABLE REFUND UNKNOWN_SHAPE"],
    ),
    "no amount": (
        {},
        item("CAPTURE", amount={"currency": "EUR", "value": 0}),
        ["UNBOOKABLE CAPTURE UNKNOWN_SHAPE"],
    ),
    "an unknown currency": (
        {},
        item("CAPTURE", amount={"currency": "ZZZ", "value": 1}),
        ["UNBOOKABLE CAPTURE UNKNOWN_SHAPE"],
    ),
    "a reference that cannot be an id": (
        {},
        item("CAPTURE", pspReference="PSP 1"),
        ["UNBOOKABLE CAPTURE UNKNOWN_SHAPE"],
    ),
    "a date without an offset": (
        {},
        item("CAPTURE", eventDate="2026-05-31T20:15:00"),
        ["UNBOOKABLE CAPTURE UNKNOWN_SHAPE"],
    ),
    "a date of the future": (
        {},
        item("CAPTURE", eventDate="2026-06-01T12:05:01Z"),
        ["UNBOOKABLE CAPTURE UNKNOWN_SHAPE"],
    ),
    "a date before the books": (
        {},
        item("CAPTURE", eventDate="1999-12-31T23:59:59Z"),
        ["UNBOOKABLE CAPTURE UNKNOWN_SHAPE"],
    ),
    "a date of long ago": (
        {"event_age_days_max": 35},
        item("CAPTURE", eventDate="2026-04-27T11:59:59Z"),
        ["UNBOOKABLE CAPTURE UNKNOWN_SHAPE"],
    ),
    "the currency that Adyen counts with two decimals": (
        {},
        item("CAPTURE", amount={"currency": "CLP", "value": 100_000}),
        ["CHARGE_SUCCEEDED 1000 CLP · adyen:MOD1:CAPTURE · PAY1"],
    ),
    "a part of the smallest unit": (
        {},
        item("CAPTURE", amount={"currency": "CLP", "value": 100_050}),
        ["UNBOOKABLE CAPTURE UNKNOWN_SHAPE"],
    ),
    "the currency that Adyen counts without decimals": (
        {},
        item("CAPTURE", amount={"currency": "IDR", "value": 50_000}),
        ["CHARGE_SUCCEEDED 5000000 IDR · adyen:MOD1:CAPTURE · PAY1"],
    ),
    "yen": (
        {},
        item("CAPTURE", amount={"currency": "JPY", "value": 335}),
        ["CHARGE_SUCCEEDED 335 JPY · adyen:MOD1:CAPTURE · PAY1"],
    ),
    "an exponent of the endpoint's": (
        {"exponents": {"CLP": 0}},
        item("CAPTURE", amount={"currency": "CLP", "value": 1000}),
        ["CHARGE_SUCCEEDED 1000 CLP · adyen:MOD1:CAPTURE · PAY1"],
    ),
}


@pytest.mark.parametrize("case", EACH)
async def test_what_each_item_becomes(case: str) -> None:
    """In an envelope, and bare."""
    changes, unsigned, expected = EACH[case]
    one = signed({name: value for name, value in unsigned.items() if value is not None})
    assert await lines(envelope(one), **changes) == expected
    assert await lines(json.dumps(one).encode(), **changes) == expected


async def test_the_items_of_a_batch_are_read_in_their_order() -> None:
    """Items that share a reference are different facts; one that is repeated is the same fact."""
    captured = signed(item("CAPTURE"))
    assert await lines(
        envelope(captured, signed(item("REFUND")), signed(item("OFFER_CLOSED")), captured)
    ) == [
        "CHARGE_SUCCEEDED 1250 EUR · adyen:MOD1:CAPTURE · PAY1",
        "REFUND_SUCCEEDED 1250 EUR · adyen:MOD1:REFUND · PAY1",
        "IGNORED OFFER_CLOSED",
        "CHARGE_SUCCEEDED 1250 EUR · adyen:MOD1:CAPTURE · PAY1",
    ]


async def test_an_item_that_cannot_be_read_does_not_hide_the_others() -> None:
    """The others of its batch are facts all the same."""
    assert await lines(envelope(signed(item("NEW")), signed(item("REFUND")))) == [
        "UNBOOKABLE NEW UNKNOWN_EVENT_CODE",
        "REFUND_SUCCEEDED 1250 EUR · adyen:MOD1:REFUND · PAY1",
    ]


@pytest.mark.parametrize("live", ["false", False, "yes", {}])
async def test_an_item_of_the_other_mode_is_not_booked(live: object) -> None:
    """Test events never get into live books."""
    body = envelope(signed(item("CAPTURE")), live=live)
    assert await lines(body) == ["UNBOOKABLE WRONG_MODE"]


async def test_a_live_item_is_not_booked_by_a_test_endpoint() -> None:
    """And the flag may be a boolean."""
    body = envelope(signed(item("OFFER_CLOSED")), live=False)
    assert await lines(body, mode="test") == ["IGNORED OFFER_CLOSED"]
    body = envelope(signed(item("CAPTURE")), live=True)
    assert await lines(body, mode="test") == ["UNBOOKABLE WRONG_MODE"]


COVERED: dict[str, Json] = {
    "pspReference": {"pspReference": "MOD2"},
    "originalReference": {"originalReference": "PAY2"},
    "no originalReference": {"originalReference": ""},
    "merchantAccountCode": {"merchantAccountCode": "OtherEU"},
    "merchantReference": {"merchantReference": "order-18"},
    "value": {"amount": {"currency": "EUR", "value": 1251}},
    "currency": {"amount": {"currency": "USD", "value": 1250}},
    "no amount": {"amount": None},
    "eventCode": {"eventCode": "REFUND"},
    "success": {"success": "false"},
    "success in other letters": {"success": "True"},
    "a value with a point": {"amount": {"currency": "EUR", "value": 1250.0}},
    "a reference that is no text": {"pspReference": ["MOD1"]},
    "half a character": {"merchantReference": "\ud800"},
    "no signature": {"additionalData": {}},
    "an empty signature": {"additionalData": {"hmacSignature": ""}},
    "a signature that is no text": {"additionalData": {"hmacSignature": 7}},
    "a signature of another script": {"additionalData": {"hmacSignature": "ключ"}},
    "no additionalData": {"additionalData": None},
}


@pytest.mark.parametrize("case", COVERED)
@pytest.mark.parametrize("place", ["alone", "first", "last"])
def test_what_a_signature_covers_cannot_be_changed(case: str, place: str) -> None:
    """One item that is not as it was signed refuses the whole post, wherever it stands in it."""
    changed = {**signed(item("CAPTURE")), **COVERED[case]}
    good = signed(item("REFUND"))
    body = {
        "alone": envelope(changed),
        "first": envelope(changed, good),
        "last": envelope(good, changed),
    }[place]
    with pytest.raises(SignatureRefused) as refused:
        adyen().verify(delivery_of(body))
    assert refused.value.status == 400


UNCOVERED: dict[str, Json] = {
    "eventDate": {"eventDate": "2026-05-30T20:15:00+02:00"},
    "reason": {"reason": "another"},
    "paymentMethod": {"paymentMethod": {"of": "another shape"}},
}


@pytest.mark.parametrize("case", UNCOVERED)
async def test_what_no_signature_covers_does_not_decide_about_money(case: str) -> None:
    """It can be changed without the key, so it changes neither amount, kind nor owner."""
    processor = adyen()
    found = []
    for one in (signed(item("CAPTURE")), {**signed(item("CAPTURE")), **UNCOVERED[case]}):
        delivery = delivery_of(envelope(one))
        processor.verify(delivery)
        (fact,) = await processor.read(delivery)
        assert isinstance(fact, Fact)
        found.append((lines_of([fact]), fact.owner))
    assert found[0] == found[1]


async def test_owners_in_additional_data_count_where_it_is_trusted() -> None:
    """Merchant account and merchant reference are covered; stores and metadata are not."""
    one = signed(
        item("CAPTURE", additionalData={"store": "S7", "metadata.restaurant": "rest_7", "x": "y"})
    )
    owners = []
    for changes in ({}, TRUSTS):
        (fact,) = await adyen(**changes).read(delivery_of(envelope(one)))
        assert isinstance(fact, Fact)
        owners.append(fact.owner)
    assert (owners[0].account, owners[0].reference) == ("TrattoriaEU", "order-17")
    assert (owners[0].store, owners[0].metadata) == ("", {})
    assert (owners[1].store, owners[1].metadata) == ("S7", {"restaurant": "rest_7"})


def test_a_colon_cannot_move_from_one_signed_field_to_another() -> None:
    """Fields are joined without escaping, so both items would have the same signature."""
    one = signed(item("CAPTURE", originalReference="PAY1:TrattoriaEU", merchantAccountCode=""))
    two = {**one, "originalReference": "PAY1", "merchantAccountCode": "TrattoriaEU:"}
    for forged in (one, two):
        with pytest.raises(SignatureRefused):
            adyen().verify(delivery_of(envelope(forged)))
    backslashes = signed(item("CAPTURE", merchantReference="\\:/\\/a: b"))
    assert adyen().verify(delivery_of(envelope(backslashes))) == "k1"


def test_adyens_library_accepts_our_signature() -> None:
    """The other way round, over the same fields."""
    covered = "MOD1:PAY1:TrattoriaEU:order-17:1250:EUR:CAPTURE:true"
    ours = item(
        "CAPTURE", additionalData={"hmacSignature": hmac_sha256(KEY, covered.encode()).decode()}
    )
    assert is_valid_hmac_notification(
        {"notificationItems": [{"NotificationRequestItem": ours}]}, KEY
    )
    assert adyen().verify(delivery_of(envelope(ours))) == "k1"


def test_keys_are_rotated() -> None:
    """The old key is accepted until its end, and a batch may have items of both."""
    keys = [
        {"name": "old", "value": OLD_KEY, "not_after": NOON},
        {"name": "new", "value": KEY},
    ]
    body = envelope(signed(item("REFUND"), OLD_KEY), signed(item("CAPTURE")))
    processor = adyen(secrets=keys)
    before = NOON - timedelta(seconds=1)
    assert processor.verify(delivery_of(body, received_at=before)) == "old"
    with pytest.raises(SignatureRefused):
        processor.verify(delivery_of(body, received_at=NOON))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"no json",
        b'{"live": "true"}',
        b'{"live": "true", "notificationItems": []}',
        b'{"live": "true", "notificationItems": {}}',
        b'{"live": "true", "notificationItems": [[]]}',
        b'{"live": "true", "notificationItems": [{"NotificationRequestItem": []}]}',
        b'{"eventCode": "CAPTURE", "eventCode": "REFUND"}',
        "pspReference=1&success=true".encode("utf-16"),
    ],
)
async def test_a_post_without_items_is_refused(body: bytes) -> None:
    """There is nothing that a key could have signed. Nor does it raise when it is read."""
    with pytest.raises(SignatureRefused):
        adyen().verify(delivery_of(body))
    (reading,) = await adyen().read(delivery_of(body))
    assert not isinstance(reading, Fact | Ignored)


def basic(username: str, password: str) -> dict[str, str]:
    return {
        "authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
    }


LOGINS = {
    "basic_auth": [
        {"username": "old", "password": {"name": "p1", "value": "ss1", "not_after": NOON}},
        {"username": "new", "password": {"name": "p2", "value": "ss:2"}},
    ]
}


@pytest.mark.parametrize(
    ("headers", "is_known"),
    [
        (basic("new", "ss:2"), True),
        ({"authorization": basic("new", "ss:2")["authorization"].replace("Basic", "bAsIc")}, True),
        ({}, False),
        (basic("new", "ss1"), False),
        (basic("old", "ss1"), False),
        (basic("new", ""), False),
        ({"authorization": "Bearer " + basic("new", "ss:2")["authorization"][6:]}, False),
        ({"authorization": "Basic"}, False),
        ({"authorization": "Basic ключ"}, False),
        ({"authorization": "Basic !!!"}, False),
    ],
)
def test_posts_need_the_password_beside_the_signature(
    headers: dict[str, str], is_known: bool
) -> None:
    """Without it they get status 401, which Adyen shows; with it alone they are refused, too."""
    processor = adyen(**LOGINS)
    delivery = delivery_of(envelope(signed(item("CAPTURE"))), headers=headers)
    if is_known:
        assert processor.verify(delivery) == "k1"
        unsigned = delivery_of(envelope(item("CAPTURE")), headers=headers)
        with pytest.raises(SignatureRefused) as refused:
            processor.verify(unsigned)
        assert refused.value.status == 400
    else:
        with pytest.raises(SignatureRefused) as refused:
            processor.verify(delivery)
        assert refused.value.status == 401


def test_an_old_password_is_good_until_its_end() -> None:
    """The one that ends at noon is good a second before."""
    delivery = delivery_of(
        envelope(signed(item("CAPTURE"))),
        headers=basic("old", "ss1"),
        received_at=NOON - timedelta(seconds=1),
    )
    assert adyen(**LOGINS).verify(delivery) == "k1"


@pytest.mark.parametrize(
    "changes",
    [
        {"restaurant": {"by": "store"}},
        {"restaurant": {"by": "metadata", "key": "restaurant"}},
        {"fees": {"commission": "metadata", "key": "commission"}},
    ],
)
def test_an_endpoint_says_why_it_trusts_what_is_not_covered(changes: Mapping[str, Any]) -> None:
    """Who owns the money, and the commission, are not to be forged."""
    with pytest.raises(ValidationError, match="basic_auth"):
        adyen(**changes)
    adyen(**changes, **TRUSTS)
    adyen(**changes, **LOGINS)


@pytest.mark.parametrize("commission", ["processor", "pass_through"])
def test_a_commission_cannot_be_a_fee_that_adyen_does_not_tell(commission: str) -> None:
    """It would be 0 without anybody noticing."""
    with pytest.raises(ValidationError, match="have no fees"):
        adyen(fees={"commission": commission})


@pytest.mark.parametrize("key", ["not hex", "ABC", "4F 2C G1"])
def test_a_key_is_in_hexadecimal_digits(key: str) -> None:
    """A key that was copied wrong is found at the start, not by refusing everything."""
    with pytest.raises(ValueError, match="k9 is no HMAC key"):
        adyen(secrets=[{"name": "k9", "value": key}])


def test_the_answer_is_what_adyen_asks_for() -> None:
    """Older accounts look for the text, all look at the status."""
    assert (Adyen.acknowledgement, Adyen.content_type) == (b"[accepted]", "text/plain")


LIFE = [
    item("AUTHORISATION", originalReference=None, pspReference="PAY1"),
    item("CAPTURE"),
    item("CAPTURE", pspReference="MOD2", amount={"currency": "EUR", "value": 250}),
    item("CAPTURE_FAILED", pspReference="MOD2", amount={"currency": "EUR", "value": 250}),
    item("REFUND", pspReference="MOD3"),
    item("REFUND_FAILED", pspReference="MOD3"),
    item("NOTIFICATION_OF_CHARGEBACK", pspReference="DIS1"),
    item("CHARGEBACK", pspReference="DIS1"),
    item("CHARGEBACK_REVERSED", pspReference="DIS1"),
    item("SECOND_CHARGEBACK", pspReference="DIS1"),
    item("REPORT_AVAILABLE", pspReference="report.csv"),
]


async def _facts(posts: list[list[int]]) -> dict[str, set[tuple[object, ...]]]:
    """What each event id has been reported with."""
    found: dict[str, set[tuple[object, ...]]] = {}
    processor = adyen()
    for post in posts:
        for reading in await processor.read(delivery_of(envelope(*(LIFE[i] for i in post)))):
            if isinstance(reading, Fact):
                found.setdefault(reading.event_id, set()).add(
                    tuple(map(str, compared_fields(reading)))
                )
    return found


@settings(max_examples=40, deadline=None)
@given(data=st.data())
async def test_any_order_and_repetition_reports_the_same_facts(data: st.DataObject) -> None:
    """However Adyen batches, repeats and orders the items of a payment's life."""
    once = await _facts([[i] for i in range(len(LIFE))])
    assert all(len(reported) == 1 for reported in once.values())
    assert len(once) == 9
    order = data.draw(st.permutations(range(len(LIFE))))
    again = data.draw(st.lists(st.sampled_from(range(len(LIFE))), max_size=10))
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=21, max_size=21))
    left, posts = [*order, *again], []
    for size in sizes:
        if left:
            posts.append(left[:size])
            left = left[size:]
    assert await _facts(posts) == once


FIELDS = [*item(""), "success", "live", "notificationItems", "NotificationRequestItem"]
ITEM = st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, max_size=12).map(
    lambda changes: {**item("CAPTURE"), **changes}
)


@settings(max_examples=80, deadline=None)
@given(
    body=ANY_JSON
    | ITEM
    | st.lists(ITEM | ANY_JSON, max_size=3).map(
        lambda items: {"live": "true", "notificationItems": items}
    ),
    code=st.sampled_from(sorted({unsigned["eventCode"] for _, unsigned, _ in EACH.values()})),
)
async def test_reading_never_raises(body: object, code: str) -> None:
    """Whatever is signed, it is a fact, ignored, or for the quarantine."""
    if isinstance(body, dict) and body.get("eventCode") == "CAPTURE":
        body["eventCode"] = code
    raw = json.dumps(body).encode()
    for changes in ({}, AUTO | TRUSTS | {"payouts": "merchant_reference"}):
        assert await adyen(**changes).read(delivery_of(raw))
