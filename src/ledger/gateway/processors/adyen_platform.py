"""Adyen's platform webhooks: signed as a whole, and about transfers that may be payouts.

A signature is over the raw body, in a header, so everything in the body may decide. A transfer with
one of the ledger's payout ids as its `reference` is that payout. Every update of a transfer has its
state and its history, so an update after the booking, such as one that tracks the money, reports
the same facts again:

    fact                       event id                       occurred_at
    the payout was paid        adyen:<transfer>:booked        the event of the history
    the bank has the money     adyen:<transfer>:credited      the event of the history
    the payout failed          adyen:<transfer>:<status>      the event of the history
    the bank named it          adyen:<transfer>:traced:<…>    the event of the history

Amount, currency and reference are the transfer's and never change. Should an update have no such
event in its history, the instant of the update takes its place. It may change, and so may the
reason of a failure: the first one stands.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field, field_validator

from ledger.domain.fields import is_code, is_id, is_reference
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
from ledger.gateway.endpoints import EndpointBase
from ledger.gateway.kept_texts import kept
from ledger.gateway.payloads import Malformed, Payload, parse
from ledger.gateway.payout_ids import is_payout_id
from ledger.gateway.processors.adyen import check_hex_keys, hmac_sha256
from ledger.gateway.signatures import SigningSecret, signing_secret
from ledger.v1 import ledger_pb2

_TRANSFERS = ("balancePlatform.transfer.created", "balancePlatform.transfer.updated")
# What else a platform reports. It is of Adyen's accounts, cards and reports, and no money of the
# ledger's: sales are in the standard notifications.
_WITHOUT_MONEY = (
    "balancePlatform.accountHolder.",
    "balancePlatform.balance.",
    "balancePlatform.balanceAccount.",
    "balancePlatform.balanceAccountSweep.",
    "balancePlatform.cardorder.",
    "balancePlatform.dispute.",
    "balancePlatform.mandate.",
    "balancePlatform.negativeBalanceCompensationWarning.",
    "balancePlatform.networkToken.",
    "balancePlatform.paymentInstrument.",
    "balancePlatform.report.",
    "balancePlatform.score.",
    "balancePlatform.transaction.",
    "balancePlatform.transferRule.",
)
_UNDER_WAY = frozenset(
    {
        "approvalPending",
        "authorised",
        "booked",
        "credited",
        "pending",
        "pendingApproval",
        "received",
        "requestPending",
        "validationPending",
    }
)
# What a later update may know better; the first report stands.
_FRESHER = frozenset({"occurred_at", "failure_code"})
_FAILED = frozenset(
    {"cancelled", "canceled", "error", "expired", "failed", "refused", "rejected", "returned"}
)


class AdyenPlatformEndpoint(EndpointBase):
    """An endpoint of transfer webhooks. Its secrets are HMAC keys, in hexadecimal digits."""

    processor: Literal["adyen_platform"]
    paid_by: Literal["booked", "credited"] = Field(
        "booked",
        description="What makes a payout paid: booked, when the money left Adyen, or credited, when"
        " the other bank confirmed it, which not every bank does.",
    )
    payouts: Mapping[str, str] = Field(
        default_factory=dict,
        description="The ledger's payout ids by the references of transfers that have others.",
    )
    bank_references: bool = Field(
        False, description="Also book how the bank names a payout, when it is traced."
    )

    @field_validator("payouts")
    @classmethod
    def _are_payout_ids(cls, payouts: Mapping[str, str]) -> Mapping[str, str]:
        for payout_id in payouts.values():
            if not is_payout_id(payout_id):
                raise ValueError(f"payouts: {payout_id[:64]!r} is no payout id of the ledger's")
        return payouts


class AdyenPlatform:
    """A Processor for platform webhooks."""

    acknowledgement = b"[accepted]"
    content_type = "text/plain"

    def __init__(self, endpoint: AdyenPlatformEndpoint, secrets: Sequence[SigningSecret]) -> None:
        check_hex_keys(secrets)
        self._endpoint = endpoint
        self._secrets = tuple(secrets)

    def verify(self, delivery: Delivery) -> str:
        """See Processor."""
        if delivery.headers.get("protocol", "HmacSHA256").lower() != "hmacsha256":
            raise SignatureRefused("the signature is of another kind than HmacSHA256")
        signature = delivery.headers.get("hmacsignature", "")
        if not signature or not signature.isascii():
            raise SignatureRefused("there is no HmacSignature")
        return signing_secret(
            self._secrets,
            delivery.received_at,
            lambda key: hmac_sha256(key, delivery.body),
            [signature.encode()],
        )

    async def read(self, delivery: Delivery) -> Sequence[Reading]:
        """See Processor."""
        kind = ""
        try:
            message = parse(delivery.body)
            kind = message.text("type")[:100].encode("ascii", "replace").decode()
            environment = message.text("environment")
            if environment != self._endpoint.mode:
                return [
                    Unbookable(
                        kind,
                        "WRONG_MODE",
                        f"environment is {environment[:16]!r}, the endpoint is"
                        f" {self._endpoint.mode}",
                    )
                ]
            if kind in _TRANSFERS:
                return self._read_transfer(kind, message, delivery.received_at)
        except Malformed as error:
            return [Unbookable(kind, "UNKNOWN_SHAPE", str(error))]
        if kind.startswith(_WITHOUT_MONEY):
            return [Ignored(kind, "it moves no money of the ledger's")]
        return [Unbookable(kind, "UNKNOWN_TYPE", "the gateway does not know the type")]

    def _read_transfer(
        self, kind: str, message: Payload, received_at: datetime
    ) -> Sequence[Reading]:
        transfer = _Transfer(message, self._endpoint, received_at)
        if transfer.direction != "outgoing":
            return [Ignored(kind, "the transfer pays nobody")]
        if not is_payout_id(transfer.payout_id):
            return [Ignored(kind, "the transfer's reference is no payout id of the ledger's")]
        status = transfer.status
        facts: list[Reading] = []
        if self._is_paid(transfer):
            facts.append(transfer.paid(self._endpoint.paid_by))
        if status in _FAILED:
            facts.append(transfer.failed())
        elif status not in _UNDER_WAY:
            return [
                *facts,
                Unbookable(kind, "UNKNOWN_STATUS", f"the gateway knows no {status[:32]!r}"),
            ]
        if self._endpoint.bank_references:
            facts += transfer.traced()
        return facts or [Ignored(kind, f"the payout is {status}, and under way")]

    def _is_paid(self, transfer: "_Transfer") -> bool:
        """By the history too: an update that it came back may be the first that arrives."""
        if self._endpoint.paid_by == "credited":
            return transfer.status == "credited" or transfer.is_credited
        return transfer.status == "booked" or transfer.event("status", "booked") is not None


class _Transfer:
    """A transfer as an update shows it. Raises Malformed."""

    def __init__(
        self, message: Payload, endpoint: AdyenPlatformEndpoint, received_at: datetime
    ) -> None:
        self._transfer = transfer = message.child("data")
        self._endpoint = endpoint
        self._events = list(transfer.children("events"))
        self.id = transfer.text("id")
        self.status = transfer.text("status")
        self.direction = transfer.text("direction", "outgoing")
        self.reference = transfer.text("reference", "")
        self.payout_id = endpoint.payouts.get(self.reference, self.reference)
        self._updated_at = received_at
        for holder, name in ((transfer, "updatedAt"), (message, "timestamp")):
            if holder.has(name):
                self._updated_at = holder.instant(name)
                break

    @property
    def is_credited(self) -> bool:
        """Whether the other bank confirmed that it has the money."""
        tracking = self._transfer.values.get("tracking")
        return _is_confirmation(tracking) or self._credited_event() is not None

    def event(self, name: str, value: str) -> Payload | None:
        """The first event of the history whose field `name` is `value`."""
        return next((event for event in self._events if event.values.get(name) == value), None)

    def paid(self, paid_by: str) -> Fact:
        """The payout was paid."""
        event = self._credited_event() if paid_by == "credited" else self.event("status", "booked")
        return self._fact(ledger_pb2.EVENT_TYPE_PAYOUT_PAID, paid_by, event)

    def failed(self) -> Fact:
        """The payout failed, or came back."""
        reason = self._transfer.values.get("reason")
        is_said = isinstance(reason, str) and is_code(reason) and reason != "approved"
        return self._fact(
            ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
            self.status,
            self.event("status", self.status),
            failure_code=str(reason) if is_said else self.status,
        )

    def traced(self) -> list[Fact]:
        """How the bank names the payout, once it does."""
        event = self.event("type", "tracing")
        tracing = self._transfer.values.get("tracing")
        if not isinstance(tracing, dict) and event is not None:
            tracing = event.values.get("tracingData")
        if not isinstance(tracing, dict):
            return []
        names = [
            value
            for key, value in sorted(tracing.items())
            if key != "type" and isinstance(value, str) and value and is_reference(value)
        ]
        named = [name for name in names[:1] if is_id(self._event_id(f"traced:{name}"))]
        return [
            self._fact(
                ledger_pb2.EVENT_TYPE_PAYOUT_REFERENCED,
                f"traced:{name}",
                event,
                bank_reference=name,
            )
            for name in named
        ]

    def _credited_event(self) -> Payload | None:
        return next(
            (event for event in self._events if _is_confirmation(event.values.get("trackingData"))),
            None,
        )

    def _event_id(self, step: str) -> str:
        return f"adyen:{self.id}:{step}"

    def _fact(
        self,
        type: "ledger_pb2.EventType.ValueType",
        step: str,
        event: Payload | None,
        *,
        failure_code: str = "",
        bank_reference: str = "",
    ) -> Fact:
        event_id = self._event_id(step)
        if not is_id(event_id):
            raise Malformed("data.id is no id of a transfer")
        amount = self._transfer.child("amount")
        currency = amount.text("currency")
        exponent = processor_exponent(currency, ADYEN_EXPONENTS, self._endpoint.exponents)
        amount_minor = minor_units(amount.integer("value"), currency, exponent)
        if amount_minor <= 0:
            raise Malformed("data.amount.value is not above zero")
        return Fact(
            event_id=event_id,
            type=type,
            amount_minor=amount_minor,
            currency=currency,
            occurred_at=self._occurred_at(event),
            owner=Owner(
                account=self._transfer.text("balanceAccountId", ""), reference=self.reference
            ),
            reference=self.id,
            payout_id=self.payout_id,
            failure_code=failure_code,
            bank_reference=bank_reference,
            may_change=_FRESHER,
            metadata=kept(
                {
                    "adyen_transfer": self.id,
                    "adyen_status": self.status,
                    "adyen_sequence_number": str(self._transfer.integer("sequenceNumber", 0)),
                }
            ),
        )

    def _occurred_at(self, event: Payload | None) -> datetime:
        for name in ("bookingDate", "updateDate"):
            if event is not None and event.has(name):
                return event.instant(name)
        return self._updated_at


def _is_confirmation(tracking: object) -> bool:
    return isinstance(tracking, dict) and tracking.get("status") == "credited"
