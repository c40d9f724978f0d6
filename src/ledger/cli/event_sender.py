"""Sends batches of events to the server, a few at a time, and again when it is away for a moment."""

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from ledger.cli.event_batches import Batch
from ledger.cli.failures import CommandFailure
from ledger.cli.refusals import refusal_of_call, refusal_of_status
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

BATCHES_IN_FLIGHT_MAX = 4
# About half a minute of waiting in all, with what the channel's own retries add.
ATTEMPTS_MAX = 8
BACKOFF_SECONDS = 0.2
BACKOFF_SECONDS_MAX = 5.0

Results = Sequence[ledger_pb2.IngestResult]


@dataclass(frozen=True, slots=True)
class _Sent:
    """A batch and the call that carries its events; no call if there are none to carry."""

    batch: Batch
    events: Sequence[ledger_pb2.ProcessorEvent]
    call: "grpc.Future[ledger_pb2.BatchIngestEventsResponse] | None"


class EventSender:
    """Tells `on_answer` about each batch, in the order in which they were sent, with the results of its events."""

    def __init__(self, stub: "ledger_pb2_grpc.LedgerServiceStub", on_answer: Callable[[Batch, Results], None]) -> None:
        self._stub = stub
        self._on_answer = on_answer
        self._in_flight: deque[_Sent] = deque()
        self._is_answered_once = False

    def send(self, batch: Batch) -> None:
        """Sends the batch's events, waiting while there are too many calls under way.

        Events whose order matters are never under way in two calls: payout events, and events with the same id. Raises
        grpc.RpcError when the server refuses the call, or stays away for longer than it is worth waiting.
        """
        same_id = any(not batch.event_ids.isdisjoint(sent.batch.event_ids) for sent in self._in_flight)
        limit = 0 if same_id or batch.has_payout_events else BATCHES_IN_FLIGHT_MAX - 1
        self._wait_until_at_most(limit)
        self._in_flight.append(self._start(batch, batch.events))
        if batch.has_payout_events:
            self._wait_until_at_most(0)

    def finish(self) -> None:
        """Waits for what is under way. Raises as `send` does."""
        self._wait_until_at_most(0)

    def _wait_until_at_most(self, limit: int) -> None:
        while len(self._in_flight) > limit:
            # Taken away only when it is answered, so that its ids count until then.
            sent = self._in_flight[0]
            results = self._results_of(sent)
            self._in_flight.popleft()
            self._on_answer(sent.batch, results)

    def _start(self, batch: Batch, events: Sequence[ledger_pb2.ProcessorEvent]) -> _Sent:
        if not events:
            return _Sent(batch, events, None)
        return _Sent(batch, events, self._stub.BatchIngestEvents.future(ledger_pb2.BatchIngestEventsRequest(events=events)))

    def _results_of(self, sent: _Sent) -> Results:
        """The result of each event, after further calls for those that the server could not book just then."""
        results: dict[int, ledger_pb2.IngestResult] = {}
        places = list(range(len(sent.events)))
        for attempt in range(1, ATTEMPTS_MAX + 1):
            if sent.call is None:
                break
            try:
                answers = sent.call.result().results
            except grpc.RpcError as error:
                if attempt == ATTEMPTS_MAX or not self._is_worth_repeating(error):
                    raise
            else:
                self._is_answered_once = True
                if len(answers) != len(places):
                    raise CommandFailure(f"the server answered {len(answers)} results to {len(places)} events")
                results.update(zip(places, answers, strict=True))
                places = [place for place in places if _is_retryable(results[place])]
                if not places or attempt == ATTEMPTS_MAX:
                    break
            time.sleep(min(BACKOFF_SECONDS * 2 ** (attempt - 1), BACKOFF_SECONDS_MAX) * random.uniform(0.5, 1.0))  # noqa: S311
            sent = self._start(sent.batch, [sent.batch.events[place] for place in places])
        return [results[place] for place in sorted(results)]

    def _is_worth_repeating(self, error: grpc.RpcError) -> bool:
        refusal = refusal_of_call(error)
        # A server that never answered is most likely not there at all, and the channel has tried several times.
        return refusal.is_retryable and (self._is_answered_once or not refusal.is_unanswered)


def _is_retryable(result: ledger_pb2.IngestResult) -> bool:
    return result.HasField("error") and refusal_of_status(result.error).is_retryable
