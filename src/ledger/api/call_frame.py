"""The frame around every call: it reads the request, gives the call an id, and turns whatever is raised into a status.

The stock library answers undecodable bytes and unexpected exceptions with UNKNOWN and their text; here neither gets out.

It is put around the methods when they are registered: an interceptor would look up and wrap the method anew in every call.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, nullcontext, suppress
from typing import Any, Self, cast

import grpc
import structlog
import uuid_utils
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc import aio

from ledger.api.access.gate import Gate, OpenGate
from ledger.api.call_limits import (
    TURNED_AWAY,
    CallBounds,
    CallLimits,
    OpenCalls,
    RefusalLog,
    UnreadAnswers,
    is_read,
)
from ledger.api.convert.wire_format import parse_request
from ledger.api.errors import (
    has_status,
    internal,
    not_implemented,
    retry_pushback_of,
    status_code_of,
    status_of,
)
from ledger.api.metrics import CallMetrics
from ledger.api.transport.receiving import (
    LARGE_PATIENCE_SECONDS,
    ROOM_TO_PARSE,
    LargePlaces,
    LargeTurns,
    Receiving,
    is_large,
)
from ledger.domain.fields import is_id
from ledger.errors import LedgerError, ShuttingDown
from ledger.limits import MESSAGE_BYTES_MAX, SMALL_REQUEST_BYTES_MAX
from ledger.observability import CALL_IDS

# Calls of a method that is registered wait in a queue of their own before they are taken up: health checks are not behind events.
# The others share one. Not all are registered, as each of them costs every call half a microsecond.
_WITH_A_QUEUE_OF_THEIR_OWN = {"IngestEvent", "GetBalance", "Check", "Watch"}
REQUEST_ID_KEY = "x-request-id"
LAST_WORDS_SECONDS = 0.2
# The name of the task in which an open stream waits for the stop of the server.
STOPPING_TASK = "stream waits for the stop"
# Requests of the ledger that are received at once, and that wait for it: up to 4 MiB each that is
# received, whatever its method takes, and 16 KiB each that waits. One that is honest has arrived
# before it is read: 64 callers are as fast with 8 places as with 128.
READING_MAX, WAITING_MAX = 8, 1000
# The same of batches of events, which are that large, and share their places with open streams.
BATCHES_READING_MAX, BATCHES_WAITING_MAX = 8, 200
# The same of health checks and reflection, which ask nobody who they are.
OPEN_READING_MAX, OPEN_WAITING_MAX = 2, 200
# They have a few bytes, which come with their headers.
OPEN_PATIENCE_SECONDS = 0.1
_HEALTH_SERVICE = "grpc.health."
_LEDGER_SERVICE = "ledger."
_STATUS_DETAILS_KEY = "grpc-status-details-bin"
# How long the retries that gRPC makes by itself wait; they know nothing of RetryInfo.
_RETRY_PUSHBACK_KEY = "grpc-retry-pushback-ms"

# Made once: it keeps nothing.
_BOUNDED_ELSEWHERE = nullcontext()

Context = aio.ServicerContext[Any, Any]
# grpc's own type for handlers knows synchronous methods only.
Handler = Any


class CallFrame:
    """Takes the place of a server when services are added to it, and registers their methods there, each in its frame."""

    def __init__(
        self,
        server: aio.Server,
        limits: CallLimits,
        metrics: CallMetrics,
        gates: Callable[[str, str], Gate | None] | None = None,
    ) -> None:
        """`gates` gives the gate before a method of a service, None if there is none."""
        self._server = server
        large = LargePlaces(
            limits.streams + BATCHES_READING_MAX
            if limits.large_places is None
            else limits.large_places
        )
        self._bounds = CallBounds(limits, large)
        self._metrics = metrics
        self._gates = gates
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
        # Bound once: finding out what is logged costs more than a call that logs nothing should.
        self._log = structlog.get_logger("ledger.calls").bind()
        self._refusals = RefusalLog(self._log)

    def stop(self) -> None:
        """Answers every further call of the ledger with ShuttingDown, and ends every call whose answer is a stream: an open one,
        such as a health watch, would hold up the stop."""
        self._stopping.set()
        self._refusals.report()

    def add_generic_rpc_handlers(self, _: Any) -> None:
        """Does nothing: what services add in this way they add in the other one, too."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Handler]
    ) -> None:
        """Registers the methods of a service."""
        framed = {
            name: self._framed(service_name, name, handler)
            for name, handler in method_handlers.items()
        }
        own = {
            name: handler for name, handler in framed.items() if name in _WITH_A_QUEUE_OF_THEIR_OWN
        }
        rest = {name: handler for name, handler in framed.items() if name not in own}
        if own:
            self._server.add_registered_method_handlers(service_name, own)
        if rest:
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service_name, rest),)
            )

    def _framed(self, service_name: str, name: str, handler: Handler) -> Handler:
        method = f"/{service_name}/{name}"
        is_ledger = service_name.startswith(_LEDGER_SERVICE)
        bound = self._bounds.of(name, is_stream=handler.response_streaming) if is_ledger else None
        receiving = self._receiving_of(name) if is_ledger else self._open_receiving
        gate = None if self._gates is None else self._gates(service_name, name)
        if handler.response_streaming:
            return self._streaming(method, handler, bound, gate or OpenGate(), receiving)
        if handler.request_streaming:
            raise NotImplementedError(
                "the contract has no method that takes a stream and answers once"
            )
        unread = self._bounds.of_answers(name) if is_ledger else None
        is_refusable = is_ledger and is_read(name)
        is_health = service_name.startswith(_HEALTH_SERVICE)
        return self._single(
            method,
            handler,
            bound,
            gate,
            receiving,
            unread,
            is_health=is_health,
            is_refusable=is_refusable,
        )

    def _receiving_of(self, name: str) -> Receiving:
        return self._receiving_batches if is_large(name) else self._receiving

    def _single(
        self,
        method: str,
        handler: Handler,
        bound: OpenCalls | None,
        gate: Gate | None,
        receiving: Receiving,
        unread: UnreadAnswers | None,
        *,
        is_health: bool,
        is_refusable: bool,
    ) -> Handler:
        """With `unread` answers are counted there; one that `is_refusable` may be refused for want of room."""
        answer: Callable[[Message, Context], Awaitable[Message]] = handler.unary_unary
        parse: Callable[[bytes], Message] = handler.request_deserializer
        bytes_max = (
            MESSAGE_BYTES_MAX if receiving is self._receiving_batches else SMALL_REQUEST_BYTES_MAX
        )

        async def call(_: object, context: Context) -> Message:
            framed = _Call(self._log, self._refusals, self._metrics, method, context)
            raw: list[bytes] = []
            request: list[Message] = []
            try:
                if self._stopping.is_set() and not is_health:
                    raise ShuttingDown
                # The caller first: what a stranger sends is not received.
                gated = None if gate is None else gate.call(context, framed.request_id)
                # Passed on and not held: of a batch it is several MiB, which its method drops early.
                raw = [await receiving.read(framed, bytes_max)]
                if unread is not None:
                    unread.check(context)
                request.append(parse_request(parse, raw.pop()))
                with bound.admitted() if bound is not None else _BOUNDED_ELSEWHERE:
                    if gated is None:
                        response = await answer(request.pop(), context)
                    else:
                        with gated:
                            response = await answer(gated.read(request.pop()), context)
                            await gated.answered(response)
                if unread is not None:
                    unread.keep(context, response.ByteSize(), is_refusable=is_refusable)
            except BaseException as error:
                if not framed.takes(error):
                    raise
            else:
                framed.answered()
                return response
            # Nor held while the refusal is sent, if it was not passed on.
            raw.clear()
            request.clear()
            await framed.abort()
            raise RuntimeError("an aborted call went on")

        # As if it took a stream: the library would read a single request before it calls anything of ours.
        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)

    def _streaming(
        self,
        method: str,
        handler: Handler,
        bound: OpenCalls | None,
        gate: Gate | OpenGate,
        receiving: Receiving,
    ) -> Handler:
        parse: Callable[[bytes], Message] = handler.request_deserializer
        bytes_max = (
            MESSAGE_BYTES_MAX if receiving is self._receiving_batches else SMALL_REQUEST_BYTES_MAX
        )
        is_ledger = receiving is not self._open_receiving

        async def call(_: object, context: Context) -> None:
            framed = _Call(self._log, self._refusals, self._metrics, method, context)
            try:
                with (
                    bound.admitted() if bound is not None else nullcontext(),
                    gate.call(context, framed.request_id) as gated,
                ):
                    if handler.request_streaming:
                        # The bound on open streams is the one on what those of the ledger are sent:
                        # one that waits for its next event cannot be told from one that is slow.
                        raws = _Requests(context) if is_ledger else _read_each(receiving, framed)
                        parsed = _parse_each(parse, gate.admit_each(raws, context), self._turns)
                        answers = gated.answer_each(
                            handler.stream_stream(gated.read_each(parsed), context)
                        )
                    else:
                        request = parse_request(parse, await receiving.read(framed, bytes_max))
                        answers = handler.unary_stream(gated.read(request), context)
                    await self._until_stopping(_write_all(answers, context))
            except BaseException as error:
                if not framed.takes(error):
                    raise
            else:
                framed.answered()
                return
            await framed.abort()

        return grpc.stream_stream_rpc_method_handler(call, None, handler.response_serializer)

    async def _until_stopping(self, answering: Awaitable[None]) -> None:
        task = asyncio.ensure_future(answering)
        stopping = asyncio.create_task(self._stopping.wait(), name=STOPPING_TASK)
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            # What it has to say about the stop, as a health watch has, it may still say.
            await asyncio.wait({task}, timeout=LAST_WORDS_SECONDS)
            if not task.done():
                raise ShuttingDown
            await task
        finally:
            stopping.cancel()
            task.cancel()


class _Call:
    """One call: its id, which its log lines carry, and the status of what it raised, which `abort` sends.

    `abort` itself raises, and an exception raised inside `except` would drag the cause along: hence the two steps.
    """

    __slots__ = (
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
        self.request_id = _request_id_given(context) or uuid_utils.uuid7().hex
        CALL_IDS.set((self.request_id, method))
        context.set_trailing_metadata(((REQUEST_ID_KEY, self.request_id),))
        metrics.started(method)

    def answered(self) -> None:
        """The call was answered with what it asked for."""
        self._log.debug("call answered")
        self._count(grpc.StatusCode.OK)

    def takes(self, error: BaseException) -> bool:
        """Whether `error` has become a status; cancellations and aborts have not, and go their way."""
        is_taken = self._judge(error)
        if self._status is not None:
            self._count(status_code_of(self._status))
        else:
            # Cancelled by the caller, by its deadline, or at the end of the grace, unless a library aborted it.
            self._count(
                self.context.code()
                if isinstance(error, aio.AbortError)
                else grpc.StatusCode.CANCELLED
            )
        return is_taken

    def _count(self, code: grpc.StatusCode) -> None:
        self._metrics.answered(self._method, code, time.perf_counter() - self._started_at)

    def _judge(self, error: BaseException) -> bool:
        if isinstance(error, LedgerError) and has_status(error):
            self._status = status_of(error)
            if (reason := TURNED_AWAY.get(type(error))) is not None:
                self._metrics.turned_away(self._method, reason)
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
            # What the generated service does for methods that are not overridden.
            self._status = not_implemented(self._method)
            return True
        if isinstance(error, aio.AbortError) or not isinstance(error, Exception):
            return False
        error_id = uuid_utils.uuid7().hex
        self._log.error("unexpected exception", error_id=error_id, exc_info=error)
        self._status = internal(error_id)
        return True

    async def refuse(self, error: LedgerError) -> None:
        """Ends the call while its own task waits for its request, which is answered by an AbortError.

        A caller that has left meanwhile cannot be told: the library raises an InternalError then.
        """
        self._judge(error)
        with suppress(aio.AbortError, aio.InternalError):
            await self.abort()

    async def abort(self) -> None:
        """Ends the call with the status. Always raises."""
        if self._status is None:
            raise RuntimeError("there is no status to end the call with")
        trailers: tuple[tuple[str, str | bytes], ...] = (
            (_STATUS_DETAILS_KEY, self._status.SerializeToString()),
            (REQUEST_ID_KEY, self.request_id),
        )
        if (pushback := retry_pushback_of(self._status)) is not None:
            trailers = (*trailers, (_RETRY_PUSHBACK_KEY, pushback))
        await self.context.abort(status_code_of(self._status), self._status.message, trailers)


def _request_id_given(context: Context) -> str | None:
    """The id that the caller gave the call, if it can be one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY:
            return value if isinstance(value, str) and is_id(value) else None
    return None


async def _read_each(receiving: Receiving, call: _Call) -> AsyncIterator[bytes]:
    while (raw := await receiving.read_next(call)) is not None:
        yield raw


class _Requests:
    """What a stream is sent. The library's own iterator holds each until the next one comes."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        raw = await self._context.read()
        if raw is aio.EOF:
            raise StopAsyncIteration
        return cast(bytes, raw)


async def _parse_each(
    parse: Callable[[bytes], Message], raws: AsyncIterator[bytes], turns: LargeTurns
) -> AsyncIterator[Message]:
    async for raw in raws:
        if (room := ROOM_TO_PARSE.get()) is not None:
            await turns.turn(len(raw))
            await room(len(raw))
        message = [parse_request(parse, raw)]
        # Not held until the next one comes: it may have 4 MiB.
        del raw
        yield message.pop()


async def _write_all(answers: Any, context: Context) -> None:
    """Sends what a streaming method yields; one that writes to the context by itself is only awaited."""
    if hasattr(answers, "__aiter__"):
        # What it has begun ends with the call, not when somebody collects what is left of it.
        async with aclosing(answers):
            async for answer in answers:
                await context.write(answer)
    else:
        await answers
