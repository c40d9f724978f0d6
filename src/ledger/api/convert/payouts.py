"""Between the contract's messages and the domain, for payouts and the runs that create them."""

from datetime import date
from uuid import UUID

from google.type import date_pb2

from ledger.api.convert.enums import by_number
from ledger.api.convert.events import ENTRY_TYPE_NUMBERS
from ledger.api.convert.identifiers import decode_uuid, id_violations
from ledger.api.convert.instants import (
    decode_instant_of,
    encode_instant,
    encode_optional_instant,
)
from ledger.api.convert.paging import CREATION_PLACE, ID_PLACE, Listing, Paging
from ledger.application.ports.pages import CreationPlace, Page
from ledger.application.ports.payouts import PayoutQuery, PayoutRunQuery
from ledger.domain.events import microseconds
from ledger.domain.fields import ID_RULE, is_id
from ledger.domain.money import CURRENCY_RULE, INT64_MAX, is_currency
from ledger.domain.payout_states import PayoutState
from ledger.domain.payouts import (
    SUBMISSION_NAMED_MAX,
    SUBMISSION_PAYOUTS_MAX,
    Payout,
    PayoutDetails,
    PayoutRun,
    PayoutRunItem,
    PayoutRunItemOutcome,
    PayoutRunKey,
    PayoutRunState,
    PayoutSubmission,
    SkipReason,
    SubmissionRequest,
)
from ledger.errors import FieldViolation, InvalidRequest
from ledger.limits import RUN_RESTAURANTS_MAX
from ledger.v1 import ledger_pb2

# Events are no older, and the end of the latest date must still be an instant.
_DATE_MIN = date(2000, 1, 1)
_DATE_MAX = date(9998, 12, 31)
_PAYOUT_STATES = by_number(
    ledger_pb2.PayoutState, "PAYOUT_STATE_", PayoutState, "src/ledger/domain/payout_states.py"
)
_PAYOUT_STATE_NUMBERS = {
    state: ledger_pb2.PayoutState.Value(f"PAYOUT_STATE_{state.name}") for state in PayoutState
}
_PAYOUT_RUN_STATE_NUMBERS = {
    state: ledger_pb2.PayoutRunState.Value(f"PAYOUT_RUN_STATE_{state.name}")
    for state in PayoutRunState
}
_PAYOUT_RUN_STATES = {
    number: state
    for state, number in _PAYOUT_RUN_STATE_NUMBERS.items()
    if state is not PayoutRunState.PLANNED
}
_OUTCOMES = by_number(
    ledger_pb2.PayoutRunItemOutcome,
    "PAYOUT_RUN_ITEM_OUTCOME_",
    PayoutRunItemOutcome,
    "src/ledger/domain/payouts.py",
)
_OUTCOME_NUMBERS = {
    outcome: ledger_pb2.PayoutRunItemOutcome.Value(f"PAYOUT_RUN_ITEM_OUTCOME_{outcome.name}")
    for outcome in PayoutRunItemOutcome
}
_SKIP_REASON_NUMBERS = {
    reason: ledger_pb2.SkipReason.Value(f"SKIP_REASON_{reason.name}") for reason in SkipReason
}


def decode_payout_run_key(request: ledger_pb2.RunPayoutsRequest) -> PayoutRunKey:
    """Returns what identifies the requested run. Raises InvalidRequest."""
    violations: list[FieldViolation] = []
    if not is_currency(request.currency):
        violations.append(FieldViolation("currency", CURRENCY_RULE))
    as_of = None
    if not request.HasField("as_of"):
        violations.append(FieldViolation("as_of", "must be set"))
    else:
        as_of = _decode_date(request.as_of)
        if as_of is None:
            violations.append(
                FieldViolation("as_of", f"must be a date from {_DATE_MIN} to {_DATE_MAX}")
            )
    if request.min_amount_minor < 0:
        violations.append(FieldViolation("min_amount_minor", "must be 0 or more"))
    if request.request_id and not is_id(request.request_id):
        violations.append(FieldViolation("request_id", f"{ID_RULE}, or be empty"))
    named = request.restaurant_ids
    if len(named) > RUN_RESTAURANTS_MAX:
        violations.append(
            FieldViolation("restaurant_ids", f"must be at most {RUN_RESTAURANTS_MAX}")
        )
    else:
        violations += [
            FieldViolation(f"restaurant_ids[{place}]", ID_RULE)
            for place, restaurant_id in enumerate(named)
            if not is_id(restaurant_id)
        ]
    if violations or as_of is None:
        raise InvalidRequest(violations)
    return PayoutRunKey(
        request.currency,
        as_of,
        request.min_amount_minor,
        request.request_id,
        tuple(sorted(set(named))),
    )


def encode_run_payouts(run: PayoutRun) -> ledger_pb2.RunPayoutsResponse:
    return ledger_pb2.RunPayoutsResponse(
        payout_run=encode_payout_run(run), items=map(encode_payout_run_item, run.items)
    )


def encode_payout_run(run: PayoutRun) -> ledger_pb2.PayoutRun:
    return ledger_pb2.PayoutRun(
        payout_run_id="" if run.payout_run_id is None else str(run.payout_run_id),
        currency=run.key.currency,
        as_of=encode_date(run.key.as_of),
        cutoff_at=encode_instant(run.cutoff_at),
        min_amount_minor=run.key.min_amount_minor,
        request_id=run.key.request_id,
        state=_PAYOUT_RUN_STATE_NUMBERS[run.state],
        payouts_created=run.payouts_created,
        total_amount_minor=min(run.total_amount_minor, INT64_MAX),
        is_capped=run.total_amount_minor > INT64_MAX,
        restaurants_considered=run.restaurants_considered,
        restaurants_total=run.restaurants_total,
        skipped=[
            ledger_pb2.SkippedCount(reason=_SKIP_REASON_NUMBERS[reason], count=count)
            for reason, count in run.skipped.items()
        ],
        created_at=encode_optional_instant(run.created_at),
        finished_at=encode_optional_instant(run.finished_at),
        restaurants_named=run.restaurants_named,
    )


def decode_payout_id(request: ledger_pb2.GetPayoutRequest | ledger_pb2.CancelPayoutRequest) -> UUID:
    """Returns the requested id. Raises InvalidRequest."""
    return decode_uuid("payout_id", request.payout_id)


def decode_payout_run_id(
    request: ledger_pb2.GetPayoutRunRequest
    | ledger_pb2.ListPayoutRunItemsRequest
    | ledger_pb2.CancelPayoutRunRequest,
) -> UUID:
    """Returns the requested id. Raises InvalidRequest."""
    return decode_uuid("payout_run_id", request.payout_run_id)


def decode_payout_run_query(request: ledger_pb2.ListPayoutRunsRequest) -> PayoutRunQuery:
    """Which runs to list. Raises InvalidRequest."""
    violations: list[FieldViolation] = []
    if request.currency and not is_currency(request.currency):
        violations.append(FieldViolation("currency", f"{CURRENCY_RULE}, or be empty"))
    if request.state and request.state not in _PAYOUT_RUN_STATES:
        violations.append(FieldViolation("state", "must be one of the states that are stored"))
    if violations:
        raise InvalidRequest(violations)
    return PayoutRunQuery(request.currency or None, _PAYOUT_RUN_STATES.get(request.state))


def payout_run_listing(query: PayoutRunQuery) -> Listing[CreationPlace]:
    """The runs that `query` selects."""
    described = ("ListPayoutRuns", query.currency or "", query.state or "")
    return Listing(described, CREATION_PLACE)


def encode_payout_run_page(
    paging: Paging[CreationPlace], page: Page[PayoutRun, CreationPlace]
) -> ledger_pb2.ListPayoutRunsResponse:
    return ledger_pb2.ListPayoutRunsResponse(
        payout_runs=[encode_payout_run(run) for run in page.items],
        next_page_token=paging.next_page_token(page.next_place),
    )


def decode_outcome(
    number: ledger_pb2.PayoutRunItemOutcome.ValueType,
) -> PayoutRunItemOutcome | None:
    """The outcome to list, None for all. Raises InvalidRequest."""
    if number and number not in _OUTCOMES:
        raise InvalidRequest([FieldViolation("outcome", "must be one of the outcomes")])
    return _OUTCOMES.get(number)


def payout_run_item_listing(
    payout_run_id: UUID, outcome: PayoutRunItemOutcome | None
) -> Listing[str]:
    """The restaurants of a run, all or of one outcome."""
    return Listing(("ListPayoutRunItems", str(payout_run_id), outcome or ""), ID_PLACE)


def encode_payout_run_item_page(
    paging: Paging[str], page: Page[PayoutRunItem, str]
) -> ledger_pb2.ListPayoutRunItemsResponse:
    return ledger_pb2.ListPayoutRunItemsResponse(
        items=[encode_payout_run_item(item) for item in page.items],
        next_page_token=paging.next_page_token(page.next_place),
    )


def encode_payout_run_item(item: PayoutRunItem) -> ledger_pb2.PayoutRunItem:
    return ledger_pb2.PayoutRunItem(
        restaurant_id=item.restaurant_id,
        outcome=_OUTCOME_NUMBERS[item.outcome],
        skip_reason=_SKIP_REASON_NUMBERS[item.skip_reason]
        if item.skip_reason
        else ledger_pb2.SKIP_REASON_UNSPECIFIED,
        payout_id="" if item.payout_id is None else str(item.payout_id),
        amount_minor=item.amount_minor,
        available_minor=item.available_minor,
        retained_minor=item.retained_minor,
    )


def encode_payout(payout: Payout) -> ledger_pb2.Payout:
    """A payout without its items and its history."""
    return ledger_pb2.Payout(
        payout_id=str(payout.payout_id),
        payout_run_id=str(payout.payout_run_id),
        restaurant_id=payout.restaurant_id,
        currency=payout.currency,
        amount_minor=payout.amount_minor,
        as_of=encode_date(payout.as_of),
        cutoff_at=encode_instant(payout.cutoff_at),
        state=_PAYOUT_STATE_NUMBERS[payout.state],
        created_at=encode_instant(payout.created_at),
        transaction_id=str(payout.transaction_id),
        retained_minor=payout.retained_minor,
        retained_before_minor=payout.retained_before_minor,
        submission_id=payout.submission_id or "",
        submitted_at=encode_optional_instant(payout.submitted_at),
        answered_at=encode_optional_instant(payout.answered_at),
        bank_reference=payout.bank_reference,
        failure_code=payout.failure_code,
        failure_text=payout.failure_text,
    )


def encode_payout_details(details: PayoutDetails) -> ledger_pb2.Payout:
    """A payout with its items and its history."""
    message = encode_payout(details.payout)
    for item in details.items:
        message.items.add(type=ENTRY_TYPE_NUMBERS[item.entry_type], amount_minor=item.amount_minor)
    for move in details.history:
        message.history.add(
            state=_PAYOUT_STATE_NUMBERS[move.state],
            recorded_at=encode_instant(move.recorded_at),
            event_id=move.event_id or "",
            transaction_id=str(move.transaction_id),
            bank_reference=move.bank_reference,
            failure_code=move.failure_code,
            failure_text=move.failure_text,
        )
    return message


def decode_payout_query(request: ledger_pb2.ListPayoutsRequest) -> PayoutQuery:
    """Which payouts to list. Raises InvalidRequest."""
    violations: list[FieldViolation] = []
    if request.restaurant_id and not is_id(request.restaurant_id):
        violations.append(FieldViolation("restaurant_id", f"{ID_RULE}, or be empty"))
    if request.state and request.state not in _PAYOUT_STATES:
        violations.append(FieldViolation("state", "must be one of the states"))
    if request.currency and not is_currency(request.currency):
        violations.append(FieldViolation("currency", f"{CURRENCY_RULE}, or be empty"))
    instants = {
        field: decode_instant_of(request, field, violations)
        for field in ("start_at", "end_at", "unanswered_since")
    }
    start_at, end_at = instants["start_at"], instants["end_at"]
    if start_at is not None and end_at is not None and start_at > end_at:
        violations.append(FieldViolation("start_at", "must not be after end_at"))
    if request.submission_id and not is_id(request.submission_id):
        violations.append(FieldViolation("submission_id", f"{ID_RULE}, or be empty"))
    states = set(request.states)
    if request.state and states:
        violations.append(FieldViolation("states", "must be empty if state is set"))
    elif len(states) < len(request.states) or not states <= _PAYOUT_STATES.keys():
        violations.append(FieldViolation("states", "must be states, each at most once"))
    payout_run_id = _decode_optional_uuid("payout_run_id", request.payout_run_id, violations)
    if violations:
        raise InvalidRequest(violations)
    if request.state:
        states.add(request.state)
    return PayoutQuery(
        restaurant_id=request.restaurant_id or None,
        states=frozenset(_PAYOUT_STATES[number] for number in states),
        payout_run_id=payout_run_id,
        currency=request.currency or None,
        start_at=start_at,
        end_at=end_at,
        unanswered_since=instants["unanswered_since"],
        submission_id=request.submission_id or None,
    )


def payout_listing(query: PayoutQuery) -> Listing[CreationPlace]:
    """The payouts that `query` selects."""
    described = (
        "ListPayouts",
        query.restaurant_id or "",
        ",".join(sorted(query.states)),
        str(query.payout_run_id or ""),
    )
    later = (
        query.currency or "",
        *(
            "" if instant is None else str(microseconds(instant))
            for instant in (query.start_at, query.end_at, query.unanswered_since)
        ),
        query.submission_id or "",
    )
    # Without them the tokens are those of servers that did not know these filters.
    return Listing((*described, *later) if any(later) else described, CREATION_PLACE)


def encode_payout_page(
    paging: Paging[CreationPlace], page: Page[Payout, CreationPlace]
) -> ledger_pb2.ListPayoutsResponse:
    return ledger_pb2.ListPayoutsResponse(
        payouts=[encode_payout(payout) for payout in page.items],
        next_page_token=paging.next_page_token(page.next_place),
    )


def decode_submission_request(request: ledger_pb2.SubmitPayoutsRequest) -> SubmissionRequest:
    """What to submit. Raises InvalidRequest."""
    violations = id_violations({"submission_id": request.submission_id})
    if bool(request.payout_run_id) == bool(request.payout_ids):
        violations.append(
            FieldViolation("payout_run_id", "must be set, or payout_ids, but not both")
        )
    payout_run_id = _decode_optional_uuid("payout_run_id", request.payout_run_id, violations)
    payout_ids: set[UUID] = set()
    if len(request.payout_ids) > SUBMISSION_NAMED_MAX:
        violations.append(
            FieldViolation("payout_ids", f"must be at most {SUBMISSION_NAMED_MAX} ids")
        )
    else:
        for place, text in enumerate(request.payout_ids):
            try:
                payout_ids.add(decode_uuid(f"payout_ids[{place}]", text))
            except InvalidRequest as error:
                violations += error.violations
        if len(set(request.payout_ids)) < len(request.payout_ids):
            violations.append(FieldViolation("payout_ids", "must name each payout once"))
    if not 0 <= request.payouts_max <= SUBMISSION_PAYOUTS_MAX:
        violations.append(FieldViolation("payouts_max", f"must be 0 to {SUBMISSION_PAYOUTS_MAX}"))
    elif request.payouts_max and not request.payout_run_id:
        violations.append(FieldViolation("payouts_max", "must be 0 without payout_run_id"))
    if violations:
        raise InvalidRequest(violations)
    return SubmissionRequest(
        request.submission_id, payout_run_id, frozenset(payout_ids), request.payouts_max
    )


def encode_submission(
    submission: PayoutSubmission, *, is_new: bool
) -> ledger_pb2.SubmitPayoutsResponse:
    return ledger_pb2.SubmitPayoutsResponse(
        status=ledger_pb2.SUBMIT_STATUS_CREATED if is_new else ledger_pb2.SUBMIT_STATUS_DUPLICATE,
        submission=ledger_pb2.PayoutSubmission(
            submission_id=submission.submission_id,
            payout_run_id=str(submission.payout_run_id or ""),
            currency=submission.currency,
            payouts_count=submission.payouts_count,
            total_amount_minor=min(submission.total_amount_minor, INT64_MAX),
            is_capped=submission.total_amount_minor > INT64_MAX,
            left_out=[
                ledger_pb2.LeftOutCount(state=_PAYOUT_STATE_NUMBERS[state], count=count)
                for state, count in submission.left_out.items()
            ],
            created_at=encode_instant(submission.created_at),
        ),
    )


def _decode_optional_uuid(field: str, text: str, violations: list[FieldViolation]) -> UUID | None:
    """The id; None if it is empty or malformed, which adds a violation."""
    if not text:
        return None
    try:
        return decode_uuid(field, text)
    except InvalidRequest as error:
        violations += error.violations
        return None


def _decode_date(message: date_pb2.Date) -> date | None:
    try:
        found = date(message.year, message.month, message.day)
    except (ValueError, OverflowError):
        return None
    return found if _DATE_MIN <= found <= _DATE_MAX else None


def encode_date(day: date) -> date_pb2.Date:
    """The date as a message."""
    return date_pb2.Date(year=day.year, month=day.month, day=day.day)
