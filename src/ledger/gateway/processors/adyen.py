"""Adyen's standard notifications: items that are signed one by one, over eight of their fields.

What a signature covers: both references of Adyen's, the merchant account, the merchant's reference,
amount and currency, the event code, and whether it succeeded. Everything else can be forged by
someone who has seen a signed item: `eventDate`, `reason`, `paymentMethod`, `live` and
`additionalData`. So these decide no amount, no kind and no restaurant, unless the endpoint trusts
the whole body, because of its `basic_auth`, which only Adyen knows, or `trust_additional_data`.

Every fact is of one item, and its id is the item's reference and code: `adyen:<psp>:<CODE>`. Adyen
sends an item again as it was, so every delivery of a fact has the same amount, currency, kind,
references and owner: they are covered. `occurred_at` is the item's `eventDate`. It is not covered,
so it has bounds, and what is out of them goes to the quarantine. It may change: if Adyen sends an
item again with a fresher date, the first one stands. Not so for CHARGEBACK_REVERSED: a second
reversal of the same dispute has the id of the first and another date. It is refused as a conflict,
which the quarantine shows, and not taken for a duplicate.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field, model_validator

from ledger.domain.events import OCCURRED_AT_MIN
from ledger.domain.fields import CLOCK_SKEW_MAX, is_id, is_reference
from ledger.gateway.amounts import ADYEN_EXPONENTS, minor_units, processor_exponent
from ledger.gateway.deliveries import (
    Delivery,
    Fact,
    Ignored,
    Owner,
    Reading,
    SignatureRefused,
    Unbookable,
)
from ledger.gateway.endpoints import EndpointBase, Secret, Table
from ledger.gateway.kept_texts import kept
from ledger.gateway.payloads import Malformed, Payload, parse
from ledger.gateway.payout_ids import is_payout_id
from ledger.gateway.signatures import SigningSecret, read_secrets, signing_secret
from ledger.v1 import ledger_pb2

LostCode = Literal["DISPUTE_DEFENSE_PERIOD_ENDED", "PREARBITRATION_LOST", "SCHEME_ARBITRATION_LOST"]

# The only signed field that may hold the separator. Nothing is escaped, so with a second one two
# different items would have the same signature.
_MAY_HOLD_COLONS = "merchantReference"

# Codes that move no money, and why people may want to know. Codes of captures, refunds, disputes
# and payouts that do are below; any other code is new, and goes to the quarantine.
_WITHOUT_MONEY = {
    "AUTHENTICATION": "the shopper was authenticated",
    "AUTORESCUE": "a rescued payment has an authorisation too",
    "CANCEL_AUTORESCUE": "retries of a payment were stopped",
    "DEACTIVATE_RECURRING": "stored details were removed",
    "DIRECT_DEBIT_NOTICE_OF_CHANGE_NOTIFICATION": "details of a bank account changed",
    "DISPUTE_DEFENSE_PERIOD_ENDED": "the endpoint does not end disputes by it",
    "DONATION": "the donation goes to a charity",
    "HANDLED_EXTERNALLY": "the payment was taken outside of Adyen",
    "INFORMATION_SUPPLIED": "documents for a dispute arrived",
    "ISSUER_COMMENTS": "the issuer commented on a dispute",
    "ISSUER_RESPONSE_TIMEFRAME_EXPIRED": "the reversal of the chargeback stands",
    "MANUAL_REVIEW_ACCEPT": "a review of fraud ended",
    "MANUAL_REVIEW_REJECT": "a review of fraud ended",
    "NOTIFICATIONTEST": "a test of the endpoint",
    "NOTIFICATION_OF_CHARGEBACK": "the money moves with the chargeback",
    "NOTIFICATION_OF_FRAUD": "an issuer reported fraud",
    "OFFER_CLOSED": "the shopper did not pay",
    "ORDER_CLOSED": "the payments of the order have items of their own",
    "ORDER_OPENED": "the payments of the order have items of their own",
    "PENDING": "the shopper has not paid yet",
    "POSTPONED_REFUND": "the refund waits for the capture",
    "PREARBITRATION_LOST": "money moves with chargebacks and their reversals",
    "PREARBITRATION_OPEN": "money moves with chargebacks and their reversals",
    "PREARBITRATION_OPENED": "money moves with chargebacks and their reversals",
    "PREARBITRATION_WON": "money moves with chargebacks and their reversals",
    "PROCESS_RETRY": "Adyen tries again",
    "RECURRING_CONTRACT": "details were stored",
    "REPORT_AVAILABLE": "a report can be fetched, for the reconciliation",
    "REQUEST_FOR_INFORMATION": "a dispute may follow",
    "SCHEME_ARBITRATION_LOST": "money moves with chargebacks and their reversals",
    "SCHEME_ARBITRATION_WON": "money moves with chargebacks and their reversals",
    "VOID_PENDING_REFUND": "a refund without a payment was canceled before it was made",
}
_FRESHER_DATE = frozenset({"occurred_at"})
_ALERTS = frozenset(
    {
        "HANDLED_EXTERNALLY",
        "NOTIFICATION_OF_CHARGEBACK",
        "PREARBITRATION_LOST",
        "REQUEST_FOR_INFORMATION",
        "SCHEME_ARBITRATION_LOST",
    }
)
_CHARGE_CODES = frozenset(
    {
        "AUTHORISATION",
        "AUTHORISATION_ADJUSTMENT",
        "CANCELLATION",
        "CAPTURE",
        "CAPTURE_FAILED",
        "EXPIRE",
        "TECHNICAL_CANCEL",
    }
)
_REFUND_CODES = frozenset(
    {"CANCEL_OR_REFUND", "REFUND", "REFUNDED_REVERSED", "REFUND_FAILED", "REFUND_WITH_DATA"}
)
_DISPUTE_CODES = frozenset({"CHARGEBACK", "CHARGEBACK_REVERSED", "SECOND_CHARGEBACK"})
_PAYOUT_CODES = frozenset(
    {"PAIDOUT_REVERSED", "PAYOUT_DECLINE", "PAYOUT_EXPIRE", "PAYOUT_THIRDPARTY"}
)


class BasicAuth(Table):
    """A user name and a password that Adyen shows with each post."""

    username: str = Field(min_length=1)
    password: Secret


class AdyenEndpoint(EndpointBase):
    """An endpoint of standard notifications. Its secrets are HMAC keys, in hexadecimal digits."""

    processor: Literal["adyen"]
    basic_auth: tuple[BasicAuth, ...] = Field(
        (), description="Who may post, beside the signatures: they do not cover the whole body."
    )
    trust_additional_data: bool = Field(
        False,
        description="Use what no signature covers all the same: only if none but Adyen can post,"
        " for example behind mutual TLS. With basic_auth it is trusted anyway.",
    )
    auto_capture: bool = Field(
        False,
        description="Payments are captured when they are authorised, as the merchant account is"
        " set: AUTHORISATION is the charge, since Adyen sends no CAPTURE.",
    )
    payouts: Literal["none", "merchant_reference"] = Field(
        "none",
        description="merchant_reference: payouts to third parties are the ledger's, and have the"
        " payout id as their merchantReference.",
    )
    dispute_lost_codes: tuple[LostCode, ...] = Field(
        ("DISPUTE_DEFENSE_PERIOD_ENDED",),
        description="The codes that end a dispute as lost; at most one of them may come in the"
        " life of a dispute. SECOND_CHARGEBACK always does.",
    )
    event_age_days_max: int | None = Field(
        None,
        ge=1,
        description="An item whose eventDate is longer ago goes to the quarantine. Adyen tries for"
        " 30 days. Unset: no limit.",
    )

    @model_validator(mode="after")
    def _uses_what_it_trusts(self) -> "AdyenEndpoint":
        needs_trust = self.restaurant.by in ("store", "metadata")
        if (needs_trust or self.fees.commission == "metadata") and not self.trusts_body:
            raise ValueError(
                "store and metadata are in additionalData, which no signature covers: set"
                " basic_auth, or trust_additional_data"
            )
        return self

    @model_validator(mode="after")
    def _has_no_fees_of_adyen(self) -> "AdyenEndpoint":
        if self.fees.commission in ("processor", "pass_through"):
            raise ValueError(
                "fees: Adyen's items have no fees, so the commission would be 0; use rate, or"
                " metadata"
            )
        return self

    @property
    def trusts_body(self) -> bool:
        """Whether what the signatures do not cover may decide about money."""
        return self.trust_additional_data or bool(self.basic_auth)


def hmac_sha256(key: str, message: bytes) -> bytes:
    """What Adyen signs with: base64 of HMAC-SHA256, under a key in hexadecimal digits."""
    return base64.b64encode(hmac.new(bytes.fromhex(key), message, hashlib.sha256).digest())


def check_hex_keys(secrets: Sequence[SigningSecret]) -> None:
    """Raises ValueError if a secret is no key in hexadecimal digits."""
    for secret in secrets:
        try:
            is_key = bool(bytes.fromhex(secret.text))
        except ValueError:
            is_key = False
        if not is_key:
            raise ValueError(f"secret {secret.name} is no HMAC key in hexadecimal digits")


class Adyen:
    """A Processor for standard notifications."""

    acknowledgement = b"[accepted]"
    content_type = "text/plain"

    def __init__(self, endpoint: AdyenEndpoint, secrets: Sequence[SigningSecret]) -> None:
        check_hex_keys(secrets)
        self._endpoint = endpoint
        self._secrets = tuple(secrets)
        self._logins = [
            (login.username, secret)
            for login in endpoint.basic_auth
            for secret in read_secrets([login.password])
        ]

    def verify(self, delivery: Delivery) -> str:
        """The name of the key that signed the first item. Raises SignatureRefused.

        Every item must be signed: one that is not is no reason to book the others, since Adyen
        signs all of them or none.
        """
        self._check_login(delivery)
        try:
            items = list(_items(parse(delivery.body)))
        except Malformed as error:
            raise SignatureRefused(f"no item to verify: {error}") from error
        signers = [self._signer(item, delivery.received_at) for item in items]
        return signers[0]

    async def read(self, delivery: Delivery) -> Sequence[Reading]:
        """See Processor."""
        try:
            envelope = parse(delivery.body)
            if (wrong := self._wrong_mode(envelope)) is not None:
                return [wrong]
            items = list(_items(envelope))
        except Malformed as error:
            return [Unbookable("", "UNKNOWN_SHAPE", str(error))]
        return [
            reading for item in items for reading in self._read_item(item, delivery.received_at)
        ]

    def _signer(self, item: Payload, at: datetime) -> str:
        signed = _signed_text(item)
        signature = _signature(item)
        return signing_secret(self._secrets, at, lambda key: hmac_sha256(key, signed), [signature])

    def _check_login(self, delivery: Delivery) -> None:
        if not self._logins:
            return
        scheme, _, encoded = delivery.headers.get("authorization", "").partition(" ")
        try:
            shown = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            shown = b""
        is_known = False
        for username, secret in self._logins:
            is_in_force = secret.not_after is None or delivery.received_at < secret.not_after
            expected = f"{username}:{secret.text}".encode()
            if hmac.compare_digest(shown, expected) and is_in_force:
                is_known = True
        if scheme.lower() != "basic" or not is_known:
            raise SignatureRefused("the user name or the password is wrong", status=401)

    def _wrong_mode(self, envelope: Payload) -> Unbookable | None:
        """A bare item has no `live`: that its key is one of the endpoint's must do."""
        if not envelope.has("live"):
            return None
        live = envelope.values["live"]
        mode = {"true": "live", "false": "test"}.get(str(live).lower(), "neither")
        if mode == self._endpoint.mode:
            return None
        return Unbookable(
            "", "WRONG_MODE", f"live is {str(live)[:16]!r}, the endpoint is {self._endpoint.mode}"
        )

    def _read_item(self, payload: Payload, received_at: datetime) -> list[Reading]:
        code = str(payload.values.get("eventCode", ""))[:64].encode("ascii", "replace").decode()
        try:
            item = _Item(payload, self._endpoint, received_at)
            if code in self._endpoint.dispute_lost_codes:
                return [item.fact(ledger_pb2.EVENT_TYPE_DISPUTE_LOST, reference=item.dispute)]
            if code in _WITHOUT_MONEY:
                return [Ignored(code, _WITHOUT_MONEY[code], is_alert=code in _ALERTS)]
            if code in _CHARGE_CODES:
                return [self._read_charge(item)]
            if code in _REFUND_CODES:
                return [self._read_refund(item)]
            if code in _DISPUTE_CODES:
                return self._read_dispute(item)
            if code in _PAYOUT_CODES:
                return [self._read_payout(item)]
        except Malformed as error:
            return [Unbookable(code, "UNKNOWN_SHAPE", str(error))]
        return [Unbookable(code, "UNKNOWN_EVENT_CODE", "the gateway does not know the event code")]

    def _read_charge(self, item: "_Item") -> Reading:
        code, automatic = item.code, self._endpoint.auto_capture
        if code == "CAPTURE_FAILED":
            # The code says that it failed: senders disagree on the flag. It has the reference of
            # the capture that failed.
            captured = (item.original or item.psp) if automatic else item.psp
            return self._reversal(item, captured)
        succeeded = item.succeeded
        if code == "CAPTURE":
            if not succeeded:
                return Ignored(code, "Adyen refused the capture", is_alert=True)
            if automatic:
                return Unbookable(
                    code,
                    "CHARGED_BY_AUTHORISATION",
                    "auto_capture books payments when they are authorised, and this one was"
                    " captured by itself",
                )
            return item.fact(ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED, reference=item.payment)
        if not succeeded:
            return Ignored(code, "it did not succeed, so nothing changed")
        if not automatic:
            return Ignored(code, "an authorisation moves no money before it is captured")
        if code == "AUTHORISATION":
            if item.amount_minor() == 0:
                return Ignored(code, "a card was checked for no amount")
            # The id that a CAPTURE of it would have: the fact is that the money was taken.
            return item.fact(
                ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED, code="CAPTURE", reference=item.payment
            )
        if code in ("CANCELLATION", "TECHNICAL_CANCEL") and item.original:
            return self._reversal(item, item.original)
        return Unbookable(
            code,
            "CHANGES_A_CHARGE",
            "auto_capture has booked the payment, whose authorisation was changed",
        )

    def _reversal(self, item: "_Item", captured: str) -> Fact:
        return item.fact(
            ledger_pb2.EVENT_TYPE_CHARGE_REVERSED,
            reference=item.payment,
            reverses=f"adyen:{captured}:CAPTURE",
        )

    def _read_refund(self, item: "_Item") -> Reading:
        code = item.code
        if code in ("REFUND_FAILED", "REFUNDED_REVERSED"):
            # The code says that the money came back: senders disagree on the flag. A refund comes
            # back once, before it left Adyen or from the bank: both codes are one fact.
            return item.fact(
                ledger_pb2.EVENT_TYPE_REFUND_FAILED, code="REFUND_FAILED", reference=item.payment
            )
        if not item.succeeded:
            return Ignored(code, "Adyen refused the refund", is_alert=True)
        if code == "CANCEL_OR_REFUND":
            return self._read_reversed_payment(item)
        return item.fact(ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, reference=item.payment)

    def _read_reversed_payment(self, item: "_Item") -> Reading:
        """Of a payment that was refunded if it was captured, else canceled: which, no signature
        covers.
        """
        action = item.additional.get("modification.action", "").lower()
        if not self._endpoint.trusts_body or action not in ("cancel", "refund"):
            return Unbookable(
                item.code,
                "UNCOVERED_ACTION",
                "only additionalData says whether the payment was refunded or canceled, and no"
                " signature covers it: set basic_auth, or trust_additional_data",
            )
        if action == "refund":
            return item.fact(ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, reference=item.payment)
        if self._endpoint.auto_capture and item.original:
            return self._reversal(item, item.original)
        return Ignored(item.code, "an authorisation moves no money before it is captured")

    def _read_dispute(self, item: "_Item") -> list[Reading]:
        code = item.code
        if not item.succeeded:
            return [Unbookable(code, "UNEXPECTED_SUCCESS", "the flag success is not true")]
        if code == "CHARGEBACK_REVERSED":
            return [item.fact(ledger_pb2.EVENT_TYPE_DISPUTE_WON, reference=item.dispute)]
        readings: list[Reading] = [
            item.fact(ledger_pb2.EVENT_TYPE_DISPUTE_OPENED, reference=item.dispute)
        ]
        # A second chargeback is the end. The first one is only where nobody can defend it, as with
        # direct debits. That closes the dispute and moves nothing that the restaurant is owed.
        is_final = item.additional.get("disputeStatus", "").lower() == "lost"
        if code == "SECOND_CHARGEBACK" or (is_final and self._endpoint.trusts_body):
            readings.append(
                item.fact(
                    ledger_pb2.EVENT_TYPE_DISPUTE_LOST,
                    code=f"{code}:lost",
                    reference=item.dispute,
                )
            )
        return readings

    def _read_payout(self, item: "_Item") -> Reading:
        if self._endpoint.payouts == "none":
            return Ignored(item.code, "the endpoint has no payouts of the ledger's")
        if not is_payout_id(item.reference):
            return Ignored(item.code, "merchantReference is no payout id of the ledger's")
        if item.code == "PAYOUT_THIRDPARTY" and item.succeeded:
            return item.fact(
                ledger_pb2.EVENT_TYPE_PAYOUT_PAID,
                reference=item.payment,
                payout_id=item.reference,
            )
        return item.fact(
            ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
            reference=item.payment,
            payout_id=item.reference,
            failure_code=item.code,
        )


class _Item:
    """A NotificationRequestItem and what its facts have in common. Raises Malformed."""

    def __init__(self, payload: Payload, endpoint: AdyenEndpoint, received_at: datetime) -> None:
        self._payload = payload
        self._endpoint = endpoint
        self._received_at = received_at
        self.code = payload.text("eventCode")
        self.psp = payload.text("pspReference")
        self.original = payload.text("originalReference", "")
        self.account = payload.text("merchantAccountCode", "")
        self.reference = payload.text("merchantReference", "")
        self.additional = payload.texts("additionalData")
        # The payment that it is about, by the same reference whatever happens to it.
        self.payment = self.original or self.psp
        # Opening and end of a dispute have the same reference, its payment's. Adyen leaves it out
        # of some codes unless it is told not to.
        self.dispute = self.payment

    @property
    def succeeded(self) -> bool:
        """The flag `success`, which is a text in JSON."""
        text = _text_of_success(self._payload)
        if text not in ("true", "false"):
            raise Malformed("success is neither true nor false")
        return text == "true"

    def amount_minor(self) -> int:
        """The amount in the ledger's minor units."""
        amount = self._payload.child("amount")
        currency = amount.text("currency")
        exponent = processor_exponent(currency, ADYEN_EXPONENTS, self._endpoint.exponents)
        return minor_units(_whole(amount), currency, exponent)

    def fact(
        self,
        type: ledger_pb2.EventType.ValueType,
        *,
        reference: str,
        code: str = "",
        reverses: str = "",
        payout_id: str = "",
        failure_code: str = "",
    ) -> Fact:
        """A fact whose id is the item's reference and `code`, by default the item's own.

        Raises Malformed also for what the ledger would refuse for ever.
        """
        event_id = f"adyen:{self.psp}:{code or self.code}"
        if not is_id(event_id):
            raise Malformed("pspReference is no reference of Adyen's")
        if not is_reference(reference):
            raise Malformed("originalReference is no reference of Adyen's")
        if (amount_minor := self.amount_minor()) <= 0:
            raise Malformed("amount.value is not above zero")
        return Fact(
            event_id=event_id,
            type=type,
            amount_minor=amount_minor,
            currency=self._payload.child("amount").text("currency"),
            occurred_at=self._occurred_at(),
            owner=self._owner(),
            reference=reference,
            charge=self._charge(),
            reverses=reverses,
            payout_id=payout_id,
            failure_code=failure_code,
            may_change=_FRESHER_DATE if self.code != "CHARGEBACK_REVERSED" else frozenset(),
            metadata=kept(
                {
                    "adyen_merchant_account": self.account,
                    "adyen_merchant_reference": self.reference,
                    "adyen_psp_reference": self.psp,
                    "adyen_payment_method": self._uncovered("paymentMethod"),
                    "adyen_reason": self._uncovered("reason"),
                }
            ),
        )

    def _uncovered(self, name: str) -> str:
        value = self._payload.values.get(name)
        return value if isinstance(value, str) else ""

    def _charge(self) -> str:
        """The event id of the charge, where it is known. With captures by hand a payment may have
        several, and only `additionalData` says which one a chargeback is about.
        """
        if self._endpoint.auto_capture:
            return f"adyen:{self.original}:CAPTURE" if self.original else ""
        if self._endpoint.trusts_body and (psp := self.additional.get("capturePspReference", "")):
            return f"adyen:{psp}:CAPTURE"
        return ""

    def _occurred_at(self) -> datetime:
        occurred_at = self._payload.instant("eventDate")
        oldest = OCCURRED_AT_MIN
        if self._endpoint.event_age_days_max is not None:
            age_max = timedelta(days=self._endpoint.event_age_days_max)
            oldest = max(oldest, self._received_at - age_max)
        if not oldest <= occurred_at <= self._received_at + CLOCK_SKEW_MAX:
            raise Malformed("eventDate is out of range, and no signature covers it")
        return occurred_at

    def _owner(self) -> Owner:
        if not self._endpoint.trusts_body:
            return Owner(account=self.account, reference=self.reference)
        prefix = "metadata."
        return Owner(
            account=self.account,
            store=self.additional.get("store", ""),
            reference=self.reference,
            metadata={
                key.removeprefix(prefix): value
                for key, value in self.additional.items()
                if key.startswith(prefix)
            },
        )


def _items(envelope: Payload) -> Iterator[Payload]:
    """The items of a post, at least one: of an envelope, or one that has none around it."""
    if not envelope.has("notificationItems"):
        if not envelope.has("eventCode") and not envelope.has("NotificationRequestItem"):
            raise Malformed("neither notificationItems nor an item")
        yield _item_of(envelope)
        return
    found = 0
    for wrapped in envelope.children("notificationItems"):
        found += 1
        yield _item_of(wrapped)
    if not found:
        raise Malformed("notificationItems is empty")


def _item_of(wrapped: Payload) -> Payload:
    name = "NotificationRequestItem"
    return wrapped.child(name) if wrapped.has(name) else wrapped


def _signature(item: Payload) -> bytes:
    text = item.texts("additionalData").get("hmacSignature", "")
    if not text or not text.isascii():
        raise SignatureRefused("an item has no signature")
    return text.encode()


def _signed_text(item: Payload) -> bytes:
    """The fields that are signed, joined by colons without escaping. Raises SignatureRefused."""
    try:
        amount = item.child("amount") if item.has("amount") else Payload({}, "amount")
        # In the order in which they are joined.
        fields = {
            "pspReference": item.text("pspReference", ""),
            "originalReference": item.text("originalReference", ""),
            "merchantAccountCode": item.text("merchantAccountCode", ""),
            "merchantReference": item.text("merchantReference", ""),
            "value": amount.text("value", ""),
            "currency": amount.text("currency", ""),
            "eventCode": item.text("eventCode", ""),
            "success": _text_of_success(item),
        }
        joined = ":".join(fields.values()).encode()
    except (Malformed, UnicodeEncodeError) as error:
        raise SignatureRefused(f"a signed field is no text: {error}") from error
    if any(":" in text for name, text in fields.items() if name != _MAY_HOLD_COLONS):
        raise SignatureRefused("a signed field holds the separator")
    return joined


def _text_of_success(item: Payload) -> str:
    """`success` as it is signed. It is a text; of a boolean, which some senders make of it, too."""
    value = item.values.get("success")
    return str(value).lower() if isinstance(value, bool) else item.text("success", "")


def _whole(amount: Payload) -> int:
    """`value`, a number or its digits."""
    text = amount.text("value")
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 18):
        raise Malformed("amount.value is no number of minor units")
    return int(text)
