"""The sender of `ledger ingest` sends batches in one stream, in order, bounded, with retries.

The server is a fake whose responses each test defines.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from support.events import event_message

from ledger.cli.connection import connect_plainly
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.ingest.batches import Batch, Line
from ledger.cli.ingest.fields import InvalidLine
from ledger.cli.ingest.sender import (
    ATTEMPTS_MAX,
    EventBatch,
    EventSender,
    Pace,
    Results,
    SendLimits,
)
from ledger.v1 import ledger_pb2

Request = ledger_pb2.StreamEventsRequest
Response = ledger_pb2.StreamEventsResponse
Responder = Callable[[Iterator[Request], grpc.ServicerContext], Iterator[Response]]

CREATED = ledger_pb2.IngestResult(status=ledger_pb2.INGEST_STATUS_CREATED)
DUPLICATE = ledger_pb2.IngestResult(status=ledger_pb2.INGEST_STATUS_DUPLICATE)
# How long the silent server waits for the interruption.
SILENCE_SECONDS = 30.0
# No test waits long between two attempts.
LIMITS = SendLimits(backoff_seconds=0.001)
BUSY = ledger_pb2.IngestResult(
    error=status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="busy")
)


@contextmanager
def server_with(respond: Responder) -> Iterator[str]:
    """The address of a server whose StreamEvents is `respond`."""
    handler = grpc.stream_stream_rpc_method_handler(
        respond, Request.FromString, Response.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "ledger.v1.LedgerService", {"StreamEvents": handler}
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def batch_of(*event_ids: str) -> EventBatch:
    """A batch of events with these ids."""
    return Batch.of([Line(1, event_message(event_id=event_id)) for event_id in event_ids], 0)


def send(
    address: str,
    batches: Iterator[EventBatch] | Sequence[EventBatch],
    pace: Pace | None = None,
    limits: SendLimits = LIMITS,
) -> list[tuple[list[str], list[int]]]:
    """Sends batches; returns the ids and statuses of each, in the order of the callbacks."""
    passed_on: list[tuple[list[str], list[int]]] = []

    def on_results(batch: EventBatch, results: Results) -> None:
        passed_on.append(
            ([event.event_id for event in batch.messages], [result.status for result in results])
        )

    with connect_plainly(address) as stub:
        EventSender(stub, on_results, pace, limits).send_all(batches)
    return passed_on


def ids_of(request: Request) -> list[str]:
    """The ids of its events."""
    return [event.event_id for event in request.events]


def all_created(request: Request) -> Response:
    """The response that all events are new."""
    return Response(results=[CREATED] * len(request.events))


def aborted(context: grpc.ServicerContext, code: grpc.StatusCode, text: str) -> Iterator[Response]:
    """No response but this status."""
    context.abort(code, text)
    yield Response()  # type: ignore[unreachable]  # which makes it a generator


def test_batches_go_through_one_stream_in_order() -> None:
    """Requests and results are in the order of the file, whether ids repeat or not."""
    streams: list[list[list[str]]] = []

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        streams.append([])
        for request in requests:
            streams[-1].append(ids_of(request))
            yield all_created(request)

    batches = [["a", "b"], ["a"], ["c"], ["b"]] * 20
    with server_with(respond) as address:
        assert [ids for ids, _ in send(address, [batch_of(*ids) for ids in batches])] == batches
    assert streams == [batches]


def test_batches_without_events_keep_their_place() -> None:
    """They send nothing, and a file without any event opens no stream."""
    streams = 0

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal streams
        streams += 1
        yield from map(all_created, requests)

    nothing = EventBatch.of([Line(1, InvalidLine([]))], 0)
    with server_with(respond) as address:
        assert [ids for ids, _ in send(address, [nothing, nothing])] == [[], []]
        assert streams == 0
        assert [
            ids
            for ids, _ in send(address, [nothing, batch_of("a"), nothing, batch_of("b"), nothing])
        ] == [*([], ["a"], [], ["b"], [])]


def test_stream_that_a_busy_server_refuses_is_repeated() -> None:
    """No error is reported."""
    calls = 0

    def respond(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal calls
        calls += 1
        if calls < 3:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        yield from map(all_created, requests)

    with server_with(respond) as address:
        assert send(address, [batch_of("a", "b")]) == [(["a", "b"], [CREATED.status] * 2)]
    assert calls == 3


def test_requests_without_a_response_are_sent_again_after_a_broken_stream() -> None:
    """In order, and only those; an event that had been booked counts as a duplicate."""
    streams: list[list[str]] = []
    booked: set[str] = set()

    def respond(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        streams.append([])
        for request in requests:
            (event_id,) = ids_of(request)
            streams[-1].append(event_id)
            result = DUPLICATE if event_id in booked else CREATED
            booked.add(event_id)
            if len(streams) < 4 and len(streams[-1]) == 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "away")
            yield Response(results=[result])

    event_ids = [str(number) for number in range(10)]
    with server_with(respond) as address:
        sent = send(address, [batch_of(event_id) for event_id in event_ids])
    assert [ids for ids, _ in sent] == [[event_id] for event_id in event_ids]
    assert [ids[0] for ids, statuses in sent if statuses == [DUPLICATE.status]] == ["2", "4", "6"]
    assert streams == [["0", "1", "2"], ["2", "3", "4"], ["4", "5", "6"], ["6", "7", "8", "9"]]


def test_retry_waits_as_long_as_the_server_asks() -> None:
    """If RetryInfo is longer than the backoff."""
    asked_at: list[float] = []
    retry = any_pb2.Any()
    retry.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=200_000_000)))
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="busy", details=[retry])

    def respond(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        asked_at.append(time.monotonic())
        if len(asked_at) == 1:
            context.abort_with_status(rpc_status.to_status(status))
        yield from map(all_created, requests)

    with server_with(respond) as address:
        assert send(address, [batch_of("a")]) == [(["a"], [CREATED.status])]
    assert asked_at[1] - asked_at[0] >= 0.2


def test_a_response_resets_the_number_of_attempts() -> None:
    """A stream that breaks off again and again is repeated while it makes progress."""
    calls = 0

    def respond(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal calls
        calls += 1
        yield all_created(next(requests))
        context.abort(grpc.StatusCode.UNAVAILABLE, "away")

    event_ids = [str(number) for number in range(2 * ATTEMPTS_MAX)]
    with server_with(respond) as address:
        assert (
            len(send(address, [batch_of(event_id) for event_id in event_ids])) == 2 * ATTEMPTS_MAX
        )
    assert calls >= 2 * ATTEMPTS_MAX


def test_number_of_attempts_is_bounded() -> None:
    """Then the exit status says that the same command may be run again."""
    calls = 0

    def respond(_: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal calls
        calls += 1
        yield from aborted(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")

    with server_with(respond) as address, pytest.raises(CommandFailure) as caught:
        send(address, [batch_of("a")])
    assert caught.value.exit_status is ExitStatus.UNREACHABLE
    assert calls == ATTEMPTS_MAX


def test_refused_stream_is_not_repeated() -> None:
    """An invalid request stays invalid."""
    calls = 0

    def respond(_: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal calls
        calls += 1
        yield from aborted(context, grpc.StatusCode.INVALID_ARGUMENT, "no")

    with (
        server_with(respond) as address,
        pytest.raises(CommandFailure, match="INVALID_ARGUMENT: no") as caught,
    ):
        send(address, [batch_of("a")])
    assert (caught.value.exit_status, calls) == (ExitStatus.REFUSED, 1)


def test_only_refused_events_of_a_batch_are_sent_again() -> None:
    """Results stay in the order of the events, and batches in the order of the file."""
    seen: list[list[str]] = []

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for request in requests:
            results = [
                BUSY if event_id in ("b", "d") and len(seen) == 0 else CREATED
                for event_id in ids_of(request)
            ]
            seen.append(ids_of(request))
            yield Response(results=results)

    with server_with(respond) as address:
        assert send(address, [batch_of("a", "b", "c", "d"), batch_of("e")]) == [
            (["a", "b", "c", "d"], [CREATED.status] * 4),
            (["e"], [CREATED.status]),
        ]
    assert sorted(seen) == [["a", "b", "c", "d"], ["b", "d"], ["e"]]


def test_event_that_is_always_refused_is_reported_so() -> None:
    """The others of its batch are booked."""

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for request in requests:
            yield Response(results=[CREATED, BUSY][-len(request.events) :])

    with server_with(respond) as address:
        assert send(address, [batch_of("a", "b")]) == [(["a", "b"], [CREATED.status, BUSY.status])]


@pytest.mark.parametrize("count", [0, 2])
def test_wrong_number_of_results_is_an_error(count: int) -> None:
    """The results cannot be matched with the events."""

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for _request in requests:
            yield Response(results=[CREATED] * count)

    with (
        server_with(respond) as address,
        pytest.raises(CommandFailure, match=f"returned {count} results for 1 events"),
    ):
        send(address, [batch_of("a")])


def test_stream_that_ends_before_all_responses_is_an_error() -> None:
    """Here the server ends it normally, without a response to one request."""

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        yield all_created(next(requests))

    with (
        server_with(respond) as address,
        pytest.raises(CommandFailure, match="without a response to 1 requests"),
    ):
        send(address, [batch_of("a"), batch_of("b")])


def test_silent_server_is_given_up() -> None:
    """A stream has no deadline, so the sender limits the time without a response."""
    limits = replace(LIMITS, response_timeout_seconds=0.05)
    over = threading.Event()

    def respond(_: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        over.wait(30)
        yield from ()

    with server_with(respond) as address:
        with pytest.raises(CommandFailure, match="has not responded") as caught:
            send(address, [batch_of("a")], limits=limits)
        over.set()
    assert caught.value.exit_status is ExitStatus.UNREACHABLE


def test_interruption_that_does_not_wake_the_sender_ends_its_wait() -> None:
    """A signal to another thread, or one just before the wait, does not wake the sender."""
    over, was_not_ended = threading.Event(), threading.Event()

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        next(requests)
        # By now the sender probably waits.
        time.sleep(0.1)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if not over.wait(SILENCE_SECONDS):
            was_not_ended.set()
        yield from ()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with server_with(respond) as address:
            with pytest.raises(KeyboardInterrupt):
                send(address, [batch_of("a")])
            over.set()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not was_not_ended.is_set()


def test_lines_and_bytes_that_are_read_ahead_are_bounded() -> None:
    """So that memory for a file of any size is bounded."""
    limits = replace(LIMITS, lines_in_flight_max=6, bytes_in_flight_max=200)
    assert most_read_ahead(limits, batch_bytes=1, expected=3) == 3
    assert most_read_ahead(limits, batch_bytes=100, expected=2) == 2


def most_read_ahead(limits: SendLimits, *, batch_bytes: int, expected: int) -> int:
    """The most batches of two lines that are in flight at once.

    The server responds only when `expected` batches are in flight and no further one comes.
    """
    pulled = 0
    seen: list[int] = []

    def batches() -> Iterator[EventBatch]:
        nonlocal pulled
        for number in range(20):
            pulled += 1
            lines = [Line(1, event_message(event_id=f"{number}_{place}")) for place in range(2)]
            yield Batch.of(lines, (number + 1) * batch_bytes)

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for number, request in enumerate(requests):
            ends_at = time.monotonic() + 60
            while pulled < min(number + 1 + expected, 20) and time.monotonic() < ends_at:
                time.sleep(0.001)
            # If more could be in flight, they would come now.
            time.sleep(0.02)
            # One batch is read and waits for room.
            seen.append(pulled - number - 1)
            yield all_created(request)

    with server_with(respond) as address:
        assert len(send(address, batches(), limits=limits)) == 20
    return max(seen)


def test_pace_counts_events_with_a_result() -> None:
    """Each event once; there is no pace before the first response."""
    pace = Pace()
    assert not pace.events_per_second

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for number, request in enumerate(requests):
            yield Response(
                results=[CREATED, BUSY if number == 0 else CREATED][-len(request.events) :]
            )

    with server_with(respond) as address:
        send(address, [batch_of("a", "b"), batch_of("c", "d")], pace)
    assert pace.events == 4
    assert pace.events_per_second is not None
    assert pace.events_per_second > 0
