"""What a payment is in the ledger: its charge, what was taken of it, and its refunds."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from ledger.domain.fields import is_id, is_reference
from ledger.gateway.amounts import minor_units_of_major
from ledger.gateway.deliveries import Fact, Ignored, Owner, Reading, Unbookable
from ledger.gateway.kept_texts import kept
from ledger.gateway.payloads import Malformed, Payload
from ledger.gateway.processors.mercado_pago.resources import decimal_of, wrong_mode
from ledger.gateway.processors.mercado_pago.settings import MercadoPagoEndpoint
from ledger.v1 import ledger_pb2

# A payment in one of these was approved: the money was the collector's, whatever came later.
_TAKEN = frozenset({"approved", "charged_back", "in_mediation", "refunded"})
_NOT_TAKEN = frozenset(
    {"authorized", "canceled", "cancelled", "expired", "in_process", "pending", "rejected"}
)
_ENDED = frozenset({"canceled", "cancelled", "expired", "rejected"})
# What moves money of the collector's own.
_NO_SALES = frozenset({"account_fund", "investment", "money_exchange"})
_REFUND_UNDER_WAY = frozenset({"authorized", "in_process", "pending"})
_REFUND_FAILED = frozenset({"canceled", "cancelled", "rejected"})


def read_payment(payment: Payload, payment_id: str, endpoint: MercadoPagoEndpoint) -> list[Reading]:
    """All facts of a payment as it stands. Raises Malformed."""
    status = payment.text("status")
    kind = f"payment.{status[:32]}".encode("ascii", "replace").decode()
    if payment.text("id") != payment_id:
        return [Unbookable(kind, "OTHER_RESOURCE", "the API returned another payment")]
    if (wrong := wrong_mode(payment, kind, endpoint)) is not None:
        return [wrong]
    is_captured = payment.flag("captured", True)
    if status in _NOT_TAKEN or (status in _TAKEN and not is_captured):
        if status in _ENDED and is_captured and payment.has("date_approved"):
            return [
                Unbookable(kind, "ENDED_AFTER_APPROVAL", "the payment was approved before it ended")
            ]
        return [Ignored(kind, "no money was taken")]
    if status not in _TAKEN:
        return [Unbookable(kind, "UNKNOWN_STATUS", "the gateway does not know the status")]
    operation = payment.text("operation_type", "")
    if operation in _NO_SALES:
        return [Unbookable(kind, "NO_SALE", f"operation_type is {operation}")]
    taken = _Payment(payment, payment_id, endpoint)
    if taken.amount_minor == 0:
        return [Ignored(kind, "a card was checked for no amount")]
    readings: list[Reading] = []
    for part in (taken.charge(kind), taken.refunds(kind, status), taken.given_back(kind)):
        try:
            readings.extend(part)
        except Malformed as error:
            # What came before it, and the other parts, are known all the same.
            readings.append(Unbookable(kind, "UNKNOWN_SHAPE", str(error)))
    if status == "charged_back":
        readings.append(
            Ignored(kind, "its chargeback has a notification of its own", is_alert=True)
        )
    return readings


def owner_of(payment: Payload) -> Owner:
    """What a payment says of whose money it is. Raises Malformed."""
    return Owner(
        account=payment.text("collector_id", "") or _text_of(payment, "collector", "id"),
        store=payment.text("store_id", ""),
        reference=payment.text("external_reference", ""),
        metadata=_metadata_of(payment),
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of charges_details, which the collector pays. Amounts in minor units."""

    id: str
    # fee: Mercado Pago's. commission: the marketplace's. tax: withheld.
    kind: str
    original_minor: int
    refunded_minor: int
    entries: tuple[Payload, ...]


class _Payment:
    """A payment whose money was taken. Raises Malformed."""

    def __init__(self, payment: Payload, payment_id: str, endpoint: MercadoPagoEndpoint) -> None:
        self._payment = payment
        self._endpoint = endpoint
        self._id = payment_id
        self._currency = payment.text("currency_id")
        self.amount_minor = self._minor(payment, "transaction_amount")
        self._approved_at = payment.instant("date_approved")
        merchants = payment.text("external_reference", "")
        # The reference of all facts of the payment, also those that are told by later looks.
        self._reference = merchants if merchants and is_reference(merchants) else payment_id
        self._owner = owner_of(payment)
        self._lines = list(self._read_lines())

    def charge(self, kind: str) -> Iterator[Reading]:
        """The charge and its taxes, if what the collector received ties with what was taken."""
        fee_minor = self._sum("fee")
        commission_minor = self._sum("commission")
        tax_minor = self._sum("tax")
        net_minor = self._minor(self._payment.child("transaction_details"), "net_received_amount")
        expected_minor = self.amount_minor - fee_minor - commission_minor - tax_minor
        if net_minor != expected_minor:
            yield Unbookable(
                kind,
                "NET_DOES_NOT_TIE",
                f"{self.amount_minor} less fees of {fee_minor}, a commission of"
                f" {commission_minor} and taxes of {tax_minor} is {expected_minor}, but"
                f" net_received_amount is {net_minor}, in minor units of {self._currency}",
            )
            return
        available_at = None
        if self._payment.has("money_release_date"):
            available_at = max(self._payment.instant("money_release_date"), self._approved_at)
        yield self._fact(
            f"mp:{self._id}:approved",
            ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
            self.amount_minor,
            self._approved_at,
            processor_fee_minor=fee_minor,
            commission_minor=commission_minor or None,
            available_at=available_at,
        )
        for line in self._lines:
            if line.kind == "tax" and line.original_minor:
                yield self._fact(
                    f"mp:tax:{line.id}",
                    ledger_pb2.EVENT_TYPE_TAX_WITHHELD,
                    line.original_minor,
                    self._approved_at,
                    available_at=available_at,
                )

    def refunds(self, kind: str, status: str) -> Iterator[Reading]:
        """The refunds that were made.

        One that was canceled or rejected may have been approved when an earlier look booked it. So
        it is booked and taken back: whenever the gateway looked, the books are the same.
        """
        refunded_minor = 0
        for refund in self._payment.children("refunds"):
            refund_id = refund.text("id")
            refund_status = refund.text("status", "approved")
            amount_minor = self._minor(refund, "amount")
            if refund_status in _REFUND_UNDER_WAY:
                yield Ignored(f"{kind}.refund", "the refund is under way")
                continue
            if refund_status != "approved" and refund_status not in _REFUND_FAILED:
                yield Unbookable(
                    kind, "UNKNOWN_REFUND_STATUS", f"a refund is {refund_status[:32]!r}"
                )
                continue
            made_at = refund.instant("date_created")
            event_id = f"mp:refund:{refund_id}"
            yield self._fact(
                event_id, ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, amount_minor, made_at
            )
            if refund_status in _REFUND_FAILED:
                yield self._fact(
                    f"{event_id}:failed", ledger_pb2.EVENT_TYPE_REFUND_FAILED, amount_minor, made_at
                )
            else:
                refunded_minor += amount_minor
        total_minor = self._minor(self._payment, "transaction_amount_refunded", "0")
        # What a chargeback takes is counted there by some countries, and by others not.
        if status in ("approved", "refunded") and total_minor != refunded_minor:
            yield Unbookable(
                kind,
                "REFUNDS_DO_NOT_TIE",
                f"the refunds are {refunded_minor}, but transaction_amount_refunded is"
                f" {total_minor}, in minor units of {self._currency}",
            )

    def given_back(self, kind: str) -> Iterator[Reading]:
        """What was given back of fees, commission and taxes, each entry by its refund."""
        for line in self._lines:
            back_minor = 0
            for entry in line.entries:
                amount_minor = self._minor(entry, "amount")
                back_minor += amount_minor
                fact = self._entry(line, entry, amount_minor)
                if fact is not None:
                    yield fact
            if back_minor != line.refunded_minor:
                yield Unbookable(
                    kind,
                    "RETURNS_DO_NOT_TIE",
                    f"of {line.kind} {line.id[:64]} the entries are {back_minor}, but"
                    f" amounts.refunded is {line.refunded_minor}",
                )

    def _entry(self, line: _Line, entry: Payload, amount_minor: int) -> Fact | None:
        operation = entry.child("operation").text("id")
        given_at = entry.instant("date_created")
        if line.kind == "tax":
            return self._fact(
                f"mp:tax:{line.id}:reversed:{operation}",
                ledger_pb2.EVENT_TYPE_TAX_WITHHOLDING_REVERSED,
                amount_minor,
                given_at,
            )
        if line.kind == "fee":
            return self._fact(
                f"mp:fee:{line.id}:refunded:{operation}",
                ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_REFUNDED,
                amount_minor,
                given_at,
            )
        # The charge carried the marketplace's commission only by this policy.
        if self._endpoint.fees.commission != "processor":
            return None
        return self._fact(
            f"mp:commission:{line.id}:refunded:{operation}",
            ledger_pb2.EVENT_TYPE_FEE_REFUNDED,
            amount_minor,
            given_at,
        )

    def _read_lines(self) -> Iterator[_Line]:
        """What the collector pays, from charges_details; from fee_details, which has no taxes, if
        there is nothing in those.
        """
        details = list(self._payment.children("charges_details"))
        for detail in details:
            accounts = detail.child("accounts")
            if accounts.text("from", "") != "collector":
                continue
            amounts = detail.child("amounts")
            yield _Line(
                id=detail.text("id"),
                kind=_kind_of(detail.text("type"), accounts.text("to", "")),
                original_minor=self._minor(amounts, "original"),
                refunded_minor=self._minor(amounts, "refunded", "0"),
                entries=tuple(detail.children("refund_charges")),
            )
        if details:
            return
        for fee in self._payment.children("fee_details"):
            if fee.text("fee_payer", "") == "collector":
                yield _Line(
                    id="",
                    kind="commission" if fee.text("type", "") == "application_fee" else "fee",
                    original_minor=self._minor(fee, "amount"),
                    refunded_minor=0,
                    entries=(),
                )

    def _sum(self, kind: str) -> int:
        return sum(line.original_minor for line in self._lines if line.kind == kind)

    def _minor(self, payload: Payload, name: str, default: str | None = None) -> int:
        return minor_units_of_major(decimal_of(payload, name, default), self._currency)

    def _fact(
        self,
        event_id: str,
        type: "ledger_pb2.EventType.ValueType",
        amount_minor: int,
        occurred_at: datetime,
        *,
        processor_fee_minor: int = 0,
        commission_minor: int | None = None,
        available_at: datetime | None = None,
    ) -> Fact:
        if not is_id(event_id):
            raise Malformed(f"{event_id[:64]!r} would be no event id")
        if amount_minor <= 0:
            raise Malformed(f"the amount of {event_id} is not above zero")
        charge = f"mp:{self._id}:approved"
        return Fact(
            event_id=event_id,
            type=type,
            amount_minor=amount_minor,
            currency=self._currency,
            occurred_at=occurred_at,
            owner=self._owner,
            reference=self._reference,
            commission_minor=commission_minor,
            processor_fee_minor=processor_fee_minor,
            available_at=available_at,
            charge=charge if event_id != charge else "",
            metadata=kept(
                {
                    "mp_payment": self._id,
                    "mp_payment_type": self._payment.text("payment_type_id", ""),
                    "mp_order": _text_of(self._payment, "order", "id"),
                }
            ),
        )


def _kind_of(type_: str, to: str) -> str:
    """Whose a line of charges_details is. Raises Malformed: nobody knows what else it lowers."""
    if type_ == "tax":
        return "tax"
    if type_ == "fee" and to in ("mp", "marketplace_owner"):
        return "fee" if to == "mp" else "commission"
    raise Malformed(f"charges_details has a {type_[:32]!r} of the collector's to {to[:32]!r}")


def _text_of(payload: Payload, name: str, field: str) -> str:
    """A text, or the digits of an integer, inside of an object that may be absent."""
    inner = payload.values.get(name)
    return _plain(inner.get(field)) if isinstance(inner, dict) else ""


def _metadata_of(payment: Payload) -> dict[str, str]:
    """The metadata whose values are texts, or integers such as a commission in minor units."""
    metadata = payment.values.get("metadata")
    if not isinstance(metadata, dict):
        return {}
    return {key: _plain(value) for key, value in metadata.items() if _plain(value)}


def _plain(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""
