"""A process of many callers at once; each waits for a response before its next call."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from grpc import StatusCode, aio

from scripts.bench.jobs import Interval, Outcome, Run, run_worker
from scripts.bench.raw_caller import RawCallers
from scripts.bench.raw_stream import RawStreams
from scripts.bench.wire import PaymentRequests, Requests, capture_path, path_of, requests_of

_OPTIONS = (
    # Without it channels to one address share a connection, and so reach one of several processes.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)
CONNECT_TIMEOUT_SECONDS = 10


class Channels:
    """Open channels, kept from job to job."""

    def __init__(self) -> None:
        self._open: dict[str, list[aio.Channel]] = {}

    async def get(self, address: str, number: int) -> Sequence[aio.Channel]:
        """`number` channels to an address, connected."""
        channels = self._open.setdefault(address, [])
        while len(channels) < number:
            channels.append(aio.insecure_channel(address, options=_OPTIONS))
        await asyncio.wait_for(
            asyncio.gather(*(channel.channel_ready() for channel in channels)),
            CONNECT_TIMEOUT_SECONDS,
        )
        return channels[:number]


async def call_until(
    ends_at: float,
    call: Any,
    requests: Requests,
    events: int,
    outcome: Outcome,
    capture: Any = None,
) -> None:
    """One caller of a unary method. It makes at least one call, however late it is.

    With `capture`, each payment is captured by a call of it; both calls count as one.
    """
    began = time.monotonic()
    while True:
        response = await call(requests.take(events))
        requests.check(response, events)
        if capture is not None and isinstance(requests, PaymentRequests):
            requests.check_capture(await capture(requests.capture_of(response)))
        outcome.add(began, events)
        if (began := time.monotonic()) >= ends_at:
            return


async def stream_until(
    ends_at: float, call: Any, requests: Requests, events: int, in_flight: int, outcome: Outcome
) -> None:
    """One stream, with at most `in_flight` requests without a response."""
    free = asyncio.Semaphore(in_flight)
    sent: deque[float] = deque()

    async def write() -> None:
        while not sent or time.monotonic() < ends_at:
            await free.acquire()
            sent.append(time.monotonic())
            await call.write(requests.take(events))
        await call.done_writing()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        while (response := await call.read()) is not aio.EOF:
            requests.check(response, events)
            outcome.add(sent.popleft(), events)
            free.release()
    if sent or await call.code() is not StatusCode.OK:
        raise RuntimeError(
            f"a stream ended with {await call.code()}, without a response to {len(sent)} requests"
        )


async def prepare_raw(job: dict[str, Any]) -> Run:
    """Connects the bench's own callers, of unary methods, and prepares the requests."""
    requests, outcome, ends_at, events = requests_of(job), Outcome(), 0.0, job["events"]

    def answered(began: float, response: bytes) -> bytes | None:
        requests.check(response, events)
        outcome.add(began, events)
        return requests.take(events) if time.monotonic() < ends_at else None

    connections = [
        await RawCallers.open(job["address"], path_of(job), answered)
        for _ in range(min(job["channels"], job["callers"]))
    ]

    async def run(interval: Interval) -> Outcome:
        nonlocal ends_at
        ends_at = interval.ends_at
        for number in range(job["callers"]):
            connections[number % len(connections)].start(requests.take(events))
        for connection in connections:
            await connection.finished
            connection.close()
        return outcome

    return run


async def prepare_raw_streams(job: dict[str, Any]) -> Run:
    """Connects the bench's own streams, and prepares the requests."""
    requests, outcome, ends_at, events = requests_of(job), Outcome(), 0.0, job["events"]
    begun = 0

    def take() -> bytes | None:
        nonlocal begun
        # Each stream has a request, however late it is: the first ones are taken as they open.
        if begun >= job["callers"] and time.monotonic() >= ends_at:
            return None
        begun += 1
        return requests.take(events)

    def answered(began: float, response: bytes) -> None:
        requests.check(response, events)
        outcome.add(began, events)

    connections = [
        await RawStreams.open(job["address"], path_of(job), take, answered, job["in_flight"])
        for _ in range(min(job["channels"], job["callers"]))
    ]

    async def run(interval: Interval) -> Outcome:
        nonlocal ends_at
        ends_at = interval.ends_at
        for number in range(job["callers"]):
            connections[number % len(connections)].start()
        for connection in connections:
            await connection.finished
            connection.close()
        return outcome

    return run


async def prepare(job: dict[str, Any], channels: Channels) -> Run:
    """Connects and prepares the requests."""
    streams = job["method"] == "StreamEvents"
    if job["raw"]:
        return await (prepare_raw_streams(job) if streams else prepare_raw(job))
    requests, path = requests_of(job), path_of(job)
    open_channels = await channels.get(job["address"], job["channels"])
    # Bytes go out and come in unchanged.
    methods: list[Any] = [
        channel.stream_stream(path) if streams else channel.unary_unary(path)
        for channel in open_channels
    ]

    captures: list[Any] = [
        channel.unary_unary(capture_path()) if job["captures"] else None
        for channel in open_channels
    ]

    async def run(interval: Interval) -> Outcome:
        outcome = Outcome()
        async with asyncio.TaskGroup() as callers:
            for number in range(job["callers"]):
                place, events = number % len(methods), job["events"]
                method = methods[place]
                callers.create_task(
                    stream_until(
                        interval.ends_at, method(), requests, events, job["in_flight"], outcome
                    )
                    if streams
                    else call_until(
                        interval.ends_at, method, requests, events, outcome, captures[place]
                    )
                )
        return outcome

    return run


def main() -> None:
    channels = Channels()

    def prepare_on_channels(job: dict[str, Any]) -> Any:
        return prepare(job, channels)

    run_worker(prepare_on_channels, uvloop=find_spec("uvloop") is not None)


if __name__ == "__main__":
    main()
