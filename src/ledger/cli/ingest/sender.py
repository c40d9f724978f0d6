"""Sends batches of events to the server, all in one stream, and again when the server is away for a moment."""

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

# So much of a file may be read and not be answered: enough to keep a server busy, which reads a few thousand events ahead.
LINES_IN_FLIGHT_MAX = 4000
BYTES_IN_FLIGHT_MAX = 16 * 1024 * 1024
# About half a minute of waiting in all.
ATTEMPTS_MAX = 8
# A server that never said anything is most likely not there at all.
ATTEMPTS_UNANSWERED_MAX = 4
BACKOFF_SECONDS = 0.2
BACKOFF_SECONDS_MAX = 5.0
# A stream has no deadline as other calls have. A server in good health answers within its own deadlines, which are shorter.
END_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 60.0
# Python looks for Ctrl-C between two steps of its own code. One that comes just before a wait, or to another thread, does not end
# it: so nobody waits for longer than this at a time.
WAIT_SECONDS = 0.25

Results = Sequence[ledger_pb2.IngestResult]


class Pace:
    """How fast events are answered, from the first one that was sent to the last one that was answered."""

    def __init__(self) -> None:
        self.events = 0
        self._began_at: float | None = None
        self._ended_at = 0.0

    @property
    def events_per_second(self) -> int | None:
        """None before there is an answer."""
        if self._began_at is None or not self.events:
            return None
        return round(self.events / max(self._ended_at - self._began_at, 1e-6))

    def begin(self) -> None:
        """Events are being sent; counts the first time."""
        if self._began_at is None:
            self._began_at = time.monotonic()

    def add(self, events: int) -> None:
        """So many more are answered."""
        self.events += events
        self._ended_at = time.monotonic()


@dataclass(slots=True)
class _Sent:
    """A batch, and the results of its events as far as they are known."""

    batch: Batch
    results: list[ledger_pb2.IngestResult | None]
    # How often the server has put some of its events off.
    put_off: int = 0

    @property
    def open_places(self) -> list[int]:
        """The places of its events that have no result yet."""
        return [place for place, result in enumerate(self.results) if result is None]


@dataclass(frozen=True, slots=True)
class _Request:
    """Some events of a batch, by their places, that were sent together and are not answered."""

    sent: _Sent
    places: Sequence[int]

    @property
    def message(self) -> ledger_pb2.StreamEventsRequest:
        events = self.sent.batch.events
        return ledger_pb2.StreamEventsRequest(events=[events[place] for place in self.places])


@dataclass(frozen=True, slots=True)
class _Stream:
    """A call of StreamEvents on a thread of its own, with queues to and from it.

    The main thread calls nothing of gRPC: Ctrl-C inside the library can leave a lock taken that the end of the program waits for.
    """

    # None is the end of either.
    requests: "queue.SimpleQueue[ledger_pb2.StreamEventsRequest | None]" = field(
        default_factory=queue.SimpleQueue
    )
    answers: "queue.SimpleQueue[ledger_pb2.StreamEventsResponse | grpc.RpcError | None]" = field(
        default_factory=queue.SimpleQueue
    )

    def start(self, stub: "ledger_pb2_grpc.LedgerServiceStub") -> None:
        """Opens the stream. A daemon's, since the user may want the program to end before the server does."""
        threading.Thread(target=self._carry, args=(stub,), daemon=True).start()

    def next_answer(
        self, timeout_seconds: float
    ) -> "ledger_pb2.StreamEventsResponse | grpc.RpcError | None":
        """Waits for an answer, interruptibly. Raises queue.Empty when none comes in time."""
        ends_at = time.monotonic() + timeout_seconds
        while True:
            left_seconds = ends_at - time.monotonic()
            try:
                return self.answers.get(timeout=max(0.0, min(WAIT_SECONDS, left_seconds)))
            except queue.Empty:
                if left_seconds <= WAIT_SECONDS:
                    raise

    def _carry(self, stub: "ledger_pb2_grpc.LedgerServiceStub") -> None:
        import grpc

        try:
            for answer in stub.StreamEvents(iter(self.requests.get, None)):
                self.answers.put(answer)
        except grpc.RpcError as error:
            self.answers.put(error)
        else:
            self.answers.put(None)


class EventSender:
    """Tells `on_answer` about each batch, in the order in which they were sent, with the results of its events."""

    def __init__(
        self,
        stub: "ledger_pb2_grpc.LedgerServiceStub",
        on_answer: Callable[[Batch, Results], None],
        pace: Pace | None = None,
    ) -> None:
        """`pace` is kept up to date before `on_answer` is told."""
        self._stub = stub
        self._on_answer = on_answer
        self._pace = pace or Pace()
        self._in_flight: deque[_Sent] = deque()
        self._lines_in_flight = 0
        # How far the file is answered.
        self._told_bytes = 0
        self._unanswered: deque[_Request] = deque()
        self._stream: _Stream | None = None
        self._attempt = 1
        self._is_answered_once = False

    def send_all(self, batches: Iterable[Batch]) -> None:
        """Books all batches, their events in their order, and returns when everything is answered.

        What a stream that broke off has not answered is sent again; the server tells what it had booked of it as duplicates.
        Raises grpc.RpcError when the server refuses the stream, or stays away for longer than it is worth waiting.
        """
        try:
            for batch in batches:
                while self._in_flight and not self._has_room(batch):
                    self._take_answer(wait=True)
                self._send(batch)
                while self._unanswered and self._take_answer(wait=False):
                    pass
            while self._in_flight:
                self._take_answer(wait=True)
            self._wait_for_end()
        finally:
            self._end_stream()

    def _has_room(self, batch: Batch) -> bool:
        return (
            self._lines_in_flight + len(batch.lines) <= LINES_IN_FLIGHT_MAX
            and batch.end_bytes - self._told_bytes <= BYTES_IN_FLIGHT_MAX
        )

    def _send(self, batch: Batch) -> None:
        sent = _Sent(batch, [None] * len(batch.events))
        self._in_flight.append(sent)
        self._lines_in_flight += len(batch.lines)
        self._request(sent)
        self._tell_answered()

    def _request(self, sent: _Sent) -> None:
        """Sends those events of a batch that have no result."""
        if not sent.open_places:
            return
        request = _Request(sent, sent.open_places)
        self._unanswered.append(request)
        if self._stream is None:
            self._open_stream()
        else:
            self._stream.requests.put(request.message)

    def _open_stream(self) -> None:
        """Opens a stream and sends everything that is not answered."""
        self._pace.begin()
        self._stream = _Stream()
        for request in self._unanswered:
            self._stream.requests.put(request.message)
        self._stream.start(self._stub)

    def _wait_for_end(self) -> None:
        """Lets the server end the call, which it would otherwise take for one that was given up. Nothing depends on it."""
        if self._stream is not None:
            self._stream.requests.put(None)
            with suppress(queue.Empty):
                self._stream.next_answer(END_TIMEOUT_SECONDS)
            self._stream = None

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.requests.put(None)
            self._stream = None

    def _take_answer(self, *, wait: bool) -> bool:
        """Takes in an answer, or what has come instead of one. Whether there was any; there is one if it may wait."""
        if self._stream is None:
            raise RuntimeError("there is no stream to be answered by")
        try:
            answer = (
                self._stream.next_answer(ANSWER_TIMEOUT_SECONDS)
                if wait
                else self._stream.answers.get_nowait()
            )
        except queue.Empty:
            if not wait:
                return False
            raise CommandFailure(
                f"the server has not answered for {ANSWER_TIMEOUT_SECONDS:.0f} s",
                exit_status=ExitStatus.UNREACHABLE,
            ) from None
        if isinstance(answer, ledger_pb2.StreamEventsResponse):
            self._take_results(answer.results)
        elif answer is not None:
            self._recover(answer)
        else:
            raise CommandFailure(
                f"the server ended the stream with {len(self._unanswered)} requests unanswered"
            )
        return True

    def _take_results(self, results: Results) -> None:
        request = self._unanswered.popleft()
        if len(results) != len(request.places):
            raise CommandFailure(
                f"the server answered {len(results)} results to {len(request.places)} events"
            )
        sent = request.sent
        self._attempt, self._is_answered_once = 1, True
        may_be_put_off = sent.put_off < ATTEMPTS_MAX - 1
        for place, result in zip(request.places, results, strict=True):
            if not (may_be_put_off and _is_retryable(result)):
                sent.results[place] = result
        self._pace.add(len(request.places) - len(sent.open_places))
        if sent.open_places:
            sent.put_off += 1
            time.sleep(_backoff_seconds(sent.put_off))
            self._request(sent)
        self._tell_answered()

    def _tell_answered(self) -> None:
        """Tells of the batches that are complete, as far as none before them is not."""
        while self._in_flight and not self._in_flight[0].open_places:
            sent = self._in_flight.popleft()
            self._lines_in_flight -= len(sent.batch.lines)
            self._told_bytes = sent.batch.end_bytes
            self._on_answer(sent.batch, [result for result in sent.results if result is not None])

    def _recover(self, error: "grpc.RpcError") -> None:
        """Opens another stream after one broke off, if that is worth trying. Raises `error` if not."""
        refusal = refusal_of_call(error)
        never_heard = refusal.is_unanswered and not self._is_answered_once
        if not refusal.is_retryable or self._attempt >= (
            ATTEMPTS_UNANSWERED_MAX if never_heard else ATTEMPTS_MAX
        ):
            raise error
        self._end_stream()
        time.sleep(max(_backoff_seconds(self._attempt), refusal.retry_delay_seconds))
        self._attempt += 1
        self._open_stream()


def _backoff_seconds(attempt: int) -> float:
    longest_seconds: float = min(BACKOFF_SECONDS * 2 ** (attempt - 1), BACKOFF_SECONDS_MAX)
    return jittered(longest_seconds)


def _is_retryable(result: ledger_pb2.IngestResult) -> bool:
    return result.HasField("error") and refusal_of_status(result.error).is_retryable
