"""Books a group: single calls that came at the same time."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import structlog

from ledger.application import attempts
from ledger.application.ingest.contended_groups import ContendedGroups
from ledger.application.ingest.event_batch import EventBatch, IngestOutcome, rounds
from ledger.application.ingest.post_events import PostEvents
from ledger.domain.events import ProcessorEvent
from ledger.errors import DatabaseContention, DatabaseUnavailable

_log = structlog.get_logger("ledger.ingest")


class SingleCall(NamedTuple):
    """A call with one event, and the future that its caller awaits."""

    event: ProcessorEvent
    outcome: asyncio.Future[IngestOutcome]


class BookGroup:
    """Books the events of a group together, in parts if some of them are locked.

    A group has many callers. If it meets a lock, most of them need not wait for it: each call gets
    its outcome as soon as its event is decided.
    """

    def __init__(self, post_events: PostEvents, *, groups_at_once_max: int) -> None:
        self._post_events = post_events
        self._contended = ContendedGroups(post_events, groups_at_once_max=groups_at_once_max)

    async def __call__(self, calls: Sequence[SingleCall]) -> tuple[list[IngestOutcome], bool]:
        """Returns the outcome of each call, in their order, and whether the group waited for locks.

        None of the events may be a payout event. Raises DatabaseUnavailable after the last attempt,
        DatabaseTimeout at once, DatabaseContention if an event is still locked after
        CONTENTION_SECONDS or the group must make room. The error is for calls without outcome.
        """
        waited_for_locks = False
        outcomes: dict[int, IngestOutcome] = {}
        for batch in rounds([call.event for call in calls], outcomes):
            waited_for_locks |= await self._book(batch, calls)
        return [outcomes[place] for place in range(len(calls))], waited_for_locks

    async def _book(self, batch: EventBatch, calls: Sequence[SingleCall]) -> bool:
        """Returns whether the batch waited for locks, and so was booked in parts."""
        in_parts_until: float | None = None
        attempt = 1
        while True:
            try:
                if in_parts_until is None:
                    await self._post_events.post(batch.postings, batch.batch_id, batch.decide)
                else:
                    on_decided = partial(_set_outcomes, batch, calls)
                    await self._contended.post(batch, on_decided, in_parts_until)
                return in_parts_until is not None
            except DatabaseContention as error:
                attempts.log_broken_off(_log, "an attempt to book", attempt, error)
                if in_parts_until is not None:
                    raise
                in_parts_until = self._contended.until()
                continue
            except DatabaseUnavailable as error:
                attempts.log_broken_off(_log, "an attempt to book", attempt, error)
                if attempt == attempts.ATTEMPTS_MAX:
                    raise
            await attempts.back_off(attempt)
            attempt += 1


def _set_outcomes(batch: EventBatch, calls: Sequence[SingleCall]) -> None:
    """Sets the outcomes that are known. Their callers need not wait for the end of the group."""
    for place, outcome in batch.outcomes().items():
        if not calls[place].outcome.done():
            calls[place].outcome.set_result(outcome)
