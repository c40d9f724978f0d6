"""Sends batches of events to the server in one stream, and resumes it after an interruption.

Why not BatchIngestEvents, one call after the other? It takes as much CPU (20,000 events: about 5 s
each way, all processes together) and as much time on a busy machine, and this module would be half
as long. But a stream waits while the server's queue is full or a rate limit is reached, where a
batch is refused, and the server decodes the next events while it books the last ones. Batches in
parallel would not keep the order of the file, which decides which of two events with one id counts.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.ingest.batches import Batch
from ledger.cli.refusals import refusal_of_call, refusal_of_status
from ledger.jitter import jittered
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    import grpc

    from ledger.v1 import ledger_pb2_grpc

# Attempts without a response in between: about a quarter of a minute of waiting in all.
ATTEMPTS_MAX = 8
# While no server has ever responded: it is probably not there at all.
ATTEMPTS_WITHOUT_SERVER_MAX = 4
BACKOFF_SECONDS_MAX = 5.0
END_TIMEOUT_SECONDS = 2.0
# Python handles Ctrl-C between two steps of Python code. A signal that comes just before a wait, or
# that another thread receives, does not end the wait. So no wait is longer than this.
WAIT_SECONDS = 0.25

EventBatch = Batch[ledger_pb2.ProcessorEvent]
Results = Sequence[ledger_pb2.IngestResult]


@dataclass(frozen=True, slots=True)
class SendLimits:
    """How far the sender reads ahead, and how long it waits."""

    # Read, and without a result yet: enough to keep a server busy, which reads a few thousand
    # events ahead.
    lines_in_flight_max: int = 4000
    bytes_in_flight_max: int = 16 * 1024 * 1024
    # A stream has no deadline. The deadlines within a healthy server are shorter than this.
    response_timeout_seconds: float = 60.0
    # Before the second attempt; it doubles with each further attempt.
    backoff_seconds: float = 0.2


class Pace:
    """How many events get results a second, from the first request to the last response."""

    def __init__(self) -> None:
        self.events = 0
        self._began_at: float | None = None
        self._ended_at = 0.0

    @property
    def events_per_second(self) -> int | None:
        """None before the first response."""
        if self._began_at is None or not self.events:
            return None
        return round(self.events / max(self._ended_at - self._began_at, 1e-6))

    def begin(self) -> None:
        """Starts the clock. Only the first call counts."""
        if self._began_at is None:
            self._began_at = time.monotonic()

    def add(self, events: int) -> None:
        """Counts events that have got their results."""
        self.events += events
        self._ended_at = time.monotonic()


@dataclass(slots=True)
class _Sent:
    """A batch, and the results of its events; None where there is no result yet."""

    batch: EventBatch
    results: list[ledger_pb2.IngestResult | None]
    # How often some of its events were sent again because the server could not book them yet.
    retries: int = 0

    @property
    def open_places(self) -> list[int]:
        """The places of its events that have no result yet."""
        return [place for place, result in enumerate(self.results) if result is None]


@dataclass(frozen=True, slots=True)
class _Request:
    """Events of a batch, by their places, that were sent together and have no response yet."""

    sent: _Sent
    places: Sequence[int]

    @property
    def message(self) -> ledger_pb2.StreamEventsRequest:
        events = self.sent.batch.messages
        return ledger_pb2.StreamEventsRequest(events=[events[place] for place in self.places])


@dataclass(frozen=True, slots=True)
class _Stream:
    """A call of StreamEvents on a separate thread, with a queue to it and one from it.

    The main thread calls nothing of gRPC: Ctrl-C inside gRPC can leave a lock taken that the end of
    the program waits for.
    """

    # None is the end of either queue.
    requests: "queue.SimpleQueue[ledger_pb2.StreamEventsRequest | None]" = field(
        default_factory=queue.SimpleQueue
    )
    responses: "queue.SimpleQueue[ledger_pb2.StreamEventsResponse | grpc.RpcError | None]" = field(
        default_factory=queue.SimpleQueue
    )

    def start(self, stub: "ledger_pb2_grpc.LedgerServiceStub") -> None:
        """Opens the stream, on a daemon thread: the program may end before the server responds."""
        threading.Thread(target=self._carry, args=(stub,), daemon=True).start()

    def next_response(
        self, timeout_seconds: float
    ) -> "ledger_pb2.StreamEventsResponse | grpc.RpcError | None":
        """Waits for a response; Ctrl-C ends the wait. Raises queue.Empty if none comes in time."""
        ends_at = time.monotonic() + timeout_seconds
        while True:
            left_seconds = ends_at - time.monotonic()
            try:
                return self.responses.get(timeout=max(0.0, min(WAIT_SECONDS, left_seconds)))
            except queue.Empty:
                if left_seconds <= WAIT_SECONDS:
                    raise

    def _carry(self, stub: "ledger_pb2_grpc.LedgerServiceStub") -> None:
        import grpc

        try:
            for response in stub.StreamEvents(iter(self.requests.get, None)):
                self.responses.put(response)
        except grpc.RpcError as error:
            self.responses.put(error)
        else:
            self.responses.put(None)


class EventSender:
    """Sends batches, and passes each with the results of its events to `on_results`, in order."""

    def __init__(
        self,
        stub: "ledger_pb2_grpc.LedgerServiceStub",
        on_results: Callable[[EventBatch, Results], None],
        pace: Pace | None = None,
        limits: SendLimits | None = None,
    ) -> None:
        """`pace` is updated before each call of `on_results`."""
        self._stub = stub
        self._on_results = on_results
        self._pace = pace or Pace()
        self._limits = limits or SendLimits()
        self._in_flight: deque[_Sent] = deque()
        self._lines_in_flight = 0
        # The position in the file up to which all events have results.
        self._done_bytes = 0
        # Sent, and without a response yet.
        self._open_requests: deque[_Request] = deque()
        self._stream: _Stream | None = None
        self._attempt = 1
        self._has_had_response = False

    def send_all(self, batches: Iterable[EventBatch]) -> None:
        """Books all batches in order, and returns when all events have results.

        After a broken stream, sends again what has no result; events that were booked already are
        duplicates then. Raises grpc.RpcError if the server refuses the stream or cannot be reached
        for too long, CommandFailure if it is silent.
        """
        try:
            for batch in batches:
                while self._in_flight and not self._has_room(batch):
                    self._take_response(wait=True)
                self._send(batch)
                while self._open_requests and self._take_response(wait=False):
                    pass
            while self._in_flight:
                self._take_response(wait=True)
            self._wait_for_end()
        finally:
            self._end_stream()

    def _has_room(self, batch: EventBatch) -> bool:
        return (
            self._lines_in_flight + len(batch.lines) <= self._limits.lines_in_flight_max
            and batch.end_bytes - self._done_bytes <= self._limits.bytes_in_flight_max
        )

    def _send(self, batch: EventBatch) -> None:
        sent = _Sent(batch, [None] * len(batch.messages))
        self._in_flight.append(sent)
        self._lines_in_flight += len(batch.lines)
        self._request(sent)
        self._pass_on_results()

    def _request(self, sent: _Sent) -> None:
        """Sends the events of a batch that have no result."""
        if not sent.open_places:
            return
        request = _Request(sent, sent.open_places)
        self._open_requests.append(request)
        if self._stream is None:
            self._open_stream()
        else:
            self._stream.requests.put(request.message)

    def _open_stream(self) -> None:
        """Opens a stream and sends every request that has no response."""
        self._pace.begin()
        self._stream = _Stream()
        for request in self._open_requests:
            self._stream.requests.put(request.message)
        self._stream.start(self._stub)

    def _wait_for_end(self) -> None:
        """Lets the server end the call, which it would otherwise count as cancelled."""
        if self._stream is not None:
            self._stream.requests.put(None)
            with suppress(queue.Empty):
                self._stream.next_response(END_TIMEOUT_SECONDS)
            self._stream = None

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.requests.put(None)
            self._stream = None

    def _take_response(self, *, wait: bool) -> bool:
        """Handles the next response, or the error or end of the stream.

        Returns whether there was one; with `wait` there always is.
        """
        if self._stream is None:
            raise RuntimeError("there is no stream to respond")
        timeout_seconds = self._limits.response_timeout_seconds
        try:
            response = (
                self._stream.next_response(timeout_seconds)
                if wait
                else self._stream.responses.get_nowait()
            )
        except queue.Empty:
            if not wait:
                return False
            raise CommandFailure(
                f"the server has not responded for {timeout_seconds:.0f} s",
                exit_status=ExitStatus.UNREACHABLE,
            ) from None
        if isinstance(response, ledger_pb2.StreamEventsResponse):
            self._take_results(response.results)
        elif response is not None:
            self._recover(response)
        else:
            raise CommandFailure(
                f"the server ended the stream without a response to {len(self._open_requests)}"
                " requests"
            )
        return True

    def _take_results(self, results: Results) -> None:
        request = self._open_requests.popleft()
        if len(results) != len(request.places):
            raise CommandFailure(
                f"the server returned {len(results)} results for {len(request.places)} events"
            )
        sent = request.sent
        self._attempt, self._has_had_response = 1, True
        may_retry = sent.retries < ATTEMPTS_MAX - 1
        for place, result in zip(request.places, results, strict=True):
            if not (may_retry and _is_retryable(result)):
                sent.results[place] = result
        self._pace.add(len(request.places) - len(sent.open_places))
        if sent.open_places:
            sent.retries += 1
            time.sleep(self._backoff_seconds(sent.retries))
            self._request(sent)
        self._pass_on_results()

    def _pass_on_results(self) -> None:
        """Passes on the results of complete batches, up to the first incomplete batch."""
        while self._in_flight and not self._in_flight[0].open_places:
            sent = self._in_flight.popleft()
            self._lines_in_flight -= len(sent.batch.lines)
            self._done_bytes = sent.batch.end_bytes
            self._on_results(sent.batch, [result for result in sent.results if result is not None])

    def _recover(self, error: "grpc.RpcError") -> None:
        """Opens another stream after one broke off. Raises `error` if a retry cannot help."""
        refusal = refusal_of_call(error)
        is_server_missing = refusal.reached_no_server and not self._has_had_response
        if not refusal.is_retryable or self._attempt >= (
            ATTEMPTS_WITHOUT_SERVER_MAX if is_server_missing else ATTEMPTS_MAX
        ):
            raise error
        self._end_stream()
        time.sleep(max(self._backoff_seconds(self._attempt), refusal.retry_delay_seconds))
        self._attempt += 1
        self._open_stream()

    def _backoff_seconds(self, attempt: int) -> float:
        longest_seconds = self._limits.backoff_seconds * 2.0 ** (attempt - 1)
        return jittered(min(longest_seconds, BACKOFF_SECONDS_MAX))


def _is_retryable(result: ledger_pb2.IngestResult) -> bool:
    return result.HasField("error") and refusal_of_status(result.error).is_retryable
