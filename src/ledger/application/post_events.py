"""Stores the events of a batch: what is new in one transaction, and what was there before is looked up."""

from collections.abc import Sequence

import structlog

from ledger.application.event_batch import EventBatch
from ledger.application.ports import EventLedger, Posting, UnitOfWorkFactory
from ledger.application.settle_payout import settle_payout
from ledger.errors import (
    DataRejected,
    EventRejected,
    PayoutMismatch,
    PayoutMoveNotAllowed,
    PayoutNotFound,
    RestaurantNotFound,
)

_log = structlog.get_logger("ledger.ingest")


class PostEvents:
    """Tells a batch what has become of its candidates: they are new, were stored before, or are refused."""

    def __init__(self, ledger: EventLedger, begin: UnitOfWorkFactory, *, register: bool) -> None:
        """`register` says whether a restaurant that is not known is registered, or its events refused."""
        self._ledger = ledger
        self._begin = begin
        self._register = register

    async def post(self, batch: EventBatch, postings: Sequence[Posting], lock_wait_seconds: float | None = None) -> None:
        """Stores what is new of `postings`, and looks up what was there before: a later statement, which sees what the first
        waited for.

        A lock is waited for as long as the ledger does, or `lock_wait_seconds`. Raises DatabaseUnavailable,
        DatabaseContention and DatabaseTimeout; what was stored by then can be learnt by posting the same batch again.
        """
        missing = await self._insert(batch, postings, lock_wait_seconds)
        if not missing:
            return
        batch.stored.update(await self._ledger.stored([posting.event.event_id for posting in missing], once_safe=True))
        missing = [posting for posting in missing if posting.event.event_id not in batch.stored]
        if not missing:
            return
        # In neither answer: there is no balance account yet. Only now, so that a duplicate or a conflict registers nobody.
        await self._open_accounts(batch, missing, lock_wait_seconds)
        missing = [posting for posting in missing if posting.event.event_id not in batch.refused]
        missing = await self._insert(batch, missing, lock_wait_seconds)
        if missing:
            event_ids = [posting.event.event_id for posting in missing]
            batch.stored.update(await self._ledger.stored(event_ids, once_safe=True))
            if any(event_id not in batch.stored for event_id in event_ids):
                raise RuntimeError("the database neither stored an event nor had it, although its balance account is open")

    async def settle(self, batch: EventBatch) -> None:
        """Books the payout events, each in a transaction of its own, in the order of the request. Raises as `post` does."""
        for posting in batch.unsettled:
            event = posting.event
            try:
                new = await settle_payout(self._begin, event, posting.fingerprint, posting.transaction_id, batch.batch_id)
            except (PayoutNotFound, PayoutMismatch, PayoutMoveNotAllowed) as error:
                batch.refuse(posting, error)
            except DataRejected as error:
                batch.refuse(posting, _rejected(posting, error))
            else:
                if new:
                    batch.new.add(event.event_id)
                else:
                    batch.stored.update(await self._ledger.stored([event.event_id], once_safe=True))

    async def _insert(self, batch: EventBatch, postings: Sequence[Posting], lock_wait_seconds: float | None) -> list[Posting]:
        """Stores `postings` in one transaction, or in more if an offender must be left out. Returns those that were not new."""
        if not postings:
            return []
        try:
            new = await self._ledger.insert(postings, batch.batch_id, lock_wait_seconds=lock_wait_seconds)
        except DataRejected as error:
            if len(postings) == 1:
                batch.refuse(postings[0], _rejected(postings[0], error))
                return []
            middle = len(postings) // 2
            first = await self._insert(batch, postings[:middle], lock_wait_seconds)
            return first + await self._insert(batch, postings[middle:], lock_wait_seconds)
        batch.new.update(new)
        return [posting for posting in postings if posting.event.event_id not in new]

    async def _open_accounts(self, batch: EventBatch, postings: Sequence[Posting], lock_wait_seconds: float | None) -> None:
        """Opens the balance accounts that `postings` need, and refuses those of unknown restaurants if it is set so."""
        accounts = sorted({posting.account for posting in postings})
        try:
            unknown = await self._ledger.open_accounts(accounts, register=self._register, lock_wait_seconds=lock_wait_seconds)
        except DataRejected as error:
            if len(accounts) == 1:
                for posting in postings:
                    batch.refuse(posting, _rejected(posting, error))
                return
            middle = set(accounts[: len(accounts) // 2])
            for inside in (True, False):
                half = [posting for posting in postings if (posting.account in middle) is inside]
                await self._open_accounts(batch, half, lock_wait_seconds)
            return
        for posting in postings:
            if posting.event.restaurant_id in unknown:
                batch.refuse(posting, RestaurantNotFound(posting.event.restaurant_id))


def _rejected(posting: Posting, error: DataRejected) -> EventRejected:
    """What the caller is told; the log has what the database said."""
    event_id = posting.event.event_id
    _log.error("the database refused an event as data", event_id=event_id, cause=repr(error.__cause__ or error))
    return EventRejected(event_id)
