"""The events by which the books learn what only the report knows: costs, and settlements.

Each follows from the rows of the report alone, so that a repeat makes the same events.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from ledger.domain.money import AMOUNT_MINOR_MAX
from ledger.reconciliation.books import type_of
from ledger.reconciliation.layouts import Kind
from ledger.reconciliation.lines import ReportLine
from ledger.reconciliation.outcomes import Outcome, OutcomeKind

# A dispute's fee is the restaurant's or the platform's: a person decides.
_NOT_POSTED = frozenset({Kind.DISPUTE, Kind.DISPUTE_REVERSAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """An event to book. `type` is the word of the contract; amounts in minor units.

    Without a restaurant it belongs to the platform's own books.
    """

    event_id: str
    type: str
    restaurant_id: str
    currency: str
    amount_minor: int
    occurred_at: datetime
    reference: str
    row: int
    metadata: dict[str, str] = field(default_factory=dict)


def postings_of(outcome: Outcome) -> Iterator[Posting]:
    """What `--post` books for an outcome; nothing if a person must look at it first."""
    match outcome.kind:
        case OutcomeKind.FEE_NOT_BOOKED:
            yield from _fees_of(outcome)
        case OutcomeKind.MISSING_HERE if outcome.lines[0].kind is Kind.FEE:
            line = outcome.lines[0]
            yield from _posting(line, line.event_ids, Kind.FEE, -line.cost_minor)
        case OutcomeKind.SETTLEMENT_NOT_BOOKED if outcome.is_sure:
            line = outcome.lines[0]
            yield from _posting(line, line.event_ids, Kind.PAYOUT, line.net_minor)


def booked_before(outcome: Outcome) -> int:
    """How many events of the outcome have the ids under which `--post` books."""
    ids = {
        ids[0]
        for line in outcome.lines
        for ids in (line.event_ids if line.kind in (Kind.FEE, Kind.PAYOUT) else line.fee_ids,)
        if ids
    }
    return sum(event.event_id in ids for event in outcome.events)


def _fees_of(outcome: Outcome) -> Iterator[Posting]:
    """One for each line with a cost, in the books of the restaurant that was charged."""
    for line in outcome.lines:
        if line.cost_minor and line.kind not in _NOT_POSTED and outcome.event is not None:
            ids = line.event_ids if line.kind is Kind.FEE else line.fee_ids
            yield from _posting(line, ids, Kind.FEE, -line.cost_minor, outcome.event.restaurant_id)


def _posting(
    line: ReportLine, ids: tuple[str, ...], kind: Kind, net_minor: int, restaurant_id: str = ""
) -> Iterator[Posting]:
    is_possible = ids and line.occurred_at is not None and abs(net_minor) <= AMOUNT_MINOR_MAX
    if not is_possible or line.untied_minor or line.occurred_at is None:
        return
    yield Posting(
        event_id=ids[0],
        type=type_of(kind, net_minor),
        restaurant_id=restaurant_id,
        currency=line.currency,
        amount_minor=abs(net_minor),
        occurred_at=line.occurred_at,
        reference=line.references[0] if line.references else "",
        row=line.row,
    )
