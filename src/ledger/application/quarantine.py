"""Keeps deliveries that cannot be booked, returns them, and records what becomes of them."""

from collections.abc import Sequence
from uuid import UUID

import structlog
import uuid_utils.compat

from ledger.application.ports.pages import CreationPlace, Page
from ledger.application.ports.quarantine import (
    Quarantine,
    QuarantineQuery,
    RequestedRetries,
    RetrySelection,
)
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.domain.quarantine import (
    MOVES,
    RETRIED_MAX,
    Decision,
    NewPayload,
    QuarantinedPayload,
    QuarantineMove,
    QuarantineState,
)
from ledger.errors import (
    DatabaseUnavailable,
    EventNotFound,
    QuarantinedMoved,
    QuarantinedNotFound,
)

_log = structlog.get_logger("ledger.quarantine")


async def quarantine_payload(
    quarantine: Quarantine, payload: NewPayload, actor: str
) -> tuple[bool, QuarantinedPayload]:
    """Stores a payload, unless one with the same endpoint, body and query is stored.

    Returns whether this call did, and the payload as it stands. Raises DatabaseUnavailable,
    DatabaseContention, DatabaseTimeout.
    """
    delivery = (payload.endpoint, payload.body, payload.query)
    # First, as processors repeat what they do not see acknowledged: a look-up writes nothing.
    if (stored := await quarantine.find(*delivery)) is not None:
        return False, stored
    added = await quarantine.add(payload, uuid_utils.compat.uuid7(), actor)
    if added is not None:
        _log.info(
            "payload quarantined",
            quarantine_id=str(added.quarantine_id),
            endpoint=added.endpoint,
            state=added.state.value,
            reason=added.reason,
        )
        return True, added
    # Another call stored it meanwhile.
    if (stored := await quarantine.find(*delivery)) is None:
        # It was lost with the primary that had it. A repeat stores it.
        raise DatabaseUnavailable("the payload is gone")
    return False, stored


async def get_quarantined(
    quarantine: Quarantine, quarantine_id: UUID
) -> tuple[QuarantinedPayload, Sequence[QuarantineMove]]:
    """Returns a payload with its body and its moves. Raises QuarantinedNotFound."""
    found = await quarantine.get(quarantine_id)
    if found is None:
        raise QuarantinedNotFound(str(quarantine_id))
    return found


async def list_quarantined(
    quarantine: Quarantine,
    query: QuarantineQuery,
    after: CreationPlace | None,
    page_size: int,
    *,
    with_bodies: bool,
) -> Page[QuarantinedPayload, CreationPlace]:
    """Returns a page of payloads in the order of the query."""
    found = await quarantine.page(query, after, page_size + 1, with_bodies=with_bodies)
    return Page.cut(found, page_size, lambda payload: place_of(query, payload))


def place_of(query: QuarantineQuery, payload: QuarantinedPayload) -> CreationPlace:
    """The place of a payload in the list that `query` selects."""
    if query.due_at is None:
        return CreationPlace(payload.created_at, payload.quarantine_id)
    if payload.retry_at is None:
        raise ValueError("a payload that is not to be tried is in no list of what is due")
    return CreationPlace(payload.retry_at, payload.quarantine_id)


async def retry_quarantined(
    quarantine: Quarantine, selection: RetrySelection, actor: str, *, dry_run: bool
) -> RequestedRetries:
    """Requests that payloads be tried again, at most RETRIED_MAX. Writes nothing if `dry_run`.

    Raises QuarantinedNotFound if a named payload does not exist, with nothing changed.
    """
    named = selection.quarantine_ids
    if named and (unknown := named - await quarantine.known(named)):
        raise QuarantinedNotFound(str(min(unknown)))
    if dry_run:
        requested = await quarantine.retryable(selection, RETRIED_MAX)
    else:
        requested = await quarantine.request_retries(selection, RETRIED_MAX, actor)
        _log.info("retries requested", payloads=len(requested))
    if named:
        return RequestedRetries(requested, 0, len(named) - len(requested))
    left = await quarantine.count_retryable(selection)
    return RequestedRetries(requested, left - len(requested) if dry_run else left)


async def resolve_quarantined(
    begin: UnitOfWorkFactory,
    quarantine: Quarantine,
    quarantine_id: UUID,
    move_number: int,
    decision: Decision,
    actor: str,
) -> QuarantinedPayload:
    """Records what became of a try that followed the move `move_number`.

    A repeat of the call that made the latest move changes nothing. Raises QuarantinedNotFound;
    QuarantinedMoved; EventNotFound if the decision names an event that is not stored;
    DatabaseUnavailable, DatabaseContention, DatabaseTimeout. Then nothing has changed.
    """
    async with begin() as uow:
        locked = await uow.quarantine.lock(quarantine_id)
        if locked is None:
            raise QuarantinedNotFound(str(quarantine_id))
        state, latest = locked
        is_repeat = latest.number == move_number + 1 and latest.decision == decision
        if not is_repeat:
            if latest.number != move_number or decision.state not in MOVES[state]:
                raise QuarantinedMoved(str(quarantine_id), state.value, latest.number)
            if missing := await uow.quarantine.missing_events(decision.event_ids):
                raise EventNotFound(missing[0])
            await uow.quarantine.move(quarantine_id, move_number + 1, decision, actor)
            await uow.commit()
    if not is_repeat:
        _log.info(
            "payload resolved",
            quarantine_id=str(quarantine_id),
            state=decision.state.value,
            reason=decision.reason,
            events=len(decision.event_ids),
        )
    return await _standing(quarantine, quarantine_id)


async def discard_quarantined(
    begin: UnitOfWorkFactory,
    quarantine: Quarantine,
    quarantine_id: UUID,
    reason: str,
    actor: str,
) -> QuarantinedPayload:
    """Ends a payload for a reason that a person gives. A discarded one is returned as it stands.

    Raises QuarantinedNotFound; QuarantinedMoved if it was released; DatabaseUnavailable,
    DatabaseContention, DatabaseTimeout. Then nothing has changed.
    """
    async with begin() as uow:
        locked = await uow.quarantine.lock(quarantine_id)
        if locked is None:
            raise QuarantinedNotFound(str(quarantine_id))
        state, latest = locked
        is_repeat = state is QuarantineState.DISCARDED
        if not is_repeat:
            if QuarantineState.DISCARDED not in MOVES[state]:
                raise QuarantinedMoved(str(quarantine_id), state.value, latest.number)
            decision = Decision(QuarantineState.DISCARDED, detail=reason)
            await uow.quarantine.move(quarantine_id, latest.number + 1, decision, actor)
            await uow.commit()
    if not is_repeat:
        _log.info("payload discarded", quarantine_id=str(quarantine_id))
    return await _standing(quarantine, quarantine_id)


async def _standing(quarantine: Quarantine, quarantine_id: UUID) -> QuarantinedPayload:
    """The payload as it stands. The reader waits until its move is durable."""
    payload = await quarantine.standing(quarantine_id)
    if payload is None:
        raise DatabaseUnavailable("the payload is gone")
    return payload
