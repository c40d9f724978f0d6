"""StreamEvents: order, every kind of event, bounds, and every way in which a stream can end."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2
from grpc import aio
from support.audit import assert_books_in_order
from support.books import stored_ids
from support.dates import days_ago
from support.events import event_message, unique
from support.fakes import FakeEventLedger, FakeUnitOfWork
from support.payout_runs import finished_run
from support.running import RunningLedger, running_ledger
from support.statuses import reason_of
from support.waiting import DEADLINE_SECONDS, until

from ledger.api import call_frame, event_stream
from ledger.api.call_frame import STOPPING_TASK
from ledger.api.convert.wire_format import parse_request
from ledger.api.event_stream import EventStream, HeldRequests
from ledger.api.transport.receiving import ROOM_TO_PARSE
from ledger.application.ingest.ingest_events import (
    IngestEvents,
)
from ledger.application.ingest.queue import IngestLimits
from ledger.bootstrap.database import Database
from ledger.domain.restaurants import UnknownRestaurants
from ledger.errors import QueueFull
from ledger.limits import BATCH_EVENTS_MAX
from ledger.v1 import ledger_pb2

Request = ledger_pb2.StreamEventsRequest
Response = ledger_pb2.StreamEventsResponse

CREATED, DUPLICATE = ledger_pb2.INGEST_STATUS_CREATED, ledger_pb2.INGEST_STATUS_DUPLICATE


def several(events: Iterable[ledger_pb2.ProcessorEvent]) -> Request:
    """A request with `events`."""
    return Request(events=events)


def single(event: ledger_pb2.ProcessorEvent) -> Request:
    """A request with `event`."""
    return Request(event=event)


async def responses_to(ledger: RunningLedger, requests: Sequence[Request]) -> list[Response]:
    """The responses of a stream of these requests."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        return [response async for response in ledger.stub.StreamEvents(iter(requests))]


async def each_of(
    stream: EventStream, requests: AsyncIterator[Request]
) -> AsyncGenerator[Response]:
    """The responses of a stream, one by one as they are sent."""
    async with aclosing(stream.responses(requests)) as groups:
        async for group in groups:
            for message in group.messages:
                group.on_write()
                yield Response.FromString(message)


def outcome_of(result: ledger_pb2.IngestResult) -> str:
    """A result in short: its status, or the code of its error."""
    if result.HasField("error"):
        return code_pb2.Code.Name(result.error.code)
    return ledger_pb2.IngestStatus.Name(result.status).removeprefix("INGEST_STATUS_")


async def test_each_result_is_in_the_place_of_its_event(shared_ledger: RunningLedger) -> None:
    """Good, bad, repeated and contradicting events, single and several in a request.

    Each request gets one response, with the results that IngestEvent would return.
    """
    restaurant_id = unique("res")
    first, second, third = (event_message(restaurant_id=restaurant_id) for _ in range(3))
    altered = event_message(event_id=first.event_id, restaurant_id=restaurant_id, amount_minor=1)
    bad = event_message(currency="PESO")
    lost = event_message(ledger_pb2.EVENT_TYPE_PAYOUT_PAID, payout_id=unique("payout"))
    responses = await responses_to(
        shared_ledger,
        [
            *(
                single(first),
                several([second, bad, first, altered, second]),
                single(altered),
                single(bad),
                single(lost),
            ),
            *(several([lost]), single(first), single(third)),
        ],
    )
    assert [
        outcome_of(response.result)
        if response.HasField("result")
        else [outcome_of(r) for r in response.results]
        for response in responses
    ] == [
        "CREATED",
        ["CREATED", "INVALID_ARGUMENT", "DUPLICATE", "ALREADY_EXISTS", "DUPLICATE"],
        *("ALREADY_EXISTS", "INVALID_ARGUMENT", "NOT_FOUND"),
        ["NOT_FOUND"],
        *("DUPLICATE", "CREATED"),
    ]
    assert (
        responses[0].result.transaction_id
        == responses[1].results[2].transaction_id
        == responses[6].result.transaction_id
    )
    assert await stored_ids(shared_ledger, restaurant_id) == {
        first.event_id,
        second.event_id,
        third.event_id,
    }


@pytest.mark.both_servers
async def test_payout_events_are_booked_in_the_order_of_the_stream(ledger: RunningLedger) -> None:
    """Paid is booked before returned, never the other way round; a late event is refused."""
    restaurants = [unique("res") for _ in range(20)]
    await ledger.ingest(
        *(event_message(restaurant_id=restaurant_id) for restaurant_id in restaurants)
    )
    await finished_run(ledger, as_of=days_ago(0))
    payouts = (await ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest())).payouts
    assert len(payouts) == len(restaurants)

    def moved(payout: ledger_pb2.Payout, type: int) -> Request:
        return single(
            event_message(
                type,
                restaurant_id=payout.restaurant_id,
                amount_minor=payout.amount_minor,
                payout_id=payout.payout_id,
            )
        )

    paid, failed = ledger_pb2.EVENT_TYPE_PAYOUT_PAID, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED
    requests = [moved(payout, type) for payout in payouts for type in (paid, failed, paid)]
    responses = await responses_to(ledger, requests)
    assert [outcome_of(response.result) for response in responses] == [
        "CREATED",
        "CREATED",
        "FAILED_PRECONDITION",
    ] * len(payouts)
    payouts = (await ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest())).payouts
    assert {payout.state for payout in payouts} == {ledger_pb2.PAYOUT_STATE_RETURNED}
    await assert_books_in_order(ledger.database)


async def test_ten_thousand_events_in_requests_of_both_kinds(ledger: RunningLedger) -> None:
    """Each result is in the place of its event, and each event is booked once."""
    restaurant_id = unique("res")
    events = [event_message(restaurant_id=restaurant_id, amount_minor=100) for _ in range(10_000)]
    requests: list[Request] = []
    rest = list(events)
    sizes = [1, 1, 1, 700, 1, 1000, 3, 1]
    while rest:
        size = sizes[len(requests) % len(sizes)]
        requests.append(single(rest[0]) if size == 1 else several(rest[:size]))
        del rest[:size]
    responses = await responses_to(ledger, requests)
    assert len(responses) == len(requests)
    for request, response in zip(requests, responses, strict=True):
        assert response.HasField("result") == request.HasField("event")
        assert len(response.results) == len(request.events)
    results = [
        result for response in responses for result in (response.results or [response.result])
    ]
    assert {result.status for result in results} == {CREATED}
    assert (await ledger.balance(restaurant_id)).available_minor == 10_000 * 100
    places = {
        event_id: str(transaction_id)
        for event_id, transaction_id in await ledger.query(
            "SELECT event_id, transaction_id FROM processor_events"
        )
    }
    assert [result.transaction_id for result in results] == [
        places[event.event_id] for event in events
    ]


async def test_server_stops_reading_from_a_client_that_stops_reading(ledger: RunningLedger) -> None:
    """The server reads on only while the network takes its responses.

    It continues when the client reads on.
    """
    restaurant_id = unique("res")
    # The first event of a request is good. The errors of the others take a hundred times the space
    # of those events.
    requests = [
        several([event_message(restaurant_id=restaurant_id), *[ledger_pb2.ProcessorEvent()] * 499])
        for _ in range(30)
    ]
    call: Any = ledger.stub.StreamEvents()

    async def write() -> None:
        for request in requests:
            await call.write(request)
        await call.done_writing()

    writing = asyncio.create_task(write())
    # How far the server has read, at each look: it has not read everything, and at last it reads
    # no more.
    booked = [0, -1]
    while booked[-1] != booked[-2] or not booked[-1]:
        booked.append(len(await stored_ids(ledger, restaurant_id)))
        # Long enough that a server which still reads would have booked more.
        await asyncio.sleep(0.2)
    assert booked[-1] < 25
    async with asyncio.timeout(DEADLINE_SECONDS):
        responses = [await call.read() for _ in requests]
        assert await call.read() is aio.EOF
        await writing
    assert [len(response.results) for response in responses] == [500] * 30
    assert {outcome_of(response.results[0]) for response in responses} == {"CREATED"}
    assert {outcome_of(response.results[-1]) for response in responses} == {"INVALID_ARGUMENT"}


class StalledLedger(FakeEventLedger):
    """Books one SQL statement each time that the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Semaphore(0)

    async def insert(self, *arguments: object, **options: object) -> set[str]:
        await self.let.acquire()
        return await super().insert(*arguments, **options)  # type: ignore[arg-type]


async def test_stream_reads_no_further_than_about_a_batch_ahead() -> None:
    """While the database stalls, one batch is being booked, one is read, and one request waits."""
    ledger = StalledLedger()
    ingest = IngestEvents(
        ledger,
        lambda: FakeUnitOfWork(ledger),
        unknown_restaurants=UnknownRestaurants.REGISTER,
        limits=IngestLimits(1000, 20_000, 2**30, group_events_max=500, batches_at_once_max=2),
    )
    sent, consumed = 30, 0

    async def requests() -> AsyncIterator[Request]:
        nonlocal consumed
        for _ in range(sent):
            consumed += 1
            yield several(event_message() for _ in range(100))

    responses = each_of(EventStream(ingest, lambda: datetime.now(UTC), HeldRequests()), requests())
    reading = asyncio.create_task(anext(responses))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert not reading.done()
    assert consumed * 100 <= 2 * BATCH_EVENTS_MAX + 100 < sent * 100
    for _ in range(1000):
        ledger.let.release()
    assert len((await reading).results) == 100
    assert len([response async for response in responses]) == sent - 1
    await ingest.close()


async def test_client_that_cancels_leaves_nothing_behind(ledger: RunningLedger) -> None:
    """The tasks of the call end, and acknowledged events are stored. All may be sent again."""
    restaurant_id = unique("res")
    events = [event_message(restaurant_id=restaurant_id) for _ in range(500)]

    async def endless() -> AsyncIterator[Request]:
        for event in events:
            yield single(event)
        await asyncio.Event().wait()

    await ledger.ingest(event_message(restaurant_id=restaurant_id))
    before = asyncio.all_tasks()

    def is_of_a_stream(task: asyncio.Task[Any]) -> bool:
        name = getattr(task.get_coro(), "__qualname__", "")
        return task.get_name() == STOPPING_TASK or name.startswith(("EventStream.", "write_groups"))

    def of_streams() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() - before if is_of_a_stream(task)]

    call: Any = ledger.stub.StreamEvents(endless())
    received = 0
    async for response in call:
        assert response.result.status == CREATED
        received += 1
        if received == 100:
            break
    assert STOPPING_TASK in {task.get_name() for task in of_streams()}
    call.cancel()

    await until(lambda: not of_streams())
    assert {event.event_id for event in events[:100]} <= await stored_ids(ledger, restaurant_id)
    responses = await responses_to(ledger, [several(events)])
    assert {result.status for result in responses[0].results} <= {CREATED, DUPLICATE}
    assert (await ledger.balance(restaurant_id)).available_minor == 501 * 10_000


def read_until_the_end(
    address: str, requests: Iterable[bytes], on_response: Callable[[Response], None]
) -> tuple[grpc.StatusCode, str] | None:
    """Reads a stream to its end. Returns its code and reason, or None if it succeeded.

    For a thread. The asynchronous client reports an internal error when it writes too late.
    """
    with grpc.insecure_channel(address) as channel:
        stream: Any = channel.stream_stream("/ledger.v1.LedgerService/StreamEvents")
        try:
            for response in stream(iter(requests), timeout=DEADLINE_SECONDS):
                on_response(Response.FromString(response))
        except grpc.RpcError as error:
            return (error.code(), reason_of(error))
        return None


async def test_stop_ends_a_stream_after_its_acknowledged_events(database: Database) -> None:
    """SHUTTING_DOWN, which clients retry: acknowledged events are stored.

    The rest can be sent to the next server and is booked once.
    """
    restaurant_id = unique("res")
    events = [event_message(restaurant_id=restaurant_id) for _ in range(2000)]
    received: list[Response] = []
    halfway, over = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def requests() -> Iterator[bytes]:
        for event in events:
            yield single(event).SerializeToString()
        over.wait(DEADLINE_SECONDS)

    def on_response(response: Response) -> None:
        received.append(response)
        if len(received) == 200:
            loop.call_soon_threadsafe(halfway.set)

    async with running_ledger(database) as ledger:
        reading = asyncio.create_task(
            asyncio.to_thread(read_until_the_end, ledger.address, requests(), on_response)
        )
        await asyncio.wait_for(halfway.wait(), DEADLINE_SECONDS)
        await ledger.server.stop(10)
        assert await reading == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        over.set()
        assert {outcome_of(response.result) for response in received} == {"CREATED"}
        assert {event.event_id for event in events[: len(received)]} <= await stored_ids(
            ledger, restaurant_id
        )
    async with running_ledger(database) as ledger:
        await responses_to(ledger, [several(events[:1000]), several(events[1000:])])
        assert (await ledger.balance(restaurant_id)).available_minor == 2000 * 10_000
    await assert_books_in_order(database)


async def test_malformed_message_ends_the_stream_after_earlier_responses(
    shared_ledger: RunningLedger,
) -> None:
    """INVALID_ARGUMENT; nothing that came after it is booked."""
    restaurant_id = unique("res")
    before, after = (
        [single(event_message(restaurant_id=restaurant_id)) for _ in range(20)] for _ in range(2)
    )
    messages = [*(request.SerializeToString() for request in before), b"\xff\xff"]
    messages += [request.SerializeToString() for request in after]
    responses: list[Response] = []
    ended = await asyncio.to_thread(
        read_until_the_end, shared_ledger.address, messages, responses.append
    )
    assert ended == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    assert [outcome_of(response.result) for response in responses] == ["CREATED"] * 20
    assert await stored_ids(shared_ledger, restaurant_id) == {
        request.event.event_id for request in before
    }


async def room_to_parse(request: Request) -> None:
    """Waits for room to parse, as the frame of a call does before it parses a request."""
    room = ROOM_TO_PARSE.get()
    assert room is not None
    await room(request.ByteSize())


async def test_stream_whose_responses_are_not_read_delays_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The requests that it sent ahead are dropped once another stream has no room.

    Its client learns this when it reads on, and may send them again.
    """
    monkeypatch.setattr(event_stream, "UNREAD_SECONDS", 0.01)
    ledger = FakeEventLedger()
    ingest = IngestEvents(
        ledger,
        lambda: FakeUnitOfWork(ledger),
        unknown_restaurants=UnknownRestaurants.REGISTER,
        limits=IngestLimits(1000, 20_000, 2**30, group_events_max=500, batches_at_once_max=2),
    )
    asked = 0

    async def requests() -> AsyncIterator[Request]:
        nonlocal asked
        for _ in range(100):
            asked += 1
            request = several(event_message() for _ in range(100))
            await room_to_parse(request)
            yield request

    held = HeldRequests(bytes_max=500_000)
    unread = each_of(EventStream(ingest, lambda: datetime.now(UTC), held), requests())
    assert len((await anext(unread)).results) == 100
    # The server reads ahead until it has no more room.
    before = -1
    while before != asked:
        before = asked
        for _ in range(100):
            await asyncio.sleep(0)
    assert 400_000 < held.size_bytes < 600_000

    async def one_request() -> AsyncIterator[Request]:
        request = several(event_message() for _ in range(1000))
        await room_to_parse(request)
        yield request

    async with asyncio.timeout(DEADLINE_SECONDS):
        others = each_of(EventStream(ingest, lambda: datetime.now(UTC), held), one_request())
        assert [len(response.results) async for response in others] == [1000]
    with pytest.raises(QueueFull):
        async for response in unread:
            assert len(response.results) == 100
    assert held.size_bytes == 0
    await ingest.close()


async def test_request_that_waits_for_room_is_not_parsed(
    shared_ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parsed message may take fifteen times its bytes, on every stream."""
    waits, room, parsed = asyncio.Event(), asyncio.Event(), list[int]()

    async def wait_for_room(_: HeldRequests, size_bytes: int, __: object) -> None:
        assert size_bytes == request.ByteSize()
        waits.set()
        await room.wait()

    def parse(parse: Any, raw: bytes) -> Message:
        parsed.append(len(raw))
        return parse_request(parse, raw)

    monkeypatch.setattr(HeldRequests, "wait_for_room", wait_for_room)
    monkeypatch.setattr(call_frame, "parse_request", parse)
    request = several([event_message()])
    responding = asyncio.create_task(responses_to(shared_ledger, [request]))
    async with asyncio.timeout(DEADLINE_SECONDS):
        await waits.wait()
        assert not parsed
        room.set()
        (response,) = await responding
    assert [outcome_of(result) for result in response.results] == ["CREATED"]
    assert parsed == [request.ByteSize()]


async def test_streams_share_one_bound_on_memory() -> None:
    """A request that would exceed it waits until others are booked.

    A request that is larger than the bound is let in alone.
    """
    held = HeldRequests(bytes_max=10)

    async def take(size_bytes: int) -> None:
        await held.wait_for_room(size_bytes)
        held.take(size_bytes)

    await take(6)
    waiting = asyncio.create_task(take(20))
    await asyncio.sleep(0)
    given_up = asyncio.create_task(take(5))
    await asyncio.sleep(0)
    given_up.cancel()
    await take(4)
    held.give_back(6)
    await asyncio.sleep(0)
    assert not waiting.done()
    held.give_back(4)
    await waiting
    assert held.size_bytes == 20
