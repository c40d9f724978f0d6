"""A channel for the contract's stubs, whose calls raise LedgerError and carry the token."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc

from ledger.client.channels import Usable, channel_options
from ledger.client.credentials import Credentials
from ledger.client.errors import LedgerError, NotAuthenticated, error_of_call
from ledger.client.framing import Frame, GivenMetadata, Metadata, request_id_of, with_token

# What gRPC's callables take besides: credentials, wait_for_ready, compression.
Options = Any


class SyncChannel:
    """What a stub needs of a grpc.Channel. It connects at the first call."""

    def __init__(self, address: str, credentials: Credentials, usable: Usable) -> None:
        """Raises OSError, CredentialsError."""
        self._frame = Frame(usable, credentials.token_source())
        of_channel, options = credentials.of_channel(address), channel_options()
        self._channel = (
            grpc.insecure_channel(address, options=options)
            if of_channel is None
            else grpc.secure_channel(address, of_channel, options=options)
        )

    def close(self) -> None:
        """Ends open calls and connections."""
        self._channel.close()

    def unary_unary(self, method: str, **options: Options) -> "_UnaryMethod":
        """As of grpc.Channel."""
        return _UnaryMethod(self._channel.unary_unary(method, **options), self._frame)

    def stream_stream(self, method: str, **options: Options) -> "_StreamMethod":
        """As of grpc.Channel."""
        return _StreamMethod(self._channel.stream_stream(method, **options), self._frame)


class _UnaryMethod:
    """As grpc.UnaryUnaryMultiCallable."""

    def __init__(self, method: Any, frame: Frame) -> None:
        self._method = method
        self._frame = frame

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: GivenMetadata = None,
        **options: Options,
    ) -> Any:
        return self._call(self._method, request, timeout, metadata, options)

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: GivenMetadata = None,
        **options: Options,
    ) -> Any:
        return self._call(self._method.with_call, request, timeout, metadata, options)

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: GivenMetadata = None,
        **options: Options,
    ) -> "_Future":
        framed, token = _framed(self._frame, metadata)
        call = self._method.future(
            request, timeout=timeout, metadata=with_token(framed, token), **options
        )
        return _Future(call, request_id_of(framed))

    def _call(
        self,
        method: Callable[..., Any],
        request: Any,
        timeout: float | None,
        metadata: GivenMetadata,
        options: dict[str, Any],
    ) -> Any:
        framed, token = _framed(self._frame, metadata)
        try:
            return method(request, timeout=timeout, metadata=with_token(framed, token), **options)
        except grpc.RpcError as error:
            failure = error_of_call(error, request_id_of(framed))
            if not (isinstance(failure, NotAuthenticated) and self._frame.may_repeat(token)):
                raise failure from error
        framed, token = _framed(self._frame, framed)
        try:
            return method(request, timeout=timeout, metadata=with_token(framed, token), **options)
        except grpc.RpcError as error:
            raise error_of_call(error, request_id_of(framed)) from error


class _StreamMethod:
    """As grpc.StreamStreamMultiCallable."""

    def __init__(self, method: Any, frame: Frame) -> None:
        self._method = method
        self._frame = frame

    def __call__(
        self,
        requests: Iterator[Any],
        timeout: float | None = None,
        metadata: GivenMetadata = None,
        **options: Options,
    ) -> "_Stream":
        framed, token = _framed(self._frame, metadata)
        call = self._method(
            requests, timeout=timeout, metadata=with_token(framed, token), **options
        )
        return _Stream(call, self._frame, framed, token)


class _Stream:
    """The responses of a stream; otherwise what gRPC returns for it."""

    def __init__(self, call: Any, frame: Frame, metadata: Metadata, token: str | None) -> None:
        self._call = call
        self._frame = frame
        self._metadata = metadata
        self._token = token

    def __iter__(self) -> "_Stream":
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            failure = error_of_call(error, request_id_of(self._metadata))
            if isinstance(failure, NotAuthenticated) and self._frame.may_repeat(self._token):
                failure.retry_after = 0.0
            raise failure from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class _Future:
    """As grpc.Future."""

    def __init__(self, call: Any, request_id: str) -> None:
        self._call = call
        self._request_id = request_id

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self._call.result(timeout)
        except grpc.RpcError as error:
            raise error_of_call(error, self._request_id) from error

    def exception(self, timeout: float | None = None) -> LedgerError | None:
        error = self._call.exception(timeout)
        return None if error is None else error_of_call(error, self._request_id)

    def add_done_callback(self, call: Callable[["_Future"], Any]) -> None:
        self._call.add_done_callback(lambda _: call(self))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


def _framed(frame: Frame, metadata: GivenMetadata) -> tuple[Metadata, str | None]:
    framed = frame.metadata(metadata)
    return framed, None if frame.tokens is None else frame.tokens.fetch()
