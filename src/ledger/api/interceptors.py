"""The frame around every call: it reads the request, gives the call an id, and turns whatever is raised into a status.

The stock library answers undecodable bytes and unexpected exceptions with UNKNOWN and their text; here neither gets out.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog
import uuid_utils.compat
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc import aio

from ledger.api.errors import has_status, internal, not_implemented, status_code_of, status_of
from ledger.domain.fields import is_id
from ledger.errors import LedgerError, MalformedMessage, ShuttingDown

REQUEST_ID_KEY = "x-request-id"
LAST_WORDS_SECONDS = 0.2
_HEALTH_METHODS = "/grpc.health."
_STATUS_DETAILS_KEY = "grpc-status-details-bin"

_log = structlog.get_logger("ledger.calls")

Context = aio.ServicerContext[Any, Any]
# grpc's own type for handlers knows synchronous methods only.
Handler = Any


class CallFrame(aio.ServerInterceptor):
    """The outermost interceptor; there should be no other that can raise."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Answers every further call of the ledger with ShuttingDown, and ends every call whose answer is a stream: an open one,
        such as a health watch, would hold up the stop."""
        self._stopping.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:  # the method is in no contract; the library answers UNIMPLEMENTED
            return handler
        method = handler_call_details.method
        # Raising here would be told as UNKNOWN: the handler has to be wrapped to see the call.
        if handler.response_streaming:
            return self._streaming(method, handler)
        return self._single(method, handler)

    def _single(self, method: str, handler: Handler) -> Handler:
        async def call(request: Any, context: Context) -> Any:
            async with _Call(method, context) as framed:
                if self._stopping.is_set() and not method.startswith(_HEALTH_METHODS):
                    raise ShuttingDown
                if handler.request_streaming:
                    return await handler.stream_unary(_parse_each(handler, request), context)
                return await handler.unary_unary(_parse(handler, request), context)
            return await framed.abort()

        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(call, None, handler.response_serializer)

    def _streaming(self, method: str, handler: Handler) -> Handler:
        async def call(request: Any, context: Context) -> None:
            async with _Call(method, context) as framed:
                if handler.request_streaming:
                    answers = handler.stream_stream(_parse_each(handler, request), context)
                else:
                    answers = handler.unary_stream(_parse(handler, request), context)
                await self._until_stopping(_write_all(answers, context))
                return
            await framed.abort()

        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(call, None, handler.response_serializer)
        return grpc.unary_stream_rpc_method_handler(call, None, handler.response_serializer)

    async def _until_stopping(self, answering: Awaitable[None]) -> None:
        task = asyncio.ensure_future(answering)
        stopping = asyncio.ensure_future(self._stopping.wait())
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
    """One call: binds its ids to the log, keeps the status of what its block raised, and sends it with `abort`.

    `abort` itself raises, and an exception raised inside `except` would drag the cause along: hence the two steps.
    """

    def __init__(self, method: str, context: Context) -> None:
        self._method = method
        self._context = context
        self._status = status_pb2.Status()
        given = dict(context.invocation_metadata() or ()).get(REQUEST_ID_KEY)
        self._request_id = given if isinstance(given, str) and is_id(given) else uuid_utils.compat.uuid7().hex

    async def __aenter__(self) -> "_Call":
        structlog.contextvars.bind_contextvars(request_id=self._request_id, method=self._method)
        self._context.set_trailing_metadata(((REQUEST_ID_KEY, self._request_id),))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        """Swallows what has become a status; lets cancellations and aborts through."""
        if error is None:
            _log.debug("call answered")
            return False
        if isinstance(error, LedgerError) and has_status(error):
            self._status = status_of(error)
            code = status_code_of(self._status)
            cause = error.__cause__
            if cause is None:
                _log.info("call refused", code=code.name, error=type(error).__name__)
            else:
                _log.warning("call failed", code=code.name, error=type(error).__name__, cause=repr(cause))
            return True
        if isinstance(error, NotImplementedError) and self._context.code() == grpc.StatusCode.UNIMPLEMENTED:
            # What the generated service does for methods that are not overridden.
            self._status = not_implemented(self._method)
            return True
        if isinstance(error, aio.AbortError) or not isinstance(error, Exception):
            return False
        error_id = uuid_utils.compat.uuid7().hex
        _log.error("unexpected exception", error_id=error_id, exc_info=error)
        self._status = internal(error_id)
        return True

    async def abort(self) -> None:
        """Ends the call with the status. Always raises."""
        await self._context.abort(
            status_code_of(self._status),
            self._status.message,
            (
                (_STATUS_DETAILS_KEY, self._status.SerializeToString()),
                (REQUEST_ID_KEY, self._request_id),
            ),
        )


def _parse(handler: Handler, raw: bytes) -> Message:
    """The message in `raw`. Raises MalformedMessage."""
    try:
        message: Message = handler.request_deserializer(raw)
    except DecodeError as error:
        raise MalformedMessage from error
    return message


async def _parse_each(handler: Handler, raws: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    async for raw in raws:
        yield _parse(handler, raw)


async def _write_all(answers: Any, context: Context) -> None:
    """Sends what a streaming method yields; one that writes to the context by itself is only awaited."""
    if hasattr(answers, "__aiter__"):
        async for answer in answers:
            await context.write(answer)
    else:
        await answers
