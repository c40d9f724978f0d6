"""The quarantine of deliveries that cannot be booked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from ledger.application.ports.pages import CreationPlace
from ledger.domain.quarantine import (
    Decision,
    NewPayload,
    QuarantinedPayload,
    QuarantineMove,
    QuarantineState,
)

# By state, how many payloads are open, and the age of the oldest one in seconds.
OpenPayloads = Mapping[QuarantineState, tuple[int, float]]


@dataclass(frozen=True, slots=True)
class QuarantineQuery:
    """Which payloads to list; None is any, and so are no `states`.

    In the order of creation, latest first unless `oldest_first`. With `due_at`, in the order of
    `retry_at`, those that a gateway should have tried by then.
    """

    endpoint: str | None = None
    processor: str | None = None
    states: frozenset[QuarantineState] = frozenset()
    reason: str | None = None
    end_at: datetime | None = None
    due_at: datetime | None = None
    oldest_first: bool = False


@dataclass(frozen=True, slots=True)
class RetrySelection:
    """Which payloads to try again: those named, or all that the filters leave; None is any."""

    quarantine_ids: frozenset[UUID] = frozenset()
    endpoint: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RequestedRetries:
    """The payloads that are to be tried again, oldest first, and how many others are left."""

    quarantine_ids: Sequence[UUID]
    left: int
    unchanged: int = 0


@dataclass(frozen=True, slots=True)
class QuarantineCount:
    """The open payloads of one endpoint, state and reason; when the oldest of them was stored."""

    endpoint: str
    state: QuarantineState
    reason: str
    count: int
    oldest_created_at: datetime


@dataclass(frozen=True, slots=True)
class QuarantineSummary:
    """The open payloads by endpoint, state and reason, and over all groups."""

    counts: Sequence[QuarantineCount]
    open_count: int
    oldest_created_at: datetime | None


class Quarantine(Protocol):
    """Stores and reads payloads. Every method is one transaction.

    What it returns is as durable as the database makes any commit: a processor that got an answer
    does not send again. All methods raise DatabaseUnavailable, DatabaseContention and
    DatabaseTimeout.
    """

    async def add(
        self, payload: NewPayload, quarantine_id: UUID, actor: str
    ) -> QuarantinedPayload | None:
        """Stores a payload; None if one with the same endpoint, body and query is stored.

        Waits for a transaction that is storing the same one.
        """
        ...

    async def find(self, endpoint: str, body: bytes, query: str) -> QuarantinedPayload | None:
        """The payload of a delivery, without its body, or None."""
        ...

    async def standing(self, quarantine_id: UUID) -> QuarantinedPayload | None:
        """A payload without its body, or None."""
        ...

    async def get(
        self, quarantine_id: UUID
    ) -> tuple[QuarantinedPayload, Sequence[QuarantineMove]] | None:
        """A payload with its body and its latest MOVES_MAX moves, oldest first; or None."""
        ...

    async def page(
        self,
        query: QuarantineQuery,
        after: CreationPlace | None,
        limit: int,
        *,
        with_bodies: bool,
    ) -> list[QuarantinedPayload]:
        """At most `limit` payloads after `after` in the order of the query."""
        ...

    async def summary(self, endpoint: str | None) -> QuarantineSummary:
        """The open payloads, at most COUNTS_MAX groups of them."""
        ...

    async def known(self, quarantine_ids: Collection[UUID]) -> frozenset[UUID]:
        """Those of the ids that payloads have."""
        ...

    async def request_retries(
        self, selection: RetrySelection, limit: int, actor: str
    ) -> Sequence[UUID]:
        """Moves at most `limit` payloads that may be tried again to RETRY_REQUESTED, oldest first.
        Returns their ids.
        """
        ...

    async def retryable(self, selection: RetrySelection, limit: int) -> Sequence[UUID]:
        """The payloads that `request_retries` would move."""
        ...

    async def count_retryable(self, selection: RetrySelection) -> int:
        """How many payloads `request_retries` would move without a limit."""
        ...

    async def open(self) -> OpenPayloads:
        """The payloads that are open. Cheap: for metrics."""
        ...


class QuarantineMoves(Protocol):
    """Moves of single payloads, inside a unit of work."""

    async def lock(self, quarantine_id: UUID) -> tuple[QuarantineState, QuarantineMove] | None:
        """The state of a payload and its latest move, or None. No other transaction can move it
        until the unit of work ends.
        """
        ...

    async def missing_events(self, event_ids: Collection[str]) -> list[str]:
        """Those of the ids under which no event is stored, sorted."""
        ...

    async def move(self, quarantine_id: UUID, number: int, decision: Decision, actor: str) -> None:
        """Moves a locked payload; the move gets the number."""
        ...
