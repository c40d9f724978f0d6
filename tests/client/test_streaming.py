"""Both clients stream events in order, bounded, and resume without losing or doubling any.

The server is a fake whose responses each test defines.
"""

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from support.events import event_message
from support.scripted import (
    CREATED,
    DUPLICATE,
    Request,
    Response,
    aborted,
    all_created,
    ids_of,
    scripted_server,
)

from ledger.client import (
    AsyncLedger,
    ClosedError,
    Credentials,
    EventOutcome,
    InvalidRequest,
    Ledger,
    Overloaded,
    ServerFailed,
    StreamLimits,
    TooSlow,
)
from ledger.v1 import ledger_pb2

# How long the silent server waits for the interruption.
SILENCE_SECONDS = 30.0
# No test waits long between two attempts.
LIMITS = StreamLimits(backoff_seconds=0.001)
BUSY = ledger_pb2.IngestResult(
    error=status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="busy")
)

Event = ledger_pb2.ProcessorEvent
Send = Callable[..., Awaitable[list[EventOutcome]]]


def events_of(event_ids: Iterable[str]) -> list[Event]:
    return [event_message(event_id=event_id) for event_id in event_ids]


def send_now(
    address: str, events: Iterable[Event], batch_size: int = 1, limits: StreamLimits = LIMITS
) -> list[EventOutcome]:
    with Ledger(address) as ledger:
        return list(ledger.stream_events(events, batch_size=batch_size, limits=limits))


@pytest.fixture(params=["sync", "async", "async source"])
def send(request: pytest.FixtureRequest) -> Send:
    """Streams events with one of the clients; returns the outcomes."""

    async def send_in_thread(*arguments: Any, **options: Any) -> list[EventOutcome]:
        return await asyncio.to_thread(send_now, *arguments, **options)

    async def send_async(
        address: str, events: Iterable[Event], batch_size: int = 1, limits: StreamLimits = LIMITS
    ) -> list[EventOutcome]:
        async def source() -> AsyncIterator[Event]:
            for event in events:
                yield event

        given = source() if request.param == "async source" else events
        async with AsyncLedger(address) as ledger:
            return [
                outcome
                async for outcome in ledger.stream_events(
                    given, batch_size=batch_size, limits=limits
                )
            ]

    return send_in_thread if request.param == "sync" else send_async


def statuses(outcomes: Sequence[EventOutcome]) -> list[tuple[str, int]]:
    return [(outcome.event_id, outcome.status) for outcome in outcomes]


async def test_events_go_through_one_stream_in_order(send: Send) -> None:
    """Requests and outcomes are in the order of the events, whether ids repeat or not."""
    streams: list[list[str]] = []

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        streams.append([])
        for request in requests:
            streams[-1] += ids_of(request)
            assert len(request.events) <= 3
            yield all_created(request)

    event_ids = ["a", "b", "a", "c", "b"] * 20
    with scripted_server(respond) as address:
        outcomes = await send(address, events_of(event_ids), batch_size=3)
    assert [outcome.event_id for outcome in outcomes] == event_ids
    assert streams == [event_ids]


async def test_no_events_open_no_stream(send: Send) -> None:
    assert await send("127.0.0.1:1", []) == []


async def test_stream_that_a_busy_server_refuses_is_repeated(send: Send) -> None:
    """No error is reported."""
    calls = 0

    def respond(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal calls
        calls += 1
        if calls < 3:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        yield from map(all_created, requests)

    with scripted_server(respond) as address:
        outcomes = await send(address, events_of("ab"))
    assert statuses(outcomes) == [("a", CREATED.status), ("b", CREATED.status)]
    assert calls == 3


async def test_broken_stream_is_resumed_without_losing_or_doubling(send: Send) -> None:
    """Only events without a result are sent again; what had been booked is a duplicate."""
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
    with scripted_server(respond) as address:
        outcomes = await send(address, events_of(event_ids))
    assert [outcome.event_id for outcome in outcomes] == event_ids
    assert [outcome.event_id for outcome in outcomes if outcome.is_duplicate] == ["2", "4", "6"]
    assert streams == [["0", "1", "2"], ["2", "3", "4"], ["4", "5", "6"], ["6", "7", "8", "9"]]


async def test_retry_waits_as_long_as_the_server_asks(send: Send) -> None:
    """If RetryInfo is longer than the backoff."""
    asked_at: list[float] = []
    retry = any_pb2.Any()
    retry.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=200_000_000)))
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="busy", details=[retry])

    def respond(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        asked_at.append(time.monotonic())
        if len(asked_at) == 1:
            # A request that is being written then may hide the status from asyncio.
            next(requests)
            context.abort_with_status(rpc_status.to_status(status))
        yield from map(all_created, requests)

    with scripted_server(respond) as address:
        assert statuses(await send(address, events_of("a"))) == [("a", CREATED.status)]
    assert asked_at[1] - asked_at[0] >= 0.2


async def test_a_response_resets_the_number_of_attempts(send: Send) -> None:
    """A stream that breaks off again and again is repeated while it makes progress."""
    calls = 0

    def respond(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal calls
        calls += 1
        yield all_created(next(requests))
        context.abort(grpc.StatusCode.UNAVAILABLE, "away")

    event_ids = [str(number) for number in range(2 * LIMITS.attempts_max)]
    with scripted_server(respond) as address:
        assert len(await send(address, events_of(event_ids))) == len(event_ids)
    assert calls >= len(event_ids)


async def test_number_of_attempts_is_bounded(send: Send) -> None:
    calls = 0

    def respond(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal calls
        calls += 1
        # A request that is being written then may hide the status from asyncio.
        next(requests)
        yield from aborted(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")

    with scripted_server(respond) as address, pytest.raises(Overloaded, match="busy"):
        await send(address, events_of("a"))
    assert calls == LIMITS.attempts_max


async def test_refused_stream_is_not_repeated(send: Send) -> None:
    """An invalid request stays invalid."""
    calls = 0

    def respond(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal calls
        calls += 1
        # A request that is being written then may hide the status from asyncio.
        next(requests)
        yield from aborted(context, grpc.StatusCode.INVALID_ARGUMENT, "no")

    with (
        scripted_server(respond) as address,
        pytest.raises(InvalidRequest, match="INVALID_ARGUMENT: no"),
    ):
        await send(address, events_of("a"))
    assert calls == 1


async def test_stream_goes_on_when_its_token_has_expired(send: Send) -> None:
    """Once: the next stream has the next token, if there is one."""
    calls = 0

    def respond(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal calls
        calls += 1
        yield all_created(next(requests))
        if calls == 1:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token has expired")
        yield from map(all_created, requests)

    with scripted_server(respond) as address:
        assert len(await send(address, events_of("abc"))) == 3
    assert calls == 2


async def test_only_refused_events_of_a_request_are_sent_again(send: Send) -> None:
    """Outcomes stay in the order of the events."""
    seen: list[list[str]] = []

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for request in requests:
            results = [
                BUSY if event_id in ("b", "d") and len(seen) == 0 else CREATED
                for event_id in ids_of(request)
            ]
            seen.append(ids_of(request))
            yield Response(results=results)

    with scripted_server(respond) as address:
        outcomes = await send(address, events_of("abcde"), batch_size=4)
    assert statuses(outcomes) == [(event_id, CREATED.status) for event_id in "abcde"]
    assert sorted(seen) == [["a", "b", "c", "d"], ["b", "d"], ["e"]]


async def test_event_that_is_always_refused_is_reported_so(send: Send) -> None:
    """The others of its request are booked."""

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for request in requests:
            yield Response(results=[CREATED, BUSY][-len(request.events) :])

    with scripted_server(respond) as address:
        good, bad = await send(address, events_of("ab"), batch_size=2)
    assert good.is_booked
    assert isinstance(bad.error, Overloaded)


@pytest.mark.parametrize("count", [0, 2])
async def test_wrong_number_of_results_is_an_error(send: Send, count: int) -> None:
    """The results cannot be matched with the events."""

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for _request in requests:
            yield Response(results=[CREATED] * count)

    with (
        scripted_server(respond) as address,
        pytest.raises(ServerFailed, match=f"returned {count} results for 1 events"),
    ):
        await send(address, events_of("a"))


async def test_stream_that_ends_before_all_responses_is_an_error(send: Send) -> None:
    """Here the server ends it normally, without a response to one request."""

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        response = all_created(next(requests))
        next(requests)
        yield response

    with (
        scripted_server(respond) as address,
        pytest.raises(ServerFailed, match="without a response to 1 requests"),
    ):
        await send(address, events_of("ab"))


async def test_silent_server_is_given_up(send: Send) -> None:
    """A stream has no deadline, so the client limits the time without a response."""
    limits = replace(LIMITS, response_timeout_seconds=0.05)
    over = threading.Event()

    def respond(_: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        over.wait(30)
        yield from ()

    with scripted_server(respond) as address:
        with pytest.raises(TooSlow, match="has not responded"):
            await send(address, events_of("a"), limits=limits)
        over.set()


def test_interruption_that_does_not_wake_the_client_ends_its_wait() -> None:
    """A signal to another thread, or one just before the wait, does not wake the client."""
    over, was_not_ended = threading.Event(), threading.Event()

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        next(requests)
        # By now the client probably waits.
        time.sleep(0.1)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if not over.wait(SILENCE_SECONDS):
            was_not_ended.set()
        yield from ()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with scripted_server(respond) as address:
            with pytest.raises(KeyboardInterrupt):
                send_now(address, events_of("a"))
            over.set()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not was_not_ended.is_set()


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (replace(LIMITS, events_in_flight_max=6), 6),
        (replace(LIMITS, bytes_in_flight_max=2 * events_of(["00"])[0].ByteSize()), 2),
    ],
)
async def test_what_is_read_ahead_is_bounded(
    send: Send, limits: StreamLimits, expected: int
) -> None:
    """So that memory for any number of events is bounded, and the source feels the pressure."""
    pulled = 0
    seen: list[int] = []

    def events() -> Iterator[Event]:
        nonlocal pulled
        for number in range(20):
            pulled += 1
            yield event_message(event_id=f"{number:02}")

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for number, request in enumerate(requests):
            ends_at = time.monotonic() + 60
            while pulled < min(number + expected, 20) and time.monotonic() < ends_at:
                time.sleep(0.001)
            seen.append(pulled - number)
            yield all_created(request)

    with scripted_server(respond) as address:
        assert len(await send(address, events(), limits=limits)) == 20
    # One or two further events are read, and wait for room.
    assert expected <= max(seen) <= expected + 2


async def test_outcomes_that_nobody_takes_stop_the_source(send: Send) -> None:
    """An iteration that is left early sends no more than was read ahead, and leaves no task."""
    pulled = 0

    def events() -> Iterator[Event]:
        nonlocal pulled
        for number in range(1000):
            pulled += 1
            yield event_message(event_id=f"{number}")

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        yield from map(all_created, requests)

    limits = replace(LIMITS, events_in_flight_max=10)
    with scripted_server(respond) as address:
        async with AsyncLedger(address) as ledger:
            outcomes = ledger.stream_events(events(), batch_size=1, limits=limits)
            async for outcome in outcomes:
                assert outcome.is_booked
                break
            await outcomes.aclose()
    assert pulled <= 20


async def test_events_of_a_source_that_pauses_are_sent_meanwhile() -> None:
    """An asynchronous source need not fill a request: a live feed gets outcomes at once."""
    took_one = asyncio.Event()

    async def feed() -> AsyncIterator[Event]:
        yield event_message(event_id="a")
        await took_one.wait()
        yield event_message(event_id="b")

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        yield from map(all_created, requests)

    seen: list[str] = []
    with scripted_server(respond) as address:
        async with AsyncLedger(address) as ledger:
            async for outcome in ledger.stream_events(feed(), limits=LIMITS):
                seen.append(outcome.event_id)
                took_one.set()
    assert seen == ["a", "b"]


async def test_error_of_the_source_ends_the_stream(send: Send) -> None:
    """The caller sees it."""

    def events() -> Iterator[Event]:
        yield event_message(event_id="a")
        raise OSError("the file is gone")

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        yield from map(all_created, requests)

    with scripted_server(respond) as address, pytest.raises(OSError, match="the file is gone"):
        await send(address, events())


async def test_error_of_the_token_function_ends_the_stream() -> None:
    """The caller sees it at once, whichever thread has called the function."""

    def fail() -> str:
        raise ConnectionError("no token")

    def stream() -> None:
        with Ledger("127.0.0.1:1", credentials=credentials) as ledger:
            list(ledger.stream_events(events_of("a"), limits=LIMITS))

    credentials = Credentials(token=fail)
    with pytest.raises(ConnectionError, match="no token"):
        await asyncio.to_thread(stream)
    async with AsyncLedger("127.0.0.1:1", credentials=credentials) as asynchronous:
        with pytest.raises(ConnectionError, match="no token"):
            await anext(asynchronous.stream_events(events_of("a"), limits=LIMITS))


def test_client_that_is_closed_opens_no_stream() -> None:
    with Ledger("127.0.0.1:1") as ledger:
        assert ledger.service
        outcomes = ledger.stream_events(events_of("a"), limits=LIMITS)
    with pytest.raises(ClosedError):
        next(outcomes)


def test_stream_that_is_given_up_is_cancelled() -> None:
    """Though the client stays open: no thread waits for a silent server for good."""

    def respond(_: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        is_over = threading.Event()
        context.add_callback(is_over.set)
        is_over.wait(SILENCE_SECONDS)
        yield from ()

    limits = replace(LIMITS, response_timeout_seconds=0.05)
    with scripted_server(respond) as address, Ledger(address) as ledger:
        with pytest.raises(TooSlow):
            next(ledger.stream_events(events_of("a"), limits=limits))
        for thread in threading.enumerate():
            if thread.name == "ledger.client stream":
                thread.join(SILENCE_SECONDS / 2)
                assert not thread.is_alive()


def test_stream_that_is_not_iterated_warns() -> None:
    """Nothing was sent then."""
    with Ledger("127.0.0.1:1") as ledger:
        outcomes = ledger.stream_events([])
        with pytest.warns(RuntimeWarning, match="no event was sent"):
            outcomes.__del__()
        outcomes.close()
