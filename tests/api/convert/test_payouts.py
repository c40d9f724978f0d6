"""Payouts and payout runs, as requests and responses have them."""

from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from support.violations import violations_of

from ledger.api.convert.payouts import (
    decode_outcome,
    decode_payout_id,
    decode_payout_query,
    decode_payout_run_id,
    decode_payout_run_key,
    decode_payout_run_query,
    decode_submission_request,
    encode_payout,
    encode_payout_details,
    encode_payout_run,
    encode_payout_run_item,
    encode_run_payouts,
    encode_submission,
)
from ledger.application.ports.payouts import PayoutQuery, PayoutRunQuery
from ledger.domain.events import UNIX_EPOCH
from ledger.domain.fields import ID_RULE
from ledger.domain.money import CURRENCY_RULE
from ledger.domain.payout_states import PayoutState
from ledger.domain.payouts import (
    SUBMISSION_NAMED_MAX,
    SUBMISSION_PAYOUTS_MAX,
    Payout,
    PayoutDetails,
    PayoutItem,
    PayoutMove,
    PayoutRun,
    PayoutRunItem,
    PayoutRunItemOutcome,
    PayoutRunKey,
    PayoutRunState,
    PayoutSubmission,
    SkipReason,
    SubmissionRequest,
)
from ledger.domain.posting_rules import EntryType
from ledger.limits import RUN_RESTAURANTS_MAX
from ledger.v1 import ledger_pb2

UUID_TEXT = "0190a1b2-0000-7000-8000-00000000000a"
ID = UUID(UUID_TEXT)
MADE_BY_THE_SERVICE = "must be an id that this service made"
AS_OF_RULE = "must be a date from 2000-01-01 to 9998-12-31"
DAY = Date(year=2026, month=1, day=31)
PAYOUT = Payout(
    payout_id=ID,
    payout_run_id=ID,
    restaurant_id="res_1",
    currency="PEN",
    amount_minor=2**63 - 1,
    as_of=date(2026, 1, 31),
    cutoff_at=UNIX_EPOCH,
    state=PayoutState.CREATED,
    transaction_id=ID,
    created_at=UNIX_EPOCH + timedelta(microseconds=1),
)


def run_of(**fields: Any) -> PayoutRun:
    values: dict[str, Any] = {
        "payout_run_id": ID,
        "key": PayoutRunKey("PEN", date(2026, 1, 31), 5, "req"),
        "cutoff_at": UNIX_EPOCH,
        "state": PayoutRunState.RUNNING,
        "payouts_created": 1,
        "total_amount_minor": 7,
        "restaurants_considered": 2,
        "restaurants_total": 3,
        "skipped": {SkipReason.INACTIVE: 1},
        "created_at": UNIX_EPOCH,
        "finished_at": None,
    }
    return PayoutRun(**(values | fields))


def test_key_of_a_run_is_decoded_and_encoded() -> None:
    request = ledger_pb2.RunPayoutsRequest(
        currency="PEN", as_of=DAY, min_amount_minor=5, request_id="req"
    )
    key = decode_payout_run_key(request)
    message = encode_payout_run(run_of(key=key))
    assert (message.currency, message.as_of) == ("PEN", DAY)
    assert (message.min_amount_minor, message.request_id) == (5, "req")
    bare = ledger_pb2.RunPayoutsRequest(currency="PEN", as_of=DAY)
    assert decode_payout_run_key(bare) == PayoutRunKey("PEN", date(2026, 1, 31), 0, "")


def test_named_restaurants_are_sorted_and_each_once() -> None:
    """So that calls with the same ones name the same run."""
    request = ledger_pb2.RunPayoutsRequest(
        currency="PEN", as_of=DAY, restaurant_ids=["res_b", "res_a", "res_b", "RES"]
    )
    assert decode_payout_run_key(request).restaurant_ids == ("RES", "res_a", "res_b")
    request.restaurant_ids.extend(["res_a"] * (RUN_RESTAURANTS_MAX - 4))
    assert len(decode_payout_run_key(request).restaurant_ids) == 3
    request.restaurant_ids.append("res_a")
    assert violations_of(decode_payout_run_key, request) == [
        ("restaurant_ids", f"must be at most {RUN_RESTAURANTS_MAX}")
    ]


def test_bad_names_of_restaurants_are_reported_by_their_places() -> None:
    request = ledger_pb2.RunPayoutsRequest(
        currency="PEN", as_of=DAY, restaurant_ids=["", "res_1", "res 2"]
    )
    assert violations_of(decode_payout_run_key, request) == [
        ("restaurant_ids[0]", ID_RULE),
        ("restaurant_ids[2]", ID_RULE),
    ]


def test_plan_of_named_restaurants_is_encoded_with_its_items() -> None:
    """An item that was not looked at has no amounts."""
    outcome = PayoutRunItemOutcome.SKIPPED
    items = [
        PayoutRunItem("res_1", outcome, SkipReason.NOTHING_AVAILABLE, None, 0, -5, 0),
        PayoutRunItem("res_2", PayoutRunItemOutcome.OPEN, None, None, 0),
    ]
    response = encode_run_payouts(run_of(items=items, restaurants_named=2))
    assert response.payout_run.restaurants_named == 2
    debt, unseen = response.items
    assert (debt.available_minor, debt.retained_minor) == (-5, 0)
    assert debt.HasField("retained_minor")
    assert not unseen.HasField("available_minor")
    assert not unseen.HasField("retained_minor")


@pytest.mark.parametrize(
    "day", [(2000, 1, 1), (2024, 2, 29), (9998, 12, 31)], ids=lambda day: str(day)
)
def test_first_and_last_dates_of_a_run_are_taken(day: tuple[int, int, int]) -> None:
    as_of = Date(year=day[0], month=day[1], day=day[2])
    request = ledger_pb2.RunPayoutsRequest(currency="PEN", as_of=as_of)
    assert decode_payout_run_key(request).as_of == date(*day)


@pytest.mark.parametrize(
    "day",
    [
        (0, 0, 0),
        (2026, 0, 0),
        (2026, 2, 29),
        (1999, 12, 31),
        (9999, 1, 1),
        (-1, 1, 1),
        (2**31 - 1, 1, 1),
        (2026, 13, 1),
        (2026, -(2**31), 1),
    ],
    ids=lambda day: str(day),
)
def test_date_of_a_run_must_be_valid(day: tuple[int, int, int]) -> None:
    as_of = Date(year=day[0], month=day[1], day=day[2])
    request = ledger_pb2.RunPayoutsRequest(currency="PEN", as_of=as_of)
    assert violations_of(decode_payout_run_key, request) == [("as_of", AS_OF_RULE)]


def test_every_wrong_field_of_a_run_is_reported() -> None:
    request = ledger_pb2.RunPayoutsRequest(currency="pen", min_amount_minor=-1, request_id="a b")
    assert violations_of(decode_payout_run_key, request) == [
        ("currency", CURRENCY_RULE),
        ("as_of", "must be set"),
        ("min_amount_minor", "must be 0 or more"),
        ("request_id", f"{ID_RULE}, or be empty"),
    ]


def test_run_is_encoded_field_by_field() -> None:
    run = run_of(finished_at=UNIX_EPOCH, state=PayoutRunState.SUCCEEDED)
    assert encode_payout_run(run) == ledger_pb2.PayoutRun(
        payout_run_id=UUID_TEXT,
        currency="PEN",
        as_of=DAY,
        cutoff_at=Timestamp(),
        min_amount_minor=5,
        request_id="req",
        state=ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED,
        payouts_created=1,
        total_amount_minor=7,
        restaurants_considered=2,
        restaurants_total=3,
        skipped=[ledger_pb2.SkippedCount(reason=ledger_pb2.SKIP_REASON_INACTIVE, count=1)],
        created_at=Timestamp(),
        finished_at=Timestamp(),
    )


def test_plan_has_no_id_and_no_times() -> None:
    message = encode_payout_run(
        run_of(payout_run_id=None, created_at=None, state=PayoutRunState.PLANNED)
    )
    assert message.payout_run_id == ""
    assert not message.HasField("created_at")
    assert not message.HasField("finished_at")
    assert message.state == ledger_pb2.PAYOUT_RUN_STATE_PLANNED


@pytest.mark.parametrize(("total", "is_capped"), [(2**63 - 1, False), (2**63, True)])
def test_total_beyond_int64_is_capped(total: int, is_capped: bool) -> None:
    message = encode_payout_run(run_of(total_amount_minor=total))
    assert (message.total_amount_minor, message.is_capped) == (2**63 - 1, is_capped)


def test_ids_are_decoded() -> None:
    payout = ledger_pb2.GetPayoutRequest(payout_id=UUID_TEXT)
    assert decode_payout_id(payout) == ID
    assert violations_of(decode_payout_id, ledger_pb2.GetPayoutRequest()) == [
        ("payout_id", MADE_BY_THE_SERVICE)
    ]
    for request in (
        ledger_pb2.GetPayoutRunRequest,
        ledger_pb2.ListPayoutRunItemsRequest,
        ledger_pb2.CancelPayoutRunRequest,
    ):
        assert decode_payout_run_id(request(payout_run_id=UUID_TEXT)) == ID
        assert violations_of(decode_payout_run_id, request()) == [
            ("payout_run_id", MADE_BY_THE_SERVICE)
        ]


def test_query_of_runs_is_decoded() -> None:
    every = ledger_pb2.ListPayoutRunsRequest()
    assert decode_payout_run_query(every) == PayoutRunQuery(None, None)
    for state in PayoutRunState:
        request = ledger_pb2.ListPayoutRunsRequest(
            currency="PEN", state=ledger_pb2.PayoutRunState.Value(f"PAYOUT_RUN_STATE_{state.name}")
        )
        if state is PayoutRunState.PLANNED:
            assert violations_of(decode_payout_run_query, request) == [
                ("state", "must be one of the states that are stored")
            ]
        else:
            assert decode_payout_run_query(request) == PayoutRunQuery("PEN", state)


@pytest.mark.parametrize("number", [-1, 99, 2**31 - 1])
def test_every_wrong_field_of_a_query_is_reported(number: Any) -> None:
    """Numbers that the enum lacks included."""
    runs = ledger_pb2.ListPayoutRunsRequest(currency="EURO", state=number)
    assert violations_of(decode_payout_run_query, runs) == [
        ("currency", f"{CURRENCY_RULE}, or be empty"),
        ("state", "must be one of the states that are stored"),
    ]
    payouts = ledger_pb2.ListPayoutsRequest(restaurant_id="a b", state=number)
    assert violations_of(decode_payout_query, payouts) == [
        ("restaurant_id", f"{ID_RULE}, or be empty"),
        ("state", "must be one of the states"),
    ]
    assert violations_of(decode_outcome, number) == [("outcome", "must be one of the outcomes")]


def test_query_of_payouts_is_decoded() -> None:
    every = ledger_pb2.ListPayoutsRequest()
    assert decode_payout_query(every) == PayoutQuery()
    for state in PayoutState:
        request = ledger_pb2.ListPayoutsRequest(
            restaurant_id="res_1",
            state=ledger_pb2.PayoutState.Value(f"PAYOUT_STATE_{state.name}"),
            payout_run_id=UUID_TEXT,
        )
        assert decode_payout_query(request) == PayoutQuery("res_1", frozenset({state}), ID)
    request = ledger_pb2.ListPayoutsRequest(
        states=[ledger_pb2.PAYOUT_STATE_SUBMITTED, ledger_pb2.PAYOUT_STATE_CREATED],
        currency="PEN",
        start_at=Timestamp(),
        end_at=Timestamp(seconds=1),
        unanswered_since=Timestamp(seconds=2),
        submission_id="sub_1",
    )
    assert decode_payout_query(request) == PayoutQuery(
        states=frozenset({PayoutState.CREATED, PayoutState.SUBMITTED}),
        currency="PEN",
        start_at=UNIX_EPOCH,
        end_at=UNIX_EPOCH + timedelta(seconds=1),
        unanswered_since=UNIX_EPOCH + timedelta(seconds=2),
        submission_id="sub_1",
    )


def test_every_wrong_filter_of_payouts_is_reported() -> None:
    request = ledger_pb2.ListPayoutsRequest(
        currency="pen",
        start_at=Timestamp(nanos=-1),
        end_at=Timestamp(nanos=10**9),
        unanswered_since=Timestamp(seconds=-(2**63)),
        submission_id="a b",
        payout_run_id=UUID_TEXT.upper(),
        states=[ledger_pb2.PAYOUT_STATE_PAID, ledger_pb2.PAYOUT_STATE_PAID],
    )
    assert violations_of(decode_payout_query, request) == [
        ("currency", f"{CURRENCY_RULE}, or be empty"),
        ("start_at", "must be a valid timestamp"),
        ("end_at", "must be a valid timestamp"),
        ("unanswered_since", "must be a valid timestamp"),
        ("submission_id", f"{ID_RULE}, or be empty"),
        ("states", "must be states, each at most once"),
        ("payout_run_id", MADE_BY_THE_SERVICE),
    ]
    both = ledger_pb2.ListPayoutsRequest(
        state=ledger_pb2.PAYOUT_STATE_PAID,
        states=[ledger_pb2.PAYOUT_STATE_PAID],
        start_at=Timestamp(seconds=1),
        end_at=Timestamp(),
    )
    assert violations_of(decode_payout_query, both) == [
        ("start_at", "must not be after end_at"),
        ("states", "must be empty if state is set"),
    ]


def test_outcomes_are_decoded_and_encoded() -> None:
    assert decode_outcome(ledger_pb2.PAYOUT_RUN_ITEM_OUTCOME_UNSPECIFIED) is None
    for outcome in PayoutRunItemOutcome:
        item = encode_payout_run_item(PayoutRunItem("res_1", outcome, None, None, 0))
        assert decode_outcome(item.outcome) is outcome


def test_run_item_is_encoded_field_by_field() -> None:
    paid = PayoutRunItem("res_1", PayoutRunItemOutcome.PAYOUT_CREATED, None, ID, 7)
    assert encode_payout_run_item(paid) == ledger_pb2.PayoutRunItem(
        restaurant_id="res_1",
        outcome=ledger_pb2.PAYOUT_RUN_ITEM_OUTCOME_PAYOUT_CREATED,
        payout_id=UUID_TEXT,
        amount_minor=7,
    )
    for reason in SkipReason:
        skipped = PayoutRunItem("res_1", PayoutRunItemOutcome.SKIPPED, reason, None, 0)
        assert encode_payout_run_item(skipped) == ledger_pb2.PayoutRunItem(
            restaurant_id="res_1",
            outcome=ledger_pb2.PAYOUT_RUN_ITEM_OUTCOME_SKIPPED,
            skip_reason=ledger_pb2.SkipReason.Value(f"SKIP_REASON_{reason.name}"),
        )


def test_payout_is_encoded_with_its_items_and_history() -> None:
    message = encode_payout_details(
        PayoutDetails(
            PAYOUT,
            [PayoutItem(EntryType.CHARGE, 9), PayoutItem(EntryType.FEE, -2)],
            [
                PayoutMove(PayoutState.CREATED, UNIX_EPOCH, None, ID),
                PayoutMove(PayoutState.PAID, UNIX_EPOCH, "evt_1", ID),
            ],
        )
    )
    assert [(item.type, item.amount_minor) for item in message.items] == [
        (ledger_pb2.ENTRY_TYPE_CHARGE, 9),
        (ledger_pb2.ENTRY_TYPE_FEE, -2),
    ]
    assert [(move.state, move.event_id, move.transaction_id) for move in message.history] == [
        (ledger_pb2.PAYOUT_STATE_CREATED, "", UUID_TEXT),
        (ledger_pb2.PAYOUT_STATE_PAID, "evt_1", UUID_TEXT),
    ]
    del message.items[:], message.history[:]
    assert message == encode_payout(PAYOUT)
    assert message == ledger_pb2.Payout(
        payout_id=UUID_TEXT,
        payout_run_id=UUID_TEXT,
        restaurant_id="res_1",
        currency="PEN",
        amount_minor=2**63 - 1,
        as_of=DAY,
        cutoff_at=Timestamp(),
        state=ledger_pb2.PAYOUT_STATE_CREATED,
        created_at=Timestamp(nanos=1000),
        transaction_id=UUID_TEXT,
    )


def test_submission_of_a_run_or_of_named_payouts_is_decoded() -> None:
    of_run = ledger_pb2.SubmitPayoutsRequest(
        submission_id="sub_1", payout_run_id=UUID_TEXT, payouts_max=SUBMISSION_PAYOUTS_MAX
    )
    assert decode_submission_request(of_run) == SubmissionRequest(
        "sub_1", ID, frozenset(), SUBMISSION_PAYOUTS_MAX
    )
    named = ledger_pb2.SubmitPayoutsRequest(
        submission_id="sub_1",
        payout_ids=[str(UUID(int=number)) for number in range(SUBMISSION_NAMED_MAX)],
    )
    assert decode_submission_request(named) == SubmissionRequest(
        "sub_1", None, frozenset(map(UUID, named.payout_ids)), 0
    )


@pytest.mark.parametrize(
    ("fields", "violations"),
    [
        (
            {"submission_id": "a b"},
            [
                ("submission_id", ID_RULE),
                ("payout_run_id", "must be set, or payout_ids, but not both"),
            ],
        ),
        (
            {"payout_run_id": UUID_TEXT, "payout_ids": [UUID_TEXT]},
            [("payout_run_id", "must be set, or payout_ids, but not both")],
        ),
        (
            {"payout_ids": [UUID_TEXT, "x", UUID_TEXT], "payouts_max": 1},
            [
                ("payout_ids[1]", MADE_BY_THE_SERVICE),
                ("payout_ids", "must name each payout once"),
                ("payouts_max", "must be 0 without payout_run_id"),
            ],
        ),
        (
            {"payout_ids": [UUID_TEXT] * (SUBMISSION_NAMED_MAX + 1)},
            [("payout_ids", f"must be at most {SUBMISSION_NAMED_MAX} ids")],
        ),
        (
            {"payout_run_id": UUID_TEXT, "payouts_max": -1},
            [("payouts_max", f"must be 0 to {SUBMISSION_PAYOUTS_MAX}")],
        ),
        (
            {"payout_run_id": UUID_TEXT, "payouts_max": SUBMISSION_PAYOUTS_MAX + 1},
            [("payouts_max", f"must be 0 to {SUBMISSION_PAYOUTS_MAX}")],
        ),
        ({"payout_run_id": UUID_TEXT.upper()}, [("payout_run_id", MADE_BY_THE_SERVICE)]),
        (
            {"submission_id": "", "payout_run_id": "x", "payouts_max": -1},
            [
                ("submission_id", ID_RULE),
                ("payout_run_id", MADE_BY_THE_SERVICE),
                ("payouts_max", f"must be 0 to {SUBMISSION_PAYOUTS_MAX}"),
            ],
        ),
    ],
)
def test_every_wrong_field_of_a_submission_is_reported(
    fields: dict[str, Any], violations: list[tuple[str, str]]
) -> None:
    request = ledger_pb2.SubmitPayoutsRequest(**({"submission_id": "sub_1"} | fields))
    assert violations_of(decode_submission_request, request) == violations


@pytest.mark.parametrize(
    ("total", "shown", "is_capped"),
    [(7, 7, False), (2**63 - 1, 2**63 - 1, False), (2**63, 2**63 - 1, True)],
)
def test_submission_is_encoded_field_by_field(total: int, shown: int, is_capped: bool) -> None:
    submission = PayoutSubmission(
        "sub_1", ID, 5, "PEN", 2, total, {PayoutState.PAID: 3}, UNIX_EPOCH
    )
    expected = ledger_pb2.PayoutSubmission(
        submission_id="sub_1",
        payout_run_id=UUID_TEXT,
        currency="PEN",
        payouts_count=2,
        total_amount_minor=shown,
        is_capped=is_capped,
        left_out=[ledger_pb2.LeftOutCount(state=ledger_pb2.PAYOUT_STATE_PAID, count=3)],
        created_at=Timestamp(),
    )
    response = encode_submission(submission, is_new=True)
    assert response.submission == expected
    assert response.status == ledger_pb2.SUBMIT_STATUS_CREATED
    assert encode_submission(submission, is_new=False).status == ledger_pb2.SUBMIT_STATUS_DUPLICATE


def test_cancellation_names_its_payout() -> None:
    assert decode_payout_id(ledger_pb2.CancelPayoutRequest(payout_id=UUID_TEXT)) == ID
