"""The use case of the IngestEvent calls, called as the api calls it."""

from collections.abc import Sequence

from ledger.application.ingest.event_batch import IngestOutcome
from ledger.application.ingest.ingest_events import IngestEvents
from ledger.domain.events import ProcessorEvent


class Booking:
    """Admits events and books them."""

    def __init__(self, ingest_events: IngestEvents) -> None:
        self.ingest_events = ingest_events

    async def __call__(
        self,
        events: Sequence[ProcessorEvent],
        *,
        size_bytes: int = 0,
        seconds_left: float | None = None,
    ) -> list[IngestOutcome]:
        admission = self.ingest_events.admit(len(events), size_bytes, seconds_left)
        return await self.ingest_events(events, admission, size_bytes=size_bytes)

    async def close(self) -> None:
        await self.ingest_events.close()
