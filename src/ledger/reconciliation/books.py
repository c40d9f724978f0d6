"""What a reconciliation needs of the books, and what each event moved at the processor."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ledger.domain.events import EventType
from ledger.reconciliation.layouts import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class BookEvent:
    """An event of the books. `type` is the word of the contract in lower case."""

    event_id: str
    type: str
    restaurant_id: str
    currency: str
    amount_minor: int
    fee_minor: int
    processor_fee_minor: int
    occurred_at: datetime
    reference: str

    @property
    def gross_minor(self) -> int:
        """What it moved at the processor, without fees: positive is a credit."""
        return 0 if self.type in FEE_TYPES else SIGNS.get(self.type, 0) * self.amount_minor

    @property
    def cost_minor(self) -> int:
        """What the processor took for it. A dispute's fee is the processor's; a charge's is not."""
        if self.type in FEE_TYPES:
            return -SIGNS[self.type] * self.amount_minor
        own = self.fee_minor if self.type == EventType.DISPUTE_OPENED else 0
        return own + self.processor_fee_minor

    @property
    def net_minor(self) -> int:
        """What it moved at the processor."""
        return self.gross_minor - self.cost_minor


# The sign of what an event moved at the processor. Other types moved nothing there.
SIGNS: dict[str, int] = {
    EventType.CHARGE_SUCCEEDED: 1,
    EventType.CHARGE_REVERSED: -1,
    EventType.REFUND_SUCCEEDED: -1,
    EventType.REFUND_FAILED: 1,
    EventType.DISPUTE_OPENED: -1,
    EventType.DISPUTE_WON: 1,
    EventType.DISPUTE_FEE_REFUNDED: 1,
    EventType.PROCESSOR_FEE_ASSESSED: -1,
    EventType.PROCESSOR_FEE_REFUNDED: 1,
    EventType.TAX_WITHHELD: -1,
    EventType.TAX_WITHHOLDING_REVERSED: 1,
    EventType.RESERVE_HELD: -1,
    EventType.RESERVE_RELEASED: 1,
    EventType.PROCESSOR_SETTLED: -1,
    EventType.PROCESSOR_SETTLEMENT_DEBITED: 1,
}

# An event of these types that no line of the report stands for is missing there. Taxes and reserves
# may be the platform's own, and settlements are compared with the payouts of the report.
EXPECTED_TYPES: tuple[str, ...] = (
    EventType.CHARGE_SUCCEEDED,
    EventType.CHARGE_REVERSED,
    EventType.REFUND_SUCCEEDED,
    EventType.REFUND_FAILED,
    EventType.DISPUTE_OPENED,
    EventType.DISPUTE_WON,
    EventType.DISPUTE_FEE_REFUNDED,
    EventType.PROCESSOR_FEE_ASSESSED,
    EventType.PROCESSOR_FEE_REFUNDED,
)

# The types of event that a line may stand for: for a credit, and for a debit.
_TYPES: dict[Kind, tuple[str, str]] = {
    Kind.CHARGE: (EventType.CHARGE_SUCCEEDED, EventType.CHARGE_SUCCEEDED),
    Kind.CHARGE_REVERSAL: (EventType.CHARGE_REVERSED, EventType.CHARGE_REVERSED),
    Kind.REFUND: (EventType.REFUND_SUCCEEDED, EventType.REFUND_SUCCEEDED),
    Kind.REFUND_REVERSAL: (EventType.REFUND_FAILED, EventType.REFUND_FAILED),
    Kind.DISPUTE: (EventType.DISPUTE_OPENED, EventType.DISPUTE_OPENED),
    Kind.DISPUTE_REVERSAL: (EventType.DISPUTE_WON, EventType.DISPUTE_WON),
    Kind.FEE: (EventType.PROCESSOR_FEE_REFUNDED, EventType.PROCESSOR_FEE_ASSESSED),
    Kind.TAX: (EventType.TAX_WITHHOLDING_REVERSED, EventType.TAX_WITHHELD),
    Kind.RESERVE: (EventType.RESERVE_RELEASED, EventType.RESERVE_HELD),
    # The platform's bank account gets what a payout debits at the processor.
    Kind.PAYOUT: (EventType.PROCESSOR_SETTLEMENT_DEBITED, EventType.PROCESSOR_SETTLED),
}
# Events that are a fee and nothing else. A fee that came back with a dispute is the restaurant's.
FEE_TYPES: tuple[str, ...] = (
    EventType.PROCESSOR_FEE_ASSESSED,
    EventType.PROCESSOR_FEE_REFUNDED,
    EventType.DISPUTE_FEE_REFUNDED,
)


def type_of(kind: Kind, net_minor: int) -> str:
    """The type of event that a line of this kind stands for; empty if there is none."""
    credit, debit = _TYPES.get(kind, ("", ""))
    return credit if net_minor > 0 else debit


class Books(Protocol):
    """The books, as far as a reconciliation reads them."""

    def find(self, event_ids: Sequence[str]) -> Iterable[BookEvent]:
        """The events with these ids, those that there are, in any order."""
        ...

    def find_by_reference(self, reference: str) -> Iterable[BookEvent]:
        """The events with this reference; empty if the books cannot be asked by reference."""
        ...

    def in_period(
        self, start_at: datetime, end_at: datetime, currencies: Sequence[str], prefix: str
    ) -> Iterator[BookEvent] | None:
        """The events of [start_at, end_at) by `occurred_at` whose ids begin with `prefix`.

        None if the books cannot be asked by period.
        """
        ...


class NoBooks:
    """Books without events."""

    def find(self, event_ids: Sequence[str]) -> Iterable[BookEvent]:  # noqa: ARG002
        return ()

    def find_by_reference(self, reference: str) -> Iterable[BookEvent]:  # noqa: ARG002
        return ()

    def in_period(
        self,
        start_at: datetime,  # noqa: ARG002
        end_at: datetime,  # noqa: ARG002
        currencies: Sequence[str],  # noqa: ARG002
        prefix: str,  # noqa: ARG002
    ) -> Iterator[BookEvent] | None:
        return iter(())
