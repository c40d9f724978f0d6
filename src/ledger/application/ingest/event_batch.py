"""The events of a batch or a group while they are being booked, and what becomes of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

import uuid_utils.compat

from ledger.application.ports.events import Posting, StoredEvent
from ledger.domain.events import PAYOUT_EVENT_TYPES, ProcessorEvent, differing_fields, fingerprint
from ledger.domain.posting_rules import entries_of
from ledger.errors import EventIdReused, LedgerError


class IngestStatus(Enum):
    """What became of an event that was accepted."""

    CREATED = "created"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Booked:
    """An accepted event with the transaction id of its entries, which every repeat of the event is answered with."""

    status: IngestStatus
    transaction_id: UUID


# A refused event's error is told in its place; it does not touch the other events of its batch.
IngestOutcome = Booked | LedgerError


class EventBatch:
    """The events at some places of a request while they are being booked: of each id the first occurrence is the candidate."""

    def __init__(self, events: Sequence[ProcessorEvent], places: Sequence[int]) -> None:
        self.batch_id: UUID = uuid_utils.compat.uuid7()
        self.new: set[str] = set()
        self.stored: dict[str, StoredEvent] = {}
        self.refused: dict[str, LedgerError] = {}
        self._occurrences = [(place, events[place], fingerprint(events[place])) for place in places]
        self._candidates: dict[str, Posting] = {}
        for _, event, print_ in self._occurrences:
            if event.event_id not in self._candidates:
                # What a payout event posts depends on the state of its payout.
                entries = [] if event.type in PAYOUT_EVENT_TYPES else entries_of(event)
                self._candidates[event.event_id] = Posting(
                    event, print_, uuid_utils.compat.uuid7(), entries
                )

    @property
    def postings(self) -> list[Posting]:
        """What is still to be posted, sorted, so that two batches never wait for each other in opposite order."""
        return sorted(
            (posting for posting in self._pending if posting.event.type not in PAYOUT_EVENT_TYPES),
            key=lambda posting: posting.event.event_id,
        )

    @property
    def unsettled(self) -> list[Posting]:
        """The payout events that are still to be booked, in the order of the request."""
        return [posting for posting in self._pending if posting.event.type in PAYOUT_EVENT_TYPES]

    @property
    def _pending(self) -> Iterator[Posting]:
        for posting in self._candidates.values():
            if self.is_undecided(posting):
                yield posting

    def is_undecided(self, posting: Posting) -> bool:
        """Whether it is not known yet what becomes of the candidate."""
        event_id = posting.event.event_id
        return (
            event_id not in self.new
            and event_id not in self.stored
            and event_id not in self.refused
        )

    def refuse(self, posting: Posting, error: LedgerError) -> None:
        """Records that the candidate was refused, with nothing stored."""
        self.refused[posting.event.event_id] = error

    def outcomes(self) -> dict[int, IngestOutcome]:
        """What became of each place, but for those that are undecided and those that come after something else under an id whose
        candidate was refused.
        """
        outcomes: dict[int, IngestOutcome] = {}
        first: set[str] = set()
        candidate_prints: dict[str, bytes] = {}
        left: set[str] = set()
        for place, event, print_ in self._occurrences:
            event_id = event.event_id
            is_first = event_id not in first
            first.add(event_id)
            if event_id in self.refused:
                if candidate_prints.setdefault(event_id, print_) != print_:
                    left.add(event_id)
                if event_id not in left:
                    outcomes[place] = self.refused[event_id]
            elif event_id in self.new:
                outcomes[place] = self._judge(
                    event, print_, self._candidates[event_id], created=is_first
                )
            elif (stored := self.stored.get(event_id)) is not None:
                outcomes[place] = self._judge(
                    event, print_, stored, created=is_first and stored.batch_id == self.batch_id
                )
        return outcomes

    @staticmethod
    def _judge(
        event: ProcessorEvent, print_: bytes, kept: Posting | StoredEvent, *, created: bool
    ) -> IngestOutcome:
        if kept.fingerprint != print_:
            return EventIdReused(event.event_id, differing_fields(kept.event, event))
        return Booked(
            IngestStatus.CREATED if created else IngestStatus.DUPLICATE, kept.transaction_id
        )
