"""Submissions of payouts in memory."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from uuid import UUID

import uuid_utils

from ledger.application.ports.events import Posting
from ledger.application.ports.payouts import StoredSubmission
from ledger.domain.events import EventType, ProcessorEvent, fingerprint
from ledger.domain.payout_states import PayoutState
from ledger.domain.payouts import (
    PayoutRunState,
    PayoutSubmission,
    SubmissionCandidate,
    SubmissionRequest,
)
from ledger.testing.memory.books import BookedPayout, Books
from ledger.testing.memory.event_ledger import store_event


class MemoryPayoutSubmissions:
    """Implements `ledger.application.ports.payouts.PayoutSubmissions` in a unit of work."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def allow_seconds(self, seconds: int) -> None:
        pass

    async def run(self, payout_run_id: UUID) -> tuple[str, PayoutRunState] | None:
        booked = self._books.payout_runs.get(payout_run_id)
        return None if booked is None else (booked.run.key.currency, booked.run.state)

    async def lock_created(self, payout_run_id: UUID, limit: int) -> None:
        pass

    async def lock_named(self, payout_ids: Collection[UUID]) -> list[SubmissionCandidate]:
        return [
            SubmissionCandidate(payout_id, booked.payout.currency, booked.payout.state)
            for payout_id in sorted(payout_ids)
            if (booked := self._books.payouts.get(payout_id))
        ]

    async def exists(self, submission_id: str) -> bool:
        return submission_id in self._books.submissions

    async def add(
        self, request: SubmissionRequest, currency: str, limit: int, batch_id: UUID
    ) -> PayoutSubmission | None:
        if request.submission_id in self._books.submissions:
            return None
        run_id = request.payout_run_id
        of_run = [
            booked
            for booked in self._books.payouts.values()
            if run_id is not None and booked.payout.payout_run_id == run_id
        ]
        named = [self._books.payouts[payout_id] for payout_id in request.payout_ids]
        created = [
            booked
            for booked in (of_run if run_id is not None else named)
            if booked.payout.state is PayoutState.CREATED
        ]
        chosen = sorted(created, key=lambda booked: booked.payout.payout_id)[:limit]
        left_out = Counter(booked.payout.state for booked in of_run)
        if of_run:
            left_out[PayoutState.CREATED] -= len(chosen)
        submission = PayoutSubmission(
            submission_id=request.submission_id,
            payout_run_id=run_id,
            payouts_max=request.payouts_max,
            currency=currency,
            payouts_count=len(chosen),
            total_amount_minor=sum(booked.payout.amount_minor for booked in chosen),
            left_out={state: count for state, count in sorted(left_out.items()) if count},
            created_at=self._books.recorded_at,
        )
        self._books.submissions[request.submission_id] = StoredSubmission(
            submission, request.payout_ids
        )
        for booked in chosen:
            self._submit(booked, request.submission_id, batch_id)
        return submission

    def _submit(self, booked: BookedPayout, submission_id: str, batch_id: UUID) -> None:
        """Moves a payout by an event that the service makes."""
        payout = booked.payout
        payout_id = str(payout.payout_id)
        transaction_id = str(uuid_utils.uuid7())
        event_id = f"payout:{payout_id}:submitted"
        # A caller may have sent another event under the id. No caller knows the transaction id.
        if event_id in self._books.events:
            event_id = f"{event_id}:{transaction_id}"
        event = ProcessorEvent(
            event_id=event_id,
            type=EventType.PAYOUT_SUBMITTED,
            restaurant_id=payout.restaurant_id,
            currency=payout.currency,
            amount_minor=payout.amount_minor,
            fee_minor=0,
            occurred_at=self._books.recorded_at,
            payout_id=payout_id,
            reference=submission_id,
            metadata={},
        )
        store_event(self._books, Posting(event, fingerprint(event), transaction_id), batch_id)
        submitted = replace(payout, state=PayoutState.SUBMITTED)
        self._books.payouts[payout.payout_id] = replace(booked, payout=submitted)
        self._books.submission_ids[payout.payout_id] = submission_id
