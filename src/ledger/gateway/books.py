"""The calls of the ledger that the gateway makes, each within the time that a delivery has left."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.v1 import ledger_pb2_grpc

Response = TypeVar("Response")

REQUEST_ID_KEY = "x-request-id"


class LedgerError(Exception):
    """A call that failed: its status, the reason of `error_reason.proto`, and what goes with it."""

    def __init__(self, error: aio.AioRpcError) -> None:
        super().__init__(error.details())
        self.code = error.code()
        self.message = error.details() or ""
        self.reason = ""
        self.metadata: dict[str, str] = {}
        self.retry_after: float | None = None
        self.violations: list[Any] = []
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        for detail in status.details if status is not None else ():
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                self.reason, self.metadata = info.reason, dict(info.metadata)
            request = error_details_pb2.BadRequest()
            if detail.Unpack(request):
                self.violations = list(request.field_violations)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the calls for one delivery have in common: its id in logs, and when it must be answered.

    `ends_at` is on the clock of `time.monotonic`.
    """

    request_id: str
    ends_at: float

    @classmethod
    def of(cls, request_id: str, seconds: float) -> "Allowance":
        return cls(request_id, time.monotonic() + seconds)

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.ends_at - time.monotonic())


class Books(Protocol):
    """The ledger, as far as a delivery needs it. Every method raises LedgerError."""

    async def ingest(
        self, event: ledger_pb2.ProcessorEvent, allowance: Allowance
    ) -> ledger_pb2.IngestEventResponse:
        """Books an event, or finds that it is booked."""
        ...

    async def event(self, event_id: str, allowance: Allowance) -> ledger_pb2.ProcessorEvent | None:
        """The booked event; None if there is none."""
        ...

    async def restaurant_of_payout(self, payout_id: str, allowance: Allowance) -> str | None:
        """The restaurant of a payout; None if there is no such payout."""
        ...

    async def quarantine(
        self, request: ledger_pb2.QuarantinePayloadRequest, allowance: Allowance
    ) -> ledger_pb2.QuarantinePayloadResponse:
        """Keeps a delivery that cannot be booked."""
        ...


class Quarantine(Protocol):
    """The quarantine, as far as the worker needs it. Every method raises LedgerError."""

    async def due(
        self, before: datetime, allowance: Allowance
    ) -> Sequence[ledger_pb2.QuarantinedPayload]:
        """Some payloads that are to be tried by then, longest due first, with their bodies."""
        ...

    async def resolve(
        self, request: ledger_pb2.ResolveQuarantinedRequest, allowance: Allowance
    ) -> None:
        """Records what became of a try."""
        ...

    async def summary(self, allowance: Allowance) -> ledger_pb2.GetQuarantineSummaryResponse:
        """How many payloads are open, and since when."""
        ...


class RemoteBooks:
    """Books and Quarantine by gRPC."""

    def __init__(self, stub: "ledger_pb2_grpc.LedgerServiceAsyncStub") -> None:
        self._stub = stub

    async def ingest(
        self, event: ledger_pb2.ProcessorEvent, allowance: Allowance
    ) -> ledger_pb2.IngestEventResponse:
        """See Books."""
        return await _call(
            self._stub.IngestEvent, ledger_pb2.IngestEventRequest(event=event), allowance
        )

    async def event(self, event_id: str, allowance: Allowance) -> ledger_pb2.ProcessorEvent | None:
        """See Books."""
        response = await _found(
            _call(self._stub.GetEvent, ledger_pb2.GetEventRequest(event_id=event_id), allowance)
        )
        return None if response is None else response.event

    async def restaurant_of_payout(self, payout_id: str, allowance: Allowance) -> str | None:
        """See Books."""
        response = await _found(
            _call(self._stub.GetPayout, ledger_pb2.GetPayoutRequest(payout_id=payout_id), allowance)
        )
        return None if response is None else response.payout.restaurant_id

    async def quarantine(
        self, request: ledger_pb2.QuarantinePayloadRequest, allowance: Allowance
    ) -> ledger_pb2.QuarantinePayloadResponse:
        """See Books."""
        return await _call(self._stub.QuarantinePayload, request, allowance)

    async def due(
        self, before: datetime, allowance: Allowance
    ) -> Sequence[ledger_pb2.QuarantinedPayload]:
        """See Quarantine."""
        request = ledger_pb2.ListQuarantinedRequest(with_bodies=True)
        request.due_at.FromDatetime(before)
        return (await _call(self._stub.ListQuarantined, request, allowance)).payloads

    async def resolve(
        self, request: ledger_pb2.ResolveQuarantinedRequest, allowance: Allowance
    ) -> None:
        """See Quarantine."""
        await _call(self._stub.ResolveQuarantined, request, allowance)

    async def summary(self, allowance: Allowance) -> ledger_pb2.GetQuarantineSummaryResponse:
        """See Quarantine."""
        return await _call(
            self._stub.GetQuarantineSummary, ledger_pb2.GetQuarantineSummaryRequest(), allowance
        )


async def _call(
    method: Callable[..., Awaitable[Response]], request: Any, allowance: Allowance
) -> Response:
    try:
        return await method(
            request,
            timeout=allowance.seconds_left,
            metadata=((REQUEST_ID_KEY, allowance.request_id),),
        )
    except aio.AioRpcError as error:
        raise LedgerError(error) from error


async def _found(call: Awaitable[Response]) -> Response | None:
    """The response; None if what the request names does not exist."""
    try:
        return await call
    except LedgerError as error:
        # A malformed id names nothing either.
        if error.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
            return None
        raise
