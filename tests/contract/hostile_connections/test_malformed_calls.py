"""Malformed, oversized and compressed calls: each is refused, and no other caller notices."""

import asyncio
import gzip
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from support.hostility import (
    INGEST,
    METHODS,
    STREAM,
    assert_refused,
    hostile_is_quiet,
    request,
    unharmed,
)
from support.http2 import Http2, grpc_message
from support.processes import SERVICE, ServerProcess
from support.waiting import DEADLINE_SECONDS

from ledger.api import server as api_server
from ledger.v1 import ledger_pb2

# Sizes, compressed and not


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


# Headers


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
            async with asyncio.timeout(DEADLINE_SECONDS):
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


# The wrong number of messages


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
