"""What a reconciliation needs of the books, and what each event moved at the processor."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

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
        own = self.fee_minor if self.type == "dispute_opened" else 0
        return own + self.processor_fee_minor

    @property
    def net_minor(self) -> int:
        """What it moved at the processor."""
        return self.gross_minor - self.cost_minor


# The sign of what an event moved at the processor. Other types moved nothing there.
SIGNS = {
    "charge_succeeded": 1,
    "charge_reversed": -1,
    "refund_succeeded": -1,
    "refund_failed": 1,
    "dispute_opened": -1,
    "dispute_won": 1,
    "dispute_fee_refunded": 1,
    "processor_fee_assessed": -1,
    "processor_fee_refunded": 1,
    "tax_withheld": -1,
    "tax_withholding_reversed": 1,
    "reserve_held": -1,
    "reserve_released": 1,
    "processor_settled": -1,
    "processor_settlement_debited": 1,
}

# An event of these types that no line of the report stands for is missing there. Taxes and reserves
# may be the platform's own, and settlements are compared with the payouts of the report.
EXPECTED_TYPES = (
    "charge_succeeded",
    "charge_reversed",
    "refund_succeeded",
    "refund_failed",
    "dispute_opened",
    "dispute_won",
    "dispute_fee_refunded",
    "processor_fee_assessed",
    "processor_fee_refunded",
)

# The types of event that a line may stand for: for a credit, and for a debit.
_TYPES = {
    Kind.CHARGE: ("charge_succeeded", "charge_succeeded"),
    Kind.CHARGE_REVERSAL: ("charge_reversed", "charge_reversed"),
    Kind.REFUND: ("refund_succeeded", "refund_succeeded"),
    Kind.REFUND_REVERSAL: ("refund_failed", "refund_failed"),
    Kind.DISPUTE: ("dispute_opened", "dispute_opened"),
    Kind.DISPUTE_REVERSAL: ("dispute_won", "dispute_won"),
    Kind.FEE: ("processor_fee_refunded", "processor_fee_assessed"),
    Kind.TAX: ("tax_withholding_reversed", "tax_withheld"),
    Kind.RESERVE: ("reserve_released", "reserve_held"),
    # The platform's bank account gets what a payout debits at the processor.
    Kind.PAYOUT: ("processor_settlement_debited", "processor_settled"),
}
# Events that are a fee and nothing else. A fee that came back with a dispute is the restaurant's.
FEE_TYPES = ("processor_fee_assessed", "processor_fee_refunded", "dispute_fee_refunded")


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
