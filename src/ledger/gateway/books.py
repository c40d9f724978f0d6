"""The calls of the ledger that the gateway makes, each within the time that a delivery has left."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ledger.client import InvalidRequest, NotFound
from ledger.client.errors import REQUEST_ID_KEY
from ledger.gateway.allowances import Allowance
from ledger.gateway.gathering import GatheredEvents
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.v1 import ledger_pb2_grpc

Response = TypeVar("Response")


class BookedFacts(Protocol):
    """What is booked, as far as a new event depends on it. Every method raises LedgerError."""

    async def event(self, event_id: str, allowance: Allowance) -> ledger_pb2.ProcessorEvent | None:
        """The booked event; None if there is none."""
        ...

    async def restaurant_of_payout(self, payout_id: str, allowance: Allowance) -> str | None:
        """The restaurant of a payout; None if there is no such payout."""
        ...


class Books(BookedFacts, Protocol):
    """The ledger, as far as a delivery needs it. Every method raises LedgerError."""

    async def ingest(
        self, event: ledger_pb2.ProcessorEvent, allowance: Allowance
    ) -> ledger_pb2.IngestEventResponse:
        """Books an event, or finds that it is booked."""
        ...

    async def quarantine(
        self, request: ledger_pb2.QuarantinePayloadRequest, allowance: Allowance
    ) -> ledger_pb2.QuarantinePayloadResponse:
        """Keeps a delivery that cannot be booked."""
        ...


class Quarantine(Protocol):
    """The quarantine, as far as the worker needs it. Every method raises LedgerError."""

    async def due(
        self, endpoint: str, before: datetime, allowance: Allowance
    ) -> Sequence[ledger_pb2.QuarantinedPayload]:
        """Some payloads of an endpoint that are to be tried by then, longest due first, whole."""
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
    """Books and Quarantine by gRPC: `stub` is the `service` of an AsyncLedger."""

    def __init__(self, stub: "ledger_pb2_grpc.LedgerServiceAsyncStub") -> None:
        self._stub = stub
        self._gathered = GatheredEvents(stub)

    async def ingest(
        self, event: ledger_pb2.ProcessorEvent, allowance: Allowance
    ) -> ledger_pb2.IngestEventResponse:
        """See Books."""
        return await self._gathered.ingest(event, allowance)

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
        self, endpoint: str, before: datetime, allowance: Allowance
    ) -> Sequence[ledger_pb2.QuarantinedPayload]:
        """See Quarantine."""
        request = ledger_pb2.ListQuarantinedRequest(endpoint=endpoint, with_bodies=True)
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

    async def open_payloads(
        self, endpoint: str, reason: str, allowance: Allowance
    ) -> Sequence[ledger_pb2.QuarantinedPayload]:
        """All open payloads that the filters leave, oldest first, without their bodies."""
        found: list[ledger_pb2.QuarantinedPayload] = []
        request = ledger_pb2.ListQuarantinedRequest(
            endpoint=endpoint,
            reason=reason,
            states=[
                ledger_pb2.QUARANTINE_STATE_QUARANTINED,
                ledger_pb2.QUARANTINE_STATE_RETRY_REQUESTED,
                ledger_pb2.QUARANTINE_STATE_PARKED,
            ],
            oldest_first=True,
            page_size=1000,
        )
        while True:
            page = await _call(self._stub.ListQuarantined, request, allowance)
            found += page.payloads
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def payload(
        self, quarantine_id: str, allowance: Allowance
    ) -> ledger_pb2.QuarantinedPayload:
        """One payload, with its body."""
        request = ledger_pb2.GetQuarantinedRequest(quarantine_id=quarantine_id)
        return (await _call(self._stub.GetQuarantined, request, allowance)).payload

    async def request_retry(self, quarantine_id: str, allowance: Allowance) -> None:
        """Requests that a payload be tried again, if it is not settled."""
        request = ledger_pb2.RetryQuarantinedRequest(quarantine_ids=[quarantine_id])
        await _call(self._stub.RetryQuarantined, request, allowance)


class PreviewBooks(RemoteBooks):
    """Books that write nothing: an event gets what booking it now would get."""

    async def ingest(
        self, event: ledger_pb2.ProcessorEvent, allowance: Allowance
    ) -> ledger_pb2.IngestEventResponse:
        """See Books."""
        response = await _call(
            self._stub.PreviewEvent, ledger_pb2.PreviewEventRequest(event=event), allowance
        )
        return ledger_pb2.IngestEventResponse(
            status=response.status, transaction_id=response.transaction_id
        )


async def _call(
    method: Callable[..., Awaitable[Response]], request: Any, allowance: Allowance
) -> Response:
    return await method(
        request,
        timeout=allowance.seconds_left,
        metadata=((REQUEST_ID_KEY, allowance.request_id),),
    )


async def _found(call: Awaitable[Response]) -> Response | None:
    """The response; None if what the request names does not exist."""
    try:
        return await call
    except (NotFound, InvalidRequest):
        # A malformed id names nothing either.
        return None
