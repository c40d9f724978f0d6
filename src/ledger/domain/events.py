"""Processor events: what they hold, when they are valid, and when two of them are the same."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, cast

from ledger.domain.balances import BalanceAccount
from ledger.domain.fields import (
    CLOCK_SKEW_MAX,
    CODE_RULE,
    ID_RULE,
    METADATA_RULE,
    REFERENCE_RULE,
    TEXT_RULE,
    is_code,
    is_id,
    is_metadata,
    is_reference,
    is_text,
)
from ledger.domain.money import (
    AMOUNT_MINOR_MAX,
    AMOUNT_RULE,
    CURRENCY_RULE,
    INT64_MAX,
    PAYOUT_AMOUNT_RULE,
    is_currency,
)
from ledger.errors import FieldViolation

OCCURRED_AT_MIN = datetime(2000, 1, 1, tzinfo=UTC)
UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# How long after `occurred_at` a processor may make money available: longer than any of them does.
AVAILABLE_AFTER_MAX = timedelta(days=400)
_OCCURRED_AT_RULE = (
    f"must be {OCCURRED_AT_MIN:%Y-%m-%d} or later, and at most"
    f" {CLOCK_SKEW_MAX // timedelta(minutes=1)} minutes in the future"
)
_AVAILABLE_AT_RULE = (
    f"must not be before occurred_at, and at most {AVAILABLE_AFTER_MAX.days} days after it"
)
_FEE_RULE = f"must be 0 to {AMOUNT_MINOR_MAX}"


class EventType(StrEnum):
    """What happened at the processor. The value is the name in the database."""

    CHARGE_SUCCEEDED = "charge_succeeded"
    REFUND_SUCCEEDED = "refund_succeeded"
    FEE_ASSESSED = "fee_assessed"
    ADJUSTMENT_CREDITED = "adjustment_credited"
    ADJUSTMENT_DEBITED = "adjustment_debited"
    DISPUTE_OPENED = "dispute_opened"
    DISPUTE_WON = "dispute_won"
    DISPUTE_LOST = "dispute_lost"
    PAYOUT_PAID = "payout_paid"
    PAYOUT_FAILED = "payout_failed"
    REFUND_FAILED = "refund_failed"
    CHARGE_REVERSED = "charge_reversed"
    FEE_REFUNDED = "fee_refunded"
    DISPUTE_FEE_REFUNDED = "dispute_fee_refunded"
    PROCESSOR_FEE_ASSESSED = "processor_fee_assessed"
    PROCESSOR_FEE_REFUNDED = "processor_fee_refunded"
    TAX_WITHHELD = "tax_withheld"
    TAX_WITHHOLDING_REVERSED = "tax_withholding_reversed"
    RESERVE_HELD = "reserve_held"
    RESERVE_RELEASED = "reserve_released"
    TOP_UP_RECEIVED = "top_up_received"
    DEBT_WRITTEN_OFF = "debt_written_off"
    PROCESSOR_SETTLED = "processor_settled"
    PROCESSOR_SETTLEMENT_DEBITED = "processor_settlement_debited"
    PAYOUT_SUBMITTED = "payout_submitted"
    PAYOUT_CANCELED = "payout_canceled"
    PAYOUT_REFERENCED = "payout_referenced"


PAYOUT_EVENT_TYPES = frozenset(
    {
        EventType.PAYOUT_PAID,
        EventType.PAYOUT_FAILED,
        EventType.PAYOUT_SUBMITTED,
        EventType.PAYOUT_CANCELED,
        EventType.PAYOUT_REFERENCED,
    }
)
# A refund's fee is kept with the event and posts nothing.
FEE_EVENT_TYPES = frozenset(
    {
        EventType.CHARGE_SUCCEEDED,
        EventType.CHARGE_REVERSED,
        EventType.DISPUTE_OPENED,
        EventType.REFUND_SUCCEEDED,
    }
)
PROCESSOR_FEE_EVENT_TYPES = frozenset(
    {EventType.CHARGE_SUCCEEDED, EventType.REFUND_SUCCEEDED, EventType.DISPUTE_OPENED}
)
# Those whose entries may become available at an instant that the processor names.
AVAILABLE_AT_EVENT_TYPES = frozenset(
    {
        EventType.CHARGE_SUCCEEDED,
        EventType.REFUND_SUCCEEDED,
        EventType.CHARGE_REVERSED,
        EventType.TAX_WITHHELD,
    }
)
# Those that belong to no restaurant, and are booked in the platform's books; and those that may.
PLATFORM_EVENT_TYPES = frozenset(
    {EventType.PROCESSOR_SETTLED, EventType.PROCESSOR_SETTLEMENT_DEBITED}
)
# Looked at for each event: a comparison takes a fifth of the time of a look-up in a set.
_SETTLED, _SETTLEMENT_DEBITED = sorted(PLATFORM_EVENT_TYPES)
OPTIONAL_RESTAURANT_EVENT_TYPES = frozenset(
    {EventType.PROCESSOR_FEE_ASSESSED, EventType.PROCESSOR_FEE_REFUNDED}
)


class ProcessorEvent(NamedTuple):
    """What the processor reported. Amounts are in minor units of `currency`.

    `occurred_at` is aware, in UTC, to the microsecond. `payout_id` and `reference` are empty when
    they are absent, and `restaurant_id` is empty if the event belongs to the platform. A tuple: a
    frozen dataclass takes four times as long to make.

    The fields with defaults came later than the others. They are part of the fingerprint and of
    seals only if one of them is set, so that those of earlier events stay valid.
    """

    event_id: str
    type: EventType
    restaurant_id: str
    currency: str
    amount_minor: int
    fee_minor: int
    occurred_at: datetime
    payout_id: str
    reference: str
    metadata: Mapping[str, str]
    available_at: datetime | None = None
    processor_fee_minor: int = 0
    bank_reference: str = ""
    failure_code: str = ""
    failure_text: str = ""

    @property
    def account(self) -> BalanceAccount:
        """The balance account that the event's entries belong to; its holder is empty if that is
        the platform.
        """
        return BalanceAccount(self.restaurant_id, self.currency)


# The fields of an event, listed once, above. Fingerprints, conflicts, seals and the columns that
# servers write follow from these two tuples.
EVENT_FIELDS = ProcessorEvent._fields
# Two events with the same id must agree on these. Metadata is not among them.
BUSINESS_FIELDS = tuple(name for name in EVENT_FIELDS if name not in ("event_id", "metadata"))
# Those that came later, with the values that stand for their absence.
LATER_DEFAULTS: Mapping[str, object] = ProcessorEvent._field_defaults
LATER_FIELDS = tuple(LATER_DEFAULTS)
FIRST_BUSINESS_FIELDS = tuple(name for name in BUSINESS_FIELDS if name not in LATER_DEFAULTS)
_LATER_FIELDS_START = len(EVENT_FIELDS) - len(LATER_FIELDS)
_LATER_ABSENT = tuple(LATER_DEFAULTS.values())


def event_violations(
    *,
    event_id: str,
    type: EventType | None,
    restaurant_id: str,
    currency: str,
    amount_minor: int,
    fee_minor: int,
    occurred_at: datetime | None,
    payout_id: str,
    reference: str,
    metadata: Mapping[str, str],
    now: datetime,
) -> list[FieldViolation]:
    """The violations of these fields, in field order; empty for a valid event.

    The later fields have `later_violations`. `type` or `occurred_at` is None if its converter has
    already reported it as invalid. Rules that depend on it are then skipped.
    """
    found: list[FieldViolation] = []
    if not is_id(event_id):
        found.append(FieldViolation("event_id", ID_RULE))
    if not is_id(restaurant_id):
        found += _restaurant_violations(restaurant_id, type)
    elif type is _SETTLED or type is _SETTLEMENT_DEBITED:
        found.append(FieldViolation("restaurant_id", "must be empty on this type of event"))
    if not is_currency(currency):
        found.append(FieldViolation("currency", CURRENCY_RULE))
    # A payout adds up many events, so it may be more than any of them.
    is_payout_event = type in PAYOUT_EVENT_TYPES
    # Without a type, only the rule that holds for all types is left.
    may_exceed_max = is_payout_event or type is None
    amount_is_valid = 1 <= amount_minor <= (INT64_MAX if may_exceed_max else AMOUNT_MINOR_MAX)
    if not amount_is_valid:
        rule = PAYOUT_AMOUNT_RULE if may_exceed_max else AMOUNT_RULE
        found.append(FieldViolation("amount_minor", rule))
    # Most fees need no closer look.
    if fee_minor and not (0 < fee_minor <= amount_minor and type in FEE_EVENT_TYPES):
        found += _fee_violations(fee_minor, type, amount_minor if amount_is_valid else None)
    if occurred_at is not None and not OCCURRED_AT_MIN <= occurred_at <= now + CLOCK_SKEW_MAX:
        found.append(FieldViolation("occurred_at", _OCCURRED_AT_RULE))
    if is_payout_event:
        if not is_id(payout_id):
            found.append(FieldViolation("payout_id", ID_RULE))
    elif payout_id and type is not None:
        found.append(FieldViolation("payout_id", "must be empty on this type of event"))
    if not is_reference(reference):
        found.append(FieldViolation("reference", REFERENCE_RULE))
    if metadata and not is_metadata(metadata):
        found.append(FieldViolation("metadata", METADATA_RULE))
    return found


def later_violations(
    *,
    type: EventType | None,
    occurred_at: datetime | None,
    available_at: datetime | None,
    processor_fee_minor: int,
    bank_reference: str,
    failure_code: str,
    failure_text: str,
) -> list[FieldViolation]:
    """The violations of the later fields, as `event_violations`.

    Apart, because most events have none of them. Without any only a reference of the bank has a
    violation: it lacks the reference.
    """
    found: list[FieldViolation] = []
    if available_at is not None:
        if type is not None and type not in AVAILABLE_AT_EVENT_TYPES:
            found.append(FieldViolation("available_at", "must be unset on this type of event"))
        elif occurred_at is not None and not (
            timedelta(0) <= available_at - occurred_at <= AVAILABLE_AFTER_MAX
        ):
            found.append(FieldViolation("available_at", _AVAILABLE_AT_RULE))
    if processor_fee_minor:
        if not 0 <= processor_fee_minor <= AMOUNT_MINOR_MAX:
            found.append(FieldViolation("processor_fee_minor", _FEE_RULE))
        elif type is not None and type not in PROCESSOR_FEE_EVENT_TYPES:
            found.append(FieldViolation("processor_fee_minor", "must be 0 on this type of event"))
    if bank_reference or failure_code or failure_text or type is EventType.PAYOUT_REFERENCED:
        found += _bank_violations(type, bank_reference, failure_code, failure_text)
    return found


def _bank_violations(
    type: EventType | None, bank_reference: str, failure_code: str, failure_text: str
) -> list[FieldViolation]:
    """Of what a bank says about a payout."""
    found: list[FieldViolation] = []
    empty = "must be empty on this type of event"
    if type is EventType.PAYOUT_REFERENCED and not bank_reference:
        found.append(FieldViolation("bank_reference", "must be set on this type of event"))
    elif not is_reference(bank_reference):
        found.append(FieldViolation("bank_reference", REFERENCE_RULE))
    elif bank_reference and type is not None and type not in PAYOUT_EVENT_TYPES:
        found.append(FieldViolation("bank_reference", empty))
    may_fail = type is None or type is EventType.PAYOUT_FAILED
    if failure_code and not (may_fail and is_code(failure_code)):
        found.append(FieldViolation("failure_code", CODE_RULE if may_fail else empty))
    if failure_text and not (may_fail and is_text(failure_text)):
        found.append(FieldViolation("failure_text", TEXT_RULE if may_fail else empty))
    return found


def _restaurant_violations(restaurant_id: str, type: EventType | None) -> list[FieldViolation]:
    """Of a restaurant id that names no restaurant."""
    if type in PLATFORM_EVENT_TYPES:
        rule = "" if not restaurant_id else "must be empty on this type of event"
    elif type in OPTIONAL_RESTAURANT_EVENT_TYPES:
        rule = "" if not restaurant_id else f"{ID_RULE}, or be empty"
    else:
        rule = ID_RULE
    return [FieldViolation("restaurant_id", rule)] if rule else []


def _fee_violations(
    fee_minor: int, type: EventType | None, amount_minor: int | None
) -> list[FieldViolation]:
    """Of a fee that is not 0. Without a valid amount there is nothing that it could exceed."""
    if type is EventType.DISPUTE_OPENED:
        # The processor's fee is the same for every dispute, however small.
        fee_max, rule = AMOUNT_MINOR_MAX, _FEE_RULE
    else:
        fee_max = fee_minor if amount_minor is None else amount_minor
        rule = "must be 0 to amount_minor"
    if not 0 <= fee_minor <= fee_max:
        return [FieldViolation("fee_minor", rule)]
    if type is not None and type not in FEE_EVENT_TYPES:
        return [FieldViolation("fee_minor", "must be 0 on this type of event")]
    return []


def microseconds(instant: datetime) -> int:
    """Microseconds since 1970-01-01T00:00:00Z. Exact: computed with integers only."""
    return (instant - UNIX_EPOCH) // _MICROSECOND


def fingerprint(event: ProcessorEvent) -> bytes:
    """SHA-256 over the business fields, 32 bytes: the same for two events if and only if they agree
    on all of them.

    Not over serialized protobuf, whose bytes are not canonical. None of the fields can hold a line
    feed, so joining by it is unambiguous. The number in front is the version of the set of fields:
    1 is without the later fields, for events on which none of these is set, 2 has them all. So
    stored fingerprints stay valid.
    """
    # Spelled out, because a loop over BUSINESS_FIELDS takes a seventh longer.
    text = (
        f"1\n{event.type}\n{event.restaurant_id}\n{event.currency}"
        f"\n{event.amount_minor}\n{event.fee_minor}\n{microseconds(event.occurred_at)}"
        f"\n{event.payout_id}\n{event.reference}"
    )
    if event[_LATER_FIELDS_START:] == _LATER_ABSENT:
        return hashlib.sha256(text.encode()).digest()
    later = [_fingerprinted(getattr(event, name)) for name in LATER_FIELDS]
    return hashlib.sha256("\n".join((f"2{text[1:]}", *later)).encode()).digest()


def _fingerprinted(value: object) -> str:
    """The text of a later field. An absent instant is empty."""
    if isinstance(value, datetime):
        return str(microseconds(value))
    return "" if value is None else str(value)


class _ReadFields(tuple[object, ...]):
    """Stands in for an event with later fields, and notes which of its fields are read."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __getattr__(self, name: str) -> datetime:
        self.names.append(name)
        return OCCURRED_AT_MIN


def _require_all_in_fingerprint() -> None:
    read = _ReadFields()
    fingerprint(cast(ProcessorEvent, read))
    if tuple(read.names) != BUSINESS_FIELDS:
        raise TypeError(f"the fingerprint is of {read.names}, not of {BUSINESS_FIELDS}")


_require_all_in_fingerprint()


def differing_fields(stored: ProcessorEvent, other: ProcessorEvent) -> list[str]:
    """The business fields in which two events differ, in the order of BUSINESS_FIELDS."""
    return [name for name in BUSINESS_FIELDS if getattr(stored, name) != getattr(other, name)]
