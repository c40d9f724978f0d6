"""How batches are sent: retries, and what may be under way at the same time. The server is a fake that does as it is told."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from google.rpc import code_pb2, status_pb2
from support.events import event_message

from ledger.cli import event_sender
from ledger.cli.connection import connect
from ledger.cli.event_batches import Batch, Line
from ledger.cli.event_sender import ATTEMPTS_MAX, BATCHES_IN_FLIGHT_MAX, EventSender, Results
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.v1 import ledger_pb2

Request = ledger_pb2.BatchIngestEventsRequest
Response = ledger_pb2.BatchIngestEventsResponse
Answer = Callable[[Request, grpc.ServicerContext], Response]

CREATED = ledger_pb2.IngestResult(status=ledger_pb2.INGEST_STATUS_CREATED)
BUSY = ledger_pb2.IngestResult(error=status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="busy"))
PAID = ledger_pb2.EVENT_TYPE_PAYOUT_PAID


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_sender, "BACKOFF_SECONDS", 0.001)


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The address of a server whose BatchIngestEvents is `answer`."""
    handler = grpc.unary_unary_rpc_method_handler(answer, Request.FromString, Response.SerializeToString)
    server = grpc.server(ThreadPoolExecutor(max_workers=2 * BATCHES_IN_FLIGHT_MAX))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("ledger.v1.LedgerService", {"BatchIngestEvents": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def batch_of(*event_ids: str, type: int = ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED) -> Batch:
    """A batch of events with these ids."""
    return Batch.of([Line(1, event_message(type, event_id=event_id)) for event_id in event_ids], 0)


def send(address: str, batches: Sequence[Batch]) -> list[tuple[list[str], list[int]]]:
    """Sends batches; the ids and statuses of each, in the order in which they were told."""
    told: list[tuple[list[str], list[int]]] = []

    def on_answer(batch: Batch, results: Results) -> None:
        told.append(([event.event_id for event in batch.events], [result.status for result in results]))

    with connect(address) as stub:
        sender = EventSender(stub, on_answer)
        for batch in batches:
            sender.send(batch)
        sender.finish()
    return told


def created(request: Request) -> Response:
    """All of them."""
    return Response(results=[CREATED] * len(request.events))


def test_busy_server_is_asked_again() -> None:
    """A whole call that is refused for now is repeated, and nobody hears of it."""
    calls = 0

    def answer(request: Request, context: grpc.ServicerContext) -> Response:
        nonlocal calls
        calls += 1
        if calls < 3:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        return created(request)

    with answering(answer) as address:
        assert send(address, [batch_of("a", "b")]) == [(["a", "b"], [CREATED.status] * 2)]
    assert calls == 3


def test_only_events_that_were_put_off_are_sent_again() -> None:
    """And every result stands in the place of its event."""
    seen: list[list[str]] = []

    def answer(request: Request, _: grpc.ServicerContext) -> Response:
        event_ids = [event.event_id for event in request.events]
        seen.append(event_ids)
        return Response(results=[BUSY if event_id in ("b", "d") and len(seen) == 1 else CREATED for event_id in event_ids])

    with answering(answer) as address:
        assert send(address, [batch_of("a", "b", "c", "d")]) == [(["a", "b", "c", "d"], [CREATED.status] * 4)]
    assert seen == [["a", "b", "c", "d"], ["b", "d"]]


def test_there_is_an_end_to_asking() -> None:
    """Then the command ends with the status that says: try again later."""
    calls = 0

    def answer(_: Request, context: grpc.ServicerContext) -> Response:
        nonlocal calls
        calls += 1
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")

    with answering(answer) as address, pytest.raises(CommandFailure) as caught:
        send(address, [batch_of("a")])
    assert caught.value.exit_status is ExitStatus.UNREACHABLE
    assert calls == ATTEMPTS_MAX


def test_event_that_is_always_put_off_is_told_as_refused() -> None:
    """The others of its batch are booked."""
    with answering(lambda request, _: Response(results=[CREATED, BUSY][-len(request.events) :])) as address:
        assert send(address, [batch_of("a", "b")]) == [(["a", "b"], [CREATED.status, BUSY.status])]


def test_refused_call_is_not_repeated() -> None:
    """What is wrong with a request stays wrong."""
    calls = 0

    def answer(_: Request, context: grpc.ServicerContext) -> Response:
        nonlocal calls
        calls += 1
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")

    with answering(answer) as address, pytest.raises(CommandFailure, match="INVALID_ARGUMENT: no") as caught:
        send(address, [batch_of("a")])
    assert (caught.value.exit_status, calls) == (ExitStatus.REFUSED, 1)


def test_wrong_number_of_results_is_an_error() -> None:
    """Nothing can be told about the events then."""
    with (
        answering(lambda _request, _context: Response()) as address,
        pytest.raises(CommandFailure, match="0 results to 1 events"),
    ):
        send(address, [batch_of("a")])


class _Overlaps:
    """Answers calls, each only once `together` are under way or `alone` says that it is to be alone; keeps what overlapped."""

    def __init__(self, together: int) -> None:
        self.overlapped: dict[str, set[str]] = {}
        self._barrier = threading.Barrier(together)
        self._lock = threading.Lock()
        self._under_way: set[str] = set()

    def __call__(self, request: Request, _: grpc.ServicerContext) -> Response:
        name = request.events[0].reference
        with self._lock:
            self._under_way.add(name)
            for other in self._under_way:
                self.overlapped.setdefault(other, set()).update(self._under_way)
        if name.startswith("together"):
            self._barrier.wait(timeout=30)
        with self._lock:
            self._under_way.discard(name)
        return created(request)


def named(name: str, event_id: str, type: int = ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED) -> Batch:
    """A batch of one event, which the fake server knows by `name`."""
    return Batch.of([Line(1, event_message(type, event_id=event_id, reference=name))], 0)


def test_some_calls_are_under_way_together() -> None:
    """As many as are allowed, and told in the order of the file."""
    server = _Overlaps(BATCHES_IN_FLIGHT_MAX)
    names = [f"together_{number}" for number in range(2 * BATCHES_IN_FLIGHT_MAX)]
    # A batch of the second half begins when one of the first half is answered, hence in pairs of halves.
    with answering(server) as address:
        for half in (names[:BATCHES_IN_FLIGHT_MAX], names[BATCHES_IN_FLIGHT_MAX:]):
            assert [ids for ids, _ in send(address, [named(name, name) for name in half])] == [[name] for name in half]
    assert len(server.overlapped[names[0]]) > 1


def test_events_whose_order_matters_are_never_under_way_together() -> None:
    """Payout events wait for what came before and are waited for; so do events with an id that is under way."""
    server = _Overlaps(2)
    batches = [
        named("together_1", "a"),
        named("together_2", "b"),
        named("paid", "c", PAID),
        named("after", "d"),
        named("same", "d"),
    ]
    with answering(server) as address:
        assert [ids for ids, _ in send(address, batches)] == [["a"], ["b"], ["c"], ["d"], ["d"]]
    assert server.overlapped["together_1"] == {"together_1", "together_2"}
    assert server.overlapped["paid"] == {"paid"}
    assert server.overlapped["after"] == {"after"}
    assert server.overlapped["same"] == {"same"}
