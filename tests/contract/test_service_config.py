"""What a channel does by the shipped service config, and by the one for several servers."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from support.events import event_message
from support.raising import ping_well, raising_service
from support.statuses import response_or_error
from support.waiting import until

from ledger.api.methods import SERVICE_NAMES
from ledger.api.server import Server
from ledger.contract import service_config
from ledger.errors import EventNotFound
from ledger.limits import MESSAGE_BYTES_MAX
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
# More than the largest request: a client may set it too high.
RETRY_BUFFER_BYTES = 2 * MESSAGE_BYTES_MAX
Respond = Callable[[bytes, Any], Awaitable[bytes]]


@asynccontextmanager
async def stub_of(respond: Respond) -> "AsyncIterator[ledger_pb2_grpc.LedgerServiceAsyncStub]":
    """A stub with the service config, to a server that takes messages of any size."""
    server = aio.server(options=[("grpc.max_receive_message_length", -1)])
    handler: Any = grpc.unary_unary_rpc_method_handler(respond, None, None)
    methods = dict.fromkeys(("BatchIngestEvents", "GetEvent"), handler)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE_NAMES[0], methods),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = [
        ("grpc.service_config", service_config()),
        ("grpc.per_rpc_retry_buffer_size", RETRY_BUFFER_BYTES),
    ]
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield ledger_pb2_grpc.LedgerServiceStub(channel)
    finally:
        await server.stop(0)


def test_every_method_has_the_largest_request() -> None:
    """The server's, so that a client sends nothing that the server cannot take."""
    entries = json.loads(service_config())["methodConfig"]
    assert [entry["maxRequestMessageBytes"] for entry in entries] == [MESSAGE_BYTES_MAX] * len(
        entries
    )


async def test_request_that_can_never_succeed_is_not_sent() -> None:
    """RESOURCE_EXHAUSTED is retried, but nothing that is too large reaches the server."""
    attempts: list[int] = []

    async def respond(request: bytes, _: Any) -> bytes:
        attempts.append(len(request))
        return b""

    async with stub_of(respond) as stub:
        events = [event_message(metadata={"note": "x" * 4600}) for _ in range(1000)]
        request = ledger_pb2.BatchIngestEventsRequest(events=events)
        assert request.ByteSize() > MESSAGE_BYTES_MAX
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.BatchIngestEvents(request)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert attempts == []
        del request.events[800:]
        await stub.BatchIngestEvents(request)
        assert attempts == [request.ByteSize()]


async def test_retries_stop_while_every_call_fails() -> None:
    """A server that is away gets the calls, and soon not four times as many."""
    attempts = 0

    async def respond(_: bytes, context: Any) -> bytes:
        nonlocal attempts
        attempts += 1
        await context.abort(grpc.StatusCode.UNAVAILABLE)
        raise AssertionError

    calls = 250
    async with stub_of(respond) as stub:
        request = ledger_pb2.GetEventRequest(event_id="evt_1")
        errors = await asyncio.gather(
            *(response_or_error(stub.GetEvent(request)) for _ in range(calls))
        )
    assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
    # Some are repeated once: the first failures do not stop retries.
    assert calls < attempts <= 3 * calls


async def test_calls_avoid_a_server_that_is_not_serving() -> None:
    """With the keys that the page shows, a client asks each server for its health."""

    async def ping_badly() -> None:
        raise ConnectionError

    sick, well = (
        Server(
            raising_service(EventNotFound(name)), address="127.0.0.1:0", reflect=False, ping=ping
        )
        for name, ping in (("sick", ping_badly), ("well", ping_well))
    )
    (shown,) = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    several = json.loads(shown)

    async def servers_called(config: dict[str, Any]) -> Counter[str]:
        """Which servers twenty calls reach once the channel knows both."""
        async with aio.insecure_channel(
            f"ipv4:127.0.0.1:{sick.port},127.0.0.1:{well.port}",
            options=[("grpc.service_config", json.dumps(config))],
        ) as channel:
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            request = ledger_pb2.GetEventRequest(event_id="evt_1")

            async def called() -> Counter[str]:
                calls = [response_or_error(stub.GetEvent(request)) for _ in range(20)]
                errors = await asyncio.gather(*calls)
                return Counter([error.details().split()[1] for error in errors])

            async def knows_both() -> bool:
                return len(await called()) == (1 if "healthCheckConfig" in config else 2)

            await until(knows_both, what="both servers")
            return await called()

    await sick.start()
    await well.start()
    try:
        assert await servers_called(several) == {"well": 20}
        del several["healthCheckConfig"]
        assert await servers_called(several) == {"sick": 10, "well": 10}
    finally:
        await sick.stop(0)
        await well.stop(0)
