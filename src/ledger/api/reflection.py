"""gRPC reflection: describes the services of a server, with their comments, to tools like grpcurl.

The library's own service describes what generated code holds, which has no comments, cannot look up
methods, and knows nothing of the details of errors. This one describes the packaged descriptor set,
under both names of the protocol: their messages differ by the name of the package alone.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from ledger.contract import descriptor_set
from ledger.errors import QueueFull

SERVICE_NAME = "grpc.reflection.v1.ServerReflection"
OLDER_SERVICE_NAME = "grpc.reflection.v1alpha.ServerReflection"
METHOD = "ServerReflectionInfo"
# Each may hold a response of 200 kB that its client does not read.
STREAMS_MAX = 10

_Request = reflection_pb2.ServerReflectionRequest
_Response = reflection_pb2.ServerReflectionResponse


class Reflection:
    """Describes the contract, health and itself."""

    def __init__(self, service_names: Iterable[str]) -> None:
        """`service_names` are the services of the server, beside reflection."""
        self._service_names = sorted({*service_names, SERVICE_NAME, OLDER_SERVICE_NAME})
        self._files = {file.name: file for file in _described_files()}
        self._serialized = {name: file.SerializeToString() for name, file in self._files.items()}
        self._file_by_symbol = {
            symbol: name for name, file in self._files.items() for symbol in _symbols_of(file)
        }
        self._messages = {
            symbol
            for file in self._files.values()
            for message in file.message_type
            for symbol in _messages_of(file.package, message)
        }
        self._streams = 0

    def handlers(self) -> dict[str, dict[str, Any]]:
        """The handlers of both services' methods: by the name of the service, then of the method.

        They are the same for both.
        """
        handler = grpc.stream_stream_rpc_method_handler(
            self.describe, _Request.FromString, _Response.SerializeToString
        )
        return {name: {METHOD: handler} for name in (SERVICE_NAME, OLDER_SERVICE_NAME)}

    async def describe(
        self, requests: AsyncIterator[_Request], _: object
    ) -> AsyncIterator[_Response]:
        """One response for each request. Raises QueueFull beyond STREAMS_MAX open streams."""
        if self._streams >= STREAMS_MAX:
            raise QueueFull
        self._streams += 1
        # The client keeps the files that it was sent on this stream.
        sent: set[str] = set()
        try:
            async for request in requests:
                yield self._response(request, sent)
        finally:
            self._streams -= 1

    def _response(self, request: _Request, sent: set[str]) -> _Response:
        response = _Response(valid_host=request.host, original_request=request)
        match request.WhichOneof("message_request"):
            case "list_services":
                for service in self._service_names:
                    response.list_services_response.service.add(name=service)
            case "file_by_filename" if request.file_by_filename in self._files:
                self._add_files(response, request.file_by_filename, sent)
            case "file_containing_symbol" if request.file_containing_symbol in self._file_by_symbol:
                name = self._file_by_symbol[request.file_containing_symbol]
                self._add_files(response, name, sent)
            # No file has an extension.
            case "all_extension_numbers_of_type" if (
                request.all_extension_numbers_of_type in self._messages
            ):
                response.all_extension_numbers_response.base_type_name = (
                    request.all_extension_numbers_of_type
                )
            case None:
                _set_error(response, grpc.StatusCode.INVALID_ARGUMENT, "the request asks nothing")
            case _:
                _set_error(response, grpc.StatusCode.NOT_FOUND, "this server has no such thing")
        return response

    def _add_files(self, response: _Response, name: str, sent: set[str]) -> None:
        """Adds a file, and what it imports that the client does not have yet."""
        files = response.file_descriptor_response.file_descriptor_proto
        files.append(self._serialized[name])
        sent.add(name)
        imported = list(self._files[name].dependency)
        while imported:
            needed = imported.pop()
            if needed not in sent:
                files.append(self._serialized[needed])
                sent.add(needed)
                imported.extend(self._files[needed].dependency)


def _set_error(response: _Response, code: grpc.StatusCode, text: str) -> None:
    response.error_response.error_code = code.value[0]
    response.error_response.error_message = text


def _described_files() -> Iterator[FileDescriptorProto]:
    yield from FileDescriptorSet.FromString(descriptor_set()).file
    yield FileDescriptorProto.FromString(health_pb2.DESCRIPTOR.serialized_pb)
    older = reflection_pb2.DESCRIPTOR.serialized_pb
    yield FileDescriptorProto.FromString(older)
    file = FileDescriptorProto.FromString(older)
    # In names of types and methods, and nowhere else.
    _rename(file, ".v1alpha.", ".v1.")
    file.name = file.name.replace("/v1alpha/", "/v1/")
    file.package = file.package.removesuffix("alpha")
    file.ClearField("options")
    yield file


def _rename(file: FileDescriptorProto, old: str, new: str) -> None:
    """Replaces a part of the names of types that the file's fields and methods have."""
    for message in file.message_type:
        for field in message.field:
            # Setting it would give numbers and texts a type, too.
            if field.type_name:
                field.type_name = field.type_name.replace(old, new)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(old, new)
            method.output_type = method.output_type.replace(old, new)


def _symbols_of(file: FileDescriptorProto) -> Iterator[str]:
    """The full names of all that a file defines."""
    for message in file.message_type:
        yield from _symbols_of_message(file.package, message)
    for enum in file.enum_type:
        yield from _symbols_of_enum(file.package, enum)
    for service in file.service:
        yield f"{file.package}.{service.name}"
        yield from (f"{file.package}.{service.name}.{method.name}" for method in service.method)


def _symbols_of_message(scope: str, message: DescriptorProto) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    yield name
    yield from (f"{name}.{field.name}" for field in message.field)
    yield from (f"{name}.{oneof.name}" for oneof in message.oneof_decl)
    for nested in message.nested_type:
        yield from _symbols_of_message(name, nested)
    for enum in message.enum_type:
        yield from _symbols_of_enum(name, enum)


def _symbols_of_enum(scope: str, enum: EnumDescriptorProto) -> Iterator[str]:
    yield f"{scope}.{enum.name}"
    # Values are names beside their enum, not inside of it.
    yield from (f"{scope}.{value.name}" for value in enum.value)


def _messages_of(scope: str, message: DescriptorProto) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    yield name
    for nested in message.nested_type:
        yield from _messages_of(name, nested)
