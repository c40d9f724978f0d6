"""The quarantine: deliveries of processors that cannot be booked, until they are settled."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from ledger.domain.fields import ID_RULE, NAME_RULE, has_control, is_id, is_metadata, is_name
from ledger.errors import FieldViolation

BODY_BYTES_MAX = 256 * 1024
# With an endpoint and a hash it is the key of an index, whose rows have at most 2,704 bytes.
QUERY_BYTES_MAX = 2_000
DETAIL_LENGTH_MAX = 1_000
EVENT_IDS_MAX = 1_000
# The payloads that one call requests to be tried again, and the moves that one call returns.
RETRIED_MAX = 1_000
MOVES_MAX = 1_000
# The groups of a summary.
COUNTS_MAX = 1_000
# A mistake in a date would hide the payload.
RETRY_AFTER_MAX = timedelta(days=366)
_RETRY_AT_MIN = datetime(2000, 1, 1, tzinfo=UTC)

# They hold credentials of the processor or of a proxy, which no try needs.
CREDENTIAL_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})

_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,63}\Z")
_HEADER_NAME = re.compile(r"[a-z0-9._-]{1,128}\Z")

REASON_RULE = "must be 1 to 64 characters of A-Z 0-9 _, the first one a letter"
DETAIL_RULE = f"must be at most {DETAIL_LENGTH_MAX} characters, none of them a control character"
DISCARD_RULE = f"must be 1 to {DETAIL_LENGTH_MAX} characters, none of them a control character"
RETRY_AT_RULE = f"must be from 2000 on, and at most {RETRY_AFTER_MAX.days} days from now"


class QuarantineState(StrEnum):
    """Where a payload stands. The value is the name in the database."""

    QUARANTINED = "QUARANTINED"
    RETRY_REQUESTED = "RETRY_REQUESTED"
    PARKED = "PARKED"
    RELEASED = "RELEASED"
    DISCARDED = "DISCARDED"


# The states to which a payload may move, by its state. A trigger of the database holds the same.
MOVES: Mapping[QuarantineState, frozenset[QuarantineState]] = {
    QuarantineState.QUARANTINED: frozenset(
        {QuarantineState.RETRY_REQUESTED, QuarantineState.DISCARDED}
    ),
    QuarantineState.RETRY_REQUESTED: frozenset(
        {
            QuarantineState.RELEASED,
            QuarantineState.QUARANTINED,
            QuarantineState.PARKED,
            QuarantineState.DISCARDED,
        }
    ),
    QuarantineState.PARKED: frozenset(
        {
            QuarantineState.RELEASED,
            QuarantineState.PARKED,
            QuarantineState.QUARANTINED,
            QuarantineState.RETRY_REQUESTED,
            QuarantineState.DISCARDED,
        }
    ),
    QuarantineState.RELEASED: frozenset(),
    QuarantineState.DISCARDED: frozenset(),
}
OPEN_STATES = tuple(state for state, later in MOVES.items() if later)
RETRYABLE_STATES = tuple(
    state for state, later in MOVES.items() if QuarantineState.RETRY_REQUESTED in later
)
# What may become of a try.
OUTCOMES = (QuarantineState.RELEASED, QuarantineState.QUARANTINED, QuarantineState.PARKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPayload:
    """A delivery to keep. With `retry_at` it is PARKED, else QUARANTINED."""

    endpoint: str
    processor: str
    kind: str
    body: bytes
    headers: Mapping[str, str]
    query: str
    reason: str
    detail: str
    received_at: datetime
    retry_at: datetime | None

    @property
    def state(self) -> QuarantineState:
        return QuarantineState.QUARANTINED if self.retry_at is None else QuarantineState.PARKED


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedPayload:
    """A payload as it stands. `body` is None where it was not read.

    `reason` and `detail` are of the latest try; `moved_at` is when its latest move was recorded.
    """

    quarantine_id: UUID
    endpoint: str
    processor: str
    kind: str
    body: bytes | None
    body_size_bytes: int
    headers: Mapping[str, str]
    query: str
    received_at: datetime
    created_at: datetime
    state: QuarantineState
    move_number: int
    reason: str
    detail: str
    retry_at: datetime | None
    moved_at: datetime


@dataclass(frozen=True, slots=True)
class Decision:
    """A move to make. An empty `reason` leaves the payload's reason and detail as they are.

    `retry_at` is for PARKED; a payload that is RETRY_REQUESTED is to be tried at once.
    """

    state: QuarantineState
    reason: str = ""
    detail: str = ""
    event_ids: tuple[str, ...] = ()
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class QuarantineMove:
    """A move that was made. Numbers count up from 1, the payload's arrival."""

    number: int
    decision: Decision
    actor: str
    recorded_at: datetime


def payload_violations(payload: NewPayload, now: datetime) -> list[FieldViolation]:
    """The violations of a payload, in the order of its fields; empty for a valid one."""
    found = [
        FieldViolation(field, ID_RULE)
        for field, value in (("endpoint", payload.endpoint), ("processor", payload.processor))
        if not is_id(value)
    ]
    if not is_name(payload.kind):
        found.append(FieldViolation("kind", NAME_RULE))
    if len(payload.body) > BODY_BYTES_MAX:
        found.append(FieldViolation("body", f"must be at most {BODY_BYTES_MAX} bytes"))
    found += _header_violations(payload.headers)
    if len(payload.query.encode()) > QUERY_BYTES_MAX or has_control(payload.query):
        found.append(
            FieldViolation(
                "query", f"must be at most {QUERY_BYTES_MAX} bytes, without control characters"
            )
        )
    found += reason_violations(payload.reason, payload.detail)
    return found + retry_at_violations(payload.retry_at, now)


def decision_violations(decision: Decision, now: datetime) -> list[FieldViolation]:
    """The violations of what became of a try; empty for a valid one."""
    if decision.state not in OUTCOMES:
        return [FieldViolation("outcome", "must be RELEASED, QUARANTINED or PARKED")]
    found: list[FieldViolation] = []
    is_released = decision.state is QuarantineState.RELEASED
    if decision.event_ids and not is_released:
        found.append(FieldViolation("event_ids", "must be empty unless the outcome is RELEASED"))
    elif len(decision.event_ids) > EVENT_IDS_MAX:
        found.append(FieldViolation("event_ids", f"must be at most {EVENT_IDS_MAX} ids"))
    else:
        found += [
            FieldViolation(f"event_ids[{place}]", ID_RULE)
            for place, event_id in enumerate(decision.event_ids)
            if not is_id(event_id)
        ]
        if len(set(decision.event_ids)) < len(decision.event_ids):
            found.append(FieldViolation("event_ids", "must name each event once"))
    if is_released:
        if decision.reason:
            found.append(FieldViolation("reason", "must be empty if the outcome is RELEASED"))
        if not is_detail(decision.detail):
            found.append(FieldViolation("detail", DETAIL_RULE))
    else:
        found += reason_violations(decision.reason, decision.detail)
    if (decision.retry_at is None) == (decision.state is QuarantineState.PARKED):
        found.append(
            FieldViolation("retry_at", "must be set if the outcome is PARKED, and unset otherwise")
        )
    return found + retry_at_violations(decision.retry_at, now)


def is_reason(text: str) -> bool:
    """Whether `text` can be a reason of the quarantine; empty is not one."""
    return _REASON.match(text) is not None


def is_detail(text: str) -> bool:
    """Whether `text` can be words for people; empty is none."""
    return len(text) <= DETAIL_LENGTH_MAX and not has_control(text)


def reason_violations(reason: str, detail: str) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    if not is_reason(reason):
        found.append(FieldViolation("reason", REASON_RULE))
    if not is_detail(detail):
        found.append(FieldViolation("detail", DETAIL_RULE))
    return found


def retry_at_violations(retry_at: datetime | None, now: datetime) -> list[FieldViolation]:
    if retry_at is None or _RETRY_AT_MIN <= retry_at <= now + RETRY_AFTER_MAX:
        return []
    return [FieldViolation("retry_at", RETRY_AT_RULE)]


def _header_violations(headers: Mapping[str, str]) -> list[FieldViolation]:
    if not is_metadata(headers):
        rule = "must be at most 8 KiB of names and values, without NUL"
    elif not all(_HEADER_NAME.match(name) for name in headers):
        rule = "must have names of 1 to 128 characters of a-z 0-9 . _ -"
    elif not CREDENTIAL_HEADERS.isdisjoint(headers):
        rule = f"must not have {', '.join(sorted(CREDENTIAL_HEADERS))}"
    else:
        return []
    return [FieldViolation("headers", rule)]
