"""The events of a batch or a group while they are booked, and the outcome of each."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

import uuid_utils
import uuid_utils.compat

from ledger.application.ports.events import Posting, StoredEvent
from ledger.domain.events import PAYOUT_EVENT_TYPES, ProcessorEvent, differing_fields, fingerprint
from ledger.errors import EventIdReused, LedgerError


class IngestStatus(StrEnum):
    """Whether an accepted event is new."""

    CREATED = "created"
    DUPLICATE = "duplicate"


class Booked(NamedTuple):
    """An accepted event, with the transaction id of its entries: every repeat gets the same one."""

    status: IngestStatus
    transaction_id: str


# An error concerns one event of a request. The other events are booked in any case.
IngestOutcome = Booked | LedgerError

# What was decided about a candidate: the posting itself if it was stored now, the event that was
# stored before under its id, or the error if it was refused and nothing was stored.
Decision = Posting | StoredEvent | LedgerError
# By event id.
Decisions = Mapping[str, Decision]


class EventBatch:
    """The events at some places of a request. The first event with an id is the candidate for it.

    Only candidates are posted. An event that comes later with the same id is a duplicate of what is
    stored, or in conflict with it.
    """

    def __init__(self, events: Sequence[ProcessorEvent], places: Sequence[int]) -> None:
        # By it a repeated attempt recognizes the events that an earlier attempt has stored.
        self.batch_id: UUID = uuid_utils.compat.uuid7()
        self._candidates: dict[str, Posting] = {}
        self._decisions: dict[str, Decision] = {}
        # Place, event, fingerprint, and whether the event is the candidate.
        self._occurrences: list[tuple[int, ProcessorEvent, bytes, bool]] = []
        for place in places:
            event = events[place]
            event_id, event_fingerprint = event.event_id, fingerprint(event)
            is_candidate = event_id not in self._candidates
            self._occurrences.append((place, event, event_fingerprint, is_candidate))
            if is_candidate:
                transaction_id = str(uuid_utils.uuid7())
                self._candidates[event_id] = Posting(event, event_fingerprint, transaction_id)

    @property
    def postings(self) -> list[Posting]:
        """The candidates still to be posted, without payout events.

        Sorted by event id, so that two batches never wait for each other in opposite order.
        """
        return [
            posting
            for event_id, posting in sorted(self._candidates.items(), key=itemgetter(0))
            if event_id not in self._decisions and posting.event.type not in PAYOUT_EVENT_TYPES
        ]

    @property
    def payout_events(self) -> list[Posting]:
        """The payout events still to be booked, in the order of the request."""
        return [
            posting
            for event_id, posting in self._candidates.items()
            if posting.event.type in PAYOUT_EVENT_TYPES and event_id not in self._decisions
        ]

    def is_undecided(self, posting: Posting) -> bool:
        return posting.event.event_id not in self._decisions

    def decide(self, decisions: Decisions) -> None:
        """Records what was decided about some candidates."""
        self._decisions.update(decisions)

    def outcomes(self) -> dict[int, IngestOutcome]:
        """The outcome of each place, as far as it is known.

        A candidate that was refused leaves its id free. Repeats of it get the same error. The first
        event that differs from it, and all with its id that follow, have no outcome yet: they are
        the next batch. Example: three events with one id, of the amounts 5, 9 and 5:

                the id is new    5 is stored already    5 is refused
            5   CREATED          DUPLICATE              its error
            9   EventIdReused    EventIdReused          candidate of the next batch
            5   DUPLICATE        DUPLICATE              in the next batch
        """
        outcomes: dict[int, IngestOutcome] = {}
        left: set[str] = set()
        for place, event, event_fingerprint, is_candidate in self._occurrences:
            event_id = event.event_id
            decision = self._decisions.get(event_id)
            if decision is None or event_id in left:
                continue
            if isinstance(decision, LedgerError):
                if event_fingerprint == self._candidates[event_id].fingerprint:
                    outcomes[place] = decision
                else:
                    left.add(event_id)
            elif event_fingerprint != decision.fingerprint:
                outcomes[place] = EventIdReused(event_id, differing_fields(decision.event, event))
            else:
                is_created = is_candidate and self._is_new(decision)
                status = IngestStatus.CREATED if is_created else IngestStatus.DUPLICATE
                outcomes[place] = Booked(status, decision.transaction_id)
        return outcomes

    def _is_new(self, decision: Posting | StoredEvent) -> bool:
        """Whether this batch stored it: now, or in an attempt whose result was lost."""
        return isinstance(decision, Posting) or decision.batch_id == self.batch_id


def rounds(
    events: Sequence[ProcessorEvent], outcomes: dict[int, IngestOutcome]
) -> Iterator[EventBatch]:
    """Yields batches to book: one of all events, then each time one of those without outcome.

    Expects a batch to be booked before the next is requested. Fills `outcomes`, by place.
    """
    pending: Sequence[int] = range(len(events))
    while pending:
        batch = EventBatch(events, pending)
        yield batch
        outcomes.update(batch.outcomes())
        pending = [place for place in pending if place not in outcomes]
