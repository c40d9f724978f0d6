"""What a server answers instead of a result: its google.rpc.Status in words."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.words import word_of
from ledger.errors import FieldViolation

# Imported when needed: most calls are not refused.
if TYPE_CHECKING:
    import grpc
    from google.rpc import status_pb2

# The call took no effect, or it is not known whether it did; every method of the contract may be repeated then.
_RETRYABLE_CODES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"})
# Whatever a server asks for, nobody waits longer than this for one attempt.
RETRY_DELAY_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Code and reason by name, a sentence, and what is wrong with which field. The reason is empty if no ledger answered.

    `retry_delay_seconds` is what the server asks to wait before the same call, 0 if it does not say.
    """

    code: str
    reason: str
    message: str
    violations: tuple[FieldViolation, ...] = ()
    retry_delay_seconds: float = 0.0

    @property
    def is_retryable(self) -> bool:
        """Whether the same call may succeed a little later."""
        return self.code in _RETRYABLE_CODES

    @property
    def is_unanswered(self) -> bool:
        """Whether not even a server said so."""
        return self.code == "UNAVAILABLE" and not self.reason

    def __str__(self) -> str:
        return (
            f"{self.code} {self.reason}: {self.message}"
            if self.reason
            else f"{self.code}: {self.message}"
        )


def refusal_of_status(status: "status_pb2.Status") -> Refusal:
    """What `status` says."""
    from google.rpc import code_pb2, error_details_pb2

    info, request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in status.details:
        # Each unpacks only what is of its own type.
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
    """What the error of a call says, with the details that the server sent."""
    from grpc_status import rpc_status

    call = cast("grpc.Call", error)
    try:
        status = rpc_status.from_call(call)
    except ValueError:
        # The details contradict the call's code: somebody between us and the server has replaced it.
        status = None
    if status is not None:
        return refusal_of_status(status)
    return Refusal(call.code().name, "", call.details() or "")


def failure_of(refusal: Refusal, address: str) -> CommandFailure:
    """How a command ends that was refused by the server at `address`."""
    if refusal.is_unanswered:
        return CommandFailure(
            f"no server answers at {address}; start one with `ledger serve`, or name another with --address",
            # gRPC does not tell the one from the other but in its texts.
            "one that speaks TLS needs --tls-ca before the name of the command, and may ask for --tls-cert and --tls-key",
            exit_status=ExitStatus.UNREACHABLE,
        )
    if refusal.code == "DEADLINE_EXCEEDED":
        return CommandFailure(
            f"the server at {address} did not answer in time", exit_status=ExitStatus.UNREACHABLE
        )
    if refusal.code == "UNAUTHENTICATED":
        return CommandFailure(
            str(refusal),
            "a token goes into a file, and that into --token-file before the name of the command or LEDGER_CLIENT_TOKEN_FILE; "
            "`ledger token` makes one",
            "a server that knows callers by certificates needs --tls-cert and --tls-key there",
        )
    status = ExitStatus.UNREACHABLE if refusal.is_retryable else ExitStatus.REFUSED
    if not refusal.violations:
        return CommandFailure(str(refusal), exit_status=status)
    # The server's sentence is the same list in one line.
    first = f"{refusal.code} {refusal.reason}: the request is not as it must be"
    particulars = [f"{violation.field} {violation.description}" for violation in refusal.violations]
    return CommandFailure(first, *particulars, exit_status=status)
