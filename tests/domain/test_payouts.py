"""Payouts: their moves, what each move posts, and which events cause it."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.events import processor_event

from ledger.domain.events import PAYOUT_EVENT_TYPES, EventType, ProcessorEvent
from ledger.domain.payout_states import MOVES, PayoutState
from ledger.domain.payouts import (
    Payout,
    PayoutAnswer,
    PayoutEvent,
    PayoutMove,
    SubmissionCandidate,
    moves_of,
    require_submittable,
    settle,
)
from ledger.domain.posting_rules import PAYOUT_POSTING_RULES, EntryType
from ledger.errors import (
    InvalidRequest,
    PayoutAnswersContradict,
    PayoutMismatch,
    PayoutMoveNotAllowed,
    PayoutsNotSubmittable,
)

CREATED_AT = datetime(2026, 2, 1, 3, 0, tzinfo=UTC)
PAYOUT = Payout(
    payout_id=UUID("0190d3a0-0000-7000-8000-000000000001"),
    payout_run_id=UUID("0190d3a0-0000-7000-8000-000000000002"),
    restaurant_id="res_001",
    currency="PEN",
    amount_minor=10_000,
    as_of=date(2026, 1, 31),
    cutoff_at=datetime(2026, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    state=PayoutState.CREATED,
    transaction_id=UUID("0190d3a0-0000-7000-8000-000000000003"),
    created_at=CREATED_AT,
)

# Every state with every payout event. A refused event moves to no state. A payout that failed posts
# nothing when it is returned. A reference of the bank leaves the state.
# state    event              moves to   posts
SETTLED = """
CREATED    payout_paid        PAID       PAYOUT_RELEASE
CREATED    payout_failed      FAILED     PAYOUT_REVERSAL
CREATED    payout_submitted   SUBMITTED  -
CREATED    payout_canceled    CANCELED   PAYOUT_REVERSAL
CREATED    payout_referenced  CREATED    -
PAID       payout_paid        -          -
PAID       payout_failed      RETURNED   PAYOUT_RETURN
PAID       payout_submitted   -          -
PAID       payout_canceled    -          -
PAID       payout_referenced  PAID       -
FAILED     payout_paid        RETURNED   -
FAILED     payout_failed      -          -
FAILED     payout_submitted   -          -
FAILED     payout_canceled    -          -
FAILED     payout_referenced  FAILED     -
RETURNED   payout_paid        -          -
RETURNED   payout_failed      -          -
RETURNED   payout_submitted   -          -
RETURNED   payout_canceled    -          -
RETURNED   payout_referenced  RETURNED   -
SUBMITTED  payout_paid        PAID       PAYOUT_RELEASE
SUBMITTED  payout_failed      FAILED     PAYOUT_REVERSAL
SUBMITTED  payout_submitted   -          -
SUBMITTED  payout_canceled    -          -
SUBMITTED  payout_referenced  SUBMITTED  -
CANCELED   payout_paid        -          -
CANCELED   payout_failed      -          -
CANCELED   payout_submitted   -          -
CANCELED   payout_canceled    -          -
CANCELED   payout_referenced  -          -
"""
ROWS = [row.split() for row in SETTLED.strip().splitlines()]


def about(payout: Payout, type: EventType, **fields: Any) -> ProcessorEvent:
    """An event about a payout."""
    values = {
        "payout_id": str(payout.payout_id),
        "restaurant_id": payout.restaurant_id,
        "currency": payout.currency,
        "amount_minor": payout.amount_minor,
    }
    return processor_event(type, **(values | fields))


def test_table_has_every_state_with_every_event() -> None:
    """The moves of the code are exactly those of the table."""
    assert {(row[0], row[1]) for row in ROWS} == {
        (state.value, event_type.value)
        for state, event_type in product(PayoutState, PAYOUT_EVENT_TYPES)
    }
    assert {
        (state.value, event_type.value, to.value) for (state, event_type), to in MOVES.items()
    } == {(row[0], row[1], row[2]) for row in ROWS if row[2] not in ("-", row[0])}


@pytest.mark.parametrize(("state", "event", "to", "posts"), [row for row in ROWS if row[2] != "-"])
def test_allowed_moves_post_what_the_table_says(
    state: str, event: str, to: str, posts: str
) -> None:
    """The move has one next state, and posts at most one entry."""
    payout = replace(PAYOUT, state=PayoutState(state))
    moved_to, rule = settle(payout, about(payout, EventType(event)), [])
    assert moved_to == PayoutState(to)
    assert rule == (None if posts == "-" else PAYOUT_POSTING_RULES[PayoutState(to)])
    assert rule is None or rule.entry_type == posts


@pytest.mark.parametrize(("state", "event"), [row[:2] for row in ROWS if row[2] == "-"])
def test_other_moves_are_refused(state: str, event: str) -> None:
    """The error names the payout, its state, and the events that are booked."""
    payout = replace(PAYOUT, state=PayoutState(state))
    booked = PayoutAnswer("evt_booked", EventType.PAYOUT_PAID, CREATED_AT)
    with pytest.raises(PayoutMoveNotAllowed) as refused:
        settle(payout, about(payout, EventType(event), event_id="evt_new"), [booked])
    assert (refused.value.payout_id, refused.value.state) == (str(payout.payout_id), state)
    assert (refused.value.event_id, refused.value.booked_event_ids) == ("evt_new", ("evt_booked",))


@pytest.mark.parametrize("first", [EventType.PAYOUT_PAID, EventType.PAYOUT_FAILED])
@pytest.mark.parametrize(("paid_minutes_later", "is_accepted"), [(-1, True), (0, True), (1, False)])
def test_paid_and_failed_have_the_same_effect_in_either_order(
    first: EventType, paid_minutes_later: int, is_accepted: bool
) -> None:
    """If it was paid no later than it failed, it is RETURNED. Else the error names both events."""
    failed_at = CREATED_AT + timedelta(hours=1)
    events = {
        EventType.PAYOUT_PAID: failed_at + timedelta(minutes=paid_minutes_later),
        EventType.PAYOUT_FAILED: failed_at,
    }
    (second,) = set(events) - {first}
    payout = replace(PAYOUT, state=MOVES[PayoutState.CREATED, first])
    answers = [PayoutAnswer("evt_first", first, events[first])]
    event = about(payout, second, event_id="evt_second", occurred_at=events[second])
    if is_accepted:
        assert settle(payout, event, answers)[0] is PayoutState.RETURNED
        return
    with pytest.raises(PayoutAnswersContradict) as refused:
        settle(payout, event, answers)
    assert (refused.value.event_id, refused.value.booked_event_id) == ("evt_second", "evt_first")
    assert "evt_first" in str(refused.value)


@pytest.mark.parametrize("state", PayoutState)
@pytest.mark.parametrize(
    ("fields", "differing"),
    [
        ({"restaurant_id": "res_002"}, ("restaurant_id",)),
        ({"currency": "USD"}, ("currency",)),
        ({"amount_minor": 9_999}, ("amount_minor",)),
        (
            {"amount_minor": 1, "currency": "USD", "restaurant_id": "RES_001"},
            ("restaurant_id", "currency", "amount_minor"),
        ),
    ],
)
def test_event_that_contradicts_its_payout_is_refused(
    state: PayoutState, fields: dict[str, Any], differing: tuple[str, ...]
) -> None:
    """In every state. The error names the fields that differ."""
    with pytest.raises(PayoutMismatch) as refused:
        settle(replace(PAYOUT, state=state), about(PAYOUT, EventType.PAYOUT_PAID, **fields), [])
    assert (refused.value.payout_id, refused.value.differing_fields) == (
        str(PAYOUT.payout_id),
        differing,
    )


@pytest.mark.parametrize("event_type", sorted(set(EventType) - PAYOUT_EVENT_TYPES))
def test_no_other_event_moves_a_payout(event_type: EventType) -> None:
    """Only payout events do."""
    with pytest.raises(PayoutMoveNotAllowed):
        settle(PAYOUT, about(PAYOUT, event_type), [])


@pytest.mark.parametrize(
    ("events", "posted", "states"),
    [
        ((), (), ("CREATED",)),
        (("payout_paid",), ("PAYOUT_RELEASE",), ("CREATED", "PAID")),
        (("payout_failed",), ("PAYOUT_REVERSAL",), ("CREATED", "FAILED")),
        (
            ("payout_paid", "payout_failed"),
            ("PAYOUT_RELEASE", "PAYOUT_RETURN"),
            ("CREATED", "PAID", "RETURNED"),
        ),
        (
            ("payout_failed", "payout_paid"),
            ("PAYOUT_REVERSAL", None),
            ("CREATED", "FAILED", "RETURNED"),
        ),
        (("payout_submitted",), (None,), ("CREATED", "SUBMITTED")),
        (("payout_canceled",), ("PAYOUT_REVERSAL",), ("CREATED", "CANCELED")),
        (
            ("payout_submitted", "payout_failed", "payout_paid"),
            (None, "PAYOUT_REVERSAL", None),
            ("CREATED", "SUBMITTED", "FAILED", "RETURNED"),
        ),
    ],
)
def test_history_follows_from_the_events(
    events: tuple[str, ...], posted: tuple[str | None, ...], states: tuple[str, ...]
) -> None:
    """It begins with the creation, which no event causes. The order of the events is irrelevant."""
    recorded = [
        PayoutEvent(
            EventType(event),
            f"evt_{number}",
            uuid4(),
            CREATED_AT + timedelta(days=number),
            None if entry_type is None else EntryType(entry_type),
        )
        for number, (event, entry_type) in enumerate(zip(events, posted, strict=True), start=1)
    ]
    payout = replace(PAYOUT, state=PayoutState(states[-1]))
    created, *moves = moves_of(payout, recorded)
    assert moves_of(payout, recorded[::-1]) == [created, *moves]
    assert created == PayoutMove(PayoutState.CREATED, CREATED_AT, None, PAYOUT.transaction_id)
    assert moves == [
        PayoutMove(PayoutState(state), event.recorded_at, event.event_id, event.transaction_id)
        for state, event in zip(states[1:], recorded, strict=True)
    ]


def test_references_of_the_bank_are_no_moves() -> None:
    """They may come before and after any of them."""
    events = [
        PayoutEvent(EventType(event), f"evt_{number}", uuid4(), CREATED_AT, None)
        for number, event in enumerate(("payout_referenced", "payout_submitted"))
    ]
    moves = moves_of(PAYOUT, events)
    assert [move.state for move in moves] == [PayoutState.CREATED, PayoutState.SUBMITTED]


def test_named_payouts_are_submitted_all_or_none() -> None:
    """The error names those that are not CREATED, at most 20, and counts all."""
    created = SubmissionCandidate(uuid4(), "PEN", PayoutState.CREATED)
    others = [
        SubmissionCandidate(uuid4(), "PEN", state)
        for state in PayoutState
        if state is not PayoutState.CREATED
    ] * 5
    assert require_submittable([created]) == "PEN"
    with pytest.raises(PayoutsNotSubmittable) as refused:
        require_submittable([created, *others])
    assert refused.value.payout_ids == tuple(str(each.payout_id) for each in others[:20])
    assert refused.value.count == 25
    with pytest.raises(InvalidRequest):
        require_submittable([created, replace(created, currency="USD")])


def test_history_of_impossible_events_is_an_error() -> None:
    """Books with such events are broken."""
    paid_twice = [
        PayoutEvent(
            EventType.PAYOUT_PAID, f"evt_{number}", uuid4(), CREATED_AT, EntryType.PAYOUT_RELEASE
        )
        for number in (1, 2)
    ]
    with pytest.raises(ValueError, match="PAID"):
        moves_of(PAYOUT, paid_twice)
