"""The outcomes of events with one id, as the docstring of `EventBatch.outcomes` shows them."""

from datetime import UTC, datetime

import pytest
import uuid_utils.compat
from support.events import processor_event

from ledger.application.ingest.event_batch import (
    Booked,
    Decision,
    EventBatch,
    IngestOutcome,
    rounds,
)
from ledger.application.ports.events import Posting, StoredEvent
from ledger.domain.events import ProcessorEvent
from ledger.errors import EventRejected

NEW, STORED, REFUSED = "new", "stored", "refused"


def decision_of(kind: str, posting: Posting, batch: EventBatch | None = None) -> Decision:
    """The candidate is new, was stored by `batch` or an earlier one, or is refused."""
    if kind == NEW:
        return posting
    if kind == REFUSED:
        return EventRejected(posting.event.event_id)
    batch_id = batch.batch_id if batch is not None else uuid_utils.compat.uuid7()
    return StoredEvent(
        posting.event, posting.fingerprint, posting.transaction_id, batch_id, datetime.now(UTC)
    )


def in_short(outcome: IngestOutcome) -> str:
    return outcome.status.name if isinstance(outcome, Booked) else type(outcome).__name__


def three_events() -> list[ProcessorEvent]:
    """Events with one id, of the amounts 5, 9 and 5."""
    return [processor_event(event_id="e", amount_minor=amount) for amount in (5, 9, 5)]


@pytest.mark.parametrize(
    ("kind", "outcomes"),
    [
        (NEW, {0: "CREATED", 1: "EventIdReused", 2: "DUPLICATE"}),
        (STORED, {0: "DUPLICATE", 1: "EventIdReused", 2: "DUPLICATE"}),
        (REFUSED, {0: "EventRejected"}),
    ],
)
def test_candidate_decides_the_outcomes_of_its_id(kind: str, outcomes: dict[int, str]) -> None:
    """One candidate is posted; a refused one leaves its id to the first event that differs."""
    batch = EventBatch(three_events(), range(3))
    (candidate,) = batch.postings
    assert batch.outcomes() == {}
    batch.decide({"e": decision_of(kind, candidate)})
    assert batch.postings == []
    assert {place: in_short(outcome) for place, outcome in batch.outcomes().items()} == outcomes


def test_event_that_an_earlier_attempt_of_the_batch_stored_is_created() -> None:
    """The attempt is recognized by its batch id; the repeat of the event is a duplicate."""
    event = processor_event()
    batch = EventBatch([event, event], range(2))
    (candidate,) = batch.postings
    batch.decide({event.event_id: decision_of(STORED, candidate, batch)})
    assert [in_short(outcome) for outcome in batch.outcomes().values()] == ["CREATED", "DUPLICATE"]


def test_events_left_by_a_refused_candidate_are_the_next_batch() -> None:
    """The first of them is the candidate of that batch."""
    outcomes: dict[int, IngestOutcome] = {}
    candidates = []
    kinds = iter((REFUSED, NEW))
    for batch in rounds(three_events(), outcomes):
        (candidate,) = batch.postings
        candidates.append(candidate.event.amount_minor)
        batch.decide({"e": decision_of(next(kinds), candidate)})
    assert candidates == [5, 9]
    assert {place: in_short(outcome) for place, outcome in outcomes.items()} == {
        0: "EventRejected",
        1: "CREATED",
        2: "EventIdReused",
    }
