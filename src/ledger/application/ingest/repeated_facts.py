"""Counts events that report the same fact as another recent event, under another id."""

from collections.abc import Callable, Iterable

from ledger.domain.events import ProcessorEvent

# How many facts are remembered, the latest ones: some 4 MiB, and at 1,000 events a second the last
# 20 seconds. The audit compares all booked events.
FACTS_MAX = 20_000


class RepeatedFacts:
    """The facts of the events that this process has booked last.

    Ignores events without a reference: two of them may be alike and report two facts.
    """

    def __init__(self, on_repeated: Callable[[int], None]) -> None:
        """`on_repeated` gets how many events of a group report the fact of another event."""
        self._on_repeated = on_repeated
        # By the hash of the fact, the event that reported it last.
        self._event_ids: dict[int, str] = {}

    def booked(self, events: Iterable[ProcessorEvent]) -> None:
        """Records newly booked events. An event may be given twice."""
        seen = self._event_ids
        repeated = 0
        for event in events:
            if event.reference:
                fact = hash(
                    (
                        event.type,
                        event.reference,
                        event.amount_minor,
                        event.restaurant_id,
                        event.currency,
                    )
                )
                event_id = seen.pop(fact, event.event_id)
                repeated += event_id != event.event_id
                seen[fact] = event.event_id
        while len(seen) > FACTS_MAX:
            del seen[next(iter(seen))]
        if repeated:
            self._on_repeated(repeated)
