"""Turns the errors of calls, which are google.rpc.Status messages, into words."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.words import word_of
from ledger.errors import FieldViolation

# Imported when needed: most calls succeed.
if TYPE_CHECKING:
    import grpc
    from google.rpc import status_pb2

# With these codes the call had no effect, or it is unknown whether it had one. Every method of the
# contract may be repeated then.
_RETRYABLE_CODES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"})
# The longest wait before one attempt, whatever the server asks for.
RETRY_DELAY_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """The error of a call: code and reason by name, a sentence, and the violations by field.

    The reason is empty if the error does not come from one of our servers. `retry_delay_seconds` is
    the wait that the server asks for before the same call, 0 if it names none.
    """

    code: str
    reason: str
    message: str
    violations: tuple[FieldViolation, ...] = ()
    retry_delay_seconds: float = 0.0

    @property
    def is_retryable(self) -> bool:
        """Whether the same call may succeed later."""
        return self.code in _RETRYABLE_CODES

    @property
    def reached_no_server(self) -> bool:
        """Whether the call reached none of our servers."""
        return self.code == "UNAVAILABLE" and not self.reason

    def __str__(self) -> str:
        return (
            f"{self.code} {self.reason}: {self.message}"
            if self.reason
            else f"{self.code}: {self.message}"
        )


def refusal_of_status(status: "status_pb2.Status") -> Refusal:
    """The refusal in `status`."""
    from google.rpc import code_pb2, error_details_pb2

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
    violations = tuple(
        FieldViolation(found.field, found.description) for found in request.field_violations
    )
    delay_seconds = min(
        max(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9, 0.0), RETRY_DELAY_SECONDS_MAX
    )
    return Refusal(
        word_of(code_pb2.Code, status.code).upper(),
        info.reason,
        status.message,
        violations,
        delay_seconds,
    )


def refusal_of_call(error: "grpc.RpcError") -> Refusal:
    """The refusal in the error of a call, with the details that the server sent."""
    from grpc_status import rpc_status

    call = cast("grpc.Call", error)
    try:
        status = rpc_status.from_call(call)
    except ValueError:
        # The details contradict the code of the call: a proxy on the way has replaced the code.
        status = None
    if status is not None:
        return refusal_of_status(status)
    return Refusal(call.code().name, "", call.details() or "")


def failure_of(refusal: Refusal, address: str) -> CommandFailure:
    """The failure of a command whose call to the server at `address` was refused."""
    if refusal.reached_no_server:
        return CommandFailure(
            f"no server responds at {address}; start one with `ledger serve`, or name another with"
            " --address",
            # Only the texts of gRPC distinguish a server with TLS from none.
            "a server with TLS needs --tls-ca before the name of the command, and may need"
            " --tls-cert and --tls-key",
            exit_status=ExitStatus.UNREACHABLE,
        )
    if refusal.code == "DEADLINE_EXCEEDED":
        return CommandFailure(
            f"the server at {address} did not respond in time", exit_status=ExitStatus.UNREACHABLE
        )
    if refusal.code == "UNAUTHENTICATED":
        return CommandFailure(
            str(refusal),
            "put a token into a file, and name the file with --token-file before the name of the"
            " command, or with LEDGER_CLIENT_TOKEN_FILE; `ledger token` makes a token",
            "a server that knows callers by certificates needs --tls-cert and --tls-key instead",
        )
    status = ExitStatus.UNREACHABLE if refusal.is_retryable else ExitStatus.REFUSED
    if not refusal.violations:
        return CommandFailure(str(refusal), exit_status=status)
    # The server's sentence is the same list in one line.
    first = f"{refusal.code} {refusal.reason}: the request is invalid"
    particulars = [f"{violation.field} {violation.description}" for violation in refusal.violations]
    return CommandFailure(first, *particulars, exit_status=status)
