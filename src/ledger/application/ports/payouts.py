"""Payout runs, payouts, and the bank's answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from ledger.application.ports.events import Posting
from ledger.application.ports.pages import CreationPlace
from ledger.domain.events import ProcessorEvent
from ledger.domain.payout_states import PayoutState
from ledger.domain.payouts import (
    Payout,
    PayoutAnswer,
    PayoutDetails,
    PayoutRun,
    PayoutRunItem,
    PayoutRunItemOutcome,
    PayoutRunKey,
    PayoutRunState,
    PayoutSubmission,
    SubmissionCandidate,
    SubmissionRequest,
)
from ledger.domain.posting_rules import PostingRule

# By currency and state, how many payouts the bank has not answered, and the age of the oldest one
# in seconds.
Unanswered = Mapping[tuple[str, PayoutState], tuple[int, float]]


@dataclass(frozen=True, slots=True)
class PayoutQuery:
    """Which payouts to list; None is any, and so are no `states`.

    `start_at` and `end_at` bound their creation. `unanswered_since`: those that the bank has not
    answered, created before it.
    """

    restaurant_id: str | None = None
    states: frozenset[PayoutState] = frozenset()
    payout_run_id: UUID | None = None
    currency: str | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    unanswered_since: datetime | None = None
    submission_id: str | None = None


@dataclass(frozen=True, slots=True)
class StoredSubmission:
    """A submission and, if the caller named its payouts, which ones."""

    submission: PayoutSubmission
    payout_ids: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class PayoutRunQuery:
    """Which payout runs to list; None is any."""

    currency: str | None
    state: PayoutRunState | None


class PageRejected(Exception):
    """The database refused a page of payouts; nothing of it was written. The accounts are in the
    order of their ids.

    With `is_data` a rule of the books refuses one of them; else the reason is unexpected.
    """

    def __init__(self, balance_account_ids: Sequence[int], *, is_data: bool) -> None:
        super().__init__(f"{len(balance_account_ids)} balance accounts")
        self.balance_account_ids = tuple(balance_account_ids)
        self.is_data = is_data


@dataclass(frozen=True, slots=True)
class PayoutPage:
    """A page of a run: the claimed balance accounts, and the payouts created for them.

    `locked` has the claimed accounts that another transaction has locked, with the ids of their
    restaurants. `amount_minor` is the sum of the payouts.
    """

    balance_account_ids: Sequence[int]
    locked: Mapping[int, str]
    payouts_created: int
    amount_minor: int

    def __len__(self) -> int:
        """How many accounts were claimed."""
        return len(self.balance_account_ids)


class PayoutRuns(Protocol):
    """Payout runs. Every method is one transaction.

    `start`, `get` and `items` return once the result is as durable as the database makes any
    commit: payments depend on it. All methods raise DatabaseUnavailable, DatabaseContention and
    DatabaseTimeout.
    """

    async def start(self, key: PayoutRunKey, payout_run_id: UUID) -> PayoutRun:
        """Returns the run of `key`. Creates it under `payout_run_id` if it does not exist.

        A new run covers the balance accounts of the currency that exist now; `pay` writes their
        items. Its cut-off is the end of `as_of` in the settlement time zone, or now if `as_of` is
        today. Raises, with nothing written, InvalidRequest when `as_of` is in the future;
        RestaurantNotFound when the key names a restaurant that is not registered;
        TooManyPayoutRuns when the run is new and as many as allowed are under way.
        """
        ...

    async def plan(self, key: PayoutRunKey) -> PayoutRun:
        """What a run of `key` started now would do, with its items if the key names restaurants;
        writes nothing. Raises InvalidRequest and RestaurantNotFound as `start` does.
        """
        ...

    async def get(self, payout_run_id: UUID) -> PayoutRun | None:
        """A run with its progress, or None."""
        ...

    async def items(
        self, payout_run_id: UUID, outcome: PayoutRunItemOutcome | None, after: str, limit: int
    ) -> list[PayoutRunItem]:
        """At most `limit` items whose restaurant id is greater than `after`, in that order; of one
        outcome if one is given.
        """
        ...

    async def page(
        self, query: PayoutRunQuery, before: CreationPlace | None, limit: int
    ) -> list[PayoutRun]:
        """At most `limit` runs without progress, latest first, created before the one at `before`
        if it is given.
        """
        ...

    async def cancel(self, payout_run_id: UUID) -> bool:
        """Ends a run that is under way, and waits until it creates no further payout. Returns
        whether this call ended it.
        """
        ...

    async def unanswered(self) -> Unanswered:
        """The payouts that the bank has not answered."""
        ...

    async def running(self) -> list[UUID]:
        """The runs that are not finished, oldest first."""
        ...

    async def pay(self, payout_run_id: UUID, limit: int, after: int = 0) -> PayoutPage:
        """Claims at most `limit` open items that no other worker has claimed, of balance accounts
        with ids above `after`. Creates their payouts, or records the reason for skipping them.

        If none is open, first writes the run's next items. Does not wait for an account that
        another transaction has locked: its item stays open. The rest is written whole or not at
        all: raises PageRejected, with the claimed accounts, when the database refuses it. Returns
        an empty page if the run has ended, even while the page was under way.
        """
        ...

    async def give_up(self, payout_run_id: UUID, balance_account_id: int) -> None:
        """Marks an open item as skipped because its payout cannot be created."""
        ...

    async def finish(self, payout_run_id: UUID) -> bool:
        """Marks the run as finished if no item is open; returns whether this call did."""
        ...


class Payouts(Protocol):
    """Reads payouts and submissions. What it returns is as durable as the database makes any
    commit, since payments depend on it.

    All methods raise DatabaseUnavailable and DatabaseTimeout.
    """

    async def get(self, payout_id: UUID) -> PayoutDetails | None:
        """A payout with its items and its history, or None."""
        ...

    async def with_answers(self, event: ProcessorEvent) -> tuple[Payout, list[PayoutAnswer]] | None:
        """The payout that a payout event names, and the bank's other answers for it; or None. Locks
        nothing.
        """
        ...

    async def page(
        self, query: PayoutQuery, before: CreationPlace | None, limit: int
    ) -> list[Payout]:
        """At most `limit` payouts, latest first, created before `before` if it is given."""
        ...

    async def submission(self, submission_id: str) -> StoredSubmission | None:
        """The submission, or None."""
        ...


class PayoutSubmissions(Protocol):
    """What is handed over to the bank, inside a unit of work."""

    async def allow_seconds(self, seconds: int) -> None:
        """Gives each further statement of the unit of work so many seconds."""
        ...

    async def run(self, payout_run_id: UUID) -> tuple[str, PayoutRunState] | None:
        """The currency and the state of a run, or None. All payouts of a run that has ended are
        visible then: of a canceled one it waits for pages that are being committed.
        """
        ...

    async def lock_created(self, payout_run_id: UUID, limit: int) -> None:
        """Locks the run's payouts that are CREATED, at most `limit`, in the order of their ids,
        against other moves until the unit of work ends.
        """
        ...

    async def lock_named(self, payout_ids: Collection[UUID]) -> list[SubmissionCandidate]:
        """The payouts with these ids, in their order, locked likewise."""
        ...

    async def exists(self, submission_id: str) -> bool:
        """Whether a submission with the id is stored and visible."""
        ...

    async def add(
        self, request: SubmissionRequest, currency: str, limit: int, batch_id: UUID
    ) -> PayoutSubmission | None:
        """Stores the submission of the locked payouts, and moves each of them by an event.

        None if a submission with the id is stored already. Waits for a transaction that is storing
        the same id.
        """
        ...


class PayoutSettlement(Protocol):
    """The bank's answers about payouts, inside a unit of work."""

    async def record(self, posting: Posting, batch_id: UUID) -> bool:
        """Stores a payout event; False if its id is stored already. Posts no entry.

        Waits for a transaction that is storing the same id.
        """
        ...

    async def lock(self, payout_id: str) -> Payout | None:
        """The payout, or None. It is locked against other moves until the unit of work ends."""
        ...

    async def answers(self, event: ProcessorEvent) -> list[PayoutAnswer]:
        """The bank's other answers for the payout of `event`, which is locked."""
        ...

    async def move(
        self,
        payout: Payout,
        state: PayoutState,
        rule: PostingRule | None,
        posting: Posting,
    ) -> None:
        """Moves the payout to `state`, by the event of `posting`. Posts by `rule` if given."""
        ...
