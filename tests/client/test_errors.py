"""What a failed call raises: status, reason, metadata, violations, in one line and in a pickle."""

import pickle

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio

from ledger.client import errors
from ledger.client.errors import (
    FieldViolation,
    InvalidRequest,
    LedgerError,
    Overloaded,
    ServerFailed,
    TryLater,
    Unavailable,
    error_of_call,
    error_of_status,
)


def status(code: int, message: str, *details: Message) -> status_pb2.Status:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code, message=message, details=packed)


INVALID = status(
    code_pb2.INVALID_ARGUMENT,
    "event.currency must be a code;\nevent.amount_minor must be 1 or more",
    error_details_pb2.ErrorInfo(
        reason="INVALID_REQUEST", domain="ledger.v1", metadata={"field": "event.currency"}
    ),
    error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field="event.currency", description="must be a code"
            ),
            error_details_pb2.BadRequest.FieldViolation(
                field="event.amount_minor", description="must be 1 or more"
            ),
        ]
    ),
    Duration(seconds=1),  # a detail of a later server
)
BUSY = status(
    code_pb2.RESOURCE_EXHAUSTED,
    "as much work waits as the server can hold",
    error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="ledger.v1"),
    error_details_pb2.RetryInfo(retry_delay=Duration(nanos=250_000_000)),
)


def aio_error(
    code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, str | bytes], ...] = ()
) -> aio.AioRpcError:
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*trailing), details)


def test_status_becomes_an_exception_with_all_details() -> None:
    error = error_of_status(INVALID, "req_1")
    assert isinstance(error, InvalidRequest)
    assert (error.code, error.reason, error.metadata, error.retry_after, error.request_id) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        {"field": "event.currency"},
        None,
        "req_1",
    )
    assert error.violations == (
        FieldViolation("event.currency", "must be a code"),
        FieldViolation("event.amount_minor", "must be 1 or more"),
    )
    assert not error.is_retryable


def test_text_is_one_line() -> None:
    assert str(error_of_status(INVALID)) == (
        "INVALID_ARGUMENT INVALID_REQUEST: event.currency must be a code; event.amount_minor must"
        " be 1 or more"
    )
    assert str(error_of_status(status(code_pb2.INTERNAL, "oh"))) == "INTERNAL: oh"


def test_wait_that_the_server_asks_for() -> None:
    error = error_of_status(BUSY)
    assert isinstance(error, Overloaded)
    assert (error.retry_after, error.is_retryable) == (0.25, True)


@pytest.mark.parametrize("shown", [INVALID, BUSY, status(99, "from a later gRPC")])
def test_error_survives_a_pickle(shown: status_pb2.Status) -> None:
    """Task queues and process pools hand exceptions on in pickles."""
    error = error_of_status(shown, "req_1")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.__dict__, str(again), again.args) == (error.__dict__, str(error), error.args)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0]])
def test_each_status_has_its_kind(code: grpc.StatusCode) -> None:
    """Only what may succeed later is retryable."""
    error = error_of_status(status_pb2.Status(code=code.value[0], message="x"))
    assert error.code is code
    assert type(error) is not LedgerError
    assert error.is_retryable == isinstance(error, TryLater)
    assert error.is_retryable == (
        code.name
        in {"UNAVAILABLE", "CANCELLED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED"}
    )


def test_error_of_grpc_itself_has_no_reason() -> None:
    error = error_of_call(aio_error(grpc.StatusCode.UNAVAILABLE, "connect failed"), "mine")
    assert isinstance(error, Unavailable)
    assert (error.reason, error.reached_no_server, error.request_id) == ("", True, "mine")


@pytest.mark.parametrize("side", ["CLIENT: Sent", "SERVER: Received"])
def test_message_that_is_too_large_is_never_sent_again(side: str) -> None:
    """gRPC gives it the status of a busy server, and no reason."""
    text = f"{side} message larger than max (5000046 vs. 4194304)"
    error = error_of_call(aio_error(grpc.StatusCode.RESOURCE_EXHAUSTED, text))
    assert isinstance(error, InvalidRequest)
    assert not error.is_retryable
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_details_and_request_id_come_from_the_trailing_metadata() -> None:
    trailing: tuple[tuple[str, str | bytes], ...] = (
        ("x-request-id", "theirs"),
        ("grpc-status-details-bin", INVALID.SerializeToString()),
    )
    error = error_of_call(
        aio_error(grpc.StatusCode.INVALID_ARGUMENT, INVALID.message, trailing), "mine"
    )
    assert isinstance(error, InvalidRequest)
    assert (error.request_id, len(error.violations)) == ("theirs", 2)


def test_code_that_a_proxy_replaced_counts() -> None:
    """Details of another code than the call's are not the call's."""
    trailing: tuple[tuple[str, str | bytes], ...] = (
        ("grpc-status-details-bin", INVALID.SerializeToString()),
    )
    error = error_of_call(aio_error(grpc.StatusCode.UNAVAILABLE, "proxy", trailing))
    assert isinstance(error, Unavailable)
    assert error.reason == ""


def test_errors_of_the_client_itself() -> None:
    assert errors.too_slow("no answer").is_retryable
    assert isinstance(errors.unexpected("2 results for 3 events"), ServerFailed)
