"""A channel of grpc.aio for the contract's stubs, whose calls raise LedgerError."""

from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

from grpc import aio

from ledger.client.channels import Usable, channel_options
from ledger.client.credentials import Credentials
from ledger.client.errors import NotAuthenticated, broken_off, error_of_call
from ledger.client.framing import Frame, GivenMetadata, Metadata, request_id_of, with_token

_FAILED_WRITE = 'Failed "execute_batch"'
# What gRPC's callables take besides: credentials, wait_for_ready, compression.
Options = Any


class AsyncChannel:
    """What a stub needs of an aio.Channel. It connects at the first call."""

    def __init__(self, address: str, credentials: Credentials, usable: Usable) -> None:
        """Belongs to the running event loop. Raises OSError, CredentialsError."""
        self._frame = Frame(usable, credentials.token_source())
        of_channel, options = credentials.of_channel(address), channel_options()
        self._channel = (
            aio.insecure_channel(address, options=options)
            if of_channel is None
            else aio.secure_channel(address, of_channel, options=options)
        )

    async def close(self) -> None:
        """Ends open calls and connections, and the fetch of a token."""
        if self._frame.tokens is not None:
            self._frame.tokens.close()
        await self._channel.close()

    def unary_unary(self, method: str, **options: Options) -> "_Method":
        """As of aio.Channel."""
        return _Method(self._channel.unary_unary(method, **options), self._frame, AsyncCall)

    def stream_stream(self, method: str, **options: Options) -> "_Method":
        """As of aio.Channel."""
        return _Method(self._channel.stream_stream(method, **options), self._frame, AsyncStream)


class _Method:
    """As aio.UnaryUnaryMultiCallable and aio.StreamStreamMultiCallable."""

    def __init__(
        self, method: Any, frame: Frame, kind: "type[AsyncCall] | type[AsyncStream]"
    ) -> None:
        self._method = method
        self._frame = frame
        self._kind = kind

    def __call__(
        self, request: Any = None, *, metadata: GivenMetadata = None, **options: Options
    ) -> Any:
        framed = self._frame.metadata(metadata)

        def begin(token: str | None) -> Any:
            return self._method(request, metadata=with_token(framed, token), **options)

        return self._kind(begin, self._frame, framed, options.get("timeout"))


class _Begun:
    """A call that begins at once, or when a token has been fetched for it."""

    def __init__(
        self,
        begin: Callable[[str | None], Any],
        frame: Frame,
        metadata: Metadata,
        timeout: float | None,
    ) -> None:
        self._begin = begin
        self._frame = frame
        self._metadata = metadata
        self._timeout = timeout
        self._token = None if frame.tokens is None else frame.tokens.at_hand()
        self._call: Any = None
        if frame.tokens is None or self._token is not None:
            self._call = begin(self._token)

    async def _begun(self) -> Any:
        if self._call is None:
            if self._frame.tokens is not None:
                self._token = await self._frame.tokens.fetch_async(self._timeout)
            self._call = self._begin(self._token)
        return self._call

    def cancel(self) -> bool:
        """Cancels the call. Returns whether it had begun and not ended."""
        return self._call is not None and bool(self._call.cancel())

    def __getattr__(self, name: str) -> Any:
        if self._call is None:
            raise RuntimeError("the call has not begun: await it first")
        return getattr(self._call, name)


class AsyncCall(_Begun):
    """A unary call: awaited, it returns the response; otherwise as aio.UnaryUnaryCall."""

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response().__await__()

    async def _response(self) -> Any:
        call = await self._begun()
        try:
            return await call
        except aio.AioRpcError as error:
            failure = error_of_call(error, request_id_of(self._metadata))
            if not (isinstance(failure, NotAuthenticated) and self._frame.may_repeat(self._token)):
                raise failure from error
        self._call = None
        call = await self._begun()
        try:
            return await call
        except aio.AioRpcError as error:
            raise error_of_call(error, request_id_of(self._metadata)) from error


class AsyncStream(_Begun):
    """A stream: iterates over the responses; otherwise as aio.StreamStreamCall."""

    _responses: AsyncIterator[Any] | None = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (response := await self.read()) is not aio.EOF:
            yield response

    async def read(self) -> Any:
        """The next response, or aio.EOF."""
        call = await self._begun()
        if self._responses is None:
            # Not `call.read`, which forgets responses that have come when the stream ends.
            self._responses = aiter(call)
        return await self._raising(anext(self._responses, aio.EOF))

    async def write(self, request: Any) -> None:
        """Sends a request."""
        await self._raising((await self._begun()).write(request))

    async def done_writing(self) -> None:
        """Ends the requests."""
        await self._raising((await self._begun()).done_writing())

    async def _raising(self, awaited: Awaitable[Any]) -> Any:
        try:
            return await awaited
        except aio.AioRpcError as error:
            # A request that was being written when the server ended the stream hides the status:
            # grpc.aio replaces it by its own.
            if _FAILED_WRITE in (error.debug_error_string() or ""):
                raise broken_off("the stream broke off while a request was sent") from error
            failure = error_of_call(error, request_id_of(self._metadata))
            if isinstance(failure, NotAuthenticated) and self._frame.may_repeat(self._token):
                failure.retry_after = 0.0
            raise failure from error
