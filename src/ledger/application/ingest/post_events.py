"""Stores the events of a batch: what is new in one transaction, and what was there before is looked up."""

from collections.abc import Sequence

import structlog
import uuid_utils

from ledger.application.ingest.event_batch import EventBatch
from ledger.application.ingest.repeated_facts import RepeatedFacts
from ledger.application.ingest.settle_payout import settle_payout
from ledger.application.ports.events import EventLedger, Posting
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.errors import (
    DataRejected,
    EventFailed,
    EventRejected,
    PayoutAnswersContradict,
    PayoutMismatch,
    PayoutMoveNotAllowed,
    PayoutNotFound,
    RestaurantNotFound,
    StatementRefused,
)

_log = structlog.get_logger("ledger.ingest")


class PostEvents:
    """Tells a batch what has become of its candidates: they are new, were stored before, or are refused.

    What the database refuses is tried in halves until the offender stands alone, whatever the reason: at most twice as many
    statements as there are events. Only contention, a timeout and the loss of the database concern all events at once.
    """

    def __init__(
        self, ledger: EventLedger, begin: UnitOfWorkFactory, facts: RepeatedFacts, *, register: bool
    ) -> None:
        """`register` says whether a restaurant that is not known is registered, or its events refused."""
        self._facts = facts
        self._ledger = ledger
        self._begin = begin
        self._register = register

    async def post(
        self, batch: EventBatch, postings: Sequence[Posting], lock_wait_seconds: float | None = None
    ) -> None:
        """Stores what is new of `postings`, and looks up what was there before: a later statement, which sees what the first
        waited for.

        A lock is waited for as long as the ledger does, or `lock_wait_seconds`. Raises DatabaseUnavailable,
        DatabaseContention and DatabaseTimeout; what was stored by then can be learnt by posting the same batch again.
        """
        missing = await self._insert(batch, postings, lock_wait_seconds)
        if not missing:
            return
        await self._look_up(batch, missing)
        missing = [posting for posting in missing if batch.is_undecided(posting)]
        if not missing:
            return
        # In neither answer: there is no balance account yet. Only now, so that a duplicate or a conflict registers nobody.
        await self._open_accounts(batch, missing, lock_wait_seconds)
        missing = [posting for posting in missing if batch.is_undecided(posting)]
        missing = await self._insert(batch, missing, lock_wait_seconds)
        if missing:
            await self._look_up(batch, missing)
            for posting in missing:
                if batch.is_undecided(posting):
                    batch.refuse(
                        posting,
                        _failed(posting, "it was not stored, although its balance account is open"),
                    )

    async def settle(self, batch: EventBatch) -> None:
        """Books the payout events, each in a transaction of its own, in the order of the request. Raises as `post` does."""
        for posting in batch.unsettled:
            event = posting.event
            try:
                new = await settle_payout(self._begin, posting, batch.batch_id)
            except (PayoutNotFound, PayoutMismatch, PayoutMoveNotAllowed) as error:
                batch.refuse(posting, error)
            except PayoutAnswersContradict as error:
                # A person has to ask the bank, and would find nothing in the books.
                _log.warning(
                    "answers of the bank contradict each other",
                    payout_id=error.payout_id,
                    payout_state=error.state,
                    event_id=error.event_id,
                    booked_event_id=error.booked_event_id,
                )
                batch.refuse(posting, error)
            except (DataRejected, StatementRefused) as error:
                batch.refuse(posting, _refused(posting, error))
            else:
                if new:
                    batch.new.add(event.event_id)
                else:
                    await self._look_up(batch, [posting])

    async def _insert(
        self, batch: EventBatch, postings: Sequence[Posting], lock_wait_seconds: float | None
    ) -> list[Posting]:
        """Stores `postings` in one transaction, or in more if an offender must be left out. Returns those that were not new."""
        if not postings:
            return []
        try:
            new = await self._ledger.insert(
                postings, batch.batch_id, lock_wait_seconds=lock_wait_seconds
            )
        except (DataRejected, StatementRefused) as error:
            if len(postings) == 1:
                batch.refuse(postings[0], _refused(postings[0], error))
                return []
            middle = len(postings) // 2
            first = await self._insert(batch, postings[:middle], lock_wait_seconds)
            return first + await self._insert(batch, postings[middle:], lock_wait_seconds)
        batch.new.update(new)
        self._facts.booked(posting.event for posting in postings if posting.event.event_id in new)
        return [posting for posting in postings if posting.event.event_id not in new]

    async def _look_up(self, batch: EventBatch, postings: Sequence[Posting]) -> None:
        """Tells `batch` which of `postings` are stored, and refuses those that the database cannot read."""
        try:
            batch.stored.update(
                await self._ledger.stored(
                    [posting.event.event_id for posting in postings], once_safe=True
                )
            )
        except (DataRejected, StatementRefused) as error:
            if len(postings) == 1:
                batch.refuse(postings[0], _failed(postings[0], repr(error.__cause__ or error)))
                return
            middle = len(postings) // 2
            await self._look_up(batch, postings[:middle])
            await self._look_up(batch, postings[middle:])

    async def _open_accounts(
        self, batch: EventBatch, postings: Sequence[Posting], lock_wait_seconds: float | None
    ) -> None:
        """Opens the balance accounts that `postings` need, and refuses those of unknown restaurants if it is set so."""
        accounts = sorted({posting.event.account for posting in postings})
        try:
            unknown = await self._ledger.open_accounts(
                accounts, register=self._register, lock_wait_seconds=lock_wait_seconds
            )
        except (DataRejected, StatementRefused) as error:
            if len(accounts) == 1:
                for posting in postings:
                    batch.refuse(posting, _refused(posting, error))
                return
            middle = set(accounts[: len(accounts) // 2])
            for inside in (True, False):
                half = [
                    posting for posting in postings if (posting.event.account in middle) is inside
                ]
                await self._open_accounts(batch, half, lock_wait_seconds)
            return
        for posting in postings:
            if posting.event.restaurant_id in unknown:
                batch.refuse(posting, RestaurantNotFound(posting.event.restaurant_id))


def _refused(
    posting: Posting, error: DataRejected | StatementRefused
) -> EventRejected | EventFailed:
    """The error for the caller; the log has what the database said."""
    cause = repr(error.__cause__ or error)
    if isinstance(error, StatementRefused):
        return _failed(posting, cause)
    event_id = posting.event.event_id
    _log.error("the database refused an event as data", event_id=event_id, cause=cause)
    return EventRejected(event_id)


def _failed(posting: Posting, cause: str) -> EventFailed:
    """The error for the caller of an event that failed for a reason nobody foresaw."""
    failed = EventFailed(posting.event.event_id, uuid_utils.uuid7().hex)
    _log.error(
        "an event failed unexpectedly",
        event_id=failed.event_id,
        error_id=failed.error_id,
        cause=cause,
    )
    return failed
