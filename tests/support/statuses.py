"""The details of errors, of failed calls and of single results."""

from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

Failure = grpc.RpcError | status_pb2.Status


def status_of(failure: Failure) -> status_pb2.Status | None:
    """The status of a failed call; None if gRPC itself ended the call."""
    if isinstance(failure, status_pb2.Status):
        return failure
    error: Any = failure  # the function declares a narrower type than it takes
    status: status_pb2.Status | None = rpc_status.from_call(error)
    return status


def details_of(failure: Failure) -> dict[str, Any]:
    """The details by the names of their messages; empty if gRPC itself ended the call."""
    status = status_of(failure)
    kinds: tuple[type[Message], ...] = (
        error_details_pb2.ErrorInfo,
        error_details_pb2.RetryInfo,
        error_details_pb2.BadRequest,
    )
    found: dict[str, Any] = {}
    for detail in status.details if status is not None else ():
        for kind in kinds:
            message = kind()
            if detail.Unpack(message):
                found[kind.DESCRIPTOR.name] = message
    return found


def reason_of(failure: Failure) -> str:
    """The reason of an error; empty if it has none."""
    info = details_of(failure).get("ErrorInfo")
    return "" if info is None else str(info.reason)


def retry_seconds_of(failure: Failure) -> float:
    """How many seconds the server asks the client to wait; 0 if it does not ask."""
    retry = details_of(failure).get("RetryInfo")
    return 0.0 if retry is None else float(retry.retry_delay.ToTimedelta().total_seconds())


def fields_of(failure: Failure) -> list[str]:
    """The fields that a BadRequest names."""
    bad_request = details_of(failure).get("BadRequest")
    return [] if bad_request is None else [item.field for item in bad_request.field_violations]


async def response_or_error(call: Awaitable[Any]) -> Any:
    """The response of a call, or the error that it fails with."""
    try:
        return await call
    except aio.AioRpcError as error:
        return error


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """The status, reason and metadata with which a call is refused."""
    with pytest.raises(aio.AioRpcError) as refused:
        await call
    info = details_of(refused.value)["ErrorInfo"]
    return refused.value.code(), info.reason, dict(info.metadata)
