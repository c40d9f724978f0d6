"""How batches are sent: in one stream, in order, bounded, and again. The server is a fake that does as it is told."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from support.events import event_message

from ledger.cli.connection import connect_plainly
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.ingest import sender as event_sender
from ledger.cli.ingest.batches import Batch, Line
from ledger.cli.ingest.lines import InvalidLine
from ledger.cli.ingest.sender import ATTEMPTS_MAX, EventSender, Pace, Results
from ledger.v1 import ledger_pb2

Request = ledger_pb2.StreamEventsRequest
Response = ledger_pb2.StreamEventsResponse
Answers = Callable[[Iterator[Request], grpc.ServicerContext], Iterator[Response]]

CREATED = ledger_pb2.IngestResult(status=ledger_pb2.INGEST_STATUS_CREATED)
DUPLICATE = ledger_pb2.IngestResult(status=ledger_pb2.INGEST_STATUS_DUPLICATE)
# Long after an interruption.
ANSWER_SECONDS = 30.0
BUSY = ledger_pb2.IngestResult(
    error=status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="busy")
)


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_sender, "BACKOFF_SECONDS", 0.001)


@contextmanager
def answering(answers: Answers) -> Iterator[str]:
    """The address of a server whose StreamEvents is `answers`."""
    handler = grpc.stream_stream_rpc_method_handler(
        answers, Request.FromString, Response.SerializeToString
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


def batch_of(*event_ids: str) -> Batch:
    """A batch of events with these ids."""
    return Batch.of([Line(1, event_message(event_id=event_id)) for event_id in event_ids], 0)


def send(
    address: str, batches: Iterator[Batch] | Sequence[Batch], pace: Pace | None = None
) -> list[tuple[list[str], list[int]]]:
    """Sends batches; the ids and statuses of each, in the order in which they were told."""
    told: list[tuple[list[str], list[int]]] = []

    def on_answer(batch: Batch, results: Results) -> None:
        told.append(
            ([event.event_id for event in batch.events], [result.status for result in results])
        )

    with connect_plainly(address) as stub:
        EventSender(stub, on_answer, pace).send_all(batches)
    return told


def ids_of(request: Request) -> list[str]:
    """The ids of its events."""
    return [event.event_id for event in request.events]


def all_created(request: Request) -> Response:
    """The answer that all of them are new."""
    return Response(results=[CREATED] * len(request.events))


def aborted(context: grpc.ServicerContext, code: grpc.StatusCode, text: str) -> Iterator[Response]:
    """No answer but this status."""
    context.abort(code, text)
    yield Response()  # type: ignore[unreachable]  # which makes it a generator


def test_everything_goes_through_one_stream_in_order() -> None:
    """Whatever it is, with the same id or not: requests in the order of the file, and told in it."""
    streams: list[list[list[str]]] = []

    def answers(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        streams.append([])
        for request in requests:
            streams[-1].append(ids_of(request))
            yield all_created(request)

    batches = [["a", "b"], ["a"], ["c"], ["b"]] * 20
    with answering(answers) as address:
        assert [ids for ids, _ in send(address, [batch_of(*ids) for ids in batches])] == batches
    assert streams == [batches]


def test_batches_without_events_are_told_in_their_place() -> None:
    """They have nothing to send; and a file that has nothing else opens no stream."""
    streams = 0

    def answers(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal streams
        streams += 1
        yield from map(all_created, requests)

    nothing = Batch.of([Line(1, InvalidLine([]))], 0)
    with answering(answers) as address:
        assert [ids for ids, _ in send(address, [nothing, nothing])] == [[], []]
        assert streams == 0
        assert [
            ids
            for ids, _ in send(address, [nothing, batch_of("a"), nothing, batch_of("b"), nothing])
        ] == [*([], ["a"], [], ["b"], [])]


def test_busy_server_is_asked_again() -> None:
    """A whole stream that is refused for now is repeated, and nobody hears of it."""
    calls = 0

    def answers(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal calls
        calls += 1
        if calls < 3:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        yield from map(all_created, requests)

    with answering(answers) as address:
        assert send(address, [batch_of("a", "b")]) == [(["a", "b"], [CREATED.status] * 2)]
    assert calls == 3


def test_what_a_broken_stream_did_not_answer_is_sent_again() -> None:
    """In order, and nothing that was answered; what had been booked all the same counts as a duplicate."""
    streams: list[list[str]] = []
    booked: set[str] = set()

    def answers(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
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
    with answering(answers) as address:
        told = send(address, [batch_of(event_id) for event_id in event_ids])
    assert [ids for ids, _ in told] == [[event_id] for event_id in event_ids]
    assert [ids[0] for ids, statuses in told if statuses == [DUPLICATE.status]] == ["2", "4", "6"]
    assert streams == [["0", "1", "2"], ["2", "3", "4"], ["4", "5", "6"], ["6", "7", "8", "9"]]


def test_server_says_how_long_to_wait() -> None:
    """RetryInfo holds where it is longer than our own wait."""
    asked_at: list[float] = []
    retry = any_pb2.Any()
    retry.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=200_000_000)))
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="busy", details=[retry])

    def answers(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        asked_at.append(time.monotonic())
        if len(asked_at) == 1:
            context.abort_with_status(rpc_status.to_status(status))
        yield from map(all_created, requests)

    with answering(answers) as address:
        assert send(address, [batch_of("a")]) == [(["a"], [CREATED.status])]
    assert asked_at[1] - asked_at[0] >= 0.2


def test_progress_makes_attempts_count_anew() -> None:
    """A stream that breaks off again and again is repeated as long as it gets on."""
    calls = 0

    def answers(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal calls
        calls += 1
        yield all_created(next(requests))
        context.abort(grpc.StatusCode.UNAVAILABLE, "away")

    event_ids = [str(number) for number in range(2 * ATTEMPTS_MAX)]
    with answering(answers) as address:
        assert (
            len(send(address, [batch_of(event_id) for event_id in event_ids])) == 2 * ATTEMPTS_MAX
        )
    assert calls >= 2 * ATTEMPTS_MAX


def test_there_is_an_end_to_asking() -> None:
    """Then the command ends with the status that says: try again later."""
    calls = 0

    def answers(_: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal calls
        calls += 1
        yield from aborted(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")

    with answering(answers) as address, pytest.raises(CommandFailure) as caught:
        send(address, [batch_of("a")])
    assert caught.value.exit_status is ExitStatus.UNREACHABLE
    assert calls == ATTEMPTS_MAX


def test_refused_stream_is_not_repeated() -> None:
    """What is wrong with a request stays wrong."""
    calls = 0

    def answers(_: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal calls
        calls += 1
        yield from aborted(context, grpc.StatusCode.INVALID_ARGUMENT, "no")

    with (
        answering(answers) as address,
        pytest.raises(CommandFailure, match="INVALID_ARGUMENT: no") as caught,
    ):
        send(address, [batch_of("a")])
    assert (caught.value.exit_status, calls) == (ExitStatus.REFUSED, 1)


def test_only_events_that_were_put_off_are_sent_again() -> None:
    """And every result stands in the place of its event, every batch in the place of its own."""
    seen: list[list[str]] = []

    def answers(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for request in requests:
            results = [
                BUSY if event_id in ("b", "d") and len(seen) == 0 else CREATED
                for event_id in ids_of(request)
            ]
            seen.append(ids_of(request))
            yield Response(results=results)

    with answering(answers) as address:
        assert send(address, [batch_of("a", "b", "c", "d"), batch_of("e")]) == [
            (["a", "b", "c", "d"], [CREATED.status] * 4),
            (["e"], [CREATED.status]),
        ]
    assert sorted(seen) == [["a", "b", "c", "d"], ["b", "d"], ["e"]]


def test_event_that_is_always_put_off_is_told_as_refused() -> None:
    """The others of its batch are booked."""

    def answers(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for request in requests:
            yield Response(results=[CREATED, BUSY][-len(request.events) :])

    with answering(answers) as address:
        assert send(address, [batch_of("a", "b")]) == [(["a", "b"], [CREATED.status, BUSY.status])]


@pytest.mark.parametrize("count", [0, 2])
def test_wrong_number_of_results_is_an_error(count: int) -> None:
    """Nothing can be told about the events then."""

    def answers(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for _request in requests:
            yield Response(results=[CREATED] * count)

    with (
        answering(answers) as address,
        pytest.raises(CommandFailure, match=f"{count} results to 1 events"),
    ):
        send(address, [batch_of("a")])


def test_stream_that_ends_too_early_is_an_error() -> None:
    """A server that leaves requests unanswered and calls it an end."""

    def answers(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        yield all_created(next(requests))

    with (
        answering(answers) as address,
        pytest.raises(CommandFailure, match="ended the stream with 1 requests unanswered"),
    ):
        send(address, [batch_of("a"), batch_of("b")])


def test_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream has no deadline of its own: with no answer for too long, the command says so."""
    monkeypatch.setattr(event_sender, "ANSWER_TIMEOUT_SECONDS", 0.05)
    over = threading.Event()

    def answers(_: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        over.wait(30)
        yield from ()

    with answering(answers) as address:
        with pytest.raises(CommandFailure, match="has not answered") as caught:
            send(address, [batch_of("a")])
        over.set()
    assert caught.value.exit_status is ExitStatus.UNREACHABLE


def test_interruption_that_does_not_wake_the_sender_ends_it() -> None:
    """A signal that another thread is given, or that comes just before the wait for an answer, does not end it by itself."""
    over, waited_in_vain = threading.Event(), threading.Event()

    def answers(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        next(requests)
        # By now the sender waits, most likely.
        time.sleep(0.1)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if not over.wait(ANSWER_SECONDS):
            waited_in_vain.set()
        yield from ()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with answering(answers) as address:
            with pytest.raises(KeyboardInterrupt):
                send(address, [batch_of("a")])
            over.set()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not waited_in_vain.is_set()


def test_file_is_read_no_further_than_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file of any size fits the memory: by lines, and by bytes."""
    monkeypatch.setattr(event_sender, "LINES_IN_FLIGHT_MAX", 6)
    monkeypatch.setattr(event_sender, "BYTES_IN_FLIGHT_MAX", 200)
    assert most_read_ahead(batch_bytes=1, expected=3) == 3
    assert most_read_ahead(batch_bytes=100, expected=2) == 2


def most_read_ahead(batch_bytes: int, expected: int) -> int:
    """How many batches of two lines are in flight at the most, when the server answers only once as many as expected are, and
    nothing more comes."""
    pulled = 0
    seen: list[int] = []

    def batches() -> Iterator[Batch]:
        nonlocal pulled
        for number in range(20):
            pulled += 1
            lines = [Line(1, event_message(event_id=f"{number}_{place}")) for place in range(2)]
            yield Batch.of(lines, (number + 1) * batch_bytes)

    def answers(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for number, request in enumerate(requests):
            ends_at = time.monotonic() + 60
            while pulled < min(number + 1 + expected, 20) and time.monotonic() < ends_at:
                time.sleep(0.001)
            # If more could be in flight, they would come meanwhile.
            time.sleep(0.02)
            # One is read and waits for room.
            seen.append(pulled - number - 1)
            yield all_created(request)

    with answering(answers) as address:
        assert len(send(address, batches())) == 20
    return max(seen)


def test_pace_counts_what_is_answered() -> None:
    """Each event once, from the first that was sent; nothing before there is an answer."""
    pace = Pace()
    assert not pace.events_per_second

    def answers(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for number, request in enumerate(requests):
            yield Response(
                results=[CREATED, BUSY if number == 0 else CREATED][-len(request.events) :]
            )

    with answering(answers) as address:
        send(address, [batch_of("a", "b"), batch_of("c", "d")], pace)
    assert pace.events == 4
    assert pace.events_per_second is not None
    assert pace.events_per_second > 0
