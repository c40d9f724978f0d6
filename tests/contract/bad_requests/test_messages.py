"""Bytes that are no message, requests that are wrong as a whole, and broken HTTP/2."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from grpc import aio
from support.bad_requests import (
    INVALID,
    MEBIBYTE,
    OK,
    REQUEST_TYPES,
    TOO_LARGE,
    Case,
    Cases,
    assert_nothing_internal,
    assert_refused,
    assert_serving,
    counts,
    field,
    groups,
    ingest,
    malformed,
    path_of,
    refusal,
    send,
    varint,
)
from support.events import event_message, unique
from support.http2 import frame, grpc_message
from support.processes import SERVED_SECONDS
from support.running import RunningLedger

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

pytestmark = pytest.mark.both_servers

# The string fields of ProcessorEvent with their numbers. No protobuf library writes other text than
# UTF-8 into them.
EVENT_STRING_FIELDS = {
    "event_id": 1,
    "restaurant_id": 3,
    "currency": 4,
    "payout_id": 8,
    "reference": 9,
}


NOT_UTF_8 = {
    "invalid-utf-8": b"evt\xff",
    "overlong": b"\xc0\xaf",
    "lone-surrogate": b"\xed\xa0\x80",
}

NOT_MESSAGES = {
    "ones": b"\xff" * 20,
    "length-without-content": b"\x0a\x7f",
    "tag-alone": b"\x0a",
    "unfinished-varint": b"\x0a\xff\xff\xff\xff",
    "length-beyond-int32": b"\x0a" + varint(2**40),
    "wire-type-6": b"\x0e",
    "wire-type-7": b"\x0f",
    "field-number-0": b"\x02\x00",
    "unopened-group": b"\x0c",
    "unclosed-group": b"\x0b",
    "truncated": ingest(event_message(event_id="truncated"))[:-1],
    "deep-groups": b"\xa3\x06" * 10_000 + b"\xa4\x06" * 10_000,
}

OF_LEDGER_SERVICE = ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"].methods_by_name
# All methods that take one request.
METHODS = [name for name in REQUEST_TYPES if name != "StreamEvents"]


def texts_of_accounts_and_payments(name: str, text: bytes) -> Iterator[tuple[str, Case]]:
    """The text in every field of a request about accounts or payments that is a text."""
    for method, descriptor in REQUEST_TYPES.items():
        if method in OF_LEDGER_SERVICE:
            continue
        for path in descriptor.fields:
            if path.type == FieldDescriptor.TYPE_STRING:
                yield f"{name}-{method}-{path.name}", malformed(method, field(path.number, text))
    for method, metadata in {
        "CreateAccount": 5,
        "AuthorizePayment": 11,
    }.items():
        entry = field(1, text) + field(2, b"x")
        yield f"{name}-{method}-metadata", malformed(method, field(metadata, entry))
    # In the second item of a batch.
    for method in ("BatchAuthorizePayments", "BatchTransfers"):
        yield f"{name}-{method}", malformed(method, field(1, b"") + field(1, field(1, text)))


def malformed_messages() -> Iterator[tuple[str, Case]]:
    """Bytes that are not the message."""
    for name, text in NOT_UTF_8.items():
        for path, number in EVENT_STRING_FIELDS.items():
            yield (
                f"{name}-{path}",
                malformed("IngestEvent", ingest(event_message(), appended=field(number, text))),
            )
        for path, entry in {
            "key": field(1, text) + field(2, b"x"),
            "value": field(1, b"x") + field(2, text),
        }.items():
            yield (
                f"{name}-metadata-{path}",
                malformed("IngestEvent", ingest(event_message(), appended=field(10, entry))),
            )
        yield (
            f"{name}-batch",
            malformed(
                "BatchIngestEvents",
                ingest(event_message()) + ingest(event_message(), appended=field(1, text)),
            ),
        )
        yield f"{name}-name", malformed("PutRestaurant", field(1, b"res") + field(2, text))
        yield f"{name}-path", malformed("UpdateRestaurant", field(2, field(1, text)))
        yield f"{name}-page_token", malformed("ListRestaurants", field(2, text))
        for path, number in {"currency": 2, "event_id": 6, "payout_id": 7, "page_token": 9}.items():
            yield f"{name}-ListEntries-{path}", malformed("ListEntries", field(number, text))
        yield f"{name}-RunPayouts-request_id", malformed("RunPayouts", field(4, text))
        for method in (
            "GetPayout",
            "GetPayoutRun",
            "CancelPayoutRun",
            "ListPayoutRuns",
            "ListPayoutRunItems",
            "ListPayouts",
        ):
            yield f"{name}-{method}", malformed(method, field(1, text))
        yield from texts_of_accounts_and_payments(name, text)
    for name, request in NOT_MESSAGES.items():
        for method in METHODS:
            if name == "truncated" and method != "IngestEvent":
                continue
            yield f"{name}-{method}", malformed(method, request)


def whole_requests() -> Iterator[tuple[str, Case]]:
    """Requests that are wrong as a whole: empty, too large, or of no method."""
    yield "batch-empty", Case("BatchIngestEvents", b"", fields=("events",))
    yield (
        "batch-of-1001",
        Case("BatchIngestEvents", ingest(event_message()) * 1001, fields=("events",)),
    )
    yield (
        "batch-of-1001-empty-events",
        Case("BatchIngestEvents", b"\x0a\x00" * 1001, fields=("events",)),
    )
    for method, path in {
        "BatchAuthorizePayments": "payments",
        "BatchTransfers": "transfers",
    }.items():
        yield f"{path}-empty", Case(method, b"", fields=(path,))
        yield f"{path}-of-1001", Case(method, field(1, b"") * 1001, fields=(path,))
        # Counted before it is parsed.
        yield f"{path}-of-1000000", Case(method, field(1, b"") * 1_000_000, fields=(path,))
        entries = b"".join(
            field(11 if path == "payments" else 9, field(1, b"%d" % number))
            for number in range(65_000)
        )
        yield f"{path}-with-65000-entries", Case(method, field(1, entries), fields=(path,))
    yield (
        "batch-of-64-KiB-events",
        Case("BatchIngestEvents", field(1, field(99, b"a" * 65_536)) * 70, TOO_LARGE, None),
    )
    yield (
        "batch-of-1000-events-of-64-KiB",
        Case("BatchIngestEvents", field(1, field(99, b"a" * 65_536)) * 1000, TOO_LARGE, None),
    )
    yield "5-MB", Case("IngestEvent", field(99, b"a" * 5_000_000), TOO_LARGE, None)
    yield (
        "a-byte-more-than-4-MiB",
        Case("GetEvent", field(99, b"a" * (4 * MEBIBYTE - 5)), TOO_LARGE, None),
    )
    # Within the 4 MiB of a message, and beyond the limit of these requests.
    for method in (
        "IngestEvent",
        "GetEvent",
        "GetBalance",
        "RunPayouts",
        "ListEntries",
        "PutRestaurant",
        "CreateAccount",
        "GetAccountBalance",
        "AuthorizePayment",
        "CapturePayment",
    ):
        for size in (256 * 1024 + 1, 4 * MEBIBYTE):
            request = field(99, b"a" * (size - len(field(99, b"a" * size)) + size))
            yield f"{size}-bytes-{method}", Case(method, request, INVALID, "REQUEST_TOO_LARGE")
    yield "unknown-method", Case("DeleteEverything", b"", grpc.StatusCode.UNIMPLEMENTED, None)
    yield "method-in-another-case", Case("ingestevent", b"", grpc.StatusCode.UNIMPLEMENTED, None)


@pytest.mark.parametrize("size", [5_000_000, 100_000_000])
async def test_small_request_that_unpacks_to_a_large_one_is_refused(
    shared_ledger: RunningLedger, size: int
) -> None:
    """The size after decompression counts."""
    before = await counts(shared_ledger)
    with pytest.raises(aio.AioRpcError) as caught:
        await send(
            shared_ledger, "IngestEvent", field(99, bytes(size)), compression=grpc.Compression.Gzip
        )
    got = refusal(caught.value)
    assert got.code == TOO_LARGE
    assert_nothing_internal(got.everything)
    assert await counts(shared_ledger) == before
    await assert_serving(shared_ledger)


async def test_compressed_request_is_accepted(shared_ledger: RunningLedger) -> None:
    """Only the size after decompression counts."""
    response = await send(
        shared_ledger, "IngestEvent", ingest(event_message()), compression=grpc.Compression.Gzip
    )
    assert (
        ledger_pb2.IngestEventResponse.FromString(response).status
        == ledger_pb2.INGEST_STATUS_CREATED
    )


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param((("x-padding", "a" * 20_480),), id="20-KB"),
        pytest.param(
            tuple((f"x-padding-{number}", "a") for number in range(10_000)), id="10000-headers"
        ),
    ],
)
async def test_too_many_headers_are_refused(
    shared_ledger: RunningLedger, headers: tuple[tuple[str, str], ...]
) -> None:
    """gRPC itself refuses them, before the service sees the call."""
    before = await counts(shared_ledger)
    async with aio.insecure_channel(shared_ledger.address) as channel:
        call: Any = channel.unary_unary(
            path_of("IngestEvent"), request_serializer=None, response_deserializer=None
        )
        with pytest.raises(aio.AioRpcError) as caught:
            await call(ingest(event_message()), metadata=aio.Metadata(*headers))
    assert caught.value.code() == TOO_LARGE
    assert await counts(shared_ledger) == before
    await assert_serving(shared_ledger)


async def test_unknown_service_is_unimplemented(shared_ledger: RunningLedger) -> None:
    """A service that the server does not offer."""
    call: Any = shared_ledger.channel.unary_unary(
        "/ledger.v2.LedgerService/IngestEvent", request_serializer=None, response_deserializer=None
    )
    with pytest.raises(aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ledger_pb2.StreamEventsRequest(), "events"),
        (ledger_pb2.StreamEventsRequest(events=[ledger_pb2.ProcessorEvent()] * 1001), "events"),
        (ledger_pb2.StreamEventsRequest(event=event_message(), events=[event_message()]), "events"),
    ],
    ids=["neither", "too many", "both"],
)
async def test_invalid_stream_request_ends_the_stream(
    shared_ledger: RunningLedger, request_: ledger_pb2.StreamEventsRequest, field: str
) -> None:
    """With INVALID_ARGUMENT, after the results of earlier events. Later events are not booked."""
    before, after = (
        event_message(restaurant_id=unique("res")),
        event_message(restaurant_id=unique("res")),
    )
    requests = [
        ledger_pb2.StreamEventsRequest(event=before),
        request_,
        ledger_pb2.StreamEventsRequest(event=after),
    ]
    responses: list[ledger_pb2.StreamEventsResponse] = []

    def read_until_the_end() -> Any:
        # The asynchronous client reports an internal error if the stream ends while it writes.
        with grpc.insecure_channel(shared_ledger.address) as channel:
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            with pytest.raises(grpc.RpcError) as ended:
                for response in stub.StreamEvents(iter(requests), timeout=SERVED_SECONDS):
                    responses.append(response)
            return ended.value

    error = await asyncio.to_thread(read_until_the_end)
    assert [response.result.status for response in responses] == [ledger_pb2.INGEST_STATUS_CREATED]
    got = refusal(error)
    assert (got.code, got.reason, got.metadata) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        {"field": field},
    )
    with pytest.raises(aio.AioRpcError) as caught:
        await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=after.event_id))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


# What no gRPC library sends: HTTP/2 frames by hand (RFC 9113), headers as plain literals (RFC 7541,
# section 6.2.2).
HEADERS_FRAME, DATA_FRAME, SETTINGS_FRAME, RESET_FRAME, GOAWAY_FRAME = 1, 0, 4, 3, 7


END_STREAM, END_HEADERS = 1, 4


def call_by_hand(body: bytes, **changed: str) -> bytes:
    """The bytes of an IngestEvent call, with some headers changed."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path_of("IngestEvent"),
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    } | {name.replace("_", "-"): value for name, value in changed.items()}
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(SETTINGS_FRAME, 0, 0, b"")
        + frame(HEADERS_FRAME, END_HEADERS, 1, block)
        + frame(DATA_FRAME, END_STREAM, 1, body)
    )


async def status_by_hand(address: str, request: bytes) -> grpc.StatusCode | None:
    """The status of a call that consists of these bytes.

    None when the call is reset, or the connection is closed, without a status.
    """
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(SERVED_SECONDS):
            writer.write(request)
            while True:
                head = await reader.readexactly(9)
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
                payload = await reader.readexactly(int.from_bytes(head[:3]))
                if kind == HEADERS_FRAME and (
                    found := re.search(rb"grpc-status[\x01\x02]([0-9]{1,2})", payload)
                ):
                    return {code.value[0]: code for code in grpc.StatusCode}[int(found.group(1))]
                if kind in (RESET_FRAME, GOAWAY_FRAME) or (stream == 1 and flags & END_STREAM):
                    return None
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    finally:
        writer.close()


_MESSAGE = grpc_message(ingest(event_message(event_id="by-hand")))

# Here grpc refuses before the service sees the call; each grpc version does so differently.
CUT_OFF = {None, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED}

BY_HAND: dict[str, tuple[bytes, set[grpc.StatusCode | None]]] = {
    "unknown-encoding": (
        call_by_hand(grpc_message(b"x", compressed=1), grpc_encoding="snail"),
        CUT_OFF,
    ),
    "compressed-without-encoding": (call_by_hand(grpc_message(b"x", compressed=1)), CUT_OFF),
    "gzip-that-is-not-gzip": (
        call_by_hand(grpc_message(b"x", compressed=1), grpc_encoding="gzip"),
        CUT_OFF,
    ),
    "binary-header-not-base64": (call_by_hand(_MESSAGE, x_data_bin="!!!!"), CUT_OFF),
    "http-1": (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", {None}),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), {None}),
    "timeout-of-0": (
        call_by_hand(_MESSAGE, grpc_timeout="0n"),
        {grpc.StatusCode.DEADLINE_EXCEEDED, None},
    ),
    "timeout-garbage": (call_by_hand(_MESSAGE, grpc_timeout="soon"), CUT_OFF),
    "message-that-claims-4-GiB": (call_by_hand(b"\0\xff\xff\xff\xff" + _MESSAGE), {TOO_LARGE}),
}


@pytest.mark.parametrize("name", BY_HAND)
async def test_call_that_breaks_the_transport_is_refused(
    shared_ledger: RunningLedger, name: str
) -> None:
    """gRPC refuses it or closes the connection. Its event is not booked, other calls succeed."""
    before = await counts(shared_ledger)
    request, expected = BY_HAND[name]
    assert await status_by_hand(shared_ledger.address, request) in expected
    assert await counts(shared_ledger) == before
    await assert_serving(shared_ledger)


async def test_call_by_hand_is_booked(shared_ledger: RunningLedger) -> None:
    """So the calls above are refused for what is wrong in them, not for how they are written."""
    before = await counts(shared_ledger)
    request = call_by_hand(grpc_message(ingest(event_message())), grpc_timeout="99999999H")
    assert await status_by_hand(shared_ledger.address, request) is OK
    assert (await counts(shared_ledger))[0] == before[0] + 1


@pytest.mark.parametrize("cases", groups(malformed_messages(), whole_requests()))
async def test_bad_request_is_refused_and_leaves_nothing_behind(
    shared_ledger: RunningLedger, connection: Connection, cases: Cases
) -> None:
    """Each gets its status, reason and fields, nothing is stored, and the server still serves."""
    await assert_refused(shared_ledger, connection, cases)
