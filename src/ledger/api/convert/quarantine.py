"""Payloads of the quarantine, between the contract's messages and the domain."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

from ledger.api.convert.enums import by_number
from ledger.api.convert.identifiers import decode_uuid
from ledger.api.convert.instants import (
    decode_instant_of,
    encode_instant,
    encode_optional_instant,
)
from ledger.api.convert.paging import CREATION_PLACE, Listing, Paging, fitting
from ledger.application.ports.pages import CreationPlace, Page
from ledger.application.ports.quarantine import (
    QuarantineQuery,
    QuarantineSummary,
    RequestedRetries,
    RetrySelection,
)
from ledger.application.quarantine import place_of
from ledger.domain.events import microseconds
from ledger.domain.fields import ID_RULE, is_id
from ledger.domain.quarantine import (
    DISCARD_RULE,
    REASON_RULE,
    RETRIED_MAX,
    Decision,
    NewPayload,
    QuarantinedPayload,
    QuarantineMove,
    QuarantineState,
    decision_violations,
    is_detail,
    is_reason,
    payload_violations,
)
from ledger.errors import FieldViolation, InvalidRequest
from ledger.v1 import ledger_pb2

# So many bodies, with all that is beside them, stay below PAGE_BYTES_MAX.
PAGE_SIZE_MAX_WITH_BODIES = 10

_STATES = by_number(
    ledger_pb2.QuarantineState,
    "QUARANTINE_STATE_",
    QuarantineState,
    "src/ledger/domain/quarantine.py",
)
_STATE_NUMBERS = {
    state: ledger_pb2.QuarantineState.ValueType(number) for number, state in _STATES.items()
}
_ID_OR_EMPTY = f"{ID_RULE}, or be empty"
_REASON_OR_EMPTY = f"{REASON_RULE}, or be empty"


@dataclass(frozen=True, slots=True)
class Resolution:
    """What became of a try of a payload that followed its move `move_number`."""

    quarantine_id: UUID
    move_number: int
    decision: Decision


def decode_payload(request: ledger_pb2.QuarantinePayloadRequest, now: datetime) -> NewPayload:
    """The payload to keep. Raises InvalidRequest."""
    timestamps: list[FieldViolation] = []
    received_at = decode_instant_of(request, "received_at", timestamps)
    retry_at = decode_instant_of(request, "retry_at", timestamps)
    if not request.HasField("received_at"):
        timestamps.append(FieldViolation("received_at", "must be set"))
    payload = NewPayload(
        endpoint=request.endpoint,
        processor=request.processor,
        kind=request.kind,
        body=request.body,
        headers=dict(request.headers),
        query=request.query,
        reason=request.reason,
        detail=request.detail,
        received_at=received_at or now,
        retry_at=retry_at,
    )
    violations = payload_violations(payload, now) + timestamps
    if violations:
        raise InvalidRequest(violations)
    return payload


def encode_quarantined(
    payload: QuarantinedPayload, *, is_new: bool
) -> ledger_pb2.QuarantinePayloadResponse:
    return ledger_pb2.QuarantinePayloadResponse(
        status=ledger_pb2.QUARANTINE_STATUS_CREATED
        if is_new
        else ledger_pb2.QUARANTINE_STATUS_DUPLICATE,
        payload=encode_payload(payload),
    )


def encode_payload(payload: QuarantinedPayload) -> ledger_pb2.QuarantinedPayload:
    """A payload without its moves, with its body if that was read."""
    return ledger_pb2.QuarantinedPayload(
        quarantine_id=str(payload.quarantine_id),
        endpoint=payload.endpoint,
        processor=payload.processor,
        kind=payload.kind,
        body=payload.body or b"",
        body_size_bytes=payload.body_size_bytes,
        headers=payload.headers,
        query=payload.query,
        received_at=encode_instant(payload.received_at),
        created_at=encode_instant(payload.created_at),
        state=_STATE_NUMBERS[payload.state],
        move_number=payload.move_number,
        reason=payload.reason,
        detail=payload.detail,
        retry_at=encode_optional_instant(payload.retry_at),
        moved_at=encode_instant(payload.moved_at),
    )


def encode_payload_with_moves(
    payload: QuarantinedPayload, moves: Sequence[QuarantineMove]
) -> ledger_pb2.QuarantinedPayload:
    message = encode_payload(payload)
    for move in moves:
        decision = move.decision
        message.moves.add(
            number=move.number,
            state=_STATE_NUMBERS[decision.state],
            reason=decision.reason,
            detail=decision.detail,
            event_ids=decision.event_ids,
            retry_at=encode_optional_instant(decision.retry_at),
            actor=move.actor,
            recorded_at=encode_instant(move.recorded_at),
        )
    return message


def decode_quarantine_id(request: ledger_pb2.GetQuarantinedRequest) -> UUID:
    """Returns the requested id. Raises InvalidRequest."""
    return decode_uuid("quarantine_id", request.quarantine_id)


def decode_quarantine_query(request: ledger_pb2.ListQuarantinedRequest) -> QuarantineQuery:
    """Which payloads to list. Raises InvalidRequest."""
    violations = [
        FieldViolation(field, _ID_OR_EMPTY)
        for field, value in (("endpoint", request.endpoint), ("processor", request.processor))
        if value and not is_id(value)
    ]
    states = set(request.states)
    if len(states) < len(request.states) or not states <= _STATES.keys():
        violations.append(FieldViolation("states", "must be states, each at most once"))
    if request.reason and not is_reason(request.reason):
        violations.append(FieldViolation("reason", _REASON_OR_EMPTY))
    end_at = decode_instant_of(request, "end_at", violations)
    due_at = decode_instant_of(request, "due_at", violations)
    if request.HasField("due_at"):
        if states:
            violations.append(FieldViolation("states", "must be empty if due_at is set"))
        if request.oldest_first:
            violations.append(FieldViolation("oldest_first", "must be unset if due_at is set"))
    if violations:
        raise InvalidRequest(violations)
    return QuarantineQuery(
        endpoint=request.endpoint or None,
        processor=request.processor or None,
        states=frozenset(_STATES[number] for number in states),
        reason=request.reason or None,
        end_at=end_at,
        due_at=due_at,
        oldest_first=request.oldest_first,
    )


def quarantine_listing(query: QuarantineQuery) -> Listing[CreationPlace]:
    """The payloads that `query` selects. Whether they come with bodies may differ from page to
    page.
    """
    described = (
        "ListQuarantined",
        query.endpoint or "",
        query.processor or "",
        ",".join(sorted(query.states)),
        query.reason or "",
        *(
            "" if instant is None else str(microseconds(instant))
            for instant in (query.end_at, query.due_at)
        ),
        "oldest first" if query.oldest_first else "",
    )
    return Listing(described, CREATION_PLACE)


def page_size_of(request: ledger_pb2.ListQuarantinedRequest, page_size: int) -> int:
    """How many payloads a page has at most: fewer if each has its body."""
    return min(page_size, PAGE_SIZE_MAX_WITH_BODIES) if request.with_bodies else page_size


def encode_quarantine_page(
    paging: Paging[CreationPlace],
    query: QuarantineQuery,
    page: Page[QuarantinedPayload, CreationPlace],
) -> ledger_pb2.ListQuarantinedResponse:
    """As many payloads of the page as PAGE_BYTES_MAX allows, and at least one."""
    places = {
        str(payload.quarantine_id): partial(place_of, query, payload) for payload in page.items
    }
    payloads, next_place = fitting(
        map(encode_payload, page.items),
        page.next_place,
        lambda message: places[message.quarantine_id](),
    )
    return ledger_pb2.ListQuarantinedResponse(
        payloads=payloads, next_page_token=paging.next_page_token(next_place)
    )


def decode_summarized_endpoint(request: ledger_pb2.GetQuarantineSummaryRequest) -> str | None:
    """The endpoint whose payloads to count, None for all. Raises InvalidRequest."""
    if request.endpoint and not is_id(request.endpoint):
        raise InvalidRequest([FieldViolation("endpoint", _ID_OR_EMPTY)])
    return request.endpoint or None


def encode_summary(summary: QuarantineSummary) -> ledger_pb2.GetQuarantineSummaryResponse:
    return ledger_pb2.GetQuarantineSummaryResponse(
        counts=[
            ledger_pb2.QuarantineCount(
                endpoint=count.endpoint,
                state=_STATE_NUMBERS[count.state],
                reason=count.reason,
                count=count.count,
                oldest_created_at=encode_instant(count.oldest_created_at),
            )
            for count in summary.counts
        ],
        open_count=summary.open_count,
        oldest_created_at=encode_optional_instant(summary.oldest_created_at),
    )


def decode_retry_selection(request: ledger_pb2.RetryQuarantinedRequest) -> RetrySelection:
    """Which payloads to try again. Raises InvalidRequest."""
    violations: list[FieldViolation] = []
    named = request.quarantine_ids
    quarantine_ids: set[UUID] = set()
    if len(named) > RETRIED_MAX:
        violations.append(FieldViolation("quarantine_ids", f"must be at most {RETRIED_MAX} ids"))
    else:
        for place, text in enumerate(named):
            try:
                quarantine_ids.add(decode_uuid(f"quarantine_ids[{place}]", text))
            except InvalidRequest as error:
                violations += error.violations
        if len(set(named)) < len(named):
            violations.append(FieldViolation("quarantine_ids", "must name each payload once"))
    if request.endpoint and not is_id(request.endpoint):
        violations.append(FieldViolation("endpoint", _ID_OR_EMPTY))
    if request.reason and not is_reason(request.reason):
        violations.append(FieldViolation("reason", _REASON_OR_EMPTY))
    ways = [bool(named), bool(request.endpoint or request.reason), request.all]
    if sum(ways) != 1:
        violations.append(
            FieldViolation(
                "quarantine_ids", "must be set, or endpoint and reason, or all, and nothing else"
            )
        )
    if violations:
        raise InvalidRequest(violations)
    return RetrySelection(
        frozenset(quarantine_ids), request.endpoint or None, request.reason or None
    )


def encode_retries(requested: RequestedRetries) -> ledger_pb2.RetryQuarantinedResponse:
    return ledger_pb2.RetryQuarantinedResponse(
        quarantine_ids=map(str, requested.quarantine_ids),
        left_count=requested.left,
        unchanged_count=requested.unchanged,
    )


def decode_resolution(request: ledger_pb2.ResolveQuarantinedRequest, now: datetime) -> Resolution:
    """What became of a try. Raises InvalidRequest."""
    violations: list[FieldViolation] = []
    quarantine_id = _decode_id(request.quarantine_id, violations)
    if request.move_number < 1:
        violations.append(FieldViolation("move_number", "must be 1 or more"))
    retry_at = decode_instant_of(request, "retry_at", violations)
    # An unknown number is an outcome that no try has.
    decision = Decision(
        _STATES.get(request.outcome, QuarantineState.DISCARDED),
        request.reason,
        request.detail,
        tuple(request.event_ids),
        retry_at,
    )
    if not violations:
        violations = decision_violations(decision, now)
    if violations or quarantine_id is None:
        raise InvalidRequest(violations)
    return Resolution(quarantine_id, request.move_number, decision)


def decode_discard(request: ledger_pb2.DiscardQuarantinedRequest) -> tuple[UUID, str]:
    """Which payload to end, and why. Raises InvalidRequest."""
    violations: list[FieldViolation] = []
    quarantine_id = _decode_id(request.quarantine_id, violations)
    if not request.reason or not is_detail(request.reason):
        violations.append(FieldViolation("reason", DISCARD_RULE))
    if violations or quarantine_id is None:
        raise InvalidRequest(violations)
    return quarantine_id, request.reason


def _decode_id(text: str, violations: list[FieldViolation]) -> UUID | None:
    """The id; None if it is malformed, which adds a violation."""
    try:
        return decode_uuid("quarantine_id", text)
    except InvalidRequest as error:
        violations += error.violations
        return None
