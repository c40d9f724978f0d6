"""Gathers events of posts that come at the same time into one call of the ledger.

A call costs a process more than everything else that a post does. A post that comes while few calls
are under way has a call of its own, at once. The events of further posts wait for the end of one of
these calls and go together.
"""

import asyncio
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from ledger.client import TooSlow, Unavailable, error_of_status
from ledger.client.errors import REQUEST_ID_KEY
from ledger.gateway.allowances import Allowance
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.v1 import ledger_pb2_grpc

# With more, events would be gathered less; with fewer, a slow call would hold up the next ones.
CALLS_MAX = 2
EVENTS_MAX = 100
# An event that has almost no time left is tried all the same.
SECONDS_MIN = 0.05

_Code = grpc.StatusCode


@dataclass(frozen=True, slots=True)
class _Waiting:
    event: ledger_pb2.ProcessorEvent
    allowance: Allowance
    response: "asyncio.Future[ledger_pb2.IngestEventResponse]"


class GatheredEvents:
    """Books events, several at once in a call. Belongs to one event loop."""

    def __init__(self, stub: "ledger_pb2_grpc.LedgerServiceAsyncStub") -> None:
        self._stub = stub
        self._calls = 0
        self._waiting: deque[_Waiting] = deque()
        self._batches: set[asyncio.Task[None]] = set()

    async def ingest(
        self, event: ledger_pb2.ProcessorEvent, allowance: Allowance
    ) -> ledger_pb2.IngestEventResponse:
        """As the call IngestEvent. Raises LedgerError."""
        if self._calls >= CALLS_MAX:
            future: asyncio.Future[ledger_pb2.IngestEventResponse] = (
                asyncio.get_running_loop().create_future()
            )
            self._waiting.append(_Waiting(event, allowance, future))
            try:
                async with asyncio.timeout(max(SECONDS_MIN, allowance.seconds_left)):
                    return await future
            except TimeoutError as error:
                raise TooSlow("no answer in time", code=_Code.DEADLINE_EXCEEDED) from error
        self._calls += 1
        try:
            return await self._stub.IngestEvent(
                ledger_pb2.IngestEventRequest(event=event),
                timeout=allowance.seconds_left,
                metadata=((REQUEST_ID_KEY, allowance.request_id),),
            )
        finally:
            self._call_ended()

    def _call_ended(self) -> None:
        self._calls -= 1
        while self._waiting and self._calls < CALLS_MAX:
            batch = [self._waiting.popleft() for _ in range(min(EVENTS_MAX, len(self._waiting)))]
            # A post that was given up needs no event any more: the processor sends it again.
            batch = [one for one in batch if not one.response.done()]
            if batch:
                self._calls += 1
                task = asyncio.create_task(self._book(batch))
                self._batches.add(task)
                task.add_done_callback(self._batches.discard)

    async def _book(self, batch: list[_Waiting]) -> None:
        try:
            response = await self._stub.BatchIngestEvents(
                ledger_pb2.BatchIngestEventsRequest(events=[one.event for one in batch]),
                # Each waits as long as it may. One with almost no time left must not fail them all.
                timeout=max(SECONDS_MIN, *(one.allowance.seconds_left for one in batch)),
                metadata=((REQUEST_ID_KEY, _request_id(batch)),),
            )
            results = list(response.results)
        except BaseException as error:  # every waiting post must get an answer
            for one in batch:
                if not one.response.done():
                    one.response.set_exception(_failure(error))
            if not isinstance(error, Exception):
                raise
            return
        finally:
            self._call_ended()
        for one, result in zip(batch, results, strict=True):
            if one.response.done():
                continue
            if result.HasField("error"):
                one.response.set_exception(error_of_status(result.error))
            else:
                one.response.set_result(
                    ledger_pb2.IngestEventResponse(
                        status=result.status, transaction_id=result.transaction_id
                    )
                )


def _failure(error: BaseException) -> BaseException:
    """The error for a waiting post: the cancellation of the batch is not one of the post."""
    if isinstance(error, Exception):
        return error
    return Unavailable("the gateway is stopping", code=_Code.UNAVAILABLE)


def _request_id(batch: list[_Waiting]) -> str:
    """The id of the only post, or one that the log of the gateway does not have."""
    return batch[0].allowance.request_id if len(batch) == 1 else f"gathered-{os.urandom(8).hex()}"
