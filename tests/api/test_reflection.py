"""Reflection under both names of its protocol, as grpcurl and other tools use it."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import aio
from grpc_reflection.v1alpha import reflection_pb2
from support.health import SERVICES
from support.raising import ping_well, raising_service

from ledger.api.methods import METHODS
from ledger.api.reflection import OLDER_SERVICE_NAME, SERVICE_NAME, STREAMS_MAX, Reflection
from ledger.api.server import Server
from ledger.contract import proto_folder
from ledger.errors import QueueFull

NAMES = (SERVICE_NAME, OLDER_SERVICE_NAME)
Request = reflection_pb2.ServerReflectionRequest
Response = reflection_pb2.ServerReflectionResponse


@pytest.fixture(scope="module")
async def channel() -> AsyncIterator[aio.Channel]:
    """A channel to a server that needs no database to describe itself."""
    server = Server(
        raising_service(ValueError()), address="127.0.0.1:0", reflect=True, ping=ping_well
    )
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel
    await server.stop(0)


def stream_to(channel: aio.Channel, name: str) -> Any:
    """The method of the service `name`, with messages of the older protocol: they are the same."""
    method: Any = channel.stream_stream(
        f"/{name}/ServerReflectionInfo",
        request_serializer=Request.SerializeToString,
        response_deserializer=Response.FromString,
    )
    return method


async def ask(channel: aio.Channel, *requests: Request, name: str = SERVICE_NAME) -> list[Response]:
    """The responses to requests on one stream."""
    return [response async for response in stream_to(channel, name)(iter(requests))]


def files_of(response: Response) -> list[FileDescriptorProto]:
    """The files of a response."""
    found = response.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(file) for file in found]


@pytest.mark.parametrize("name", NAMES)
async def test_lists_every_service(channel: aio.Channel, name: str) -> None:
    """The same under both names, both of which are in the list."""
    (response,) = await ask(channel, Request(list_services="*", host="h"), name=name)
    listed = {service.name for service in response.list_services_response.service}
    assert listed == {*SERVICES, *NAMES, "grpc.health.v1.Health"}
    assert (response.valid_host, response.original_request.list_services) == ("h", "*")


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        *((method.path[1:].replace("/", "."), "") for method in METHODS.values()),
        ("ledger.v1.PaymentService", "ledger/v1/payment.proto"),
        ("ledger.v1.ProcessorEvent", "ledger/v1/ledger.proto"),
        ("ledger.v1.ProcessorEvent.fee_minor", "ledger/v1/ledger.proto"),
        ("ledger.v1.ProcessorEvent.MetadataEntry", "ledger/v1/ledger.proto"),
        ("ledger.v1.Overdraft.limit", "ledger/v1/account.proto"),
        ("ledger.v1.EventType", "ledger/v1/ledger.proto"),
        ("ledger.v1.EVENT_TYPE_CHARGE_SUCCEEDED", "ledger/v1/ledger.proto"),
        ("google.rpc.ErrorInfo", "google/rpc/error_details.proto"),
        ("google.rpc.BadRequest.FieldViolation", "google/rpc/error_details.proto"),
        ("google.rpc.RetryInfo", "google/rpc/error_details.proto"),
        ("grpc.health.v1.Health.Check", "grpc_health/v1/health.proto"),
        (f"{SERVICE_NAME}.ServerReflectionInfo", "grpc_reflection/v1/reflection.proto"),
        (f"{OLDER_SERVICE_NAME}.ServerReflectionInfo", "grpc_reflection/v1alpha/reflection.proto"),
    ],
    ids=lambda value: value or "its file",
)
async def test_finds_every_kind_of_symbol(channel: aio.Channel, symbol: str, file: str) -> None:
    """Also methods, fields, values, and the details of errors, which no file imports.

    With the files of the response alone a client can build their descriptors.
    """
    (response,) = await ask(channel, Request(file_containing_symbol=symbol))
    files = files_of(response)
    assert files[0].name == file or not file
    pool = DescriptorPool()
    for described in reversed(files):
        pool.AddSerializedFile(described.SerializeToString())
    owner = symbol.removeprefix(f"{files[0].package}.").split(".")[0]
    assert owner in {
        *(message.name for message in files[0].message_type),
        *(enum.name for enum in files[0].enum_type),
        *(value.name for enum in files[0].enum_type for value in enum.value),
        *(service.name for service in files[0].service),
    }


async def test_comments_are_those_of_the_contract(channel: aio.Channel) -> None:
    """What the contract says above each element is in what a tool shows."""
    (response,) = await ask(channel, Request(file_by_filename="ledger/v1/account.proto"))
    file = files_of(response)[0]
    comments = [location.leading_comments for location in file.source_code_info.location]
    text = (proto_folder() / "ledger" / "v1" / "account.proto").read_text()
    opening = next(line for line in text.splitlines() if line.startswith("// Opens accounts"))
    assert any(opening.removeprefix("//") in comment for comment in comments)
    # Line by line: none of the file's is missing.
    described = {line.strip() for comment in comments for line in comment.splitlines()}
    written = {
        line.strip().removeprefix("//").strip()
        for line in text.partition("service AccountService")[2].splitlines()
        if line.strip().startswith("//")
    }
    assert written <= described


async def test_file_is_sent_once_on_a_stream(channel: aio.Channel) -> None:
    """What a file imports comes with it, unless it came before. The file asked for always comes."""
    request = Request(file_by_filename="ledger/v1/payment.proto")
    first, again, other = await ask(
        channel, request, request, Request(file_by_filename="ledger/v1/ledger.proto")
    )
    names = [file.name for file in files_of(first)]
    assert names[0] == "ledger/v1/payment.proto"
    assert {"ledger/v1/ledger.proto", "google/rpc/status.proto"} <= set(names)
    assert len(names) == len(set(names))
    assert [file.name for file in files_of(again)] == ["ledger/v1/payment.proto"]
    assert [file.name for file in files_of(other)] == ["ledger/v1/ledger.proto"]


async def test_messages_of_both_protocols_differ_by_package_alone(channel: aio.Channel) -> None:
    """So the newer one can be described by renaming."""
    requests = [Request(file_containing_symbol=name) for name in NAMES]
    newer, older = [files_of(response)[0] for response in await ask(channel, *requests)]
    assert newer.package == "grpc.reflection.v1"
    assert older.package == "grpc.reflection.v1alpha"
    older.ClearField("options")
    assert str(older).replace("v1alpha", "v1") == str(newer)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Request(file_containing_symbol="ledger.v1.Nothing"), grpc.StatusCode.NOT_FOUND),
        (Request(file_by_filename="/etc/passwd"), grpc.StatusCode.NOT_FOUND),
        (Request(all_extension_numbers_of_type="ledger.v1.Nothing"), grpc.StatusCode.NOT_FOUND),
        (
            Request(
                file_containing_extension=reflection_pb2.ExtensionRequest(
                    containing_type="ledger.v1.Account", extension_number=100
                )
            ),
            grpc.StatusCode.NOT_FOUND,
        ),
        (Request(), grpc.StatusCode.INVALID_ARGUMENT),
    ],
    ids=["symbol", "file", "extensions", "extension", "nothing"],
)
async def test_what_is_not_there_is_said(
    channel: aio.Channel, request_: Request, code: grpc.StatusCode
) -> None:
    """In the response: the stream goes on."""
    refused, listed = await ask(channel, request_, Request(list_services=""))
    assert refused.error_response.error_code == code.value[0]
    assert refused.error_response.error_message
    assert listed.list_services_response.service


async def test_messages_have_no_extensions(channel: aio.Channel) -> None:
    """Tools ask for them before they show a message."""
    (response,) = await ask(channel, Request(all_extension_numbers_of_type="ledger.v1.Account"))
    numbers = response.all_extension_numbers_response
    assert numbers.base_type_name == "ledger.v1.Account"
    assert not numbers.extension_number


async def test_open_streams_are_bounded() -> None:
    """Each may hold a response that its client does not read. When one ends, the next is served."""
    reflection = Reflection(SERVICES)

    async def requests() -> AsyncIterator[Request]:
        yield Request(list_services="")

    streams = [reflection.describe(requests(), None) for _ in range(STREAMS_MAX)]
    for stream in streams:
        assert (await anext(stream)).list_services_response.service
    with pytest.raises(QueueFull):
        await anext(reflection.describe(requests(), None))
    assert [response async for response in streams[0]] == []
    assert await anext(reflection.describe(requests(), None))
