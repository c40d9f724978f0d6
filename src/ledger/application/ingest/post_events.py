"""Stores the new candidates in one transaction, and looks up the others."""

from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

import structlog
import uuid_utils

from ledger.application.halving import in_halves
from ledger.application.ingest.event_batch import Decision, Decisions
from ledger.application.ingest.repeated_facts import RepeatedFacts
from ledger.application.ingest.settle_payout import settle_payout
from ledger.application.ports.events import EventLedger, Posting, StoredEvent
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.domain.balances import BalanceAccount
from ledger.errors import (
    DataRejected,
    EventFailed,
    EventRejected,
    LedgerError,
    PayoutAnswersContradict,
    PayoutMismatch,
    PayoutMoveNotAllowed,
    PayoutNotFound,
    QueryRefused,
    RestaurantNotFound,
)

_log = structlog.get_logger("ledger.ingest")


class PostEvents:
    """Stores candidates, and decides about each: it is new, was stored before, or is refused.

    What the database refuses is tried in halves until the offender is alone, whatever the reason.
    Only contention, a timeout and the loss of the database concern all events at once.
    """

    def __init__(
        self, ledger: EventLedger, begin: UnitOfWorkFactory, facts: RepeatedFacts, *, register: bool
    ) -> None:
        """`register`: whether unknown restaurants are registered; else their events are refused."""
        self._facts = facts
        self._ledger = ledger
        self._begin = begin
        self._register = register

    async def post(
        self,
        postings: Sequence[Posting],
        batch_id: UUID,
        decide: Callable[[Decisions], None],
        *,
        lock_wait_seconds: float | None = None,
    ) -> None:
        """Posts `postings` step by step until all are decided. `decide` gets what a step decided.

        1. Insert: stores those that are new.
        2. Look up the others, in a separate SQL statement: it sees what the first one waited for.
        3. Those in neither result have no balance account yet: open it. Not earlier, so that a
           duplicate or a conflict registers no restaurant.
        4. Insert and look up once more.

        Waits for a lock for `lock_wait_seconds`; None: as long as the ledger does. Raises
        DatabaseUnavailable, DatabaseContention and DatabaseTimeout. What was stored by then without
        being reported is found by posting again with the same `batch_id`.
        """
        if not postings:
            return
        undecided = postings
        for step in (
            self._insert,
            self._look_up,
            self._open_accounts,
            self._insert,
            self._look_up,
            self._fail,
        ):
            decisions: dict[str, Decision] = {}
            try:
                await step(undecided, batch_id, lock_wait_seconds, decisions)
            finally:
                # Also when a step breaks off: what it has decided need not be decided again.
                decide(decisions)
            if len(decisions) == len(undecided):
                return
            undecided = [
                posting for posting in undecided if posting.event.event_id not in decisions
            ]

    async def settle(self, posting: Posting, batch_id: UUID) -> Decisions:
        """Books a payout event in a transaction by itself. Raises as `post` does."""
        event = posting.event
        try:
            is_new = await settle_payout(self._begin, posting, batch_id)
        except (PayoutNotFound, PayoutMismatch, PayoutMoveNotAllowed) as error:
            return {event.event_id: error}
        except PayoutAnswersContradict as error:
            # A person has to ask the bank, and the books have no trace of the refused answer.
            _log.warning(
                "answers of the bank contradict each other",
                payout_id=error.payout_id,
                payout_state=error.state,
                event_id=error.event_id,
                booked_event_id=error.booked_event_id,
            )
            return {event.event_id: error}
        except (DataRejected, QueryRefused) as error:
            return {event.event_id: _refused(posting, error)}
        if is_new:
            return {event.event_id: posting}
        decisions: dict[str, Decision] = {}
        await self._look_up([posting], batch_id, None, decisions)
        return decisions

    async def _insert(
        self,
        postings: Sequence[Posting],
        batch_id: UUID,
        lock_wait_seconds: float | None,
        decisions: dict[str, Decision],
    ) -> None:
        """Stores what is new, in one transaction, or in several if offenders must be left out."""

        def decide(part: Sequence[Posting], stored: dict[str, Posting] | LedgerError) -> None:
            if isinstance(stored, LedgerError):
                decisions[part[0].event.event_id] = _refused(part[0], stored)
            else:
                decisions.update(stored)

        insert = partial(self._insert_part, batch_id, lock_wait_seconds)
        await in_halves(insert, postings, on_part=decide)

    async def _insert_part(
        self, batch_id: UUID, lock_wait_seconds: float | None, postings: Sequence[Posting]
    ) -> dict[str, Posting]:
        new = await self._ledger.insert(postings, batch_id, lock_wait_seconds=lock_wait_seconds)
        stored = {
            posting.event.event_id: posting for posting in postings if posting.event.event_id in new
        }
        self._facts.booked(posting.event for posting in stored.values())
        return stored

    async def _look_up(
        self,
        postings: Sequence[Posting],
        _batch_id: UUID,
        _lock_wait_seconds: float | None,
        decisions: dict[str, Decision],
    ) -> None:
        """Finds the stored events. Fails those that the database cannot read."""

        async def look_up(part: Sequence[Posting]) -> dict[str, StoredEvent]:
            event_ids = [posting.event.event_id for posting in part]
            return await self._ledger.stored(event_ids, once_safe=True)

        def decide(part: Sequence[Posting], stored: dict[str, StoredEvent] | LedgerError) -> None:
            if isinstance(stored, LedgerError):
                cause = repr(stored.__cause__ or stored)
                decisions[part[0].event.event_id] = _failed(part[0], cause)
            else:
                decisions.update(stored)

        await in_halves(look_up, postings, on_part=decide)

    async def _open_accounts(
        self,
        postings: Sequence[Posting],
        _batch_id: UUID,
        lock_wait_seconds: float | None,
        decisions: dict[str, Decision],
    ) -> None:
        """Opens the balance accounts; refuses postings whose account cannot be opened."""

        async def open_accounts(accounts: Sequence[BalanceAccount]) -> set[str]:
            return await self._ledger.open_accounts(
                accounts, register=self._register, lock_wait_seconds=lock_wait_seconds
            )

        accounts = sorted({posting.event.account for posting in postings})
        unknown: set[str] = set()
        refused: dict[BalanceAccount, LedgerError] = {}
        for part, result in await in_halves(open_accounts, accounts):
            if isinstance(result, LedgerError):
                refused[part[0]] = result
            else:
                unknown |= result
        for posting in postings:
            event = posting.event
            if event.restaurant_id in unknown:
                decisions[event.event_id] = RestaurantNotFound(event.restaurant_id)
            elif posting.event.account in refused:
                decisions[event.event_id] = _refused(posting, refused[posting.event.account])

    async def _fail(
        self,
        postings: Sequence[Posting],
        _batch_id: UUID,
        _lock_wait_seconds: float | None,
        decisions: dict[str, Decision],
    ) -> None:
        """The last step. The steps before should have decided all postings."""
        cause = "it was not stored, although its balance account is open"
        for posting in postings:
            decisions[posting.event.event_id] = _failed(posting, cause)


def _refused(posting: Posting, error: LedgerError) -> EventRejected | EventFailed:
    """The error for the caller; the log has what the database said."""
    cause = repr(error.__cause__ or error)
    if isinstance(error, QueryRefused):
        return _failed(posting, cause)
    event_id = posting.event.event_id
    _log.error("the database refused an event as data", event_id=event_id, cause=cause)
    return EventRejected(event_id)


def _failed(posting: Posting, cause: str) -> EventFailed:
    """The error for the caller; the log has the cause under the same error id."""
    failed = EventFailed(posting.event.event_id, uuid_utils.uuid7().hex)
    _log.error(
        "an event failed unexpectedly",
        event_id=failed.event_id,
        error_id=failed.error_id,
        cause=cause,
    )
    return failed
