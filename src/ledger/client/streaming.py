"""A stream of events that survives broken connections: what is on its way, apart from the calls.

Why not batches, one call after the other? A stream waits while the server's queue is full or a
rate limit is reached, where a batch is refused, and the server decodes the next events while it
books the last ones. Batches in parallel would not keep the order of the events, which decides which
of two events with one id counts.
"""

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ledger.client.batches import RETRY_AFTER_SECONDS_MAX
from ledger.client.errors import LedgerError, NotAuthenticated, TryLater, too_slow, unexpected
from ledger.client.outcomes import EventOutcome
from ledger.v1 import ledger_pb2

# From 100 to 1,000 the cost is the same; smaller requests get the first response sooner.
STREAM_BATCH_EVENTS = 250


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How far a stream reads ahead, and how long it waits."""

    # Read, and without an outcome yet: enough to keep a server busy, which reads a few thousand
    # events ahead.
    events_in_flight_max: int = 4000
    bytes_in_flight_max: int = 16 * 1024 * 1024
    # Batches without events count too.
    batches_in_flight_max: int = 4000
    # A stream has no deadline. The deadlines within a healthy server are shorter than this.
    response_timeout_seconds: float = 60.0
    # Before the second attempt; it doubles with each further attempt.
    backoff_seconds: float = 0.2
    backoff_seconds_max: float = 5.0
    # Attempts without a response in between: about a quarter of a minute of waiting in all.
    attempts_max: int = 8
    # While no server has ever responded: it is probably not there at all.
    attempts_without_server_max: int = 4


@dataclass(slots=True)
class _Sent:
    """Events that belong together, and their outcomes; None where there is none yet."""

    events: Sequence[ledger_pb2.ProcessorEvent]
    outcomes: list[EventOutcome | None]
    size_bytes: int
    # How often some of its events were sent again because the server could not book them yet.
    retries: int = 0

    @property
    def open_places(self) -> list[int]:
        """The places of its events that have no outcome yet."""
        return [place for place, outcome in enumerate(self.outcomes) if outcome is None]


@dataclass(frozen=True, slots=True)
class Request:
    """Events, by their places, that were sent together and have no response yet."""

    sent: _Sent
    places: Sequence[int]

    @property
    def message(self) -> ledger_pb2.StreamEventsRequest:
        """What to send."""
        return ledger_pb2.StreamEventsRequest(
            events=[self.sent.events[place] for place in self.places]
        )


class StreamState:
    """The events on their way. Every event gets one outcome, and is booked once.

    After a broken stream the requests without a response are sent again; events that were booked
    already are duplicates then.
    """

    def __init__(self, limits: StreamLimits) -> None:
        self._limits = limits
        self._in_flight: deque[_Sent] = deque()
        self._events_in_flight = self._bytes_in_flight = 0
        self._open: deque[Request] = deque()
        self._attempt = 1
        self._has_had_response = False

    @property
    def is_empty(self) -> bool:
        """Whether every event has its outcome, and was passed on."""
        return not self._in_flight

    @property
    def open_requests(self) -> Sequence[Request]:
        """The requests without a response, which a new stream sends first."""
        return self._open

    def has_room(self, events: Sequence[ledger_pb2.ProcessorEvent]) -> bool:
        """Whether these events may be sent now; always if nothing is on its way."""
        return not self._in_flight or (
            self._events_in_flight + len(events) <= self._limits.events_in_flight_max
            and self._bytes_in_flight + _size_of(events) <= self._limits.bytes_in_flight_max
            and len(self._in_flight) < self._limits.batches_in_flight_max
        )

    def add(self, events: Sequence[ledger_pb2.ProcessorEvent]) -> Request | None:
        """Notes events, and returns the request to send; None if there are none."""
        sent = _Sent(events, [None] * len(events), _size_of(events))
        self._in_flight.append(sent)
        self._events_in_flight += len(events)
        self._bytes_in_flight += sent.size_bytes
        return self._request(sent) if events else None

    def take(self, response: ledger_pb2.StreamEventsResponse) -> tuple[float, Request] | None:
        """Notes the response to the oldest open request.

        Returns what to send again, and after how many seconds, if the server put events off.
        Raises ServerFailed if outcomes are missing.
        """
        if not self._open:
            raise unexpected("the server returned a response without a request")
        request = self._open.popleft()
        sent = request.sent
        self._attempt, self._has_had_response = 1, True
        may_retry = sent.retries < self._limits.attempts_max - 1
        events = [sent.events[place] for place in request.places]
        outcomes = EventOutcome.of_all(events, response.results)
        for place, outcome in zip(request.places, outcomes, strict=True):
            if not (may_retry and isinstance(outcome.error, TryLater)):
                sent.outcomes[place] = outcome
        if not sent.open_places:
            return None
        sent.retries += 1
        return self._backoff_seconds(sent.retries), self._request(sent)

    def recover(self, error: LedgerError) -> float:
        """How many seconds to wait before another stream. Raises `error` if that cannot help."""
        is_server_missing = error.reached_no_server and not self._has_had_response
        attempts_max = (
            self._limits.attempts_without_server_max
            if is_server_missing
            else self._limits.attempts_max
        )
        # The token has expired, perhaps during a long stream; the next stream has another one.
        has_expired = isinstance(error, NotAuthenticated) and (
            self._has_had_response or error.retry_after is not None
        )
        if has_expired and self._attempt == 1:
            self._attempt += 1
            return 0.0
        if not error.is_retryable or self._attempt >= attempts_max:
            raise error
        pause_seconds = max(
            self._backoff_seconds(self._attempt),
            min(error.retry_after or 0.0, RETRY_AFTER_SECONDS_MAX),
        )
        self._attempt += 1
        return pause_seconds

    def check_end(self) -> None:
        """Raises ServerFailed if the server has ended a stream while requests are open."""
        if self._open:
            raise unexpected(
                f"the server ended the stream without a response to {len(self._open)} requests"
            )

    def silent(self) -> LedgerError:
        """The error of a server that does not respond."""
        seconds = self._limits.response_timeout_seconds
        return too_slow(f"the server has not responded for {seconds:.0f} s")

    def ready(self) -> Iterator[list[EventOutcome]]:
        """The outcomes of complete batches, up to the first incomplete one."""
        while self._in_flight and not self._in_flight[0].open_places:
            sent = self._in_flight.popleft()
            self._events_in_flight -= len(sent.events)
            self._bytes_in_flight -= sent.size_bytes
            yield [outcome for outcome in sent.outcomes if outcome is not None]

    def _request(self, sent: _Sent) -> Request:
        request = Request(sent, sent.open_places)
        self._open.append(request)
        return request

    def _backoff_seconds(self, attempt: int) -> float:
        longest = self._limits.backoff_seconds * 2.0 ** (attempt - 1)
        return min(longest, self._limits.backoff_seconds_max) * random.uniform(0.5, 1.0)  # noqa: S311


def _size_of(events: Sequence[ledger_pb2.ProcessorEvent]) -> int:
    return sum(event.ByteSize() for event in events)
