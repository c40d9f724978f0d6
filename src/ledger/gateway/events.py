"""Makes the ledger's event of a fact.

What is not money never keeps a fact out of the books: a reference, a text or metadata that the
ledger would not accept is shortened or left out.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cache

from google.protobuf.timestamp_pb2 import Timestamp

from ledger.domain.fields import (
    METADATA_BYTES_MAX,
    REFERENCE_LENGTH_MAX,
    TEXT_LENGTH_MAX,
    is_code,
    is_id,
    is_reference,
)
from ledger.gateway.deliveries import Fact
from ledger.gateway.reasons import BAD_EVENT_ID, CannotBook
from ledger.v1 import ledger_pb2

CHARGE = ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED
CHARGE_REVERSED = ledger_pb2.EVENT_TYPE_CHARGE_REVERSED
# Events about one payout, which names its restaurant.
PAYOUT_TYPES = frozenset(
    {
        ledger_pb2.EVENT_TYPE_PAYOUT_SUBMITTED,
        ledger_pb2.EVENT_TYPE_PAYOUT_PAID,
        ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
        ledger_pb2.EVENT_TYPE_PAYOUT_CANCELED,
        ledger_pb2.EVENT_TYPE_PAYOUT_REFERENCED,
    }
)
# Events that the ledger books for the platform, and that name no restaurant.
PLATFORM_TYPES = frozenset(
    {
        ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLED,
        ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLEMENT_DEBITED,
    }
)
_WITH_PROCESSOR_FEE = frozenset(
    {
        CHARGE,
        ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
        ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
    }
)
_WITH_AVAILABLE_AT = frozenset(
    {
        CHARGE,
        CHARGE_REVERSED,
        ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
        ledger_pb2.EVENT_TYPE_TAX_WITHHELD,
    }
)
# What the processor charges the platform, and what a restaurant bears of it when it is passed on.
_PASSED_ON = {
    ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_ASSESSED: ledger_pb2.EVENT_TYPE_FEE_ASSESSED,
    ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_REFUNDED: ledger_pb2.EVENT_TYPE_FEE_REFUNDED,
}


@cache
def kind_of(event_type: "ledger_pb2.EventType.ValueType") -> str:
    """A type of event as people write it: charge_succeeded."""
    return ledger_pb2.EventType.Name(event_type).removeprefix("EVENT_TYPE_").lower()


def event_of(
    fact: Fact, *, restaurant_id: str, fee_minor: int, endpoint: str
) -> ledger_pb2.ProcessorEvent:
    """The event. Raises CannotBook if the fact's id cannot be one of the ledger."""
    if not is_id(fact.event_id):
        raise CannotBook(
            BAD_EVENT_ID, f"{fact.event_id[:128]!r} is no event id: [A-Za-z0-9._:-], 1 to 128"
        )
    extra = {"gateway_endpoint": endpoint}
    event = ledger_pb2.ProcessorEvent(
        event_id=fact.event_id,
        type=fact.type,
        restaurant_id=restaurant_id,
        currency=fact.currency,
        # Beyond int64 protobuf refuses it; the ledger refuses what is above its own limit.
        amount_minor=_within_int64(fact.amount_minor),
        fee_minor=_within_int64(fee_minor),
        occurred_at=_timestamp(fact.occurred_at),
        payout_id=fact.payout_id,
    )
    if is_reference(fact.reference):
        event.reference = fact.reference
    else:
        extra["reference"] = fact.reference[:REFERENCE_LENGTH_MAX]
    if fact.processor_fee_minor:
        if fact.type in _WITH_PROCESSOR_FEE:
            event.processor_fee_minor = _within_int64(fact.processor_fee_minor)
        else:
            extra["processor_fee_minor"] = str(fact.processor_fee_minor)
    if fact.available_at is not None and fact.type in _WITH_AVAILABLE_AT:
        event.available_at.CopyFrom(_timestamp(max(fact.available_at, fact.occurred_at)))
    if fact.reverses:
        extra["reverses"] = fact.reverses
    if fact.type in PAYOUT_TYPES:
        _add_bank_answer(event, fact)
    event.metadata.update(within_limits({**extra, **fact.metadata}))
    return event


def passed_on(event: ledger_pb2.ProcessorEvent) -> ledger_pb2.ProcessorEvent | None:
    """What the restaurant bears of a processor's fee that came later; None if that is nothing.

    With the fee policy `pass_through`. A fee without a restaurant is the platform's alone.
    """
    kind = _PASSED_ON.get(event.type)
    if kind is None or not event.restaurant_id:
        return None
    borne = ledger_pb2.ProcessorEvent()
    borne.CopyFrom(event)
    borne.type = kind
    borne.event_id = f"{event.event_id}:passed-on"
    if not is_id(borne.event_id):
        raise CannotBook(BAD_EVENT_ID, f"{borne.event_id[:128]!r} is too long for an event id")
    return borne


def _add_bank_answer(event: ledger_pb2.ProcessorEvent, fact: Fact) -> None:
    if is_reference(fact.bank_reference):
        event.bank_reference = fact.bank_reference
    if fact.type != ledger_pb2.EVENT_TYPE_PAYOUT_FAILED:
        return
    text = fact.failure_text
    if is_code(fact.failure_code):
        event.failure_code = fact.failure_code
    else:
        text = " ".join(part for part in (fact.failure_code, text) if part)
    event.failure_text = printable_text(text, TEXT_LENGTH_MAX)


def printable_text(text: str, length_max: int) -> str:
    """`text` with blanks for control characters, and no longer than `length_max`."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:length_max])


def within_limits(metadata: Mapping[str, str]) -> dict[str, str]:
    """The first entries that fit together, as the ledger keeps metadata and headers: for people,
    and never compared.
    """
    kept: dict[str, str] = {}
    left = METADATA_BYTES_MAX
    for key, value in metadata.items():
        size = len(key.encode()) + len(value.encode())
        if size <= left and "\x00" not in key and "\x00" not in value:
            kept[key] = value
            left -= size
    return kept


def _timestamp(instant: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return timestamp


def _within_int64(amount_minor: int) -> int:
    return max(-(2**63), min(amount_minor, 2**63 - 1))
