"""Books a batch: the events of one request, or a payout event by itself."""

from collections.abc import Sequence

import structlog

from ledger.application import attempts
from ledger.application.ingest.event_batch import EventBatch, IngestOutcome, rounds
from ledger.application.ingest.post_events import PostEvents
from ledger.domain.events import ProcessorEvent
from ledger.errors import DatabaseContention, DatabaseUnavailable

_log = structlog.get_logger("ledger.ingest")


class BookBatch:
    """Books the events of a batch together, and payout events each in its transaction.

    A batch has one caller, which waits for all of it. So a batch that meets a lock is tried again
    as a whole.
    """

    def __init__(self, post_events: PostEvents) -> None:
        self._post_events = post_events

    async def __call__(self, events: Sequence[ProcessorEvent]) -> list[IngestOutcome]:
        """Returns the outcome of each event, in their order.

        Raises DatabaseUnavailable or DatabaseContention after the last attempt, DatabaseTimeout at
        once. Events that were stored by then are duplicates when the caller sends them again.
        """
        outcomes: dict[int, IngestOutcome] = {}
        for batch in rounds(events, outcomes):
            await self._book(batch)
        return [outcomes[place] for place in range(len(events))]

    async def _book(self, batch: EventBatch) -> None:
        attempt = 1
        while True:
            try:
                await self._post_events.post(batch.postings, batch.batch_id, batch.decide)
                for payout_event in batch.payout_events:
                    batch.decide(await self._post_events.settle(payout_event, batch.batch_id))
                return
            except (DatabaseContention, DatabaseUnavailable) as error:
                attempts.log_broken_off(_log, "an attempt to book", attempt, error)
                if attempt == attempts.ATTEMPTS_MAX:
                    raise
            await attempts.back_off(attempt)
            attempt += 1
