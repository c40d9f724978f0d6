"""Processor events: what they hold, when they are valid, and when two of them are the same."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, cast

from ledger.domain.balances import BalanceAccount
from ledger.domain.fields import (
    CLOCK_SKEW_MAX,
    ID_RULE,
    METADATA_RULE,
    REFERENCE_RULE,
    is_id,
    is_metadata,
    is_reference,
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
_OCCURRED_AT_RULE = (
    f"must be {OCCURRED_AT_MIN:%Y-%m-%d} or later, and at most"
    f" {CLOCK_SKEW_MAX // timedelta(minutes=1)} minutes in the future"
)


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


PAYOUT_EVENT_TYPES = frozenset({EventType.PAYOUT_PAID, EventType.PAYOUT_FAILED})
# A refund's fee is kept with the event and posts nothing.
FEE_EVENT_TYPES = frozenset(
    {EventType.CHARGE_SUCCEEDED, EventType.DISPUTE_OPENED, EventType.REFUND_SUCCEEDED}
)


class ProcessorEvent(NamedTuple):
    """What the processor reported. Amounts are in minor units of `currency`.

    `occurred_at` is aware, in UTC, to the microsecond. `payout_id` and `reference` are empty when
    they are absent. A tuple: a frozen dataclass takes four times as long to make.
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

    @property
    def account(self) -> BalanceAccount:
        """The balance account that the event's entries belong to."""
        return BalanceAccount(self.restaurant_id, self.currency)


# The fields of an event, listed once, above. Fingerprints, conflicts, seals and the columns that
# servers write follow from these two tuples.
EVENT_FIELDS = ProcessorEvent._fields
# Two events with the same id must agree on these. Metadata is not among them.
BUSINESS_FIELDS = tuple(name for name in EVENT_FIELDS if name not in ("event_id", "metadata"))


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

    `type` or `occurred_at` is None if its converter has already reported it as invalid. Rules that
    depend on it are then skipped.
    """
    found: list[FieldViolation] = []
    if not is_id(event_id):
        found.append(FieldViolation("event_id", ID_RULE))
    if not is_id(restaurant_id):
        found.append(FieldViolation("restaurant_id", ID_RULE))
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
    # Without a valid amount there is nothing that a fee could exceed.
    if fee_minor < 0 or (amount_is_valid and fee_minor > amount_minor):
        found.append(FieldViolation("fee_minor", "must be 0 to amount_minor"))
    elif fee_minor > 0 and type is not None and type not in FEE_EVENT_TYPES:
        found.append(FieldViolation("fee_minor", "must be 0 on this type of event"))
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


def microseconds(instant: datetime) -> int:
    """Microseconds since 1970-01-01T00:00:00Z. Exact: computed with integers only."""
    return (instant - UNIX_EPOCH) // _MICROSECOND


def fingerprint(event: ProcessorEvent) -> bytes:
    """SHA-256 over the business fields, 32 bytes: the same for two events if and only if they agree
    on all of them.

    Not over serialized protobuf, whose bytes are not canonical. None of the fields can hold a line
    feed, so joining by it is unambiguous. The 1 in front is the version of the set of fields. A new
    set gets a new version, so that stored fingerprints stay valid.
    """
    # Spelled out, because a loop over BUSINESS_FIELDS takes a seventh longer.
    text = (
        f"1\n{event.type}\n{event.restaurant_id}\n{event.currency}"
        f"\n{event.amount_minor}\n{event.fee_minor}\n{microseconds(event.occurred_at)}"
        f"\n{event.payout_id}\n{event.reference}"
    )
    return hashlib.sha256(text.encode()).digest()


class _ReadFields:
    """Stands in for an event, and notes which of its fields are read."""

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
