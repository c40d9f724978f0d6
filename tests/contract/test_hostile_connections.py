"""Hostile connections: the server refuses or bounds each, and no other caller notices.

The server is a separate process, so that the tests can read its memory and its log.
"""

import asyncio
import gzip
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.errors import ErrorCodes
from h2.events import Event, PingAckReceived
from h2.settings import SettingCodes
from support.audit import assert_books_in_order
from support.commands import INTERRUPTIBLE
from support.events import event_message, unique
from support.http2 import Http2, Stream, frame, grpc_message
from support.processes import SERVICE, ServerProcess, server_process
from support.running import query, running_ledger
from support.tokens import token_line
from support.waiting import until

from ledger.api import server as api_server
from ledger.api import unread_responses
from ledger.bootstrap.database import Database
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

INGEST, STREAM = f"/{SERVICE}/IngestEvent", f"/{SERVICE}/StreamEvents"
BATCH = f"/{SERVICE}/BatchIngestEvents"
# The two kinds of calls that the service has: one request, and a stream of them.
METHODS = pytest.mark.parametrize("path", [INGEST, STREAM], ids=["single", "stream"])
MEBIBYTE = 1024 * 1024
MESSAGE_BYTES = 39 * MEBIBYTE // 10
# How often a server that says nothing is asked whether more may be sent.
IDLE_TAKES = 5
# A first byte with which, to the server, both TLS and HTTP/2 may begin.
ONE_BYTE = b"P"
# What a test may cost the server. A message of the largest size is held a few times over while it
# is read.
RSS_MIB_MAX = 48
LOG_BYTES_MAX = 4096
AT_WORK = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'ledger' AND state <> 'idle'
"""
TIMEOUT_SECONDS = 60.0


@pytest.fixture(scope="module")
async def hostile(shared_database: Database) -> AsyncIterator[ServerProcess]:
    """The server that is badly treated."""
    with tempfile.TemporaryDirectory(prefix="ledger-hostile-") as folder:
        async with server_process(shared_database, Path(folder) / "server.log") as running:
            await running.assert_well()
            yield running


@asynccontextmanager
async def unharmed(
    hostile: ServerProcess, *, rss_mib: float = RSS_MIB_MAX, booked: int = 0
) -> AsyncIterator[None]:
    """What happens inside books `booked` events, costs the server little memory and few words, and
    others are served.
    """
    before, memory, words = await hostile.counts(), hostile.rss_mib(), hostile.log_bytes()
    yield
    grown = hostile.rss_mib() - memory
    assert (await hostile.counts())[0] == before[0] + booked
    if not booked:
        assert await hostile.counts() == before
    await hostile.assert_well()
    assert grown < rss_mib, f"the server holds {grown:.0f} MiB more"
    assert hostile.log_bytes() - words < LOG_BYTES_MAX, hostile.log.read_text()[-4096:]


def request(path: str, **fields: Any) -> bytes:
    """A framed request with one valid event."""
    event = event_message(restaurant_id=unique("res"), **fields)
    kind = ledger_pb2.IngestEventRequest if path == INGEST else ledger_pb2.StreamEventsRequest
    return grpc_message(kind(event=event).SerializeToString())


def assert_refused(got: Stream, *codes: grpc.StatusCode) -> None:
    """One of the statuses, or cut off without one."""
    assert got.code in {None, *codes}, got
    assert got.code is not grpc.StatusCode.OK


# Rows 75 to 78: sizes, compressed and not.


@pytest.mark.parametrize("size", [5_000_000, 100_000_000])
@METHODS
async def test_gzip_bomb_is_not_unpacked(hostile: ServerProcess, path: str, size: int) -> None:
    """RESOURCE_EXHAUSTED once the unpacked part is larger than a message may be.

    The rest stays packed.
    """
    bomb = gzip.compress(bytes(size), 9)
    async with unharmed(hostile), Http2.connect(hostile.address) as connection:
        got = await connection.call(
            path, grpc_message(bomb, compressed=1), [("grpc-encoding", "gzip")]
        )
        assert got.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_thirty_gzip_bombs_at_once_are_not_unpacked(hostile: ServerProcess) -> None:
    """Thirty of them cost what is unpacked of each for a moment, not three gigabytes."""
    body = grpc_message(gzip.compress(bytes(100_000_000), 9), compressed=1)
    async with unharmed(hostile, rss_mib=192), AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(Http2.connect(hostile.address)) for _ in range(30)
        ]
        got = await asyncio.gather(
            *(one.call(INGEST, body, [("grpc-encoding", "gzip")]) for one in connections)
        )
        assert {some.code for some in got} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


@METHODS
async def test_message_beyond_the_limit_is_refused(hostile: ServerProcess, path: str) -> None:
    """5 MB as they are, and 4 GiB that are only announced."""
    async with unharmed(hostile), Http2.connect(hostile.address) as connection:
        for body in (grpc_message(bytes(5_000_000)), b"\0\xff\xff\xff\xff" + bytes(1000)):
            assert (await connection.call(path, body)).code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param([("grpc-encoding", "snail")], grpc_message(b"x", compressed=1), id="unknown"),
        pytest.param([], grpc_message(b"x", compressed=1), id="none-said"),
        pytest.param([("grpc-encoding", "gzip")], grpc_message(b"x", compressed=1), id="not-gzip"),
        pytest.param(
            [("grpc-encoding", "gzip")],
            grpc_message(gzip.compress(bytes(100))[:-9], compressed=1),
            id="gzip-cut",
        ),
    ],
)
@METHODS
async def test_encoding_that_is_none_is_refused(
    hostile: ServerProcess, path: str, headers: Any, body: bytes
) -> None:
    """UNIMPLEMENTED or INTERNAL from the library, in its own words; the method is not run."""
    async with unharmed(hostile), Http2.connect(hostile.address) as connection:
        got = await connection.call(path, body, headers)
        assert_refused(got, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL)


@pytest.mark.parametrize("flag", [2, 128, 255])
@METHODS
async def test_flag_of_a_message_that_is_none_books_nothing(
    hostile: ServerProcess, path: str, flag: int
) -> None:
    """To the library it is no message, or one like others.

    A stream ends there; an event without a result is not booked.
    """
    async with unharmed(hostile), Http2.connect(hostile.address) as connection:
        got = await connection.call(
            path, grpc_message(b"x", compressed=flag), [("grpc-timeout", "500m")]
        )
        assert not got.body
        if path == INGEST:
            assert_refused(
                got,
                grpc.StatusCode.INTERNAL,
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )


# Rows 79 to 83: headers.


@METHODS
async def test_headers_beyond_the_limit_are_refused_every_time(
    hostile: ServerProcess, path: str
) -> None:
    """One more than the limit is refused, and always: there is no room between two limits in which
    chance decides.
    """
    async with unharmed(hostile, booked=1), Http2.connect(hostile.address) as connection:
        for size in [api_server.METADATA_BYTES_MAX] * 20 + [20_480]:
            got = await connection.call(path, request(path), [("x-padding", "a" * size)])
            assert got.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (
            await connection.call(
                path, request(path), [("x-padding", "a" * (api_server.METADATA_BYTES_MAX - 1200))]
            )
        ).code is grpc.StatusCode.OK


@METHODS
async def test_ten_thousand_headers_are_refused(hostile: ServerProcess, path: str) -> None:
    """By number as by size."""
    async with unharmed(hostile), Http2.connect(hostile.address) as connection:
        got = await connection.call(
            path, request(path), [(f"x-padding-{number}", "a") for number in range(10_000)]
        )
        assert_refused(got, grpc.StatusCode.RESOURCE_EXHAUSTED)


@METHODS
@pytest.mark.parametrize(
    "value", ["!!!!", "a", "a===", "\x7f\x80"], ids=["not-base64", "odd", "padded", "binary"]
)
async def test_binary_header_that_is_not_base64_is_refused(
    hostile: ServerProcess, path: str, value: str
) -> None:
    """The stream is ended; other streams of the connection are not harmed, or the connection is
    closed.
    """
    async with unharmed(hostile), Http2.connect(hostile.address) as connection:
        got = await connection.call(path, request(path), [("x-data-bin", value.encode("latin-1"))])
        assert_refused(got, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


@pytest.mark.parametrize(
    "path",
    [
        f"/{SERVICE}/DeleteEverything",
        f"/{SERVICE}/ingestevent",
        "/ledger.v2.LedgerService/IngestEvent",
        "/",
        "//",
        "/%00",
    ],
)
async def test_unknown_method_is_unimplemented(hostile: ServerProcess, path: str) -> None:
    """Whatever else is asked for."""
    async with unharmed(hostile), Http2.connect(hostile.address) as connection:
        assert (await connection.call(path, request(INGEST))).code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("headers", "without"),
    [
        pytest.param([("content-type", "text/plain")], (), id="82-content-type"),
        pytest.param([], ("content-type",), id="82-no-content-type"),
        pytest.param([(":method", "GET")], (), id="82-get"),
        pytest.param([(":method", "DELETE")], (), id="82-delete"),
        pytest.param([], (":path",), id="82-no-path"),
        pytest.param([], ("te",), id="82-no-te"),
        pytest.param([(":scheme", "gopher")], (), id="82-scheme"),
    ],
)
@METHODS
async def test_request_that_is_hardly_grpc_harms_no_other_caller(
    hostile: ServerProcess, path: str, headers: Any, without: Any
) -> None:
    """The library is lenient with some of them.

    The event is booked or the call refused, never half of it.
    """
    before = await hostile.counts()
    async with Http2.connect(hostile.address) as connection:
        got = await connection.call(path, request(path), headers, without=without)
    await hostile.assert_well()
    # The newcomer's event is one of them.
    assert (await hostile.counts())[0] - before[0] == 1 + (got.code is grpc.StatusCode.OK)


@pytest.mark.parametrize(
    "opening",
    [
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", id="82-http-1"
        ),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), id="82-tls"),
        pytest.param(bytes(range(256)) * 64, id="82-noise"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096, id="82-frames-of-noise"),
        pytest.param(b"", id="82-nothing"),
    ],
)
async def test_what_does_not_speak_http2_is_shown_out(
    hostile: ServerProcess, opening: bytes
) -> None:
    """A hundred such connections are closed, with few words in the log."""
    host, port = hostile.address.rsplit(":", 1)

    async def knock() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(opening)
            if not opening:
                writer.write_eof()
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while await reader.read(65_536):
                    pass
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with unharmed(hostile):
        await asyncio.gather(*(knock() for _ in range(100)))


@pytest.mark.parametrize("timeout", ["0n", "0S"])
@METHODS
async def test_timeout_that_is_over_is_reported(
    hostile: ServerProcess, path: str, timeout: str
) -> None:
    """DEADLINE_EXCEEDED, or cut off; the booking may have begun before."""
    async with Http2.connect(hostile.address) as connection:
        assert_refused(
            await connection.call(path, request(path), [("grpc-timeout", timeout)]),
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )
    await hostile.assert_well()
    await hostile_is_quiet(hostile, path)


@pytest.mark.parametrize(
    "timeout", ["soon", "", "-1S", "1", "S", "1.5S", "999999999999999999999S", "1X", "0x1S"]
)
@METHODS
async def test_malformed_timeout_harms_no_other_caller(
    hostile: ServerProcess, path: str, timeout: str
) -> None:
    """Refused, or taken as no timeout at all; in that case the event is booked and said to be."""
    before = await hostile.counts()
    async with Http2.connect(hostile.address) as connection:
        got = await connection.call(path, request(path), [("grpc-timeout", timeout)])
    await hostile.assert_well()
    assert (await hostile.counts())[0] - before[0] == 1 + (got.code is grpc.StatusCode.OK)


@METHODS
async def test_timeout_of_ten_thousand_years_is_taken(hostile: ServerProcess, path: str) -> None:
    """The largest that can be written."""
    async with unharmed(hostile, booked=1), Http2.connect(hostile.address) as connection:
        assert (
            await connection.call(path, request(path), [("grpc-timeout", "99999999H")])
        ).code is grpc.StatusCode.OK


# The wrong number of messages.


async def test_second_message_of_a_single_call_is_not_booked(hostile: ServerProcess) -> None:
    """At most the first one is, and only if the call returns OK."""
    before = await hostile.counts()
    async with Http2.connect(hostile.address) as connection:
        got = await connection.call(INGEST, request(INGEST) + request(INGEST))
    await hostile.assert_well()
    assert (await hostile.counts())[0] - before[0] == 1 + (got.code is grpc.StatusCode.OK)


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\0\0\0\0", request(INGEST)[:-1]], ids=["none", "flag", "length", "cut"]
)
async def test_call_without_a_whole_message_is_never_run(
    hostile: ServerProcess, body: bytes
) -> None:
    """INVALID_ARGUMENT; the server does not wait for the rest of the message."""
    async with unharmed(hostile, booked=1), Http2.connect(hostile.address) as connection:
        endless = connection.open(INGEST)
        await connection.send(endless, body)
        got = await connection.call(INGEST, body)
        assert got.code is grpc.StatusCode.INVALID_ARGUMENT
        assert (await connection.call(INGEST, request(INGEST))).code is grpc.StatusCode.OK, (
            "on the same connection"
        )


async def test_stream_without_a_message_ends_well(hostile: ServerProcess) -> None:
    """A stream may be empty. One that ends inside a message books only the messages before."""
    async with unharmed(hostile), Http2.connect(hostile.address) as connection:
        assert (await connection.call(STREAM, b"")).code is grpc.StatusCode.OK
    async with unharmed(hostile, booked=1), Http2.connect(hostile.address) as connection:
        got = await connection.call(STREAM, request(STREAM) + request(STREAM)[:-1])
        assert (
            ledger_pb2.StreamEventsResponse.FromString(bytes(got.body[5:])).result.status
            == ledger_pb2.INGEST_STATUS_CREATED
        )


# Slow clients.


async def send_without_an_end(connection: Http2, streams: list[int], body: bytes) -> None:
    """Sends on all streams at once as much of the body as the server lets it."""
    places, idle = dict.fromkeys(streams, 0), 0
    while idle < IDLE_TAKES and not connection.closed:
        idle += 1
        for stream, place in places.items():
            got = connection.streams[stream]
            size = min(connection.h2.max_outbound_frame_size, len(body) - place)
            if got.ended or got.reset is not None:
                continue
            if 0 < size <= connection.h2.local_flow_control_window(stream):
                connection.h2.send_data(stream, body[place : place + size])
                places[stream], idle = place + size, 0
        connection.flush()
        await connection.drain()
        await connection.take_in(0.2 if idle else 0.001)


@pytest.mark.parametrize(
    ("path", "calls", "rss_mib"),
    [
        pytest.param(INGEST, 100, 224, id="single"),
        pytest.param(BATCH, 100, 96, id="batch"),
        pytest.param("/grpc.health.v1.Health/Check", 40, 96, id="health"),
        pytest.param("/grpc.health.v1.Health/Watch", 40, 96, id="watch"),
    ],
)
async def test_messages_that_never_end_are_bounded(
    hostile: ServerProcess, path: str, calls: int, rss_mib: float
) -> None:
    """Two connections with many calls each, every call with 3.9 MiB except the last byte.

    The server receives only some of them at a time, and serves other callers too.
    """
    body = (MESSAGE_BYTES + 1).to_bytes(5) + bytes(MESSAGE_BYTES)
    async with unharmed(hostile, rss_mib=rss_mib, booked=2), AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(Http2.connect(hostile.address)) for _ in range(2)
        ]
        streams = [[one.open(path) for _ in range(calls)] for one in connections]
        sending = [
            asyncio.create_task(send_without_an_end(one, opened, body))
            for one, opened in zip(connections, streams, strict=True)
        ]
        await hostile.assert_well()
        await asyncio.gather(*sending)
        await hostile.assert_well()


async def test_silent_calls_do_not_hold_up_health_checks(
    hostile: ServerProcess,
) -> None:
    """Three connections with a hundred calls each fill every place and the whole queue."""
    path = "/grpc.health.v1.Health/Check"
    async with unharmed(hostile, booked=1), AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(Http2.connect(hostile.address)) for _ in range(3)
        ]
        for one in connections:
            for _ in range(100):
                one.open(path)
        refused = connections[-1].streams
        await connections[-1].until(lambda: any(got.ended for got in refused.values()))
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in {got.code for got in refused.values()}, (
            "the line is full"
        )
        await hostile.assert_well()


async def test_nothing_is_received_from_strangers(database: Database, tmp_path: Path) -> None:
    """Calls without credentials are refused before their messages come: no more than a window of
    each is taken.
    """
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line("gateway", "ingest", "one"))
    body = (MESSAGE_BYTES + 1).to_bytes(5) + bytes(MESSAGE_BYTES)
    async with (
        server_process(database, tmp_path / "server.log", auth_tokens_file=str(tokens)) as server,
        Http2.connect(server.address) as connection,
    ):
        before = server.rss_mib()
        opened = [connection.open(path) for path in (INGEST, BATCH, STREAM) for _ in range(40)]
        await send_without_an_end(connection, opened, body)
        await connection.until(lambda: all(connection.streams[stream].ended for stream in opened))
        assert {connection.streams[stream].code for stream in opened} == {
            grpc.StatusCode.UNAUTHENTICATED
        }
        assert server.rss_mib() - before < RSS_MIB_MAX


@METHODS
async def test_body_that_trickles_in_holds_up_no_other_call(
    hostile: ServerProcess, path: str
) -> None:
    """Forty calls, each sending a byte now and then.

    Other callers are served too, and a call that its client gives up is not booked.
    """
    async with unharmed(hostile, booked=5), AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(Http2.connect(hostile.address)) for _ in range(40)
        ]
        calls = [(one, one.open(path), request(path)) for one in connections]
        for place in range(5):
            for one, stream, body in calls:
                await one.send(stream, body[place : place + 1], end=False)
            await hostile.assert_well()
        for one, stream, _ in calls:
            assert one.streams[stream] == Stream(), "it is waited for"
            one.h2.reset_stream(stream)
            one.flush()


async def test_six_hundred_idle_connections_hold_up_no_call(hostile: ServerProcess) -> None:
    """Half of them have exchanged settings, the others have said one byte."""
    host, port = hostile.address.rsplit(":", 1)
    async with unharmed(hostile, booked=3, rss_mib=128), AsyncExitStack() as stack:
        for _ in range(300):
            await stack.enter_async_context(Http2.connect(hostile.address))
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(ONE_BYTE)
            stack.callback(writer.close)
        for _ in range(3):
            await hostile.assert_well()


# Floods.


async def test_ping_flood_is_cut_off(hostile: ServerProcess) -> None:
    """GOAWAY with ENHANCE_YOUR_CALM and too_many_pings after a few pings too many."""
    async with unharmed(hostile), Http2.connect(hostile.address) as connection:
        for number in range(1000):
            connection.h2.ping(number.to_bytes(8))
        connection.flush()
        await connection.until(lambda: connection.goaway is not None)
        assert connection.goaway is not None
        assert (connection.goaway.error_code, connection.goaway.additional_data) == (
            ErrorCodes.ENHANCE_YOUR_CALM,
            b"too_many_pings",
        )


def continuations() -> bytes:
    """A header block that never ends, of a thousand frames (CVE-2024-27316)."""
    return frame(1, 0, 1, b"\x83\x86") + frame(9, 0, 1, b"\0\1a\1b" * 64) * 1000


FLOODS = {
    "settings": frame(4, 0, 0, (3).to_bytes(2) + (1).to_bytes(4)) * 10_000,
    "empty-settings": frame(4, 0, 0, b"") * 10_000,
    "header-table-sizes": b"".join(
        frame(4, 0, 0, (1).to_bytes(2) + size.to_bytes(4)) for size in (0, 2**31) * 2000
    ),
    "window-overflow": frame(8, 0, 0, (2**31 - 1).to_bytes(4)) * 2,
    "window-of-0": frame(8, 0, 0, bytes(4)),
    "priorities": b"".join(frame(2, 0, 2 * number + 1, bytes(5)) for number in range(10_000)),
    "resets-of-nothing": b"".join(
        frame(3, 0, 2 * number + 1, bytes(4)) for number in range(10_000)
    ),
    "body-without-stream": frame(0, 0, 7, bytes(100)) * 100,
    "push": frame(5, 4, 1, bytes(4)),
    "unknown-frames": frame(0xEE, 0xFF, 3, bytes(100)) * 10_000,
    "endless-headers": continuations(),
    "frame-of-16-MiB": frame(0, 0, 1, b"")[3:] + b"\xff" * 3,
    "header-indexes-out-of-nowhere": frame(1, 5, 1, b"\xff\xff\xff\xff\x0f"),
    "even-stream": frame(1, 5, 2, b"\x83\x86"),
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_flood_of_frames_is_survived(hostile: ServerProcess, flood: str) -> None:
    """Whether the server takes it or closes the connection: others are served."""
    async with unharmed(hostile), AsyncExitStack() as stack:
        for _ in range(3):
            connection = await stack.enter_async_context(Http2.connect(hostile.address))
            connection.write(FLOODS[flood])
            await connection.drain()
        await hostile_has_read(hostile)


async def hostile_is_quiet(hostile: ServerProcess, path: str) -> None:
    """Every earlier call of a method is booked, even if its client has given it up.

    The server takes calls up in turn, and now no session is at work.
    """
    async with Http2.connect(hostile.address) as connection:
        assert (await connection.call(path, request(path))).code is grpc.StatusCode.OK

    async def quiet() -> bool:
        return not await query(hostile.database.migration_url, AT_WORK)

    await until(quiet, TIMEOUT_SECONDS)


async def hostile_has_read(hostile: ServerProcess) -> None:
    """What was sent before is read, for it is read in turn."""
    async with aio.insecure_channel(
        hostile.address, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for _ in range(3):
            await health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS)


@METHODS
async def test_streams_opened_and_reset_at_speed_are_survived(
    hostile: ServerProcess, path: str
) -> None:
    """CVE-2023-44487: 4,000 calls that are reset at once.

    Other calls succeed at the same time, and the books stay whole.
    """
    before, memory, words = await hostile.counts(), hostile.rss_mib(), hostile.log_bytes()

    async def flood(with_body: bool) -> None:
        async with Http2.connect(hostile.address) as connection:
            for number in range(1000):
                if connection.goaway is not None or connection.closed:
                    break
                stream = connection.open(path)
                if with_body and connection.h2.local_flow_control_window(stream) > 1000:
                    connection.h2.send_data(stream, request(path), end_stream=True)
                connection.h2.reset_stream(stream, ErrorCodes.CANCEL)
                connection.flush()
                if number % 100 == 0:
                    await connection.take_in(0.001)
            await connection.drain()

    flooding = [asyncio.create_task(flood(number % 2 == 0)) for number in range(4)]
    others = 0
    while not all(task.done() for task in flooding):
        await hostile.assert_well()
        others += 1
    await asyncio.gather(*flooding)
    await hostile_has_read(hostile)
    assert others
    assert hostile.rss_mib() - memory < RSS_MIB_MAX
    assert hostile.log_bytes() - words < LOG_BYTES_MAX
    assert (await hostile.counts())[0] >= before[0] + others
    # The next test counts what is booked.
    await hostile_is_quiet(hostile, path)


# What the limits say, seen by a caller.


async def test_server_announces_how_many_streams_a_connection_may_open(
    hostile: ServerProcess,
) -> None:
    """The number is in the settings.

    Streams beyond it are refused as such, which callers repeat by themselves.
    """
    async with unharmed(hostile), Http2.connect(hostile.address) as connection:
        assert connection.settings[SettingCodes.MAX_CONCURRENT_STREAMS] == api_server.STREAMS_MAX
        # Half a call each: no response comes before the call is whole.
        for _ in range(api_server.STREAMS_MAX):
            connection.open(INGEST)
        connection.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 2**31 - 1
        connection.h2.remote_settings.acknowledge()
        surplus = [connection.open(INGEST) for _ in range(50)]
        await connection.until(
            lambda: any(connection.streams[stream].reset is not None for stream in surplus)
        )
        resets = {connection.streams[stream].reset for stream in surplus}
        assert resets <= {None, int(ErrorCodes.REFUSED_STREAM), int(ErrorCodes.ENHANCE_YOUR_CALM)}


def result_of(response: Any) -> ledger_pb2.IngestResult:
    """The result in a response of a stream."""
    assert isinstance(response, ledger_pb2.StreamEventsResponse), response
    return response.result


async def test_streams_of_events_beyond_the_bound_are_refused_for_now(
    database: Database,
) -> None:
    """RESOURCE_EXHAUSTED with QUEUE_FULL for the one too many.

    When one has ended there is room again.
    """
    async with running_ledger(database, open_streams=2) as ledger:
        first, second = ledger.stub.StreamEvents(), ledger.stub.StreamEvents()
        for call in (first, second):
            await call.write(ledger_pb2.StreamEventsRequest(event=event_message()))
            assert result_of(await call.read()).status == ledger_pb2.INGEST_STATUS_CREATED
        third = ledger.stub.StreamEvents()
        assert await third.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "QUEUE_FULL" in str(await third.trailing_metadata())
        await first.done_writing()
        assert await first.code() is grpc.StatusCode.OK
        fourth = ledger.stub.StreamEvents()
        await fourth.write(ledger_pb2.StreamEventsRequest(event=event_message()))
        assert result_of(await fourth.read()).status == ledger_pb2.INGEST_STATUS_CREATED
        second.cancel()
        fourth.cancel()


async def test_calls_beyond_the_bound_are_refused_for_now(database: Database) -> None:
    """With two calls open that wait for the database, a third is RESOURCE_EXHAUSTED.

    Events and health are not held up.
    """
    async with running_ledger(database, open_calls=2) as ledger:
        restaurant_id = unique("res")
        await ledger.stub.PutRestaurant(
            ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id)
        )
        calls = [
            ledger.stub.ListRestaurants(ledger_pb2.ListRestaurantsRequest(page_size=1))
            for _ in range(200)
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        refused = [error for error in outcomes if isinstance(error, aio.AioRpcError)]
        assert refused
        assert len(refused) < len(outcomes)
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert all("QUEUE_FULL" in str(error.trailing_metadata()) for error in refused)
        (result,) = await ledger.ingest(event_message(restaurant_id=restaurant_id))
        assert result.status == ledger_pb2.INGEST_STATUS_CREATED
        assert (await ledger.stub.ListRestaurants(ledger_pb2.ListRestaurantsRequest())).restaurants


class PingedConnection(Http2):
    """A connection that can wait until everything sent so far, both ways, has arrived."""

    pongs = 0

    async def ping(self) -> None:
        """Returns when the server has acknowledged a ping, or has closed the connection."""
        wanted = self.pongs + 1
        self.h2.ping(bytes(8))
        self.flush()
        await self.until(lambda: self.pongs >= wanted or self.closed)

    def _note(self, event: Event) -> None:
        self.pongs += isinstance(event, PingAckReceived)
        super()._note(event)


@asynccontextmanager
async def busy_connection(address: str) -> AsyncIterator[PingedConnection]:
    """One with a call open, of which the server learnt before the connection had been idle for too
    long.
    """
    ends_at = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < ends_at:
        async with PingedConnection.connect(address) as connection:
            connection.open(STREAM)
            await connection.ping()
            if connection.goaway is None and not connection.closed:
                yield connection
                return
    raise TimeoutError("every connection was shown out before its call was open")


async def test_unread_responses_are_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses further reads of a client that takes no responses, but no other's."""
    monkeypatch.setattr(unread_responses, "UNREAD_BYTES_MAX", 2000)
    async with running_ledger(database) as ledger:
        event, small = event_message(metadata={"filling": "x" * 900}), event_message()
        await ledger.ingest(event)
        await ledger.ingest(small)
        raw = ledger_pb2.GetEventRequest(event_id=event.event_id).SerializeToString()
        body = b"\0" + len(raw).to_bytes(4, "big") + raw
        async with Http2.connect(ledger.address) as unread:
            unread.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
            first = unread.open(f"/{SERVICE}/GetEvent")
            await unread.send(first, body)
            await unread.until(lambda: bool(unread.streams[first].headers))
            second = await unread.call(f"/{SERVICE}/GetEvent", body)
            assert second.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert not unread.is_over(first)
            stored = await ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=small.event_id))
            assert stored.event.event_id == small.event_id
            # Calls with small responses are not counted.
            await ledger.ingest(event_message(restaurant_id=event.restaurant_id))
            await ledger.balance(event.restaurant_id)


async def test_idle_connection_is_shown_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GOAWAY to who has no call open for long, and none to who has.

    A client with a channel notices nothing.
    """
    limits = dict(api_server._OPTIONS) | {"grpc.max_connection_idle_ms": 500}
    monkeypatch.setattr(api_server, "_OPTIONS", tuple(limits.items()))
    async with running_ledger(database) as ledger:
        async with AsyncExitStack() as stack:
            busy = await stack.enter_async_context(busy_connection(ledger.address))
            idle = await stack.enter_async_context(Http2.connect(ledger.address))
            await idle.until(lambda: idle.closed or idle.goaway is not None)
            # It was there before the other, and would have been shown out before.
            await busy.ping()
            assert not busy.closed
            assert busy.goaway is None
        (result,) = await ledger.ingest(event_message())
        assert result.status == ledger_pb2.INGEST_STATUS_CREATED


async def test_silent_connection_is_shown_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that says one byte and exchanges no settings has a few seconds and not two minutes."""
    limits = dict(api_server._OPTIONS)
    assert limits["grpc.server_handshake_timeout_ms"] == api_server.HANDSHAKE_SECONDS * 1000
    monkeypatch.setattr(
        api_server, "_OPTIONS", tuple((limits | {"grpc.server_handshake_timeout_ms": 200}).items())
    )
    async with running_ledger(database) as ledger:
        host, port = ledger.address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(ONE_BYTE)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while await reader.read(65_536):
                pass
        writer.close()
        (result,) = await ledger.ingest(event_message())
        assert result.status == ledger_pb2.INGEST_STATUS_CREATED


def few_descriptors(number: int) -> str:
    """The command in a process that may have so many descriptors."""
    return (
        "import resource; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({number}, {number}))\n{INTERRUPTIBLE}"
    )


@asynccontextmanager
async def strangers(
    address: str, number: int, first: bytes = b""
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Connections that send `first` and no more.

    Yields a task for each, which ends when the server closes it.
    """
    host, port = address.rsplit(":", 1)
    connections = [await asyncio.open_connection(host, int(port)) for _ in range(number)]

    async def until_closed(reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while await reader.read(65_536):
                pass

    for _, writer in connections:
        writer.write(first)
    closing = [asyncio.create_task(until_closed(reader)) for reader, _ in connections]
    try:
        yield closing
    finally:
        for _, writer in connections:
            writer.close()
        await asyncio.gather(*closing)


async def test_connections_beyond_the_descriptors_are_closed(
    database: Database, tmp_path: Path
) -> None:
    """With 256 descriptors newcomers hear at once that there is no room, clients that are
    there are served, and there is room again when the others have gone. Health checks have an
    address and room apart from all of them.
    """
    settings = {"health_address": f"unix:{tmp_path}/health.sock"}
    async with (
        server_process(
            database, tmp_path / "server.log", program=few_descriptors(256), **settings
        ) as server,
        aio.insecure_channel(server.address) as channel,
    ):
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        await stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event_message()))
        # The kernel keeps connections out that have not sent a single byte.
        async with strangers(server.address, 300, ONE_BYTE) as closing:
            # Long before the server closes the connections that got in.
            _, pending = await asyncio.wait(
                closing,
                timeout=api_server.HANDSHAKE_SECONDS / 2,
                return_when=asyncio.FIRST_COMPLETED,
            )
            assert len(pending) < len(closing), "a connection beyond the bound is closed"
            await stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event_message()))
            for _ in range(10):
                assert (
                    await health_at(settings["health_address"])
                    == health_pb2.HealthCheckResponse.SERVING
                )
        await until(partial(is_well, server), TIMEOUT_SECONDS)


async def test_silent_connections_take_no_place(database: Database, tmp_path: Path) -> None:
    """More of them than the server has descriptors keep no newcomer out, and take no descriptor."""
    async with server_process(
        database, tmp_path / "server.log", program=few_descriptors(256)
    ) as server:
        await server.assert_well()
        async with strangers(server.address, 300) as closing:
            for _ in range(5):
                await server.assert_well()
            assert server.descriptors() < 128
            assert not any(task.done() for task in closing), "none was closed to make room"


async def health_at(address: str) -> Any:
    """The status that a health check on a separate connection returns."""
    async with aio.insecure_channel(
        address, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return (
            await stub.Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=TIMEOUT_SECONDS
            )
        ).status


async def is_well(server: ServerProcess) -> bool:
    """Whether a newcomer is served."""
    try:
        await server.assert_well()
    except aio.AioRpcError:
        return False
    return True


async def test_old_connection_is_replaced_and_no_event_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller whose connections are all old ones is never refused.

    A stream is cut off after the grace, and its caller, which repeats events without a result, has
    every event booked once.
    """
    monkeypatch.setattr(api_server, "CONNECTION_AGE_GRACE_SECONDS", 1)
    async with running_ledger(database, max_connection_age_seconds=1) as ledger:
        ends_at, single, cut = time.monotonic() + 5, list[ledger_pb2.ProcessorEvent](), 0
        unanswered = [event_message(restaurant_id="res_aged") for _ in range(200)]

        async def stream() -> None:
            nonlocal cut
            while unanswered:
                call = ledger.stub.StreamEvents()
                try:
                    for event in list(unanswered):
                        await call.write(ledger_pb2.StreamEventsRequest(event=event))
                        response = await call.read()
                        if not isinstance(response, ledger_pb2.StreamEventsResponse):
                            break
                        assert response.result.status in {
                            ledger_pb2.INGEST_STATUS_CREATED,
                            ledger_pb2.INGEST_STATUS_DUPLICATE,
                        }
                        unanswered.remove(event)
                        await asyncio.sleep(0.025)
                except (aio.AioRpcError, asyncio.InvalidStateError, AttributeError):
                    # A write that meets the end of the connection fails inside the client: no
                    # server sent that status.
                    is_own = await call.details() == "Internal error from Core"
                    assert is_own or await call.code() is grpc.StatusCode.UNAVAILABLE
                    cut += 1

        streaming = asyncio.create_task(stream())
        while time.monotonic() < ends_at or not streaming.done():
            single.append(event_message(restaurant_id="res_single"))
            began = time.monotonic()
            try:
                (result,) = await ledger.ingest(single[-1])
            except aio.AioRpcError:
                # Where a machine halts for longer than the grace, a single call is cut off as well.
                assert time.monotonic() - began >= api_server.CONNECTION_AGE_GRACE_SECONDS
                await ledger.ingest(single[-1])
            else:
                assert result.status == ledger_pb2.INGEST_STATUS_CREATED
        await streaming
        assert cut
        assert await ledger.query(
            "SELECT restaurant_id, count(*) FROM processor_events GROUP BY 1 ORDER BY 1"
        ) == [
            ("res_aged", 200),
            ("res_single", len(single)),
        ]
    await assert_books_in_order(database)


async def test_books_are_in_order_after_all_of_it(hostile: ServerProcess) -> None:
    """After everything above: no error in the audit, and the server that began is the one that is
    there.
    """
    await hostile.assert_well()
    await assert_books_in_order(hostile.database)


async def test_callers_that_leave_before_they_are_refused_write_no_log(
    database: Database, tmp_path: Path
) -> None:
    """More calls than may wait, on connections that are reset at once.

    The refused ones have no client left to receive the refusal.
    """

    async def leave(address: str) -> None:
        async with Http2.connect(address) as connection:
            for _ in range(100):
                connection.open(INGEST)
            await connection.drain()
            connection.reset()

    async with server_process(database, tmp_path / "server.log") as server:
        for _ in range(6):
            await asyncio.gather(*(leave(server.address) for _ in range(20)))
        await server.assert_well()
    log = server.log.read_text()
    assert "never retrieved" not in log
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]
    assert len(log) < LOG_BYTES_MAX
