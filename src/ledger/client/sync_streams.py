"""Streams events to the server, and goes on after a broken connection."""

import queue
import threading
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ledger.client.batches import batches_of
from ledger.client.errors import LedgerError
from ledger.client.outcomes import EventOutcome
from ledger.client.streaming import StreamLimits, StreamState
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.v1 import ledger_pb2_grpc

END_TIMEOUT_SECONDS = 2.0
# Python handles Ctrl-C between two steps of Python code. A signal that comes just before a wait, or
# that another thread receives, does not end the wait. So no wait is longer than this.
WAIT_SECONDS = 0.25

_Response = ledger_pb2.StreamEventsResponse | Exception | None


class Outcomes(Iterator[EventOutcome]):
    """The outcomes of events, in their order. Events are sent while it is iterated over."""

    def __init__(self, outcomes: Generator[EventOutcome]) -> None:
        self._outcomes = outcomes
        self._has_begun = False

    def __next__(self) -> EventOutcome:
        self._has_begun = True
        return next(self._outcomes)

    def close(self) -> None:
        """Leaves the stream. What is on its way may be booked or not: send it again."""
        self._has_begun = True
        self._outcomes.close()

    def __del__(self) -> None:
        if not self._has_begun:
            warnings.warn(
                "the outcomes of stream_events were never looked at, so no event was sent",
                RuntimeWarning,
                stacklevel=2,
            )


def stream_events(
    service: "ledger_pb2_grpc.LedgerServiceStub",
    events: Iterable[ledger_pb2.ProcessorEvent],
    batch_size: int,
    limits: StreamLimits,
) -> Outcomes:
    """The outcomes of the events, sent in requests of `batch_size`."""
    batches = batches_of(events, batch_size)
    return Outcomes(
        outcome for outcomes in stream_batches(service, batches, limits) for outcome in outcomes
    )


def stream_batches(
    service: "ledger_pb2_grpc.LedgerServiceStub",
    batches: Iterable[Sequence[ledger_pb2.ProcessorEvent]],
    limits: StreamLimits | None = None,
) -> Iterator[list[EventOutcome]]:
    """The outcomes of each batch, in order. Each batch is a request; an empty one sends nothing.

    Raises LedgerError if the server refuses the stream, or cannot be reached for too long.
    """
    sender = _Sender(service, limits or StreamLimits())
    try:
        for batch in batches:
            while not sender.state.has_room(batch):
                sender.take(wait=True)
                yield from sender.state.ready()
            sender.send(batch)
            while sender.state.open_requests and sender.take(wait=False):
                pass
            yield from sender.state.ready()
        while not sender.state.is_empty:
            sender.take(wait=True)
            yield from sender.state.ready()
        sender.wait_for_end()
    except Exception:
        # Not when the iteration is left, which may be by Ctrl-C: the program may be ending.
        sender.cancel()
        raise
    finally:
        sender.end()


@dataclass(frozen=True, slots=True)
class _Stream:
    """A call of StreamEvents on a separate thread, with a queue to it and one from it.

    The caller's thread calls nothing of gRPC: Ctrl-C inside gRPC can leave a lock taken that the
    end of the program waits for.
    """

    # None is the end of either queue.
    requests: "queue.SimpleQueue[ledger_pb2.StreamEventsRequest | None]" = field(
        default_factory=queue.SimpleQueue
    )
    responses: "queue.SimpleQueue[_Response]" = field(default_factory=queue.SimpleQueue)
    # The call once it has begun; None if it could not.
    _calls: "queue.SimpleQueue[Any]" = field(default_factory=queue.SimpleQueue)

    def start(self, service: "ledger_pb2_grpc.LedgerServiceStub") -> None:
        """Opens the stream, on a daemon thread: the program may end before the server responds."""
        threading.Thread(
            target=self._carry, args=(service,), name="ledger.client stream", daemon=True
        ).start()

    def next_response(self, timeout_seconds: float) -> _Response:
        """Waits for a response; Ctrl-C ends the wait. Raises queue.Empty if none comes in time."""
        ends_at = time.monotonic() + timeout_seconds
        while True:
            left_seconds = ends_at - time.monotonic()
            try:
                return self.responses.get(timeout=max(0.0, min(WAIT_SECONDS, left_seconds)))
            except queue.Empty:
                if left_seconds <= WAIT_SECONDS:
                    raise

    def cancel(self) -> None:
        """Cancels the call, on a thread of its own: the server may be silent for good."""
        # No thread begins while the program ends, which ends the call too.
        with suppress(RuntimeError):
            threading.Thread(target=self._cancel, daemon=True).start()

    def _cancel(self) -> None:
        call = self._calls.get()
        if call is not None:
            call.cancel()

    def _carry(self, service: "ledger_pb2_grpc.LedgerServiceStub") -> None:
        try:
            call = service.StreamEvents(iter(self.requests.get, None))
            self._calls.put(call)
            for response in call:
                self.responses.put(response)
        except Exception as error:  # noqa: BLE001  # perhaps of the token function; `take` raises it
            self._calls.put(None)
            self.responses.put(error)
        else:
            self.responses.put(None)


class _Sender:
    """Carries the requests of a StreamState."""

    def __init__(self, service: "ledger_pb2_grpc.LedgerServiceStub", limits: StreamLimits) -> None:
        self._service = service
        self._limits = limits
        self._stream: _Stream | None = None
        self.state = StreamState(limits)

    def send(self, events: Sequence[ledger_pb2.ProcessorEvent]) -> None:
        request = self.state.add(events)
        if request is None:
            return
        if self._stream is None:
            self._open()
        else:
            self._stream.requests.put(request.message)

    def take(self, *, wait: bool) -> bool:
        """Handles the next response, or the error or end of the stream.

        Returns whether there was one; with `wait` there always is. Raises LedgerError.
        """
        if self._stream is None:
            raise RuntimeError("there is no stream to respond")
        try:
            response = (
                self._stream.next_response(self._limits.response_timeout_seconds)
                if wait
                else self._stream.responses.get_nowait()
            )
        except queue.Empty:
            if not wait:
                return False
            raise self.state.silent() from None
        if isinstance(response, ledger_pb2.StreamEventsResponse):
            if (again := self.state.take(response)) is not None:
                pause_seconds, request = again
                time.sleep(pause_seconds)
                self._stream.requests.put(request.message)
            return True
        if response is None:
            self._stream = None
            self.state.check_end()
        elif not isinstance(response, LedgerError):
            raise response
        else:
            pause_seconds = self.state.recover(response)
            self.end()
            time.sleep(pause_seconds)
            self._open()
        return True

    def wait_for_end(self) -> None:
        """Lets the server end the call, which it would otherwise count as cancelled."""
        if self._stream is not None:
            self._stream.requests.put(None)
            with suppress(queue.Empty):
                self._stream.next_response(END_TIMEOUT_SECONDS)
            self._stream = None

    def cancel(self) -> None:
        """Cancels the call, if there is one."""
        if self._stream is not None:
            self._stream.cancel()

    def end(self) -> None:
        """Leaves the stream."""
        if self._stream is not None:
            self._stream.requests.put(None)
            self._stream = None

    def _open(self) -> None:
        """Opens a stream and sends every request that has no response."""
        self._stream = _Stream()
        for request in self.state.open_requests:
            self._stream.requests.put(request.message)
        self._stream.start(self._service)
