"""A gRPC server whose methods a test defines: what it answers, refuses, or never says."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from ledger.v1 import ledger_pb2

Request = ledger_pb2.StreamEventsRequest
Response = ledger_pb2.StreamEventsResponse
Streamer = Callable[[Iterator[Request], grpc.ServicerContext], Iterator[Response]]
Answer = Callable[[Any, grpc.ServicerContext], Any]

CREATED = ledger_pb2.IngestResult(status=ledger_pb2.INGEST_STATUS_CREATED)
DUPLICATE = ledger_pb2.IngestResult(status=ledger_pb2.INGEST_STATUS_DUPLICATE)


@contextmanager
def scripted_server(
    stream_events: Streamer | None = None,
    unary: Mapping[str, Answer] | None = None,
    address: str = "127.0.0.1:0",
) -> Iterator[str]:
    """The address of a LedgerService with this StreamEvents and these unary methods, by name."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    if stream_events is not None:
        handlers["StreamEvents"] = grpc.stream_stream_rpc_method_handler(
            stream_events, Request.FromString, Response.SerializeToString
        )
    for name, answer in (unary or {}).items():
        request_type: Any = getattr(ledger_pb2, f"{name}Request")
        response_type: Any = getattr(ledger_pb2, f"{name}Response")
        handlers[name] = grpc.unary_unary_rpc_method_handler(
            answer, request_type.FromString, response_type.SerializeToString
        )
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("ledger.v1.LedgerService", handlers),)
    )
    port = server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def ids_of(request: Request) -> list[str]:
    """The ids of its events."""
    return [event.event_id for event in request.events]


def all_created(request: Request) -> Response:
    """The response that all events are new."""
    return Response(results=[CREATED] * len(request.events))


def aborted(context: grpc.ServicerContext, code: grpc.StatusCode, text: str) -> Iterator[Response]:
    """No response but this status."""
    context.abort(code, text)
    yield Response()  # type: ignore[unreachable]  # which makes it a generator
