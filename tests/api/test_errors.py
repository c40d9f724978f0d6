"""The table of statuses: each error has a row, as the contract describes its reason."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from ledger import errors
from ledger.api.errors import (
    RETRY_DELAYS_SECONDS,
    internal,
    not_implemented,
    retry_pushback_of,
    status_code_of,
    status_of,
)
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
    DataRejected,
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
    QueryRefused,
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

PROTO = Path(__file__).resolve().parents[2] / "proto" / "ledger" / "v1" / "error_reason.proto"
PREFIX = "ERROR_REASON_"
M = TypeVar("M", bound=Message)

# One error of each class. Texts inside it must not reach the caller where the row has a constant
# text.
EXAMPLES: list[LedgerError] = [
    InvalidRequest(
        [
            FieldViolation("event.currency", "must be a currency"),
            FieldViolation("event.type", "must be a type"),
        ]
    ),
    EventTypeUnknown("event.type", 77),
    MalformedMessage("secret"),
    EventIdReused("evt_1", ["amount_minor", "occurred_at"]),
    EventRejected("evt_1"),
    EventFailed("evt_1", "0190"),
    EventNotFound("evt_1"),
    RestaurantChanged("res_1"),
    RestaurantNotFound("res_1"),
    PayoutNotFound("po_1"),
    PayoutRunNotFound("run_1"),
    PayoutEntriesUnknown("payout_1"),
    PayoutRunArchived("run_1", "payout_run_items-2025-11.jsonl.gz"),
    PayoutRunEnded("run_1"),
    PayoutRunUnderWay("run_1"),
    SubmissionNotFound("sub_1"),
    SubmissionIdReused("sub_1", ["payout_run_id"]),
    PayoutsNotSubmittable(["po_1", "po_2"]),
    QuarantinedNotFound("payload_1"),
    QuarantinedMoved("payload_1", "DISCARDED", 3),
    TooManyPayoutRuns("secret"),
    PayoutMoveNotAllowed("po_1", "PAID", "evt_2", ["evt_1"]),
    PayoutAnswersContradict("po_1", "FAILED", "evt_2", "evt_1"),
    PayoutMismatch("po_1", ["amount_minor"]),
    AccountNotFound("acc_1"),
    AccountIdReused("acc_1", ["currency", "name"]),
    AccountChanged("acc_1"),
    AccountNotEmpty("acc_1"),
    AccountClosed("acc_1"),
    PaymentNotFound("pay_1"),
    PaymentIdReused("pay_1", ["amount_minor"]),
    OperationIdReused("op_1", ["payment_id"]),
    LinkedPaymentRefused("pay_1"),
    PaymentRejected("pay_1"),
    AmountOutOfRange("available_minor"),
    DatabaseUnavailable("secret"),
    DatabaseContention("secret"),
    DatabaseTimeout("secret"),
    QueueFull("secret"),
    RequestTooLarge(262_144),
    RequestTooSlow("secret"),
    DeadlineTooShort("secret"),
    ShuttingDown("secret"),
    NotAuthenticated("secret"),
    ScopeMissing("payout"),
    RateLimited(0.25),
]
# Errors without a row, as no caller receives them: booking turns them into EventRejected and
# EventFailed, and anywhere else they are defects, hence INTERNAL.
WITHOUT_ROW = {DataRejected, QueryRefused}

STATUSES: dict[str, status_pb2.Status] = {
    type(error).__name__: status_of(error) for error in EXAMPLES
}
STATUSES |= {
    "not_implemented": not_implemented("/ledger.v1.LedgerService/RunPayouts"),
    "internal": internal("0190"),
}


def detail(status: status_pb2.Status, kind: type[M]) -> list[M]:
    """The details of one kind."""
    found = []
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            found.append(message)
    return found


def subclasses(kind: type[LedgerError]) -> set[type[LedgerError]]:
    """Every subclass of `kind` in ledger.errors."""
    direct = {found for found in kind.__subclasses__() if found.__module__ == errors.__name__}
    return direct.union(*(subclasses(found) for found in direct))


def promised_reasons() -> dict[str, tuple[str, dict[str, Any]]]:
    """The comment of each reason in the contract, and the ErrorInfo that the comment shows."""
    promised = {}
    for comment, name in re.findall(
        r"((?:^ *//.*\n)+) *ERROR_REASON_(\w+) = \d+;", PROTO.read_text(), re.MULTILINE
    ):
        lines = [line.strip().removeprefix("//").strip() for line in comment.splitlines()]
        text = " ".join(lines)
        shown = re.search(r"\{.*\}", text)
        promised[name] = (text, json.loads(shown.group()) if shown else {})
    return promised


PROMISED = promised_reasons()


def test_every_error_of_the_ledger_has_a_row() -> None:
    """Each class has an example that became a status, or is known to have no row."""
    assert subclasses(LedgerError) == {type(error) for error in EXAMPLES} | WITHOUT_ROW


def test_every_reason_is_documented() -> None:
    """Each reason of the contract has a comment; every comment but that of 0 has an example."""
    keys = error_reason_pb2.ErrorReason.keys()
    names = {name.removeprefix(PREFIX) for name in keys}
    assert set(PROMISED) == names
    for name in names - {"UNSPECIFIED"}:
        shown = PROMISED[name][1]
        assert (shown["reason"], shown["domain"]) == (name, "ledger.v1")
        assert set(shown) == {"reason", "domain", "metadata"}


@pytest.mark.parametrize("status", STATUSES.values(), ids=STATUSES)
def test_status_keeps_what_its_reason_promises(status: status_pb2.Status) -> None:
    """One ErrorInfo of the ledger's domain, with the metadata keys and the code of the comment.

    It has no other metadata keys.
    """
    (info,) = detail(status, error_details_pb2.ErrorInfo)
    assert info.domain == "ledger.v1"
    text, shown = PROMISED[info.reason]
    assert set(info.metadata) == set(shown["metadata"])
    assert all(info.metadata.values()), "no metadata is empty"
    codes = re.findall(r"\bStatus ([A-Z_]+)", text) or re.findall(
        rf"\b({'|'.join(grpc.StatusCode.__members__)})\b", text
    )
    assert codes == [status_code_of(status).name]
    assert ("RetryInfo" in text) <= bool(detail(status, error_details_pb2.RetryInfo))
    assert ("BadRequest" in text) == bool(detail(status, error_details_pb2.BadRequest))
    assert status.message
    assert "secret" not in str(status)


@pytest.mark.parametrize("status", STATUSES.values(), ids=STATUSES)
def test_retryable_status_says_when_to_retry(status: status_pb2.Status) -> None:
    """Only UNAVAILABLE and RESOURCE_EXHAUSTED carry a RetryInfo, with a delay above zero."""
    retries = detail(status, error_details_pb2.RetryInfo)
    assert bool(retries) == (status_code_of(status).name in {"UNAVAILABLE", "RESOURCE_EXHAUSTED"})
    assert all(retry.retry_delay.ToTimedelta().total_seconds() > 0 for retry in retries)


@pytest.mark.parametrize(
    ("error", "pushback"),
    [
        (RateLimited(1.9996), "2000"),
        (RateLimited(2.1), "-1"),
        (DatabaseUnavailable(), None),
        (ShuttingDown(), None),
        (DeadlineTooShort(), None),
    ],
    ids=lambda value: repr(value),
)
def test_retries_of_grpc_get_the_pushback_of_the_error(
    error: errors.LedgerError, pushback: str | None
) -> None:
    """They wait as long as RetryInfo says; for errors that last long they do not retry.

    Where another server may serve the call there is no pushback: gRPC chooses the delay.
    """
    assert retry_pushback_of(status_of(error)) == pushback


def test_full_queue_gives_its_delay_to_the_retries_of_grpc() -> None:
    """The pushback has the same milliseconds as RetryInfo."""
    for _ in range(100):
        status = status_of(errors.QueueFull())
        (retry,) = detail(status, error_details_pb2.RetryInfo)
        pushback = retry_pushback_of(status)
        assert pushback is not None
        assert 0 <= int(pushback) - retry.retry_delay.ToTimedelta().total_seconds() * 1000 < 1


def test_bad_request_names_every_field() -> None:
    """INVALID_ARGUMENT lists the violations in their order; the metadata names the first."""
    status = STATUSES["InvalidRequest"]
    (bad_request,) = detail(status, error_details_pb2.BadRequest)
    (info,) = detail(status, error_details_pb2.ErrorInfo)
    assert [(found.field, found.description) for found in bad_request.field_violations] == [
        ("event.currency", "must be a currency"),
        ("event.type", "must be a type"),
    ]
    assert dict(info.metadata) == {"field": "event.currency"}


def test_conflict_names_fields_and_no_values() -> None:
    """ALREADY_EXISTS gives the id that the caller sent and the names of the fields that differ."""
    (info,) = detail(STATUSES["EventIdReused"], error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {
        "event_id": "evt_1",
        "differing_fields": "amount_minor,occurred_at",
    }


def test_internal_gives_an_id_and_nothing_else() -> None:
    """The text is constant. The id in the metadata finds the cause in the log."""
    first, second = internal("id-1"), internal("id-2")
    assert first.message == second.message == "internal error"
    assert str(first).replace("id-1", "id-2") == str(second)


def test_calls_refused_together_do_not_retry_together() -> None:
    """Sixteen delays from half a second to one and a half; each is far from the one before."""
    delays = RETRY_DELAYS_SECONDS
    assert sorted(delays) == [0.5 + step / 16 for step in range(16)]
    assert all(abs(one - next_) > 0.4 for one, next_ in pairwise((*delays, delays[0])))
