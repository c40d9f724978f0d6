"""Facts that events with two ids report are counted, and nothing else is."""

from support.events import processor_event

from ledger.application.ingest import repeated_facts
from ledger.application.ingest.repeated_facts import RepeatedFacts
from ledger.domain.events import EventType


def test_fact_under_two_ids_is_counted() -> None:
    """Type, reference, amount, restaurant and currency are equal and the ids are not."""
    repeated: list[int] = []
    facts = RepeatedFacts(repeated.append)
    first = processor_event(reference="pay_1")
    facts.booked([first, first])
    facts.booked([processor_event(), processor_event(), processor_event(reference="pay_2")])
    facts.booked(
        [
            processor_event(reference="pay_1", amount_minor=9),
            processor_event(reference="pay_1", currency="USD"),
        ]
    )
    facts.booked([processor_event(EventType.REFUND_SUCCEEDED, reference="pay_1")])
    assert repeated == []
    facts.booked(
        [
            processor_event(reference="pay_1"),
            processor_event(EventType.REFUND_SUCCEEDED, reference="pay_1"),
        ]
    )
    assert repeated == [2]


def test_only_the_latest_facts_are_remembered() -> None:
    """However many events there are."""
    repeated: list[int] = []
    facts = RepeatedFacts(repeated.append)
    facts.booked([processor_event(reference="first")])
    facts.booked(
        processor_event(reference=f"pay_{number}") for number in range(repeated_facts.FACTS_MAX)
    )
    facts.booked([processor_event(reference="first")])
    assert repeated == []
