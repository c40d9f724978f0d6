"""What a call that failed raises: its status with the details that the server sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

REQUEST_ID_KEY = "x-request-id"
# What gRPC says of a message beyond the limit of a side, with the status of a busy server.
_TOO_LARGE = "message larger than max"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of a request that breaks the contract: its path, and a sentence for people."""

    field: str
    description: str


class LedgerError(Exception):
    """A call, or an item of a batch, that failed. Subclasses say of what kind.

    `code` is the gRPC status and `reason` the name in `error_reason.proto`, such as
    EVENT_ID_REUSED; go by these, never by `message`. The reason is empty if the error does not come
    from a server of the ledger. `metadata` belongs to the reason, `violations` to InvalidRequest.
    `retry_after` is the wait in seconds that the server asks for, None if it names none; a stream
    that was refused as not authenticated has 0 if there is another token.
    `request_id` finds the call in the server's log; it is empty for items of batches.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.request_id = request_id

    @property
    def is_retryable(self) -> bool:
        """Whether the same call may succeed later. Every method may be repeated."""
        return isinstance(self, TryLater)

    @property
    def reached_no_server(self) -> bool:
        """Whether the call reached no server of the ledger."""
        return self.code is grpc.StatusCode.UNAVAILABLE and not self.reason

    def __str__(self) -> str:
        name = f"{self.code.name} {self.reason}" if self.reason else self.code.name
        return f"{name}: {' '.join(self.message.split())}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.message, self.__dict__)


class InvalidRequest(LedgerError):
    """INVALID_ARGUMENT: correct the request; `violations` names every field that is wrong.

    Also a request or a response that is too large for gRPC, with RESOURCE_EXHAUSTED as its code.
    """


class Conflict(LedgerError):
    """ALREADY_EXISTS: the id is taken, with other contents; `differing_fields` of the metadata."""


class NotFound(LedgerError):
    """NOT_FOUND: what the request names does not exist."""


class Refused(LedgerError):
    """FAILED_PRECONDITION, OUT_OF_RANGE: the books are not in a state that allows it."""


class NotAuthenticated(LedgerError):
    """UNAUTHENTICATED: the server does not know the token or the certificate."""


class NotAllowed(LedgerError):
    """PERMISSION_DENIED: the caller lacks the `scope` of the metadata."""


class NotOffered(LedgerError):
    """UNIMPLEMENTED: the server is older than this client, or is no server of the ledger."""


class ServerFailed(LedgerError):
    """INTERNAL and the like: report the `error_id` of the metadata to the operator."""


class TryLater(LedgerError):
    """The call failed for now: repeat it as it was, `retry_after` seconds later if there is one.

    It is not known whether it took effect, unless the reason says so. A repeat does no harm.
    """


class Unavailable(TryLater):
    """UNAVAILABLE, CANCELLED: no server, no database, or a server that stops."""


class Overloaded(TryLater):
    """RESOURCE_EXHAUSTED: the server has too much to do, or the caller calls too often."""


class TooSlow(TryLater):
    """DEADLINE_EXCEEDED: no answer in time."""


class Contended(TryLater):
    """ABORTED: another call got in the way."""


_Code = grpc.StatusCode
_KINDS: dict[grpc.StatusCode, type[LedgerError]] = {
    _Code.INVALID_ARGUMENT: InvalidRequest,
    _Code.ALREADY_EXISTS: Conflict,
    _Code.NOT_FOUND: NotFound,
    _Code.FAILED_PRECONDITION: Refused,
    _Code.OUT_OF_RANGE: Refused,
    _Code.UNAUTHENTICATED: NotAuthenticated,
    _Code.PERMISSION_DENIED: NotAllowed,
    _Code.UNIMPLEMENTED: NotOffered,
    _Code.INTERNAL: ServerFailed,
    _Code.DATA_LOSS: ServerFailed,
    _Code.UNKNOWN: ServerFailed,
    _Code.UNAVAILABLE: Unavailable,
    _Code.CANCELLED: Unavailable,
    _Code.RESOURCE_EXHAUSTED: Overloaded,
    _Code.DEADLINE_EXCEEDED: TooSlow,
    _Code.ABORTED: Contended,
}
_CODE_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def error_of_status(status: status_pb2.Status, request_id: str = "") -> LedgerError:
    """The error in a google.rpc.Status, such as that of one event of a batch."""
    info, request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in status.details:
        # Unpack does nothing if the detail is of another type.
        detail.Unpack(info)
        detail.Unpack(request)
        detail.Unpack(retry)
    delay = retry.retry_delay
    code, message = _CODE_BY_NUMBER.get(status.code), status.message
    if code is None:
        code, message = grpc.StatusCode.UNKNOWN, f"status {status.code} of a later gRPC: {message}"
    return _error(
        code,
        message,
        reason=info.reason,
        metadata=dict(info.metadata),
        violations=[
            FieldViolation(found.field, found.description) for found in request.field_violations
        ],
        retry_after=max(delay.seconds + delay.nanos / 1e9, 0.0)
        if retry.HasField("retry_delay")
        else None,
        request_id=request_id,
    )


def error_of_call(error: grpc.RpcError, request_id: str = "") -> LedgerError:
    """The error of a call that gRPC raised, synchronous or not; `request_id` as it was sent."""
    # Imported when needed: most calls succeed.
    from grpc_status import rpc_status

    call = cast("grpc.Call", error)
    for key, value in call.trailing_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str):
            request_id = value
    try:
        status = rpc_status.from_call(call)
    except ValueError:
        # The details contradict the code of the call: a proxy on the way has replaced the code.
        status = None
    if status is not None:
        return error_of_status(status, request_id)
    code, message = call.code(), call.details() or ""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in message:
        return InvalidRequest(message, code=code, request_id=request_id)
    return _error(code, message, request_id=request_id)


def too_slow(message: str) -> TooSlow:
    """What the client itself has waited for too long."""
    return TooSlow(message, code=grpc.StatusCode.DEADLINE_EXCEEDED)


def unexpected(message: str) -> ServerFailed:
    """A response that breaks the contract."""
    return ServerFailed(message, code=grpc.StatusCode.INTERNAL)


def broken_off(message: str) -> Unavailable:
    """A stream that ended for a reason that gRPC does not tell."""
    return Unavailable(message, code=grpc.StatusCode.CANCELLED)


def _error(code: grpc.StatusCode, message: str, **attributes: Any) -> LedgerError:
    return _KINDS.get(code, LedgerError)(message, code=code, **attributes)


def _restored(kind: type[LedgerError], message: str, attributes: dict[str, Any]) -> LedgerError:
    error = kind(message, code=attributes["code"])
    error.__dict__.update(attributes)
    return error
