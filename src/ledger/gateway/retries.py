"""Tries deliveries of the quarantine again: those that are parked, and those that people ask for.

Every gateway has this worker, and several at once are harmless: events are booked once by their
ids, and of two answers about one try the ledger takes the first.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
import structlog

from ledger.client import LedgerError
from ledger.domain.quarantine import EVENT_IDS_MAX
from ledger.gateway.allowances import Allowance
from ledger.gateway.booking import Problem, Route, Trial, book
from ledger.gateway.books import Books, Quarantine
from ledger.gateway.deliveries import Delivery
from ledger.gateway.metrics import GatewayMetrics
from ledger.v1 import ledger_pb2

# How long one try may take: longer than a post, as no processor waits for an answer.
TRY_SECONDS = 20.0
# A delivery waits half as long as it has been stored, within these bounds.
WAIT_MIN = timedelta(seconds=30)
WAIT_MAX = timedelta(hours=1)
# A page may be full of deliveries that other gateways try, so a round has an end.
ROUND_PAGES_MAX = 100

_RELEASED = ledger_pb2.QUARANTINE_STATE_RELEASED
_PARKED = ledger_pb2.QUARANTINE_STATE_PARKED
_QUARANTINED = ledger_pb2.QUARANTINE_STATE_QUARANTINED
_TO_BE_TRIED = (_PARKED, ledger_pb2.QUARANTINE_STATE_RETRY_REQUESTED)
_WORDS = {_RELEASED: "released", _PARKED: "parked", _QUARANTINED: "quarantined"}
# The ledger takes no call at all now, so the round ends.
_WAITING_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)

_log = structlog.get_logger("ledger.gateway")


class RetryWorker:
    """Tries what is due, one delivery after the other, and shows what the quarantine holds."""

    def __init__(
        self,
        routes: Callable[[], Mapping[str, Route]],
        books: Books,
        quarantine: Quarantine,
        metrics: GatewayMetrics,
        *,
        give_up_after: timedelta,
    ) -> None:
        self._routes = routes
        self._books = books
        self._quarantine = quarantine
        self._metrics = metrics
        self._give_up_after = give_up_after

    async def work(self) -> None:
        """One round: everything that is due now, of the endpoints of this gateway.

        Raises LedgerError if the ledger is away.
        """
        summary = await self._quarantine.summary(_allowance())
        self._metrics.quarantine_is(summary)
        waiting = {group.endpoint for group in summary.counts if group.state in _TO_BE_TRIED}
        # What belongs to endpoints that this file does not have is for other gateways.
        for endpoint in sorted(waiting & self._routes().keys()):
            await self._work_on(endpoint)

    async def _work_on(self, endpoint: str) -> None:
        seen: set[tuple[str, int]] = set()
        for _ in range(ROUND_PAGES_MAX):
            due = await self._quarantine.due(endpoint, datetime.now(UTC), _allowance())
            new = [one for one in due if (one.quarantine_id, one.move_number) not in seen]
            if not new:
                return
            for payload in new:
                seen.add((payload.quarantine_id, payload.move_number))
                await self._try(payload)

    async def _try(self, payload: ledger_pb2.QuarantinedPayload) -> None:
        route = self._routes().get(payload.endpoint)
        # None: the file was read again in between.
        if route is not None and (
            tried := await try_again(
                route, payload, self._books, self._quarantine, give_up_after=self._give_up_after
            )
        ):
            self._metrics.retried(payload.endpoint, tried.trial, tried.outcome, datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Tried:
    """What a try has led to: `released`, `parked` or `quarantined`."""

    outcome: str
    trial: Trial


async def try_again(
    route: Route,
    payload: ledger_pb2.QuarantinedPayload,
    books: Books,
    quarantine: Quarantine,
    *,
    give_up_after: timedelta,
) -> Tried | None:
    """Tries a payload, with its body, and records what became of it.

    None: meanwhile another gateway has tried it, or a person has decided otherwise. Raises
    LedgerError.
    """
    now = datetime.now(UTC)
    try:
        trial = await book(route, delivery_of(payload), books, _allowance())
    except LedgerError as error:
        if error.code in _WAITING_CODES:
            raise
        # If it is this delivery alone, it must not hold up the others; if the ledger cannot do
        # anything, it cannot record this either.
        trial = Trial(problems=[_failure(error)])
    problem = trial.problem
    request = ledger_pb2.ResolveQuarantinedRequest(
        quarantine_id=payload.quarantine_id, move_number=payload.move_number, outcome=_RELEASED
    )
    if problem is None:
        request.event_ids.extend(list(dict.fromkeys(trial.event_ids))[:EVENT_IDS_MAX])
    else:
        may_wait = problem.may_come and now - _stored_at(payload) < give_up_after
        request.outcome = _PARKED if may_wait else _QUARANTINED
        request.reason, request.detail = problem.reason, problem.detail
        if may_wait:
            request.retry_at.FromDatetime(_next_try(payload, problem, now))
    try:
        await quarantine.resolve(request, _allowance())
    except LedgerError as error:
        if error.code is not grpc.StatusCode.FAILED_PRECONDITION:
            raise
        return None
    outcome = _WORDS[request.outcome]
    _log.info(
        "tried again",
        quarantine_id=payload.quarantine_id,
        endpoint=payload.endpoint,
        outcome=outcome,
        reason=request.reason,
        event_ids=trial.event_ids[:20],
    )
    return Tried(outcome, trial)


def delivery_of(payload: ledger_pb2.QuarantinedPayload) -> Delivery:
    """The delivery as it came, less the headers that were not kept."""
    return Delivery(
        payload.body,
        dict(payload.headers),
        payload.query,
        payload.received_at.ToDatetime(tzinfo=UTC),
    )


def _failure(error: LedgerError) -> Problem:
    """That the ledger failed, as a reason to wait: a person may have to mend it."""
    return Problem(
        "",
        error.reason or error.code.name,
        f"the ledger failed with {error.code.name}: {error.message}",
        may_come=True,
        retry_after_seconds=error.retry_after,
    )


def _next_try(payload: ledger_pb2.QuarantinedPayload, problem: Problem, now: datetime) -> datetime:
    wait = max(WAIT_MIN, min(WAIT_MAX, (now - _stored_at(payload)) / 2))
    return now + max(wait, timedelta(seconds=problem.retry_after_seconds or 0.0))


def _stored_at(payload: ledger_pb2.QuarantinedPayload) -> datetime:
    return payload.created_at.ToDatetime(tzinfo=UTC)


def _allowance() -> Allowance:
    return Allowance.of(f"retry-{secrets.token_hex(8)}", TRY_SECONDS)
