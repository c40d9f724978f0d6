"""Books what only a report knows, by the stream that `ledger ingest` uses."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from ledger.cli.failures import CommandFailure
from ledger.cli.ingest.batches import Batch, Line
from ledger.cli.ingest.sender import EventBatch, Outcomes, send_batches
from ledger.reconciliation.postings import Posting
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.client import Ledger

_BATCH_EVENTS = 250
_REFUSED_SHOWN_MAX = 20


@dataclass(slots=True)
class Posted:
    """What the server answered."""

    created: int = 0
    duplicates: int = 0
    refused: int = 0
    # The first refusals: the line of the report, the event, and what the server says.
    shown: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, batch: EventBatch, outcomes: Outcomes) -> None:
        """Counts the outcomes of a batch."""
        for line, outcome in zip(batch.lines, outcomes, strict=True):
            if outcome.status == ledger_pb2.INGEST_STATUS_CREATED:
                self.created += 1
            elif outcome.is_duplicate:
                self.duplicates += 1
            else:
                self.refused += 1
                if len(self.shown) < _REFUSED_SHOWN_MAX:
                    self.shown.append((line.number, outcome.event_id, str(outcome.error)))


def post(ledger: "Ledger", postings: Iterable[Posting]) -> Posted:
    """Books the postings. On repeat each is a duplicate. Raises LedgerError."""
    posted = Posted()
    send_batches(ledger, _batches(postings), posted.add)
    return posted


def _batches(postings: Iterable[Posting]) -> Iterator[EventBatch]:
    left = iter(postings)
    while part := list(islice(left, _BATCH_EVENTS)):
        yield Batch.of([Line(posting.row, event_of(posting)) for posting in part], part[-1].row)


def event_of(posting: Posting) -> ledger_pb2.ProcessorEvent:
    """The posting as the contract has it. Raises CommandFailure for an unknown type."""
    event = ledger_pb2.ProcessorEvent(
        event_id=posting.event_id,
        restaurant_id=posting.restaurant_id,
        currency=posting.currency,
        amount_minor=posting.amount_minor,
        reference=posting.reference,
    )
    try:
        event.type = ledger_pb2.EventType.Value(f"EVENT_TYPE_{posting.type.upper()}")
    except ValueError:
        raise CommandFailure(
            f"this version of the command knows no event type {posting.type}: update it"
        ) from None
    event.occurred_at.FromDatetime(posting.occurred_at)
    return event
