"""The frame around every call.

It reads the request, gives the call an id, and turns every exception into a status. By itself the
gRPC library would send UNKNOWN and the text of the error for undecodable bytes and for unexpected
exceptions. Here neither leaves the server.

Methods get their frame when they are registered. Interceptors would do that in each call: ADR 0020
has the reasons.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Self

import grpc
import structlog
import uuid_utils
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc import aio

from ledger.api.access.gate import Gate, GatedCall
from ledger.api.call_limits import CallLimits, OpenCalls, OpenCallsLimits
from ledger.api.convert.batches import EVENTS, ITEMS_BY_METHOD, BatchItems
from ledger.api.convert.wire_format import parse_request
from ledger.api.errors import (
    REASONS_OF_OVERLOAD,
    has_status,
    internal,
    not_implemented,
    retry_pushback_of,
    status_code_of,
    status_of,
)
from ledger.api.methods import METHODS, SERVICE_NAMES, Method
from ledger.api.metrics import CallMetrics
from ledger.api.refusal_log import RefusalLog
from ledger.api.transport.receiving import (
    LARGE_PATIENCE_SECONDS,
    ROOM_TO_PARSE,
    TURN_BYTES_MIN,
    LargePlaces,
    LargeTurns,
    Receiving,
)
from ledger.api.transport.writing import write_groups
from ledger.api.unread_responses import UnreadLimits, UnreadResponses
from ledger.domain.fields import is_id
from ledger.errors import LedgerError, ShuttingDown
from ledger.limits import MESSAGE_BYTES_MAX, SMALL_REQUEST_BYTES_MAX
from ledger.observability import CALL_IDS

REQUEST_ID_KEY = "x-request-id"
# How long a stream has to end by itself when the server stops.
LAST_RESPONSE_SECONDS = 0.2
# The name of the task in which an open stream waits for the stop of the server.
STOPPING_TASK = "stream waits for the stop"
# How many requests of the ledger are received at once, and how many wait for that. Each that is
# received may take 4 MiB, whatever its method accepts; each that waits takes 16 KiB. The request of
# an honest client has arrived before it is read: 64 callers are as fast with 8 places as with 128.
READING_MAX, WAITING_MAX = 8, 1000
# How many batches, of events or of payments, are received at once, and how many wait. They share
# their places with open streams.
BATCHES_READING_MAX, BATCHES_WAITING_MAX = 8, 200
# How many health checks and reflection calls, which need no credentials, are received at once, and
# how many wait.
OPEN_READING_MAX, OPEN_WAITING_MAX = 2, 200
# Their requests have a few bytes, which come with the headers.
OPEN_PATIENCE_SECONDS = 0.1
_HEALTH_SERVICE = "grpc.health."
# Health checks do not wait behind events.
_HEALTH_METHODS = frozenset({"Check", "Watch"})
_STATUS_DETAILS_KEY = "grpc-status-details-bin"
# How long gRPC waits before it retries by itself; it does not read RetryInfo.
_RETRY_PUSHBACK_KEY = "grpc-retry-pushback-ms"

# One for all calls: they have no state.
_NO_LIMIT = nullcontext()
_NO_GATE = nullcontext()

Context = aio.ServicerContext[Any, Any]
# grpc's own type for handlers knows synchronous methods only.
Handler = Any


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What surrounds every call of one method. `method` is None for health and reflection."""

    path: str
    method: Method | None
    receiving: Receiving
    gate: Gate | None
    open_calls: OpenCalls | None
    unread: UnreadResponses | None
    is_served_while_stopping: bool

    @property
    def request_bytes_max(self) -> int:
        is_large = self.method is not None and self.method.is_large
        return MESSAGE_BYTES_MAX if is_large else SMALL_REQUEST_BYTES_MAX

    @property
    def items(self) -> BatchItems:
        """What a large request has many of."""
        return EVENTS if self.method is None else ITEMS_BY_METHOD.get(self.method.name, EVENTS)


class CallFrame:
    """Registers the methods of services with a server, each in its frame.

    Generated code takes it for the server: it has the two methods that `add_…_to_server` calls.
    """

    def __init__(
        self,
        server: aio.Server,
        limits: CallLimits,
        metrics: CallMetrics,
        gate_of: Callable[[Method], Gate | None] | None = None,
    ) -> None:
        """`gate_of` returns the gate of a method of the ledger, None if it has none."""
        self._server = server
        large = LargePlaces(
            limits.streams + BATCHES_READING_MAX
            if limits.large_places is None
            else limits.large_places
        )
        self._open_calls = OpenCallsLimits(limits, large)
        self._unread = UnreadLimits()
        self._metrics = metrics
        self._gate_of = gate_of
        self._turns = LargeTurns()
        self._receiving = Receiving(READING_MAX, WAITING_MAX)
        self._receiving_batches = Receiving(
            BATCHES_READING_MAX,
            BATCHES_WAITING_MAX,
            LARGE_PATIENCE_SECONDS,
            LARGE_PATIENCE_SECONDS,
            large=large,
            turns=self._turns,
        )
        self._open_receiving = Receiving(OPEN_READING_MAX, OPEN_WAITING_MAX, OPEN_PATIENCE_SECONDS)
        self._stopping = asyncio.Event()
        self._last_calls = 0
        # Bound once: looking up the log level would cost too much for a call that logs nothing.
        self._log = structlog.get_logger("ledger.calls").bind()
        self._refusals = RefusalLog(self._log)

    def stop(self) -> None:
        """Refuses further calls, except health checks, and ends every open stream.

        An open stream, such as a health watch, would hold up the stop.
        """
        self._stopping.set()
        self._refusals.report()

    @property
    def last_calls(self) -> int:
        """How many calls were refused because the server stops."""
        return self._last_calls

    def add_generic_rpc_handlers(self, _: Any) -> None:
        """Does nothing: generated code registers the same methods in the other way as well."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Handler]
    ) -> None:
        """Registers the methods of a service.

        A registered method has a separate queue for calls that the server has not taken up. The
        others share one queue: they are registered as generic handlers.
        """
        framed = {
            name: self._framed(service_name, name, handler)
            for name, handler in method_handlers.items()
        }
        with_queue = {
            name: handler for name, handler in framed.items() if _has_own_queue(service_name, name)
        }
        others = {name: handler for name, handler in framed.items() if name not in with_queue}
        if with_queue:
            self._server.add_registered_method_handlers(service_name, with_queue)
        if others:
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service_name, others),)
            )

    def _framed(self, service_name: str, name: str, handler: Handler) -> Handler:
        around = self._around(service_name, name)
        if handler.response_streaming:
            return self._streaming(around, handler)
        if handler.request_streaming:
            raise NotImplementedError(
                "the contract has no method that takes a stream and returns one response"
            )
        return self._single(around, handler)

    def _around(self, service_name: str, name: str) -> _Surroundings:
        path = f"/{service_name}/{name}"
        if service_name not in SERVICE_NAMES:
            is_health = service_name.startswith(_HEALTH_SERVICE)
            return _Surroundings(path, None, self._open_receiving, None, None, None, is_health)
        method = METHODS[name]
        return _Surroundings(
            path,
            method,
            self._receiving_batches if method.is_large else self._receiving,
            None if self._gate_of is None else self._gate_of(method),
            self._open_calls.of(method),
            self._unread.of(method),
            is_served_while_stopping=False,
        )

    def _single(self, around: _Surroundings, handler: Handler) -> Handler:
        """The handler of a method with one request and one response."""
        respond: Callable[[Message, Context], Awaitable[Message]] = handler.unary_unary
        parse: Callable[[bytes], Message] = handler.request_deserializer
        # Looked up here and not in each call.
        path, receiving, gate = around.path, around.receiving, around.gate
        open_calls, unread = around.open_calls, around.unread
        bytes_max, items = around.request_bytes_max, around.items
        is_refusable = around.method is not None and around.method.is_read
        is_served_while_stopping = around.is_served_while_stopping

        async def call(_: object, context: Context) -> Message:
            framed = _Call(self._log, self._refusals, self._metrics, path, context)
            raw: list[bytes] = []
            request: list[Message] = []
            try:
                if self._stopping.is_set() and not is_served_while_stopping:
                    self._last_calls += 1
                    raise ShuttingDown
                # The caller first: nothing is received from a stranger.
                gated = None if gate is None else gate.call(context, framed.request_id)
                # Popped from lists: a batch has several MiB, which its method drops early. A
                # variable here would hold it until the end of the call.
                raw = [await receiving.read(framed, bytes_max)]
                if unread is not None:
                    unread.check(context)
                request.append(parse_request(parse, raw.pop(), items))
                with open_calls.admitted() if open_calls is not None else _NO_LIMIT:
                    if gated is None:
                        response = await respond(request.pop(), context)
                    else:
                        with gated:
                            response = await respond(gated.read(request.pop()), context)
                            await gated.keep_response(response)
                if unread is not None:
                    unread.keep(context, response.ByteSize(), is_refusable=is_refusable)
            except BaseException as error:
                if not framed.failed(error):
                    raise
            else:
                framed.succeeded()
                return response
            # Not held while the status is sent, either.
            raw.clear()
            request.clear()
            await framed.abort()
            raise RuntimeError("an aborted call went on")

        # Registered as if it took a stream: the library would read a single request before it calls
        # any code of ours.
        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)

    def _streaming(self, around: _Surroundings, handler: Handler) -> Handler:
        """The handler of a method whose response is a stream."""
        parse: Callable[[bytes], Message] = handler.request_deserializer
        path, receiving, open_calls = around.path, around.receiving, around.open_calls
        gate = around.gate
        bytes_max = around.request_bytes_max
        is_of_events = around.method is not None and handler.request_streaming

        async def call(_: object, context: Context) -> None:
            framed = _Call(self._log, self._refusals, self._metrics, path, context)
            try:
                with (
                    open_calls.admitted() if open_calls is not None else _NO_LIMIT,
                    _NO_GATE if gate is None else gate.call(context, framed.request_id) as gated,
                ):
                    if is_of_events:
                        # The limit on open streams also limits what is received: a stream that
                        # waits for its next event looks the same as a slow one.
                        requests = _Requests(context, parse, self._turns, gate, gated)
                        groups = handler.stream_stream(requests, context)
                        if gated is not None:
                            groups = gated.pass_groups(groups)
                        writing = write_groups(groups, context)
                    elif handler.request_streaming:
                        parsed = _parse_each(parse, receiving, framed)
                        writing = _write_all(handler.stream_stream(parsed, context), context)
                    else:
                        request = parse_request(parse, await receiving.read(framed, bytes_max))
                        if gated is not None:
                            request = gated.read(request)
                        writing = _write_all(handler.unary_stream(request, context), context)
                    await self._until_stopping(writing)
            except BaseException as error:
                if not framed.failed(error):
                    raise
            else:
                framed.succeeded()
                return
            await framed.abort()

        # A stream of events encodes its responses by itself.
        encode = None if is_of_events else handler.response_serializer
        return grpc.stream_stream_rpc_method_handler(call, None, encode)

    async def _until_stopping(self, writing: Awaitable[None]) -> None:
        """Waits for `writing` to end. When the server begins to stop, waits LAST_RESPONSE_SECONDS.

        Then cancels `writing` and raises ShuttingDown.
        """
        task = asyncio.ensure_future(writing)
        stopping = asyncio.create_task(self._stopping.wait(), name=STOPPING_TASK)
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            # It may still report the stop, as a health watch does.
            await asyncio.wait({task}, timeout=LAST_RESPONSE_SECONDS)
            if not task.done():
                raise ShuttingDown
            await task
        finally:
            stopping.cancel()
            task.cancel()


def _has_own_queue(service_name: str, name: str) -> bool:
    if service_name in SERVICE_NAMES:
        return METHODS[name].has_own_queue
    return service_name.startswith(_HEALTH_SERVICE) and name in _HEALTH_METHODS


class _Call:
    """One call: its id, which its log lines carry, and the status that `abort` sends.

    A call fails in two steps, `failed` and then `abort`: `abort` raises, and an exception raised
    inside `except` would keep the first one as its context.
    """

    __slots__ = (
        "_is_ended",
        "_log",
        "_method",
        "_metrics",
        "_refusals",
        "_started_at",
        "_status",
        "context",
        "request_id",
    )

    def __init__(
        self, log: Any, refusals: RefusalLog, metrics: CallMetrics, method: str, context: Context
    ) -> None:
        self._started_at = time.perf_counter()
        self._log = log
        self._refusals = refusals
        self._metrics = metrics
        self._method = method
        self.context = context
        self._status: status_pb2.Status | None = None
        self._is_ended = False
        self.request_id = _request_id_given(context) or uuid_utils.uuid7().hex
        CALL_IDS.set((self.request_id, method))
        context.set_trailing_metadata(((REQUEST_ID_KEY, self.request_id),))
        metrics.started(method)

    def succeeded(self) -> None:
        """Counts the call as ended with OK."""
        self._log.debug("call succeeded")
        self._count(grpc.StatusCode.OK)

    def failed(self, error: BaseException) -> bool:
        """Logs and counts the call. Returns whether there is a status to send by `abort`.

        False for cancellations and aborts, which the frame raises again.
        """
        has_status_to_send = self._set_status(error)
        if self._status is not None:
            self._count(status_code_of(self._status))
        else:
            # Cancelled by the client, by its deadline or by the end of the grace; or by a library.
            self._count(
                self.context.code()
                if isinstance(error, aio.AbortError)
                else grpc.StatusCode.CANCELLED
            )
        return has_status_to_send

    def _count(self, code: grpc.StatusCode) -> None:
        self._metrics.ended(self._method, code, time.perf_counter() - self._started_at)

    def _set_status(self, error: BaseException) -> bool:
        if self._status is not None and isinstance(error, LedgerError):
            # Another task has refused the call, and its client left before the status arrived.
            return True
        if isinstance(error, LedgerError) and has_status(error):
            self._status = status_of(error)
            if (reason := REASONS_OF_OVERLOAD.get(type(error))) is not None:
                self._metrics.refused_under_load(self._method, reason)
            code = status_code_of(self._status)
            cause = error.__cause__
            if cause is None:
                self._refusals.refused(error, code.name)
            else:
                self._refusals.failed(error, code.name, cause)
            return True
        if (
            isinstance(error, NotImplementedError)
            and self.context.code() == grpc.StatusCode.UNIMPLEMENTED
        ):
            # The generated service raises this for methods that are not overridden.
            self._status = not_implemented(self._method)
            return True
        if isinstance(error, aio.AbortError) or not isinstance(error, Exception):
            return False
        error_id = uuid_utils.uuid7().hex
        self._log.error("unexpected exception", error_id=error_id, exc_info=error)
        self._status = internal(error_id)
        return True

    async def refuse(self, error: LedgerError) -> None:
        """Ends the call from another task, while the call waits for its request.

        The waiting read then raises AbortError. For a client that has left, the library raises
        InternalError here.
        """
        self._set_status(error)
        with suppress(aio.AbortError, aio.InternalError):
            await self.abort()

    async def abort(self) -> None:
        """Sends the status, once. Always raises, AbortError if the status is sent already."""
        if self._status is None:
            raise RuntimeError("there is no status to end the call with")
        if self._is_ended:
            # The library accepts only the exception that ended the call; a read raises it again.
            await self.context.read()
            raise RuntimeError("an ended call was read from")
        self._is_ended = True
        trailers: tuple[tuple[str, str | bytes], ...] = (
            (_STATUS_DETAILS_KEY, self._status.SerializeToString()),
            (REQUEST_ID_KEY, self.request_id),
        )
        if (pushback := retry_pushback_of(self._status)) is not None:
            trailers = (*trailers, (_RETRY_PUSHBACK_KEY, pushback))
        await self.context.abort(status_code_of(self._status), self._status.message, trailers)


def _request_id_given(context: Context) -> str | None:
    """The id in the call's metadata, if it is a valid one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY:
            return value if isinstance(value, str) and is_id(value) else None
    return None


async def _parse_each(
    parse: Callable[[bytes], Message], receiving: Receiving, call: _Call
) -> AsyncIterator[Message]:
    while (raw := await receiving.read_next(call)) is not None:
        yield parse_request(parse, raw)


class _Requests:
    """The requests of a stream of events: received, admitted and parsed, in one step for each.

    No variable holds a request until the next one comes, which may take long: it may have 4 MiB.
    """

    __slots__ = ("_context", "_gate", "_gated", "_identify", "_parse", "_turns")

    def __init__(
        self,
        context: Context,
        parse: Callable[[bytes], Message],
        turns: LargeTurns,
        gate: Gate | None,
        gated: GatedCall | None,
    ) -> None:
        self._context = context
        self._parse = parse
        self._turns = turns
        self._gate = gate
        self._gated = gated
        self._identify = None if gate is None else gate.identifier_of(context)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        raw: Any = await self._context.read()
        if raw is aio.EOF:
            raise StopAsyncIteration
        if self._gate is not None and self._identify is not None:
            await self._gate.admit_next(self._identify)
        if len(raw) > TURN_BYTES_MIN:
            await self._turns.turn(len(raw))
        if (room := ROOM_TO_PARSE.get()) is not None:
            await room(len(raw))
        request = parse_request(self._parse, raw)
        if self._gated is not None:
            self._gated.count(request)
        return request


async def _write_all(responses: Any, context: Context) -> None:
    """Sends what a streaming method yields. Awaits a method that writes to the context itself."""
    if hasattr(responses, "__aiter__"):
        # Closed with the call, not when the generator is collected.
        async with aclosing(responses):
            async for response in responses:
                await context.write(response)
    else:
        await responses
