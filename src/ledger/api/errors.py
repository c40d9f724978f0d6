"""The table from the ledger's errors to gRPC statuses.

Any other exception is INTERNAL, with a constant text, so that it reveals nothing.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from ledger.errors import (
    AccountChanged,
    AccountClosed,
    AccountIdReused,
    AccountNotEmpty,
    AccountNotFound,
    AmountOutOfRange,
    DatabaseContention,
    DatabaseTimeout,
    DatabaseUnavailable,
    DeadlineTooShort,
    EventFailed,
    EventIdReused,
    EventNotFound,
    EventRejected,
    EventTypeUnknown,
    FieldViolation,
    InvalidRequest,
    LedgerError,
    LinkedPaymentRefused,
    MalformedMessage,
    NotAuthenticated,
    OperationIdReused,
    PaymentIdReused,
    PaymentNotFound,
    PaymentRejected,
    PayoutAnswersContradict,
    PayoutEntriesUnknown,
    PayoutMismatch,
    PayoutMoveNotAllowed,
    PayoutNotFound,
    PayoutRunArchived,
    PayoutRunEnded,
    PayoutRunNotFound,
    PayoutRunUnderWay,
    PayoutsNotSubmittable,
    QuarantinedMoved,
    QuarantinedNotFound,
    QueueFull,
    RateLimited,
    RequestTooLarge,
    RequestTooSlow,
    RestaurantChanged,
    RestaurantNotFound,
    ScopeMissing,
    ShuttingDown,
    SubmissionIdReused,
    SubmissionNotFound,
    TooManyPayoutRuns,
)
from ledger.v1 import error_reason_pb2

DOMAIN = "ledger.v1"
# Different delays in turn, far from each other, so that calls that were refused together do not
# retry together: 0.5, 0.94, 1.38, 0.81, … s.
RETRY_DELAYS_SECONDS = tuple(0.5 + (7 * step % 16) / 16 for step in range(16))
RETRY_PUSHBACK_MS_MAX = 2000
_REASON_PREFIX = "ERROR_REASON_"


@dataclass(frozen=True, slots=True)
class _Row:
    """The status of an error: its code, reason, text, and the metadata that its reason promises.

    `text` is None if each error has another one. With `retry` the status says when to retry.
    """

    code: grpc.StatusCode
    reason: error_reason_pb2.ErrorReason.ValueType
    text: str | None = None
    metadata: Callable[[Any], Mapping[str, str]] | None = None
    details: Callable[[Any], list[Message]] | None = None
    retry: bool = False


def _bad_request(error: InvalidRequest) -> list[Message]:
    return _field_violations(error.violations)


def _field_violations(violations: Sequence[FieldViolation]) -> list[Message]:
    described = [
        error_details_pb2.BadRequest.FieldViolation(
            field=violation.field, description=violation.description
        )
        for violation in violations
    ]
    return [error_details_pb2.BadRequest(field_violations=described)]


def _retry_info(seconds: float) -> list[Message]:
    delay = duration_pb2.Duration()
    # Rounded up: a nanosecond earlier the call would be refused again.
    delay.FromMicroseconds(math.ceil(seconds * 1_000_000))
    return [error_details_pb2.RetryInfo(retry_delay=delay)]


def _field_of(error: InvalidRequest) -> Mapping[str, str]:
    return {"field": error.violations[0].field}


def _restaurants_of(error: RestaurantNotFound) -> Mapping[str, str]:
    named = {"restaurant_id": error.restaurant_id}
    if len(error.restaurant_ids) > 1:
        named["restaurant_ids"] = ",".join(error.restaurant_ids)
    return named


def _account_of(error: Any) -> Mapping[str, str]:
    return {"account_id": error.account_id}


def _payment_of(error: Any) -> Mapping[str, str]:
    return {"payment_id": error.payment_id}


# fmt: off
_TABLE: dict[type[LedgerError], _Row] = {
    InvalidRequest: _Row(
        grpc.StatusCode.INVALID_ARGUMENT, error_reason_pb2.ERROR_REASON_INVALID_REQUEST,
        metadata=_field_of, details=_bad_request),
    EventTypeUnknown: _Row(
        grpc.StatusCode.INVALID_ARGUMENT, error_reason_pb2.ERROR_REASON_EVENT_TYPE_UNKNOWN,
        metadata=lambda error: {"field": error.field, "event_type": str(error.number)},
        details=lambda error: _field_violations(
            [FieldViolation(error.field, "is a type that this server does not know")])),
    MalformedMessage: _Row(
        grpc.StatusCode.INVALID_ARGUMENT, error_reason_pb2.ERROR_REASON_MALFORMED_MESSAGE,
        text="the request is not the message that this method takes"),
    EventRejected: _Row(
        grpc.StatusCode.INVALID_ARGUMENT, error_reason_pb2.ERROR_REASON_EVENT_REJECTED,
        metadata=lambda error: {"event_id": error.event_id}),
    EventFailed: _Row(
        grpc.StatusCode.INTERNAL, error_reason_pb2.ERROR_REASON_INTERNAL,
        text="internal error", metadata=lambda error: {"error_id": error.error_id}),
    EventIdReused: _Row(
        grpc.StatusCode.ALREADY_EXISTS, error_reason_pb2.ERROR_REASON_EVENT_ID_REUSED,
        metadata=lambda error: {
            "event_id": error.event_id, "differing_fields": ",".join(error.differing_fields)}),
    EventNotFound: _Row(
        grpc.StatusCode.NOT_FOUND, error_reason_pb2.ERROR_REASON_EVENT_NOT_FOUND,
        metadata=lambda error: {"event_id": error.event_id}),
    RestaurantNotFound: _Row(
        grpc.StatusCode.NOT_FOUND, error_reason_pb2.ERROR_REASON_RESTAURANT_NOT_FOUND,
        metadata=_restaurants_of),
    RestaurantChanged: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.ERROR_REASON_RESTAURANT_CHANGED,
        metadata=lambda error: {"restaurant_id": error.restaurant_id}),
    PayoutNotFound: _Row(
        grpc.StatusCode.NOT_FOUND, error_reason_pb2.ERROR_REASON_PAYOUT_NOT_FOUND,
        metadata=lambda error: {"payout_id": error.payout_id}),
    PayoutRunEnded: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.ERROR_REASON_PAYOUT_RUN_ENDED,
        metadata=lambda error: {"payout_run_id": error.payout_run_id}),
    PayoutEntriesUnknown: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.ERROR_REASON_PAYOUT_ENTRIES_UNKNOWN,
        metadata=lambda error: {"payout_id": error.payout_id}),
    PayoutRunArchived: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.ERROR_REASON_PAYOUT_RUN_ARCHIVED,
        metadata=lambda error: {
            "payout_run_id": error.payout_run_id, "file_name": error.file_name}),
    TooManyPayoutRuns: _Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED, error_reason_pb2.ERROR_REASON_TOO_MANY_PAYOUT_RUNS,
        text="as many payout runs are under way as may be; wait for one to end, or cancel one",
        retry=True),
    PayoutRunNotFound: _Row(
        grpc.StatusCode.NOT_FOUND, error_reason_pb2.ERROR_REASON_PAYOUT_RUN_NOT_FOUND,
        metadata=lambda error: {"payout_run_id": error.payout_run_id}),
    PayoutRunUnderWay: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.ERROR_REASON_PAYOUT_RUN_UNDER_WAY,
        metadata=lambda error: {"payout_run_id": error.payout_run_id}),
    SubmissionNotFound: _Row(
        grpc.StatusCode.NOT_FOUND, error_reason_pb2.ERROR_REASON_SUBMISSION_NOT_FOUND,
        metadata=lambda error: {"submission_id": error.submission_id}),
    SubmissionIdReused: _Row(
        grpc.StatusCode.ALREADY_EXISTS, error_reason_pb2.ERROR_REASON_SUBMISSION_ID_REUSED,
        metadata=lambda error: {
            "submission_id": error.submission_id,
            "differing_fields": ",".join(error.differing_fields)}),
    PayoutsNotSubmittable: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.ERROR_REASON_PAYOUTS_NOT_SUBMITTABLE,
        metadata=lambda error: {
            "payout_ids": ",".join(error.payout_ids), "count": str(error.count)}),
    QuarantinedNotFound: _Row(
        grpc.StatusCode.NOT_FOUND, error_reason_pb2.ERROR_REASON_QUARANTINED_NOT_FOUND,
        metadata=lambda error: {"quarantine_id": error.quarantine_id}),
    QuarantinedMoved: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.ERROR_REASON_QUARANTINED_MOVED,
        metadata=lambda error: {
            "quarantine_id": error.quarantine_id, "state": error.state,
            "move_number": str(error.move_number)}),
    PayoutMoveNotAllowed: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.ERROR_REASON_PAYOUT_MOVE_NOT_ALLOWED,
        metadata=lambda error: {
            "payout_id": error.payout_id, "state": error.state, "event_id": error.event_id,
            "booked_event_ids": ",".join(error.booked_event_ids)}),
    PayoutAnswersContradict: _Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        error_reason_pb2.ERROR_REASON_PAYOUT_ANSWERS_CONTRADICT, metadata=lambda error: {
            "payout_id": error.payout_id, "state": error.state, "event_id": error.event_id,
            "booked_event_id": error.booked_event_id}),
    PayoutMismatch: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.ERROR_REASON_PAYOUT_MISMATCH,
        metadata=lambda error: {
            "payout_id": error.payout_id, "differing_fields": ",".join(error.differing_fields)}),
    AccountNotFound: _Row(
        grpc.StatusCode.NOT_FOUND, error_reason_pb2.ERROR_REASON_ACCOUNT_NOT_FOUND,
        metadata=_account_of),
    AccountIdReused: _Row(
        grpc.StatusCode.ALREADY_EXISTS, error_reason_pb2.ERROR_REASON_ACCOUNT_ID_REUSED,
        metadata=lambda error: {
            "account_id": error.account_id, "differing_fields": ",".join(error.differing_fields)}),
    AccountChanged: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.ERROR_REASON_ACCOUNT_CHANGED,
        metadata=_account_of),
    AccountNotEmpty: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.ERROR_REASON_ACCOUNT_NOT_EMPTY,
        metadata=_account_of),
    AccountClosed: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.ERROR_REASON_ACCOUNT_CLOSED,
        metadata=_account_of),
    PaymentNotFound: _Row(
        grpc.StatusCode.NOT_FOUND, error_reason_pb2.ERROR_REASON_PAYMENT_NOT_FOUND,
        metadata=_payment_of),
    PaymentIdReused: _Row(
        grpc.StatusCode.ALREADY_EXISTS, error_reason_pb2.ERROR_REASON_PAYMENT_ID_REUSED,
        metadata=lambda error: {
            "payment_id": error.payment_id, "differing_fields": ",".join(error.differing_fields)}),
    OperationIdReused: _Row(
        grpc.StatusCode.ALREADY_EXISTS, error_reason_pb2.ERROR_REASON_OPERATION_ID_REUSED,
        metadata=lambda error: {
            "operation_id": error.operation_id,
            "differing_fields": ",".join(error.differing_fields)}),
    LinkedPaymentRefused: _Row(
        grpc.StatusCode.FAILED_PRECONDITION, error_reason_pb2.ERROR_REASON_LINKED_PAYMENT_REFUSED,
        metadata=_payment_of),
    PaymentRejected: _Row(
        grpc.StatusCode.INVALID_ARGUMENT, error_reason_pb2.ERROR_REASON_PAYMENT_REJECTED,
        metadata=_payment_of),
    AmountOutOfRange: _Row(
        grpc.StatusCode.OUT_OF_RANGE, error_reason_pb2.ERROR_REASON_AMOUNT_OUT_OF_RANGE,
        metadata=lambda error: {"field": error.field}),
    DatabaseUnavailable: _Row(
        grpc.StatusCode.UNAVAILABLE, error_reason_pb2.ERROR_REASON_DATABASE_UNAVAILABLE,
        text="the database is not available; repeat the call", retry=True),
    DatabaseContention: _Row(
        grpc.StatusCode.UNAVAILABLE, error_reason_pb2.ERROR_REASON_DATABASE_UNAVAILABLE,
        text="the database is busy; repeat the call", retry=True),
    DatabaseTimeout: _Row(
        grpc.StatusCode.UNAVAILABLE, error_reason_pb2.ERROR_REASON_DATABASE_UNAVAILABLE,
        text="the database took too long; repeat the call", retry=True),
    QueueFull: _Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED, error_reason_pb2.ERROR_REASON_QUEUE_FULL,
        text="as much work waits as the server can hold; repeat the call later", retry=True),
    RequestTooLarge: _Row(
        grpc.StatusCode.INVALID_ARGUMENT, error_reason_pb2.ERROR_REASON_REQUEST_TOO_LARGE),
    RequestTooSlow: _Row(
        grpc.StatusCode.DEADLINE_EXCEEDED, error_reason_pb2.ERROR_REASON_REQUEST_TOO_SLOW,
        text="the request did not arrive in time; nothing was stored"),
    DeadlineTooShort: _Row(
        grpc.StatusCode.DEADLINE_EXCEEDED, error_reason_pb2.ERROR_REASON_DEADLINE_TOO_SHORT,
        text="what waits before the call takes longer than the call has left; nothing was stored"),
    NotAuthenticated: _Row(
        grpc.StatusCode.UNAUTHENTICATED, error_reason_pb2.ERROR_REASON_NOT_AUTHENTICATED,
        text="the call has no credentials, or they are not accepted"),
    ScopeMissing: _Row(
        grpc.StatusCode.PERMISSION_DENIED, error_reason_pb2.ERROR_REASON_SCOPE_MISSING,
        metadata=lambda error: {"scope": error.scope}),
    RateLimited: _Row(
        grpc.StatusCode.RESOURCE_EXHAUSTED, error_reason_pb2.ERROR_REASON_RATE_LIMITED,
        text="the caller calls more often than it may; repeat the call later",
        details=lambda error: _retry_info(error.retry_after_seconds)),
    ShuttingDown: _Row(
        grpc.StatusCode.UNAVAILABLE, error_reason_pb2.ERROR_REASON_SHUTTING_DOWN,
        text="the server is stopping; repeat the call", retry=True),
}
# fmt: on


def has_status(error: BaseException) -> bool:
    """Whether `error` has a row in the table."""
    return type(error) in _TABLE


def code_of(error: BaseException | None) -> str:
    """The name of the status code of a call that raises `error`; OK for None."""
    if error is None:
        return grpc.StatusCode.OK.name
    if type(error) in _TABLE:
        return _TABLE[type(error)].code.name  # type: ignore[index]  # a key, as the line above says
    if isinstance(error, asyncio.CancelledError):
        return grpc.StatusCode.CANCELLED.name
    return (
        grpc.StatusCode.UNIMPLEMENTED
        if isinstance(error, NotImplementedError)
        else grpc.StatusCode.INTERNAL
    ).name


def reason_of(error: type[LedgerError]) -> str:
    """The contract's reason for errors of this class, without its prefix. See `has_status`."""
    return _reason_name(_TABLE[error].reason)


def status_of(error: LedgerError) -> status_pb2.Status:
    """The google.rpc.Status of `error`: an ErrorInfo, and the details that its row adds.

    Only for an error that `has_status`.
    """
    if (prepared := _PREPARED.get(type(error))) is not None:
        return next(prepared)
    row = _TABLE[type(error)]
    return _status(
        row.code,
        row.reason,
        row.text or str(error),
        row.metadata(error) if row.metadata else {},
        row.details(error) if row.details else None,
    )


def not_implemented(method: str) -> status_pb2.Status:
    """The status of a method of the contract that this server does not implement."""
    return _status(
        grpc.StatusCode.UNIMPLEMENTED,
        error_reason_pb2.ERROR_REASON_METHOD_NOT_IMPLEMENTED,
        "this server does not offer the method",
        {"method": method},
    )


def internal(error_id: str) -> status_pb2.Status:
    """The status of an unexpected exception. The log has its cause under `error_id`."""
    return _status(
        grpc.StatusCode.INTERNAL,
        error_reason_pb2.ERROR_REASON_INTERNAL,
        "internal error",
        {"error_id": error_id},
    )


def status_code_of(status: status_pb2.Status) -> grpc.StatusCode:
    """The code of `status` as grpc's enum."""
    return _CODE_BY_NUMBER[status.code]


def retry_pushback_of(status: status_pb2.Status) -> str | None:
    """The value of the trailer `grpc-retry-pushback-ms`; None to send none.

    It says how many milliseconds gRPC's own retries wait. Without it, their policy decides: after
    UNAVAILABLE another server may serve the call at once, so only RESOURCE_EXHAUSTED has it. If the
    wait is long, "-1" stops gRPC's retries: the caller gets the refusal at once and not a timeout.
    """
    if status.code != code_pb2.RESOURCE_EXHAUSTED:
        return None
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(retry):
            delay_ms = retry.retry_delay.seconds * 1000 + math.ceil(
                retry.retry_delay.nanos / 1_000_000
            )
            return str(delay_ms) if delay_ms <= RETRY_PUSHBACK_MS_MAX else "-1"
    return None


_CODE_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def _status(
    code: grpc.StatusCode,
    reason: error_reason_pb2.ErrorReason.ValueType,
    text: str,
    metadata: Mapping[str, str],
    details: list[Message] | None = None,
) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(
        reason=_reason_name(reason), domain=DOMAIN, metadata=metadata
    )
    packed = []
    for detail in [info, *(details or [])]:
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)
        packed.append(wrapped)
    return status_pb2.Status(code=code_pb2.Code.Value(code.name), message=text, details=packed)


def _reason_name(reason: error_reason_pb2.ErrorReason.ValueType) -> str:
    return error_reason_pb2.ErrorReason.Name(reason).removeprefix(_REASON_PREFIX)


# Statuses that are the same for each error of a class. A server under load sends thousands a
# second; to make one takes 11 µs, to take a prepared one 0.5 µs (ADR 0020).
_PREPARED = {
    kind: cycle(
        [
            _status(row.code, row.reason, row.text, {}, _retry_info(seconds))
            for seconds in RETRY_DELAYS_SECONDS
        ]
        if row.retry
        else [_status(row.code, row.reason, row.text, {})]
    )
    for kind, row in _TABLE.items()
    if row.text is not None and row.metadata is None and row.details is None
}

# Refusals that do not depend on the request: the server has more work than it can hold, or the
# caller calls more often than it may. By class, with the reason that metrics name.
REASONS_OF_OVERLOAD: Mapping[type[LedgerError], str] = {
    kind: reason_of(kind) for kind in (QueueFull, DeadlineTooShort, RateLimited)
}
