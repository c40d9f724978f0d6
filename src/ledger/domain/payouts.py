"""Payouts, the moves that a payout can make, and the runs that create payouts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from uuid import UUID

from ledger.domain.events import EventType, ProcessorEvent
from ledger.domain.payout_states import MOVES, PayoutState
from ledger.domain.posting_rules import (
    PAYOUT_POSTING_RULES,
    PAYOUT_STATES_WITHOUT_ENTRY,
    EntryType,
    PostingRule,
)
from ledger.errors import (
    FieldViolation,
    InvalidRequest,
    PayoutAnswersContradict,
    PayoutMismatch,
    PayoutMoveNotAllowed,
    PayoutsNotSubmittable,
)

# How many payouts a submission takes of a run at most: what one transaction can move in some
# seconds.
SUBMISSION_PAYOUTS_MAX = 100_000
# How many payouts a submission may name.
SUBMISSION_NAMED_MAX = 1_000


class PayoutRunState(StrEnum):
    """Where a payout run stands.

    PLANNED is the plan of a run that was not started, and is not stored.
    """

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    CANCELED = "CANCELED"
    PLANNED = "PLANNED"


class PayoutRunItemOutcome(StrEnum):
    """The outcome of a restaurant in a run."""

    OPEN = "OPEN"
    PAYOUT_CREATED = "PAYOUT_CREATED"
    SKIPPED = "SKIPPED"


class SkipReason(StrEnum):
    """Why a run created no payout for a restaurant. Of several reasons, the first here counts.

    VERDICT (infrastructure/postgres/payout_runs.py) and q3 (sql/queries.sql) judge in this order.
    """

    INACTIVE = "INACTIVE"
    ON_HOLD = "ON_HOLD"
    PAYOUT_IN_FLIGHT = "PAYOUT_IN_FLIGHT"
    ALREADY_PAID = "ALREADY_PAID"
    CUTOFF_BEFORE_LATEST_PAYOUT = "CUTOFF_BEFORE_LATEST_PAYOUT"
    NOTHING_AVAILABLE = "NOTHING_AVAILABLE"
    BELOW_MINIMUM = "BELOW_MINIMUM"
    MIN_BALANCE = "MIN_BALANCE"
    FAILED = "FAILED"
    # Never stored: the restaurants that a canceled run had not looked at.
    CANCELED = "CANCELED"


@dataclass(frozen=True, slots=True)
class PayoutRunKey:
    """Identifies a run: a repeated call with the same five values returns the run that they
    started. `min_amount_minor` is in minor units of `currency`.

    `restaurant_ids` are those that a call names, sorted and each once; none: all restaurants. A run
    that was read has none, and `PayoutRun.restaurants_named` says how many it has.
    """

    currency: str
    as_of: date
    min_amount_minor: int = 0
    request_id: str = ""
    restaurant_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PayoutRunItem:
    """One restaurant of a run. Amounts in minor units; `amount_minor` is 0 without a payout.

    `available_minor` is what could have been paid by the cut-off, negative for a debt, and
    `retained_minor` what the restaurant's minimum kept of it. Both are None while the item is open,
    and if a server of an earlier release closed it.
    """

    restaurant_id: str
    outcome: PayoutRunItemOutcome
    skip_reason: SkipReason | None
    payout_id: UUID | None
    amount_minor: int
    available_minor: int | None = None
    retained_minor: int | None = None


@dataclass(frozen=True, slots=True)
class PayoutRun:
    """A run with its progress so far. Amounts in minor units; `payout_run_id` and `created_at` are
    None in a plan.

    `restaurants_named` is 0 for a run over all restaurants. `items` has the restaurants of a plan
    of named ones, in the order of their ids.
    """

    payout_run_id: UUID | None
    key: PayoutRunKey
    cutoff_at: datetime
    state: PayoutRunState
    payouts_created: int
    total_amount_minor: int
    restaurants_considered: int
    restaurants_total: int
    skipped: Mapping[SkipReason, int]
    created_at: datetime | None
    finished_at: datetime | None
    restaurants_named: int = 0
    items: Sequence[PayoutRunItem] = ()


@dataclass(frozen=True, slots=True)
class Payout:
    """A payout. Amounts in minor units; `transaction_id` is that of its reserve.

    `retained_minor` is what it counted and left in the account, `retained_before_minor` the same of
    the account's previous payout: its items add up to `amount_minor + retained_minor -
    retained_before_minor`.

    `submission_id` is the submission that has it. `submitted_at` and `answered_at` are when the
    event was recorded that submitted it, and the bank's latest answer. All are None if there is no
    such thing, or if the payout was read only to move it; `bank_reference`, the latest that an
    event has, and the failure's code and text are then empty.
    """

    payout_id: UUID
    payout_run_id: UUID
    restaurant_id: str
    currency: str
    amount_minor: int
    as_of: date
    cutoff_at: datetime
    state: PayoutState
    transaction_id: UUID
    created_at: datetime
    retained_minor: int = 0
    retained_before_minor: int = 0
    submission_id: str | None = None
    submitted_at: datetime | None = None
    answered_at: datetime | None = None
    bank_reference: str = ""
    failure_code: str = ""
    failure_text: str = ""


@dataclass(frozen=True, slots=True)
class SubmissionRequest:
    """What to hand over to the bank under an id: the payouts of a run that are CREATED, at most
    `payouts_max` of them (0: SUBMISSION_PAYOUTS_MAX), or the named ones, in any order.
    """

    submission_id: str
    payout_run_id: UUID | None
    payout_ids: frozenset[UUID]
    payouts_max: int


@dataclass(frozen=True, slots=True)
class PayoutSubmission:
    """Payouts that were handed over together. Amount in minor units.

    `payouts_max` is as requested. `left_out` counts the payouts of the run that it did not take, by
    the state that they had.
    """

    submission_id: str
    payout_run_id: UUID | None
    payouts_max: int
    currency: str
    payouts_count: int
    total_amount_minor: int
    left_out: Mapping[PayoutState, int]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SubmissionCandidate:
    """A named payout, locked against other moves."""

    payout_id: UUID
    currency: str
    state: PayoutState


@dataclass(frozen=True, slots=True)
class PayoutItem:
    """What the entries of one type add to a payout, in minor units; negative if they take away,
    never 0.
    """

    entry_type: EntryType
    amount_minor: int


@dataclass(frozen=True, slots=True)
class PayoutMove:
    """One move of a payout. `event_id` is None for its creation, which no event causes. The last
    three are those of the event.
    """

    state: PayoutState
    recorded_at: datetime
    event_id: str | None
    transaction_id: UUID
    bank_reference: str = ""
    failure_code: str = ""
    failure_text: str = ""


@dataclass(frozen=True, slots=True)
class PayoutEvent:
    """A booked event that moved a payout; `entry_type` is what it posted, None if nothing."""

    type: EventType
    event_id: str
    transaction_id: UUID
    recorded_at: datetime
    entry_type: EntryType | None
    bank_reference: str = ""
    failure_code: str = ""
    failure_text: str = ""


@dataclass(frozen=True, slots=True)
class PayoutAnswer:
    """A booked answer of the bank about a payout. `occurred_at` is by the bank's clock."""

    event_id: str
    type: EventType
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class PayoutDetails:
    """A payout, what its amount consists of, and its moves, oldest first."""

    payout: Payout
    items: Sequence[PayoutItem]
    history: Sequence[PayoutMove]


def day_bounds(day: date, zone: tzinfo) -> tuple[datetime, datetime]:
    """The instants at which `day` begins and the next one begins in `zone`, in UTC.

    Where clocks are set back at midnight the first of the two midnights begins the day; where they
    are set forward over midnight the day begins at the instant of the change.
    """
    begin, end = (
        datetime.combine(each, time.min, zone).astimezone(UTC)
        for each in (day, day + timedelta(days=1))
    )
    return begin, end


def settle(
    payout: Payout, event: ProcessorEvent, answers: Sequence[PayoutAnswer]
) -> tuple[PayoutState, PostingRule | None]:
    """The state to which `event` moves `payout`, and the rule that the move posts by, if any.

    A reference of the bank moves nothing and posts nothing; the state stays. A canceled payout
    takes no event: the bank was never asked to pay it.

    `answers` are the bank's answers that were booked before. A payout that was paid and then failed
    is RETURNED, whichever answer arrives first. A payment that arrives second posts nothing: the
    reversal, which was posted first, is what the payment and its return add up to. Two answers, in
    the order of their arrival, and what they post:

        paid at 10:00, failed at 12:00   PAYOUT_RELEASE, PAYOUT_RETURN
        failed at 12:00, paid at 10:00   PAYOUT_REVERSAL, nothing

    Raises PayoutMismatch when the event is not about this payout's restaurant, currency and amount;
    PayoutMoveNotAllowed when the payout cannot make the move; PayoutAnswersContradict when by
    `occurred_at` it was paid after it had failed: then the money may be with the restaurant, and
    only the bank knows.
    """
    differing = [
        field
        for field in ("restaurant_id", "currency", "amount_minor")
        if getattr(payout, field) != getattr(event, field)
    ]
    if differing:
        raise PayoutMismatch(event.payout_id, differing)
    if event.type is EventType.PAYOUT_REFERENCED and payout.state is not PayoutState.CANCELED:
        return payout.state, None
    state = MOVES.get((payout.state, event.type))
    if state is None:
        booked = [answer.event_id for answer in answers]
        raise PayoutMoveNotAllowed(event.payout_id, payout.state.value, event.event_id, booked)
    is_paid_late = payout.state is PayoutState.FAILED
    for answer in answers:
        paid_at, failed_at = answer.occurred_at, event.occurred_at
        if is_paid_late:
            paid_at, failed_at = failed_at, paid_at
        if paid_at > failed_at:
            raise PayoutAnswersContradict(
                event.payout_id, payout.state.value, event.event_id, answer.event_id
            )
    return state, _posted_by_move(payout.state, state)


def moves_of(payout: Payout, events: Sequence[PayoutEvent]) -> list[PayoutMove]:
    """The history of `payout` from its events, given in any order.

    The next move is the one that its state allows and whose rule posts what was posted: of a
    payment and a failure, the payment came first if it posted PAYOUT_RELEASE. A submission came
    before both, as only a CREATED payout can be submitted. References of the bank are no moves.
    Raises ValueError when the events are no history of a payout: then the books are broken.
    """
    moves = [PayoutMove(PayoutState.CREATED, payout.created_at, None, payout.transaction_id)]
    left = [event for event in events if event.type is not EventType.PAYOUT_REFERENCED]
    left.sort(key=lambda event: event.type is not EventType.PAYOUT_SUBMITTED)
    while left:
        before = moves[-1].state
        for event in left:
            state = MOVES.get((before, event.type))
            if state is None:
                continue
            rule = _posted_by_move(before, state)
            if event.entry_type is (None if rule is None else rule.entry_type):
                break
        else:
            raise ValueError(f"no move of a payout in state {before} fits its other events")
        left.remove(event)
        moves.append(
            PayoutMove(
                state,
                event.recorded_at,
                event.event_id,
                event.transaction_id,
                event.bank_reference,
                event.failure_code,
                event.failure_text,
            )
        )
    return moves


def require_submittable(candidates: Sequence[SubmissionCandidate]) -> str:
    """The currency of the payouts that a submission names, at least one.

    Raises InvalidRequest when they have several, PayoutsNotSubmittable when some are not CREATED.
    """
    currency, *others = sorted({each.currency for each in candidates})
    if others:
        raise InvalidRequest([FieldViolation("payout_ids", "must be payouts of one currency")])
    refused = [each for each in candidates if each.state is not PayoutState.CREATED]
    if refused:
        raise PayoutsNotSubmittable([str(each.payout_id) for each in refused])
    return currency


def _posted_by_move(before: PayoutState, state: PayoutState) -> PostingRule | None:
    # The reversal, which was posted first, is what a late payment and its return add up to.
    if before is PayoutState.FAILED or state in PAYOUT_STATES_WITHOUT_ENTRY:
        return None
    return PAYOUT_POSTING_RULES[state]
