"""What a chargeback is in the ledger: a dispute, and how it ended."""

from datetime import datetime

from ledger.domain.fields import is_id
from ledger.gateway.amounts import minor_units_of_major
from ledger.gateway.deliveries import Fact, Owner, Reading, Unbookable
from ledger.gateway.kept_texts import kept
from ledger.gateway.payloads import Malformed, Payload
from ledger.gateway.processors.mercado_pago.resources import decimal_of, wrong_mode
from ledger.gateway.processors.mercado_pago.settings import MercadoPagoEndpoint
from ledger.v1 import ledger_pb2

# By which a chargeback ended, where it has a status.
_WON = frozenset({"covered", "reimbursed", "won"})
_LOST = frozenset({"lost", "not_covered", "settled"})
_OPEN = frozenset({"documentation_pending", "in_process", "in_review", "open", "opened", "pending"})
# After these, a seller that is not covered will not be. Before, the flag only has its default.
_DECIDED = frozenset({"invalid", "not_applicable", "not_supplied"})


def read_chargeback(
    chargeback: Payload, chargeback_id: str, endpoint: MercadoPagoEndpoint, owner: Owner
) -> list[Reading]:
    """All facts of a chargeback as it stands. Raises Malformed.

    `owner` is its payment's. If that could not be had, the money is that of the charge.
    """
    kind = "chargeback"
    found = chargeback.text("id")
    if found.lower() != chargeback_id.lower():
        return [Unbookable(kind, "OTHER_RESOURCE", "the API returned another chargeback")]
    if (wrong := wrong_mode(chargeback, kind, endpoint)) is not None:
        return [wrong]
    dispute = _Dispute(chargeback, found, owner)
    readings: list[Reading] = [
        dispute.fact("opened", ledger_pb2.EVENT_TYPE_DISPUTE_OPENED, dispute.opened_at)
    ]
    status = chargeback.text("status", "")
    covered = str(chargeback.values.get("coverage_applied", "")).lower()
    decided = chargeback.text("documentation_status", "") in _DECIDED
    if covered == "true" or status in _WON:
        readings.append(dispute.fact("won", ledger_pb2.EVENT_TYPE_DISPUTE_WON, dispute.updated_at))
    elif (covered == "false" and decided) or status in _LOST:
        readings.append(
            dispute.fact("lost", ledger_pb2.EVENT_TYPE_DISPUTE_LOST, dispute.updated_at)
        )
    elif status and status not in _OPEN:
        readings.append(Unbookable(kind, "UNKNOWN_STATUS", f"the gateway knows no {status[:32]!r}"))
    return readings


class _Dispute:
    def __init__(self, chargeback: Payload, chargeback_id: str, owner: Owner) -> None:
        self._chargeback = chargeback
        self._owner = owner
        self._id = chargeback_id
        self._currency = chargeback.text(
            "currency_id" if chargeback.has("currency_id") else "currency"
        )
        self._amount_minor = minor_units_of_major(decimal_of(chargeback, "amount"), self._currency)
        self._payment_id = payment_of(chargeback)
        dates = [
            chargeback.instant(name)
            for name in ("date_created", "date_last_updated", "last_modified")
            if chargeback.has(name)
        ]
        if not dates:
            raise Malformed("neither date_created nor date_last_updated")
        self.opened_at, self.updated_at = dates[0], dates[-1]

    def fact(
        self, step: str, type: "ledger_pb2.EventType.ValueType", occurred_at: datetime
    ) -> Fact:
        event_id = f"mp:chargeback:{self._id}:{step}"
        if not is_id(event_id):
            raise Malformed("id is no id of a chargeback")
        if self._amount_minor <= 0:
            raise Malformed("amount is not above zero")
        return Fact(
            event_id=event_id,
            type=type,
            amount_minor=self._amount_minor,
            currency=self._currency,
            occurred_at=occurred_at,
            owner=self._owner,
            # Opening and end have the same one.
            reference=self._payment_id or self._id,
            charge=f"mp:{self._payment_id}:approved" if self._payment_id else "",
            metadata=kept(
                {"mp_chargeback": self._id, "mp_reason": _text(self._chargeback, "reason")}
            ),
        )


def payment_of(chargeback: Payload) -> str:
    """The id of the payment, in digits; of several the first."""
    value = chargeback.values.get("payment_id")
    payments = chargeback.values.get("payments")
    if value is None and isinstance(payments, list) and payments:
        value = payments[0]
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return text if text.isascii() and text.isdecimal() and len(text) <= 20 else ""


def _text(payload: Payload, name: str) -> str:
    value = payload.values.get(name)
    return value if isinstance(value, str) else ""
