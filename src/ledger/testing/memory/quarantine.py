"""The quarantine in memory."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from uuid import UUID

from ledger.application.ports.pages import CreationPlace
from ledger.application.ports.quarantine import (
    OpenPayloads,
    QuarantineCount,
    QuarantineQuery,
    QuarantineSummary,
    RetrySelection,
)
from ledger.application.quarantine import place_of
from ledger.domain.quarantine import (
    COUNTS_MAX,
    MOVES_MAX,
    OPEN_STATES,
    RETRYABLE_STATES,
    Decision,
    NewPayload,
    QuarantinedPayload,
    QuarantineMove,
    QuarantineState,
)
from ledger.testing.memory.books import Books, KeptPayload


class MemoryQuarantine:
    """Implements `ledger.application.ports.quarantine.Quarantine`."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def add(
        self, payload: NewPayload, quarantine_id: UUID, actor: str
    ) -> QuarantinedPayload | None:
        delivery = (payload.endpoint, payload.body, payload.query)
        if delivery in self._books.deliveries:
            return None
        with self._books.transaction():
            now = self._books.recorded_at
            stored = QuarantinedPayload(
                quarantine_id=quarantine_id,
                endpoint=payload.endpoint,
                processor=payload.processor,
                kind=payload.kind,
                body=payload.body,
                body_size_bytes=len(payload.body),
                headers=payload.headers,
                query=payload.query,
                received_at=payload.received_at,
                created_at=now,
                state=payload.state,
                move_number=1,
                reason=payload.reason,
                detail=payload.detail,
                retry_at=payload.retry_at,
                moved_at=now,
            )
            decision = Decision(
                payload.state, payload.reason, payload.detail, retry_at=payload.retry_at
            )
            self._books.deliveries[delivery] = quarantine_id
            self._books.quarantine[quarantine_id] = KeptPayload(
                stored, (QuarantineMove(1, decision, actor, now),)
            )
        return _without_body(stored)

    async def find(self, endpoint: str, body: bytes, query: str) -> QuarantinedPayload | None:
        quarantine_id = self._books.deliveries.get((endpoint, body, query))
        return None if quarantine_id is None else await self.standing(quarantine_id)

    async def standing(self, quarantine_id: UUID) -> QuarantinedPayload | None:
        kept = self._books.quarantine.get(quarantine_id)
        return None if kept is None else _without_body(kept.payload)

    async def get(
        self, quarantine_id: UUID
    ) -> tuple[QuarantinedPayload, Sequence[QuarantineMove]] | None:
        kept = self._books.quarantine.get(quarantine_id)
        return None if kept is None else (kept.payload, kept.moves[-MOVES_MAX:])

    async def page(
        self,
        query: QuarantineQuery,
        after: CreationPlace | None,
        limit: int,
        *,
        with_bodies: bool,
    ) -> list[QuarantinedPayload]:
        is_ascending = query.oldest_first or query.due_at is not None
        found = sorted(
            (payload for payload in self._payloads() if _is_selected(payload, query)),
            key=lambda payload: place_of(query, payload),
            reverse=not is_ascending,
        )
        if after is not None:
            found = [
                payload
                for payload in found
                if (place_of(query, payload) > after) == is_ascending
                and place_of(query, payload) != after
            ]
        return found[:limit] if with_bodies else list(map(_without_body, found[:limit]))

    async def summary(self, endpoint: str | None) -> QuarantineSummary:
        groups: dict[tuple[str, QuarantineState, str], list[QuarantinedPayload]] = {}
        for payload in self._payloads():
            if payload.state in OPEN_STATES and endpoint in (None, payload.endpoint):
                key = (payload.endpoint, payload.state, payload.reason)
                groups.setdefault(key, []).append(payload)
        largest = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
        counts = [
            QuarantineCount(*key, len(payloads), min(each.created_at for each in payloads))
            for key, payloads in sorted(largest[:COUNTS_MAX])
        ]
        of_all = [payload.created_at for payloads in groups.values() for payload in payloads]
        return QuarantineSummary(counts, len(of_all), min(of_all, default=None))

    async def known(self, quarantine_ids: Collection[UUID]) -> frozenset[UUID]:
        return frozenset(quarantine_ids) & self._books.quarantine.keys()

    async def request_retries(
        self, selection: RetrySelection, limit: int, actor: str
    ) -> Sequence[UUID]:
        chosen = await self.retryable(selection, limit)
        with self._books.transaction():
            for quarantine_id in chosen:
                decision = Decision(
                    QuarantineState.RETRY_REQUESTED, retry_at=self._books.recorded_at
                )
                _move(self._books, quarantine_id, decision, actor)
        return chosen

    async def retryable(self, selection: RetrySelection, limit: int) -> Sequence[UUID]:
        found = sorted(
            (payload.created_at, payload.quarantine_id)
            for payload in self._payloads()
            if payload.state in RETRYABLE_STATES
            and (not selection.quarantine_ids or payload.quarantine_id in selection.quarantine_ids)
            and selection.endpoint in (None, payload.endpoint)
            and selection.reason in (None, payload.reason)
        )
        return [quarantine_id for _, quarantine_id in found[:limit]]

    async def count_retryable(self, selection: RetrySelection) -> int:
        return len(await self.retryable(selection, len(self._books.quarantine)))

    async def open(self) -> OpenPayloads:
        now = self._books.clock()
        found: dict[QuarantineState, tuple[int, float]] = {}
        for payload in self._payloads():
            if payload.state in OPEN_STATES:
                count, oldest_seconds = found.get(payload.state, (0, 0.0))
                age_seconds = (now - payload.created_at).total_seconds()
                found[payload.state] = (count + 1, max(oldest_seconds, age_seconds))
        return found

    def _payloads(self) -> list[QuarantinedPayload]:
        return [kept.payload for kept in self._books.quarantine.values()]


class MemoryQuarantineMoves:
    """Implements `ledger.application.ports.quarantine.QuarantineMoves` in a unit of work."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def lock(self, quarantine_id: UUID) -> tuple[QuarantineState, QuarantineMove] | None:
        kept = self._books.quarantine.get(quarantine_id)
        return None if kept is None else (kept.payload.state, kept.moves[-1])

    async def missing_events(self, event_ids: Collection[str]) -> list[str]:
        return sorted(event_id for event_id in event_ids if event_id not in self._books.events)

    async def move(self, quarantine_id: UUID, number: int, decision: Decision, actor: str) -> None:
        _move(self._books, quarantine_id, decision, actor)


def _move(books: Books, quarantine_id: UUID, decision: Decision, actor: str) -> None:
    kept = books.quarantine[quarantine_id]
    payload, now = kept.payload, books.recorded_at
    number = payload.move_number + 1
    moved = replace(
        payload,
        state=decision.state,
        move_number=number,
        retry_at=decision.retry_at,
        moved_at=now,
        # Of the latest try.
        reason=decision.reason or payload.reason,
        detail=decision.detail if decision.reason else payload.detail,
    )
    move = QuarantineMove(number, decision, actor, now)
    books.quarantine[quarantine_id] = KeptPayload(moved, (*kept.moves, move))


def _is_selected(payload: QuarantinedPayload, query: QuarantineQuery) -> bool:
    return (
        query.endpoint in (None, payload.endpoint)
        and query.processor in (None, payload.processor)
        and query.reason in (None, payload.reason)
        and (not query.states or payload.state in query.states)
        and (query.end_at is None or payload.created_at < query.end_at)
        and (
            query.due_at is None
            or (payload.retry_at is not None and payload.retry_at < query.due_at)
        )
    )


def _without_body(payload: QuarantinedPayload) -> QuarantinedPayload:
    return replace(payload, body=None)
