"""What callers sent and what the server replied: the evidence for the judge."""

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum

import grpc
from google.protobuf.message import Message

from ledger.v1 import ledger_pb2, payment_pb2

# The call may or may not have been carried out.
AMBIGUOUS_CODES = {
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
}
# No fault may cause these.
FORBIDDEN_CODES = {
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNKNOWN,
}
# Charges of one digit account: their sum must stay below the largest amount.
CHARGES_PER_ACCOUNT = 20


class Reply(Enum):
    """What a caller knows about its event after one call."""

    CREATED = "created"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"  # stored with other contents
    REFUSED = "refused"  # for good: this call stored nothing
    NOT_NOW = "not now"  # the server had no room: this call stored nothing
    UNKNOWN = "unknown"  # it may or may not be stored

    @property
    def is_definite(self) -> bool:
        return self not in (Reply.UNKNOWN, Reply.NOT_NOW)


@dataclass(frozen=True, slots=True)
class Contents:
    """The fields that are compared when an event id comes again, by column."""

    type: str
    restaurant_id: str
    currency: str
    amount_minor: int
    fee_minor: int
    occurred_at: datetime
    payout_id: str
    reference: str
    available_at: datetime | None = None
    processor_fee_minor: int = 0

    @classmethod
    def of(cls, event: ledger_pb2.ProcessorEvent) -> "Contents":
        return cls(
            ledger_pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_").lower(),
            event.restaurant_id,
            event.currency,
            event.amount_minor,
            event.fee_minor,
            event.occurred_at.ToDatetime(tzinfo=UTC),
            event.payout_id,
            event.reference,
            event.available_at.ToDatetime(tzinfo=UTC) if event.HasField("available_at") else None,
            event.processor_fee_minor,
        )


@dataclass(frozen=True, slots=True)
class Call:
    """One call for one event, as its caller saw it. Instants are of the monotonic clock."""

    event_id: str
    contents: Contents
    server: str
    sent_at: float
    ended_at: float
    reply: Reply
    code: grpc.StatusCode
    transaction_id: str = ""


@dataclass(frozen=True, slots=True)
class PaymentCall:
    """One call of a payment or an operation, as its caller saw it.

    `answer` is what was decided: every definite answer to the same command has the same.
    """

    command_id: str
    contents: bytes
    reply: Reply
    code: grpc.StatusCode
    answer: bytes = b""
    is_declined: bool = False


@dataclass(slots=True)
class PaymentJournal:
    """The evidence of all payers. Commands are recorded before they are sent."""

    # By payment id, and by operation id.
    orders: dict[str, list[payment_pb2.AuthorizePaymentRequest]] = field(default_factory=dict)
    operations: dict[str, Message] = field(default_factory=dict)
    calls: list[PaymentCall] = field(default_factory=list)

    @property
    def answered(self) -> dict[str, PaymentCall]:
        """By its id the first call of each command that was decided."""
        found: dict[str, PaymentCall] = {}
        for call in self.calls:
            if call.reply in (Reply.CREATED, Reply.DUPLICATE):
                found.setdefault(call.command_id, call)
        return found

    def restored(self) -> "PaymentJournal":
        """The evidence about books restored from an earlier moment: what was sent, no answers."""
        return PaymentJournal(
            {payment_id: list(orders) for payment_id, orders in self.orders.items()},
            dict(self.operations),
        )


@dataclass(slots=True)
class Journal:
    """The evidence of all callers. Events are recorded before they are sent."""

    intents: dict[str, set[Contents]] = field(default_factory=dict)
    # The first event with each id, for repeats.
    events: list[ledger_pb2.ProcessorEvent] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    sent_at: dict[str, float] = field(default_factory=dict)
    acknowledged_at: dict[str, float] = field(default_factory=dict)
    ack_instants: list[float] = field(default_factory=list)
    # The times in which a server could always acknowledge.
    load_spans: list[tuple[float, float]] = field(default_factory=list)
    # What readers must not see, and saw.
    violations: list[str] = field(default_factory=list)
    reads: int = 0
    payments: PaymentJournal = field(default_factory=PaymentJournal)
    # Forbidden codes that the fault may cause.
    forgiven_codes: set[grpc.StatusCode] = field(default_factory=set)

    def intend(self, event: ledger_pb2.ProcessorEvent) -> None:
        """Records that an event is about to be sent."""
        contents = self.intents.setdefault(event.event_id, set())
        if not contents:
            self.events.append(event)
            self.sent_at[event.event_id] = time.monotonic()
        contents.add(Contents.of(event))

    def record(self, call: Call) -> None:
        """Records an ended call."""
        self.calls.append(call)
        if call.reply in (Reply.CREATED, Reply.DUPLICATE):
            self.acknowledged_at.setdefault(call.event_id, call.ended_at)
            self.ack_instants.append(call.ended_at)

    @property
    def longest_gap_seconds(self) -> float:
        """The longest time under load without an acknowledgement to any caller."""
        gaps = [0.0]
        for first, last in self.load_spans:
            instants = sorted(instant for instant in self.ack_instants if first <= instant <= last)
            gaps += [later - earlier for earlier, later in itertools.pairwise(instants)]
        return max(gaps)

    def restored(self, event_ids: set[str]) -> "Journal":
        """The evidence about books restored with only these events."""
        journal = Journal(payments=self.payments.restored())
        for event in self.events:
            journal.intend(event)
        journal.intents = {event_id: set(contents) for event_id, contents in self.intents.items()}
        for call in self.calls:
            if call.event_id in event_ids:
                journal.record(call)
        return journal

    @property
    def forbidden_codes(self) -> set[grpc.StatusCode]:
        """The codes that no caller may get during this fault."""
        return FORBIDDEN_CODES - self.forgiven_codes

    @property
    def codes(self) -> Counter[str]:
        """How often each status was returned."""
        return Counter(call.code.name for call in self.calls)


@dataclass(slots=True)
class DigitAccounts:
    """Restaurants whose balance shows which of their charges it counts.

    Charge n of an account has the amount 2 * 4^n and the fee 4^n, so it is worth 4^n. In base 4 the
    balance has the digit 1 for a counted charge, 0 for others, and another digit for one counted in
    part or twice.
    """

    taken: int = 0
    event_ids: dict[str, list[str]] = field(default_factory=dict)

    def next_charge(self, event_id: str) -> tuple[str, int, int]:
        """Restaurant, amount and fee of a charge that no other event has."""
        number, digit = divmod(self.taken, CHARGES_PER_ACCOUNT)
        self.taken += 1
        restaurant_id = f"digits_{number:05d}"
        self.event_ids.setdefault(restaurant_id, []).append(event_id)
        return restaurant_id, 2 * 4**digit, 4**digit

    def counted(self, restaurant_id: str, balance_minor: int) -> set[str]:
        """The ids of the events in a balance. Raises ValueError for a part of a charge."""
        counted = set()
        rest = balance_minor
        for event_id in self.event_ids[restaurant_id]:
            rest, digit = divmod(rest, 4)
            if digit not in (0, 1):
                raise ValueError(
                    f"balance {balance_minor} of {restaurant_id} counts {event_id}"
                    f" with the digit {digit}"
                )
            if digit:
                counted.add(event_id)
        if rest:
            raise ValueError(
                f"balance {balance_minor} of {restaurant_id} counts more than was ever sent"
            )
        return counted
